"""Widens the intervals where all prompts agree, as if one more prompt might not. Used by `python -m eval rate`.

Five wins of five come out of every resample as five of five, so a bootstrap sees no error at all. Such pairs get one
more prompt in each resample, on which the outcome is the other one (where all was even, that of some order of these
systems), with about an exponential weight. For two systems that is Clopper & Pearson's (1934) exact lower bound:
Beta(n, 1), a ratio of gamma variables, is a resample of n wins by Rubin's (1981) Bayesian bootstrap with one such
prompt.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from eval.ratings.bradley_terry import ANCHOR, POINTS_PER_NAT, Cells, prompt_weights, unbounded_systems
from eval.verdicts.table import Matches

WON, LOST, TIED = 0, 1, 2
EVEN = 5.0  # points at most between systems that beat one another in a circle: none, but for the noise of Elo


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Pairs whose prompts all agree, and the outcomes that a further prompt may have."""

    pairs: NDArray[np.int64]  # (num_doubtful, 2) systems
    leaders: NDArray[np.int64]  # (num_doubtful,) WON, LOST, or TIED for the first side on every prompt

    def outcomes(self) -> NDArray[np.int64]:
        """(num_further, num_doubtful) WON or LOST for the first side of each pair, on each prompt that may be added.

        Pairs that were even follow an order of their systems there. The orders are those that a circle of them has in
        both directions: each system is first as often as any other, and no more often above another than below it.
        """
        tied = self.leaders == TIED
        systems = np.unique(self.pairs[tied])
        num = max(2, len(systems))
        place = (np.searchsorted(systems, self.pairs)[None] - np.arange(num)[:, None, None]) % num
        above = place[:, :, 0] < place[:, :, 1]
        sides = above if num == 2 else np.concatenate([above, ~above])
        return np.where(tied, np.where(sides, WON, LOST), 1 - self.leaders)


@dataclass(frozen=True, slots=True)
class ResampledPrompts:
    """The same resamples of the prompts at each pass, drawn anew as a million prompts' weights fill the memory."""

    num_questions: int
    num_resamples: int
    seed: int
    doubt: Doubt

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        num = self.num_resamples if self.num_questions > 1 else 0  # one prompt says nothing of others
        prompts, further = np.random.default_rng(self.seed).spawn(2)
        num_further = len(self.doubt.outcomes())
        return (
            _with_doubt(weight, num_further, further) for weight in prompt_weights(self.num_questions, num, prompts)
        )


def doubtful_pairs(cells: Cells) -> Doubt:
    """Pairs without any spread over prompts of a system that has no other pair, or that likelihood can't bound."""
    net = np.bincount(cells.column // 3, minlength=len(cells.pair)) * 0.0
    gain = np.array([1.0, -1.0, 0.0])[cells.column % 3] * cells.count
    key = cells.column // 3 * cells.num_questions + cells.question
    keys, at = np.unique(key, return_inverse=True)
    played, won = np.bincount(at, weights=cells.count), np.bincount(at, weights=gain)
    share, pair = won / played, keys // cells.num_questions
    high, low = np.full(len(net), -2.0), np.full(len(net), 2.0)
    np.maximum.at(high, pair, share)
    np.minimum.at(low, pair, share)
    same = high == low
    spread = np.zeros(cells.num_systems, dtype=bool)
    spread[cells.pair[~same].ravel()] = True
    up, down = unbounded_systems(cells, cells.totals())
    spread[[*up, *down]] = False
    kept = same & ~spread[cells.pair].all(axis=1)
    leaders = np.where(high > 0, WON, np.where(high < 0, LOST, TIED))
    return Doubt(pairs=cells.pair[kept], leaders=leaders[kept])


def doubted_cells(cells: Cells, doubt: Doubt) -> Cells:
    """The cells and the further prompts, of which a resample takes one at most."""
    numbers = {(int(i), int(j)): number for number, (i, j) in enumerate(cells.pair)}
    pair = np.array([numbers[int(i), int(j)] for i, j in doubt.pairs], dtype=np.int64)
    outcomes = doubt.outcomes()
    num_further, num = outcomes.shape
    return replace(
        cells,
        num_questions=cells.num_questions + num_further,
        question=np.concatenate([cells.question, np.repeat(cells.num_questions + np.arange(num_further), num)]),
        column=np.concatenate([cells.column, (3 * pair + outcomes).ravel()]),
        count=np.concatenate([cells.count, np.ones(num_further * num)]),
    )


def doubted_matches(matches: Matches, num_questions: int, doubt: Doubt) -> Matches:
    """The matches and the further prompts', numbered from `num_questions` on."""
    outcomes = doubt.outcomes()
    num_further, num = outcomes.shape
    return Matches(
        question=np.concatenate([matches.question, np.repeat(num_questions + np.arange(num_further), num)]).astype(
            np.int32
        ),
        first=np.concatenate([matches.first, np.tile(doubt.pairs[:, 0], num_further)]).astype(np.int32),
        second=np.concatenate([matches.second, np.tile(doubt.pairs[:, 1], num_further)]).astype(np.int32),
        half_points=np.concatenate([matches.half_points, (2 - 2 * outcomes).ravel()]).astype(np.int8),
    )


def least_errors(matches: Matches, points: NDArray[np.float64], average: float = ANCHOR) -> NDArray[np.float64]:
    """(num_systems,) the standard error that Student's t needs at least, to be as unsure as an exact test is.

    A system whose score is the same on all of its n prompts, and not even, is as good as the `average` with a p of
    2 ** (1 - n) (sign test). Where that score is even, as of the middle one of three that beat one another in turn, its
    distance is half of that to the farthest one that it beat or lost to, as of two systems; where these are even too,
    as in a circle, the error is what one match that went otherwise would move. 0 for all others.
    """
    num = len(points)
    keys = [matches.question.astype(np.int64) * num + side for side in (matches.first, matches.second)]
    played, at, count = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    gain = matches.half_points.astype(np.float64) - 1.0
    score, system = np.bincount(at, weights=np.concatenate([gain, -gain])) / count, played % num
    high, low, prompts = np.full(num, -2.0), np.full(num, 2.0), np.bincount(system, minlength=num)
    np.maximum.at(high, system, score)
    np.minimum.at(low, system, score)
    agree = (prompts > 1) & (high == low)
    errors, farthest = np.zeros(num), np.zeros(num)
    apart = np.abs(points[matches.first] - points[matches.second]) * (gain != 0.0)
    for side in (matches.first, matches.second):
        np.maximum.at(farthest, side, apart)
    distance = np.where(high != 0.0, np.abs(points - average), farthest / 2.0)
    spread = -stdtrit(prompts[agree] - 1, 2.0 ** -prompts[agree].astype(np.float64))
    errors[agree] = distance[agree] / spread
    decided = np.bincount(np.concatenate([matches.first, matches.second])[np.tile(gain != 0.0, 2)], minlength=num)
    circle = agree & (high == 0.0) & (farthest < EVEN) & (decided > 0)
    errors[circle] = 4.0 * POINTS_PER_NAT / decided[circle]  # a step of Newton's: one win, with 1 / 4 known of each
    return errors


def _with_doubt(weight: NDArray[np.float64], num_further: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A resample's prompt weights and those of the further prompts.

    Divided by their sum they are what gamma variables give, n for all prompts and 1 for the further one.
    """
    further, num = np.zeros(num_further), float(weight.sum())
    further[rng.integers(num_further)] = rng.exponential() * num / rng.gamma(num)
    return np.concatenate([weight, further])
