"""`python -m sweeps search` and `plan`, as a user types them, on tiny models."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.ledger.tables import JobStatus
from tests.lab import Lab, make_lab, wait_until

SEARCH = (
    *("sweeps", "search", "--study", "rates", "--trials", "4", "--parallel", "2", "--json"),
    *("model=llama7b", "dataset=flan", "launch.device=cpu", "train.max_steps=6", "launch.lease_seconds=5"),
    *("train.learning_rate=float(1e-4,1e-2,log)", "adapter.lora_r=int(2,8,log)"),
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.mark.alone
@pytest.mark.slow
def test_a_search_killed_in_training_ends_with_its_trials(lab: Lab) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *SEARCH],
        cwd=lab.cwd,
        env=lab.environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    try:
        wait_until(lambda: lab.num_steps_logged() > 2, "step of training")
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.communicate()
        lab.end_processes()
    asked = {path.parent.name for path in lab.runs.glob("*/metrics.jsonl")}
    done = lab.call(*SEARCH, "train.seed=5")
    assert done.returncode == 2, "another fixed override is another search"
    assert "another fixed" in done.stderr
    done = lab.call(*SEARCH)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 4
    assert asked <= {trial["run_id"] for trial in found["trials"]}, "what had begun was gone on with"
    records = {record["run_id"]: record for record in lab.records().values()}
    for trial in found["trials"]:
        assert trial["value"] == records[trial["run_id"]]["final_loss"]
        assert trial["params"]["adapter.lora_r"] == records[trial["run_id"]]["spec"]["adapter"]["lora_r"]
    assert {job.status for job in lab.jobs()} == {JobStatus.done}
    before = {run_id: record["finished"] for run_id, record in records.items()}
    again = json.loads(lab.call(*SEARCH).stdout)
    assert again == found
    assert before == {record["run_id"]: record["finished"] for record in lab.records().values()}


@pytest.mark.alone
@pytest.mark.slow
def test_a_plan_knows_the_time_once_a_run_like_it_is_done(lab: Lab) -> None:
    grid = ("model=llama7b", "dataset=flan", "launch.device=cpu", "train.max_steps=3", "train.seed=0,1")
    first = json.loads(lab.call("sweeps", "plan", *grid, "--json").stdout)
    assert [(run["status"], run["seconds"]) for run in first["runs"]] == [("to do", None)] * 2
    assert lab.call("sweeps", "run", *grid[:-1]).returncode == 0
    then = json.loads(lab.call("sweeps", "plan", *grid, "--json").stdout)
    assert [run["status"] for run in then["runs"]] == ["done", "to do"]
    (record,) = lab.records().values()
    assert then["runs"][1]["seconds"] == pytest.approx(record["train_seconds"])
    assert then["runs"][1]["target_tokens"] == record["target_tokens"]
    assert then["totals"]["to_do"]["num_runs"] == 1
