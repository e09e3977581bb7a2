"""`launch=ray` on a real cluster that the command starts here: a killed worker, Ctrl-C, going on elsewhere."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.ledger.tables import JobStatus
from tests.lab import Lab, make_lab, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

GRID = (
    *("-m", "model=llama7b", "dataset=flan", "train.seed=1,2", "train.max_steps=400", "train.max_epochs=10000"),
    *("train.batch_size=2", "train.checkpoint_steps=20", "launch.lease_seconds=3", "launch.max_group_size=1"),
)
RAY = ("launch=ray", "launch.device=cpu", "launch.workers=2", "launch.ray.cpus_per_worker=0.5")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = make_lab(tmp_path, models={"llama7b": 0})
    yield lab
    lab.end_processes()


def test_killed_worker_is_started_again_and_resumes(lab: Lab) -> None:
    process = lab.start(*GRID, *RAY)
    wait_until(lambda: len([n for n in lab.steps_logged().values() if n > 40]) == 2, "40 steps of both", process)
    killed = lab.jobs()[0]
    assert killed.worker is not None
    os.kill(int(killed.worker.rpartition(":")[2]), signal.SIGKILL)
    assert process.wait(timeout=300) == 0, lab.output
    assert "2 workers asked for" in lab.output
    assert [job.status for job in lab.jobs()] == [JobStatus.done] * 2
    assert [job.attempts for job in lab.jobs()] == [2, 1], "a death counts as an attempt, on its own run only"
    notes = lab.record(killed.run_id)["notes"]
    assert "resumed at step" in notes[-1], notes
    wait_until(lambda: not lab.processes(), "the end of Ray's processes")


def test_ctrl_c_saves_and_another_launcher_goes_on(lab: Lab) -> None:
    process = lab.start(*GRID, *RAY)
    wait_until(lambda: len([n for n in lab.steps_logged().values() if n > 40]) == 2, "40 steps of both", process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130, lab.output
    assert "The same command goes on" in lab.output
    wait_until(lambda: not lab.processes(), "the end of all processes")
    assert [(job.status, job.attempts) for job in lab.jobs()] == [(JobStatus.queued, 0)] * 2, "a stop is no attempt"
    done = lab.harness(*GRID, "launch=local")
    assert done.returncode == 0, done.stdout + done.stderr
    for record in lab.records().values():
        assert "resumed at step" in record["notes"][-1], record["notes"]


def test_what_has_no_room_is_refused(lab: Lab) -> None:
    refused = lab.harness(
        "model=llama7b", "dataset=flan", "launch=ray", "launch.device=cpu", "launch.ray.cpus_per_worker=9999"
    )
    assert refused.returncode == 2
    assert "no room for a worker with launch.ray.cpus_per_worker=9999" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
