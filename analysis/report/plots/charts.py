"""The kinds of charts that figures are made of: intervals, heat maps, scatters, curves, stacked bars."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.formats import number
from analysis.report.plots.drawing import LINE_COLOURS, MARGIN_RIGHT, Axis, Drawing, axis, labels_width, shade, short

WIDTH = 640.0
ROW = 20.0
TOP = 14.0
BOTTOM = 40.0  # ticks and the axis's title
CELL = 18.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its interval, and a second estimate that is drawn as a ring."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    other: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a scatter."""

    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve, a value measured at its end otherwise, and points measured otherwise along it."""

    label: str
    points: Sequence[tuple[float, float]]
    end: float | None = None
    beside: Sequence[tuple[float, float]] = ()


def intervals(rows: Sequence[Interval], unit: str, reference: float | None = None) -> Drawing:
    """A row for each estimate, on one axis."""
    left = labels_width([row.label for row in rows])
    drawing = Drawing(width=WIDTH, height=TOP + ROW * len(rows) + BOTTOM)
    known = [v for row in rows for v in (row.value, row.low, row.high, row.other, reference) if v is not None]
    along = axis(known, left, WIDTH - MARGIN_RIGHT)
    _horizontal_axis(drawing, along, TOP, TOP + ROW * len(rows), unit)
    if reference is not None:
        drawing.line(along.at(reference), TOP, along.at(reference), TOP + ROW * len(rows), "reference")
    for place, row in enumerate(rows):
        y = TOP + ROW * (place + 0.5)
        drawing.text(left - 8, y + 4, short(row.label), "end")
        if row.low is not None and row.high is not None:
            drawing.line(along.at(row.low), y, along.at(row.high), y, "band")
        words = f"{row.label}: {number(row.value, '.4g')}"
        drawing.dot(along.at(row.value), y, words)
        if row.other is not None:
            drawing.dot(along.at(row.other), y, f"{row.label}: {number(row.other, '.4g')}", "open", 5.5)
    return drawing


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    low: float,
    high: float,
    spec: str = ".0f",
) -> Drawing:
    """A cell for each row and column, coloured from `low` over the middle to `high`; None is an empty cell."""
    left, top = labels_width(rows), 0.75 * labels_width(columns) + 10
    wide = 46.0 if len(columns) <= 8 else 30.0 if len(columns) <= 16 else CELL
    width = left + wide * len(columns) + MARGIN_RIGHT + 0.6 * labels_width(columns[-1:])
    drawing = Drawing(width=width, height=top + CELL * len(rows) + 8)
    for place, column in enumerate(columns):
        drawing.text(left + wide * (place + 0.6), top - 6, short(column), kind="label", turn=-50)
    for line, (row, found) in enumerate(zip(rows, values, strict=True)):
        y = top + CELL * line
        drawing.text(left - 8, y + CELL * 0.7, short(row), "end")
        for place, value in enumerate(found):
            x = left + wide * place
            if value is None:
                drawing.box(x, y, wide - 1, CELL - 1, "empty")
                continue
            share = min(max((value - low) / (high - low), 0.0), 1.0)
            words = f"{row}, {columns[place]}: {number(value, '.4g')}"
            drawing.box(x, y, wide - 1, CELL - 1, "cell", shade(share), words)
            drawing.text(x + wide / 2, y + CELL * 0.68, number(value, spec), "middle", "in-cell")
    return drawing


def scatter(points: Sequence[Point], x_unit: str, y_unit: str, is_log: bool = False, equal: bool = False) -> Drawing:
    """Points on two axes; `equal` draws the line on which both are alike."""
    drawing = Drawing(width=WIDTH, height=420)
    xs, ys = [p.x for p in points], [p.y for p in points]
    along = axis([*xs, *ys] if equal else xs, 64, WIDTH - MARGIN_RIGHT, is_log=is_log)
    up = axis([*xs, *ys] if equal else ys, 420 - BOTTOM, TOP, is_log=is_log and equal)
    _horizontal_axis(drawing, along, TOP, 420 - BOTTOM, x_unit)
    _vertical_axis(drawing, up, 64, WIDTH - MARGIN_RIGHT, y_unit)
    if equal:
        drawing.line(along.start, up.start, along.end, up.end, "reference")
    for point in points:
        words = f"{point.label}: {number(point.x, '.4g')}, {number(point.y, '.4g')}"
        drawing.dot(along.at(point.x), up.at(point.y), words)
    if len(points) <= 12:
        _name_points(drawing, points, along, up)
    return drawing


def curves(lines: Sequence[Line], x_unit: str, y_unit: str) -> Drawing:
    """Curves with a legend; what is measured otherwise at a curve's end is a ring there."""
    legend = 16.0 * len(lines)
    drawing = Drawing(width=WIDTH, height=360 + legend)
    along = axis([x for line in lines for x, _ in line.points], 64, WIDTH - MARGIN_RIGHT)
    heights = [y for line in lines for _, y in (*line.points, *line.beside)]
    heights += [line.end for line in lines if line.end is not None]
    up = axis(heights, 360 - BOTTOM, TOP)
    _horizontal_axis(drawing, along, TOP, 360 - BOTTOM, x_unit)
    _vertical_axis(drawing, up, 64, WIDTH - MARGIN_RIGHT, y_unit)
    for place, line in enumerate(lines):
        colour = LINE_COLOURS[place % len(LINE_COLOURS)]
        drawing.path([(along.at(x), up.at(y)) for x, y in line.points], colour)
        for x, y in line.beside:
            drawing.dot(along.at(x), up.at(y), f"{line.label}, held-out rows at {x:g}: {number(y, '.4g')}", "open", 3.0)
        if line.end is not None:
            words = f"{line.label}, held out: {number(line.end, '.4g')}"
            drawing.dot(along.at(line.points[-1][0]), up.at(line.end), words, "open", 4.5)
        y = 360 + 16 * place
        drawing.box(64, y - 8, 14, 4, "key", colour)
        drawing.text(84, y - 2, short(line.label, 90))
    return drawing


def stacked(rows: Sequence[tuple[str, Sequence[float]]], kinds: Sequence[tuple[str, str]]) -> Drawing:
    """A bar of a hundred percent for each row; `kinds` are (class, words) of its parts."""
    left = labels_width([label for label, _ in rows])
    drawing = Drawing(width=WIDTH, height=TOP + 34 * len(rows) + 30)
    room = WIDTH - MARGIN_RIGHT - left
    for place, (label, parts) in enumerate(rows):
        x, y, total = left, TOP + 34 * place, sum(parts) or 1.0
        drawing.text(left - 8, y + 17, short(label), "end")
        for (kind, words), part in zip(kinds, parts, strict=True):
            wide = room * part / total
            drawing.box(x, y, wide, 26, kind, words=f"{label}, {words}: {part:g}")
            if wide > 40:
                drawing.text(x + wide / 2, y + 17, f"{100 * part / total:.1f} %", "middle", f"in-{kind}")
            x += wide
    x = left
    for kind, words in kinds:
        drawing.box(x, TOP + 34 * len(rows) + 6, 10, 10, kind)
        drawing.text(x + 15, TOP + 34 * len(rows) + 15, words)
        x += 34 + LABEL_STEP * len(words)
    return drawing


LABEL_STEP = 6.6


def _horizontal_axis(drawing: Drawing, along: Axis, top: float, bottom: float, unit: str) -> None:
    for x, words in along.ticks():
        drawing.line(x, top, x, bottom, "grid")
        drawing.text(x, bottom + 15, words, "middle", "quiet")
    drawing.text((along.start + along.end) / 2, bottom + 32, unit, "middle", "quiet")


def _vertical_axis(drawing: Drawing, up: Axis, left: float, right: float, unit: str) -> None:
    for y, words in up.ticks():
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 6, y + 4, words, "end", "quiet")
    drawing.text(14, (up.start + up.end) / 2, unit, "middle", "quiet", turn=-90)


def _name_points(drawing: Drawing, points: Sequence[Point], along: Axis, up: Axis) -> None:
    """Names beside the points, each moved down until it covers no other."""
    placed: list[tuple[float, float, float]] = []  # left, right, baseline
    for point in sorted(points, key=lambda p: up.at(p.y)):
        x, y = along.at(point.x), up.at(point.y) + 4
        wide = LABEL_STEP * len(short(point.label, 34))
        is_right = x + 8 + wide <= along.end
        left = x + 8 if is_right else x - 8 - wide
        while any(left < other[1] and other[0] < left + wide and abs(y - other[2]) < 12 for other in placed):
            y += 12
        placed.append((left, left + wide, y))
        drawing.text(left if is_right else x - 8, y, short(point.label, 34), "start" if is_right else "end")
