"""Elo: the vector kernel against a plain loop, and that drawn orderings are what they claim."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval.ratings.elo import LANES, _draw, elo_drawn, elo_given, elo_over_prompts, ordering_interval
from eval.verdicts.table import Matches


def make_matches(rows: list[tuple[int, int, int]]) -> Matches:
    """Rows of (first, second, half points)."""
    columns = np.array(rows).T
    return Matches(
        question=np.arange(len(rows), dtype=np.int32),
        first=columns[0].astype(np.int32),
        second=columns[1].astype(np.int32),
        half_points=columns[2].astype(np.int8),
    )


def random_matches(num: int, num_systems: int, seed: int) -> Matches:
    rng = np.random.default_rng(seed)
    first = rng.integers(num_systems, size=num)
    second = (first + rng.integers(1, num_systems, size=num)) % num_systems
    return make_matches(list(zip(first, second, rng.integers(3, size=num), strict=True)))


def reference_elo(matches: Matches, num_systems: int, ordering: list[int], k: float, start: float) -> list[float]:
    """One match after another, as every textbook has it."""
    ratings = [start] * num_systems
    for index in ordering:
        a, b = int(matches.first[index]), int(matches.second[index])
        expected = 1.0 / (1.0 + 10.0 ** ((ratings[b] - ratings[a]) / 400.0))
        gain = k * (int(matches.half_points[index]) / 2.0 - expected)
        ratings[a] += gain
        ratings[b] -= gain
    return ratings


def test_one_match_by_hand() -> None:
    ratings = elo_given(make_matches([(0, 1, 2)]), 2, np.array([[0]], dtype=np.int32))
    assert ratings[0] == pytest.approx([1016.0, 984.0], abs=1e-9)
    ratings = elo_given(make_matches([(0, 1, 2), (0, 1, 1)]), 2, np.array([[0, 1]], dtype=np.int32), k=400.0)
    expected = 1 / (1 + 10 ** (-400 / 400))
    assert ratings[0][0] == pytest.approx(1200 + 400 * (0.5 - expected), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    num=st.integers(1, 700),
    num_systems=st.integers(2, 40),
    num_orderings=st.integers(1, 2 * LANES + 3),
    k=st.sampled_from([0.1, 4.0, 32.0, 400.0]),
    start=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 10**6),
)
def test_the_kernel_plays_as_the_plain_loop(
    num: int, num_systems: int, num_orderings: int, k: float, start: float, seed: int
) -> None:
    matches = random_matches(num, num_systems, seed)
    rng = np.random.default_rng(seed)
    orderings = np.array([rng.permutation(num) for _ in range(num_orderings)], dtype=np.int32)
    ratings = elo_given(matches, num_systems, orderings, k=k, start=start)
    for row in {0, num_orderings // 2, num_orderings - 1}:
        expected = reference_elo(matches, num_systems, list(orderings[row]), k, start)
        assert ratings[row] == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=20)
@given(num=st.integers(1, 300), seed=st.integers(0, 10**6))
def test_points_are_conserved_and_sides_do_not_matter(num: int, seed: int) -> None:
    matches = random_matches(num, 5, seed)
    swapped = Matches(
        question=matches.question, first=matches.second, second=matches.first, half_points=2 - matches.half_points
    )
    ratings = elo_drawn(matches, 5, 40, np.random.default_rng(seed))
    assert ratings.sum(axis=1) == pytest.approx(np.full(40, 5000.0), abs=1e-8)
    assert elo_drawn(swapped, 5, 40, np.random.default_rng(seed)) == pytest.approx(ratings, abs=1e-8)


def test_drawn_orderings_are_all_permutations_equally_often() -> None:
    matches = make_matches([(0, 1, 2), (1, 2, 2), (2, 0, 1), (0, 1, 0)])
    possible = {_rounded(reference_elo(matches, 3, list(p), 32.0, 1000.0)) for p in permutations(range(4))}
    assert len(possible) == 24
    drawn = Counter(_rounded(row) for row in elo_drawn(matches, 3, 24_000, np.random.default_rng(1)))
    assert set(drawn) == possible
    chi_square = sum((count - 1000) ** 2 / 1000 for count in drawn.values())
    assert chi_square < 49.7  # 23 degrees of freedom, p = 0.001


@pytest.mark.parametrize("num_systems", [128, 129, 1 << 15])
def test_systems_of_any_number_play_alike(num_systems: int) -> None:
    """Up to 128 a match is packed in 16 bits, beyond that in 32; the highest number plays, too."""
    few, seed = random_matches(300, 5, 0), 1
    names = np.array([0, 17, num_systems // 2, num_systems - 2, num_systems - 1])
    spread = Matches(
        question=few.question,
        first=names[few.first].astype(np.int32),
        second=names[few.second].astype(np.int32),
        half_points=few.half_points,
    )
    ratings = elo_drawn(spread, num_systems, LANES + 1, np.random.default_rng(seed))
    np.testing.assert_array_equal(ratings[:, names], elo_drawn(few, 5, LANES + 1, np.random.default_rng(seed)))
    assert (np.delete(ratings, names, axis=1) == 1000.0).all()


def test_a_sample_is_drawn_without_replacement() -> None:
    matches = make_matches([(0, 1, 2), (1, 2, 2), (2, 0, 1), (0, 1, 0)])
    possible = {_rounded(reference_elo(matches, 3, list(p), 32.0, 1000.0)) for p in permutations(range(4), 2)}
    drawn = {_rounded(row) for row in elo_drawn(matches, 3, 2000, np.random.default_rng(1), sample_size=2)}
    assert drawn == possible


def test_the_result_depends_on_the_seed_alone() -> None:
    matches = random_matches(1000, 6, 0)
    one, two = (elo_drawn(matches, 6, 200, np.random.default_rng(3), num_threads=n) for n in (1, 3))
    assert np.array_equal(one, two)
    assert np.array_equal(elo_drawn(matches, 6, 70, np.random.default_rng(3)), one[:70])
    assert not np.array_equal(elo_drawn(matches, 6, 200, np.random.default_rng(4)), one)


def test_what_can_not_be_played_is_refused() -> None:
    matches = random_matches(10, 3, 0)
    with pytest.raises(ValueError, match="sample_size=11: there are 10 matches"):
        elo_drawn(matches, 3, 5, np.random.default_rng(0), sample_size=11)
    with pytest.raises(ValueError, match="k=0"):
        elo_drawn(matches, 3, 5, np.random.default_rng(0), k=0)
    with pytest.raises(ValueError, match=r"outside 0 \.\. 9"):
        elo_given(matches, 3, np.array([[10]], dtype=np.int32))


def test_the_ordering_interval_is_the_means() -> None:
    mean, sd, low, high = ordering_interval(np.array([990.0, 1010.0] * 50))
    assert (mean, sd) == pytest.approx((1000.0, 10.0504), abs=1e-3)
    assert high - low == pytest.approx(2 * 1.96 * sd / 10)  # type: ignore[operator]


def test_resampling_prompts_that_all_say_the_same_leaves_no_spread() -> None:
    # Each prompt holds one match with the same result, so a resample differs in nothing.
    matches = make_matches([(0, 1, 2)] * 50)
    resamples = iter([np.sort(np.random.default_rng(i).integers(50, size=50)) for i in range(20)])
    means = elo_over_prompts(matches, 3, resamples, np.random.default_rng(0))
    assert means[:, 0].std() == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(means[:, 2]).all()


def test_the_spread_over_prompts_is_the_samplings_not_the_orderings() -> None:
    """With small K, Elo after n matches is close to linear in the results, so that its spread is known."""
    rng = np.random.default_rng(0)
    num, k = 400, 0.5
    matches = make_matches([(0, 1, int(points)) for points in 2 * rng.integers(2, size=num)])
    resamples = iter([rng.integers(num, size=num) for _ in range(400)])
    spread = elo_over_prompts(matches, 2, resamples, rng, k=k)[:, 0].std()
    # One result's weight fades with the matches after it: each takes back a part of the gap.
    fade = 1.0 - 2.0 * k * np.log(10.0) / 400.0 / 4.0
    expected = k * 0.5 * np.sqrt(num) * np.mean(fade ** np.arange(num))
    assert spread == pytest.approx(expected, rel=0.1)


def _rounded(ratings: NDArray[np.float64] | list[float]) -> tuple[float, ...]:
    return tuple(round(float(rating), 6) for rating in ratings)


def test_matches_are_dealt_by_xoroshiro128_plus() -> None:
    """Against plain whole numbers (Blackman & Vigna 2018: 24, 16, 37), a Fisher-Yates that takes its top 53 bits."""
    num, mask = 7, 2**64 - 1
    seeds = np.random.default_rng(0).integers(2**64, size=(LANES, 2), dtype=np.uint64)
    deck = np.tile(np.arange(10, 10 + num, dtype=np.uint32), (LANES, 1))
    plays = np.zeros((num, LANES), dtype=np.uint32)
    _draw(deck, seeds[:, 0].copy(), seeds[:, 1].copy(), np.zeros(LANES, dtype=np.uint64), 0, num, plays)
    for lane in (0, LANES - 1):
        a, b = (int(value) for value in seeds[lane])
        left, dealt = list(range(10, 10 + num)), []
        for t in range(num):
            at = t + int((((a + b) & mask) >> 11) * 2.0**-53 * (num - t))
            dealt.append(left[at])
            left[at] = left[t]
            b ^= a
            a = (((a << 24) | (a >> 40)) ^ b ^ (b << 16)) & mask
            b = ((b << 37) | (b >> 27)) & mask
        assert plays[:, lane].tolist() == dealt
