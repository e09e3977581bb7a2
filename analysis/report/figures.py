"""Turns numbers into the SVG coordinates of a figure's marks, which the Jinja macros in templates/figures draw.

Positions along an interval bar are percentages of the drawing's width, so that the page can stretch it
without distortion; curves use a fixed view box.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.runs.estimate import Estimate

CURVE_WIDTH, CURVE_HEIGHT = 240.0, 96.0  # the view box of one small curve
CURVE_MARGIN = 5.0  # keeps dots and strokes inside
MAX_CURVE_POINTS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A linear axis from `low` to `high` with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> float:
        """Position of `value` along the axis, 0 to 100; values outside stop at the ends."""
        return round(min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Percentages along a scale: the estimate, its 95 % interval and an inner interval, where there are any."""

    at: float
    low: float | None
    high: float | None
    inner_low: float | None = None
    inner_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One polyline in the view box, its last point, and how many steps each of its points averages."""

    points: str  # "x,y x,y ...", for <polyline>
    end: tuple[float, float]
    steps_per_point: int


def scale_over(values: Iterable[float | None], num_ticks: int = 4, pad: float = 0.04) -> Scale | None:
    """An axis that holds all `values` with a little air; None where there is no value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - pad * span, high + pad * span
    return Scale(low=low, high=high, ticks=round_ticks(low, high, num_ticks))


def round_ticks(low: float, high: float, num_ticks: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], at most `num_ticks` of them, at least one."""
    raw = (high - low) / max(num_ticks, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 1 <= last - first + 1 <= num_ticks:
            return tuple(round(index * step, 12) for index in range(first, last + 1))
    return (round((low + high) / 2, 12),)


def bar(scale: Scale, estimate: Estimate, inner: Estimate | None = None) -> Bar:
    """An estimate's marks on a scale."""
    assert estimate.value is not None, "views of what wasn't measured have no bar"
    return Bar(
        at=scale.percent(estimate.value),
        low=_percent(scale, estimate.low),
        high=_percent(scale, estimate.high),
        inner_low=_percent(scale, inner.low) if inner else None,
        inner_high=_percent(scale, inner.high) if inner else None,
    )


def curve(losses: Sequence[tuple[int, float]], max_step: int, scale: Scale) -> Curve:
    """A loss curve on axes that other curves share.

    Args:
        losses: (step, loss), by step, at least one.
        max_step: the last step of the longest curve.
        scale: the loss axis.
    """
    every = -(-len(losses) // MAX_CURVE_POINTS)
    places = [
        (_along(step / max(max_step, 1), CURVE_WIDTH), _along(1 - scale.percent(loss) / 100, CURVE_HEIGHT))
        for step, loss in bin_means(losses, every)
    ]
    return Curve(points=" ".join(f"{x:g},{y:g}" for x, y in places), end=places[-1], steps_per_point=every)


def curve_marks(losses: Sequence[tuple[int, float]], max_step: int, scale: Scale) -> list[tuple[float, float]]:
    """Places of single losses, as of held-out rows, on the axes of `curve`."""
    return [(_along(step / max(max_step, 1), CURVE_WIDTH), curve_y(scale, loss)) for step, loss in losses]


def curve_y(scale: Scale, value: float) -> float:
    """The height of a loss in the view box of a curve."""
    return _along(1 - scale.percent(value) / 100, CURVE_HEIGHT)


def bin_means(losses: Sequence[tuple[int, float]], every: int) -> list[tuple[float, float]]:
    """(mean step, mean loss) of each `every` following points; the last bin may hold fewer."""
    bins = [losses[start : start + every] for start in range(0, len(losses), every)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in bins]


def _percent(scale: Scale, value: float | None) -> float | None:
    return None if value is None else scale.percent(value)


def _along(fraction: float, length: float) -> float:
    return round(CURVE_MARGIN + fraction * (length - 2 * CURVE_MARGIN), 2)
