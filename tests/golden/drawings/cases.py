"""Drawings and figures of fixed data; what they look like is kept beside this file, a text for each.

python -m tests.golden.drawings.cases   (records them anew; look at the difference before it is committed)
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from analysis.effects.tables import ParallelAxis, ParallelCoordinates
from analysis.report.content import Content, ReportOptions, gather
from analysis.report.plots import axes, runs, tournament
from analysis.report.plots.charts import Interval, Line, Point, curves, heat_map, intervals, scatter, stacked
from analysis.report.plots.drawing import Drawing, Figure
from analysis.report.records import load_runs, load_tournament
from harness.files.atomic import append_jsonl, csv_text, write_json
from harness.ledger.finished import SweepRuns
from tests.records.reports import SYSTEMS, make_grid, make_runs, make_tournament

HERE = Path(__file__).parent
LONG = "a-name-that-is-longer-than-the-room-for-names-of-systems-s17"


def drawings() -> Iterator[tuple[str, Drawing]]:
    """(name, drawing) of each kind of chart, with what is missing, outside, cut or covered."""
    estimates = (
        Interval(label="no interval", value=995.0),
        Interval(label=LONG, value=1052.4, low=990.1, high=1120.7, other=1040.0),
        Interval(label="one bound", value=-3.25, low=-9.0),
    )
    yield "intervals", intervals(estimates, "points", 1000.0)
    yield "intervals-without-reference", intervals(estimates[:1], "points")
    cells = ((20.0, None, 80.0), (55.55, -4.0, 120.0))
    yield "heat-map", heat_map(("row", LONG), ("a", "b", LONG), cells, 20.0, 90.0)
    yield "heat-map-9", heat_map(("r",), [f"c{i}" for i in range(9)], [[0.1 * i for i in range(9)]], 0.0, 1.0, ".2f")
    yield "heat-map-17", heat_map(("r",), [f"c{i}" for i in range(17)], [[float(i) for i in range(17)]], 0.0, 16.0)
    near = [Point(label=f"system-{i}", x=10.0 + i, y=5.0 + 0.01 * i) for i in range(3)]
    yield "scatter", scatter([*near, Point(label=LONG, x=30.0, y=2.0)], "cost", "quality")
    yield "scatter-log", scatter([*near, Point(label="far", x=4000.0, y=900.0)], "cost", "quality", is_log=True)
    yield "scatter-equal", scatter([*near, Point(label="far", x=9000.0, y=9.0)], "p", "m", is_log=True, equal=True)
    yield "scatter-13", scatter([Point(label=f"s{i}", x=float(i), y=float(-i)) for i in range(13)], "x", "y")
    yield "scatter-12", scatter([Point(label=f"s{i}", x=float(i), y=float(-i)) for i in range(12)], "x", "y")
    falling = [(float(step), 3.0 - 0.5 * step) for step in range(1, 4)]
    lines = [Line(label=f"run {i}", points=[(x, y + i) for x, y in falling]) for i in range(9)]
    yield "curves", curves([Line(label=LONG * 2, points=falling, end=0.75), *lines], "step", "loss")
    yield from (("parallel", _parallel_drawing(True)), ("parallel-lower-is-better", _parallel_drawing(False)))
    bars = (("judge", (30.0, 2.0, 10.0)), (LONG, (0.0, 0.0, 0.0)), ("even", (1.0, 1.0, 1.0)))
    yield "stacked", stacked(bars, (("first", "shown first won"), ("tie", "tie"), ("second", "shown second won")))


def _parallel_drawing(higher_is_better: bool) -> Drawing:
    """Many ticks, long words."""
    ticks = tuple((f"a-tick-of-{i:05}", i / 12) for i in range(13))
    shown = (
        ParallelAxis(name="first", title="a title of more than eighteen letters", ticks=ticks),
        ParallelAxis(name="second", title="short", ticks=ticks[:12]),
        ParallelAxis(name="value", title="measure", ticks=()),
    )
    places = ((0.0, 0.25, 0.1), (0.5, 1.0, 0.9))
    lines = pd.DataFrame(places, columns=["at first", "at second", "at value"])
    view: Any = SimpleNamespace(higher_is_better=higher_is_better)
    return axes._parallel(ParallelCoordinates(axes=shown, lines=lines), view)


def figures(folder: Path) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of a tournament with two judges, of a grid, and of nothing. The predicted memory is not here."""
    drawn = _tournament(folder / "t")
    made = (*(make(drawn) for make in _OF_TOURNAMENTS), *(make(_grid(folder / "g")) for make in _OF_GRIDS))
    bare = gather(SweepRuns(run_ids=()), (), None, ReportOptions(title="t"))
    yield from ((figure.name, figure) for figure in made)
    yield from ((f"no-{figure.name}", figure) for figure in (make(bare) for make in (*_OF_TOURNAMENTS, *_OF_GRIDS)))
    yield "no-memory", runs.memory(bare)


_OF_TOURNAMENTS = (
    *(tournament.ratings, tournament.win_matrix, tournament.position_bias, tournament.length_against_win),
    *(tournament.rating_by_category, tournament.agreement),
    *(runs.mmlu_against_rating, runs.mmlu_by_subject, runs.cost_against_quality, runs.losses),
)
_OF_GRIDS = (axes.axis_effects, axes.two_axes, axes.all_settings)


def _tournament(folder: Path) -> Content:
    runs_folder, ids = make_runs(folder)
    played = make_tournament(folder)
    values = {"token_perplexity": 7.5, "token_perplexity_ci95": [6.5, 8.5], "num_documents": 7, "text": "pile"}
    write_json(runs_folder / ids[0] / "eval" / "perplexity" / "perplexity.json", values)
    for run_id, more in zip(ids[1:], (150, 1200), strict=True):
        path = runs_folder / run_id / "answers" / "open.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        for row in rows:
            append_jsonl(path, row | {"answer": row["answer"] + "." * more})
    with (played / "verdicts.csv").open("a") as stream:
        for question, verdict in (("1", 1), ("2", 2), ("3", 3)):
            stream.write(f"{question},{SYSTEMS[0]},{SYSTEMS[1]},{verdict},another judge\n")
    return gather(SweepRuns(run_ids=()), load_runs(runs_folder, ids), load_tournament(played), ReportOptions(title="t"))


def _grid(folder: Path) -> Content:
    return gather(SweepRuns(run_ids=()), load_runs(*make_grid(folder)), None, ReportOptions(title="t"))


def text_of(drawing: Drawing) -> str:
    """A mark on each line."""
    return "\n".join((f"{drawing.width:g} x {drawing.height:g}", *drawing.marks, ""))


def text_of_figure(figure: Figure) -> str:
    """Its words, its numbers to nine digits, its marks."""
    rows = [[f"{value:.9g}" if isinstance(value, float) else value for value in row] for row in figure.rows]
    words = (f"{figure.title} (broad)" if figure.is_broad else figure.title, figure.caption)
    drawn = text_of(figure.drawing) if figure.drawing else "no drawing\n"
    return "\n".join((*words, csv_text(figure.columns, rows), drawn))


def recorded(folder: Path) -> dict[str, str]:
    """Everything by its file's name."""
    found = {f"{name}.txt": text_of(drawing) for name, drawing in drawings()}
    missing, drawn = {}, {}
    for name, figure in figures(folder):
        (missing if name.startswith("no-") else drawn)[name] = text_of_figure(figure)
    return (
        found
        | {f"figure-{name}.txt": text for name, text in drawn.items()}
        | {"nothing.txt": "\n".join(f"{name}\n{text}" for name, text in missing.items())}
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for file, text in recorded(Path(made)).items():
            (HERE / file).write_text(text)
