"""Tables of a grid with its seeds merged: settings, the best by axis, two axes against each other, and all at once.

merged(grid)                                # a row a setting: mean, interval, spread between seeds
best_by_axis(grid)                          # a row a value of an axis: which is best, and is it told from the others
interaction(grid, "data_type", "lora_r")    # a row a cell of the heat map
parallel_coordinates(grid)                  # a line a setting, for a figure
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.effects.compare import Effect, effect_of, effects
from analysis.effects.crossed import CrossedMean, crossed_mean
from analysis.effects.grid import GridResults, Level, even_weights, followers, level_text, setting_text
from analysis.tidy.axes import title_of
from eval.benchmarks.intervals import wilson_interval

Array = NDArray[np.float64]
MERGED_METHOD = (
    "mean over seeds and questions; 95 % intervals over both (two-way mean squares, Student's t of each part, Banerjee "
    "1960); of one run that was scored right or wrong, Wilson's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelAxis:
    """One vertical axis of a figure of parallel coordinates."""

    name: str  # a column of the lines; "value" is the measure
    title: str
    ticks: tuple[tuple[str, float], ...]  # (text, position from 0, the bottom, to 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParallelCoordinates:
    """A figure of all settings: each is a line through its place on every axis, the measure last."""

    axes: tuple[ParallelAxis, ...]
    lines: pd.DataFrame  # `merged`'s columns, and `at <axis>` from 0 to 1 for each of `axes`


def merged(grid: GridResults) -> pd.DataFrame:
    """A row for each setting, its seeds merged, in the order of the runs.

    Columns: the axes; `value` (mean over seeds and questions), `low`, `high` (95 %, over both), `sd_seeds` (standard
    deviation between the seeds' own means, missing for one), `num_seeds`, `num_questions`, `runs` (names, joined by a
    comma) and `note`: what the interval leaves out, or why there is none.
    """
    rows = []
    for setting, members in grid.settings_rows().items():
        mean, missing = mean_of(grid, members)
        low, high = _interval(grid, members, mean)
        rows.append(
            {
                **dict(zip(grid.axes, setting, strict=True)),
                "value": mean.mean,
                "low": low,
                "high": high,
                "sd_seeds": mean.sd_runs,
                "num_seeds": len(members),
                "num_questions": mean.num_questions,
                "runs": ", ".join(str(grid.runs.index[row]) for row in members),
                "note": "; ".join(note for note in (missing, _of_seeds(mean)) if note),
            }
        )
    frame = pd.DataFrame(rows)
    for axis in grid.axes:
        frame[axis] = frame[axis].astype(grid.runs[axis].dtype)
    numbers = dict.fromkeys(("value", "low", "high", "sd_seeds"), "Float64")
    return frame.astype({**numbers, "runs": "string", "note": "string"})


def mean_of(grid: GridResults, rows: Sequence[int]) -> tuple[CrossedMean, str]:
    """-> (the mean of some runs over the questions that all of them have, a note on others)

    Each setting counts once, however many seeds it has. Runs that share no question, as each was scored on its own
    dataset, count by their own means.
    """
    evenly = even_weights([grid.setting(row) for row in rows])
    table = grid.values[list(rows)]
    known = np.isfinite(table)
    shared = known.all(axis=0)
    weights = grid.weights
    if shared.any():
        lacking = int(known.any(axis=0).sum() - shared.sum())
        note = f"questions that some run lacks are left out: {lacking}" if lacking else ""
        chosen = None if weights is None else weights[shared]
        return crossed_mean(table[:, shared], chosen, run_weights=evenly), note
    share = np.where(known, 1.0 if weights is None else weights, 0.0)
    means = (np.nan_to_num(table) * share).sum(axis=1) / share.sum(axis=1)
    return crossed_mean(means[:, None], run_weights=evenly), "no question is common to all runs: each run is one number"


def best_by_axis(grid: GridResults, found: Sequence[Effect] | None = None) -> pd.DataFrame:
    """A row for each value of each axis: its mean, and whether it is told from the best value of the axis.

    The mean is over the settings of the other axes that every value of the axis was run in, so that values are
    compared on equal terms; where there is none, it is over all, and `note` says so. Columns: `axis`, `level`, `value`
    (mean), `num_runs`, `num_settings`, `is_best`, `behind_best` (paired difference to the best, with `low`, `high` and
    `p_holm`), `best_setting` (in words, over all runs of the value), `best_value` (its mean) and `note`.

    Args:
        grid: the runs.
        found: `effects(grid)`, where they are known.
    """
    effects_of = {(e.axis, e.value, e.against): e for e in (effects(grid) if found is None else found)}
    rows = [row for axis in grid.axes for row in _levels_of(grid, axis, effects_of)]
    columns = ("axis", "level", "value", "num_runs", "num_settings", "is_best", "behind_best", "low", "high")
    frame = pd.DataFrame(rows, columns=[*columns, "p_holm", "best_setting", "best_value", "note"])
    numbers = ("value", "behind_best", "low", "high", "p_holm", "best_value")
    texts = dict.fromkeys(("level", "best_setting", "note"), "string")
    return frame.astype({**dict.fromkeys(numbers, "Float64"), **texts, "axis": "category", "is_best": "boolean"})


def interaction(grid: GridResults, first: str, second: str) -> pd.DataFrame:
    """A row for each cell of two axes, one without a run too.

    Columns: the two axes (of `grid.runs`' types), `value`, `low`, `high` (over the cell's runs and questions; each
    setting of the other axes counts once), `num_runs`, `num_settings`, `departure` and `note`. The departure is what
    the cell's mean has beyond the sum of its row's and its column's effect; missing where some cell has no run.

    Raises:
        ValueError: no such axis, or the same twice.
    """
    if first == second:
        raise ValueError(f"interaction of {first} with itself: name two axes")
    firsts, seconds = grid.levels(first), grid.levels(second)
    cells = {(one, other): _cell(grid, {first: one, second: other}) for one in firsts for other in seconds}
    found = [[cells[one, other]["value"] for other in seconds] for one in firsts]
    means = np.array(found, dtype=np.float64)  # NaN for a cell without a run
    beyond = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    same = {cell["others"] for cell in cells.values() if cell["num_runs"]}
    rows = []
    for (one, other), cell in cells.items():
        departure = float(beyond[firsts.index(one), seconds.index(other)])
        uneven = "cells hold different settings of the other axes" if len(same) > 1 and cell["num_runs"] else ""
        rows.append(
            {
                first: one,
                second: other,
                **{name: cell[name] for name in ("value", "low", "high", "num_runs", "num_settings")},
                "departure": None if math.isnan(departure) else departure,
                "note": "; ".join(note for note in (cell["note"], uneven) if note),
            }
        )
    frame = pd.DataFrame(rows)
    numbers = dict.fromkeys(("value", "low", "high", "departure"), "Float64")
    types = {first: grid.runs[first].dtype, second: grid.runs[second].dtype}
    return frame.astype({**numbers, **types, "note": "string"})


def parallel_coordinates(grid: GridResults) -> ParallelCoordinates:
    """The lines and axes of a figure of parallel coordinates.

    The values of an axis stand at equal distances in their order, as a grid has few; the measure stands to scale.
    """
    lines = merged(grid)
    axes = [_ticks(grid, axis) for axis in grid.axes]
    low, high = float(lines["value"].min()), float(lines["value"].max())
    middle = low == high
    scale = ParallelAxis(
        name="value",
        title=grid.measure,
        ticks=((f"{low:.4g}", 0.5),) if middle else ((f"{low:.4g}", 0.0), (f"{high:.4g}", 1.0)),
    )
    places = {axis.name: dict(axis.ticks) for axis in axes}
    for axis in grid.axes:
        lines[f"at {axis}"] = [places[axis][level_text(value)] for value in lines[axis]]
    lines["at value"] = 0.5 if middle else (lines["value"] - low) / (high - low)
    return ParallelCoordinates(axes=(*axes, scale), lines=lines)


def _levels_of(
    grid: GridResults, axis: str, effects_of: dict[tuple[str, Level, Level], Effect]
) -> list[dict[str, Any]]:
    levels, without = grid.levels(axis), (axis, *followers(grid, axis))
    settings = {level: _by_setting(grid, grid.rows_of(axis, level), without) for level in levels}
    common = set.intersection(*(set(found) for found in settings.values()))
    note = "" if common else "no setting of the other axes was run with every value: means are over different ones"
    means = {level: _mean_of_settings(grid, found, common or set(found)) for level, found in settings.items()}
    best = None if grid.higher_is_better is None else _best(means, grid.higher_is_better)
    rows = []
    for level in levels:
        used = {key: members for key, members in settings[level].items() if key in (common or settings[level])}
        behind = None if best is None or level == best else _against(grid, effects_of, axis, level, best)
        name, value = _best_setting(grid, grid.rows_of(axis, level))
        rows.append(
            {
                "axis": axis,
                "level": level_text(level),
                "value": means[level],
                "num_runs": sum(map(len, used.values())),
                "num_settings": len(used),
                "is_best": None if best is None else level == best,
                **(behind or dict.fromkeys(("behind_best", "low", "high", "p_holm"))),
                "best_setting": name,
                "best_value": value,
                "note": "; ".join(part for part in (note, (behind or {}).get("note", "")) if part),
            }
        )
    return rows


def _by_setting(grid: GridResults, rows: Sequence[int], without: Sequence[str]) -> dict[tuple[Level, ...], list[int]]:
    found: dict[tuple[Level, ...], list[int]] = {}
    for row in rows:
        found.setdefault(grid.setting(row, without), []).append(row)
    return found


def _mean_of_settings(
    grid: GridResults, settings: dict[tuple[Level, ...], list[int]], chosen: set[tuple[Level, ...]]
) -> float:
    """Each setting counts once, however many seeds it has."""
    return float(np.mean([mean_of(grid, members)[0].mean for key, members in settings.items() if key in chosen]))


def _best(means: dict[Level, float], higher: bool) -> Level:
    return (max if higher else min)(means, key=lambda level: means[level])


def _against(
    grid: GridResults, effects_of: dict[tuple[str, Level, Level], Effect], axis: str, level: Level, best: Level
) -> dict[str, Any]:
    """How far a value is from the best one: their effect, whichever way round it was taken."""
    effect, sign = effects_of.get((axis, level, best)), 1.0
    if effect is None:
        effect, sign = effects_of.get((axis, best, level)), -1.0
    if effect is None:  # of an axis whose values were compared with the usual one only: p has no correction to share
        effect, sign = replace(effect_of(grid, axis, level, best), p_holm=None), 1.0
    bounds = sorted(sign * bound for bound in (effect.low, effect.high) if bound is not None) or (None, None)
    return {
        "behind_best": None if effect.difference is None else sign * effect.difference,
        "low": bounds[0],
        "high": bounds[1],
        "p_holm": effect.p_holm,
        "note": effect.note,
    }


def _best_setting(grid: GridResults, rows: Sequence[int]) -> tuple[str, float | None]:
    """-> (the best setting of some runs in words, its mean); nothing where the measure has no better and worse."""
    if grid.higher_is_better is None:
        return "", None
    means = {key: mean_of(grid, members)[0].mean for key, members in _by_setting(grid, rows, ()).items()}
    best = _best(means, grid.higher_is_better)
    return setting_text(grid.axes, best), means[best]


def _cell(grid: GridResults, levels: dict[str, Level]) -> dict[str, Any]:
    rows = [row for row in range(len(grid.runs)) if all(grid.columns[a][row] == level for a, level in levels.items())]
    if not rows:
        none = dict.fromkeys(("low", "high"))
        return {"value": None, **none, "num_runs": 0, "num_settings": 0, "others": None, "note": "no run"}
    mean, missing = mean_of(grid, rows)
    low, high = _interval(grid, rows, mean)
    others = frozenset(grid.setting(row, tuple(levels)) for row in rows)
    note = "; ".join(part for part in (missing, _of_seeds(mean)) if part)
    found: dict[str, Any] = {"value": mean.mean, "low": low, "high": high, "num_runs": len(rows)}
    return {**found, "num_settings": len(others), "others": others, "note": note}


def _interval(grid: GridResults, rows: Sequence[int], mean: CrossedMean) -> tuple[float | None, float | None]:
    """The interval of a mean; Wilson's for one run that was scored right or wrong, and never beyond shares' ends."""
    table = grid.values[list(rows)]
    known = table[np.isfinite(table)]
    is_counted = len(grid.questions) > 1 and bool(np.isin(known, (0.0, 1.0)).all()) and grid.weights is None
    if is_counted and len(rows) == 1:
        return wilson_interval(int(known.sum()), len(known))
    interval = mean.interval()
    if interval is None:
        return None, None
    return (max(0.0, interval[0]), min(1.0, interval[1])) if is_counted else interval


def _of_seeds(mean: CrossedMean) -> str:
    return mean.note.replace("one run:", "one seed:")


def _ticks(grid: GridResults, axis: str) -> ParallelAxis:
    levels = grid.levels(axis)
    ticks = tuple((level_text(level), place / max(1, len(levels) - 1)) for place, level in enumerate(levels))
    return ParallelAxis(name=axis, title=title_of(axis), ticks=ticks)
