"""What people vote on: every pair on every question, evenly from the first item on; bad files named by row."""

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.human.items import CHECK_SYSTEMS, ContestOptions, draw_contest
from eval.human.store import Rules, VoteStore, create_store
from eval.verdicts.codes import FIRST, SECOND
from tests.voting import SYSTEMS, contest_options, write_rows


def test_every_pair_meets_on_every_question_and_any_beginning_is_balanced(tmp_path: Path) -> None:
    contest = draw_contest(contest_options(tmp_path, num_questions=8))
    pairs = [(item.system_one, item.system_two) for item in contest.items]
    assert Counter(pairs) == {(a, b): 8 for i, a in enumerate(SYSTEMS) for b in SYSTEMS[i + 1 :]}
    assert len({(item.question_id, *pair) for item, pair in zip(contest.items, pairs, strict=True)}) == 24
    for num in range(1, 25):
        counts = Counter(pairs[:num])
        assert max(counts.values()) - min(counts[pair] for pair in set(pairs)) <= 1


def test_the_seed_decides_order_and_checks(tmp_path: Path) -> None:
    options = contest_options(tmp_path)
    assert draw_contest(options) == draw_contest(options)
    other = draw_contest(replace(options, seed=1))
    assert other.sha256 != draw_contest(options).sha256
    assert [item.question_id for item in other.items] != [item.question_id for item in draw_contest(options).items]


def test_attention_checks_show_an_answer_and_its_jumbled_words(tmp_path: Path) -> None:
    contest = draw_contest(contest_options(tmp_path))
    texts = {text for item in contest.items for text in (item.answer_one, item.answer_two)}
    assert {check.better for check in contest.checks} == {FIRST, SECOND}
    for check in contest.checks:
        better, worse = (check.answer_one, check.answer_two)[:: 1 if check.better == FIRST else -1]
        assert better in texts
        assert worse not in texts
        assert sorted(better.split()) == sorted(worse.split())
        assert (check.system_one == CHECK_SYSTEMS[0]) == (check.better == FIRST)


def test_checks_of_ones_own(tmp_path: Path) -> None:
    rows = [{"question": "2 + 2?", "better": "4", "worse": "a fish"}]
    options = contest_options(tmp_path, checks=write_rows(tmp_path / "checks.jsonl", rows))
    (check,) = draw_contest(options).checks
    assert {check.answer_one, check.answer_two} == {"4", "a fish"}
    write_rows(tmp_path / "checks.jsonl", [*rows, {"question": "3 + 3?", "better": " "}])
    with pytest.raises(ValueError, match=r"checks\.jsonl: line 2: better is ' '"):
        draw_contest(options)


def test_only_what_a_judge_has_judged(tmp_path: Path) -> None:
    options = contest_options(tmp_path, only_judged=True)
    options.tournament.mkdir()
    verdicts = options.tournament / "verdicts.csv"
    verdicts.write_text("question_id,system_a,system_b,verdict\n2,zebra-3,okapi-7,1\n2,okapi-7,zebra-3,1\n")
    contest = draw_contest(options)
    (item,) = contest.items
    assert contest.notes == ()
    assert (item.question_id, item.system_one, item.system_two) == ("2", "okapi-7", "zebra-3")


def test_judged_pairs_that_are_nowhere_here_are_said(tmp_path: Path) -> None:
    options = contest_options(tmp_path, only_judged=True)
    rows = "2,zebra-3,okapi-7,1\n2,okapi-7,gnu,1\n99,okapi-7,zebra-3,2\n"
    options.tournament.mkdir()
    (options.tournament / "verdicts.csv").write_text("question_id,system_a,system_b,verdict\n" + rows)
    (note,) = draw_contest(options).notes
    assert note.startswith("2 judged pairs of verdicts.csv are of no question or no system here")
    assert note.endswith("question 2, gnu against okapi-7, question 99, okapi-7 against zebra-3")


def test_folders_of_answer_files_and_of_runs(tmp_path: Path) -> None:
    options = contest_options(tmp_path)
    expected = draw_contest(options)
    assert draw_contest(replace(options, answers=(tmp_path / "answers",))) == expected
    other = tmp_path / "other"
    other.mkdir()
    for file, name in zip(options.answers, ("a.jsonl.gz", "b.json", "c.JSONL"), strict=True):
        text = file.read_text()
        array = "[" + ",".join(text.splitlines()) + "]"
        data = gzip.compress(text.encode()) if name.endswith(".gz") else (array if name == "b.json" else text).encode()
        (other / name).write_bytes(data)
    (other / "a.settings.json").write_text("{}")
    assert draw_contest(replace(options, answers=(other,))) == expected
    for at, file in enumerate(options.answers):
        run = tmp_path / "runs" / f"run{at}" / "answers"
        run.mkdir(parents=True)
        (run / "open.jsonl").write_text(file.read_text())
    assert draw_contest(replace(options, answers=(tmp_path / "runs",))) == expected
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="neither a run folder, nor"):
        draw_contest(replace(options, answers=(tmp_path / "none",)))


def test_an_empty_answer_is_named_by_row(tmp_path: Path) -> None:
    options = contest_options(tmp_path)
    rows = [{"question_id": n, "system": "okapi-7", "answer": "fine" if n == 1 else "  "} for n in (1, 2)]
    write_rows(options.answers[0], rows)
    with pytest.raises(ValueError, match=r"0\.jsonl: line 2: the answer of okapi-7 to question 2 is empty"):
        draw_contest(options)
    assert draw_contest(replace(options, allow_empty=True)).items


def test_one_system_or_no_shared_question_is_refused(tmp_path: Path) -> None:
    options = contest_options(tmp_path)
    with pytest.raises(ValueError, match="only okapi-7: people compare two"):
        draw_contest(replace(options, answers=options.answers[:1]))
    write_rows(options.answers[1], [{"question_id": 77, "system": "quagga-9", "answer": "elsewhere"}])
    with pytest.raises(ValueError, match="no two of okapi-7, quagga-9 answered one of the 4 questions"):
        draw_contest(replace(options, answers=options.answers[:2]))


def test_a_store_holds_one_contest(tmp_path: Path) -> None:
    options = contest_options(tmp_path)
    store = create_store(options.tournament, draw_contest(options), Rules())
    again = create_store(options.tournament, draw_contest(options), Rules())
    assert again.items() == store.items() == [*draw_contest(options).items, *draw_contest(options).checks]
    with pytest.raises(ValueError, match=r"human\.sqlite: holds the votes of another contest \(seed 0, not 5\)"):
        create_store(options.tournament, draw_contest(replace(options, seed=5)), Rules())
    fewer = draw_contest(replace(options, max_questions=3))
    with pytest.raises(ValueError, match="of its 24 items are not in these files"):
        create_store(options.tournament, fewer, Rules())
    rows = [{"question_id": n, "system": "okapi-7", "answer": f"changed {n}"} for n in (1, 2, 3, 4)]
    write_rows(options.answers[0], rows)
    with pytest.raises(ValueError, match="another contest"):
        create_store(options.tournament, draw_contest(options), Rules())


def test_files_that_keep_no_votes(tmp_path: Path) -> None:
    path = tmp_path / "human.sqlite"
    with pytest.raises(ValueError, match="no votes are kept here; begin with"):
        VoteStore(path)
    path.write_text("this is not a database, and long enough to be looked at as one" * 20)
    with pytest.raises(ValueError, match="move the file away"):
        VoteStore(path)


@pytest.mark.parametrize(("name", "value"), [("raters_per_item", 0), ("check_rate", 1.0), ("claim_seconds", 0.0)])
def test_rules_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Rules(**{name: value})  # type: ignore[arg-type]


def dialogues(folder: Path) -> ContestOptions:
    """Two systems' answers to a question of two turns: a row a turn, and a row with all turns."""
    turns = ["first answer of okapi", "second answer of okapi"]
    rows: list[dict[str, Any]] = [
        {"question_id": 81, "system": "okapi-7", "answer": turn, "turn": at} for at, turn in enumerate(turns)
    ]
    rows.append({"question_id": "81", "system": "zebra-3", "turns": ["**first** of zebra", "second of zebra"]})
    return ContestOptions(
        answers=(write_rows(folder / "a.jsonl", rows),),
        questions=write_rows(folder / "q.jsonl", [{"question_id": 81, "turns": ["Write a line.", "Make it shorter."]}]),
        tournament=folder / "t",
    )


def test_a_dialogue_keeps_its_turns(tmp_path: Path) -> None:
    contest = draw_contest(dialogues(tmp_path))
    (item,) = contest.items
    assert item.question == "Turn 1:\nWrite a line.\n\nTurn 2:\nMake it shorter."
    assert item.turns == (
        ("Write a line.", "first answer of okapi", "**first** of zebra"),
        ("Make it shorter.", "second answer of okapi", "second of zebra"),
    )
    store = create_store(tmp_path / "t", contest, Rules(check_rate=0.0))
    assert store.items() == [item]


def test_votes_of_before_there_were_turns_go_on(tmp_path: Path) -> None:
    contest = draw_contest(contest_options(tmp_path))
    store = create_store(tmp_path / "t", contest, Rules())
    with store.writing() as db:
        db.execute("ALTER TABLE items DROP COLUMN turns")
        db.execute("UPDATE facts SET value = '1' WHERE key = 'schema_version'")
    again = create_store(tmp_path / "t", contest, Rules())
    assert again.items() == [*contest.items, *contest.checks]
    assert len(again.items()[0].shown_turns) == 1
