"""The mean of values that cross runs with questions, and how far other seeds and other questions would move it.

Every run of a setting (a seed) answers the same questions, so a value has two sources of chance, and both count:
value = mean + run + question + rest, all random. The variance of the mean is estimated as in studies where several
readers read the same cases, which have this design, by the mean squares of the two-way analysis of variance:

    of runs        MS_run / (num_runs * num_questions)                           num_runs - 1 degrees of freedom
    of questions   max(MS_question - MS_rest, 0) / (num_runs * num_questions)    num_questions - 1

and the half width of an interval is sqrt(sum of t^2 * variance), each part with its own Student's t. That holds its
level with two seeds too, where Satterthwaite's degrees of freedom cover 89 to 93 % (tests/unit/analysis/effects tries
it). With one run the interval is over questions alone, with one question over runs alone; the result says so.

Sources: Obuchowski & Rockette 1995 (Communications in Statistics 24) and Hillis 2007 (Statistics in Medicine 26) for
the mean squares; Banerjee 1960 (Sankhya 22: 357-358) for the half width. Weighted means (nats a token, of documents of
different lengths) are linearised first: Cochran 1977, chapter 6.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
LEVEL = 0.05
_ROUNDING = 1e-12  # of the largest value: errors below are rounding
_SMALLEST_LOG_P = -300.0

ALL_EQUAL = "all values are equal: nothing to measure an error by"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One source of chance."""

    variance: float  # that it gives the mean
    freedom: int  # degrees of freedom of its estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossedMean:
    """A mean over runs and questions. Without `parts` nothing measures its error, and `note` says why."""

    mean: float
    parts: tuple[Part, ...]
    sd_runs: float | None  # standard deviation between the runs' own means; None of a single run
    num_runs: int
    num_questions: int
    note: str = ""  # what the interval leaves out, or why there is none

    @property
    def error(self) -> float | None:
        """The standard error; None where nothing measures it."""
        return math.sqrt(math.fsum(part.variance for part in self.parts)) if self.parts else None

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The interval of confidence 1 - level; None where nothing measures an error."""
        if not self.parts:
            return None
        half = self._half_width(level / 2.0)
        return self.mean - half, self.mean + half

    def p_two_sided(self) -> float | None:
        """The p of the hypothesis that the mean is 0: the level at which the interval ends there."""
        return None if not self.parts else min(1.0, 2.0 * self._tail(self.mean))

    def p_above(self, bound: float) -> float | None:
        """The one-sided p of the hypothesis that the mean is at most `bound`, against its being above."""
        if not self.parts:
            return None
        tail = self._tail(self.mean - bound)
        return tail if self.mean > bound else 1.0 - tail

    def _half_width(self, tail: float) -> float:
        return math.sqrt(math.fsum(part.variance * float(stdtrit(part.freedom, tail)) ** 2 for part in self.parts))

    def _tail(self, distance: float) -> float:
        """The one-sided level whose half width is the distance: 0.5 at 0."""
        distance = abs(distance)
        if len(self.parts) == 1:
            return float(stdtr(self.parts[0].freedom, -distance / math.sqrt(self.parts[0].variance)))
        if distance == 0.0 or self._half_width(math.exp(_SMALLEST_LOG_P)) <= distance:
            return 0.5 if distance == 0.0 else math.exp(_SMALLEST_LOG_P)
        end = math.log(0.5)
        return math.exp(brentq(lambda log_p: self._half_width(math.exp(log_p)) - distance, _SMALLEST_LOG_P, end))


def crossed_mean(
    values: Array, weights: Array | None = None, rows: str = "run", run_weights: Array | None = None
) -> CrossedMean:
    """The mean of a complete table.

    Args:
        values: (num_runs, num_questions), no NaN.
        weights: (num_questions,) above 0, of each question in the mean; None: all alike.
        rows: what the note calls a row: a run, or a pair of them.
        run_weights: (num_runs,) above 0, of each run in the mean; None: all alike.

    Raises:
        ValueError: an empty table, or one with a hole.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape}: expected runs x questions without holes")
    values = linearised(values, weights)
    sd_runs = float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 else None
    values = linearised(values, None if run_weights is None else run_weights[:, None])
    runs = values.mean(axis=1)
    parts, note = _parts(values, rows)
    scale = float(np.abs(values).max())
    if parts and math.fsum(part.variance for part in parts) <= (_ROUNDING * scale) ** 2:
        parts, note = (), ALL_EQUAL
    return CrossedMean(
        mean=math.fsum(runs) / len(runs),
        parts=tuple(part for part in parts if part.variance > 0.0),
        sd_runs=sd_runs,
        num_runs=values.shape[0],
        num_questions=values.shape[1],
        note=note,
    )


def linearised(values: Array, weights: Array | None) -> Array:
    """Values whose plain mean is the weighted mean, and whose spread is that of the weighted mean.

    Args:
        values: (num_runs, num_questions).
        weights: (num_questions,), or (num_runs, 1) of the runs; None: all alike.
    """
    if weights is None:
        return values
    share = weights / weights.mean()
    mean = float((values * share).mean())
    return np.asarray(mean + share * (values - mean))


def _parts(values: Array, rows: str) -> tuple[tuple[Part, ...], str]:
    """-> (the sources of chance that can be measured, what can't)"""
    num_runs, num_questions = values.shape
    if values.size == 1:
        return (), f"one {rows} with one value: no interval"
    if num_runs == 1 or num_questions == 1:
        alone = Part(variance=float(values.var(ddof=1)) / values.size, freedom=values.size - 1)
        return (alone,), f"one {rows}: the interval is over questions, not over seeds" if num_runs == 1 else ""
    runs, questions = values.mean(axis=1), values.mean(axis=0)
    rest = values - runs[:, None] - questions + values.mean()
    ms_rest = float((rest**2).sum()) / ((num_runs - 1) * (num_questions - 1))
    ms_runs = num_questions * float(runs.var(ddof=1))
    ms_questions = num_runs * float(questions.var(ddof=1))
    of_runs = Part(variance=ms_runs / values.size, freedom=num_runs - 1)
    of_questions = Part(variance=max(ms_questions - ms_rest, 0.0) / values.size, freedom=num_questions - 1)
    return (of_runs, of_questions), ""
