"""How near a value has to be to the printed one to reproduce it; no released judgments are needed."""

import pytest

from analysis.paper.tables import GPT4_TABLE_1, Status, _cell, _elo_cells, _relative
from analysis.paper.values import TABLES
from eval.ratings.elo import EloRating
from eval.ratings.relative import RelativeScore


def status_of(column: str | None, mean: float, half: float) -> Status:
    """Of GPT-4's cell of a column, given its Elo and the half width of its interval."""
    rating = EloRating(mean=mean, ordering_sd=1.0, ordering_low=mean - half, ordering_high=mean + half, low=1, high=2)
    found = _elo_cells(TABLES["1"], GPT4_TABLE_1, "stated", {"gpt-4": rating}, None)
    return {(cell.row, cell.column): cell.status for cell in found}["gpt-4", str(column)]


@pytest.mark.parametrize(("off", "status"), [(0.0, Status.reproduces), (1.9, Status.reproduces), (2.1, Status.differs)])
@pytest.mark.parametrize("sign", [1, -1])
def test_elo_within_two_points(off: float, status: Status, sign: int) -> None:
    printed = TABLES["1"].rows["gpt-4"][TABLES["1"].columns.index(GPT4_TABLE_1.elo)]
    assert isinstance(printed, (int, float))
    assert status_of(GPT4_TABLE_1.elo, printed + sign * off, 1.0) is status


@pytest.mark.parametrize(
    ("half", "status"), [(1.0, Status.reproduces), (1.4, Status.reproduces), (1.6, Status.differs)]
)
def test_an_interval_to_the_printed_whole_number(half: float, status: Status) -> None:
    printed = TABLES["1"].rows["gpt-4"][TABLES["1"].columns.index(str(GPT4_TABLE_1.interval))]
    assert printed == 1
    assert status_of(GPT4_TABLE_1.interval, 1348.0, half) is status


@pytest.mark.parametrize(("off", "status"), [(0.04, Status.reproduces), (0.06, Status.differs)])
def test_a_relative_score_to_the_printed_decimal(off: float, status: Status) -> None:
    """Ours is rounded to a decimal as the paper's is."""
    row = next(iter(TABLES["6"].rows))
    printed = TABLES["6"].rows[row][TABLES["6"].columns.index("mean_pct")]
    assert isinstance(printed, float)
    score = RelativeScore(first=1.0, second=1.0, mean=printed + off, ci95=1.0, low=None, high=None, num_prompts=80)
    ours = _relative(score)["mean_pct"]
    (cell,) = _cell(TABLES["6"], row, "mean_pct", ours=ours, reason=None, tolerance=0.05)
    assert cell.status is status
