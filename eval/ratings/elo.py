"""Elo ratings over many random orderings of one set of matches.

It gives the mean of Elo over the orders in which matches may be played, how much Elo changes from one ordering
to the next, and how much with other prompts. Used by `python -m eval rate`.

Source: QLoRA (arXiv 2305.14314, section 5.3): start 1000, K = 32, 10,000 random orderings, a tie counts half.
The paper's printed interval is the noise of the ordering alone; the spread over prompts is some thirty
times wider, so both are reported under their own names.

The kernel plays `LANES` orderings side by side, one in each lane of the vector unit, and draws each lane's
ordering (Fisher-Yates, xoroshiro128+) a few hundred matches ahead of play. Ratings are held in units of
log2 odds, so that an expected score needs one exp2, which is a polynomial here because the compiler can't
put a call to the C library into vector lanes. benchmarks/evaluation/ratings.py has the timings.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import factorial, log, log2, sqrt

import numba
import numpy as np
from numpy.typing import NDArray

from eval.verdicts.table import Matches

SCALE = 400.0  # points for which the odds grow tenfold
LANES = 32  # orderings side by side; 8 and 16 took 1.5 and 1.3 times as long, 64 the same
JOBS_AT_ONCE = 16
MIN_RESAMPLES, MAX_PLAYS = 100, 1 << 27  # of the prompts: fewer resamples, never below 100, of many matches
CHUNK = 256  # matches drawn before they are played: 32 KiB, which stays in the first-level cache
SIDE_BITS = {np.uint16: 7, np.uint32: 15}  # of a packed match, for each side; the rest is the score
MAX_SYSTEMS = 1 << 15
MAX_K = 400.0  # from about 700 an update overshoots the rating that would explain it, and rounding errors grow
POINTS_PER_LOG2 = SCALE / log2(10.0)

EXP2 = tuple(log(2.0) ** power / factorial(power) for power in range(10, -1, -1))  # 2**f for |f| <= 1/2, to 3e-13
ONE_53RD = 2.0**-53
UINT = np.uint64
Packed = NDArray[np.uint16] | NDArray[np.uint32]
SCORE_BITS, SCORE_MASK = np.uint32(2), np.uint32(3)
EXPONENT_BIAS, MANTISSA_BITS = 1023, 52


@dataclass(frozen=True, slots=True, kw_only=True)
class EloRating:
    """One system's Elo, in points. Bounds are of 95 % intervals; None where they can't be estimated."""

    mean: float  # over the orderings
    ordering_sd: float  # from one ordering to the next
    ordering_low: float | None  # of the mean, for want of more orderings: what the paper prints as +-1
    ordering_high: float | None
    low: float | None  # over prompts: what another set of prompts like these could give
    high: float | None


def elo_given(
    matches: Matches, num_systems: int, orderings: NDArray[np.int32], k: float = 32.0, start: float = 1000.0
) -> NDArray[np.float64]:
    """Final ratings for given orderings.

    Args:
        matches: num_matches matches.
        num_systems: Systems are 0 .. num_systems - 1.
        orderings: (num_orderings, num_plays) positions in `matches`, in the order of play.
        k: Points at stake in one match.
        start: Rating before the first match, in points.

    Returns:
        (num_orderings, num_systems) ratings in points.
    """
    _check(k, num_systems)
    if orderings.size and not 0 <= orderings.min() <= orderings.max() < len(matches):
        raise ValueError(f"orderings name matches outside 0 .. {len(matches) - 1}")
    packed, orderings = _pack(matches, num_systems), np.ascontiguousarray(orderings, dtype=np.int32)
    ratings = np.empty((len(orderings), num_systems))
    _run_given(packed, orderings, k / POINTS_PER_LOG2, ratings)
    return np.asarray(start + POINTS_PER_LOG2 * ratings)


def elo_drawn(
    matches: Matches,
    num_systems: int,
    num_orderings: int,
    rng: np.random.Generator,
    *,
    sample_size: int | None = None,
    k: float = 32.0,
    start: float = 1000.0,
    num_threads: int | None = None,
) -> NDArray[np.float64]:
    """Final ratings for random orderings, each drawn without replacement.

    The result depends on `rng` alone, not on `num_threads`; the first r orderings are the same for any larger number.

    Args:
        matches: num_matches matches.
        num_systems: Systems are 0 .. num_systems - 1.
        num_orderings: How many orderings to draw.
        rng: Seeds each ordering's own generator.
        sample_size: Matches drawn for an ordering; None takes all.
        k: Points at stake in one match.
        start: Rating before the first match, in points.
        num_threads: None takes the cores this process may use.

    Returns:
        (num_orderings, num_systems) ratings in points.

    Raises:
        ValueError: `sample_size` is not between 1 and num_matches, or k is out of range.
    """
    _check(k, num_systems)
    plays = len(matches) if sample_size is None else sample_size
    if not 0 < plays <= len(matches):
        raise ValueError(f"sample_size={plays}: there are {len(matches)} matches; take 1 to {len(matches)}, or all")
    packed = _pack(matches, num_systems)
    seeds = _seeds(rng, num_orderings)
    ratings = np.empty((num_orderings, num_systems))
    workers = num_threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        runs = [
            pool.submit(_play_drawn, packed, seeds[part], plays, k / POINTS_PER_LOG2, ratings[part])
            for part in _parts(num_orderings, workers)
        ]
    for run in runs:
        run.result()
    return np.asarray(start + POINTS_PER_LOG2 * ratings)


def elo_over_prompts(
    matches: Matches,
    num_systems: int,
    resamples: Iterator[NDArray[np.int64]],
    rng: np.random.Generator,
    *,
    sample_size: int | None = None,
    k: float = 32.0,
    start: float = 1000.0,
) -> NDArray[np.float64]:
    """Mean Elo of each resample of the prompts: a bootstrap clustered by prompt.

    A resample's mean is taken over `LANES` orderings. What noise of the ordering that leaves is known from
    the spread between them, and is taken out by shrinking the resamples towards their mean.

    Args:
        matches: num_matches matches.
        num_systems: Systems are 0 .. num_systems - 1.
        resamples: For each resample, the positions of its matches (a prompt drawn twice gives its matches twice).
        rng: Seeds the orderings.
        sample_size: Matches drawn for an ordering; None takes the resample's all.
        k: Points at stake in one match.
        start: Rating before the first match, in points.

    Returns:
        (num_resamples, num_systems) ratings in points; a system that a resample leaves out is NaN there.
    """

    _check(k, num_systems)

    def play(job: tuple[NDArray[np.int64], NDArray[np.uint64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        positions, seeds = job
        drawn = matches.pick(positions)
        ratings, num_plays = np.empty((LANES, num_systems)), min(sample_size or len(drawn), len(drawn))
        _play_drawn(_pack(drawn, num_systems), seeds, num_plays, k / POINTS_PER_LOG2, ratings)
        absent = np.ones(num_systems, dtype=bool)
        absent[drawn.first] = absent[drawn.second] = False
        mean = start + POINTS_PER_LOG2 * ratings.mean(axis=0)
        mean[absent] = np.nan
        return mean, POINTS_PER_LOG2**2 * ratings.var(axis=0, ddof=1) / LANES

    jobs = ((positions, _seeds(rng, LANES)) for positions in resamples)
    played_jobs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while batch := list(islice(jobs, JOBS_AT_ONCE)):  # `map` would draw all resamples before the first is played
            played_jobs += pool.map(play, batch)
    means, noise = (np.array(column) for column in zip(*played_jobs, strict=True))
    return _without_noise(means, noise)


def _without_noise(means: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shrinks each system's resamples towards their mean, so that their variance is without the orderings'.

    Args:
        means: (num_resamples, num_systems) ratings in points; NaN where a resample leaves a system out.
        noise: (num_resamples, num_systems) variance of each mean over the orderings, in squared points.
    """
    played = ~np.isnan(means).all(axis=0)
    centre, total = np.nanmean(means[:, played], axis=0), np.nanvar(means[:, played], axis=0, ddof=1)
    kept = np.sqrt(np.clip(1.0 - noise.mean(axis=0)[played] / np.maximum(total, 1e-300), 0.0, 1.0))
    shrunk = means.copy()
    shrunk[:, played] = centre + kept * (means[:, played] - centre)
    return shrunk


def elo_resamples(num_asked: int, num_plays: int) -> int:
    """How many resamples of the prompts Elo plays: those asked for, fewer of many matches, but 100."""
    return min(num_asked, max(MIN_RESAMPLES, MAX_PLAYS // (LANES * max(num_plays, 1))))


def ordering_interval(ratings: NDArray[np.float64]) -> tuple[float, float, float | None, float | None]:
    """(mean, sd, low, high) of one system's ratings over orderings; the bounds are of the mean (normal, 95 %).

    None where all orderings say the same, or there is one.
    """
    mean, sd = float(ratings.mean()), float(ratings.std(ddof=1)) if len(ratings) > 1 else 0.0
    half = 1.96 * sd / sqrt(len(ratings))
    return (mean, sd, mean - half, mean + half) if half > 1e-9 else (mean, sd, None, None)


def _check(k: float, num_systems: int) -> None:
    if not 0 < k <= MAX_K:
        raise ValueError(f"k={k}: the points at stake in a match are above 0 and at most {MAX_K:g}")
    if num_systems > MAX_SYSTEMS:
        raise ValueError(f"{num_systems} systems: Elo takes at most {MAX_SYSTEMS}")


def _seeds(rng: np.random.Generator, num_orderings: int) -> NDArray[np.uint64]:
    """(num_orderings, 2) states of xoroshiro128+; from 1 up, as a state of zeros would stay one."""
    return rng.integers(1, 2**64 - 1, size=(num_orderings, 2), dtype=np.uint64)


def _pack(matches: Matches, num_systems: int) -> Packed:
    """Score, first and second system of each match in one number, as small as the systems allow."""
    dtype, side_bits = next((t, bits) for t, bits in SIDE_BITS.items() if num_systems <= 1 << bits)
    first, second = matches.first.astype(dtype), matches.second.astype(dtype)
    shift_first, shift_second = dtype(SCORE_BITS), dtype(SCORE_BITS + side_bits)
    return np.asarray(matches.half_points.astype(dtype) | first << shift_first | second << shift_second)


def _play_drawn(
    packed: Packed, seeds: NDArray[np.uint64], num_plays: int, step: float, out: NDArray[np.float64]
) -> None:
    """Plays an ordering for each row of `out`. numpy asks for large pages for the deck, which numba wouldn't."""
    _run_drawn(packed, seeds, num_plays, step, np.empty((LANES, len(packed)), packed.dtype), out)


def _parts(num_orderings: int, workers: int) -> Iterator[slice]:
    """Shares of whole lane groups, four a worker so that a busy core holds up little."""
    step = max(LANES, -(-num_orderings // (LANES * workers * 4)) * LANES)
    return (slice(start, start + step) for start in range(0, num_orderings, step))


@numba.njit(cache=True, nogil=True)
def _draw(deck, state_a, state_b, position, start, count, plays):  # type: ignore[no-untyped-def]
    """One chunk of each lane's Fisher-Yates: plays[t, lane] is the match dealt at `start + t`."""
    num_matches = deck.shape[1]
    for t in range(count):
        left = float(num_matches - start - t)
        for lane in range(LANES):  # xoroshiro128+; its top 53 bits give a uniform number below 1
            a, b = state_a[lane], state_b[lane]
            position[lane] = UINT(start + t) + UINT(float((a + b) >> UINT(11)) * ONE_53RD * left)
            b ^= a
            state_a[lane] = ((a << UINT(24)) | (a >> UINT(40))) ^ b ^ (b << UINT(16))
            state_b[lane] = (b << UINT(37)) | (b >> UINT(27))
        for lane in range(LANES):
            dealt = position[lane]
            plays[t, lane] = deck[lane, dealt]
            deck[lane, dealt] = deck[lane, UINT(start + t)]


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _play(plays, count, step, ratings, first, second, score, odds, power, delta):  # type: ignore[no-untyped-def]
    """Play `count` matches in every lane. Each stage is a loop of its own so that it compiles to vector code.

    The error model spares the division a test for zero, which would keep it from being one of vectors.
    """
    side_bits = np.uint32((8 * plays.itemsize - SCORE_BITS) // 2)
    side_mask = np.uint32((1 << side_bits) - 1)
    power_as_float = power.view(np.float64)
    for t in range(count):
        for lane in range(LANES):
            match = np.uint32(plays[t, lane])
            first[lane] = (match >> SCORE_BITS) & side_mask
            second[lane] = match >> np.uint32(SCORE_BITS + side_bits)
            score[lane] = 0.5 * np.int32(match & SCORE_MASK)
        for lane in range(LANES):
            delta[lane] = ratings[second[lane], lane] - ratings[first[lane], lane]
        for lane in range(LANES):  # odds = 2 ** delta = 2 ** whole * 2 ** part; the first factor is an exponent field
            exponent = min(max(delta[lane], -1000.0), 1000.0)
            whole = np.floor(exponent + 0.5)
            part = exponent - whole
            power[lane] = (np.int64(whole) + EXPONENT_BIAS) << MANTISSA_BITS
            value = 0.0
            for coefficient in EXP2:
                value = value * part + coefficient
            odds[lane] = value
        for lane in range(LANES):
            delta[lane] = step * (score[lane] - 1.0 / (1.0 + odds[lane] * power_as_float[lane]))
        for lane in range(LANES):
            ratings[first[lane], lane] += delta[lane]
            ratings[second[lane], lane] -= delta[lane]


@numba.njit(cache=True, nogil=True)
def _clear(ratings):  # type: ignore[no-untyped-def]
    """Loops, as here and below slices would double the time to compile."""
    for system in range(ratings.shape[0]):
        for lane in range(LANES):
            ratings[system, lane] = 0.0


@numba.njit(cache=True, nogil=True)
def _store(ratings, group, out):  # type: ignore[no-untyped-def]
    for lane in range(min(LANES, out.shape[0] - group)):
        for system in range(out.shape[1]):
            out[group + lane, system] = ratings[system, lane]


@numba.njit(cache=True, nogil=True)
def _run_drawn(packed, seeds, num_plays, step, deck, out):  # type: ignore[no-untyped-def]
    """Draw and play one ordering for each row of `out`, LANES at a time; surplus lanes repeat the last seed."""
    num_orderings, num_systems = out.shape
    state_a, state_b, position = np.empty(LANES, UINT), np.empty(LANES, UINT), np.empty(LANES, UINT)
    plays, ratings = np.empty((CHUNK, LANES), packed.dtype), np.empty((num_systems, LANES))
    first, second = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    score, odds, delta = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    power = np.empty(LANES, np.int64)
    for group in range(0, num_orderings, LANES):
        _clear(ratings)
        for lane in range(LANES):
            for match in range(packed.shape[0]):
                deck[lane, match] = packed[match]
            ordering = min(group + lane, num_orderings - 1)
            state_a[lane] = seeds[ordering, 0]
            state_b[lane] = seeds[ordering, 1]
        for start in range(0, num_plays, CHUNK):
            count = min(CHUNK, num_plays - start)
            _draw(deck, state_a, state_b, position, start, count, plays)
            _play(plays, count, step, ratings, first, second, score, odds, power, delta)
        _store(ratings, group, out)


@numba.njit(cache=True, nogil=True)
def _run_given(packed, orderings, step, out):  # type: ignore[no-untyped-def]
    """Play one given ordering for each row of `out`, LANES at a time; surplus lanes repeat the last ordering."""
    num_orderings, num_systems = out.shape
    num_plays = orderings.shape[1]
    plays, ratings = np.empty((CHUNK, LANES), packed.dtype), np.empty((num_systems, LANES))
    first, second = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    score, odds, delta = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    power = np.empty(LANES, np.int64)
    for group in range(0, num_orderings, LANES):
        _clear(ratings)
        for start in range(0, num_plays, CHUNK):
            count = min(CHUNK, num_plays - start)
            for lane in range(LANES):
                ordering = min(group + lane, num_orderings - 1)
                for t in range(count):
                    plays[t, lane] = packed[orderings[ordering, start + t]]
            _play(plays, count, step, ratings, first, second, score, odds, power, delta)
        _store(ratings, group, out)
