"""A verdict that was paid for stays; only a reply that could not be read gives way."""

import sqlite3
from pathlib import Path

import pytest

from eval.judging.parse import judgment_of, parse_scores, parse_verdict
from eval.judging.prompts import Mode
from eval.judging.reading.scores import MAX_LINE
from eval.judging.store import JudgmentStore, settings_sha256
from tests.builders import ScriptedJudge, a_match

CASES = [("1", "2", 1), ("no verdict at all", "2", 2), ("1", "no verdict at all", 1)]


@pytest.mark.parametrize(("first", "second", "kept"), CASES)
def test_the_first_verdict_stays(tmp_path: Path, first: str, second: str, kept: int) -> None:
    match, judge = a_match("Because.", "So."), ScriptedJudge(lambda *_: "")
    with JudgmentStore(tmp_path) as store:
        (digest,) = store.register(judge, "pairwise", [match])
        for text in (first, second):
            store.add(judge, judgment_of(match.key, digest, Mode.pairwise, f"Fine.\n{text}"))
        ((_, found),) = store.judgments()
        assert found.verdict == kept


def test_a_store_is_closed_at_its_end(tmp_path: Path) -> None:
    """So that its folder can be moved, and a next command finds the whole file."""
    with JudgmentStore(tmp_path) as store:
        assert list(store.judgments()) == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        store.connection.execute("SELECT 1")


def test_a_judge_is_known_by_its_settings_whatever_their_order() -> None:
    one, other, third = ScriptedJudge(lambda *_: ""), ScriptedJudge(lambda *_: ""), ScriptedJudge(lambda *_: "")
    one.settings, other.settings = {"temperature": 0, "model": "m"}, {"model": "m", "temperature": 0}
    third.settings = {"model": "m", "temperature": 1}
    assert settings_sha256(one) == settings_sha256(other) != settings_sha256(third)


@pytest.mark.parametrize("code", [0x200B, 0x200F, 0x202A, 0x202C, 0x202E, 0x2060, 0xFEFF, 0xAD, 0xFE0F, 0x20E3])
def test_marks_that_nobody_sees_are_no_part_of_a_verdict(code: int) -> None:
    mark = chr(code)
    assert parse_verdict(f"Fine.\n[{mark}[{mark}B{mark}]]").verdict == 2
    assert parse_verdict(f"Ver{mark}dict: {mark}1{mark}").verdict == 1


@pytest.mark.parametrize(
    ("text", "scores"), [("1: 8\n2: 9", (8, 9)), ("1) 8.5\n2) 7.\nBoth try.", (8.5, 7)), ("8\n9", (8, 9))]
)
def test_a_line_for_each_answers_score(text: str, scores: tuple[float, float]) -> None:
    found = parse_scores(text)
    assert (found.score_a, found.score_b) == scores


def test_a_line_as_long_as_a_line_of_scores_may_be_takes_a_score_back() -> None:
    reason = "both answers say the same in other words, but the first one gives no source, "
    line = f"{reason * 2}"[: MAX_LINE - len(" sorry, 6")] + " sorry, 6"
    assert len(line) == MAX_LINE
    assert parse_scores(f"8 9\n{line}").score_a is None
    assert parse_scores(f"8 9\n{line.replace('sorry, 6', 'scored 6')}").score_a == 8


def test_a_call_costs_its_most_until_its_bill_is_known(tmp_path: Path) -> None:
    judge = ScriptedJudge(lambda *_: "")
    judge.settings = {"temperature": 0, "model": "m"}
    with JudgmentStore(tmp_path) as store:
        first, second = (store.reserve("j", f"p{n}", 0.5) for n in (1, 2))
        assert (store.spent_usd(), store.unknown_usd()) == (1.0, 1.0)
        store.settle(first, "200", 0.125)
        assert (store.spent_usd(), store.unknown_usd()) == (0.625, 0.5)
        store.settle(second, "time-out", None)
        assert (store.spent_usd(), store.unknown_usd()) == (0.625, 0.5)
        outcomes = store.connection.execute(
            "SELECT outcome, finished IS NOT NULL FROM calls ORDER BY call_id"
        ).fetchall()
        assert [tuple(row) for row in outcomes] == [("200", 1), ("time-out", 1)]
        store.register(judge, "pairwise", [])
        ((settings,),) = store.connection.execute("SELECT settings FROM judges").fetchall()
        assert settings == '{"model": "m", "temperature": 0}'
