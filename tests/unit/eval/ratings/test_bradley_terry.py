"""Bradley-Terry and Davidson: against closed forms, a minorise-maximise reference and a generic optimiser."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from eval.ratings import bradley_terry
from eval.ratings.bradley_terry import (
    POINTS_PER_NAT,
    Cells,
    connected_groups,
    count_cells,
    fit,
    fit_resamples,
    has_no_davidson_maximum,
    prompt_weights,
    unbounded_systems,
)
from eval.ratings.comparisons import (
    Rank,
    compare_all,
    flip_p,
    holm,
    probability,
    prompts_to_decide,
    standard_errors,
    verdict,
)
from eval.verdicts.table import Matches

Array = NDArray[np.float64]


def cells_of(results: list[tuple[int, int, int, int]], num_systems: int) -> Cells:
    """Rows of (question, first, second, half points)."""
    columns = np.array(results).T
    matches = Matches(
        question=columns[0].astype(np.int32),
        first=columns[1].astype(np.int32),
        second=columns[2].astype(np.int32),
        half_points=columns[3].astype(np.int8),
    )
    return count_cells(matches, num_systems)


def repeated(first: int, second: int, wins: int, losses: int, ties: int = 0) -> list[tuple[int, int, int, int]]:
    points = [2] * wins + [0] * losses + [1] * ties
    return [(question, first, second, point) for question, point in enumerate(points)]


def reference_bradley_terry(cells: Cells, counts: Array) -> Array:
    """Hunter's (2004) minorise-maximise iteration, slow and sure; points with mean 1000."""
    wins = np.zeros((cells.num_systems, cells.num_systems))
    for (i, j), (won, lost, tied) in zip(cells.pair, counts, strict=True):
        wins[i, j] += won + tied / 2
        wins[j, i] += lost + tied / 2
    games, strength = wins + wins.T, np.ones(cells.num_systems)
    for _ in range(20_000):
        updated = wins.sum(axis=1) / (games / (strength[:, None] + strength[None, :])).sum(axis=1)
        updated /= np.exp(np.log(updated).mean())
        if np.abs(updated / strength - 1).max() < 1e-13:
            break
        strength = updated
    return 1000 + 400 * np.log10(strength)


def reference_davidson(cells: Cells, counts: Array) -> tuple[Array, float]:
    """Davidson's likelihood written out, given to an optimiser that knows no derivative."""

    def loss(x: Array) -> float:
        strength, nu, total = np.exp(x[:-1]), np.exp(x[-1]), 0.0
        for (i, j), (won, lost, tied) in zip(cells.pair, counts, strict=True):
            tie = nu * np.sqrt(strength[i] * strength[j])
            norm = strength[i] + strength[j] + tie
            total -= won * np.log(strength[i] / norm) + lost * np.log(strength[j] / norm) + tied * np.log(tie / norm)
        return float(total)

    found = minimize(loss, np.zeros(cells.num_systems + 1), method="BFGS", options={"gtol": 1e-6})
    points = 400 * found.x[:-1] / np.log(10)
    return points - points.mean() + 1000, float(np.exp(found.x[-1]))


def random_cells(num_systems: int, num: int, seed: int) -> Cells:
    rng = np.random.default_rng(seed)
    first = rng.integers(num_systems, size=num)
    second = (first + rng.integers(1, num_systems, size=num)) % num_systems
    question, points = rng.integers(1 + num // 5, size=num), rng.integers(3, size=num)
    return cells_of(list(zip(question, first, second, points, strict=True)), num_systems)


def test_two_systems_in_closed_form() -> None:
    cells = cells_of(repeated(0, 1, wins=30, losses=10), 2)
    points = fit(cells, cells.totals()).points
    assert points[0] - points[1] == pytest.approx(400 * np.log10(3.0), abs=1e-6)
    assert points.mean() == pytest.approx(1000.0)


def test_davidson_of_two_systems_in_closed_form() -> None:
    cells = cells_of(repeated(0, 1, wins=30, losses=10, ties=12), 2)
    found = fit(cells, cells.totals(), davidson=True)
    assert found.points[0] - found.points[1] == pytest.approx(400 * np.log10(3.0), abs=1e-5)
    assert found.nu == pytest.approx(12 / np.sqrt(30 * 10), rel=1e-6)


def test_davidson_without_ties_is_bradley_terry() -> None:
    cells = cells_of(repeated(0, 1, 7, 3) + repeated(1, 2, 6, 4) + repeated(0, 2, 5, 5), 3)
    plain, davidson = fit(cells, cells.totals()), fit(cells, cells.totals(), davidson=True)
    assert davidson.nu == 0.0
    assert davidson.points == pytest.approx(plain.points)


@settings(deadline=None, max_examples=25)
@given(num_systems=st.integers(2, 7), num=st.integers(20, 200), seed=st.integers(0, 10**6))
def test_scipy_agrees_with_the_references(num_systems: int, num: int, seed: int) -> None:
    cells = random_cells(num_systems, num, seed)
    counts = cells.totals()
    assume(len(connected_groups(cells)) == 1 and len(connected_groups(cells)[0]) == num_systems)
    assume(unbounded_systems(cells, counts) == ([], []))
    assert fit(cells, counts).points == pytest.approx(reference_bradley_terry(cells, counts), abs=1e-4)
    expected, nu = reference_davidson(cells, counts)
    found = fit(cells, counts, davidson=True)
    assert found.points == pytest.approx(expected, abs=0.05)
    assert found.nu == pytest.approx(nu, rel=1e-3)


@pytest.mark.parametrize("davidson", [False, True])
def test_resamples_are_the_fits_of_their_counts(davidson: bool) -> None:
    cells = random_cells(5, 2000, 3)
    weights = list(prompt_weights(cells.num_questions, 6, np.random.default_rng(0)))
    counts = cells.resampled(weights)
    whole = fit(cells, cells.totals(), davidson=davidson)
    drawn = fit_resamples(cells, counts, whole, davidson=davidson)
    for row, count in zip(drawn, counts, strict=True):
        assert row == pytest.approx(fit(cells, count, davidson=davidson).points, abs=0.1)  # 0.1: the weak prior


@pytest.mark.parametrize("max_pairs", [1, 40])
def test_resamples_fit_alike_however_many_are_computed_at_once(max_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = random_cells(5, 2000, 3)
    counts = cells.resampled(prompt_weights(cells.num_questions, 9, np.random.default_rng(0)))
    whole = fit(cells, cells.totals(), davidson=True)
    at_once = fit_resamples(cells, counts, whole, davidson=True)
    monkeypatch.setattr(bradley_terry, "MAX_PAIRS", max_pairs)
    np.testing.assert_array_equal(fit_resamples(cells, counts, whole, davidson=True), at_once)


def test_resampled_counts_are_those_of_the_repeated_matches() -> None:
    cells = random_cells(4, 300, 1)
    weight = next(prompt_weights(cells.num_questions, 1, np.random.default_rng(5)))
    assert weight.sum() == cells.num_questions
    slow = np.zeros((len(cells.pair), 3))
    for question, column, count in zip(cells.question, cells.column, cells.count, strict=True):
        slow[column // 3, column % 3] += weight[question] * count
    assert cells.resampled([weight])[0] == pytest.approx(slow)
    assert cells.totals().sum() == 300


def test_groups_that_never_met_have_a_mean_each() -> None:
    rows = repeated(0, 1, 3, 1) + repeated(2, 3, 8, 2) + repeated(3, 4, 5, 5)
    cells = cells_of(rows, 6)
    assert connected_groups(cells) == [[2, 3, 4], [0, 1]]
    points = fit(cells, cells.totals()).points
    assert points[[0, 1]].mean() == pytest.approx(1000.0)
    assert points[[2, 3, 4]].mean() == pytest.approx(1000.0)
    assert points[0] - points[1] == pytest.approx(400 * np.log10(3.0), abs=1e-6)
    assert np.isnan(points[5])


def test_a_system_that_never_won_is_named_and_kept_finite() -> None:
    cells = cells_of(repeated(0, 1, 6, 4) + repeated(0, 2, 10, 0) + repeated(1, 2, 10, 0), 3)
    assert unbounded_systems(cells, cells.totals()) == ([], [2])
    points = fit(cells, cells.totals()).points
    assert np.isfinite(points).all()
    assert points[2] < points[1] < points[0]
    whole = fit(cells, cells.totals())
    weights = list(prompt_weights(cells.num_questions, 50, np.random.default_rng(0)))
    drawn = fit_resamples(cells, cells.resampled(weights), whole)
    assert np.isfinite(drawn).all()
    assert drawn.max() < 5000
    assert drawn.min() > -5000


def test_a_tie_links_both_ways() -> None:
    cells = cells_of(repeated(0, 1, 10, 0, ties=1), 2)
    assert unbounded_systems(cells, cells.totals()) == ([], [])


@pytest.mark.parametrize(
    ("games", "unbounded"),
    [
        (repeated(0, 1, 3, 0, ties=3), True),  # the first never lost
        (repeated(0, 1, 3, 1, ties=3), False),
        (repeated(0, 1, 3, 0, ties=0), False),  # no tie, no tie parameter
        (repeated(0, 1, 2, 0, ties=1) + repeated(1, 2, 2, 0, ties=1), True),
        (
            repeated(0, 1, 2, 0, ties=1) + repeated(1, 2, 2, 0, ties=1) + repeated(0, 2, 0, 0, ties=1),
            False,
        ),  # two apart
        (repeated(0, 1, 2, 0, ties=1) + repeated(2, 3, 2, 1, ties=1), False),  # the tie parameter is of all
    ],
)
def test_davidson_has_no_maximum_where_nobody_lost_but_tied(
    games: list[tuple[int, int, int, int]], unbounded: bool
) -> None:
    cells = cells_of(games, 4)
    assert has_no_davidson_maximum(cells, cells.totals()) == unbounded
    found = fit(cells, cells.totals(), davidson=True)
    assert np.nanmax(np.abs(found.points - 1000)) < (2000 if unbounded else 5000)


def test_the_prior_stays_out_where_likelihood_has_a_maximum() -> None:
    cells = cells_of(repeated(0, 1, 99, 1), 2)
    points = fit(cells, cells.totals()).points
    assert points[0] - points[1] == pytest.approx(400 * np.log10(99.0), abs=1e-4)


def test_only_ties_are_equal_strengths() -> None:
    cells = cells_of(repeated(0, 1, 0, 0, ties=9), 2)
    for davidson in (False, True):
        assert fit(cells, cells.totals(), davidson=davidson).points == pytest.approx([1000.0, 1000.0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_all_pairs_and_the_prompts_they_need() -> None:
    points, num = np.array([1030.0, 1000.0, 970.0]), np.array([81, 81, 81])
    errors = np.array([[0.0, 15.0, 100.0], [15.0, 0.0, 100.0], [100.0, 100.0, 0.0]])
    one, two, three = compare_all(["a", "b", "c"], [[0, 1, 2]], points, errors, None, num)
    assert [(c.higher, c.lower) for c in (one, two, three)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert one.p_value == pytest.approx(0.048867, abs=1e-4)  # t = 2 with 80 degrees of freedom
    assert one.p_holm == pytest.approx(3 * 0.048867, abs=3e-4)  # three pairs, not two neighbours
    assert one.significant is False
    assert (one.low_unadjusted, one.high_unadjusted) == pytest.approx((30 - 1.99006 * 15, 30 + 1.99006 * 15), abs=0.01)
    assert one.low is not None
    assert one.low < 0 < one.low_unadjusted  # type: ignore[operator]  # interval and decision are both corrected
    assert one.num_prompts_needed == pytest.approx(81 * (2.80159 * 15 / 30) ** 2, abs=1.0)
    assert compare_all(["a", "b"], [[0, 1]], np.array([1.0, 0.0]), None, None, num)[0].p_value is None


def test_the_sentence_by_hand() -> None:
    points, num = np.array([1030.0, 1000.0, 970.0]), np.array([81, 81, 81])
    errors = np.array([[0.0, 15.0, 100.0], [15.0, 0.0, 100.0], [100.0, 100.0, 0.0]])
    found = compare_all(["a", "b", "c"], [[0, 1, 2]], points, errors, None, num)
    places = {"a": Rank(rank=1, low=1, high=2, best=0.9123)}
    assert [c.p_holm for c in found] == pytest.approx([0.1466, 1.0, 1.0], abs=1e-4)
    # c is the harder to tell: 81 * ((1.960 + 0.842) * 100 / 60) ** 2 = 1767 prompts at 5 %; its p of 0.550 became 1.0,
    # so its level is 2.75 % and takes ((2.204 + 0.842) / 2.802) ** 2 as many
    assert found[1].num_prompts_needed == 1766
    assert prompts_to_decide(found[1]) == pytest.approx(1766 * (3.0457 / 2.8016) ** 2, rel=1e-3)
    assert verdict(["a", "b", "c"], places, found) == (
        "a is best with probability 0.91; it can't be told from c and b (p = 1, corrected by Holm); about "
        f"{prompts_to_decide(found[1]) - 81} more prompts would decide (80 % power, the same correction)"  # type: ignore[operator]
    )
    assert prompts_to_decide(found[0]) == pytest.approx(159 * (3.2355 / 2.8016) ** 2, rel=1e-2)  # level 5 % / 3
    assert [probability(p) for p in (0.999, 0.5, 0.0)] == ["above 0.99", "0.50", "below 0.01"]


def test_the_prompts_said_to_decide_do_decide() -> None:
    """A pair at 59.87 % of wins: with the prompts asked for, four of five simulated tournaments decide."""
    gap, share = 400 * np.log10(0.5987 / 0.4013), 0.5987
    error = POINTS_PER_NAT / np.sqrt(60 * share * (1 - share))
    errors = np.array([[0.0, error], [error, 0.0]])
    (pair,) = compare_all(["a", "b"], [[0, 1]], np.array([gap, 0.0]), errors, None, np.array([60, 60]))
    needed = prompts_to_decide(pair)
    assert needed is not None
    wins = np.random.default_rng(0).binomial(needed, share, 4000)
    decided = np.abs(wins / needed - 0.5) > 1.96 * 0.5 / np.sqrt(needed)
    assert decided.mean() == pytest.approx(0.8, abs=0.03)


def test_no_p_is_below_the_exact_one() -> None:
    assert flip_p(np.ones(5, dtype=np.int64)) == pytest.approx(0.0625)
    assert flip_p(np.array([3, 3, 3, 3, 3, 3, 3, -3])) == pytest.approx(2 * 9 / 256)  # sign test, 7 of 8
    assert flip_p(np.array([1, 2, -1])) == pytest.approx(0.75)  # |sum| of 2 or 4: 6 of the 8 sign patterns
    assert flip_p(np.zeros(4, dtype=np.int64)) == 1.0
    exact = np.full((2, 2), 0.0625)
    (pair,) = compare_all(["a", "b"], [[0, 1]], np.array([9.0, 0.0]), np.full((2, 2), 0.1), exact, np.array([5, 5]))
    assert pair.p_holm == 0.0625
    assert pair.low < 0 < pair.high  # type: ignore[operator]


def test_errors_leave_out_resamples_without_the_system() -> None:
    draws = np.array([[1.0, 5.0], [3.0, np.nan], [5.0, 7.0], [3.0, 6.0]])
    errors = standard_errors(draws, 4)
    assert errors[0, 1] == pytest.approx(np.sqrt(4 / 3) * np.std([4.0, 2.0, 3.0], ddof=1))


def test_a_resample_without_a_system_says_nothing_of_it() -> None:
    cells = cells_of([(0, 0, 1, 2), (1, 0, 1, 0), (2, 0, 2, 2)], 3)
    drawn = fit_resamples(cells, cells.resampled([np.array([2.0, 1.0, 0.0])]), fit(cells, cells.totals()))
    assert np.isnan(drawn[0]).tolist() == [False, False, True]
