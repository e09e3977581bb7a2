"""A table of the paper from its own grid: Table 10 of a tiny model, trained, scored, beside the printed values."""

import csv
import json
from pathlib import Path

import pytest

from tests.lab import Lab, make_lab, write_rows

pytestmark = pytest.mark.slow  # eight runs and their MMLU

INSTANCE = {"instruction_with_input": "Add one to 2.", "input": "2", "constraints": "", "output": "3"}
ROWS = {
    "chip2": {"text": "<human>: Name a colour.\n<bot>: Red.", "metadata": ""},
    "unnatural_full": {"instruction": "Add one.", "instances": [INSTANCE], "reformulations": []},
    "alpaca_clean": {"instruction": "Name a bird.", "input": "", "output": "A wren."},
    "flan": {"inputs": "What is two and two?", "targets": "four", "task_source": "P3", "task_name": "t"},
}
SHORT = (
    "train.max_steps=1",
    "train.batch_size=2",
    "launch.device=cpu",
    "eval.mmlu.questions=embedded",
    "eval.mmlu.shots_file=embedded",
    "eval.mmlu.num_shots=0",
    "eval.mmlu.limit=1",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    made = make_lab(tmp_path_factory.mktemp("lab"), models={"llama7b": 0})
    for name, row in ROWS.items():
        write_rows(made.data / f"{name}.jsonl", [row] * 4)
    done = made.call("sweeps", "run", "+grid=table10", "sweep_name=ten", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_the_grids_runs_fill_every_cell(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    like = ["--like", " ".join(SHORT)]
    done = lab.call("analysis", "tables", "10", "--sweep", "ten", "--out", str(out), "--json", *like)
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = json.loads(done.stdout)
    assert len(table["cells"]) == 10
    assert all(cell["ours"] is not None for cell in table["cells"])
    assert table["missing"] == []
    headlines = {
        (record["spec"]["dataset"]["name"], record["spec"]["dataset"]["train_on_source"]): json.loads(
            (lab.runs / record["run_id"] / "eval" / "mmlu" / "mmlu.json").read_text()
        )["headline"]["value"]
        for record in lab.records().values()
    }
    ours = {(cell["row"], cell["column"]): cell["ours"] for cell in table["cells"]}
    assert ours["train on target", "Chip2"] == pytest.approx(100 * headlines["chip2", False])
    assert ours["train on source and target", "FLAN v2"] == pytest.approx(100 * headlines["flan", True])
    with (out / "table10.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 10
    assert {path.suffix for path in out.iterdir()} == {".csv", ".md", ".html", ".tex"}


def test_runs_that_were_cut_short_are_told_from_the_grids_own(lab: Lab, tmp_path: Path) -> None:
    done = lab.call("analysis", "tables", "10", "--sweep", "ten", "--out", str(tmp_path), COLUMNS="300")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not the grid's own settings: train.max_steps 1, the grid's 10000 (8 runs)" in done.stdout
