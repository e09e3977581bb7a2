"""The mean over runs and questions: by hand, against scipy, and how often its interval holds the truth."""

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.effects.crossed import ALL_EQUAL, crossed_mean


def test_mean_squares_by_hand() -> None:
    """Two runs, two questions: 1 3 / 2 8. Runs 2 and 5, questions 1.5 and 5.5, mean 3.5."""
    found = crossed_mean(np.array([[1.0, 3.0], [2.0, 8.0]]))
    assert found.mean == 3.5
    assert found.sd_runs == pytest.approx(math.sqrt(4.5))
    # MS_run = 2 * 4.5 = 9, MS_question = 2 * 8 = 16, MS_rest = 4 * 1^2 = 4
    assert [(part.variance, part.freedom) for part in found.parts] == [(9 / 4, 1), (12 / 4, 1)]
    half = stats.t.ppf(0.975, 1) * math.sqrt(9 / 4 + 12 / 4)
    assert found.interval() == pytest.approx((3.5 - half, 3.5 + half))


@pytest.mark.parametrize("shape", [(1, 12), (5, 1)])
def test_one_source_of_chance_is_scipys_t_test(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(3).normal(0.4, 1.0, shape)
    found, scipys = crossed_mean(values), stats.ttest_1samp(values.ravel(), 0.0)
    assert found.p_two_sided() == pytest.approx(scipys.pvalue)
    assert found.interval() == pytest.approx(tuple(scipys.confidence_interval(0.95)))
    assert found.p_above(0.1) == pytest.approx(stats.ttest_1samp(values.ravel(), 0.1, alternative="greater").pvalue)


def test_p_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    found = crossed_mean(np.random.default_rng(2).normal(0.8, 1.0, (4, 15)) + np.arange(15) / 10)
    assert len(found.parts) == 2
    p_value = found.p_two_sided()
    assert p_value is not None
    interval = found.interval(p_value)
    assert interval is not None
    assert interval[0] == pytest.approx(0.0, abs=1e-9)


def test_weights_give_the_ratio_of_sums() -> None:
    """Nats a token of two documents of 10 and 30 tokens."""
    found = crossed_mean(np.array([[2.0, 1.0], [2.2, 1.0]]), weights=np.array([10.0, 30.0]))
    assert found.mean == pytest.approx(((20 + 30) / 40 + (22 + 30) / 40) / 2)
    assert found.sd_runs == pytest.approx(np.std([50 / 40, 52 / 40], ddof=1))


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([[2.0, 2.0], [2.0, 2.0]], ALL_EQUAL),
        ([[0.1 + 0.2, 0.3]], ALL_EQUAL),  # equal but for rounding
        ([[1.0]], "one run with one value: no interval"),
    ],
)
def test_no_interval_has_width_zero(values: list[list[float]], note: str) -> None:
    found = crossed_mean(np.array(values))
    assert found.note == note
    assert (found.interval(), found.error, found.p_two_sided(), found.p_above(0.0)) == (None, None, None, None)


def test_a_single_run_says_what_it_leaves_out() -> None:
    found = crossed_mean(np.array([[0.0, 1.0, 1.0]]))
    assert "over questions, not over seeds" in found.note
    assert (found.sd_runs, found.num_runs, found.num_questions) == (None, 1, 3)


def test_a_hole_is_refused() -> None:
    with pytest.raises(ValueError, match="without holes"):
        crossed_mean(np.array([[1.0, np.nan]]))


@pytest.mark.parametrize(
    ("num_runs", "num_questions", "spreads"),
    [(2, 40, (0.3, 1.0, 1.0)), (2, 30, (0.0, 0.0, 1.0)), (3, 60, (0.05, 0.5, 1.0)), (5, 10, (1.0, 0.2, 0.5))],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(
    num_runs: int, num_questions: int, spreads: tuple[float, float, float]
) -> None:
    """Seeded. Satterthwaite's degrees of freedom hold it in 89 to 93 % of the first three."""
    rng, held, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        values = spreads[0] * rng.normal(size=(num_runs, 1)) + spreads[1] * rng.normal(size=(1, num_questions))
        interval = crossed_mean(values + spreads[2] * rng.normal(size=(num_runs, num_questions))).interval()
        assert interval is not None
        held += interval[0] <= 0.0 <= interval[1]
    assert 0.94 <= held / trials <= 0.995


def test_tails_of_two_sources_of_chance_at_zero_and_far_out() -> None:
    found = crossed_mean(np.random.default_rng(2).normal(0.8, 1.0, (4, 15)) + np.arange(15) / 10)
    assert found.p_above(found.mean) == 0.5
    far = found.p_above(-1e300)
    assert far is not None
    assert far == pytest.approx(math.exp(-300))  # the smallest that is told
    above, below = found.p_above(0.5), found.p_above(2.0)
    assert above is not None
    assert below is not None
    assert above < 0.5 < below
    interval = found.interval(2 * above)
    assert interval is not None
    assert interval[0] == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 3)), np.array([[1.0, np.inf]]), np.zeros((1, 1, 1))])
def test_what_is_no_complete_table_is_refused_with_its_shape(values: "np.ndarray[Any, Any]") -> None:
    with pytest.raises(ValueError, match=re.escape(f"values of shape {values.shape}: expected runs x questions")):
        crossed_mean(values)
