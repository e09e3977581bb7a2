"""How sure is a score? 95 % intervals of a proportion and of a mean; no torch.

Sources: Wilson (1927) for proportions; the percentile bootstrap for the rest, over questions, or over the clusters
that they come in.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.runs.estimate import Estimate, Interval

Z_95 = 1.959963984540054
NUM_RESAMPLES = 1000
_BLOCK = 50  # resamples at once


def wilson_interval(num_correct: int, n: int) -> Interval:
    """Of a proportion."""
    p, z2 = num_correct / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def percentile_interval(draws: NDArray[np.float64]) -> Interval | None:
    """Of resampled values; those that aren't defined (NaN) are left out. None where nothing is left."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def mean_score(clusters: Sequence[Sequence[float]], rng: np.random.Generator) -> Estimate:
    """Mean over all values, its interval by resampling whole clusters; of a single cluster, its values.

    Args:
        clusters: values of each cluster, none empty.
        rng: draws the resamples.
    """
    if len(clusters) == 1:
        clusters = [[value] for value in clusters[0]]
    sums, sizes = np.array([sum(c) for c in clusters]), np.array([len(c) for c in clusters])
    weights = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=NUM_RESAMPLES)
    interval = percentile_interval((weights @ sums) / (weights @ sizes)) if len(clusters) > 1 else None
    return Estimate.of(float(sums.sum() / sizes.sum()), interval)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Of a mean of independent values: Wilson's where all are 0 or 1, else normal. None for one that isn't."""
    n = len(values)
    if set(values) <= {0.0, 1.0}:
        return wilson_interval(int(sum(values)), n)
    if n < 2:
        return None
    mean, half = float(np.mean(values)), Z_95 * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def ratio_interval(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], rng: np.random.Generator
) -> Interval | None:
    """Of a ratio of sums over documents (a perplexity's exponent), by resampling them. None for a single one.

    Args:
        numerators: one a document, [D].
        denominators: one a document, [D].
        rng: draws the resamples.
    """
    num_documents = len(numerators)
    if num_documents < 2:
        return None
    draws = []
    for _ in range(NUM_RESAMPLES // _BLOCK):  # all at once would take gigabytes for a large set
        weights = rng.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=_BLOCK)
        sums = weights @ denominators
        draws.append((weights @ numerators)[sums > 0] / sums[sums > 0])
    return percentile_interval(np.concatenate(draws))
