"""Broken inputs, cut-off folders, Ctrl-C, kills: state stays true, and the same command goes on."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch.local import run_local
from tests.lab import FLAN_ROWS, PAPER_GRID, Lab, make_lab, wait_until, write_rows


@dataclass(frozen=True)
class Outcome:
    """A lab after one call of the command."""

    lab: Lab
    status: int
    output: str
    jobs: dict[str, JobRow]  # label -> job
    records: dict[str, dict[str, Any]]


def outcome(lab: Lab, *arguments: str) -> Outcome:
    done = lab.harness(*arguments)
    jobs = {job.label: job for job in lab.jobs()}
    return Outcome(lab, done.returncode, done.stdout + done.stderr, jobs, lab.records())


# One grid of four, one of its two bases cut off; then mended; then three of its folders cut off.


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    lab = make_lab(tmp_path_factory.mktemp("lab"))
    weights = lab.models / "llama13b" / "model.safetensors"
    (lab.folder / "whole.safetensors").write_bytes(weights.read_bytes())
    weights.write_bytes(weights.read_bytes()[:-1000])
    return outcome(lab, *PAPER_GRID)


@pytest.fixture(scope="module")
def mended(failed: Outcome) -> Outcome:
    lab = failed.lab
    (lab.models / "llama13b" / "model.safetensors").write_bytes((lab.folder / "whole.safetensors").read_bytes())
    return outcome(lab, *PAPER_GRID)


@pytest.fixture(scope="module")
def redone(mended: Outcome) -> Outcome:
    folders = [mended.lab.runs / mended.jobs[label].run_id for label in sorted(mended.jobs)]
    weights = folders[0] / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folders[1] / "record.json").unlink()
    record = folders[2] / "record.json"
    record.write_text(record.read_text()[:200])
    return outcome(mended.lab, *PAPER_GRID)


@pytest.mark.slow
def test_a_failed_run_is_recorded_and_the_others_go_on(failed: Outcome) -> None:
    assert failed.status == 1
    done = {label for label, job in failed.jobs.items() if job.status is JobStatus.done}
    assert done == set(failed.records) == {"llama7b-oasst1-nf4", "llama7b-flan-nf4"}
    for label in sorted(failed.jobs.keys() - done):
        job = failed.jobs[label]
        assert (job.status, job.attempts) == (JobStatus.failed, 2)
        assert job.reason is not None
        assert "Safetensor" in job.reason
        assert job.reason in failed.output
        assert "Traceback" in (failed.lab.runs / job.run_id / "error.log").read_text()


@pytest.mark.slow
def test_rerun_after_mending_does_only_what_is_missing(failed: Outcome, mended: Outcome) -> None:
    assert mended.status == 0, mended.output
    assert "4 jobs, 2 done before" in mended.output
    assert {job.status for job in mended.jobs.values()} == {JobStatus.done}
    assert {label: mended.records[label] for label in failed.records} == failed.records
    assert len(mended.records) == 4


@pytest.mark.slow
def test_cut_off_folders_are_redone_and_whole_ones_are_not(mended: Outcome, redone: Outcome) -> None:
    assert redone.status == 0, redone.output
    labels = sorted(mended.jobs)
    assert redone.records[labels[3]] == mended.records[labels[3]]
    for label in labels[:3]:
        assert redone.jobs[label].claim_token == mended.jobs[label].claim_token + 1, f"{label} was not redone"
        same = ("run_id", "adapter_sha256", "final_loss", "target_tokens", "num_steps")
        assert {key: redone.records[label][key] for key in same} == {key: mended.records[label][key] for key in same}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ('{"inputs": "a", "targets": "b"}\n{"inputs": "a", "target": 3\n', "flan.jsonl, line 2: broken JSON"),
        pytest.param(
            '{"inputs": "a", "targets": "b"}\n\n{"inputs": "a", "targets": 3}\n',
            "flan.jsonl, line 3, field 'targets'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            '{"inputs": "a", "targets": "b"}\n{"inputs": "a", "targets": " "}\n',
            "flan.jsonl, line 2, field 'targets'",
            marks=pytest.mark.slow,
        ),
        ('{"prompt": "a", "completion": "b"}\n', "dataset.format is flan, formats that read this row: self_instruct"),
    ],
)
def test_broken_row_is_named_before_any_work(tmp_path: Path, rows: str, expected: str) -> None:
    lab = make_lab(tmp_path)
    (lab.data / "flan.jsonl").write_text(rows)
    refused = lab.harness(*PAPER_GRID)
    assert refused.returncode == 2
    assert refused.stderr.count(expected) == 1, refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert not lab.runs.exists()


def test_cut_off_base_config_is_named(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, models={"llama7b": 0})
    config = lab.models / "llama7b" / "config.json"
    config.write_text(config.read_text()[:50])
    refused = lab.harness("model=llama7b", "dataset=flan")
    assert refused.returncode == 2
    assert str(config) in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


LONG = (
    *("-m", "model=llama7b", "dataset=oasst1,flan", "train.max_steps=240", "train.max_epochs=1000"),
    *("train.batch_size=2", "train.checkpoint_steps=10", "launch.lease_seconds=2", "launch.threads=1"),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    done = outcome(make_lab(tmp_path_factory.mktemp("undisturbed"), models={"llama7b": 0}), *LONG)
    assert done.status == 0, done.output
    return done.records


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(900)
class TestStopped:
    """A group of two runs, stopped in the middle in several ways, ends as if nothing had happened."""

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[Lab]:
        lab = make_lab(tmp_path, models={"llama7b": 0})
        yield lab
        lab.end_processes()

    @pytest.mark.parametrize(
        "stop",
        [
            pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="Ctrl-C"),
            pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="SIGTERM"),
        ],
    )
    def test_stopped_run_goes_on_from_its_checkpoint(
        self, lab: Lab, stop: Callable[[int], None], undisturbed: dict[str, dict[str, Any]]
    ) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        stop(process.pid)
        assert process.wait(timeout=60) == 130
        assert "The same command goes on" in (lab.folder / "output.txt").read_text()
        wait_until(lambda: not lab.processes(), "the end of all processes")
        assert {job.status for job in lab.jobs()} == {JobStatus.queued}
        assert [job.attempts for job in lab.jobs()] == [0, 0], "a stop is no attempt"
        assert not lab.records()
        self.goes_on(lab, undisturbed)

    def test_killed_worker_is_replaced(self, lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        (worker,) = {job.worker for job in lab.jobs()}
        assert worker is not None
        os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
        assert process.wait(timeout=240) == 0
        assert "signal 9" in (lab.folder / "output.txt").read_text()
        assert [job.attempts for job in lab.jobs()] == [2, 2]
        assert_same_results(lab.records(), undisturbed)
        for path in lab.runs.glob("*/metrics.jsonl"):  # the steps after the checkpoint were done again
            steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
            assert steps == list(range(1, 241))

    def test_killed_parent_takes_its_worker_along(self, lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        process.kill()
        process.wait()
        wait_until(lambda: not lab.processes(), "the end of its worker")
        assert {job.status for job in lab.jobs()} == {JobStatus.queued}
        self.goes_on(lab, undisturbed)

    def test_worker_that_wakes_after_its_lease_overwrites_nothing(
        self, lab: Lab, undisturbed: dict[str, dict[str, Any]]
    ) -> None:
        process = lab.start(*LONG, "launch.workers=2")
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        (stale,) = {job.worker for job in lab.jobs()}
        assert stale is not None
        pid = int(stale.rpartition(":")[2])
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: stale not in {job.worker for job in lab.jobs()}, "the other worker's claim", process)
        before = lab.num_steps_logged()
        wait_until(lambda: lab.num_steps_logged() != before, "the other worker's steps", process)
        os.kill(pid, signal.SIGCONT)
        assert process.wait(timeout=240) == 0
        assert [job.attempts for job in lab.jobs()] == [2, 2]
        assert_same_results(lab.records(), undisturbed)
        for path in lab.runs.glob("*/metrics.jsonl"):
            assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(1, 241))
        assert not list(lab.runs.rglob("*.partial-*"))

    def test_worker_that_hangs_is_killed_and_replaced(self, lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
        process = lab.start(*LONG, "launch.hang_seconds=15", "launch.lease_seconds=600")
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        (worker,) = {job.worker for job in lab.jobs()}
        assert worker is not None
        os.kill(int(worker.rpartition(":")[2]), signal.SIGSTOP)  # stands still, and so does its heartbeat
        assert process.wait(timeout=240) == 0
        assert (
            "it said nothing for 15 s and was killed (launch.hang_seconds)" in (lab.folder / "output.txt").read_text()
        )
        assert [job.attempts for job in lab.jobs()] == [2, 2]
        assert_same_results(lab.records(), undisturbed)

    def test_checkpoint_of_other_rows_is_not_gone_on_from(self, lab: Lab) -> None:
        process = lab.start(*LONG)
        wait_until(lambda: lab.num_steps_logged() > 60, "60 steps", process)
        process.terminate()
        assert process.wait(timeout=60) == 130
        write_rows(lab.data / "flan.jsonl", [{**row, "targets": "Yes."} for row in FLAN_ROWS])
        done = outcome(lab, *LONG)
        assert done.status == 0, done.output
        notes = done.records["llama7b-flan-nf4"]["notes"]
        assert not any("resumed" in note for note in notes), "it began anew"
        assert "resumed at step" in done.records["llama7b-oasst1-nf4"]["notes"][-1]

    def goes_on(self, lab: Lab, undisturbed: dict[str, dict[str, Any]]) -> None:
        done = outcome(lab, *LONG)
        assert done.status == 0, done.output
        assert_same_results(done.records, undisturbed)


@pytest.mark.alone
@pytest.mark.slow
def test_workers_that_cannot_start_end_the_launch(tmp_path: Path) -> None:
    """The parent's ledger is there, the one that its workers are told of is not."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.add([Job(kind="train", spec_hash="x", run_id="x", group="g", label="x", payload="{}")], sweep="s")
    settings = WorkerSettings(
        ledger_url=str(tmp_path / "nowhere" / "ledger.sqlite"),
        paths=PathsConfig(runs=str(tmp_path), cache=str(tmp_path)),
        launch=LaunchConfig(),
        tracking=TrackingConfig(),
        sweep="s",
    )
    told: list[dict[str, Any]] = []
    with pytest.raises(ValueError, match="3 workers in a row died before they began a job"):
        run_local(settings, ledger, told.append)
    assert [message["reason"] for message in told] == ["exit status 1"] * 3
    assert [job.attempts for job in ledger.rows()] == [0]


def assert_same_results(records: dict[str, dict[str, Any]], undisturbed: dict[str, dict[str, Any]]) -> None:
    """Resumed, and yet the same adapter to the bit, the same loss, the same count of tokens."""
    assert sorted(records) == sorted(undisturbed)
    for label, record in records.items():
        assert "resumed at step" in record["notes"][-1]
        for key in ("adapter_sha256", "final_loss", "target_tokens", "num_steps"):
            assert record[key] == undisturbed[label][key], (label, key)
