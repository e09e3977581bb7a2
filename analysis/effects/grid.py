"""One measure of every run of a grid, and the pairs of its runs that differ in one axis only.

`GridResults` is what every function of this folder takes. It is made by `analysis.effects.measures` of the frames of
`analysis.frames`, or by hand of any table of runs:

    grid = GridResults.of(runs, values, measure="accuracy", higher_is_better=True, questions=names)
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.tidy.axes import seed_columns, title_of, varying_axes

Array = NDArray[np.float64]
WHOLE = ""  # the one question of a measure that has a single number a run
MAX_LEVELS = 12  # of an axis whose values are all compared with each other
Level = Any  # a value of an axis: text, number or flag; None where it isn't set


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GridResults:
    """A measure of the runs of a grid, question by question where it has questions."""

    measure: str  # "mmlu accuracy"
    unit: str  # "share", "nats a token", "points"
    higher_is_better: bool | None  # None: the measure says nothing of quality
    runs: pd.DataFrame  # a row a run; index: its label; a column for each axis and seed
    values: Array  # (num_runs, num_questions); NaN where a run has no value
    questions: tuple[str, ...]  # (WHOLE,) for a measure that has a single number a run
    weights: Array | None  # (num_questions,) of each question in a run's mean; None: all alike
    settings: tuple[str, ...]  # of each run: runs that were measured otherwise can't be compared
    axes: tuple[str, ...]  # columns that differ between runs, seeds left out
    seeds: tuple[str, ...]  # columns of seeds
    columns: Mapping[str, tuple[Level, ...]]  # of each axis and seed, the runs' values
    left_out: tuple[str, ...] = ()  # sentences on runs that are not in it

    @classmethod
    def of(
        cls,
        runs: pd.DataFrame,
        values: NDArray[Any],
        *,
        measure: str,
        unit: str = "",
        higher_is_better: bool | None = True,
        questions: Sequence[str] = (WHOLE,),
        weights: Array | None = None,
        settings: Sequence[str] | None = None,
        axes: Sequence[str] | None = None,
        seeds: Sequence[str] | None = None,
        left_out: Sequence[str] = (),
    ) -> "GridResults":
        """Makes a grid of a table of runs.

        Args:
            runs: a row a run; its index are names, each once.
            values: (num_runs,) or (num_runs, num_questions).
            measure: its name, for tables.
            unit: of the values.
            higher_is_better: whether the best run has the highest value; None: it can't be said.
            questions: names of the columns of `values`.
            weights: (num_questions,) of each question in a run's mean.
            settings: of each run, how it was measured; None: all alike.
            axes: columns of `runs`; None: those of `analysis.tidy.axes` in which runs differ.
            seeds: columns of `runs` that hold seeds; None: those in which runs differ.
            left_out: sentences on runs that are not in the table.

        Raises:
            ValueError: tables that don't fit, a missing column, two runs alike in all axes and seeds, or a run without
                any value.
        """
        axes = varying_axes(runs) if axes is None else axes
        seeds = seed_columns(runs) if seeds is None else seeds
        table = np.asarray(values, dtype=np.float64)
        table = table[:, None] if table.ndim == 1 else table
        if table.shape != (len(runs), len(questions)):
            raise ValueError(f"values of shape {table.shape}: expected {len(runs)} runs x {len(questions)} questions")
        if missing := [name for name in (*axes, *seeds) if name not in runs]:
            raise ValueError(f"no column {', '.join(missing)}; the runs have {', '.join(map(str, runs))}")
        if empty := [str(runs.index[int(row)]) for row in np.flatnonzero(~np.isfinite(table).any(axis=1))]:
            raise ValueError(f"{', '.join(empty[:5])}: no value of {measure}; leave these runs out")
        grid = cls(
            measure=measure,
            unit=unit,
            higher_is_better=higher_is_better,
            runs=runs,
            values=table,
            questions=tuple(questions),
            weights=weights,
            settings=tuple(settings) if settings is not None else ("",) * len(runs),
            axes=tuple(axes),
            seeds=tuple(seeds),
            columns={name: tuple(_levels(runs[name])) for name in (*axes, *seeds)},
            left_out=tuple(left_out),
        )
        _refuse_twins(grid)
        return grid

    def levels(self, axis: str) -> list[Level]:
        """The values of an axis in the order of its column: numbers by size, categories as the column has them."""
        if axis not in self.axes:
            raise ValueError(f"axis {axis!r}: the runs differ in {', '.join(self.axes) or 'nothing'}")
        column = self.runs[axis]
        if isinstance(column.dtype, pd.CategoricalDtype):
            present = set(column.dropna())
            known: list[Level] = [value for value in column.cat.categories if value in present]
        else:
            known = sorted(column.dropna().unique().tolist())
        return [*known, None] if column.isna().any() else known

    def setting(self, row: int, without: Sequence[str] = ()) -> tuple[Level, ...]:
        """The values of a run's axes, but for some."""
        return tuple(self.columns[axis][row] for axis in self.axes if axis not in without)

    def seed(self, row: int) -> tuple[Level, ...]:
        """The seeds of a run."""
        return tuple(self.columns[name][row] for name in self.seeds)

    def rows_of(self, axis: str, value: Level) -> list[int]:
        """The runs at a value of an axis."""
        return [row for row, level in enumerate(self.columns[axis]) if level == value]

    def settings_rows(self, without: Sequence[str] = ()) -> dict[tuple[Level, ...], list[int]]:
        """-> {setting: its runs}, in the order of the table."""
        found: dict[tuple[Level, ...], list[int]] = {}
        for row in range(len(self.runs)):
            found.setdefault(self.setting(row, without), []).append(row)
        return found


def even_weights(settings: Sequence[tuple[Level, ...]]) -> Array | None:
    """Weights of runs by which each setting counts once, however many seeds it has; None where all have as many.

    Args:
        settings: of each run.
    """
    counts = Counter(settings)
    if len(set(counts.values())) <= 1:
        return None
    return np.array([1.0 / counts[setting] for setting in settings])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The pairs of runs that differ in one axis only: `value` and `against`."""

    axis: str
    value: Level
    against: Level
    pairs: tuple[tuple[int, int], ...]  # rows of the grid: (at `value`, at `against`)
    along: tuple[str, ...]  # axes that change together with this one, so that their effect is in it
    settings: tuple[tuple[Level, ...], ...]  # of the other axes, of each pair
    note: str  # on runs that have no partner; empty where all have one

    @property
    def num_settings(self) -> int:
        """In how many settings of the other axes there is a pair."""
        return len(set(self.settings))


def pairings(grid: GridResults, axis: str) -> Iterator[Pairing]:
    """The pairs of every two values of an axis, the later value less the earlier one.

    Of an axis with more than `MAX_LEVELS` values each is paired with the one that most runs have.
    """
    bound, levels = followers(grid, axis), grid.levels(axis)
    compared = list(combinations(levels, 2))
    if len(levels) > MAX_LEVELS:
        usual = max(levels, key=lambda level: len(grid.rows_of(axis, level)))
        compared = [(usual, level) for level in levels if level != usual]
    for against, value in compared:
        yield pair_up(grid, axis, value, against, bound)


def pair_up(grid: GridResults, axis: str, value: Level, against: Level, bound: Sequence[str] | None = None) -> Pairing:
    """Pairs runs of two values of an axis that are alike in all else, seeds too.

    Args:
        grid: the runs.
        axis: one of its axes.
        value: one of the axis's values.
        against: another of them.
        bound: `followers` of the axis, where they are known.

    Raises:
        ValueError: no such axis or value.
    """
    for level in (value, against):
        if level not in grid.levels(axis):
            shown = ", ".join(map(str, grid.levels(axis)))
            raise ValueError(f"{axis}={level}: no run has it; the runs have {shown}")
    bound = followers(grid, axis) if bound is None else bound
    without = (axis, *bound)
    partners = {(grid.setting(row, without), grid.seed(row)): row for row in grid.rows_of(axis, against)}
    pairs, other = [], 0
    mine = grid.rows_of(axis, value)
    for row in mine:
        partner = partners.get((grid.setting(row, without), grid.seed(row)))
        if partner is not None and grid.settings[row] != grid.settings[partner]:
            other += 1
        elif partner is not None:
            pairs.append((row, partner))
    return Pairing(
        axis=axis,
        value=value,
        against=against,
        pairs=tuple(pairs),
        along=tuple(name for name in bound if any(_differ(grid, pair, name) for pair in pairs)),
        settings=tuple(grid.setting(row, without) for row, _ in pairs),
        note=_unpaired(grid, axis, len(mine), len(partners), len(pairs), other),
    )


def followers(grid: GridResults, axis: str) -> list[str]:
    """Later axes whose value is given by this one's, alone or with one more axis: the paper's recipe ties them so.

    A learning rate that goes with the model's size can't be held fixed while the model changes. Points of a random
    search tie nothing: what an axis follows must repeat, or span a whole grid.
    """
    later = grid.axes[grid.axes.index(axis) + 1 :]
    free = [name for name in later if not _is_given(grid, name, (axis,))]
    tied = [name for name in free if not _varies_alone(grid, name) and _is_given_by_two(grid, name, axis)]
    return [name for name in later if name not in free or name in tied]


def _is_given_by_two(grid: GridResults, name: str, axis: str) -> bool:
    return any(_is_given(grid, name, (axis, other)) for other in grid.axes if other not in (name, axis))


def _is_given(grid: GridResults, name: str, by: Sequence[str]) -> bool:
    """Whether values of `by` leave one value of `name`, and not only as every setting is there once."""
    settings = list(grid.settings_rows())
    places = [grid.axes.index(other) for other in by]
    given: dict[tuple[Level, ...], set[Level]] = {}
    for setting in settings:
        given.setdefault(tuple(setting[place] for place in places), set()).add(setting[grid.axes.index(name)])
    is_whole = set(grid.axes) == {name, *by} and len(given) == math.prod(len(grid.levels(other)) for other in by)
    return (len(given) < len(settings) or is_whole) and all(len(values) == 1 for values in given.values())


def _varies_alone(grid: GridResults, name: str) -> bool:
    """Whether two runs differ in this axis only."""
    return any(len({grid.setting(row) for row in rows}) > 1 for rows in grid.settings_rows(without=(name,)).values())


def _differ(grid: GridResults, pair: tuple[int, int], name: str) -> bool:
    one, other = (grid.setting(row)[grid.axes.index(name)] for row in pair)
    return one is not None and other is not None and bool(one != other)


def _unpaired(grid: GridResults, axis: str, mine: int, theirs: int, paired: int, other: int) -> str:
    notes = []
    if other:
        notes.append(
            f"{other} pair{'s were' if other > 1 else ' was'} measured on other questions or settings and can't be "
            "compared"
        )
    if not paired:
        beside = ", ".join(title_of(name) for name in (*grid.axes, *grid.seeds) if name != axis)
        notes.append(
            f"no two runs differ in {title_of(axis)} alone" + (f" (they also differ in {beside})" * bool(beside))
        )
    elif alone := mine + theirs - 2 * (paired + other):
        have = "run has" if alone == 1 else "runs have"
        notes.append(f"{alone} {have} no partner of the same setting and seed")
    return "; ".join(notes)


def _refuse_twins(grid: GridResults) -> None:
    seen: dict[tuple[Any, ...], Any] = {}
    for row, label in enumerate(grid.runs.index):
        first = seen.setdefault((grid.setting(row), grid.seed(row)), label)
        if first != label:
            raise ValueError(
                f"{first} and {label} have the same values of {', '.join((*grid.axes, *grid.seeds)) or 'all axes'}: "
                "name the axis or seed that tells them apart, or leave one out"
            )


def _levels(column: "pd.Series[Any]") -> list[Level]:
    """The values of a column as plain ones."""
    plain = [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]
    return [value.item() if isinstance(value, np.generic) else value for value in plain]


def level_text(value: Any) -> str:
    """A value of an axis in words."""
    if pd.isna(value):
        return "not set"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def setting_text(axes: Sequence[str], setting: Sequence[Level]) -> str:
    """A setting in words: `data type nf4, r 64`."""
    return ", ".join(f"{title_of(axis)} {level_text(value)}" for axis, value in zip(axes, setting, strict=True))
