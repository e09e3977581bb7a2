"""`launch=slurm` on a real cluster of one node: an array, preemption, the time limit's signal, cancelling.

The cluster is Debian's slurm-wlm and munge, started for this module with state folders of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.ledger.tables import JobStatus
from tests.lab import Lab, make_lab, wait_until
from tests.servers.postgres import postgres_schema
from tests.servers.slurm_cluster import SlurmCluster, missing_for_slurm, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

TASK = (
    *(
        "launch=slurm",
        "launch.device=cpu",
        "launch.slurm.cpus_per_worker=1",
        "launch.slurm.partition=low",
        "launch.slurm.time_minutes=30",
    ),
    *("train.max_epochs=10000", "train.batch_size=2", "train.checkpoint_steps=50", "launch.lease_seconds=60"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if reason := missing_for_slurm():
        pytest.skip(reason)
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def lab(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Lab]:
    lab = replace(make_lab(tmp_path), extra=cluster.environment)
    yield lab
    lab.end_processes()


def test_preempted_array_is_requeued_and_resumes(cluster: SlurmCluster, lab: Lab) -> None:
    """Two workers, two groups, one PostgreSQL; a job of higher priority takes the node from both."""
    with postgres_schema() as url:
        lab = replace(lab, extra={**lab.extra, "HARNESS_LEDGER_URL": url})
        grid = ("-m", "model=llama7b,13b", "dataset=flan", "train.max_steps=400")
        process = lab.start(*grid, *TASK, "launch.workers=2", "launch.wait=true")
        wait_until(lambda: len([n for n in lab.steps_logged().values() if n > 40]) == 2, "40 steps of both", process)
        cluster.call("sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 2")
        assert process.wait(timeout=300) == 0, lab.output
        assert [(job.status, job.attempts) for job in lab.jobs()] == [(JobStatus.done, 1)] * 2, "no attempt was used up"
        for record in lab.records().values():
            assert "resumed at step" in record["notes"][-1], record["notes"]
            assert record["num_steps"] == 400
        job_id = submitted(lab.output)
        assert "2 workers" in lab.output
        assert "2 PENDING (BeginTime)" in lab.output, "what a requeued task waits for is said"
        assert restarts(cluster, job_id) == [1, 1]
        assert_no_secret_left(lab.runs / "slurm", url)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_task_at_its_time_limit_saves_and_requeues_itself(cluster: SlurmCluster, lab: Lab, num_devices: int) -> None:
    """By SQLite, as one machine may with --allow-sqlite; the command has ended long before."""
    devices = f"launch.devices_per_run={num_devices}"
    command = ("run", "model=llama7b", "dataset=flan", "train.max_steps=400", "sweep_name=limit", devices, *TASK)
    refused = lab.call("sweeps", *command)
    assert refused.returncode == 2
    assert "paths.ledger_url=postgresql://user@host/database" in refused.stderr
    done = lab.call("sweeps", *command, "--allow-sqlite")
    assert done.returncode == 0, done.stdout + done.stderr
    job_id = submitted(done.stdout)
    assert "python -m sweeps status --sweep limit --watch" in done.stdout
    wait_until(lambda: any(steps > 60 for steps in lab.steps_logged().values()), "60 steps")
    cluster.call("scancel", "--signal=USR2", job_id)  # what `--signal=USR2@90` has SLURM send before the limit
    wait_until(lambda: not cluster.states(job_id), "the end of the task")
    (job,) = lab.jobs()
    assert (job.status, job.attempts) == (JobStatus.done, 1)
    (record,) = lab.records().values()
    assert "resumed at step" in record["notes"][-1], record["notes"]
    assert restarts(cluster, job_id) == [1]


def test_cancelled_sweep_ends_its_tasks(cluster: SlurmCluster, lab: Lab) -> None:
    command = ("run", "model=llama7b", "dataset=flan", "train.max_steps=100000", "sweep_name=long", *TASK)
    started = lab.call("sweeps", *command, "--allow-sqlite")
    assert started.returncode == 0, started.stdout + started.stderr
    job_id = submitted(started.stdout)
    wait_until(lambda: any(steps > 5 for steps in lab.steps_logged().values()), "5 steps")
    cancelled = lab.call("sweeps", "cancel", "--sweep", "long", "--scancel")
    assert cancelled.stdout.split("\n")[:2] == ["1 jobs cancelled", f"SLURM jobs ended: {job_id}"]
    wait_until(lambda: not cluster.states(job_id), "the end of the task")
    wait_until(lambda: not lab.processes(), "the end of all processes")
    assert [job.status for job in lab.jobs()] == [JobStatus.cancelled]


def test_what_sbatch_refuses_is_said(cluster: SlurmCluster, lab: Lab) -> None:
    refused = lab.harness("model=llama7b", "dataset=flan", *TASK, "launch.slurm.partition=gpus", "--allow-sqlite")
    assert refused.returncode == 2
    assert "sbatch refused" in refused.stderr
    assert "invalid partition specified: gpus" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


def submitted(output: str) -> str:
    found = re.search(r"SLURM job (\d+): \d+ workers", output)
    assert found is not None, output
    return found[1]


def restarts(cluster: SlurmCluster, job_id: str) -> list[int]:
    """Of each task of a job, how often it was requeued."""
    return [int(number) for number in re.findall(r"Restarts=(\d+)", cluster.call("scontrol", "show", "job", job_id))]


def assert_no_secret_left(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        assert path.is_dir() or url.encode() not in path.read_bytes(), f"{path} holds the ledger's URL"
