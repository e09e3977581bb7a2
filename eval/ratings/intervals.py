"""Computes 95 % intervals of shares and ratios over clusters of questions, exact where few or all agree.

Sources: Clopper & Pearson (1934); Korn & Graubard (1998, Survey Methodology 24) for shares of questions that come in
clusters: the exact interval at the effective sample size; Student's t on a linearised ratio (Cochran 1977, chapter 6).
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from harness.runs.estimate import Interval

Z_95 = 1.959963984540054


def student_t(num_clusters: int) -> float:
    """Half width of a two-sided 95 % interval in standard errors that `num_clusters` (2 up) clusters gave."""
    return float(stdtrit(num_clusters - 1, 0.975))


def resampled_error(draws: NDArray[np.float64], num_clusters: int) -> float:
    """Standard error from a bootstrap of `num_clusters` (2 up), without its bias.

    Resamples of NaN are left out; NaN where fewer than two are left.
    """
    known = draws[np.isfinite(draws)]
    if len(known) < 2:
        return math.nan
    return float(known.std(ddof=1)) * math.sqrt(num_clusters / (num_clusters - 1))


def clopper_pearson_interval(num_correct: float, n: float) -> Interval:
    """The exact interval of a proportion; fractions are allowed, as effective sample sizes have them."""
    low = 0.0 if num_correct <= 0 else float(betaincinv(num_correct, n - num_correct + 1, 0.025))
    high = 1.0 if num_correct >= n else float(betaincinv(num_correct + 1, n - num_correct, 0.975))
    return low, high


def clustered_interval(hits: NDArray[np.float64], sizes: NDArray[np.float64]) -> Interval | None:
    """The interval of sum(hits) / sum(sizes) over clusters, by Korn & Graubard. None for a single cluster.

    Clusters that all agree count one each, however large.

    Args:
        hits: one a cluster, [C].
        sizes: one a cluster, each above 0, [C].
    """
    order = np.lexsort((hits, sizes))  # sums are the same to the last digit in any order of the rows
    hits, sizes = np.asarray(hits, dtype=np.float64)[order], np.asarray(sizes, dtype=np.float64)[order]
    num, total = len(sizes), float(sizes.sum())
    if num < 2:
        return None
    share = float(hits.sum()) / total
    variance = float(((hits - share * sizes) ** 2).sum()) / total**2 * num / (num - 1)
    effective = float(num)
    if variance > 1e-15:
        effective = min(total, share * (1 - share) / variance * (Z_95 / student_t(num)) ** 2)
    return clopper_pearson_interval(share * effective, effective)


def ratio_interval(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> Interval | None:
    """The interval of a ratio of sums over documents: t on the linearised ratio. None for a single document.

    Args:
        numerators: one a document, [D].
        denominators: one a document, [D].
    """
    num = len(numerators)
    total = math.fsum(denominators)
    if num < 2 or total <= 0:
        return None
    ratio = math.fsum(numerators) / total
    errors = numerators - ratio * denominators
    half = student_t(num) * math.sqrt(math.fsum(errors**2) * num / (num - 1)) / total
    return (ratio - half, ratio + half) if half > 1e-12 * max(1.0, abs(ratio)) else None
