"""Intervals over clusters of questions: known values at the edges and in closed form."""

import numpy as np
import pytest

from eval.benchmarks.intervals import stratified_interval, wilson_interval
from eval.ratings.intervals import clopper_pearson_interval, clustered_interval, ratio_interval


def test_exact_interval_at_the_edges() -> None:
    assert clopper_pearson_interval(5, 5) == (pytest.approx(0.025**0.2), 1.0)
    assert clopper_pearson_interval(0, 5) == (0.0, pytest.approx(1 - 0.025**0.2))
    assert clopper_pearson_interval(8, 10) == pytest.approx((0.4439, 0.9748), abs=1e-4)  # the textbooks' value


def test_questions_that_all_agree_count_one_each() -> None:
    assert clustered_interval(np.full(5, 4.0), np.full(5, 4.0)) == (pytest.approx(0.025**0.2), 1.0)
    even = clustered_interval(np.full(6, 1.0), np.full(6, 2.0))
    assert even == pytest.approx(clopper_pearson_interval(3, 6))
    assert clustered_interval(np.array([1.0]), np.array([2.0])) is None


def test_strata_at_a_hundred_percent_keep_an_interval() -> None:
    low, high = stratified_interval([(4, 4), (4, 4)])
    assert high == 1.0
    assert low == pytest.approx(1 - (1 - wilson_interval(4, 4)[0]) / np.sqrt(2))


def test_a_ratio_without_spread_has_no_interval() -> None:
    assert ratio_interval(np.array([2.0, 4.0]), np.array([1.0, 2.0])) is None
