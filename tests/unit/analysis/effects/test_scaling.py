"""Power laws: planted ones are found, and what is none is refused with the reason."""

import numpy as np
import pytest
from scipy.stats import linregress, t

from analysis.effects.scaling import fit_in_words, fit_power_law

SIZES = [1e6, 1e7, 1e8, 1e9]


def test_a_planted_law_is_found_exactly() -> None:
    law = fit_power_law(SIZES, [5 * size**-0.07 for size in SIZES])
    assert (law.scale, law.exponent) == (pytest.approx(5), pytest.approx(-0.07))
    assert (law.low, law.high) == (pytest.approx(-0.07), pytest.approx(-0.07))
    assert law.at(1e10) == pytest.approx(5 * 1e10**-0.07)


def test_the_interval_is_students() -> None:
    values = [4.0, 3.3, 2.9, 2.4]
    line = linregress(np.log(SIZES), np.log(values))
    law = fit_power_law(SIZES, values)
    reach = t.ppf(0.975, 2) * line.stderr
    assert law.exponent == pytest.approx(line.slope)
    assert (law.low, law.high) == (pytest.approx(line.slope - reach), pytest.approx(line.slope + reach))
    assert law.scale == pytest.approx(np.exp(line.intercept))


def test_the_interval_covers_at_its_rate() -> None:
    random = np.random.default_rng(0)
    x = np.array(SIZES * 2)
    covered = fitted = 0
    for _ in range(400):
        y = np.exp(1 - 0.1 * np.log(x) + random.normal(0, 0.05, len(x)))
        try:
            law = fit_power_law(x, y)
        except ValueError:
            continue  # of the bend's test, 5 %
        fitted += 1
        covered += law.low <= -0.1 <= law.high
    assert 0.92 < fitted / 400 <= 0.98
    assert 0.92 < covered / fitted < 0.98


@pytest.mark.parametrize(
    ("sizes", "values", "why"),
    [
        (SIZES[:3], [3, 2, 1], "3 sizes: a line through fewer than 4"),
        ([1e6, 1e6, 1e7, 1e8], [3, 3, 2, 1], "3 sizes"),
        ([1.0, 2.0, 3.0, 3.9], [3, 2, 1.5, 1], "less than a factor of 4 apart"),
        ([1, 10, 100, 1000, 10000, 100000], [9, 4, 2.5, 2.05, 2.01, 2.0], "the points bend"),
        (SIZES, [2.0, 3.1, 2.2, 2.9], "it may be 0"),
        (SIZES, [2.0, 0.0, 2.2, 2.9], "finite and above zero"),
        (SIZES, [2.0, float("nan"), 2.2, 2.9], "finite and above zero"),
        ([0.0, *SIZES[1:]], [3.0, 2.5, 2.2, 2.0], "finite and above zero"),
        (SIZES, [2.0, 1.0], "one value for each size"),
    ],
)
def test_what_is_no_law_is_refused(sizes: list[float], values: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fit_power_law(sizes, values)


def test_a_law_is_not_stretched() -> None:
    law = fit_power_law(SIZES, [4.0, 3.3, 2.9, 2.4])
    with pytest.raises(ValueError, match="by more than a factor of ten"):
        law.at(1.1e10)
    with pytest.raises(ValueError, match="by more than a factor of ten"):
        law.at(0.9e5)


def test_a_law_that_is_met_exactly_has_no_width() -> None:
    sizes = [1e6, 1e9, 3e9, 1e10]  # the first far from the others: deviations are not symmetric
    for exponent in (-0.07, 0.5):
        law = fit_power_law(sizes, [5 * size**exponent for size in sizes])
        assert law.low == law.exponent == law.high == pytest.approx(exponent)
        assert (law.num_points, law.smallest, law.largest) == (4, 1e6, 1e10)
        assert [law.at(size) for size in (1e5, 2e5, 1e11)] == pytest.approx(
            [5 * size**exponent for size in (1e5, 2e5, 1e11)]
        )


def test_equal_values_are_no_law() -> None:
    with pytest.raises(ValueError, match=r"the exponent 0 has the 95 % interval \[0, 0\]: it may be 0"):
        fit_power_law(SIZES, [1.0] * 4)


def test_whole_numbers_of_any_size_are_numbers() -> None:
    sizes, values = [10**power for power in (18, 19, 20, 21)], [10**power for power in (22, 21, 20, 19)]
    assert fit_power_law(sizes, values).exponent == pytest.approx(-1.0)


def test_a_law_in_words() -> None:
    assert fit_in_words(SIZES, [4.0, 3.3, 2.9, 2.4]) == "exponent -0.07 [-0.09, -0.06]"
    assert fit_in_words(SIZES[:1], [1.0]) == ("no law: 1 size: a line through fewer than 4 shows nothing; measure more")
    assert fit_in_words([1.0, 2.0, 3.0, 4.0], [9.0, 3.1, 1.8, 1.2]).startswith("exponent ")  # a factor of 4 is enough


def test_four_sizes_can_bend() -> None:
    """One degree of freedom: log y = -(log x)^2, with a rounding error of its own."""
    with pytest.raises(ValueError, match="the points bend"):
        fit_power_law([1.0, 10.0, 100.0, 1000.0], [1000.0, 501.2, 63.1, 2.0])
