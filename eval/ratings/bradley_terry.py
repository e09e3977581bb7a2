"""Bradley-Terry and Davidson ratings, with a bootstrap clustered by prompt.

It finds the strengths that explain the verdicts best, and how far other prompts would move them. Unlike Elo, the
result does not depend on the order of play. Used by `python -m eval rate`.

Sources: Bradley & Terry (1952), a tie counting as half a win for each; Davidson (1970, JASA 65), where a tie has a
probability of its own, P(i wins) = p_i / (p_i + p_j + nu sqrt(p_i p_j)). Points are 400 log10 p; the mean over the
systems of a connected group is 1000. Both models are one here: the score of a match (1, 1/2, 0) is a logit in the
difference of the strengths, and Davidson adds the tie's own logit, log nu.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array

from eval.ratings.elo import SCALE
from eval.verdicts.table import Matches

POINTS_PER_NAT = SCALE / np.log(10.0)
POINT_DIGITS = 7  # behind the point; what linear algebra rounds differently from processor to processor comes later
ANCHOR = 1000.0
# A normal prior on strengths, used only where likelihood has no maximum (a system that never won, say) and in
# resamples, which may be without one. It moves Vicuna's bounds by less than 0.1 point.
PRIOR_SD_POINTS = 800.0
PRIOR_PRECISION = (POINTS_PER_NAT / PRIOR_SD_POINTS) ** 2
MAX_NEWTON_STEPS = 100
MAX_STEP_NATS = 2.0
TOLERANCE_NATS = 1e-9
MAX_PAIRS = 1 << 15  # of resamples whose step is computed at once: 256 KiB an array
MAX_WEIGHTS = 1 << 24  # numbers held at once: 128 MiB of prompt weights

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Matches counted by prompt, pair and outcome: all that ratings need of ten million verdicts.

    `pair` (num_pairs, 2) holds i < j; `codes` (num_questions,) is the matches' own number of each question. Cell c
    says that on prompt `question[c]` outcome `column[c]` came `count[c]` times, where a column is 3 * pair + (0: i
    won, 1: j won, 2: tie).
    """

    num_systems: int
    num_questions: int
    codes: NDArray[np.int64]
    pair: NDArray[np.int64]
    question: NDArray[np.int64]
    column: NDArray[np.int64]
    count: NDArray[np.float64]

    def totals(self) -> Array:
        """(num_pairs, 3) counts of each outcome."""
        counts = np.bincount(self.column, weights=self.count, minlength=3 * len(self.pair))
        return counts.astype(np.float64).reshape(-1, 3)

    def prompts_of_systems(self) -> NDArray[np.int64]:
        """(num_systems,) prompts on which each plays."""
        pair = self.pair[self.column // 3]
        played = np.concatenate([self.question * self.num_systems + pair[:, side] for side in (0, 1)])
        return np.bincount(np.unique(played) % self.num_systems, minlength=self.num_systems)

    def resampled(self, weights: Iterable[Array]) -> Array:
        """(num_resamples, num_pairs, 3) counts, prompts weighted by each of `weights` (num_questions,) in turn."""
        shape = (3 * len(self.pair), self.num_questions)
        table = csr_array((self.count, (self.column, self.question)), shape=shape)
        size = max(1, MAX_WEIGHTS // max(self.num_questions, 1))
        blocks = [np.asarray(table @ np.array(block).T).T for block in _blocks(weights, size)]
        return np.concatenate(blocks).reshape(-1, len(self.pair), 3) if blocks else np.zeros((0, len(self.pair), 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Points of each system (num_systems,), NaN for one without a match, and Davidson's nu (0 without ties)."""

    points: Array
    nu: float


def count_cells(matches: Matches, num_systems: int) -> Cells:
    """Aggregate matches to counts; questions that have a match are renumbered from 0."""
    low, high = np.minimum(matches.first, matches.second), np.maximum(matches.first, matches.second)
    pair_keys, pair = _unique_small(low.astype(np.int64) * num_systems + high, num_systems * num_systems)
    questions, question = _unique_small(matches.question.astype(np.int64), int(matches.question.max(initial=0)) + 1)
    low_points = np.where(matches.first == low, matches.half_points, 2 - matches.half_points)
    outcome = np.array([1, 2, 0])[low_points]
    num_columns = 3 * len(pair_keys)
    cells, count = np.unique(question * num_columns + 3 * pair + outcome, return_counts=True)
    return Cells(
        num_systems=num_systems,
        num_questions=len(questions),
        codes=questions,
        pair=np.stack([pair_keys // num_systems, pair_keys % num_systems], axis=1),
        question=cells // num_columns,
        column=cells % num_columns,
        count=count.astype(np.float64),
    )


def prompt_weights(num_questions: int, num_resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """How often each prompt is drawn in each resample: num_questions draws with replacement."""
    for _ in range(num_resamples):
        draws = rng.integers(num_questions, size=num_questions)
        yield np.bincount(draws, minlength=num_questions).astype(np.float64)


def _blocks(weights: Iterable[Array], size: int) -> Iterator[list[Array]]:
    remaining = iter(weights)
    while block := list(islice(remaining, size)):
        yield block


def connected_groups(cells: Cells) -> list[list[int]]:
    """Systems linked by matches, largest group first; a system that met nobody is in none."""
    met = np.zeros((cells.num_systems, cells.num_systems), dtype=bool)
    met[cells.pair[:, 0], cells.pair[:, 1]] = True
    reach = _reachable(met | met.T)
    groups = {tuple(np.flatnonzero(reach[i])) for i in range(cells.num_systems) if reach[i].sum() > 1}
    return sorted(([int(i) for i in group] for group in groups), key=lambda group: (-len(group), group))


def unbounded_systems(cells: Cells, counts: Array) -> tuple[list[int], list[int]]:
    """Systems that likelihood would rate without limit against the rest of their group: (upwards, downwards).

    Ratings have finite maximum-likelihood values only where every system of a group can be reached from every other
    by a chain of wins or ties (Ford, 1957). The largest part of a group for which that holds is "the rest".
    """
    beat = np.zeros((cells.num_systems, cells.num_systems), dtype=bool)
    i, j = cells.pair[:, 0], cells.pair[:, 1]
    beat[i, j] = counts[:, 0] + counts[:, 2] > 0
    beat[j, i] = counts[:, 1] + counts[:, 2] > 0
    reach = _reachable(beat)
    both_ways = reach & reach.T
    up, down = [], []
    for group in connected_groups(cells):
        centre = max(group, key=lambda system: int(both_ways[system].sum()))
        apart = [system for system in group if not both_ways[centre, system]]
        up += [system for system in apart if reach[system, centre]]
        down += [system for system in apart if not reach[system, centre]]
    return up, down


def has_no_davidson_maximum(cells: Cells, counts: Array) -> bool:
    """Whether Davidson's likelihood grows without limit with strengths and ties alike, as where nobody lost but tied.

    It does where places exist that put each winner at least two above its loser and those who tied at most two apart:
    difference constraints, which hold together unless a round of them sums up to less than 0 (Bellman, 1958).
    """
    if not (counts[:, 2].any() and counts[:, :2].any()):
        return False
    apart = np.full((cells.num_systems, cells.num_systems), np.inf)  # [i, j]: place of j less place of i, at most
    for i, j, column, most in (
        (*cells.pair.T, 0, -2.0),
        (*cells.pair.T[::-1], 1, -2.0),
        (*cells.pair.T, 2, 2.0),
        (*cells.pair.T[::-1], 2, 2.0),
    ):
        np.minimum.at(apart, (i, j), np.where(counts[:, column] > 0, most, np.inf))
    for system in range(cells.num_systems):
        apart = np.minimum(apart, apart[:, [system]] + apart[[system]])
    return bool((np.diagonal(apart) >= 0).all())


def fit(cells: Cells, counts: Array, *, davidson: bool = False) -> Fit:
    """The most likely ratings of `counts` (num_pairs, 3), by scipy.

    Raises:
        ArithmeticError: scipy found no maximum; this is a fault of ours, not of the data.
    """
    groups = connected_groups(cells)
    up, down = unbounded_systems(cells, counts)
    with_ties = davidson and bool(counts[:, 2].sum())
    without_maximum = with_ties and (not counts[:, :2].any() or has_no_davidson_maximum(cells, counts))
    needs_prior = bool(up or down) or without_maximum
    parameters = _maximise(cells, counts, groups, with_ties, PRIOR_PRECISION if needs_prior else 0.0)
    return _to_fit(cells, groups, parameters, with_ties)


def fit_resamples(cells: Cells, counts: Array, start: Fit, *, davidson: bool = False) -> Array:
    """Points of each resample (num_resamples, num_systems) by Newton's method from `start`, all resamples at once.

    A system that a resample leaves out is NaN there.

    Args:
        cells: What the counts' columns mean.
        counts: (num_resamples, num_pairs, 3).
        start: The fit of the whole.
        davidson: Fit the tie parameter too.
    """
    groups = connected_groups(cells)
    with_ties = davidson and start.nu > 0
    centred = np.nan_to_num((start.points - ANCHOR) / POINTS_PER_NAT)
    first = np.append(centred, np.log(start.nu) if with_ties else 0.0)
    parameters = np.tile(first, (len(counts), 1))
    for _ in range(MAX_NEWTON_STEPS):
        step = _newton_step(parameters, cells, counts, groups, with_ties)
        step *= np.minimum(1.0, MAX_STEP_NATS / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        parameters = parameters - step
        if np.abs(step).max(initial=0.0) < TOLERANCE_NATS:
            break
    else:
        moving = np.flatnonzero(np.abs(step).max(axis=1) >= TOLERANCE_NATS)
        for row in moving:  # scipy's trust region always goes uphill
            parameters[row] = _maximise(cells, counts[row], groups, with_ties, PRIOR_PRECISION)
    points = np.array([_to_fit(cells, groups, row, with_ties).points for row in parameters])
    points = points.reshape(len(counts), cells.num_systems)  # also where there is none, as with a single prompt
    played = np.zeros((len(counts), cells.num_systems))
    for side in (0, 1):
        _scatter(played, cells.pair[:, side], counts.sum(axis=2))
    return np.where(played > 0, points, np.nan)


def _newton_step(parameters: Array, cells: Cells, counts: Array, groups: list[list[int]], with_ties: bool) -> Array:
    """The step of each resample (B, S + 1), a few resamples at a time: their pairs stay in the processor's cache."""
    size = max(1, MAX_PAIRS // max(len(cells.pair), 1))
    steps = np.zeros_like(parameters)
    for begin in range(0, len(parameters), size):
        rows = slice(begin, begin + size)
        gradient, hessian = _derivatives(parameters[rows], cells, counts[rows], groups, with_ties, PRIOR_PRECISION)
        steps[rows] = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    return steps


def linear_resamples(cells: Cells, counts: Array, whole: Array, start: Fit) -> Array:
    """What `fit_resamples` gives where resamples are close to the whole, less `start`: linear in `counts`.

    Args:
        cells: What the counts' columns mean.
        counts: (num_resamples, num_pairs, 3).
        whole: (num_pairs, 3) counts of which `start` is the fit.
        start: Bradley-Terry's.
    """
    groups = connected_groups(cells)
    parameters = np.append(np.nan_to_num((start.points - ANCHOR) / POINTS_PER_NAT), 0.0)[None]
    gradient, _ = _derivatives(parameters, cells, counts, groups, False, PRIOR_PRECISION)
    _, hessian = _derivatives(parameters, cells, whole[None], groups, False, PRIOR_PRECISION)
    return to_points(-np.linalg.solve(hessian[0], gradient.T).T[:, :-1])


def _maximise(cells: Cells, counts: Array, groups: list[list[int]], with_ties: bool, precision: float) -> Array:
    def value(x: Array) -> float:
        return _value(x[None], cells, counts[None], groups, with_ties, precision)

    def gradient(x: Array) -> Array:
        return np.asarray(_derivatives(x[None], cells, counts[None], groups, with_ties, precision)[0][0])

    def hessian(x: Array) -> Array:
        return np.asarray(_derivatives(x[None], cells, counts[None], groups, with_ties, precision)[1][0])

    total = max(float(counts.sum()), 1.0)
    optimum = minimize(  # type: ignore[call-overload]  # the stubs reject functions of plain arrays
        lambda x: value(x) / total,
        np.zeros(cells.num_systems + 1),
        jac=lambda x: gradient(x) / total,
        hess=lambda x: hessian(x) / total,
        method="trust-exact",
        options={"gtol": 1e-12, "maxiter": 500},
    )
    if np.abs(optimum.jac).max() > 1e-7:
        raise ArithmeticError(f"scipy's trust-exact stopped short of a maximum: {optimum.message}")
    return np.asarray(optimum.x)


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """What is seen and what is expected of each pair, in every resample: (B, num_pairs) each."""

    won: Array  # by the pair's first system; a tie is half a win unless ties have a probability of their own
    tied: Array
    played: Array
    win: Array  # the probability of a win
    tie: Array
    mean: Array  # of the score


def _derivatives(
    parameters: Array, cells: Cells, counts: Array, groups: list[list[int]], with_ties: bool, precision: float
) -> tuple[Array, Array]:
    """Gradient (B, S + 1) and Hessian (B, S + 1, S + 1) of the negative log-likelihood at `parameters` (B, S + 1).

    The last parameter is log nu. What likelihood leaves open (the level of each group, a system without a match, nu
    without ties) is held at zero by a unit penalty, which does not move the rest.
    """
    seen = _outcomes(parameters, cells, counts, with_ties)
    penalty = _penalty(cells.num_systems, groups, with_ties, precision)
    gradient, hessian = _of_likelihood(seen, cells, with_ties)
    return gradient + parameters @ penalty, hessian + penalty


def _value(
    parameters: Array, cells: Cells, counts: Array, groups: list[list[int]], with_ties: bool, precision: float
) -> float:
    """Negative log-likelihood, with the penalty, at one row of `parameters` (1, S + 1)."""
    half_gap, log_tie, log_total = _logits(parameters, cells, with_ties)
    won, tied, played = _observed(counts, with_ties)
    value = float((played * log_total - (2.0 * won + tied - played) * half_gap).sum())
    if with_ties:
        value -= float((tied * log_tie).sum())
    penalty = _penalty(cells.num_systems, groups, with_ties, precision)
    return value + float(np.einsum("bi,ij,bj->", parameters, penalty, parameters)) / 2.0


def _logits(parameters: Array, cells: Cells, with_ties: bool) -> tuple[Array, Array, Array]:
    """(half the gap of each pair, log nu, log of the sum of the outcomes' weights)."""
    half_gap = (parameters[:, cells.pair[:, 0]] - parameters[:, cells.pair[:, 1]]) / 2.0
    log_total = np.abs(half_gap) + np.log1p(np.exp(-2.0 * np.abs(half_gap)))
    if not with_ties:
        return half_gap, np.full((len(parameters), 1), -np.inf), log_total
    log_tie = parameters[:, cells.num_systems :]
    return half_gap, log_tie, np.logaddexp(log_total, log_tie)


def _observed(counts: Array, with_ties: bool) -> tuple[Array, Array, Array]:
    """(won, tied, played) by pair."""
    won, lost, tied = counts[..., 0], counts[..., 1], counts[..., 2]
    played = won + lost + tied
    return (won, tied, played) if with_ties else (won + tied / 2.0, np.zeros_like(won), played)


def _outcomes(parameters: Array, cells: Cells, counts: Array, with_ties: bool) -> _Outcomes:
    half_gap, log_tie, log_total = _logits(parameters, cells, with_ties)
    won, tied, played = _observed(counts, with_ties)
    win = np.exp(half_gap - log_total)
    tie = np.exp(log_tie - log_total) if with_ties else np.zeros_like(win)
    return _Outcomes(won, tied, played, win, tie, win + tie / 2.0)


def _of_likelihood(seen: _Outcomes, cells: Cells, with_ties: bool) -> tuple[Array, Array]:
    """Gradient and Hessian without the penalty."""
    num, (i, j) = cells.num_systems, cells.pair.T
    excess = seen.played * seen.mean - seen.won - seen.tied / 2.0  # expected less observed score of i
    information = seen.played * (seen.win + seen.tie / 4.0 - seen.mean**2)
    size, rows = (len(seen.won), num + 1), np.arange(len(seen.won))[:, None]
    gradient, diagonal = np.zeros(size), np.zeros(size)
    hessian = np.zeros((*size, num + 1))
    for index, sign in ((i, 1.0), (j, -1.0)):
        _scatter(gradient, index, sign * excess)
        _scatter(diagonal, index, information)
    hessian[rows, i, j] = hessian[rows, j, i] = -information
    if with_ties:
        cross, shared = np.zeros(size), seen.played * seen.tie
        _scatter(cross, i, shared * (0.5 - seen.mean))
        _scatter(cross, j, -shared * (0.5 - seen.mean))
        hessian[:, num, :] = hessian[:, :, num] = cross
        gradient[:, num] = (shared - seen.tied).sum(axis=1)
        diagonal[:, num] = (shared * (1.0 - seen.tie)).sum(axis=1)
    diagonals = np.arange(num + 1)
    hessian[:, diagonals, diagonals] += diagonal
    return gradient, hessian


def _penalty(num: int, groups: list[list[int]], with_ties: bool, precision: float) -> Array:
    penalty = precision * np.eye(num + 1)
    for group in groups:
        member = np.zeros(num + 1)
        member[group] = 1.0
        penalty += np.outer(member, member)
    linked = {s for group in groups for s in group}
    for loose in [*(s for s in range(num) if s not in linked), *([] if with_ties else [num])]:
        penalty[loose, loose] += 1.0
    return penalty


def _scatter(target: Array, index: NDArray[np.int64], values: Array) -> None:
    """target[b, index[p]] += values[b, p], with repeats."""
    size = target.shape[1]
    flat = (np.arange(len(target))[:, None] * size + index).ravel()
    target += np.bincount(flat, weights=values.ravel(), minlength=target.size).reshape(target.shape)


def to_points(nats: Array, anchor: float = 0.0) -> Array:
    """Rating points, without the digits in which processors differ: equals are equal on each of them."""
    return np.asarray(np.round(anchor + POINTS_PER_NAT * nats, POINT_DIGITS))


def _to_fit(cells: Cells, groups: list[list[int]], parameters: Array, with_ties: bool) -> Fit:
    points = np.full(cells.num_systems, np.nan)
    for group in groups:
        strengths = parameters[group]
        points[group] = to_points(strengths - strengths.mean(), ANCHOR)
    return Fit(points=points, nu=float(np.exp(parameters[-1])) if with_ties else 0.0)


def _reachable(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Who can be reached from whom in any number of steps, oneself included."""
    reach = edges | np.eye(len(edges), dtype=bool)
    for _ in range(max(1, int(np.ceil(np.log2(max(len(edges), 2)))))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return reach


def _unique_small(codes: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """np.unique with the inverse, by counting instead of sorting."""
    present = np.bincount(codes, minlength=size) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]
