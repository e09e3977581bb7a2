"""A measured value with its 95 % interval: the type that all results share."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured value; None where it isn't defined. The bounds are None where the interval isn't known."""

    value: float | None
    low: float | None = None  # of the 95 % interval
    high: float | None = None
    n: int | None = None  # questions, rows or documents behind it

    @classmethod
    def of(cls, value: float | None, interval: Interval | None, n: int | None = None) -> "Estimate":
        """A value and its interval, or None for an interval that isn't known."""
        low, high = (None, None) if interval is None else interval
        return cls(value=value, low=low, high=high, n=n)

    @property
    def ci95(self) -> Interval | None:
        """Both bounds; None where one of them isn't known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """The values as result files have them: `value`, `ci95`, and `n` where it is known."""
        return {"value": self.value, "ci95": self.ci95} | ({} if self.n is None else {"n": self.n})


def plain_values(result: Any) -> Any:
    """A result as plain values, as `dataclasses.asdict` gives them, estimates as their `to_json`."""
    if isinstance(result, Estimate):
        return result.to_json()
    if is_dataclass(result) and not isinstance(result, type):
        return {field.name: plain_values(getattr(result, field.name)) for field in fields(result)}
    if isinstance(result, dict):
        return {key: plain_values(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return type(result)(plain_values(value) for value in result)
    return result
