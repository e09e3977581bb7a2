"""Tests all pairs of systems, ranks systems with intervals, and says in a sentence which is best.

Used by `python -m eval rate`. The test of a pair is Student's t on the difference of two Bradley-Terry ratings, with
the bootstrap's standard error (clustered by prompt, both systems on the same resample; degrees of freedom: prompts of
the system that has fewer, less one). Its p is never below that of the exact sign-flip permutation test (Fisher 1935)
over prompts, which is the sign test where two systems meet once a prompt; nor, where two systems have few matches
alike, below 2 ** (1 - prompts), the least that any such test gives. p_holm is corrected for all pairs by Holm
(1979); the interval `low` to `high` is at Holm's level for that pair, by inverting the p (Altman & Bland 2011, BMJ
343), so that it leaves 0 out exactly where p_holm is below 0.05. Needed prompts are for 80 % power at the 5 % level,
uncorrected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, erfc, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from eval.ratings.intervals import Z_95, student_t
from eval.verdicts.table import Matches

LEVEL = 0.05
Z_LEVEL, Z_POWER = 1.959964, 0.841621
MAX_NAMED = 3  # systems in the sentence
MAX_EXACT_STEPS = 4_000  # of a permutation distribution; above, it is normal to all digits that matter
MAX_SCORES = 1 << 24
METHOD = (
    "differences of Bradley-Terry ratings; Student's t with a bootstrap clustered by prompt, p at least that of "
    "an exact sign-flip test over prompts; p_holm and the intervals low to high are corrected for all pairs by "
    "Holm (1979), low_unadjusted to high_unadjusted and p_value are not"
)
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference of two systems, in points. What needs several prompts is None with a single one."""

    higher: str
    lower: str
    difference: float
    low: float | None  # at Holm's level: leaves 0 out exactly where `significant`
    high: float | None
    low_unadjusted: float | None
    high_unadjusted: float | None
    p_value: float | None
    p_holm: float | None  # corrected for all pairs, not only those shown
    significant: bool | None  # p_holm < 0.05
    num_prompts: int
    num_prompts_needed: (
        int | None
    )  # in all, to tell a difference of this size, without correction; None where it is zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """A system's place in its group, with its 95 % interval over prompts, and the chance that it is the best."""

    rank: int
    low: int | None
    high: int | None
    best: float | None


EVEN = 1e-6  # points, the precision of a fit


def compare_all(
    names: Sequence[str],
    rankings: Sequence[Sequence[int]],
    points: Array,
    errors: Array | None,
    exact: Array | None,
    num_prompts: NDArray[np.int64],
) -> list[Comparison]:
    """Test every two systems of a group.

    Args:
        names: Of the systems.
        rankings: For each connected group, its systems from best to worst.
        points: (num_systems,) ratings.
        errors: (num_systems, num_systems) standard errors of differences, or None with a single prompt.
        exact: (num_systems, num_systems) p of an exact test, NaN where there is none, or None: then p is at least that
            of an exact test in which all prompts agree.
        num_prompts: (num_systems,) prompts on which each plays.
    """
    pairs = [pair for ranking in rankings for pair in combinations(ranking, 2)]
    gaps = [float(points[a] - points[b]) for a, b in pairs]
    fewer = [int(min(num_prompts[a], num_prompts[b])) for a, b in pairs]
    tests: list[tuple[float, float] | None] = []
    for (a, b), gap, num in zip(pairs, gaps, fewer, strict=True):
        if errors is None or num < 2 or not np.isfinite(errors[a, b]):
            tests.append(None)
            continue
        floor = 2.0 ** (1 - num) if exact is None or np.isnan(exact[a, b]) else float(exact[a, b])
        p = max(two_sided_p(gap, float(errors[a, b]), num - 1), floor)
        tests.append((float(errors[a, b]), p))
    corrected = iter(holm([test[1] for test in tests if test]))
    return [
        _comparison(names, pair, gap, num, test, next(corrected) if test else None)
        for pair, gap, num, test in zip(pairs, gaps, fewer, tests, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) step-up correction, in the order given: it bounds the share of false finds."""
    order = sorted(range(len(p_values)), key=lambda index: -p_values[index])
    adjusted, best = [0.0] * len(p_values), 1.0
    for above, index in enumerate(order):
        best = min(best, p_values[index] * len(p_values) / (len(p_values) - above))
        adjusted[index] = best
    return adjusted


def two_sided_p(difference: float, error: float, freedom: int) -> float:
    """The two-sided p of Student's t test."""
    if error <= 0.0:
        return 1.0
    return min(1.0, 2.0 * float(stdtr(freedom, -abs(difference) / error)))


def flip_p(differences: NDArray[np.int64]) -> float:
    """The exact two-sided p of the hypothesis that each prompt's value has either sign alike; 1 if all are 0."""
    sizes = np.abs(differences[differences != 0])
    total, observed = int(sizes.sum()), abs(int(differences.sum()))
    if not total:
        return 1.0
    sizes //= (unit := int(np.gcd.reduce(sizes)))
    total, observed = total // unit, observed // unit
    if total > MAX_EXACT_STEPS:
        return erfc(observed / sqrt(2.0 * float((sizes.astype(np.float64) ** 2).sum())))
    chance = np.zeros(total + 1)  # [k]: the positive ones sum up to k
    chance[0] = 1.0
    for size in sizes:
        moved = np.zeros_like(chance)
        moved[size:] = chance[: len(chance) - size]
        chance = (chance + moved) / 2.0
    away = np.abs(2 * np.arange(total + 1) - total) >= observed
    return min(1.0, float(chance[away].sum()))


def exact_p_values(matches: Matches, num_systems: int, num_questions: int) -> Array | None:
    """(num_systems, num_systems) p of the sign-flip test of two systems on matches alike.

    These are their own, and those with the same third systems on the same prompts. NaN for a pair that has them on less
    than half of its prompts; None where the table would be too large.
    """
    if num_systems**2 * num_questions > MAX_SCORES:
        return None
    net = np.zeros((num_questions, num_systems, num_systems), dtype=np.int16)
    met = np.zeros(net.shape, dtype=bool)
    gain = matches.half_points.astype(np.int16) - 1
    np.add.at(net, (matches.question, matches.first, matches.second), gain)
    np.add.at(net, (matches.question, matches.second, matches.first), -gain)
    met[matches.question, matches.first, matches.second] = met[matches.question, matches.second, matches.first] = True
    net = np.sign(net)
    p_values = np.full((num_systems, num_systems), np.nan)
    for i, j in combinations(range(num_systems), 2):
        both = met[:, i] & met[:, j]
        direct = net[:, i, j].astype(np.int64)
        fewer = min(int(met[:, i].any(axis=1).sum()), int(met[:, j].any(axis=1).sum()))
        if 2 * int((both.any(axis=1) | met[:, i, j]).sum()) > fewer:
            apart = 2 * direct + np.where(both, net[:, i] - net[:, j], 0).sum(axis=1)
            p_values[i, j] = p_values[j, i] = flip_p(apart)
    return p_values


def standard_errors(draws: Array, num_prompts: int) -> Array:
    """(num_systems, num_systems) of differences, from resampled points (num_resamples, num_systems)."""
    errors = np.zeros((draws.shape[1], draws.shape[1]))
    for system in range(draws.shape[1]):  # what leaves one of the two out is left out of their error
        apart = np.ma.masked_invalid(draws - draws[:, [system]])
        errors[system] = apart.std(axis=0, ddof=1).filled(np.nan)
    return errors * sqrt(num_prompts / (num_prompts - 1))


def ranks(
    names: Sequence[str], rankings: Sequence[Sequence[int]], points: Array, draws: Array | None, num_prompts: int
) -> dict[str, Rank]:
    """Places with intervals: percentiles of the resamples' places, spread about the ratings as Student's t asks.

    The chance to be best is the share of resamples that a system leads, one more resample being shared by all
    (`agreeing` holds it against the tests of pairs).
    """
    found: dict[str, Rank] = {}
    for ranking in rankings:
        if draws is None:
            found |= {names[s]: Rank(rank=n, low=None, high=None, best=None) for n, s in enumerate(ranking, 1)}
            continue
        own = draws[:, ranking]
        wider = student_t(num_prompts) / Z_95 * sqrt(num_prompts / (num_prompts - 1))
        drawn = points[ranking] + wider * np.nan_to_num(own - np.nanmean(own, axis=0))
        place = 1 + (drawn[:, :, None] < drawn[:, None, :]).sum(axis=2)
        low, high = np.percentile(place, [2.5, 97.5], axis=0, method="inverted_cdf").astype(int)
        leads = drawn >= drawn.max(axis=1, keepdims=True) - EVEN
        led = (leads / leads.sum(axis=1, keepdims=True)).sum(axis=0)
        best = (led + 1 / len(ranking)) / (len(drawn) + 1)
        for n, s in enumerate(ranking):
            bounds = min(n + 1, int(low[n])), max(n + 1, int(high[n]))
            found[names[s]] = Rank(rank=n + 1, low=bounds[0], high=bounds[1], best=float(best[n]))
    return found


def agreeing(places: dict[str, Rank], comparisons: Sequence[Comparison]) -> dict[str, Rank]:
    """Ranks and chances that say nothing which the tests of pairs don't.

    Two systems that can't be told (an exact test on few prompts, or none) have intervals that meet: where the resamples
    keep them apart, or their ratings are even, each may have the other's place.
    """
    found = dict(places)
    for pair in comparisons:
        upper, lower = places[pair.higher], places[pair.lower]
        is_open = pair.p_value is None or pair.p_value >= LEVEL
        if not is_open or upper.high is None or lower.low is None:
            continue
        if lower.low > upper.high or abs(pair.difference) < EVEN:
            above, below = found[pair.higher], found[pair.lower]
            found[pair.higher] = replace(above, high=max(above.high or 0, lower.rank))
            found[pair.lower] = replace(below, low=min(below.low or lower.rank, upper.rank))
    return _no_bolder(found, comparisons)


def _no_bolder(places: dict[str, Rank], comparisons: Sequence[Comparison]) -> dict[str, Rank]:
    """Chances to be best of at most 1 - p / 2 of each test that a system leads; the rest goes to its rivals by their p.

    Four wins of four come out of nearly every resample, and have a p of 0.125: the chance is 0.94, not 0.97.
    """
    found = dict(places)
    rivals: dict[str, dict[str, float]] = {}  # a pair without a test is as open as one with a p of 1
    for pair in comparisons:
        rivals.setdefault(pair.higher, {})[pair.lower] = 0.5 if pair.p_value is None else pair.p_value / 2.0
    for name, chances in rivals.items():
        best = found[name].best
        excess = 0.0 if best is None else best + max(chances.values()) - 1.0
        if excess > 0.0:
            total = sum(chances.values())
            for system, change in {name: -total, **chances}.items():
                place = found[system]
                found[system] = replace(place, best=(place.best or 0.0) + excess * change / total)
    return found


def verdict(
    ranking: Sequence[str], places: dict[str, Rank], comparisons: Sequence[Comparison], with_what: str = ""
) -> str:
    """One sentence: which system is best, how sure that is, what it can't be told from, and what would decide it.

    The prompts that would decide are for the rival that is hardest to tell, at Holm's level, as the p is; `with_what`
    says which prompts count.
    """
    first = ranking[0]
    chance = places[first].best
    if chance is None:
        even = [c.lower for c in comparisons if c.higher == first and abs(c.difference) < EVEN]
        ahead = f"{' and '.join([first, *even])} are even" if even else f"{first} is ahead"
        return f"{ahead}, on a single prompt: that can't say how sure it is"
    said = f"{first} is best with probability {probability(chance)}"
    tested = [c for c in comparisons if c.higher == first]
    if any(c.p_holm is None for c in tested):
        return f"{said}; it can't be told from all others, as not every pair played on two prompts"
    rivals = sorted((c for c in tested if not c.significant), key=lambda c: -(c.p_holm or 0.0))
    if not rivals:
        largest = max(c.p_holm or 0.0 for c in tested)
        return f"{said}; it is told from every other system (largest p, corrected by Holm: {largest:.2g})"
    said += f"; it can't be told from {_named(rivals)} (p = {rivals[0].p_holm:.2g}, corrected by Holm)"
    needed = prompts_to_decide(rivals[0])
    if needed is None:
        return f"{said}; they are even, which no number of prompts would change"
    more = max(1, needed - rivals[0].num_prompts)
    return (
        f"{said}; about {more} more prompt{'s' * (more > 1)}{with_what} would decide (80 % power, the same correction)"
    )


def probability(value: float) -> str:
    """Two digits; never certain, which no finite number of prompts can make it."""
    return "above 0.99" if value >= 0.995 else "below 0.01" if value < 0.005 else f"{value:.2f}"


def prompts_to_decide(pair: Comparison) -> int | None:
    """Prompts in all to tell the two with 80 % power at Holm's level for this pair; None where they are even."""
    if pair.num_prompts_needed is None or not pair.p_holm or pair.p_value is None:
        return pair.num_prompts_needed
    level = LEVEL * min(1.0, pair.p_value / pair.p_holm)
    factor = (float(ndtri(1.0 - level / 2.0)) + Z_POWER) / (Z_LEVEL + Z_POWER)
    return ceil(pair.num_prompts_needed * factor**2)


def _named(rivals: Sequence[Comparison]) -> str:
    names = [c.lower for c in rivals[:MAX_NAMED]]
    if len(rivals) > MAX_NAMED:
        names.append(f"{len(rivals) - MAX_NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _comparison(
    names: Sequence[str],
    pair: tuple[int, int],
    gap: float,
    num_prompts: int,
    test: tuple[float, float] | None,
    p_holm: float | None,
) -> Comparison:
    """`test` is (standard error, p)."""
    plain: tuple[float | None, float | None] = (None, None)
    corrected = plain
    needed = None
    if test is not None and p_holm is not None:
        error, p = test
        freedom = num_prompts - 1
        implied = abs(gap) / -float(stdtrit(freedom, p / 2.0)) if 0.0 < p < 0.999 and gap else error
        plain = _around(gap, implied, LEVEL, freedom)
        corrected = _around(gap, implied, LEVEL * min(1.0, p / p_holm) if p_holm else LEVEL, freedom)
        if gap > 1e-9:
            needed = max(2, ceil(num_prompts * ((Z_LEVEL + Z_POWER) * implied / gap) ** 2))
    return Comparison(
        higher=names[pair[0]],
        lower=names[pair[1]],
        difference=gap,
        low=corrected[0],
        high=corrected[1],
        low_unadjusted=plain[0],
        high_unadjusted=plain[1],
        p_value=None if test is None else test[1],
        p_holm=p_holm,
        significant=None if p_holm is None else p_holm < LEVEL,
        num_prompts=num_prompts,
        num_prompts_needed=needed,
    )


def _around(centre: float, error: float, level: float, freedom: int) -> tuple[float | None, float | None]:
    half = error * float(stdtrit(freedom, 1.0 - level / 2.0))
    return (centre - half, centre + half) if half > 0 else (None, None)
