"""The effect of each axis of a grid, with an interval over questions and seeds, and tests that two values are equal.

    for effect in effects(grid):
        print(effect.axis, effect.value, effect.against, effect.difference, effect.low, effect.high, effect.p_holm)
    print(equivalence(grid, "data_type", "nf4", "bf16", margin=0.01).verdict)

An effect is the mean over all pairs of runs that differ in this axis only (the same seed, the same other settings, the
same questions) of the later value less the earlier one; each setting of the other axes counts once, however many of its
seeds are paired. A pair is a row and a question is a column of
`crossed_mean`'s table, so the interval is over both; the settings of the other axes are those of the grid, and where
the effect differs between them the interval gets wider, not narrower. p_holm is corrected by Holm (1979) for all
effects that one call gives. Where a single pair was scored right or wrong on each question, p is at least that of the
exact sign-flip test over questions (McNemar's, exact), and the interval is as wide as that p asks.

Equality is shown by two one-sided tests (Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15) against a margin
that is stated before looking; that a difference isn't significant shows nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.effects.crossed import ALL_EQUAL, LEVEL, CrossedMean, Part, crossed_mean
from analysis.effects.grid import GridResults, Level, Pairing, even_weights, level_text, pair_up, pairings
from analysis.tidy.axes import title_of
from eval.ratings.comparisons import flip_p, holm

Array = NDArray[np.float64]
METHOD = (
    "mean difference of runs that differ in one axis only, paired by seed and question; 95 % intervals over pairs and "
    "questions (two-way mean squares, Student's t of each part, Banerjee 1960), not corrected; p_holm is corrected for "
    "all effects shown (Holm 1979)"
)
EQUIVALENCE_METHOD = "two one-sided tests at the 5 % level against the stated margin (Schuirmann 1987)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What changing one axis from `against` to `value` does to a measure, all else equal. None: it can't be said."""

    axis: str
    value: Level
    against: Level
    measure: str
    unit: str
    difference: float | None  # mean at `value` less mean at `against`
    low: float | None  # 95 %, not corrected
    high: float | None
    p_value: float | None
    p_holm: float | None  # corrected for all effects of the call
    num_pairs: int
    num_settings: int  # of the other axes
    num_questions: int  # that all pairs share; 1 for a measure of a single number a run
    sd_pairs: float | None  # standard deviation of the pairs' own differences
    along: tuple[str, ...] = ()  # axes that change together with this one: their effect is in it
    note: str = ""  # what the interval leaves out, or why there is none

    @property
    def is_significant(self) -> bool | None:
        """Whether p_holm is below 0.05; None where there is no p."""
        return None if self.p_holm is None else self.p_holm < LEVEL

    def sentence(self) -> str:
        """The effect in words."""
        what = f"{title_of(self.axis)} {level_text(self.value)} against {level_text(self.against)}"
        if self.difference is None:
            return f"{what}: {self.note}"
        interval = "" if self.low is None else f" [{self.low:+.4g}, {self.high:+.4g}]"
        with_it = f", together with {', '.join(map(title_of, self.along))}" if self.along else ""
        note = f"; {self.note}" if self.note else ""
        pairs = f"{self.num_pairs} pair{'s' * (self.num_pairs > 1)}"
        return f"{what}{with_it}: {self.difference:+.4g}{interval} {self.unit}, {pairs}{note}".replace(" ,", ",")


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Whether two values of an axis are equal up to a margin, by two one-sided tests."""

    axis: str
    value: Level
    against: Level
    measure: str
    unit: str
    margin: float  # in the measure's unit, both ways
    difference: float | None
    low90: float | None  # equal up to the margin exactly where this interval lies within it; None without p
    high90: float | None
    p_value: float | None  # the larger of the two one-sided ones
    is_equivalent: bool | None  # None: no pair, or nothing to measure an error by
    num_pairs: int
    num_questions: int
    note: str

    @property
    def verdict(self) -> str:
        """One sentence."""
        what = f"{title_of(self.axis)} {level_text(self.value)} and {level_text(self.against)}"
        within = f"within {self.margin:g} {self.unit}".rstrip()
        if self.is_equivalent is None:
            return f"{what}: can't be tested ({self.note})"
        bounds = f"90 % interval [{self.low90:+.4g}, {self.high90:+.4g}]"
        why = ", ".join(part for part in (f"p = {self.p_value:.2g}", bounds, self.note) if part)
        if self.is_equivalent:
            return f"{what} are equal {within} ({why})"
        return f"{what} are not shown to be equal {within} ({why})"


def effects(grid: GridResults, axes: Sequence[str] | None = None) -> list[Effect]:
    """The effect of every two values of every axis, one without a pair too: its note says why there is none.

    The values of an axis that has more than `analysis.effects.grid.MAX_LEVELS` are each compared with the usual one.

    Args:
        grid: the runs.
        axes: only these; None: all in which runs differ.
    """
    found = [
        _effect(grid, pairing) for axis in (grid.axes if axes is None else axes) for pairing in pairings(grid, axis)
    ]
    corrected = iter(holm([effect.p_value for effect in found if effect.p_value is not None]))
    return [effect if effect.p_value is None else replace(effect, p_holm=next(corrected)) for effect in found]


def effect_of(grid: GridResults, axis: str, value: Level, against: Level) -> Effect:
    """The effect of one change, chosen before looking: p_holm is its own p.

    Raises:
        ValueError: no such axis or value.
    """
    found = _effect(grid, pair_up(grid, axis, value, against))
    return replace(found, p_holm=found.p_value)


def equivalence(grid: GridResults, axis: str, value: Level, against: Level, margin: float) -> Equivalence:
    """Tests whether two values of an axis are equal up to a margin.

    Args:
        grid: the runs.
        axis: one of its axes.
        value: one of the axis's values.
        against: another.
        margin: the largest difference that counts as none, in the measure's unit; state it before looking.

    Raises:
        ValueError: no such axis or value, or a margin that isn't above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}: the largest difference that counts as none, so above 0")
    pairing = pair_up(grid, axis, value, against)
    table, weights, evenly, notes = differences(grid, pairing)
    mean = _difference(table, weights, evenly)
    p_value, bounds, why = _two_one_sided(table, mean, margin, are_shares=_are_shares(grid))
    return Equivalence(
        axis=axis,
        value=value,
        against=against,
        measure=grid.measure,
        unit=grid.unit,
        margin=margin,
        difference=None if mean is None else mean.mean,
        low90=bounds[0],
        high90=bounds[1],
        p_value=p_value,
        is_equivalent=None if p_value is None else p_value < LEVEL,
        num_pairs=len(pairing.pairs),
        num_questions=table.shape[1],
        note="; ".join(note for note in (pairing.note, *notes, why) if note),
    )


def effects_frame(found: Sequence[Effect]) -> pd.DataFrame:
    """Effects as a frame with a row each; values of axes as text, as one column holds those of several axes."""
    rows = [asdict(effect) | {"is_significant": effect.is_significant} for effect in found]
    frame = pd.DataFrame(rows, columns=[*Effect.__dataclass_fields__, "is_significant"])
    for name in ("value", "against"):
        frame[name] = frame[name].map(level_text).astype("string")
    frame["along"] = frame["along"].map(", ".join).astype("string")
    numbers = ("difference", "low", "high", "p_value", "p_holm", "sd_pairs")
    return frame.astype({**dict.fromkeys(numbers, "Float64"), "is_significant": "boolean", "axis": "category"})


def differences(grid: GridResults, pairing: Pairing) -> tuple[Array, Array | None, Array | None, list[str]]:
    """-> ((num_pairs, num_questions) differences of the pairs, weights of questions, weights of pairs, notes)

    Only questions that every pair has both values of are taken. Where pairs share none, as each was scored on its
    own dataset, a pair is one number: its mean over its own questions.
    """
    if not pairing.pairs:
        return np.zeros((0, 0)), None, None, []
    table = np.array([grid.values[row] - grid.values[partner] for row, partner in pairing.pairs])
    known = np.isfinite(table)
    shared = known.all(axis=0)
    if shared.any():
        rows = [row for pair in pairing.pairs for row in pair]
        lacking = int(np.isfinite(grid.values[rows]).any(axis=0).sum() - shared.sum())
        notes = [f"questions that some run lacks are left out: {lacking}"] if lacking else []
        weights = None if grid.weights is None else grid.weights[shared]
        return table[:, shared], weights, even_weights(pairing.settings), notes
    kept = known.any(axis=1)
    table = table[kept]
    if not len(table):
        return np.zeros((0, 0)), None, None, ["the runs of a pair have no question in common"]
    weights = np.ones(len(grid.questions)) if grid.weights is None else grid.weights
    weighted = np.where(np.isfinite(table), weights, 0.0)
    means = (np.nan_to_num(table) * weighted).sum(axis=1) / weighted.sum(axis=1)
    evenly = even_weights([setting for setting, is_kept in zip(pairing.settings, kept, strict=True) if is_kept])
    return means[:, None], None, evenly, ["no question is common to all pairs: each pair is one number"]


def _effect(grid: GridResults, pairing: Pairing) -> Effect:
    table, weights, evenly, notes = differences(grid, pairing)
    mean = _difference(table, weights, evenly)
    interval = None if mean is None else mean.interval()
    return Effect(
        axis=pairing.axis,
        value=pairing.value,
        against=pairing.against,
        measure=grid.measure,
        unit=grid.unit,
        difference=None if mean is None else mean.mean,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        p_value=None if mean is None else mean.p_two_sided(),
        p_holm=None,
        num_pairs=len(pairing.pairs),
        num_settings=pairing.num_settings,
        num_questions=table.shape[1],
        sd_pairs=None if mean is None else mean.sd_runs,
        along=pairing.along,
        note="; ".join(note for note in (pairing.note, *notes, "" if mean is None else mean.note) if note),
    )


def _difference(table: Array, weights: Array | None, evenly: Array | None) -> CrossedMean | None:
    """The mean difference; None without a pair. Of one pair with whole numbers as wide as an exact test asks."""
    if not table.size:
        return None
    mean = crossed_mean(table, weights, rows="pair", run_weights=evenly)
    if len(table) > 1 or weights is not None or not mean.parts or (table % 1).any():
        return mean
    exact = flip_p(table[0].astype(np.int64))
    asymptotic, freedom = mean.p_two_sided(), mean.parts[0].freedom
    if asymptotic is None or exact <= asymptotic or exact >= 0.999:
        return mean
    error = mean.mean / float(stdtrit(freedom, exact / 2.0))
    return replace(mean, parts=(Part(variance=error**2, freedom=freedom),))


def _two_one_sided(
    table: Array, mean: CrossedMean | None, margin: float, are_shares: bool
) -> tuple[float | None, tuple[float | None, float | None], str]:
    """-> (p, 90 % interval, why there is none, or what it leaves out)

    Runs that agree on every question, scored from 0 to 1, have no spread. If they truly differed by the margin, at
    least that share of the questions would differ, and none of n would with a chance of at most (1 - margin)^n: an
    exact p.
    """
    if mean is None:
        return None, (None, None), ""
    interval = mean.interval(2 * LEVEL)
    if interval is not None:
        above, below = mean.p_above(-margin), mean.p_above(margin)
        assert above is not None
        assert below is not None
        return max(above, 1.0 - below), interval, mean.note
    num_questions = table.shape[1]
    if are_shares and mean.note == ALL_EQUAL and not table.any():
        widest = 1.0 - LEVEL ** (1.0 / num_questions)
        exact = f"the same on all {num_questions} questions: an exact bound on the share that would differ"
        return (1.0 - min(margin, 1.0)) ** num_questions, (-widest, widest), exact
    return None, (None, None), mean.note


def _are_shares(grid: GridResults) -> bool:
    known = grid.values[np.isfinite(grid.values)]
    return len(grid.questions) > 1 and bool(((known >= 0.0) & (known <= 1.0)).all())
