"""ECE and Brier score by hand, beside lm-eval's, and their intervals."""

import math

import numpy as np
import pytest

from analysis.tidy.rows import higher_is_better
from eval.benchmarks.mmlu.calibration import NUM_BINS, brier_scores, calibration_of, letter_probabilities


def logprobs(*rows: tuple[float, ...]) -> list[list[float]]:
    """Log-probabilities of letters that have half of the vocabulary's mass together."""
    return [[math.log(0.5 * p) for p in row] for row in rows]


def test_scores_by_hand() -> None:
    sure, unsure = (0.97, 0.01, 0.01, 0.01), (0.4, 0.3, 0.2, 0.1)
    found = calibration_of(logprobs(sure, sure, unsure, unsure), [0, 1, 0, 2])
    assert found.ece == pytest.approx((abs(2 * 0.97 - 1) + abs(2 * 0.4 - 1)) / 4)
    right, wrong = 0.03**2 + 3 * 0.01**2, 0.97**2 + 0.99**2 + 2 * 0.01**2
    one, two = 0.6**2 + 0.3**2 + 0.2**2 + 0.1**2, 0.4**2 + 0.3**2 + 0.8**2 + 0.1**2
    assert found.brier == pytest.approx((right + wrong + one + two) / 4)
    filled = {place: b for place, b in enumerate(found.reliability.bins) if b.n}
    assert {place: (b.n, b.confidence, b.accuracy) for place, b in filled.items()} == {
        5: (2, pytest.approx(0.4), 0.5),  # 0.4 is the upper end of the sixth bin, which it belongs to
        14: (2, pytest.approx(0.97), 0.5),
    }
    assert found.reliability.confidence == pytest.approx(0.685)
    assert len(found.reliability.bins) == found.reliability.num_bins == NUM_BINS


def test_a_perfect_system_is_at_zero_and_a_sure_wrong_one_at_the_worst() -> None:
    sure = [[0.0, -1e3, -1e3, -1e3]] * 5
    assert (calibration_of(sure, [0] * 5).ece, calibration_of(sure, [0] * 5).brier) == (0.0, 0.0)
    assert (calibration_of(sure, [2] * 5).ece, calibration_of(sure, [2] * 5).brier) == (1.0, 2.0)
    assert calibration_of(sure, [0] * 5).ece_ci95 is None


def test_brier_is_lm_evals() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics", reason="needs the `tasks` extra (lm-eval)")
    rng = np.random.default_rng(1)
    probs = letter_probabilities(rng.normal(0, 2, (40, 4)).tolist())
    answers = rng.integers(0, 4, 40).tolist()
    expected = metrics.brier_score(list(zip(answers, probs.tolist(), strict=True)))
    assert brier_scores(probs, answers).mean() == pytest.approx(expected)


def test_the_interval_covers_a_systems_own_error() -> None:
    """Twice as sure as it should be: ECE of the whole population is 0.159."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (800, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = (probs.cumsum(axis=1) > rng.random((800, 1))).argmax(axis=1)
    found = calibration_of((2 * logits).tolist(), answers.tolist())
    assert found.ece_ci95 is not None
    assert found.ece_ci95[0] < 0.159 < found.ece_ci95[1]
    assert found.brier_ci95 is not None
    assert found.brier_ci95[0] < found.brier < found.brier_ci95[1]
    assert found == calibration_of((2 * logits).tolist(), answers.tolist())


def test_less_error_is_better() -> None:
    assert [higher_is_better("mmlu", metric) for metric in ("accuracy_macro", "ece", "brier")] == [True, False, False]
