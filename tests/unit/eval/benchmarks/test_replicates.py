"""Differences over seeds and questions: by hand, against scipy, and how often they err and find."""

import math
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from eval.benchmarks.replicates import (
    BORROWED,
    NO_SPREAD,
    NOTHING_MEASURES,
    ONE_RUN,
    Components,
    Source,
    Spreads,
    detectable,
    detectable_by,
    freedom_of,
)
from eval.ratings.comparisons import benjamini_hochberg

Array = NDArray[np.float64]


def test_one_number_a_run_is_students_pooled_t_test() -> None:
    one, other = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [5.0]])
    found, scipys = Spreads.of([one, other]).difference(0, 1), stats.ttest_ind(one.ravel(), other.ravel())
    assert found.value == pytest.approx(7 / 3 - 3.5)
    assert found.p_two_sided() == pytest.approx(scipys.pvalue)
    assert found.interval() == pytest.approx(tuple(scipys.confidence_interval(0.95)))


def test_one_run_each_is_the_paired_t_test_over_questions() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(1, 30)), rng.normal(0.4, 1.0, (1, 30))
    found, scipys = Spreads.of([one, other]).difference(1, 0), stats.ttest_rel(other[0], one[0])
    assert found.p_two_sided() == pytest.approx(scipys.pvalue)
    assert found.note == ONE_RUN


def test_mean_squares_by_hand() -> None:
    """Runs 2 8 / 6 12 against 1 1 / 3 7: run means 5, 9 and 1, 5, so spreads of 8; rests 0 and 4 / 2."""
    spreads = Spreads.of([np.array([[2.0, 8.0], [6.0, 12.0]]), np.array([[1.0, 1.0], [3.0, 7.0]])])
    found = spreads.difference(0, 1)
    runs, questions = found.sources
    assert (spreads.are_pooled, found.value) == (True, 4.0)
    assert (runs.variance, runs.freedom) == (pytest.approx(8 / 2 + 8 / 2), 2)
    # questions: differences 4 - 2 = 2 and 10 - 4 = 6 have the variance 8, less the rest 2, of two questions
    assert (questions.variance, questions.freedom) == (pytest.approx((8 - 2) / 2), 1)


def test_degrees_of_freedom_lie_between_those_of_the_parts() -> None:
    few, many = Source(variance=3.0, freedom=2), Source(variance=1.0, freedom=200)
    assert freedom_of([few]) == pytest.approx(2)
    assert freedom_of([few, many]) == pytest.approx(1 / (0.75**1.25 / 2 + 0.25**1.25 / 200))
    assert freedom_of([]) == math.inf


def test_a_difference_of_one_run_each_is_at_least_as_wide_as_the_exact_test() -> None:
    one, other = np.zeros((1, 40)), np.zeros((1, 40))
    one[0, :4] = 1.0
    found = Spreads.of([one, other]).difference(0, 1)
    assert found.p_two_sided() == pytest.approx(2 * 0.5**4)  # McNemar's, exact
    interval = found.interval()
    assert interval is not None
    assert interval[0] < 0 < interval[1]


def test_a_system_with_one_run_borrows_the_spread_of_the_others() -> None:
    rng = np.random.default_rng(0)
    spreads = Spreads.of([rng.normal(size=(3, 1)), rng.normal(size=(1, 1))])
    found = spreads.difference(0, 1)
    assert found.note == BORROWED
    assert found.freedom == pytest.approx(2)
    pooled = spreads.of_runs[0]
    assert pooled is not None
    assert found.error == pytest.approx(math.sqrt(pooled.variance * (1 / 3 + 1)))


def test_what_has_no_spread_has_no_interval() -> None:
    same = np.full((2, 5), 0.5)
    assert Spreads.of([same, same]).difference(0, 1).note == NO_SPREAD
    alone = Spreads.of([np.ones((1, 1)), np.zeros((1, 1))]).difference(0, 1)
    assert (alone.note, alone.interval(), alone.p_two_sided(), alone.p_equal(1.0)) == (
        NOTHING_MEASURES,
        None,
        None,
        None,
    )


def test_a_system_whose_seeds_are_far_apart_keeps_its_own_spread() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(6, 1)) for _ in range(4)]
    wild = 30 * rng.normal(size=(6, 1))
    spreads = Spreads.of([*tables, wild])
    assert not spreads.are_pooled
    calm, torn = spreads.difference(0, 1), spreads.difference(0, 4)
    assert calm.error is not None
    assert torn.error is not None
    assert torn.error > 10 * calm.error
    assert Spreads.of(tables).are_pooled


def test_equality_is_two_one_sided_tests() -> None:
    one, other = np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [2.5], [3.5]])
    found = Spreads.of([one, other]).difference(0, 1)
    below = stats.ttest_ind(one.ravel() - 2.0, other.ravel(), alternative="less").pvalue
    above = stats.ttest_ind(one.ravel() + 2.0, other.ravel(), alternative="greater").pvalue
    assert found.p_equal(2.0) == pytest.approx(max(below, above))


@pytest.mark.parametrize("freedom", [2.0, 8.0, math.inf])
def test_a_detectable_difference_is_found_in_four_of_five_cases(freedom: float) -> None:
    rng = np.random.default_rng(0)
    shift = detectable(1.0, freedom)
    draws = rng.normal(shift, 1.0, 200_000)
    if math.isfinite(freedom):
        draws /= np.sqrt(rng.chisquare(freedom, len(draws)) / freedom)
    critical = stats.t.ppf(0.975, freedom) if math.isfinite(freedom) else stats.norm.ppf(0.975)
    assert np.mean(draws > critical) == pytest.approx(0.8, abs=0.004)


def test_components_are_found_again() -> None:
    rng, truth = np.random.default_rng(0), Components(run=1.0, question=9.0, rest=25.0)
    tables = [
        rng.normal(size=(40, 1)) + 3.0 * rng.normal(size=(1, 800)) + 5.0 * rng.normal(size=(40, 800)) for _ in range(4)
    ]
    shared = 20.0 * rng.normal(size=800)
    found = Components.of([table + shared for table in tables])
    assert found is not None
    assert found.run == pytest.approx(truth.run, rel=0.25)
    assert found.question == pytest.approx(truth.question, rel=0.1)
    assert found.rest == pytest.approx(truth.rest, rel=0.02)
    assert Components.of([table[:1] for table in tables]) is None


def test_a_planned_design_has_the_error_that_is_measured_then() -> None:
    rng, planned = np.random.default_rng(0), Components(run=1.0, question=9.0, rest=25.0)
    errors = []
    for _ in range(60):
        tables = [
            rng.normal(size=(4, 1)) + 3.0 * rng.normal(size=(1, 100)) + 5.0 * rng.normal(size=(4, 100))
            for _ in range(3)
        ]
        errors.append((Spreads.of(tables).difference(0, 1).error or 0.0) ** 2)
    expected = 2 * (1.0 + 25.0 / 100) / 4 + 2 * 9.0 / 100
    sources = planned.sources(num_seeds=4, num_questions=100, num_systems=3)
    assert sum(source.variance for source in sources) == pytest.approx(expected)
    assert np.mean(errors) == pytest.approx(expected, rel=0.1)
    assert [source.freedom for source in sources] == [9, 99]
    assert detectable_by(planned.sources(1, 1, 3)) is None  # one run with one number


@pytest.mark.parametrize(
    ("num_systems", "num_runs", "num_questions", "spreads", "trials"),
    [(2, 3, 60, (0.1, 0.6), 1000), (4, 2, 30, (0.3, 0.6), 300), (5, 3, 1, (1.0, 0.0), 300)],
)
def test_five_in_a_hundred_equal_systems_are_called_different(
    num_systems: int, num_runs: int, num_questions: int, spreads: tuple[float, float], trials: int
) -> None:
    """Seeded; the whole study, of more trials, is `python -m benchmarks.compare_simulation`."""
    rng, errors, pairs = np.random.default_rng(0), 0, list(combinations(range(num_systems), 2))
    for _ in range(trials):
        runs = spreads[0] * rng.normal(size=(num_systems, num_runs, 1))
        questions = spreads[1] * rng.normal(size=(num_systems, 1, num_questions))
        drawn = Spreads.of([*(runs + questions + rng.normal(size=(num_systems, num_runs, num_questions)))])
        errors += sum((drawn.difference(*pair).p_two_sided() or 0.0) < 0.05 for pair in pairs)
    assert 0.04 <= errors / trials / len(pairs) <= 0.06


@pytest.mark.parametrize("tables", [[np.ones((2, 3)), np.ones((2, 4))], [np.ones(3)], [np.array([[1.0, np.nan]])]])
def test_what_is_no_complete_table_is_refused(tables: list[Array]) -> None:
    with pytest.raises(ValueError, match=r"expected runs x the same questions|has a hole"):
        Spreads.of(tables)


def test_benjamini_and_hochberg_as_scipy() -> None:
    p_values = [0.01, 0.5, 0.02, 0.04, 0.9, 0.002]
    assert benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values).tolist())
