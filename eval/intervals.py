"""How sure is a score? 95 % intervals of a proportion and of a mean; no torch.

Sources: Wilson (1927) for proportions; the percentile bootstrap for the rest, over questions, or over the clusters
that they come in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
NUM_RESAMPLES = 1000
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measured value with its 95 % interval; None where it isn't defined on these rows."""

    value: float | None
    ci95: Interval | None


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


def mean_score(clusters: Sequence[Sequence[float]], rng: np.random.Generator) -> Score:
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
    return Score(value=float(sums.sum() / sizes.sum()), ci95=interval)
