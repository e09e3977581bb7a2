"""Fills the paper's tables from the runs of their grids, ours beside the printed values.

    own = OwnRuns.of_sweep(runs, "table10", ledger_url)
    reproduce_from_runs("10", own, plan=None)

Which run belongs in which cell: `analysis.paper.places`. A cell is the mean over its runs (seeds, tasks, models). It
reproduces the paper where the printed value lies within our 95 % interval, or ours rounds to it; where a cell is the
mean of several runs, or a result has no interval, only the rounding counts. Source: QLoRA (arXiv 2305.14314).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from typing_extensions import TypedDict

from analysis.paper.places import MEAN, PLACES, Places, Spec, mean_columns, settings_of_table_9
from analysis.paper.tables import Cell, Reproduction, compared
from analysis.paper.values import CITATION, TABLES, PaperTable, Value
from harness.files.typed import fit, read_typed
from harness.ledger.finished import sweep_runs
from harness.runs.record import load_record
from harness.runs.scores import eval_file

RECIPE = ("adapter", "dataset", "quant", "train")  # the settings that are held against the grid's own
NOT_RECIPE = frozenset({"compute_dtype", "path", "name", "recipes", "format", "revision", "max_microbatch_tokens"})
SAME_FLOAT = 1e-9
REMEDY = "score the run again"


class ScoredHeadline(TypedDict):
    """What is read of a result's headline."""

    value: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRun:
    """A finished run's settings, and the results of its evaluations by name."""

    run_id: str
    label: str
    spec: Spec
    results: Mapping[str, Mapping[str, Any]]
    final_loss: float | None = None  # nats a target token; None: an untouched base


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRuns:
    """The finished runs that a table may be filled from."""

    where: str  # in words
    runs: tuple[OwnRun, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_sweep(cls, runs: Path, sweep: str, ledger_url: str) -> "OwnRuns":
        """The finished runs of a sweep; none, and a note, where the ledger doesn't know it.

        Raises:
            ValueError: a record or a result that can't be read.
        """
        try:
            found = sweep_runs(sweep, ledger_url)
        except ValueError as error:
            return cls(where=f"sweep {sweep}", notes=(str(error),))
        left_out = tuple(f"{label} is left out: {why}" for label, why in found.unfinished)
        return cls(where=f"sweep {sweep} in {runs}", runs=tuple(_runs(runs, found.run_ids)), notes=left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPlan:
    """What `python -m sweeps plan` says of a table's grid."""

    command: str  # that runs it
    points: tuple[Spec, ...]
    num_to_do: int
    gpu_hours: float | None
    device: str

    def words(self) -> str:
        """What is left to run, with its time."""
        hours = "" if self.gpu_hours is None else f", about {self.gpu_hours:,.0f} GPU-hours on one {self.device}"
        return f"{self.command}: {self.num_to_do} runs{hours}"


@dataclass(slots=True)
class _Found:
    """What there is for one cell: results by part, each of one or several runs."""

    parts: dict[str, list[tuple[OwnRun, float, float | None, float | None]]] = field(default_factory=dict)


def reproduce_from_runs(table: str, own: OwnRuns, plan: GridPlan | None) -> Reproduction:
    """A table of the paper from the runs of its grid.

    Args:
        table: "2", "3", "4", "5", "8", "9", "10" or "11".
        own: finished runs.
        plan: of its grid, for what is left to run and for what the grid's own settings are; None: not asked.

    Raises:
        ValueError: another table, or a result that can't be read.
    """
    if table not in PLACES:
        raise ValueError(f"table {table!r} is not made of runs: expected one of {', '.join(PLACES)}")
    places, printed = PLACES[table], TABLES[table]
    if places.benchmark is None:
        cells = list(_settings_cells(printed, places, plan))
    else:
        cells = _cells(table, printed, places, own, plan)
    return Reproduction(
        table=table,
        caption=printed.caption,
        citation=CITATION,
        cells=tuple(cells),
        settings=(),
        sources=(f"{len(own.runs)} finished runs of {own.where}" if places.benchmark else "the grid's own settings",),
        missing=(*own.notes, *_other_settings(places, own, plan)),
    )


def _runs(folder: Path, run_ids: Sequence[str]) -> Iterator[OwnRun]:
    for run_id in run_ids:
        record = load_record(folder / run_id)
        if record is None:
            continue  # the ledger is ahead of the folder; the cell says that it was not run
        names = [path.name for path in sorted((folder / run_id / "eval").glob("*")) if path.is_dir()]
        results = {
            name: read_typed(path, dict[str, Any], REMEDY)
            for name in names
            if (path := eval_file(folder / run_id, name)).is_file()
        }
        yield OwnRun(run_id=run_id, label=record.label, spec=record.spec, results=results, final_loss=record.final_loss)


def _cells(table: str, printed: PaperTable, places: Places, own: OwnRuns, plan: GridPlan | None) -> list[Cell]:
    found: dict[tuple[str, str], _Found] = {}
    for run in own.runs:
        for row, column, part, value, low, high in _values(table, places, run):
            found.setdefault((row, column), _Found()).parts.setdefault(part, []).append((run, value, low, high))
    means = mean_columns(printed.columns)
    cells: list[Cell] = []
    for row, values in printed.rows.items():
        mine = [
            _cell(printed, row, column, paper, found.get((row, column)), places, plan)
            for column, paper in zip(printed.columns, values, strict=True)
            if paper is not None and column not in means
        ]
        cells += mine
        if means:
            cells.append(_mean_cell(printed, row, mine))
    return cells


def _values(
    table: str, places: Places, run: OwnRun
) -> Iterator[tuple[str, str, str, float, float | None, float | None]]:
    """(row, column, part, ours, low, high) of every cell that a run has a value for."""
    for row, column, part in places.cells(run.spec):
        for name in (places.benchmark or "").split():
            result = run.results.get(name)
            if result is None:
                continue
            if table == "8":
                yield from ((bias, column, part, *estimate) for bias, estimate in _biases(result))
            elif (estimate := headline_of(result, f"{run.run_id}: {name}", places.scale)) is not None:
                yield row, column, part, *estimate


def headline_of(result: Mapping[str, Any], where: str, scale: float) -> tuple[float, float | None, float | None] | None:
    """(value, low, high) of a result's headline, times `scale`; None where it has no value.

    Raises:
        ValueError: it has no headline; names `where`.
    """
    headline = fit(result.get("headline"), ScoredHeadline, f"{where}: headline", REMEDY)
    if headline["value"] is None:
        return None
    low, high = headline["ci95"] or (None, None)
    return scale * headline["value"], None if low is None else scale * low, None if high is None else scale * high


def _biases(result: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float | None, float | None]]]:
    """Table 8's rows from lm-eval's CrowS-Pairs: the categories, and the average over pairs."""
    for task in result.get("tasks", {}).values():
        crows = task.get("crows_pairs")
        if crows is None:
            continue
        rows = dict(crows["categories"]) | {"Average": crows["average_of_pairs"]}
        for row, estimate in rows.items():
            low, high = estimate["ci95"] or (None, None)
            yield row, (estimate["value"], low, high)


def _cell(
    printed: PaperTable,
    row: str,
    column: str,
    paper: Value,
    found: _Found | None,
    places: Places,
    plan: GridPlan | None,
) -> Cell:
    wanted = places.num_parts(column)
    elsewhere = places.elsewhere or {}
    ours = low = high = reason = None
    if found is None or len(found.parts) < wanted:
        have = 0 if found is None else len(found.parts)
        left = plan.words() if plan else f"python -m sweeps run +grid={places.grid}"
        reason = elsewhere.get(row) or elsewhere.get(column) or (f"{have} of {wanted} runs; {left}" if have else left)
    else:
        ours = fmean(fmean(value for _, value, _, _ in runs) for runs in found.parts.values())
        if len(found.parts) == 1 and len(next(iter(found.parts.values()))) == 1:
            ((_, _, low, high),) = next(iter(found.parts.values()))
    return _compared(printed, row, column, paper, ours, low, high, reason)


def _mean_cell(printed: PaperTable, row: str, cells: Sequence[Cell]) -> Cell:
    """The mean of a row, once every other cell of it has a value."""
    paper = printed.rows[row][printed.columns.index(MEAN)]
    assert paper is not None
    values = [cell.ours for cell in cells if cell.ours is not None]
    ours = fmean(values) if len(values) == len(cells) else None
    reason = None if ours is not None else f"the mean of {len(cells)} cells, of which {len(values)} were run"
    return _compared(printed, row, MEAN, paper, ours, None, None, reason)


def _compared(
    printed: PaperTable,
    row: str,
    column: str,
    paper: Value,
    ours: float | None,
    low: float | None,
    high: float | None,
    reason: str | None,
) -> Cell:
    assert not isinstance(paper, str)
    within = low is not None and high is not None and low <= paper <= high
    fits = ours is not None and (within or abs(ours - paper) <= _half_a_digit(paper) + SAME_FLOAT)
    return compared(printed, row, column, paper=paper, ours=ours, fits=fits, low=low, high=high, reason=reason)


def _half_a_digit(paper: int | float) -> float:
    """Half a unit of the last printed digit: 0.05 for 38.4; nothing for a whole number, which is a count here."""
    decimals = len(str(paper).partition(".")[2]) if isinstance(paper, float) and "e" not in str(paper) else 0
    return 0.5 * 10.0**-decimals if decimals else 0.0


def _settings_cells(printed: PaperTable, places: Places, plan: GridPlan | None) -> Iterator[Cell]:
    """Table 9: the settings that the grid's own points resolve to; all datasets of a row must agree."""
    points: dict[str, list[dict[str, float | None]]] = {}
    for spec in plan.points if plan else ():
        for row, _, _ in places.cells(spec):
            points.setdefault(row, []).append(settings_of_table_9(spec))
    for row, values in printed.rows.items():
        for column, paper in zip(printed.columns, values, strict=True):
            if paper is None:
                continue
            ours = {point[column] for point in points.get(row, ())}
            value = ours.pop() if len(ours) == 1 else None
            reason = "its datasets differ" if len(ours) > 1 else "the grid was not planned"
            yield _compared(printed, row, column, paper, value, None, None, None if value is not None else reason)


def _other_settings(places: Places, own: OwnRuns, plan: GridPlan | None) -> tuple[str, ...]:
    """In what the runs differ from the grid's own points of the same cell, each difference once."""
    points = {target: spec for spec in (plan.points if plan else ()) for target in places.cells(spec)}
    found: dict[str, int] = {}
    for run in own.runs:
        for target in places.cells(run.spec):
            if target in points:
                for difference in _differences(run.spec, points[target]):
                    found[difference] = found.get(difference, 0) + 1
    return tuple(f"not the grid's own settings: {what} ({count} runs)" for what, count in found.items())


def _differences(spec: Spec, point: Spec) -> Iterator[str]:
    for part in RECIPE:
        mine, theirs = spec.get(part) or {}, point.get(part) or {}
        for key in sorted({*mine, *theirs} - NOT_RECIPE):
            if mine.get(key) != theirs.get(key):
                yield f"{part}.{key} {_short(mine.get(key))}, the grid's {_short(theirs.get(key))}"


def _short(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value))[:40]
