"""Computes 95 % intervals of proportions and means.

Sources: Wilson (1927) for proportions; MOVER (Zou & Donner 2008, Statistics in Medicine 27) for a mean of proportions;
Student's t for other means, over questions or over the clusters that they come in (Cochran 1977, chapter 6); the
percentile bootstrap for the rest. None of them has width 0: where values that all agree leave nothing to measure an
error by, there is no interval.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.ratings.intervals import Z_95, ratio_interval, student_t
from harness.runs.estimate import Estimate, Interval

NUM_RESAMPLES = 1000


def wilson_interval(num_correct: int, n: int) -> Interval:
    """The interval of a proportion."""
    p, z2 = num_correct / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def percentile_interval(draws: NDArray[np.float64]) -> Interval | None:
    """The interval of resampled values without NaN; None if no value is left or all agree."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return (float(low), float(high)) if low < high else None


def stratified_interval(counts: Sequence[tuple[int, int]]) -> Interval:
    """The interval of the mean proportion of several strata (correct, n), by MOVER on Wilson intervals."""
    shares = [correct / n for correct, n in counts]
    bounds = [wilson_interval(correct, n) for correct, n in counts]
    mean = math.fsum(shares) / len(counts)
    below = math.sqrt(math.fsum((p - low) ** 2 for p, (low, _) in zip(shares, bounds, strict=True))) / len(counts)
    above = math.sqrt(math.fsum((high - p) ** 2 for p, (_, high) in zip(shares, bounds, strict=True))) / len(counts)
    return max(0.0, mean - below), min(1.0, mean + above)


def mean_score(clusters: Sequence[Sequence[float]]) -> Estimate:
    """Mean over all values, its interval over whole clusters (Student's t, linearised); of one cluster, its values.

    Args:
        clusters: values of each cluster, none empty.
    """
    if len(clusters) == 1:
        clusters = [[value] for value in clusters[0]]
    sums = np.array([math.fsum(cluster) for cluster in clusters])
    sizes = np.array([float(len(cluster)) for cluster in clusters])
    return Estimate.of(math.fsum(sums) / math.fsum(sizes), ratio_interval(sums, sizes))


def mean_share(clusters: Sequence[Sequence[float]]) -> Estimate:
    """`mean_score` of values from 0 to 1, whose mean is nowhere else: of few, Student's t reaches beyond."""
    found = mean_score(clusters)
    bounds = None if found.ci95 is None else (max(0.0, found.ci95[0]), min(1.0, found.ci95[1]))
    return Estimate.of(found.value, bounds, found.n)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The interval of a mean of independent values: Wilson's if all are 0 or 1, else Student's t.

    None for a single value that isn't 0 or 1, or if all such values agree.
    """
    n = len(values)
    if set(values) <= {0.0, 1.0}:
        return wilson_interval(int(sum(values)), n)
    if n < 2:
        return None
    mean, half = float(np.mean(values)), student_t(n) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return (mean - half, mean + half) if half > 0 else None
