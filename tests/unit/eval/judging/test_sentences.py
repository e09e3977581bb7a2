"""Sentences by hand: a reason that names the other answer, and a relation behind a verdict of the same meaning."""

import pytest

from eval.judging.parse import parse_verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("2, as it lists 2 sources", 2),
        ("2 because it is longer", 2),
        ("2, because answer 1 lacks detail", -1),  # which of them is meant is left to another reading
        ("2 because it names 3 sources", -1),
        ("2 because it holds -1 too", -1),
        ("2 because the first one is short", -1),
        ("2, as it beats the first", -1),
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
