"""How near a value has to be to the printed one to reproduce it; no released judgments are needed."""

from pathlib import Path

import pytest

from analysis.paper import tables
from analysis.paper.tables import GPT4_TABLE_1, Status, elo_cells
from analysis.paper.values import TABLES
from eval.ratings.elo import EloRating
from eval.ratings.relative import RelativeScore


def status_of(column: str | None, mean: float, half: float) -> Status:
    """Of GPT-4's cell of a column, given its Elo and the half width of its interval."""
    rating = EloRating(mean=mean, ordering_sd=1.0, ordering_low=mean - half, ordering_high=mean + half, low=1, high=2)
    found = elo_cells(TABLES["1"], GPT4_TABLE_1, "stated", {"gpt-4": rating}, None)
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


@pytest.mark.parametrize(("off", "status"), [(0.04, Status.reproduces), (0.1, Status.differs)])
def test_a_relative_score_to_the_printed_decimal(
    off: float, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is rounded to a decimal as the paper's is."""
    row = "guanaco-65b"
    printed = TABLES["6"].rows[row][TABLES["6"].columns.index("mean_pct")]
    assert isinstance(printed, float)
    score = RelativeScore(first=1.0, second=1.0, mean=printed + off, ci95=1.0, low=None, high=None, num_prompts=80)
    path = tmp_path / "scores.csv"
    path.touch()
    for name, value in (("locate", path), ("load_scores", None), ("relative_scores", {row: score}), ("_source", "")):
        monkeypatch.setattr(tables, name, lambda *_, value=value: value)
    found = tables._table_6(tmp_path, tmp_path, 2).cells
    assert {(cell.row, cell.column): cell.status for cell in found}[row, "mean_pct"] is status


def test_columns_of_elo_and_the_matches_that_each_draws() -> None:
    found = {name: getattr(tables, name) for name in ("HUMAN", "GPT4", "GPT4_TABLE_1", "OPEN_ASSISTANT")}
    assert {name: (c.release, c.elo, c.rank, c.interval, c.num_drawn) for name, c in found.items()} == {
        "HUMAN": ("vicuna_human_pairwise", "elo_human_vicuna", "rank_human_vicuna", None, 240),
        "GPT4": ("vicuna_gpt4_pairwise", "elo_gpt4_vicuna", "rank_gpt4_vicuna", None, 500),
        "GPT4_TABLE_1": ("vicuna_gpt4_pairwise", "elo_gpt4_vicuna", None, "elo_ci95", 500),
        "OPEN_ASSISTANT": ("oa_gpt4_pairwise", "elo_gpt4_oa", "rank_gpt4_oa", None, 4240),
    }
