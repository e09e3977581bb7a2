"""Fits a power law to losses or scores over model or data size, and refuses where the points don't follow one.

    law = fit_power_law([7e6, 30e6, 135e6, 360e6], [4.1, 3.4, 2.8, 2.5])
    law.exponent, law.low, law.high, law.at(1e9)

y = scale * x^exponent is a straight line in the logarithms: least squares, Student's t for the exponent's interval
(Kaplan et al. 2020, arXiv 2001.08361, section 3, fits the same form). A law is refused with fewer than four sizes or
less than a factor of four between them, where the line bends (the square of log x is significant at 5 %), and where the
exponent's interval holds zero: then the size explains nothing that could be extended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
LEAST_SIZES = 4
LEAST_SPAN = 4.0
LEVEL = 0.05
NO_RESIDUAL = 1e-12  # of the points' own spread: on the line to the last digits


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """y = scale * x^exponent, with the exponent's 95 % interval."""

    scale: float
    exponent: float
    low: float
    high: float
    num_points: int
    smallest: float  # of the sizes that were fitted
    largest: float

    def at(self, size: float) -> float:
        """The law's value at a size. Raises ValueError beyond a factor of ten outside of what was fitted."""
        if not self.smallest / 10 <= size <= self.largest * 10:
            raise ValueError(
                f"size {size:g}: the law was fitted from {self.smallest:g} to {self.largest:g}; it is not extended "
                "by more than a factor of ten"
            )
        return float(self.scale * size**self.exponent)


def fit_power_law(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw:
    """Fits the law by least squares of the logarithms.

    Args:
        sizes: parameters, tokens or rows; several points of one size may be seeds.
        values: losses, errors or scores, above zero.

    Raises:
        ValueError: it doesn't hold, or can't be told to; says why.
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{x.size} sizes and {y.size} values: one value for each size")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("sizes and values must be finite and above zero: a power law has logarithms")
    num_sizes = len(np.unique(x))
    if num_sizes < LEAST_SIZES:
        sizes_text = f"{num_sizes} size{'s' * (num_sizes != 1)}"
        raise ValueError(f"{sizes_text}: a line through fewer than {LEAST_SIZES} shows nothing; measure more")
    if x.max() / x.min() < LEAST_SPAN:
        raise ValueError(f"sizes from {x.min():g} to {x.max():g}: less than a factor of {LEAST_SPAN:g} apart")
    log_x, log_y = np.log(x), np.log(y)
    bend = _last_coefficient(np.stack([np.ones_like(log_x), log_x, log_x**2], axis=1), log_y)
    if bend.p_value < LEVEL:
        raise ValueError(f"the points bend: the square of log size has p = {bend.p_value:.2g}; no power law holds here")
    slope = _last_coefficient(np.stack([np.ones_like(log_x), log_x], axis=1), log_y)
    if slope.low <= 0 <= slope.high:
        raise ValueError(
            f"the exponent {slope.value:.3g} has the 95 % interval [{slope.low:.3g}, {slope.high:.3g}]: it may be 0"
        )
    return PowerLaw(
        scale=float(np.exp(log_y.mean() - slope.value * log_x.mean())),
        exponent=slope.value,
        low=slope.low,
        high=slope.high,
        num_points=len(x),
        smallest=float(x.min()),
        largest=float(x.max()),
    )


def fit_in_words(sizes: Sequence[float], values: Sequence[float]) -> str:
    """The law's exponent with its interval, or why no law holds, as one sentence."""
    try:
        law = fit_power_law(sizes, values)
    except ValueError as error:
        return f"no law: {error}"
    return f"exponent {law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coefficient:
    value: float
    low: float
    high: float
    p_value: float


def _last_coefficient(design: Array, y: Array) -> _Coefficient:
    """The last coefficient of a linear regression, with Student's t. Args: design: (num_points, num_columns)."""
    solved, _, _, _ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - design.shape[1]
    residual = float(((y - design @ solved) ** 2).sum())
    value = float(solved[-1])
    if residual <= NO_RESIDUAL * float(((y - y.mean()) ** 2).sum()):
        return _Coefficient(value=value, low=value, high=value, p_value=1.0)  # met exactly, so that it doesn't bend
    inverse = np.linalg.inv(design.T @ design)
    error = float(np.sqrt(residual / freedom * inverse[-1, -1]))
    reach = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    return _Coefficient(
        value=value, low=value - reach, high=value + reach, p_value=float(2 * stdtr(freedom, -abs(value) / error))
    )
