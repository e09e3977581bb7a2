"""Finds the judgments that the authors released, and converts them to verdict files for the paper's tables.

Used by `python -m analysis tables`. Four sets of judgments, each found in a data folder (itself or up to three folders
deep) either as a CSV in the layout of `python -m eval rate`, or as the JSON lines of the original repositories:

  vicuna_gpt4_pairwise    artidoro/qlora, eval/ratings-gpt4/vicuna/pairwise
  vicuna_gpt4_relative    artidoro/qlora, eval/ratings-gpt4/vicuna/relative-gpt-3.5
  oa_gpt4_pairwise        artidoro/qlora, eval/ratings-gpt4/oa
  vicuna_human_pairwise   bcdnlp/PRD, data/vicuna80/ratings-human (QLoRA's annotations, republished)

A file's name says who met whom, but not in which order: of the 72 ten-point files 66 are named the wrong way round.
The order is read from the answers' ids: a contestant's answer to a question has one id in all its files.
"""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from harness.files.atomic import csv_text, read_jsonl, write_atomically

DEPTH = 3  # folders below the data folder that are looked into
CHATGPT = "chatgpt-3.5"
NAMES = {
    "gpt35": CHATGPT,
    "gpt-3.5": CHATGPT,
    "gpt4": "gpt-4",
    "gpt-4": "gpt-4",
    "bard": "bard",
    "vicuna-13b": "vicuna-13b",
    **{f"guanaco-{size}": f"guanaco-{size}" for size in ("7b", "13b", "33b", "65b")},
}
_FILE = re.compile(r"(?P<one>.+?)-vs-(?P<two>.+?)-(?:gpt-?4|human)-reviewer(?:[-_]threeclass)?")
_TRAINED = re.compile(r"(?P<size>\d+)b-(?P<dataset>[a-z0-9-]+?)(?:-(?:vicuna|oa))?-generations.*")
PAIRWISE = ("question_id", "system_a", "system_b", "verdict")
VOTES = ("question_id", "rater_slot", "system_a", "system_b", "verdict")
SCORES = ("question_id", "system", "order", "score_candidate", "score_chatgpt")


class NoJudgments(ValueError):
    """Raised for a set of judgments that isn't in the data folder; says what was looked for and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One set of released judgments."""

    name: str  # of the CSV, without its ending
    what: str
    folder: str  # where the original files lie, below any folder
    columns: tuple[str, ...]
    sha256: str | None  # of `canonical_rows`; None where no trusted copy was there to take it from


RELEASES = {
    release.name: release
    for release in (
        Release(
            name="vicuna_gpt4_pairwise",
            what="GPT-4's verdicts on the Vicuna benchmark",
            folder="ratings-gpt4/vicuna/pairwise",
            columns=PAIRWISE,
            sha256="ad4fa94733801d1893c405914f26770abed5ce54fb14e855bb668ea71408fd49",
        ),
        Release(
            name="vicuna_gpt4_relative",
            what="GPT-4's ten-point scores on the Vicuna benchmark",
            folder="ratings-gpt4/vicuna/relative-gpt-3.5",
            columns=SCORES,
            sha256="a410b744dd6bf6b5c1e66be82ed5e925821185715db65da6126f07d1165cf1f4",
        ),
        Release(
            name="vicuna_human_pairwise",
            what="people's votes on the Vicuna benchmark",
            folder="ratings-human",
            columns=VOTES,
            sha256="266374d47e7dfa313bd63a32fa8c6e570b64e05240e517a4bada2158d89b0c4d",
        ),
        Release(
            name="oa_gpt4_pairwise",
            what="GPT-4's verdicts on the Open Assistant benchmark",
            folder="ratings-gpt4/oa",
            columns=PAIRWISE,
            sha256=None,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file of the original layout."""

    path: Path
    named: tuple[str, str]  # the two systems, in the order of the name
    rows: list[dict[str, Any]]


def locate(name: str, data: Path, converted: Path) -> Path:
    """The CSV of a set of judgments; made from the original files, into `converted`, where only those are there.

    Args:
        name: one of RELEASES.
        data: the data folder.
        converted: where a converted file is written.

    Raises:
        NoJudgments: neither is there.
        ValueError: two copies are there, or a file is not what its place says.
    """
    release = RELEASES[name]
    csv_files = [path for path in _below(data, f"{name}.csv") if path.is_file() and path.resolve().parent != converted]
    if len(csv_files) > 1:
        raise ValueError(f"{csv_files[0]} and {csv_files[1]}: keep one of the two")
    if csv_files:
        return csv_files[0]
    folders = [path for path in _below(data, release.folder) if path.is_dir() and any(path.glob("*.jsonl"))]
    if len(folders) > 1:
        raise ValueError(f"{folders[0]} and {folders[1]}: keep one of the two")
    if not folders:
        raise NoJudgments(
            f"no {release.what}: neither {name}.csv nor the folder {release.folder} is in {data} "
            f"(up to {DEPTH} folders deep); `make data` fetches them where there is a network"
        )
    path = converted / f"{name}.csv"
    write_atomically(path, csv_text(release.columns, convert(release, folders[0])))
    return path


def convert(release: Release, folder: Path) -> list[tuple[str, ...]]:
    """The rows of the original files of one set, in the columns of `release`, sorted.

    Raises:
        ValueError: a file is not what its name says.
    """
    files = list(_read_files(folder))
    if not files:
        raise ValueError(f"{folder}: no file in it is named <one>-vs-<other>-...-reviewer....jsonl")
    if release.columns == VOTES:
        rows = [row for file in files for row in _votes(file)]
    else:
        ids = _answer_ids(files)
        make = _scores if release.columns == SCORES else _verdicts
        rows = [row for file in files for row in make(file, _is_reversed(file, ids))]
    return sorted(set(rows), key=lambda row: [(len(field), field) for field in row])


def canonical_sha256(release: Release, path: Path) -> str:
    """The sha256 of a CSV's rows in the columns of `release`, whatever their order and further columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [",".join(row.get(name) or "" for name in release.columns) for row in csv.DictReader(file)]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _below(data: Path, name: str) -> list[Path]:
    return [path for depth in range(DEPTH + 1) for path in sorted(data.glob("*/" * depth + name))]


def _read_files(folder: Path) -> Iterator[_File]:
    """The files between systems of the paper; others (PRD adds Claude) are left out."""
    seen: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*.jsonl")):
        name = _FILE.fullmatch(path.stem)
        one, two = (_system(name[side]) if name else None for side in ("one", "two"))
        if one is None or two is None:
            continue
        if (one, two) in seen:
            raise ValueError(f"{path} and {seen[one, two]} both hold {one} against {two}: keep one of the two")
        seen[one, two] = path
        yield _File(path=path, named=(one, two), rows=read_jsonl(path))


def _system(name: str) -> str | None:
    """The name that we give a contestant: `13b-oassist-vicuna-generations-topp0.9-beam1` is guanaco-13b; 30b is 33b."""
    trained = _TRAINED.fullmatch(name)
    if trained and trained["dataset"] != "vicuna":
        dataset = {"oassist": "guanaco"}.get(trained["dataset"], trained["dataset"])
        return f"{dataset}-{'33' if trained['size'] == '30' else trained['size']}b"
    bare = re.sub(r"^answer[-_]|-(?:oa|vicuna)-generations.*$", "", name)
    return NAMES.get(bare)


def _answer_ids(files: Sequence[_File]) -> dict[tuple[str, str], str]:
    """(system, question) -> the id of its answer, where one id is in more of the system's files than any other."""
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for file in files:
        for row in file.rows:
            shown = {str(row[key]) for key in ("answer1_id", "answer2_id") if row.get(key) is not None}
            for system in file.named:
                seen[system, _question(row, file.path)].update(shown)
    ids = {}
    for place, counts in seen.items():
        best = counts.most_common(2)
        if len(best) == 2 and best[0][1] > best[1][1]:
            ids[place] = best[0][0]
    return ids


def _is_reversed(file: _File, ids: Mapping[tuple[str, str], str]) -> bool:
    """Whether the second system of the name was shown first, by the majority of the questions whose ids say so.

    Raises:
        ValueError: the ids say nothing, or as often one thing as the other.
    """
    one, two = file.named
    votes = Counter[bool]()
    for row in file.rows:
        question = _question(row, file.path)
        shown = (row.get("answer1_id"), row.get("answer2_id"))
        if shown[0] == shown[1]:
            continue  # both gave the same answer
        for system, place in ((one, 0), (two, 1)):
            if ids.get((system, question)) in shown:
                votes[ids[system, question] != shown[place]] += 1
    if votes[True] == votes[False]:
        raise ValueError(f"{file.path}: the answers' ids don't say whether {one} or {two} was shown first")
    return votes[True] > votes[False]


def _verdicts(file: _File, is_reversed: bool) -> Iterator[tuple[str, ...]]:
    first, second = reversed(file.named) if is_reversed else file.named
    for row in file.rows:
        yield _question(row, file.path), first, second, _verdict(row, file.path)


def _scores(file: _File, is_reversed: bool) -> Iterator[tuple[str, ...]]:
    first, second = reversed(file.named) if is_reversed else file.named
    if CHATGPT not in (first, second):
        raise ValueError(f"{file.path}: ten-point scores of {first} and {second}, and neither is {CHATGPT}")
    for row in file.rows:
        question, score = _question(row, file.path), row.get("score")
        if not isinstance(score, list) or len(score) != 2 or not all(isinstance(s, (int, float)) for s in score):
            raise ValueError(f"{file.path}: question {question}: score is {score!r}; expected two numbers")
        shown = [f"{value:g}" for value in score]
        if second == CHATGPT:
            yield question, first, "candidate_first", *shown
        else:
            yield question, second, "candidate_second", *reversed(shown)


def _votes(file: _File) -> Iterator[tuple[str, ...]]:
    """The votes of a file with several lines for a question, each of a rater whose id is not given."""
    num = Counter[str]()
    for row in file.rows:
        question = _question(row, file.path)
        num[question] += 1
        yield question, str(num[question]), *file.named, _verdict(row, file.path)


def _question(row: Mapping[str, Any], path: Path) -> str:
    value = row.get("question_id", row.get("message_id"))
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise ValueError(f"{path}: a line has neither question_id nor message_id; is it a file of judgments?")
    return str(value)


def _verdict(row: Mapping[str, Any], path: Path) -> str:
    """The stored class. The authors' parser took any whole number for one; other numbers than 1, 2, 3 are unparsed."""
    score = row.get("score")
    if not isinstance(score, int) or isinstance(score, bool):
        raise ValueError(f"{path}: question {_question(row, path)}: score is {score!r}; expected 1, 2, 3 or -1")
    return str(score if score in (FIRST, SECOND, TIE) else UNPARSED)
