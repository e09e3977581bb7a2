"""The authors' released judgments: who was shown first, names of two generations, and fetching them."""

import csv
import hashlib
import json
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.paper import released
from analysis.paper.fetch import NotFetched, Repository, fetch
from analysis.paper.released import RELEASES, NoJudgments, canonical_sha256, convert, locate

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data"
CSVS = {
    "vicuna_gpt4_pairwise": DATA / "qlora" / "vicuna_gpt4_pairwise.csv",
    "vicuna_gpt4_relative": DATA / "qlora" / "vicuna_gpt4_relative.csv",
    "vicuna_human_pairwise": DATA / "human" / "vicuna_human_pairwise.csv",
}
needs_data = pytest.mark.skipif(not all(path.is_file() for path in CSVS.values()), reason=f"no judgments at {DATA}")
PAIRWISE, RELATIVE, HUMAN = (RELEASES[name] for name in CSVS)
ORIGINAL_NAMES = {"chatgpt-3.5": "answer-gpt35", "gpt-4": "answer-gpt4", "bard": "answer-bard"}


def write(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def review(question: int | str, first: str, second: str, score: Any, key: str = "question_id") -> dict[str, Any]:
    return {
        key: question,
        "answer1_id": f"{first} on {question}",
        "answer2_id": f"{second} on {question}",
        "text": "...",
        "score": score,
    }


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("13b-guanaco-vicuna-generations-topp0.9-temp0.7", "guanaco-13b"),
        ("30b-oassist-oa-generations-topp0.9-beam1", "guanaco-33b"),
        ("65b-unnatural-instructions-vicuna-generations-topp0.9-temp0.7", "unnatural-instructions-65b"),
        ("30b-huggingchat-vicuna-generations-topp0.9-temp0.7", "huggingchat-33b"),
        ("answer-gpt35", "chatgpt-3.5"),
        ("gpt-3.5-oa-generations", "chatgpt-3.5"),
        ("vicuna-13b-oa-generations", "vicuna-13b"),
        ("answer_guanaco-7b", "guanaco-7b"),
        ("gpt-4", "gpt-4"),
        ("answer_claude", None),
    ],
)
def test_names_of_the_original_files(name: str, system: str | None) -> None:
    assert released._system(name) == system


def test_the_order_is_read_from_the_answers_ids_not_from_the_name(tmp_path: Path) -> None:
    trained = "13b-alpaca-vicuna-generations-topp0.9-temp0.7"
    other = "7b-flan-vicuna-generations-topp0.9-temp0.7"
    for system, name in (("alpaca", trained), ("flan", other)):  # as released: the one named first was shown second
        write(tmp_path, f"{name}-vs-gpt-3.5-gpt4-reviewer.jsonl", [review(1, "chatgpt", system, [9.0, 6.5])])
        write(tmp_path, f"gpt-3.5-vs-{name}-gpt4-reviewer.jsonl", [review(1, system, "chatgpt", [7.0, 8.0])])
    write(tmp_path, "bard-vs-gpt-3.5-gpt4-reviewer.jsonl", [review(1, "bard", "chatgpt", [-1, -1])])
    assert convert(RELATIVE, tmp_path) == [
        ("1", "bard", "candidate_first", "-1", "-1"),
        ("1", "flan-7b", "candidate_first", "7", "8"),
        ("1", "flan-7b", "candidate_second", "6.5", "9"),
        ("1", "alpaca-13b", "candidate_first", "7", "8"),
        ("1", "alpaca-13b", "candidate_second", "6.5", "9"),
    ]


def test_equal_answers_say_nothing_of_the_order_and_other_questions_do(tmp_path: Path) -> None:
    same = {"question_id": 2, "answer1_id": "equal", "answer2_id": "equal", "score": 3}
    name = "answer-gpt4-vs-answer-bard-gpt-4-reviewer-threeclass.jsonl"
    write(tmp_path, name, [review(1, "bard", "gpt4", 2), same])  # shown the other way round
    write(tmp_path, "answer-gpt35-vs-answer-gpt4-gpt-4-reviewer-threeclass.jsonl", [review(1, "gpt35", "gpt4", 2)])
    assert set(convert(PAIRWISE, tmp_path)) == {
        ("1", "bard", "gpt-4", "2"),
        ("2", "bard", "gpt-4", "3"),
        ("1", "chatgpt-3.5", "gpt-4", "2"),
    }


def test_ids_that_say_nothing_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, "answer-gpt4-vs-answer-bard-gpt-4-reviewer-threeclass.jsonl", [review(1, "gpt4", "bard", 1)])
    with pytest.raises(ValueError, match=r"answer-gpt4-vs-answer-bard.*don't say whether gpt-4 or bard"):
        convert(PAIRWISE, tmp_path)


def test_votes_of_several_raters_and_a_system_that_the_paper_has_not(tmp_path: Path) -> None:
    votes = [{"question_id": 4, "text": "Why?", "score": score} for score in (1, 1, 3)]
    write(tmp_path, "answer_bard-vs-answer_guanaco-65b-human-reviewer_threeclass.jsonl", votes)
    write(tmp_path, "answer_bard-vs-answer_claude-human-reviewer_threeclass.jsonl", votes)
    assert convert(HUMAN, tmp_path) == [
        ("4", str(slot), "bard", "guanaco-65b", verdict) for slot, verdict in ((1, "1"), (2, "1"), (3, "3"))
    ]


def test_a_class_that_is_none_is_unread_and_text_is_an_error(tmp_path: Path) -> None:
    pair = "answer-gpt4-vs-answer-bard-gpt-4-reviewer-threeclass.jsonl"
    other = "answer-gpt35-vs-answer-gpt4-gpt-4-reviewer-threeclass.jsonl"
    write(tmp_path, other, [review("m-1", "gpt35", "gpt4", 1, key="message_id")])
    write(tmp_path, pair, [review("m-1", "gpt4", "bard", 7, key="message_id")])
    assert ("m-1", "gpt-4", "bard", "-1") in convert(RELEASES["oa_gpt4_pairwise"], tmp_path)
    write(tmp_path, pair, [review("m-1", "gpt4", "bard", "1", key="message_id")])
    with pytest.raises(ValueError, match="question m-1: score is '1'"):
        convert(PAIRWISE, tmp_path)


def test_nothing_there_says_what_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(NoJudgments, match=r"vicuna_gpt4_pairwise.csv.*ratings-gpt4/vicuna/pairwise.*make data"):
        locate("vicuna_gpt4_pairwise", tmp_path, tmp_path / "out")


def test_two_copies_are_not_chosen_between(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "oa_gpt4_pairwise.csv").write_text("question_id,system_a,system_b,verdict\n")
    with pytest.raises(ValueError, match="keep one of the two"):
        locate("oa_gpt4_pairwise", tmp_path, tmp_path / "out")


def original_layout(name: str, folder: Path) -> None:
    """The released CSV of a set, written as the original repository has it: wrong names included."""
    files: dict[str, list[dict[str, Any]]] = {}
    with CSVS[name].open(newline="") as stream:
        for row in csv.DictReader(stream):
            question = int(row["question_id"])
            if name == "vicuna_gpt4_relative":
                first, second = row["system"], "chatgpt-3.5"
                score = [float(row["score_candidate"]), float(row["score_chatgpt"])]
                if row["order"] == "candidate_second":
                    first, second, score = second, first, score[::-1]
                renamed = row["system"] in ("gpt-4", "bard", "vicuna-13b")
                names = [original(s, "gpt-3.5") for s in ((first, second) if renamed else (second, first))]
                file = f"{names[0]}-vs-{names[1]}-gpt4-reviewer.jsonl"
                entry = review(question, first, second, score)
            elif name == "vicuna_gpt4_pairwise":
                first, second = row["system_a"], row["system_b"]
                names = [original(system, "answer-gpt35") for system in (first, second)]
                file = f"{names[0]}-vs-{names[1]}-gpt-4-reviewer-threeclass.jsonl"
                entry = review(question, first, second, int(row["verdict"]))
            else:
                pair = "-vs-".join(
                    "answer_" + row[side].replace("chatgpt-3.5", "gpt35") for side in ("system_a", "system_b")
                )
                file, entry = (
                    f"{pair}-human-reviewer_threeclass.jsonl",
                    {"question_id": question, "score": int(row["verdict"])},
                )
            files.setdefault(file, []).append(entry)
    for file, rows in files.items():
        write(folder, file, rows)


def original(system: str, chatgpt: str) -> str:
    if system == "chatgpt-3.5":
        return chatgpt
    dataset, _, size = system.rpartition("-")
    if dataset in ("", "gpt", "vicuna") or system in ORIGINAL_NAMES:
        return ORIGINAL_NAMES.get(system, system)
    return f"{size.replace('33b', '30b')}-{dataset.replace('guanaco', 'oassist')}-vicuna-generations-topp0.9-beam1"


@needs_data
@pytest.mark.parametrize("name", CSVS)
def test_the_original_layout_gives_the_released_rows_back(name: str, tmp_path: Path) -> None:
    original_layout(name, tmp_path / "store" / "eval" / RELEASES[name].folder)
    made = locate(name, tmp_path / "store", tmp_path / "out")
    assert made == tmp_path / "out" / f"{name}.csv"
    assert canonical_sha256(RELEASES[name], made) == canonical_sha256(RELEASES[name], CSVS[name])
    assert canonical_sha256(RELEASES[name], made) == RELEASES[name].sha256


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / "upstream"
    write(folder / "eval" / "ratings-gpt4" / "oa", "a.jsonl", [review(1, "x", "y", 1)])
    write(folder / "eval" / "generations", "large.jsonl", [{"text": "not wanted"}])
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "released")
    commit = git(folder, "rev-parse", "HEAD")
    return Repository(name="qlora", url=folder.as_uri(), commit=commit, folders=("eval/ratings-gpt4",))


def test_only_what_is_wanted_is_fetched_once_and_what_differs_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(NoJudgments, match="Vicuna"):  # this repository has other judgments than the paper's
            fetch(tmp_path / "data", said.append, (repository,))
    assert (tmp_path / "data" / "qlora" / "eval" / "ratings-gpt4" / "oa" / "a.jsonl").is_file()
    assert not (tmp_path / "data" / "qlora" / "eval" / "generations").exists()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["qlora"]
    assert ["there already" in line for line in said] == [False, True]


def test_judgments_that_are_not_the_released_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vicuna_gpt4_pairwise.csv").write_text("question_id,system_a,system_b,verdict\n1,a,b,1\n")
    with pytest.raises(NotFetched, match=r"vicuna_gpt4_pairwise: the judgments' sha256 is .*and should be ad4fa947"):
        fetch(tmp_path, lambda line: None, ())


def test_no_network_names_the_address_and_the_remedy_and_leaves_nothing(repository: Repository, tmp_path: Path) -> None:
    gone = Repository(name="qlora", url=(tmp_path / "gone").as_uri(), commit=repository.commit, folders=("eval",))
    with pytest.raises(NotFetched) as caught:
        fetch(tmp_path / "data", lambda line: None, (gone,))
    for words in (gone.url, gone.commit, "git clone", str(tmp_path / "data" / "qlora"), "vicuna_gpt4_pairwise.csv"):
        assert words in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_another_commit_is_refused(repository: Repository, tmp_path: Path) -> None:
    other = Repository(name="qlora", url=repository.url, commit="0" * 40, folders=repository.folders)
    with pytest.raises(NotFetched, match="could not be fetched"):
        fetch(tmp_path / "data", lambda line: None, (other,))


def test_the_digest_of_rows_knows_no_order_and_keeps_line_ends_within_fields(tmp_path: Path) -> None:
    release = replace(RELEASES["vicuna_gpt4_pairwise"], columns=("a", "b"))
    path = tmp_path / "x.csv"
    digest = hashlib.sha256(b"1,x\r\ny\n2,").hexdigest()
    path.write_bytes(b'\xef\xbb\xbfb,more,a\r\n,z,2\r\n"x\r\ny",z,1\r\n')
    assert canonical_sha256(release, path) == digest
    path.write_bytes(b'a,b\n1,"x\r\ny"\n2\n')
    assert canonical_sha256(release, path) == digest
