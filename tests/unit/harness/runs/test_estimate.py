"""A measured value with its interval, and results as plain values."""

from dataclasses import dataclass
from typing import Any

import pytest

from harness.runs.estimate import Estimate, Interval, plain_values


def test_a_value_with_its_interval_and_count() -> None:
    assert Estimate.of(0.5, (0.4, 0.7), 30) == Estimate(value=0.5, low=0.4, high=0.7, n=30)
    assert Estimate.of(None, None) == Estimate(value=None, low=None, high=None, n=None)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.0, 0.7, (0.0, 0.7)), (None, 0.7, None), (0.4, None, None), (None, None, None)]
)
def test_an_interval_needs_both_bounds(low: float | None, high: float | None, expected: Interval | None) -> None:
    estimate = Estimate(value=0.5, low=low, high=high)
    assert estimate.ci95 == expected
    assert estimate.to_json() == {"value": 0.5, "ci95": expected}


def test_results_become_plain_values() -> None:
    @dataclass
    class Result:
        score: Estimate
        parts: dict[str, Any]
        kind: type

    found = plain_values(
        Result(Estimate.of(1.0, None, 0), {"a": [Estimate.of(2.0, (1.0, 3.0))], "b": (1, "x")}, Result)
    )
    assert found == {
        "score": {"value": 1.0, "ci95": None, "n": 0},
        "parts": {"a": [{"value": 2.0, "ci95": (1.0, 3.0)}], "b": (1, "x")},
        "kind": Result,
    }
    assert type(found["parts"]["b"]) is tuple
