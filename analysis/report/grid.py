"""What a sweep says of its axes: seeds merged, the effect of each axis, the best of each, equality where it is claimed.

The numbers are made by `analysis.effects`; here they are chosen for a page. Measures: the Bradley-Terry rating, prompt
by prompt; MMLU, subject by subject; the final training loss, between runs of one dataset only. Equality of data types
is tested against a margin that is fixed here, before anybody looks at a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects.compare import Effect, Equivalence, effects, equivalence
from analysis.effects.grid import GridResults, level_text
from analysis.effects.measures import of_column, of_verdicts
from analysis.effects.tables import ParallelCoordinates, best_by_axis, interaction, merged, parallel_coordinates
from analysis.report.records import Run, Tournament, Verdict
from analysis.tidy.axes import title_of, trained_runs
from analysis.tidy.rows import runs_frame
from analysis.tidy.sources import DONE, FoundRun
from eval.verdicts.table import Verdicts

DATA_TYPE = "data_type"
DATASET = "dataset"
MARGINS = {"points": 20.0, "share": 0.01, "nats a token": 0.01}  # by unit: a difference that counts as none
MIN_RUNS = 4  # fewer are a list of systems, not a grid
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A measure over two axes."""

    first: str  # titles of the axes
    second: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    cells: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureView:
    """What one measure says of the axes. `problem`: why it says nothing."""

    name: str  # as a figure's file
    title: str
    problem: str = ""
    unit: str = ""
    axes: tuple[str, ...] = ()  # their titles
    effects: tuple[Effect, ...] = ()
    equalities: tuple[Equivalence, ...] = ()
    best: tuple[Row, ...] = ()
    settings: tuple[Row, ...] = ()  # seeds merged
    heat_map: HeatMap | None = None
    parallel: ParallelCoordinates | None = None
    higher_is_better: bool | None = None
    left_out: tuple[str, ...] = ()


def grid_views(runs: Sequence[Run], tournament: Tournament | None) -> list[MeasureView]:
    """What each measure says of a sweep's axes; empty where the runs are no grid."""
    if len(runs) < MIN_RUNS:
        return []
    frame = runs_frame([_found(run) for run in runs])
    if len(trained_runs(frame)) < MIN_RUNS:
        return []
    makers: list[tuple[str, str, Callable[[], GridResults | None]]] = [
        ("rating", "Bradley-Terry rating", lambda: _ratings(frame, tournament)),
        ("mmlu", "MMLU accuracy", lambda: _mmlu(frame, runs)),
        ("loss", "Final training loss", lambda: of_column(frame, "final_loss")),
    ]
    views = [_view(name, title, make) for name, title, make in makers]
    return [view for view in views if view is not None]


def _view(name: str, title: str, make: Callable[[], GridResults | None]) -> MeasureView | None:
    try:
        grid = make()
        if grid is None or not grid.axes or len(grid.runs) < MIN_RUNS:
            return None
        return _filled(name, title, grid)
    except ValueError as error:  # what analysis.effects refuses to compare, and why
        return MeasureView(name=name, title=title, problem=str(error))


def _filled(name: str, title: str, grid: GridResults) -> MeasureView:
    compared = [axis for axis in grid.axes if name != "loss" or axis != DATASET]
    found = effects(grid, compared)
    settings = merged(grid)
    by_value = settings.sort_values("value", ascending=grid.higher_is_better is False, kind="stable")
    best = best_by_axis(grid, found if len(compared) == len(grid.axes) else None)
    return MeasureView(
        name=name,
        title=title,
        unit=grid.unit,
        axes=tuple(title_of(axis) for axis in grid.axes),
        effects=tuple(found),
        equalities=tuple(_equalities(grid)),
        best=tuple(_plain_rows(best[best["axis"].isin(compared)])),
        settings=tuple(
            {**row, "words": ", ".join(level_text(row[axis]) for axis in grid.axes)} for row in _plain_rows(by_value)
        ),
        heat_map=_heat_map(grid, found),
        parallel=parallel_coordinates(grid) if len(grid.axes) > 1 else None,
        higher_is_better=grid.higher_is_better,
        left_out=grid.left_out,
    )


def _equalities(grid: GridResults) -> list[Equivalence]:
    """Whether the data types are equal within the margin of the measure's unit."""
    if DATA_TYPE not in grid.axes or grid.unit not in MARGINS:
        return []
    pairs = combinations(grid.levels(DATA_TYPE), 2)
    return [equivalence(grid, DATA_TYPE, one, other, MARGINS[grid.unit]) for one, other in pairs]


def _heat_map(grid: GridResults, found: Sequence[Effect]) -> HeatMap | None:
    """The two axes with the largest effects against each other; None with a single axis."""
    sizes: dict[str, float] = {}
    for effect in found:
        sizes[effect.axis] = max(sizes.get(effect.axis, 0.0), abs(effect.difference or 0.0))
    chosen = sorted(sizes, key=lambda axis: -sizes[axis])[:2]
    if len(chosen) < 2:
        return None
    first, second = chosen
    frame = interaction(grid, first, second)
    firsts, seconds = grid.levels(first), grid.levels(second)
    values = [None if pd.isna(value) else float(value) for value in frame["value"]]
    wide = len(seconds)
    return HeatMap(
        first=title_of(first),
        second=title_of(second),
        rows=tuple(level_text(level) for level in firsts),
        columns=tuple(level_text(level) for level in seconds),
        values=tuple(tuple(values[start : start + wide]) for start in range(0, len(values), wide)),
        cells=tuple(_plain_rows(frame)),
    )


def _found(run: Run) -> FoundRun:
    return FoundRun(
        run_id=run.record.run_id,
        folder=run.folder,
        label=run.record.label,
        state=DONE,
        reason=None,
        spec=run.record.spec,
        record=run.record,
    )


def _ratings(frame: pd.DataFrame, tournament: Tournament | None) -> GridResults | None:
    verdicts = tournament.verdicts if tournament else ()
    met = {name for verdict in verdicts for name in (verdict.first, verdict.second)}
    if len(met.intersection(trained_runs(frame)["label"])) < MIN_RUNS:
        return None
    return of_verdicts(frame, _table(verdicts))


def _table(verdicts: Sequence[Verdict]) -> Verdicts:
    """The verdicts as `analysis.effects` takes them."""
    return Verdicts.of(
        questions=[verdict.question_id for verdict in verdicts],
        pairs=[(verdict.first, verdict.second) for verdict in verdicts],
        verdicts=[verdict.verdict for verdict in verdicts],
        judges=[verdict.judge for verdict in verdicts],
    )


def _mmlu(frame: pd.DataFrame, runs: Sequence[Run]) -> GridResults | None:
    """Accuracy by subject: their mean is MMLU's, and their spread stands for that of questions."""
    scored = {run.record.run_id: run.mmlu for run in runs if run.mmlu is not None and run.mmlu.subjects}
    trained = trained_runs(frame)
    points = trained[trained["run_id"].isin(scored)].set_index("label", drop=False)
    if points.empty:
        return None
    chosen = [scored[run_id] for run_id in points["run_id"]]
    subjects = sorted({subject for mmlu in chosen for subject in mmlu.subjects})
    values = [[mmlu.subjects.get(subject, (np.nan, 0))[0] for subject in subjects] for mmlu in chosen]
    return GridResults.of(
        points,
        np.array(values, dtype=np.float64),
        measure="mmlu accuracy",
        unit="share",
        questions=subjects,
        settings=[mmlu.settings_sha256 for mmlu in chosen],
    )


def _plain_rows(frame: pd.DataFrame) -> list[Row]:
    """Rows as dicts, None where a value is missing."""
    return [
        {
            str(name): None if not isinstance(value, (list, tuple)) and pd.isna(value) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]
