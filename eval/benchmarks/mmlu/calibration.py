"""How far a system's probabilities are to be believed: expected calibration error and Brier score.

Probabilities are those of the four letters, each over their sum. ECE: Guo et al. 2017 (arXiv 1706.04599), equation 5,
with its 15 bins of equal width over the probability of the chosen letter: the mean over questions of the distance, in
each bin, between how sure the system was and how often it was right. Brier (1950), in its form for several classes as
in lm-eval's `brier_score`: the squared distance of the probabilities from the right answer, summed over the letters; 0
is perfect, 0.75 says 1/4 of each, 2 is sure and wrong. The intervals are bootstraps over questions: percentiles for
Brier; for ECE, which resampling makes larger, the basic bootstrap (Davison and Hinkley 1997, section 5.2), not below 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.intervals import NUM_RESAMPLES, percentile_interval
from harness.runs.estimate import Interval

NUM_BINS = 15
_AT_ONCE = 2_000_000  # counts in memory while questions are resampled
_Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """The questions whose chosen letter has a probability within a bin."""

    low: float  # the bin is above it, and up to `high`
    high: float
    n: int
    confidence: float | None  # mean probability of the chosen letter; None: no question
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What ECE is made of: a reliability diagram."""

    confidence: float  # mean probability of the chosen letter: above the accuracy, it is overconfident
    num_bins: int
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """ECE and Brier score with 95 % intervals."""

    ece: float
    ece_ci95: Interval | None
    brier: float
    brier_ci95: Interval | None
    reliability: Reliability


def letter_probabilities(logprobs: Sequence[Sequence[float]]) -> _Numbers:
    """[N, letters] log-probabilities over the whole vocabulary -> probabilities, each row summing to 1."""
    scores_NL = np.asarray(logprobs, dtype=np.float64)
    probs_NL = np.exp(scores_NL - scores_NL.max(axis=1, keepdims=True))
    found: _Numbers = probs_NL / probs_NL.sum(axis=1, keepdims=True)
    return found


def brier_scores(probs_NL: _Numbers, answers: Sequence[int]) -> _Numbers:
    """-> each question's squared distance from the right answer, [N]."""
    found: _Numbers = ((probs_NL - np.eye(probs_NL.shape[1])[np.asarray(answers)]) ** 2).sum(axis=1)
    return found


def calibration_of(logprobs: Sequence[Sequence[float]], answers: Sequence[int], seed: int = 0) -> Calibration:
    """Measures the calibration of choices.

    Args:
        logprobs: of the letters, [N][letters], at least one question.
        answers: the right letters' places.
        seed: of the resamples.
    """
    probs_NL = letter_probabilities(logprobs)
    confidence_N = probs_NL.max(axis=1)
    correct_N = (probs_NL.argmax(axis=1) == np.asarray(answers)).astype(np.float64)
    bin_N = np.clip(np.ceil(confidence_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    gaps_NB = np.zeros((len(bin_N), NUM_BINS))
    gaps_NB[np.arange(len(bin_N)), bin_N] = confidence_N - correct_N
    brier_N = brier_scores(probs_NL, answers)
    ece = float(np.abs(gaps_NB.sum(axis=0)).sum() / len(bin_N))
    ece_R, brier_R = _resampled(gaps_NB, brier_N, np.random.default_rng(seed))
    return Calibration(
        ece=ece,
        ece_ci95=_basic_interval(ece, ece_R),
        brier=float(brier_N.mean()),
        brier_ci95=percentile_interval(brier_R),
        reliability=Reliability(
            confidence=float(confidence_N.mean()),
            num_bins=NUM_BINS,
            bins=tuple(_bin(place, bin_N == place, confidence_N, correct_N) for place in range(NUM_BINS)),
        ),
    )


def _resampled(gaps_NB: _Numbers, brier_N: _Numbers, rng: np.random.Generator) -> tuple[_Numbers, _Numbers]:
    """ECE and Brier score of `NUM_RESAMPLES` draws of as many questions."""
    n = len(brier_N)
    values_NK = np.concatenate([gaps_NB, brier_N[:, None]], axis=1)
    sums: list[_Numbers] = []
    done = 0
    while done < NUM_RESAMPLES:
        count = min(NUM_RESAMPLES - done, max(1, _AT_ONCE // n))
        sums.append(rng.multinomial(n, np.full(n, 1 / n), size=count) @ values_NK)
        done += count
    sums_RK = np.concatenate(sums) / n
    return np.abs(sums_RK[:, :-1]).sum(axis=1), sums_RK[:, -1]


def _basic_interval(value: float, draws: _Numbers) -> Interval | None:
    found = percentile_interval(draws)
    return None if found is None else (max(0.0, 2 * value - found[1]), max(0.0, 2 * value - found[0]))


def _bin(place: int, is_in_N: NDArray[np.bool_], confidence_N: _Numbers, correct_N: _Numbers) -> CalibrationBin:
    n = int(is_in_N.sum())
    return CalibrationBin(
        low=place / NUM_BINS,
        high=(place + 1) / NUM_BINS,
        n=n,
        confidence=float(confidence_N[is_in_N].mean()) if n else None,
        accuracy=float(correct_N[is_in_N].mean()) if n else None,
    )
