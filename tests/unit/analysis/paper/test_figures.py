"""The paper's figures from runs: which runs make which point, and what is said where nothing was run."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.paper.figures import FIGURES, paper_figure
from analysis.paper.own import OwnRun, OwnRuns
from harness.config.choices import model_choice
from harness.config.grids import grid_names

SHAPE = {name: getattr(model_choice("llama7b").shape, name) for name in model_choice("llama7b").shape.__slots__}


def run(loss: float | None = None, accuracy: float | None = None, rouge: float | None = None, **changes: Any) -> OwnRun:
    spec: dict[str, Any] = {
        "model": {"shape": SHAPE},
        "quant": {"method": "nf4", "double_quant": True},
        "adapter": {"method": "lora", "lora_r": 64, "targets": ["all-linear"]},
    }
    for part, values in changes.items():
        spec[part] = spec[part] | values
    scores = {"tasks": accuracy, "rouge": rouge}
    results = {name: {"headline": {"value": s, "ci95": None}} for name, s in scores.items() if s is not None}
    return OwnRun(run_id="r", label="l", spec=spec, results=results, final_loss=loss)


def made(name: str, *runs: OwnRun) -> list[dict[str, str]]:
    figure = paper_figure(name, OwnRuns(where="sweep s", runs=runs))
    assert figure.drawing is not None
    assert figure.svg.startswith("<svg")
    return list(csv.DictReader(io.StringIO(figure.csv)))


def test_ranks_are_in_order_and_seeds_are_merged() -> None:
    runs = [run(2.0, adapter={"lora_r": 64}), run(1.0, adapter={"lora_r": 8}), run(3.0, adapter={"lora_r": 64})]
    rows = made("4", *runs)
    assert [(row["setting"], row["runs"]) for row in rows] == [("r = 8", "1"), ("r = 64", "2")]
    assert [float(rows[1][f"final_loss_{name}"]) for name in ("mean", "min", "max")] == [2.5, 2.0, 3.0]


def test_rouge_stands_for_the_loss_where_it_was_measured() -> None:
    runs = [run(2.0, rouge=0.5, adapter={"lora_r": 8}), run(1.0, rouge=0.25, adapter={"lora_r": 8}), run(3.0)]
    rows = made("4", *runs)
    assert [(row["setting"], row["runs"]) for row in rows] == [("r = 8", "2")]
    assert [float(rows[0][f"rouge_l_{name}"]) for name in ("mean", "min", "max")] == [37.5, 25.0, 50.0]
    caption = paper_figure("4", OwnRuns(where="sweep s", runs=tuple(runs))).caption
    assert caption.endswith("1 of 3 runs were not scored by eval=rouge and are left out.")
    whole = paper_figure("2", OwnRuns(where="sweep s", runs=tuple(runs[:2]))).caption
    assert "held-out rows of our own" in whole
    assert "left out" not in whole


def test_placements_are_told_by_the_layers_and_the_data_type() -> None:
    rows = made(
        "2",
        run(1.0),
        run(2.0, adapter={"targets": ["gate_proj", "up_proj", "down_proj"]}, quant={"method": "none"}),
        run(3.0, adapter={"targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
        run(4.0, adapter={"method": "full"}, quant={"method": "none"}),
    )
    assert [row["setting"] for row in rows] == [
        "all layers, nf4 + DQ",
        "feed-forward, BF16",
        "attention, nf4 + DQ",
        "full finetuning, BF16",
    ]


def test_accuracy_stands_over_the_bits_of_the_base() -> None:
    """7B has 6,738,149,376 weights without norms; 4.127 bits of them are 3.476 GB, 4.5 bits 3.790 GB."""
    rows = made("3", run(accuracy=0.6), run(accuracy=0.5, quant={"method": "fp4", "double_quant": False}))
    assert [(row["data_type"], float(row["accuracy"])) for row in rows] == [("fp4", 50.0), ("nf4 + DQ", 60.0)]
    assert [float(row["model_gb"]) for row in rows] == [pytest.approx(3.790, abs=1e-3), pytest.approx(3.476, abs=1e-3)]


def test_memory_needs_no_run() -> None:
    rows = made("6")
    assert [(row["size"], float(row["paper_gb"])) for row in rows] == [
        ("7B", 6.9),
        ("13B", 11.3),
        ("33B", 24.7),
        ("65B", 45.0),
    ]
    assert all(float(row["ours_gb"]) <= float(row["ours_with_paged_gb"]) for row in rows)


@pytest.mark.parametrize("name", ["2", "3", "4"])
def test_what_was_not_run_says_the_command(name: str) -> None:
    figure = paper_figure(name, OwnRuns(where="s"))
    assert (figure.drawing, figure.caption) == (None, f"not run: python -m sweeps run +grid={FIGURES[name].grid}")
    assert FIGURES[name].grid in grid_names()


def test_the_command_writes_what_there_is(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["figures", "all", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"figure6.svg", "figure6.csv"}
    assert "Figure 3: zero-shot accuracy by data type: not run" in done.stdout
    refused = CliRunner().invoke(app, ["figures", "5", "--runs", str(tmp_path)])
    assert (refused.exit_code, "expected one of 2, 3, 4, 6" in refused.stderr) == (2, True)
