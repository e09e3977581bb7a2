"""What a plan can tell apart: by hand from assumptions, and from the spreads of finished runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eval.benchmarks.registry import eval_config
from eval.benchmarks.replicates import Spreads, detectable
from harness.config.compose import compose_grid
from harness.config.schema import PathsConfig
from harness.files.atomic import write_json
from harness.runs.record import save_record
from sweeps.__main__ import app
from sweeps.plan.jobs import PlannedRun, plan_runs
from sweeps.search.detect import ASSUMED_NATS_TEXT, ASSUMED_POINTS_TEXT, Detectable, detect
from tests.records.recorded_sweep import mmlu_values, record_of

GRID = ("model=smollm2", "dataset=concise", "adapter=lora,dora", "train.seed=0,1,2", "eval.after_training=[mmlu]")


def runs_of(*overrides: str) -> list[PlannedRun]:
    return plan_runs([point.config for point in compose_grid([*GRID, *overrides], eval_config())])


def found_of(runs: Path, *overrides: str, wanted: float = 1.0) -> list[Detectable]:
    return detect(runs_of(*overrides), PathsConfig(runs=str(runs), cache=str(runs)), wanted)


def test_without_finished_runs_the_spreads_are_assumed_and_said_so(tmp_path: Path) -> None:
    [found] = found_of(tmp_path, "eval.mmlu.limit=100", wanted=9.0)
    variance = 2 * (0.25 + 250 / 100) / 3, 2 * 250 / 100
    shares = [part / sum(variance) for part in variance]
    freedom = 1 / (shares[0] ** 1.25 / 4 + shares[1] ** 1.25 / 99)
    assert found.difference == pytest.approx(detectable(math.sqrt(sum(variance)), freedom))
    assert (found.num_methods, found.num_seeds, found.num_questions, found.is_searched) == (2, 3, 100, False)
    assert found.source == ASSUMED_POINTS_TEXT
    assert found.sentence().endswith(": enough for 9")


def test_a_search_takes_seeds_and_questions_away_unless_the_held_out_loss_chooses(tmp_path: Path) -> None:
    [halved] = found_of(tmp_path, "eval.mmlu.limit=100", "train.learning_rate=1e-4,2e-4")
    assert (halved.num_seeds, halved.num_questions, halved.is_searched) == (2, 50, True)
    mmlu, loss = found_of(tmp_path, "eval.mmlu.limit=100", "train.learning_rate=1e-4,2e-4", "train.eval_rows=8")
    assert (mmlu.num_seeds, mmlu.num_questions) == (2, 100)
    assert (loss.score, loss.unit, loss.num_questions, loss.wanted) == ("eval_loss", "nats a token", None, None)
    assert loss.difference == pytest.approx(detectable(0.005, 2.0))
    assert loss.source == ASSUMED_NATS_TEXT


def test_the_number_of_seeds_that_is_enough_is_said(tmp_path: Path) -> None:
    [found] = found_of(tmp_path, "eval.mmlu.limit=100", wanted=7.3)
    assert found.seeds_needed == 5
    more = ",".join(map(str, range(found.seeds_needed)))
    for seeds, is_enough in ((more, True), (more.rpartition(",")[0], False)):
        [again] = found_of(tmp_path, "eval.mmlu.limit=100", f"train.seed={seeds}", wanted=7.3)
        assert again.difference is not None
        assert (again.difference <= 7.3) is is_enough
    [never] = found_of(tmp_path, "eval.mmlu.limit=100", wanted=0.5)
    assert never.seeds_needed is None
    assert "which no number of seeds is: give more questions" in never.sentence()


def test_spreads_of_finished_runs_of_this_kind_are_taken(tmp_path: Path) -> None:
    """Two methods by three seeds are finished: what is planned is what `analysis compare` finds of them."""
    planned = runs_of("eval.mmlu.limit=100")
    tables: dict[str, list[list[float]]] = {}
    for number, run in enumerate(planned):
        record = replace(record_of(run.run_id, run.spec, run.label, 1.0), eval_loss=1.0 + number / 100)
        save_record(tmp_path / run.run_id, record)
        values: dict[str, Any] = mmlu_values(run.label, number, 80)
        write_json(tmp_path / run.run_id / "eval" / "mmlu" / "mmlu.json", values)
        right = [100.0 * (row["choice"] == row["answer"]) for row in values["predictions"]]
        tables.setdefault(run.spec.adapter.name, []).append(right)
    [found] = detect(planned, PathsConfig(runs=str(tmp_path), cache=str(tmp_path)), 1.0)
    assert found.source == "measured: 6 finished runs of 2 settings"
    assert (found.score, found.num_questions) == ("mmlu accuracy", 100)  # as planned, not as was measured
    assert found.difference is not None
    measured = Spreads.of([np.array(table) for table in tables.values()]).difference(0, 1).detectable()
    assert measured is not None
    assert found.difference == pytest.approx(measured * math.sqrt(80 / 100), rel=0.15)
    [other] = detect(runs_of("model=7b"), PathsConfig(runs=str(tmp_path), cache=str(tmp_path)), 1.0)
    assert other.source == ASSUMED_POINTS_TEXT


def test_one_seed_says_what_questions_alone_tell_and_one_number_says_nothing(tmp_path: Path) -> None:
    mmlu, loss = found_of(tmp_path, "train.seed=0", "train.eval_rows=8")
    assert mmlu.num_seeds == 1
    assert mmlu.difference is not None
    assert loss.difference is None
    assert "nothing measures an error" in loss.sentence()


def test_the_command_says_it_behind_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS", str(tmp_path))
    found = CliRunner().invoke(app, ["plan", *GRID, "--detect", "1.0", "--json"])
    assert found.exit_code == 0, found.output
    [mmlu] = json.loads(found.stdout)["detect"]
    assert mmlu["sentence"].startswith("detect: mmlu: ")
    refused = CliRunner().invoke(app, ["plan", *GRID, "--detect", "0"])
    assert refused.exit_code == 2
    assert "in points, so above 0" in refused.output
