"""Draws figures as SVG: for a page, whose style sheet colours them, and as files that stand alone.

Positions are numbers of a fixed view box. Marks have classes, not colours; `STYLE` gives the file of a paper its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from analysis.report.figures import Scale, round_ticks
from analysis.report.formats import number, visible
from harness.files.atomic import csv_text

STYLE = (
    "text{font:11px 'DejaVu Sans',Arial,sans-serif;fill:#1d2328}.p-quiet{fill:#5d6771}.p-grid{stroke:#e2e4df}"
    ".p-rule{stroke:#8a939b}.p-band{stroke:#b9d2e3;stroke-width:7}.p-dot{fill:#1f5f8b}.p-open{fill:none;stroke:#97501c;"
    "stroke-width:1.5}.p-reference{stroke:#97501c;stroke-dasharray:3 2.5}.p-line{fill:none;stroke-width:1.5}"
    ".p-first{fill:#1f5f8b}.p-tie{fill:#e2e4df}.p-second{fill:#b9d2e3}.p-in-first{fill:#fff}"
    ".p-empty{fill:#ecede9}.p-in-cell{font-size:9px}"
    ".p-label{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}"  # readable where a line crosses
)
LINE_COLOURS = ("#1f5f8b", "#c2661f", "#3d8a57", "#8b4fa3", "#a08517", "#b23a58", "#3f9aa8", "#5d6771")
NO_XML = dict.fromkeys((0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}")  # characters that no XML may hold
MARGIN_RIGHT = 24.0
BROAD = 700.0
MIN_LOG_RATIO = 20.0  # of the largest to the smallest value, for a scale of powers of ten
LABEL_WIDTH = 6.2  # of a character of a label, at most
MAX_LABEL = 44  # characters
AHEAD, BEHIND, EVEN = (0x4D, 0x8F, 0xBA), (0xD5, 0x8B, 0x52), (0xF4, 0xF4, 0xF1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: what it draws, and the same as numbers. `drawing` None: nothing was measured, as `caption` says."""

    name: str  # of its files
    title: str
    caption: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    drawing: "Drawing | None" = None

    @property
    def is_broad(self) -> bool:
        """Whether it needs the whole width of a page."""
        return self.drawing is not None and self.drawing.width > BROAD

    @property
    def inline(self) -> Markup | None:
        """The drawing for a page, described by its title."""
        return self.drawing.svg(f'class="plot" role="img" aria-label="{escape(self.title)}"') if self.drawing else None

    @property
    def svg(self) -> str:
        """The drawing as a file."""
        assert self.drawing is not None
        style = Markup(f"<title>{escape(self.title)}</title><style>{STYLE}</style>")
        return str(self.drawing.svg('xmlns="http://www.w3.org/2000/svg"', style)) + "\n"

    @property
    def csv(self) -> str:
        """The numbers as a file."""
        return csv_text(self.columns, self.rows)


@dataclass(slots=True, kw_only=True)
class Drawing:
    """An SVG in the making."""

    width: float
    height: float
    marks: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line of the class `kind`."""
        self.marks.append(f'<line class="p-{kind}" x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>')

    def dot(self, x: float, y: float, words: str, kind: str = "dot", radius: float = 3.5) -> None:
        """A dot that tells `words` when pointed at."""
        title = f"<title>{_text(words)}</title>"
        self.marks.append(f'<circle class="p-{kind}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}">{title}</circle>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, fill: str = "", words: str = "") -> None:
        """A rectangle; `fill` is a colour where the class gives none."""
        colour = f' fill="{fill}"' if fill else ""
        title = f"<title>{_text(words)}</title>" if words else ""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        self.marks.append(f'<rect class="p-{kind}" {place}{colour}>{title}</rect>')

    def path(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """A line through points."""
        through = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.marks.append(f'<polyline class="p-line" style="stroke:{colour}" points="{through}"/>')

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "label", turn: int = 0) -> None:
        """Text at its baseline, turned by `turn` degrees."""
        turned = f' transform="rotate({turn} {_n(x)} {_n(y)})"' if turn else ""
        self.marks.append(
            f'<text class="p-{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{turned}>{_text(words)}</text>'
        )

    def svg(self, attributes: str, first: str = "") -> Markup:
        """The whole, its opening tag with `attributes`."""
        box = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}" width="{_n(self.width)}" height="{_n(self.height)}"'
        return Markup(f"<svg {attributes} {box}>{first}{''.join(self.marks)}</svg>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A scale laid between two positions of a drawing; `is_log` where powers of ten are equally far apart."""

    scale: Scale
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The position of a value."""
        shown = math.log10(value) if self.is_log else value
        return self.start + self.scale.percent(shown) / 100 * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """(position, words) of each tick."""
        if not self.is_log:
            return [(self.at(tick), number(tick, ",.6g")) for tick in self.scale.ticks]
        powers = range(math.floor(self.scale.low), math.ceil(self.scale.high) + 1)
        values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        inside = [value for value in values if self.scale.low <= math.log10(value) <= self.scale.high]
        return [(self.at(value), f"{value:,.6g}") for value in inside[:: max(1, len(inside) // 6)]]


def axis(values: Sequence[float], start: float, end: float, num_ticks: int = 6, is_log: bool = False) -> Axis:
    """An axis that holds all values with a little air; of powers of ten only where they are far apart."""
    is_log = is_log and max(values) / min(values) >= MIN_LOG_RATIO
    shown = [math.log10(value) for value in values] if is_log else list(values)
    low, high = min(shown), max(shown)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - 0.05 * span, high + 0.05 * span
    return Axis(
        scale=Scale(low=low, high=high, ticks=round_ticks(low, high, num_ticks)), start=start, end=end, is_log=is_log
    )


def labels_width(labels: Sequence[str]) -> float:
    """Room for the longest label, cut as `short` cuts it."""
    return 12 + LABEL_WIDTH * max((len(short(label)) for label in labels), default=0)


def short(label: str, most: int = MAX_LABEL) -> str:
    """A label, its middle left out where it is long: beginnings and ends tell systems apart."""
    if len(label) <= most:
        return label
    half = (most - 1) // 2
    return f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def shade(fraction: float) -> str:
    """A colour from behind (0) over even (0.5) to ahead (1)."""
    end, share = (AHEAD, 2 * fraction - 1) if fraction >= 0.5 else (BEHIND, 1 - 2 * fraction)
    return "#" + "".join(f"{round(e + (c - e) * share):02x}" for e, c in zip(EVEN, end, strict=True))


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(words: str) -> str:
    return str(escape(visible(words).translate(NO_XML)))
