"""What the notebooks of analysis/notebooks/ share: where their records lie, and how a cell shows tables and figures.

from analysis.notebook import place, show, show_intervals
here = place()                                # the demo's, or what HARNESS_RUNS, HARNESS_SWEEP ... say
made = runs(**here.records)
show(made, "label", "final_loss")             # as the last line of a cell
show_intervals(rated, "system", "points")
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from analysis.report.plots.charts import Interval, Line, Point, curves, intervals, scatter
from analysis.report.plots.drawing import STYLE, Drawing

ROOT = Path(__file__).resolve().parents[1]
DEMO = "demo"
BYTES = "_bytes"  # ends the name of a column of bytes, which is shown in GB
MISSING = "\N{EN DASH}"
TEXT_STYLE = "text-align: left; white-space: pre-line; max-width: 32em; vertical-align: top"
NUMBER_STYLE = "text-align: right; white-space: nowrap; vertical-align: top"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a notebook finds what it shows."""

    runs_folder: Path  # HARNESS_RUNS, else runs/ of this checkout
    sweep: str  # HARNESS_SWEEP, else demo
    tournament: Path  # HARNESS_TOURNAMENT, else tournaments/<sweep> of this checkout
    data: Path  # HARNESS_DATA_STORE, else data/ of this checkout: released judgments

    @property
    def records(self) -> dict[str, Any]:
        """What the functions of `analysis.frames` are told."""
        return {"runs_folder": self.runs_folder, "sweep": self.sweep}


def place() -> Place:
    """The place that the environment names; what it doesn't name is the demo's, in this checkout."""
    sweep = os.environ.get("HARNESS_SWEEP", DEMO)
    return Place(
        runs_folder=Path(os.environ.get("HARNESS_RUNS", ROOT / "runs")),
        sweep=sweep,
        tournament=Path(os.environ.get("HARNESS_TOURNAMENT", ROOT / "tournaments" / sweep)),
        data=Path(os.environ.get("HARNESS_DATA_STORE", ROOT / "data")),
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing that Jupyter shows."""

    drawing: Drawing

    def _repr_svg_(self) -> str:
        style = Markup(f"<style>{STYLE}</style>")
        return str(self.drawing.svg('xmlns="http://www.w3.org/2000/svg"', style))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A frame for a reader: words on the left, four digits, GB for bytes, a dash for what is missing."""

    frame: pd.DataFrame

    def __repr__(self) -> str:
        return str(self.frame.to_string(index=False))

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return "<p>none</p>"
        columns = [(str(name), self.frame[name]) for name in self.frame]
        numeric = [pd.api.types.is_numeric_dtype(c) and not pd.api.types.is_bool_dtype(c) for _, c in columns]
        styles = [NUMBER_STYLE if is_number else TEXT_STYLE for is_number in numeric]
        heads = Markup().join(_cell("th", _title(name), s) for (name, _), s in zip(columns, styles, strict=True))
        texts = zip(*(_texts(name, column) for name, column in columns), strict=True)
        rows = (Markup().join(_cell("td", text, s) for text, s in zip(row, styles, strict=True)) for row in texts)
        body = Markup().join(Markup("<tr>{}</tr>").format(row) for row in rows)
        return str(Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(heads, body))


def show(frame: pd.DataFrame, *columns: str) -> Table:
    """A frame, or these of its columns, as a table; an index that isn't just counted is the first column."""
    if frame.index.name is None and pd.api.types.is_integer_dtype(frame.index):
        return Table(frame[list(columns)] if columns else frame)
    whole = frame.reset_index(names=frame.index.name or "")
    return Table(whole[[whole.columns[0], *columns]] if columns else whole)


def show_intervals(frame: pd.DataFrame, label: str, unit: str, reference: float | None = None) -> Picture:
    """Each row's `value` from `low` to `high`; rows without a value are left out."""
    rows = frame[frame["value"].notna()]
    return Picture(
        intervals(
            [
                Interval(label=str(name), value=float(value), low=_number(low), high=_number(high))
                for name, value, low, high in zip(rows[label], rows["value"], rows["low"], rows["high"], strict=True)
            ],
            unit,
            reference,
        )
    )


def show_curves(frame: pd.DataFrame, label: str, x: str, y: str, unit: str) -> Picture:
    """A curve of `y` over `x` for each label; rows without a value are left out."""
    groups = frame.dropna(subset=[y]).groupby(label, observed=True)
    lines = [Line(label=str(name), points=_points(rows, x, y)) for name, rows in groups]
    return Picture(curves(lines, x.replace("_", " "), unit))


def show_points(frame: pd.DataFrame, label: str, x: str, y: str, units: tuple[str, str]) -> Picture:
    """A point of `x` and `y` for each row; `units` are the words at the two axes."""
    rows = frame.dropna(subset=[x, y])
    points = [
        Point(label=str(name), x=across, y=up)
        for name, (across, up) in zip(rows[label], _points(rows, x, y), strict=True)
    ]
    return Picture(scatter(points, *units))


def _points(frame: pd.DataFrame, x: str, y: str) -> Sequence[tuple[float, float]]:
    return [(float(across), float(up)) for across, up in zip(frame[x], frame[y], strict=True)]


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _title(name: str) -> str:
    bare = name.removesuffix(BYTES)
    return (bare if bare == name else f"{bare}, GB").replace("_", " ")


def _texts(name: str, column: "pd.Series[Any]") -> list[str]:
    """The cells of a column; its numbers have equally many decimals, so that the largest shows four digits."""
    scale = 1e9 if name.endswith(BYTES) else 1.0
    values = [None if pd.isna(value) else value for value in column.tolist()]
    numbers = [abs(v / scale) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v]
    is_whole = all(number == int(number) for number in numbers if math.isfinite(number))
    largest = max((number for number in numbers if math.isfinite(number)), default=1.0)
    decimals = 0 if is_whole else min(max(3 - math.floor(math.log10(largest)), 0), 3)
    return [_text(value, scale, decimals) for value in values]


def _text(value: Any, scale: float, decimals: int) -> str:
    if value is None:
        return MISSING
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    shown = f"{value / scale:,.{decimals}f}"
    return shown if float(shown.replace(",", "")) or not value else f"{value / scale:.2g}"


def _cell(kind: str, words: str, style: str) -> Markup:
    return Markup('<{} style="{}">{}</{}>').format(Markup(kind), style, escape(words), Markup(kind))
