"""Several devices to a run, as a user starts them: the same results, and a rank that dies is no loss.

The devices are processes on the CPU, over gloo.
"""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.registry import eval_config
from harness.config.compose import compose_grid
from harness.config.schema import LaunchConfig, Launcher
from harness.ledger.tables import JobStatus
from sweeps.plan.jobs import plan_runs
from sweeps.plan.planned import device_problems, group_notes
from tests.lab import Lab, make_lab, wait_until

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "harness.run")
SHORT = (
    *("model=llama7b", "dataset=oasst1", "train.max_steps=6", "train.batch_size=4"),
    *("eval.after_training=[mmlu]", "eval.mmlu.limit_per_subject=1", "eval.mmlu.num_shots=1"),
    *("train.mmlu_every_steps=3", "train.mmlu_limit=3", "train.mmlu_num_shots=1"),
)
LONG = (
    *("-m", "model=llama7b", "dataset=oasst1,flan", "train.max_steps=120", "train.max_epochs=1000"),
    *("train.batch_size=2", "train.checkpoint_steps=10", "launch.lease_seconds=2", "launch.devices_per_run=2"),
)
TWO, SHARDED = "launch.devices_per_run=2", "launch.shard_base=true"


@dataclass(frozen=True)
class Result:
    """Of one run."""

    record: dict[str, Any]
    losses: list[float]
    accuracy: float
    answer_losses: list[float]  # of MMLU in training


def result(lab: Lab) -> Result:
    (record,) = lab.records().values()
    folder = lab.runs / record["run_id"]
    mmlu = json.loads((folder / "eval" / "mmlu" / "mmlu.json").read_text())
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 7)), "one rank writes metrics"
    looks = [json.loads(line) for line in (folder / "mmlu.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [3, 6]
    answer_losses = [look["mmlu_answer_loss"] for look in looks]
    return Result(record, [step["loss"] for step in steps], mmlu["accuracy_macro"], answer_losses)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Result:
    lab = make_lab(tmp_path_factory.mktemp("alone"), models={"llama7b": 0})
    done = lab.harness(*SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    return result(lab)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("harness.run", *SHORT, TWO), id="ours"),
        pytest.param(("harness.run", *SHORT, TWO, SHARDED), id="ours-sharded"),
        pytest.param((*TORCHRUN, *SHORT, SHARDED), id="torchrun-sharded"),
    ],
)
def test_two_devices_leave_what_one_leaves(command: tuple[str, ...], tmp_path: Path, alone: Result) -> None:
    lab = make_lab(tmp_path, models={"llama7b": 0})
    done = lab.call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("how the jobs ended") == 1, "one rank talks"
    found = result(lab)
    assert found.losses == pytest.approx(alone.losses, rel=1e-4)
    assert found.accuracy == alone.accuracy
    assert found.answer_losses == pytest.approx(alone.answer_losses, rel=1e-4)
    assert found.record["run_id"] == alone.record["run_id"], "devices are no part of what a run is"
    assert (found.record["device"], alone.record["device"]) == ("2 x cpu", "cpu")
    again = lab.call(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 jobs, 2 done before" in again.stdout


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    lab = make_lab(tmp_path_factory.mktemp("undisturbed"), models={"llama7b": 0})
    done = lab.harness(*LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab.records()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(600)
class TestStopped:
    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[Lab]:
        lab = make_lab(tmp_path, models={"llama7b": 0})
        yield lab
        lab.end_processes()

    def test_a_killed_rank_ends_the_other_and_the_run_is_tried_again(
        self, lab: Lab, undisturbed: dict[str, dict[str, Any]]
    ) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        os.kill(ranks_of(lab)[1], signal.SIGKILL)
        assert process.wait(timeout=240) == 0
        assert "rank 1 of 2 died (signal 9)" in (lab.folder / "output.txt").read_text()
        assert [job.attempts for job in lab.jobs()] == [2, 2]
        assert_same(lab, undisturbed)

    def test_the_end_of_who_watches_the_ranks_ends_them(self, lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        ranks = ranks_of(lab)
        os.kill(watcher_of(lab), signal.SIGKILL)
        wait_until(lambda: not set(ranks) & set(lab.processes()), "the end of the ranks", process)
        assert process.wait(timeout=240) == 0
        assert_same(lab, undisturbed)

    def test_ctrl_c_saves_and_the_same_command_goes_on(self, lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
        wait_until(lambda: not lab.processes(), "the end of all processes")
        assert {(job.status, job.attempts) for job in lab.jobs()} == {(JobStatus.queued, 0)}
        done = lab.harness(*LONG)
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same(lab, undisturbed)


def watcher_of(lab: Lab) -> int:
    """The process that the ledger knows as the worker: it started the ranks."""
    (worker,) = {job.worker for job in lab.jobs()}
    assert worker is not None
    return int(worker.rpartition(":")[2])


def ranks_of(lab: Lab) -> list[int]:
    """In their order: the children of the forkserver that the watcher started."""
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in lab.processes()}
    ranks = sorted(pid for pid, parent in parents.items() if parents.get(parent) == watcher_of(lab))
    assert len(ranks) == 2, parents
    return ranks


def assert_same(lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
    """Resumed, and yet the same adapters to the bit."""
    records = lab.records()
    assert sorted(records) == sorted(undisturbed)
    for label, record in records.items():
        assert "resumed at step" in record["notes"][-1]
        assert record["adapter_sha256"] == undisturbed[label]["adapter_sha256"]


# What can't be is said before anything starts.


def test_a_base_is_sharded_over_two_devices_at_least() -> None:
    assert device_problems([], LaunchConfig(shard_base=True)) == [
        "launch.shard_base=true: there is one device to a run; say launch.devices_per_run=2 or more"
    ]


def test_only_a_frozen_causal_base_is_sharded() -> None:
    overrides = ["model=llama7b", "dataset=oasst1", "adapter=lora,dora"]
    runs = plan_runs([point.config for point in compose_grid(overrides, eval_config())])
    (problem,) = device_problems(runs, LaunchConfig(shard_base=True, devices_per_run=2))
    assert "adapter.method=dora" in problem


def test_what_is_not_scored_over_shards_is_refused() -> None:
    overrides = ["model=llama7b", "dataset=oasst1", "eval.after_training=[mmlu,super_ni,answers]"]
    runs = plan_runs([point.config for point in compose_grid(overrides, eval_config())])
    answers, super_ni = device_problems(runs, LaunchConfig(shard_base=True, devices_per_run=2))
    assert "launch.shard_base=true with eval.after_training=super_ni: it is scored over a whole base only" in super_ni
    assert "launch.shard_base=true with eval.after_training=answers: it is scored over a whole base only" in answers


def test_groups_whose_places_are_not_refilled_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["model=llama7b", "dataset=oasst1", "train.seed=0,1,2"]
    left = plan_runs([point.config for point in compose_grid(overrides, eval_config())])
    assert group_notes(left, LaunchConfig()) == []
    (note,) = group_notes(left, LaunchConfig(devices_per_run=2))
    assert "groups of up to 3 runs stay as they start, as a run is shared by 2 devices:" in note
    assert "launch.devices_per_run=1 (without torchrun) refills and shrinks them" in note
    (note,) = group_notes(left, LaunchConfig(devices_per_run=2, shard_base=True, max_group_size=2))
    assert "groups of up to 2 runs" in note
    assert "launch.devices_per_run=1 launch.shard_base=false (without torchrun)" in note
    assert "if the base fits one device" in note
    lonely = plan_runs([point.config for point in compose_grid(overrides[:2], eval_config())])
    assert group_notes(lonely, LaunchConfig(devices_per_run=2)) == [], "a run alone has no places beside its own"
    owned = plan_runs([point.config for point in compose_grid([*overrides[:3], "adapter=dora"], eval_config())])
    assert group_notes(owned, LaunchConfig(devices_per_run=2)) == [], "each has a base of its own"
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert "shared by 4 devices" in group_notes(left, LaunchConfig())[0]


def test_torchrun_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert not device_problems([], LaunchConfig(shard_base=True))
    (problem,) = device_problems([], LaunchConfig(devices_per_run=2))
    assert "torchrun started 4 processes" in problem
    (problem,) = device_problems([], LaunchConfig(launcher=Launcher.slurm))
    assert "launch=slurm: torchrun has started these processes" in problem
