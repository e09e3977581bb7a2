"""Compares the levels of an axis on one measure: every pair, with its interval, p, equality and what could be seen.

    contest = compare_levels(grid, layout, loss, Options(margin=0.01))
    print(contest.sentence)

Each level takes part with its best setting (`analysis.compare.search`), its seeds are replicates, and levels are paired
over questions (`eval.benchmarks.replicates`). p is corrected for all pairs of the measure, by Holm (1979) or by
Benjamini and Hochberg (1995). Equality is shown by two one-sided tests (Schuirmann 1987) against a margin that is
stated before looking; that a difference isn't significant shows nothing, but `detectable` says which difference would
have been seen.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.compare.levels import ADAPTER, Layout, axis_title
from analysis.compare.options import POINTS, Correction, Options
from analysis.compare.search import Entrant, Split, entrant_of, split_of
from analysis.effects.crossed import linearised
from analysis.effects.grid import GridResults, Level, level_text, setting_text
from eval.benchmarks.replicates import Spreads, detectable
from eval.ratings.comparisons import LEVEL, benjamini_hochberg, holm

Array = NDArray[np.float64]


CORRECTIONS: Mapping[Correction, Callable[[Sequence[float]], list[float]]] = {
    Correction.holm: holm,
    Correction.bh: benjamini_hochberg,
    Correction.none: list,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A level on the measure."""

    level: Level
    block: str  # within what it is compared, in words; empty: in the whole sweep
    setting: str  # that was chosen
    value: float | None  # mean over the compared runs and questions; None: it couldn't be compared
    low: float | None  # 95 %
    high: float | None
    uncorrected: float | None  # the best mean of its settings over everything, which is too good
    num_settings: int
    num_seeds: int
    num_runs: int
    num_compared_runs: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two levels: `first` less `second`, in the measure's unit. None: it can't be said, and `note` says why."""

    first: Level  # the better one, where the measure says which is
    second: Level
    block: str
    difference: float
    low: float | None  # 95 %, of this pair alone
    high: float | None
    p_value: float | None
    p_corrected: float | None
    p_equal: float | None  # of two one-sided tests; None where no margin is given
    detectable: float | None  # the difference that is found with 80 % power at the 5 % level, of this pair alone
    detectable_corrected: float | None  # likewise at the level that the first of all pairs has to meet
    freedom: float | None  # degrees of freedom of the error
    note: str = ""

    @property
    def is_different(self) -> bool:
        """Whether the corrected p is below 0.05."""
        return self.p_corrected is not None and self.p_corrected < LEVEL

    @property
    def is_equal(self) -> bool:
        """Whether they are equal up to the margin."""
        return self.p_equal is not None and self.p_equal < LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """All levels on one measure."""

    measure: str
    unit: str
    higher_is_better: bool | None
    axis: str
    standings: tuple[Standing, ...]  # the best first, block by block
    pairs: tuple[Pair, ...]
    num_questions: int  # that are compared
    margin: float | None
    correction: Correction
    source: str  # by what settings were chosen; empty: nothing was searched
    budget_note: str  # empty: all levels had as many settings and seeds
    notes: tuple[str, ...]  # of runs that are left out, and of spreads


def compare_levels(grid: GridResults, layout: Layout, loss: Mapping[str, float], options: Options) -> Contest:
    """Compares every two levels, within each value of the axes that are held apart.

    Args:
        grid: the measure of the runs; its axes are `layout.columns`.
        layout: which axis is compared.
        loss: label of a run -> its held-out loss.
        options: what was chosen before looking.

    Raises:
        ValueError: settings are to be chosen by a measure that says nothing of quality, or by nothing.
    """
    by_row = {row: loss[str(name)] for row, name in enumerate(grid.runs.index) if str(name) in loss}
    parts = [_block(grid, layout, block, rows, by_row, options) for block, rows in _blocks(grid, layout).items()]
    pairs = [pair for part in parts for pair in part.pairs]
    return Contest(
        measure=grid.measure,
        unit=grid.unit,
        higher_is_better=grid.higher_is_better,
        axis=layout.axis,
        standings=tuple(standing for part in parts for standing in part.standings),
        pairs=tuple(_corrected(pairs, options.correction)),
        num_questions=max(part.num_questions for part in parts),
        margin=options.margin,
        correction=options.correction,
        source="; ".join(dict.fromkeys(part.source for part in parts if part.source)),
        budget_note="; ".join(note for part in parts if (note := _budgets(layout, part.standings))),
        notes=tuple(dict.fromkeys([*grid.left_out, *_along(layout), *(note for part in parts for note in part.notes)])),
    )


def _along(layout: Layout) -> list[str]:
    """What differs between the levels beside their names, so that its effect is in the comparison."""
    of_method = [name for name in layout.along if name == "method" or name.startswith("adapter.")]
    beside = [axis_title(name) for name in layout.along if layout.axis != ADAPTER or name not in of_method]
    return [f"{axis_title(layout.axis)}s differ in {', '.join(beside)}, too: it is a part of each"] if beside else []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    standings: list[Standing]
    pairs: list[Pair]
    num_questions: int
    source: str
    notes: list[str]


def _blocks(grid: GridResults, layout: Layout) -> dict[tuple[Level, ...], list[int]]:
    found: dict[tuple[Level, ...], list[int]] = {}
    for row in range(len(grid.runs)):
        found.setdefault(tuple(grid.columns[name][row] for name in layout.within), []).append(row)
    return found


def _block(
    grid: GridResults,
    layout: Layout,
    block: tuple[Level, ...],
    rows: Sequence[int],
    loss: Mapping[int, float],
    options: Options,
) -> _Part:
    name = setting_text(layout.within, block)
    rows, notes = _of_one_protocol(grid, rows)
    by_level: dict[Level, list[int]] = {}
    for row in rows:
        by_level.setdefault(grid.columns[layout.axis][row], []).append(row)
    settings = {level: {_setting(grid, layout, row) for row in members} for level, members in by_level.items()}
    is_searched = any(len(found) > 1 for found in settings.values())
    if is_searched and grid.higher_is_better is None:
        raise ValueError(f"{grid.measure}: nothing says whether more is better, so that no setting can be chosen by it")
    split = split_of(grid, rows, is_searched, loss, options.select_on)
    levels = [level for level in grid.levels(layout.axis) if level in by_level]
    entrants = [entrant_of(grid, level, by_level[level], layout.searched, split, loss) for level in levels]
    tables, more = _tables(grid, entrants, split)
    notes += more + ([split.note] if split.note else [])
    fighting = [entrant for entrant in entrants if entrant.rows]
    spreads = Spreads.of(tables) if tables else None
    if spreads is not None and not spreads.are_pooled:
        notes.append(
            f"the spreads between seeds differ (Cochran's p = {spreads.unequal_p:.1g}): each level's is its own"
        )
    standings = [
        _standing(entrant, name, spreads, fighting.index(entrant) if entrant in fighting else None, _range(grid))
        for entrant in entrants
    ]
    return _Part(
        standings=_best_first(standings, grid.higher_is_better),
        pairs=list(_pairs(fighting, name, spreads, options, grid.higher_is_better)) if spreads is not None else [],
        num_questions=tables[0].shape[1] if tables else 0,
        source=split.source,
        notes=[f"{name}: {note}" if name else note for note in notes],
    )


def _setting(grid: GridResults, layout: Layout, row: int) -> tuple[Level, ...]:
    return tuple(grid.columns[name][row] for name in layout.searched)


def _of_one_protocol(grid: GridResults, rows: Sequence[int]) -> tuple[list[int], list[str]]:
    """The runs that were measured as most were, and a sentence on others: their scores can't be compared."""
    counts = Counter(grid.settings[row] for row in rows)
    usual = max(counts, key=lambda protocol: counts[protocol])
    others = [str(grid.runs.index[row]) for row in rows if grid.settings[row] != usual]
    kept = [row for row in rows if grid.settings[row] == usual]
    return kept, [f"measured on other questions or settings, left out: {', '.join(others)}"] if others else []


def _tables(grid: GridResults, entrants: Sequence[Entrant], split: Split) -> tuple[list[Array], list[str]]:
    """The values of every level that is compared, over the questions that all their runs have."""
    chosen = [list(entrant.rows) for entrant in entrants if entrant.rows]
    if not chosen:
        return [], []
    values = grid.values[:, split.compared_questions]
    shared = np.isfinite(values[[row for rows in chosen for row in rows]]).all(axis=0)
    if not shared.any():
        raise ValueError(f"{grid.measure}: no question is common to all runs that are compared")
    lacking = int((~shared).sum())
    weights = None if grid.weights is None else grid.weights[split.compared_questions][shared]
    notes = [f"questions that some run lacks, left out: {lacking}"] if lacking else []
    return [linearised(values[rows][:, shared], weights) for rows in chosen], notes


def _range(grid: GridResults) -> tuple[float, float]:
    """Between what a mean lies: points of a hundred end there."""
    return (0.0, 100.0) if grid.unit == POINTS else (-math.inf, math.inf)


def _standing(
    entrant: Entrant, block: str, spreads: Spreads | None, place: int | None, within: tuple[float, float]
) -> Standing:
    mean = None if spreads is None or place is None else spreads.mean(place)
    interval = None if mean is None else mean.interval()
    return Standing(
        level=entrant.level,
        block=block,
        setting=entrant.setting,
        value=None if mean is None else mean.value,
        low=None if interval is None else max(within[0], interval[0]),
        high=None if interval is None else min(within[1], interval[1]),
        uncorrected=entrant.uncorrected,
        num_settings=entrant.num_settings,
        num_seeds=entrant.num_seeds,
        num_runs=entrant.num_runs,
        num_compared_runs=len(entrant.rows),
        problems=entrant.problems,
    )


def _best_first(standings: Sequence[Standing], higher: bool | None) -> list[Standing]:
    known = [standing for standing in standings if standing.value is not None]
    if higher is not None:
        known.sort(key=lambda standing: standing.value or 0.0, reverse=higher)
    return [*known, *(standing for standing in standings if standing.value is None)]


def _pairs(
    entrants: Sequence[Entrant], block: str, spreads: Spreads, options: Options, higher: bool | None
) -> Iterator[Pair]:
    for earlier, later in combinations(range(len(entrants)), 2):
        one, other = earlier, later
        found = spreads.difference(one, other)
        if (-found.value if higher is False else found.value) < 0.0:  # the better one stands first
            one, other = later, earlier
            found = spreads.difference(one, other)
        interval = found.interval()
        yield Pair(
            first=entrants[one].level,
            second=entrants[other].level,
            block=block,
            difference=found.value,
            low=None if interval is None else interval[0],
            high=None if interval is None else interval[1],
            p_value=found.p_two_sided(),
            p_corrected=None,
            p_equal=None if options.margin is None else found.p_equal(options.margin),
            detectable=found.detectable(),
            detectable_corrected=None,
            freedom=None if found.error is None else found.freedom,
            note=found.note,
        )


def _corrected(pairs: Sequence[Pair], correction: Correction) -> Iterator[Pair]:
    """The pairs with p and the detectable difference corrected for their number."""
    tested = [pair.p_value for pair in pairs if pair.p_value is not None]
    adjusted = iter(CORRECTIONS[correction](tested))
    level = LEVEL if correction is Correction.none else LEVEL / max(1, len(tested))
    for pair in pairs:
        if pair.p_value is None:
            yield pair
            continue
        yield replace(pair, p_corrected=next(adjusted), detectable_corrected=_at_level(pair, level))


def _at_level(pair: Pair, level: float) -> float | None:
    """The detectable difference at another level, from that at 5 %: both are multiples of one error."""
    if pair.detectable is None or pair.freedom is None:
        return None
    error = pair.detectable / detectable(1.0, pair.freedom)
    return detectable(error, pair.freedom, level)


def _budgets(layout: Layout, standings: Sequence[Standing]) -> str:
    """A sentence where levels had unequal budgets, in settings or in seeds."""
    if len({(standing.num_settings, standing.num_runs) for standing in standings}) <= 1:
        return ""
    shown = ", ".join(
        f"{level_text(s.level)} {s.num_settings} setting{'s' * (s.num_settings != 1)} in {s.num_runs} runs"
        for s in standings
    )
    [block] = {standing.block for standing in standings}
    where = f"{block}: " if block else ""
    return f"{where}unequal budgets between {axis_title(layout.axis)}s: {shown}"
