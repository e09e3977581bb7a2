"""How sure is a mean? 95 % intervals of accuracies, of means and of perplexities. No torch.

Wilson for proportions; normal for means of numbers; for ratios of sums (a perplexity is one) a bootstrap
over documents, because the tokens of one document are no independent draws.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
Interval = tuple[float, float]


def wilson_ci95(num_correct: float, n: int) -> Interval:
    """Of `num_correct` of `n`, within [0, 1]."""
    p, z2 = num_correct / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_ci95(values: Sequence[float]) -> Interval | None:
    """Of a mean of numbers; Wilson's where all of them are 0 or 1. None for a single one: it says nothing of spread."""
    n = len(values)
    if set(values) <= {0.0, 1.0}:
        return wilson_ci95(sum(values), n)
    if n < 2:
        return None
    mean, half = float(np.mean(values)), Z_95 * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def ratio_ci95(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int = 1000,
) -> Interval | None:
    """Of a ratio of sums over documents, from their resamples. None for a single document.

    Args:
        numerators: one a document, [D].
        denominators: one a document, [D]; their sum is above 0.
    """
    num_documents = len(numerators)
    if num_documents < 2:
        return None
    ratios = np.empty(resamples)
    for draw in range(resamples):
        chosen = rng.integers(0, num_documents, num_documents)
        ratios[draw] = numerators[chosen].sum() / max(denominators[chosen].sum(), 1e-9)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)
