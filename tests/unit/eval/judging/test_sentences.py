"""Sentences by hand: a reason that names the other answer, and a relation behind a verdict of the same meaning."""

import pytest

from eval.judging.parse import parse_verdict
from eval.judging.reading.lines import doubts, read_labels
from eval.judging.reading.plain import RAISED
from eval.judging.reading.sentences import _both, _named
from eval.verdicts.codes import FIRST, SECOND, TIE


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("2, as it lists 2 sources", 2),
        ("2 because it is longer", 2),
        ("2, because answer 1 lacks detail", 2),  # it speaks ill of the other answer
        ("2, because answer 1 has detail", -1),
        ("2 because it names 3 sources", -1),
        ("2 because it holds -1 too", -1),
        ("2 because the first one is short", 2),
        ("2, as it beats the first", 2),
    ],
)
def test_a_reason_with_another_number_is_no_verdict(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("3: A = B", 3),
        ("Final verdict tie: 1 = 2", 3),
        ("Verdict: tie, A=B", 3),
        ("tie: A > B", -1),  # it says two things
        ("1: A > B", -1),
        ("Bananas: A > B", -1),
    ],
)
def test_a_relation_may_stand_behind_a_tie_that_it_is(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"), [("回答2更好", 2), ("答案1更好。", 1), ("选择1", 1), ("平局", 3), ("回答3更差", -1)]
)
def test_chinese_verdicts(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("words", "side", "length"),
    [
        ("answer # 2 is", SECOND, 3),
        ("# 1", FIRST, 2),
        ("1", FIRST, 1),
        ("the second response is", SECOND, 3),
        ("the first one is", FIRST, 3),
        ("second one", SECOND, 2),
        ("assistant b answer", SECOND, 3),
        ("a answer", None, 0),  # an article
        ("a is", FIRST, 1),
        ("answer a answer", FIRST, 3),
        ("answer", None, 0),
        ("answer 3", None, 0),
        ("the", None, 0),
    ],
)
def test_names_of_answers(words: str, side: int | None, length: int) -> None:
    assert _named(words.split()) == (side, length)


def test_labels_that_differ_are_a_conflict_and_a_long_line_doubts_nothing() -> None:
    assert [read_labels(text).conflict for text in ("[[A]] [[B]]", "[[A]]", "")] == [True, False, False]
    assert doubts("That is not so.", FIRST)
    assert doubts("Well, answer 2.", FIRST)
    assert not doubts("", FIRST)
    assert not doubts("so it goes " * 50 + "not", FIRST)


def test_both_are_equal_and_nothing_is_said_behind_it() -> None:
    assert _both(["both", "answers", "are", "equal"]) == TIE
    assert _both(["they", "are", "equally", "good"]) == TIE
    assert _both(["both", "answers", "are", "equal", "mostly"]) is None
    assert _both(["they", "are", "equal", "in", "2"]) is None


def test_footnotes_and_fractions_are_no_digits() -> None:
    assert {chr(code) for code in RAISED} >= set("\u00b2\u00b3\u00b9\u2070\u2079\u2080\u2089\u00bc\u00bd\u00be")
    assert not {0xBB, 0xBF} & RAISED.keys()
