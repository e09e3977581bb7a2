"""Figures about the axes of a sweep: their effects, two of them against each other, all settings at once."""

from collections.abc import Sequence

from analysis.effects.grid import level_text
from analysis.effects.tables import ParallelCoordinates
from analysis.report.content import Content
from analysis.report.grid import MeasureView
from analysis.report.plots.charts import WIDTH, Interval, heat_map, intervals
from analysis.report.plots.drawing import Drawing, Figure, shade, short
from analysis.tidy.axes import title_of

NOT_MEASURED = "Not measured: the runs are no grid of four or more, or nothing was measured on them."
MAX_EFFECTS = 40
HEIGHT = 320.0


def axis_effects(content: Content) -> Figure:
    """The effect of each axis on the first measure that there is."""
    view = _first(content)
    found = [effect for effect in view.effects if effect.difference is not None] if view else []
    rows = [
        Interval(
            label=f"{title_of(e.axis)}: {level_text(e.value)} against {level_text(e.against)}",
            value=e.difference or 0.0,
            low=e.low,
            high=e.high,
        )
        for e in found[:MAX_EFFECTS]
    ]
    return Figure(
        name="axis-effects",
        title="What each axis does",
        caption=f"{view.title}: mean difference of runs that differ in this axis only, with 95 % intervals."
        if view and rows
        else NOT_MEASURED,
        columns=("measure", "axis", "value", "against", "difference", "low", "high", "p_holm", "num_pairs"),
        rows=tuple(
            (
                m.title,
                e.axis,
                level_text(e.value),
                level_text(e.against),
                e.difference,
                e.low,
                e.high,
                e.p_holm,
                e.num_pairs,
            )
            for m in content.grid
            for e in m.effects
        ),
        drawing=intervals(rows, view.unit, 0.0) if view and rows else None,
    )


def two_axes(content: Content) -> Figure:
    """The two axes with the largest effects against each other."""
    view = next((view for view in content.grid if view.heat_map), None)
    found = view.heat_map if view else None
    known = [value for row in found.values for value in row if value is not None] if found else []
    if view is None or found is None or not known:
        return Figure(name="two-axes", title="Two axes against each other", caption=NOT_MEASURED)
    low, high = min(known), max(known)
    ends = (low, high) if view.higher_is_better is not False else (high, low)
    drawing = heat_map(found.rows, found.columns, found.values, *ends, ".4g") if low != high else None
    return Figure(
        name="two-axes",
        title=f"{found.first} against {found.second}",
        caption=f"{view.title}: mean over runs; rows are {found.first}, columns {found.second}, bluer is better."
        if drawing
        else "Nothing to draw: all cells are equal.",
        columns=tuple(found.cells[0]),
        rows=tuple(tuple(cell.values()) for cell in found.cells),
        drawing=drawing,
    )


def all_settings(content: Content) -> Figure:
    """Parallel coordinates: each setting, its seeds merged, is a line through its values."""
    view = next((view for view in content.grid if view.parallel), None)
    found = view.parallel if view else None
    if view is None or found is None:
        return Figure(name="parallel-coordinates", title="All settings at once", caption=NOT_MEASURED)
    names = [axis.name for axis in found.axes]
    return Figure(
        name="parallel-coordinates",
        title="All settings at once",
        caption=f"Each line is a setting, its seeds merged; bluer lines have a better {view.title.lower()}.",
        columns=tuple(names),
        rows=tuple(tuple(level_text(line[name]) for name in names) for line in found.lines.to_dict("records")),
        drawing=_parallel(found, view),
    )


def _parallel(found: ParallelCoordinates, view: MeasureView) -> Drawing:
    drawing = Drawing(width=WIDTH, height=HEIGHT)
    top, bottom, left, right = 40.0, HEIGHT - 16, 60.0, WIDTH - 60
    at = {axis.name: left + (right - left) * i / (len(found.axes) - 1) for i, axis in enumerate(found.axes)}
    for line in found.lines.to_dict("records"):
        place = float(line["at value"])
        points = [(at[name], bottom - (bottom - top) * float(line[f"at {name}"])) for name in at]
        drawing.path(points, shade(place if view.higher_is_better is not False else 1 - place))
    for axis in found.axes:
        x = at[axis.name]
        drawing.line(x, top, x, bottom, "rule")
        drawing.text(x, 14, short(axis.title, 18), "middle", "quiet")
        for words, place in _few(axis.ticks):
            drawing.text(x + 5, bottom - (bottom - top) * place + 4, short(words, 14))
    return drawing


def _few(ticks: Sequence[tuple[str, float]], most: int = 12) -> Sequence[tuple[str, float]]:
    return ticks[:: -(-len(ticks) // most)] if ticks else ticks


def _first(content: Content) -> MeasureView | None:
    return next((view for view in content.grid if view.effects), None)
