"""The judge's books against a server's own: kills at random moments, and the cost foretold after 50 judgments.

The benchmarks of the same names run many more of both.
"""

from pathlib import Path

import pytest

from benchmarks.evaluation.judge_estimates import LENGTHS, LIMIT, told_of
from benchmarks.evaluation.judge_kills import Call, _asked_again, kill_and_count

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_a_killed_command_asks_about_no_stored_judgment_again(tmp_path: Path) -> None:
    found = kill_and_count(tmp_path, num_kills=2, num_questions=40, num_concurrent=4)
    assert found.stored_again == 0
    assert found.num_asked - found.num_prompts == found.received_again + found.under_way_again <= 2 * 4
    assert found.num_stored == found.num_prompts == 80
    assert found.needed_usd <= found.bill_usd <= found.spent_usd  # what is under way at a kill is booked at its most


def test_what_is_asked_again_is_told_apart() -> None:
    calls = [Call(prompt="a", run=0, was_read=True), Call(prompt="b", run=0), Call(prompt="c", run=0, was_read=True)]
    again = [Call(prompt=name, run=1) for name in "abcd"]
    assert _asked_again(calls + again, {"a": 0, "b": 1}) == {"stored": 1, "under way": 1, "received": 1}


@pytest.mark.parametrize("name", ["a digit", "explained, 150 to 350", "long, 600 to 1,000"])
def test_the_cost_told_after_fifty_judgments_is_the_bill(tmp_path: Path, name: str) -> None:
    told = told_of(tmp_path, LENGTHS[name], seed=0, num_questions=60, num_concurrent=8)
    assert abs(told.share - 1) <= LIMIT
    assert abs(told.share_of_rest - 1) <= LIMIT
