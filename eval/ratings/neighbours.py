"""Is a system really above the next one, and how many prompts would it take to tell?

Used by `python -m eval rate`. The test is a normal one on the difference of two Bradley-Terry ratings with the
bootstrap's standard error (clustered by prompt, both systems on the same resample), corrected for the number of
neighbouring pairs by Holm (1979). Needed prompts are for 80 % power at the two-sided 5 % level, uncorrected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, erfc, sqrt

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
Z_LEVEL_PLUS_POWER = 1.959964 + 0.841621


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourPair:
    """Two systems next to each other in the ranking; differences in points. None where there is one prompt only."""

    higher: str
    lower: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    significant: bool | None  # p_holm < 0.05
    num_prompts: int
    num_prompts_needed: int | None  # in all, to tell a difference of this size; None where it is zero


def compare_neighbours(
    names: Sequence[str],
    rankings: Sequence[Sequence[int]],
    points: NDArray[np.float64],
    resamples: NDArray[np.float64] | None,
    num_prompts: int,
) -> list[NeighbourPair]:
    """Test each system against the next.

    Args:
        names: Of the systems.
        rankings: For each connected group, its systems from best to worst.
        points: (num_systems,) ratings.
        resamples: (num_resamples, num_systems) ratings, or None.
        num_prompts: Prompts that the ratings rest on.
    """
    pairs = [(one, two) for ranking in rankings for one, two in pairwise(ranking)]
    tests = [
        _test(float(points[a] - points[b]), None if resamples is None else resamples[:, a] - resamples[:, b])
        for a, b in pairs
    ]
    adjusted = holm([p for _, p, _, _ in tests if p is not None])
    corrected = iter(adjusted)
    found = []
    for (a, b), (error, p, low, high) in zip(pairs, tests, strict=True):
        p_holm = None if p is None else next(corrected)
        difference = float(points[a] - points[b])
        needed = None
        if error is not None and difference > 0:
            needed = max(2, ceil(num_prompts * (Z_LEVEL_PLUS_POWER * error / difference) ** 2))
        found.append(
            NeighbourPair(
                higher=names[a],
                lower=names[b],
                difference=difference,
                low=low,
                high=high,
                p_value=p,
                p_holm=p_holm,
                significant=None if p_holm is None else p_holm < LEVEL,
                num_prompts=num_prompts,
                num_prompts_needed=needed,
            )
        )
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def _test(
    difference: float, draws: NDArray[np.float64] | None
) -> tuple[float | None, float | None, float | None, float | None]:
    """(standard error, p, low, high)."""
    if draws is None:
        return None, None, None, None
    error = float(draws.std(ddof=1))
    low, high = (float(bound) for bound in np.percentile(draws, [2.5, 97.5]))
    if error <= 1e-9 * max(1.0, abs(difference)):  # every resample says the same: nothing to test against
        return None, None, low, high
    return error, erfc(abs(difference) / error / sqrt(2.0)), low, high
