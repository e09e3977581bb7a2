"""Tables 1, 6 and 7 on a small extract of the released judgments, held against other programs (tests/golden/released).

Runs in a plain clone; the same on all of the judgments is in test_tables.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.paper.tables import Reproduction, Status, reproduce
from analysis.paper.values import TABLES
from eval.ratings.agreement import AgreeOptions, agree_files
from eval.ratings.bradley_terry import count_cells, fit
from eval.ratings.relative import load_scores, relative_scores
from eval.verdicts.table import load_verdicts, to_matches
from tests.golden.released.extract import write_extract

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "released"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
ERRORS = 4.5  # of a mean over orderings, ours and the other program's together; 96 means are compared
OUR_ORDERINGS, THEIR_ORDERINGS = 10_000, 40_000


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the extract as the CSVs that the tables are made of."""
    return write_extract(tmp_path_factory.mktemp("released"))


def check_elo(found: Reproduction, column: str, judge: str) -> None:
    for setting, by_system in EXPECTED[judge]["elo"].items():
        cells = [cell for cell in found.cells if (cell.column, cell.setting) == (column, setting)]
        assert {cell.row for cell in cells} == set(by_system)
        for cell in cells:
            mean, error = by_system[cell.row]
            together = error * np.sqrt(1 + THEIR_ORDERINGS / OUR_ORDERINGS)
            assert cell.ours == pytest.approx(mean, abs=ERRORS * together)
            assert cell.status is (Status.reproduces if abs(cell.difference or 0.0) <= 2.0 else Status.differs)


def test_table_1_on_the_extract(released: Path, tmp_path: Path) -> None:
    found = reproduce("1", released, tmp_path, resamples=2)
    assert "NOT the released ones" in found.sources[0]
    check_elo(found, "elo_gpt4_vicuna", "pairwise")
    halves = {cell.row: cell.ours for cell in found.cells if (cell.column, cell.setting) == ("elo_ci95", "stated")}
    for system, half in halves.items():
        error = EXPECTED["pairwise"]["elo"]["stated"][system][1] * np.sqrt(THEIR_ORDERINGS / OUR_ORDERINGS)
        assert half == pytest.approx(1.96 * error, rel=0.05)


def test_table_7_on_the_extract(released: Path, tmp_path: Path) -> None:
    found = reproduce("7", released, tmp_path, resamples=2)
    for column, judge in (("human_vicuna", "human"), ("gpt4_vicuna", "pairwise")):
        check_elo(found, f"elo_{column}", judge)
        for setting, by_system in EXPECTED[judge]["elo"].items():
            order = sorted(by_system, key=lambda name: -by_system[name][0])
            ranks = {c.row: c.ours for c in found.cells if (c.column, c.setting) == (f"rank_{column}", setting)}
            assert ranks == {name: place for place, name in enumerate(order, 1)}
    assert {cell.status for cell in found.cells if cell.column == "median_rank"} == {Status.not_run}


def test_table_6_on_the_extract_prints_the_papers_values(released: Path, tmp_path: Path) -> None:
    """All questions of six systems are in it, so what they print is the paper's; but for GPT-4's row, as it notes."""
    found = relative_scores(load_scores([released / "vicuna_gpt4_relative.csv"]))
    for system, expected in EXPECTED["relative"].items():
        score = found[system]
        ours = {
            "candidate_first": score.first,
            "candidate_second": score.second,
            "mean": score.mean,
            "ci95": score.ci95,
        }
        assert ours == pytest.approx(expected, rel=1e-9)
    cells = [cell for cell in reproduce("6", released, tmp_path).cells if cell.column.endswith("_pct")]
    assert {cell.row for cell in cells if cell.status is Status.reproduces} == set(EXPECTED["relative"])
    assert {cell.row for cell in cells if cell.status is Status.differs} == {"gpt-4"}
    assert sum(cell.status is Status.reproduces for cell in cells) == 4 * 5 + 2
    printed = TABLES["6"].rows["guanaco-65b"][:4]
    assert printed == tuple(cell.ours for cell in cells if cell.row == "guanaco-65b" and cell.ours is not None)


@pytest.mark.parametrize(("name", "judge"), [("vicuna_gpt4_pairwise", "pairwise"), ("vicuna_human_pairwise", "human")])
def test_bradley_terry_on_the_extract_is_choixs(released: Path, name: str, judge: str) -> None:
    verdicts = load_verdicts([released / f"{name}.csv"])
    matches = to_matches(verdicts)
    assert len(matches) == EXPECTED[judge]["num_matches"]
    cells = count_cells(matches, len(verdicts.system_names))
    points = fit(cells, cells.totals()).points
    expected = EXPECTED[judge]["bradley_terry"]
    assert dict(zip(verdicts.system_names, points, strict=True)) == pytest.approx(expected, abs=0.5)  # a weak prior


def test_agreement_on_the_extract_is_statsmodels_scipys_and_scikit_learns(released: Path) -> None:
    judged, people = (released / f"vicuna_{name}_pairwise.csv" for name in ("gpt4", "human"))
    found, expected = agree_files(judged, people, AgreeOptions(resamples=2)), EXPECTED["agreement"]
    assert found.example.num == expected["num_items"]
    for name in ("percent_agreement", "cohen_kappa", "fleiss_kappa"):
        assert found.example.statistics[name].value == pytest.approx(expected[name], abs=1e-9)
    raters = found.judges[1].raters["all"]
    assert raters.num == expected["num_items_with_three_votes"]
    assert raters.statistics["fleiss_kappa"].value == pytest.approx(expected["fleiss_kappa_of_three"], abs=1e-9)
    for name, value in EXPECTED["ranking"].items():
        assert found.system.statistics[name].value == pytest.approx(value, abs=1e-9)
