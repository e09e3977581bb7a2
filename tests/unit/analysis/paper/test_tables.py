"""The paper's tables from judgments: what reproduces, what differs, what could not be run, and that it says so."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.paper.released import NoJudgments
from analysis.paper.tables import Cell, Reproduction, Status, mean_absolute_error, reproduce
from analysis.paper.text import to_markdown

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "qlora").is_dir(), reason=f"no released judgments at {DATA}")
SYSTEMS = ("gpt-4", "guanaco-65b", "guanaco-33b", "vicuna-13b", "chatgpt-3.5", "guanaco-13b", "bard", "guanaco-7b")


def write_verdicts(path: Path, systems: tuple[str, ...]) -> None:
    """The better system, which stands first, wins each of two questions in both orders."""
    lines = ["question_id,system_a,system_b,verdict"]
    for question in (1, 2):
        for better, one in enumerate(systems):
            for other in systems[better + 1 :]:
                lines += [f"{question},{one},{other},1", f"{question},{other},{one},2"]
    path.write_text("\n".join(lines) + "\n")


def cells(found: Reproduction, column: str, setting: str = "") -> dict[str, Cell]:
    return {cell.row: cell for cell in found.cells if (cell.column, cell.setting) == (column, setting)}


def test_other_judgments_are_not_passed_off_as_the_released_ones(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "vicuna_gpt4_pairwise.csv", SYSTEMS[:-1])
    found = reproduce("1", tmp_path, tmp_path / "out", resamples=2)
    assert "NOT the released ones" in found.sources[0]
    stated = cells(found, "elo_gpt4_vicuna", "stated")
    assert stated["guanaco-7b"].status is Status.not_run
    assert "guanaco-7b is in none of GPT-4's verdicts" in str(stated["guanaco-7b"].reason)
    assert stated["gpt-4"].status is Status.differs
    drawn = cells(found, "elo_gpt4_vicuna", "drawn")["gpt-4"]
    assert (drawn.status, str(drawn.reason)[-20:]) == (Status.not_run, "there are 84 matches")
    assert stated["gpt-4"].difference == pytest.approx(stated["gpt-4"].ours - 1348)  # type: ignore[operator]
    assert "not run: elo_gpt4_vicuna, elo_ci95: guanaco-7b is in none of" in to_markdown(found)


def test_table_7_with_all_three_columns_has_median_ranks(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "vicuna_gpt4_pairwise.csv", SYSTEMS)
    write_verdicts(tmp_path / "vicuna_human_pairwise.csv", SYSTEMS)
    write_verdicts(tmp_path / "oa_gpt4_pairwise.csv", ("guanaco-65b", "gpt-4"))
    found = reproduce("7", tmp_path, tmp_path / "out", resamples=2)
    assert found.missing == ()
    medians = cells(found, "median_rank", "stated")
    assert {row: medians[row].ours for row in ("gpt-4", "guanaco-65b", "bard")} == {
        "gpt-4": 1,
        "guanaco-65b": 2,
        "bard": 7,
    }
    assert (medians["gpt-4"].status, medians["bard"].status) == (Status.reproduces, Status.differs)
    assert "Median rank" in to_markdown(found)


def test_half_a_rank_is_rounded_up(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "vicuna_gpt4_pairwise.csv", ("bard", "gpt-4"))
    write_verdicts(tmp_path / "vicuna_human_pairwise.csv", ("gpt-4", "bard"))
    write_verdicts(tmp_path / "oa_gpt4_pairwise.csv", ("gpt-4", "guanaco-7b"))
    found = reproduce("7", tmp_path, tmp_path / "out", resamples=2)
    assert cells(found, "median_rank", "small K")["bard"].ours == 2  # of 1 and 2


@pytest.mark.parametrize("table", ["1", "6", "7", "12"])
def test_without_any_judgment_the_command_says_what_is_missing_and_how_to_get_it(table: str, tmp_path: Path) -> None:
    with pytest.raises(NoJudgments):
        reproduce(table, tmp_path / "nothing", tmp_path / "out")
    places = ["--data", str(tmp_path), "--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["tables", table, "--no-plan", *places])
    assert result.exit_code == 2
    assert "make data" in result.stderr
    assert f"python -m sweeps run +grid={'table6' if table == '6' else 'guanaco'}" in result.stderr
    assert ".csv" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tables", "13", "--data", str(tmp_path)])
    assert (result.exit_code, "expected one of 1, 2, 3" in result.stderr) == (2, True)
    with pytest.raises(ValueError, match="table '5': expected one of 1, 6, 7"):
        reproduce("5", tmp_path, tmp_path)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "vicuna_gpt4_pairwise.csv").write_text("question_id,system_a,system_b,verdict\n1,a,b,7\n")
    result = CliRunner().invoke(
        app, ["tables", "1", "--no-plan", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert "line 2: verdict '7'" in result.stderr


@needs_data
def test_table_6_reproduces_but_for_the_papers_own_slips(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["tables", "6", "--no-plan", "--data", str(DATA), "--out", str(tmp_path), "--resamples", "2"]
    )
    assert result.exit_code == 0
    with (tmp_path / "table6.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    judged = [row for row in rows if row["column"] != "memory_gb"]
    assert Counter(row["status"] for row in judged) == {"reproduces": 78, "differs": 6, "not run": 19}
    assert {row["row"] for row in judged if row["status"] == "differs"} == {"gpt-4", "open-assistant-33b"}
    memory = {row["row"]: row["status"] for row in rows if row["column"] == "memory_gb"}
    assert (memory["vicuna-13b"], memory["guanaco-65b"]) == ("reproduces", "differs")
    assert (
        "| guanaco-65b | 96.7 / 96.7 | 101.9 / 101.9 | 99.3 / 99.3 | 4.4 / 4.4 |"
        in (tmp_path / "table6.md").read_text()
    )


@needs_data
def test_table_7_fits_under_the_fitted_settings_and_says_where_the_stated_ones_miss(tmp_path: Path) -> None:
    arguments = ["tables", "7", "--no-plan", "--data", str(DATA), "--out", str(tmp_path), "--resamples", "2", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    (printed,) = json.loads(result.stdout)
    assert {cell["reason"][:27] for cell in printed["cells"] if cell["column"] == "elo_gpt4_oa"} == {
        "no GPT-4's verdicts on the "
    }
    found = reproduce("7", DATA, tmp_path, resamples=2)
    for column in ("elo_human_vicuna", "elo_gpt4_vicuna"):
        errors = [mean_absolute_error(found, column, setting) for setting in ("stated", "drawn", "small K")]
        assert [error is not None and error < 2.0 for error in errors] == [False, True, True]
    assert cells(found, "elo_gpt4_vicuna", "stated")["gpt-4"].status is Status.differs
    assert all(sources.endswith("as released") for sources in found.sources)
    assert all(cell.status is Status.reproduces for cell in cells(found, "rank_human_vicuna", "drawn").values())


@needs_data
def test_table_12_is_given_by_the_released_verdicts_to_the_printed_digit(tmp_path: Path) -> None:
    found = reproduce("12", DATA, tmp_path)
    assert found.num == {"reproduces": 42, "differs": 0, "not run": 0}
    page = to_markdown(found)
    assert "| guanaco-65b |  | 0.21 / 0.21 | 0.19 / 0.19 |" in page
    assert "from memory" in page
