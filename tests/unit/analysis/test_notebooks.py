"""The notebooks run from a clean kernel, hold no outputs, and only call the library."""

import ast
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from analysis.notebook import (
    DEMO,
    ROOT,
    Picture,
    Table,
    place,
    show,
    show_curves,
    show_intervals,
    show_points,
)
from analysis.report.plots.charts import Interval, intervals
from tests.records.recorded_sweep import SWEEP, write_sweep, write_tournament

NOTEBOOKS = sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb"))
OF_JUDGMENTS = "02_elo_and_agreement"
DATA = ROOT.parent / "shared" / "data"
MAX_LINES = 5  # of a definition
MAX_WIDTH = 105  # characters of a line of code that a rendered page of 1,000 pixels shows


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_there_are_notebooks() -> None:
    assert {"01_quickstart", OF_JUDGMENTS, "05_sweep_effects"} <= set(names(NOTEBOOKS))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_a_notebook_is_stripped_and_says_what_will_be_seen(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in cells(path, "code"):
        assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == ([], None, {}), cell["id"]
    words = ["".join(cell["source"]) for cell in cells(path, "markdown")]
    assert words[0].startswith("# ")
    assert "will" in words[0]
    assert any("beside the paper" in text for text in words)
    assert "With GPUs" in words[-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_a_notebook_defines_nothing_of_its_own(path: Path) -> None:
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < MAX_LINES, f"{cell['id']}: {node.name}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_no_line_of_code_is_cut_off_on_a_page(path: Path) -> None:
    lines = [line.rstrip() for cell in cells(path, "code") for line in cell["source"]]
    assert [line for line in lines if len(line) > MAX_WIDTH] == []


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_sweep(folder / "runs")
    write_tournament(folder / "tournament")
    return folder


@pytest.mark.slow  # a kernel that imports pandas and scipy
@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_a_notebook_runs_from_a_clean_kernel(path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem == OF_JUDGMENTS and not DATA.is_dir():
        pytest.skip("the released judgments are not here: ../shared/data, or `make data`")
    monkeypatch.setenv("HARNESS_RUNS", str(recorded / "runs"))
    monkeypatch.setenv("HARNESS_SWEEP", SWEEP)
    monkeypatch.setenv("HARNESS_TOURNAMENT", str(recorded / "tournament"))
    monkeypatch.setenv("HARNESS_DATA_STORE", str(DATA))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= len(cells(path, "code")) // 2


def test_the_place_is_the_demos_unless_the_environment_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HARNESS_RUNS", "HARNESS_SWEEP", "HARNESS_TOURNAMENT", "HARNESS_DATA_STORE"):
        monkeypatch.delenv(name, raising=False)
    assert (place().sweep, place().tournament) == (DEMO, ROOT / "tournaments" / DEMO)
    monkeypatch.setenv("HARNESS_SWEEP", "mine")
    monkeypatch.setenv("HARNESS_RUNS", "/lab/runs")
    assert place().records == {"runs_folder": Path("/lab/runs"), "sweep": "mine"}
    assert place().tournament == ROOT / "tournaments" / "mine"


def test_a_picture_is_an_image_that_every_viewer_reads() -> None:
    drawn = Picture(intervals([Interval(label="a<b", value=1.0, low=0.5, high=2.0)], "points"))._repr_svg_()
    root = ElementTree.fromstring(drawn)  # refuses what an <img> refuses: an attribute twice, an open tag
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<style>" in drawn
    assert "a&lt;b" in drawn


def texts_of(table: Table) -> list[list[str]]:
    """The words of each row, the headers first."""
    root = ElementTree.fromstring(table._repr_html_())
    return [[cell.text or "" for cell in row] for row in root.iter("tr")]


def test_a_table_has_even_decimals_gigabytes_and_dashes() -> None:
    frame = pd.DataFrame(
        {
            "name": ["a<b", None],
            "peak_bytes": pd.array([2_500_000_000, None], dtype="Int64"),
            "final_loss": [0.5, 12.25],
            "num_steps": [1200, 3],
            "p_holm": [1e-14, 0.25],
            "is_best": [True, False],
        }
    )
    assert texts_of(show(frame)) == [
        ["name", "peak, GB", "final loss", "num steps", "p holm", "is best"],
        ["a<b", "2.500", "0.50", "1,200", "1e-14", "True"],
        ["\u2013", "\u2013", "12.25", "3", "0.250", "False"],
    ]
    assert texts_of(show(frame, "num_steps", "name"))[0] == ["num steps", "name"]
    assert texts_of(show(frame.set_index("name"), "num_steps"))[1] == ["a<b", "1,200"]
    assert show(frame[:0])._repr_html_() == "<p>none</p>"


def test_figures_of_frames_leave_out_what_has_no_value() -> None:
    frame = pd.DataFrame(
        {"run": ["a", "b"], "value": [1.0, None], "low": [None, 1.0], "high": [None, 2.0], "x": [1, 2]}
    )
    of_intervals = show_intervals(frame, "run", "points")._repr_svg_()
    of_points = show_points(frame, "run", "x", "value", ("steps", "points"))._repr_svg_()
    of_curves = show_curves(frame, "run", "x", "value", "points")._repr_svg_()
    for drawn in (of_intervals, of_points, of_curves):
        words = [text.text for text in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
        assert "a" in words
        assert "b" not in words
