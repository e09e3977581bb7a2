"""Statistics against values by hand: which share an interval leaves out, what is corrected, what is drawn."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, t

from eval.benchmarks.intervals import percentile_interval
from eval.ratings import rate as rating
from eval.ratings.comparisons import compare_all, holm, ranks, two_sided_p
from eval.ratings.elo import elo_drawn, elo_over_prompts, ordering_interval
from eval.ratings.intervals import clopper_pearson_interval, clustered_interval, ratio_interval, student_t
from eval.ratings.rate import RateOptions, rate_files
from eval.ratings.style import _estimate
from eval.verdicts.table import Matches, load_verdicts, to_matches

HUNDRED = np.arange(101.0)  # resamples whose percentiles are their own numbers


def test_95_percent_intervals_leave_out_two_and_a_half_on_either_side() -> None:
    assert student_t(11) == pytest.approx(t.ppf(0.975, 10))
    assert clopper_pearson_interval(3, 10) == pytest.approx((beta.ppf(0.025, 3, 8), beta.ppf(0.975, 4, 7)))
    assert percentile_interval(HUNDRED) == pytest.approx((2.5, 97.5))
    half = t.ppf(0.975, 8) * HUNDRED.std(ddof=1) * math.sqrt(9 / 8)  # nine prompts
    found = _estimate(np.array([50.0, *HUNDRED]), num_prompts=9, least_error=0.0)
    assert (found.low, found.high) == pytest.approx((50 - half, 50 + half))
    assert _estimate(np.array([0.0, *HUNDRED]), 9, least_error=100.0).high == pytest.approx(t.ppf(0.975, 8) * 100)
    mean, sd, low, high = ordering_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (mean, sd) == pytest.approx((2.5, math.sqrt(5 / 3)))
    assert (high - low) / 2 == pytest.approx(1.96 * sd / 2)  # type: ignore[operator]


def test_a_share_over_clusters_by_hand() -> None:
    """3 of 4 questions: variance 1/16, so 3 effective ones, times (z / t with 3 degrees of freedom) squared."""
    effective = 3 * (1.959964 / t.ppf(0.975, 3)) ** 2
    found = clustered_interval(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4))
    assert found == pytest.approx(clopper_pearson_interval(0.75 * effective, effective), rel=1e-6)


def test_elos_interval_over_prompts_is_students_of_its_resamples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text("question_id,system_a,system_b,verdict\n1,a,b,1\n1,b,a,2\n2,a,b,1\n2,b,a,1\n")
    far = 1000 * HUNDRED  # further apart than any least error
    monkeypatch.setattr(rating, "elo_over_prompts", lambda *_, **__: np.column_stack([far, -far]))
    for found in rate_files([path], RateOptions(orderings=10, resamples=50)).elo.values():
        half = t.ppf(0.975, 1) * far.std(ddof=1) * math.sqrt(2)  # two prompts
        assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_a_rank_leaves_out_what_few_resamples_say() -> None:
    """Two systems that change places in 2 of 100 resamples are apart at 95 %; in 4 of 100 they are not, but at 90 %."""
    for num_changed, high in ((2, 1), (4, 2)):
        draws = np.tile([10.0, -10.0], (100, 1))
        draws[:num_changed] = [-10.0, 10.0]
        found = ranks(["a", "b"], [[0, 1]], np.array([1.0, 0.0]), draws, num_prompts=10_000)
        assert (found["a"].rank, found["a"].low, found["a"].high) == (1, 1, high)
        assert found["a"].best == pytest.approx((100 - num_changed + 1 / 2) / 101)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


def test_every_pair_is_corrected_neighbours_too() -> None:
    points, errors = np.array([30.0, 10.0, 0.0]), np.full((3, 3), 8.0)
    found = compare_all(["a", "b", "c"], [[0, 1, 2]], points, errors, None, np.array([40, 40, 20]))
    expected = [two_sided_p(20, 8, 39), two_sided_p(30, 8, 19), two_sided_p(10, 8, 19)]
    assert [(c.higher, c.lower) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [c.p_value for c in found] == pytest.approx(expected)
    ordered = sorted(expected)
    corrected = [min(1.0, max((3 - j) * ordered[j] for j in range(ordered.index(p) + 1))) for p in expected]
    assert [c.p_holm for c in found] == pytest.approx(corrected)
    assert all(c.p_holm > c.p_value for c in found[:2] if c.p_holm and c.p_value)


def test_the_reference_moves_the_interval_of_a_relative_score() -> None:
    candidate, reference = np.array([6.0, 6.0, 6.0, 6.0]), np.array([8.0, 4.0, 10.0, 2.0])
    found = ratio_interval(candidate, reference)
    assert found is not None
    errors = candidate - reference  # the ratio is 1
    half = t.ppf(0.975, 3) * math.sqrt((errors**2).sum() * 4 / 3) / 24
    assert found == pytest.approx((1 - half, 1 + half))


def matches(*rows: tuple[int, int, int, int]) -> Matches:
    question, first, second, points = (np.array(column) for column in zip(*rows, strict=True))
    return Matches(
        question=question.astype(np.int32),
        first=first.astype(np.int32),
        second=second.astype(np.int32),
        half_points=points.astype(np.int8),
    )


def test_a_sample_of_one_match_moves_each_side_by_half_of_k() -> None:
    played = matches(*((question, 0, 1, 2) for question in range(6)))
    one = elo_drawn(played, 2, 5, np.random.default_rng(0), sample_size=1)
    assert one == pytest.approx(np.tile([1016.0, 984.0], (5, 1)))
    assert elo_drawn(played, 2, 5, np.random.default_rng(0))[:, 0].min() > 1060
    resamples = [np.array([0, 1, 2, 2, 4, 5]), np.array([1, 1, 1, 2, 3, 3])]
    over = elo_over_prompts(played, 2, iter(resamples), np.random.default_rng(0), sample_size=1)
    assert over == pytest.approx(np.tile([1016.0, 984.0], (2, 1)))


def test_rate_hands_the_sample_on(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text("question_id,system_a,system_b,verdict\n" + "".join(f"{n},a,b,1\n" for n in range(6)))
    elo = rate_files([path], RateOptions(orderings=10, resamples=50, sample_size=1)).elo
    assert elo["a"].mean == pytest.approx(1016.0)


def test_a_majority_is_taken_for_each_judge_apart(tmp_path: Path) -> None:
    """Two of three raters of one judge say a, all of the other's say b: two matches, not a majority of five votes."""
    votes = [("one", "1"), ("one", "1"), ("one", "2"), ("two", "2"), ("two", "2")]
    path = tmp_path / "votes.csv"
    rows = "".join(f"1,a,b,{verdict},{judge},r{n}\n" for n, (judge, verdict) in enumerate(votes))
    path.write_text("question_id,system_a,system_b,verdict,judge,rater\n" + rows)
    found = to_matches(load_verdicts([path]))
    assert sorted(found.half_points.tolist()) == [0, 2]
