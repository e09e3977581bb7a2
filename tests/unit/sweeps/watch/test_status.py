"""What `sweeps status` and `sweeps show` say of a sweep, and what happens to bad input."""

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.files.atomic import TEMPORARY_SUFFIX
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobStatus
from sweeps.__main__ import app
from sweeps.jobs import settings
from sweeps.jobs.settings import worker_name
from sweeps.launch.progress import SMALL_SWEEP, SweepProgress
from sweeps.watch import garbage
from sweeps.watch.garbage import find_garbage, remove_garbage
from sweeps.watch.status import SHOWN_FAILURES, _seconds_to_go, read_status, status_table
from sweeps.workers.processes import how_ended


def job(number: int, kind: str = "train") -> Job:
    return Job(
        kind=kind, spec_hash=f"{number:04}", run_id=f"{number:04}", group="g", label=f"run{number}", payload="{}"
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """40 jobs: 3 done, 25 failed, 2 claimed by this very process, 10 queued."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.add([job(number) for number in range(40)], sweep="s")
    name = worker_name(os.getpid())
    done, failed = (ledger.claim(name, ["train"], number, 60, max_attempts=1) for number in (3, 25))
    for number, claim in enumerate(done):
        assert ledger.finish(claim, {"peak_memory_bytes": 10**9 * (number + 1)}, 1.0)
    for claim in failed:
        assert ledger.fail(claim, "out of memory", retry=False)
    ledger.claim(name, ["train"], 2, 60, max_attempts=1)
    ledger.close()
    return tmp_path


def call(runs: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments, "--runs", str(runs)])
    return done.exit_code, done.output


def test_status_counts_workers_memory_and_the_first_failures(runs: Path) -> None:
    status = read_status(Ledger.open(runs / "ledger.sqlite"), "s", runs)
    assert status.counts["train"] == {"queued": 10, "claimed": 2, "done": 3, "failed": 25, "cancelled": 0, "stopped": 0}
    assert (status.num_failures, len(status.failures)) == (25, SHOWN_FAILURES)
    assert status.failures[0].folder == str(runs / "0003")
    assert status.peak_memory_bytes == 3 * 10**9
    (worker,) = status.workers
    assert (worker.num_jobs, worker.label) == (2, "run28")
    assert worker.memory_bytes is not None
    assert worker.memory_bytes > 10**6
    assert status.seconds_to_go == pytest.approx(12 / 3 * 600)
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_table(status))
    text = console.export_text()
    assert "train run28 and 1 more" in text
    assert "... and 5 more failures" in text


def test_status_json_is_json_alone(runs: Path) -> None:
    code, text = call(runs, "status", "--json")
    assert code == 0
    assert json.loads(text)["num_failures"] == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "--sweep", "t"), "--sweep t: no such sweep; known: s"),
        (("status", "--json", "--watch"), "give one of them"),
        (("cancel", "--sweep", "t"), "no such sweep; known: s"),
        (("pause", "--sweep", "t"), "no such sweep; known: s"),
        (("retry",), "say which jobs to try again: --failed"),
        (("retry", "--failed", "--sweep", "t"), "no such sweep; known: s"),
        (("show", "00"), "several begin so"),
        (("show", "nothing"), "not one run"),
        (("show", "*"), "not one run"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(runs: Path, arguments: tuple[str, ...], message: str) -> None:
    (runs / "0001").mkdir()
    (runs / "0002").mkdir()
    code, text = call(runs, *arguments)
    assert code == 2, text
    assert message in " ".join(text.split())
    assert "Traceback" not in text


def test_show_links_what_is_there(runs: Path) -> None:
    (runs / "0003").mkdir()
    (runs / "0003" / "error.log").write_text("why")
    code, text = call(runs, "show", "0003")
    assert code == 0
    assert "train run3: failed after 1 attempts: out of memory" in text
    assert str(runs / "0003" / "error.log") in text
    assert json.loads(call(runs, "show", "0003", "--json")[1])["files"] == {"log": str(runs / "0003" / "error.log")}


def test_retry_cancel_and_pause(runs: Path) -> None:
    assert "25 jobs are queued again" in call(runs, "retry", "--failed", "--sweep", "s")[1]
    assert "s is paused" in call(runs, "pause", "--sweep", "s")[1]
    assert Ledger.open(runs / "ledger.sqlite").claim("w", ["train"], 1, 60, 1, sweep="s") == []
    assert "s is active" in call(runs, "pause", "--sweep", "s", "--resume")[1]
    assert "37 jobs cancelled" in call(runs, "cancel", "--sweep", "s")[1]
    assert "37 jobs are queued again" in call(runs, "retry", "--cancelled")[1]


def test_gc_shows_then_removes_checkpoints_of_finished_runs(runs: Path) -> None:
    for number in (0, 39):  # done, and still queued
        (runs / f"{number:04}" / "checkpoint" / "step-00000010").mkdir(parents=True)
        (runs / f"{number:04}" / "checkpoint" / "step-00000010" / "state.safetensors").write_bytes(b"x" * 2**20)
    code, text = call(runs, "gc")
    assert (code, "1.0 MiB could go; say --remove" in text) == (0, True)
    assert (runs / "0000" / "checkpoint").is_dir()
    assert "removed 1.0 MiB" in call(runs, "gc", "--remove")[1]
    assert not (runs / "0000" / "checkpoint").exists()
    assert (runs / "0039" / "checkpoint").is_dir()
    assert "0.0 MiB could go" in call(runs, "gc")[1]


def test_gc_follows_no_link_and_leaves_no_folder(runs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "checkpoint").mkdir(parents=True)
    (elsewhere / "checkpoint" / "state").write_text("mine")
    (runs / "0000").symlink_to(elsewhere)
    (runs / "0001").mkdir()
    (runs / "0001" / "checkpoint").symlink_to(elsewhere / "checkpoint")
    (runs / "0001" / ".adapter.partial-1").symlink_to(elsewhere)
    ledger = Ledger.open(runs / "ledger.sqlite")
    ledger.add([replace(job(99), run_id="../elsewhere"), replace(job(98), run_id=str(elsewhere))])
    for claim in ledger.claim("w", ["train"], 40, 60, max_attempts=1):
        ledger.finish(claim, {}, 1.0)
    ledger.close()
    assert "removed 0.0 MiB" in call(runs, "gc", "--remove")[1]
    assert (elsewhere / "checkpoint" / "state").read_text() == "mine"


def test_gc_finds_what_was_cut_off_and_counts_files_once(runs: Path) -> None:
    partial = runs / "0001" / ".adapter.partial-9"
    partial.mkdir(parents=True)
    (partial / "weights").write_bytes(b"x" * 300)
    (partial / "link").symlink_to(partial / "weights")
    (runs / "0002" / "eval").mkdir(parents=True)
    (runs / "0002" / "eval" / f"mmlu.json{TEMPORARY_SUFFIX}").write_bytes(b"x" * 20)
    (runs / "0003").mkdir()  # failed
    (runs / "0003" / f"a{TEMPORARY_SUFFIX}").write_bytes(b"x")
    ledger = Ledger.open(runs / "ledger.sqlite")
    found, unreadable = find_garbage(runs, ledger)
    assert [(item.path.name, item.num_bytes, item.why) for item in found] == [
        (".adapter.partial-9", 300, "cut off while it was written"),
        (f"mmlu.json{TEMPORARY_SUFFIX}", 20, "cut off while it was written"),
    ]
    assert unreadable == []
    assert remove_garbage(found) == {}
    assert find_garbage(runs, ledger)[0] == []
    assert remove_garbage(found) == {}, "it has gone meanwhile"
    assert (runs / "0003" / f"a{TEMPORARY_SUFFIX}").exists()


def test_gc_says_what_it_may_not_read_or_remove(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0000", "0001", "0002"):
        (runs / name / "checkpoint").mkdir(parents=True)
        (runs / name / "checkpoint" / "state").write_bytes(b"x" * 2**20)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    real = garbage.shutil.rmtree
    allowed = {"0001": os.R_OK}  # to list a folder's names, but not to reach what is in it
    monkeypatch.setattr(garbage.os, "access", lambda path, mode: mode == mode & allowed.get(path.name, mode))
    monkeypatch.setattr(garbage.shutil, "rmtree", lambda path: (refuse if "0002" in str(path) else real)(path))
    code, text = call(runs, "gc", "--remove")
    assert code == 1
    assert f"not looked at: {runs / '0001'}: not readable for this user" in text.replace("\n", "")
    assert f"not removed: {runs / '0002' / 'checkpoint'}: Permission denied" in text.replace("\n", "")
    assert "removed 1.0 MiB" in text
    assert not (runs / "0000" / "checkpoint").exists()


def test_what_became_a_link_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "checkpoint").symlink_to(tmp_path / "mine")
    item = garbage.Garbage(path=tmp_path / "checkpoint", num_bytes=1, why="w")
    assert remove_garbage([item]) == {item.path: "it has become a link"}
    assert (tmp_path / "mine").is_dir()


def test_show_names_what_is_there_and_tells_beginnings_apart(runs: Path) -> None:
    for name in ("0000", "0001"):
        (runs / name / "adapter").mkdir(parents=True)
    (runs / "0000" / "record.json").write_text("{}")
    (runs / "0009.txt").write_text("no run")
    code, text = call(runs, "show", "0000", "--json")
    shown = json.loads(text)
    assert (code, shown["run_id"], list(shown["files"])) == (0, "0000", ["record", "adapter"])
    assert shown["folder"] == str(runs / "0000")
    assert shown["jobs"][0]["result"] == {"peak_memory_bytes": 10**9}
    assert (shown["jobs"][0]["status"], shown["jobs"][0]["attempts"], shown["jobs"][0]["seconds"]) == ("done", 1, 1.0)
    assert "several begin so: 0000, 0001" in call(runs, "show", "000")[1].replace("\n", " ")
    assert "lists the ids" in call(runs, "show", "0*")[1].replace("\n", " ")
    assert "lists the ids" in call(runs, "show", "77")[1].replace("\n", " ")
    text = call(runs, "show", "0003")[1]
    assert "train run3: failed after 1 attempts: out of memory" in text.replace("\n", " ")
    assert "record" not in text, "a run without a folder has its jobs"


def test_no_time_is_promised_where_nobody_works(runs: Path) -> None:
    ledger = Ledger.open(runs / "ledger.sqlite")
    dead = dataclasses.replace(settings._process(os.getpid()), started="1").name
    ledger.requeue([JobStatus.failed])
    for row in ledger.rows(status=JobStatus.claimed):
        ledger.release([row])
    assert read_status(ledger, "s", runs).seconds_to_go is None
    ledger.claim(dead, ["train"], 2, 3600, max_attempts=1)
    status = read_status(ledger, "s", runs)
    assert status.seconds_to_go is None, "its lease is good for an hour, but the process is gone"
    assert [worker.is_alive for worker in status.workers] == [False]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_table(status))
    text = console.export_text()
    assert "no worker is at work on 37 open jobs" in text
    assert "died over train run" in text
    ledger.claim("elsewhere:7", ["train"], 1, 3600, max_attempts=1)
    assert read_status(ledger, "s", runs).seconds_to_go is not None


def test_a_long_sweep_is_not_a_line_a_job(tmp_path: Path) -> None:
    def lines(number: int) -> list[str]:
        with (tmp_path / "log").open("w") as log, SweepProgress(Console(file=log, width=200), number, 0) as progress:
            for n in range(number):
                progress({"kind": "train", "label": f"run{n}", "phase": "training", "step": 1, "total": 2, "loss": 1.0})
                progress({"kind": "train", "label": f"run{n}", "phase": "done", "seconds": 1.0})
            progress({"kind": "train", "label": "broken", "phase": "failed", "reason": "why"})
        return (tmp_path / "log").read_text().splitlines()

    assert sum("done in" in line for line in lines(SMALL_SWEEP)) == SMALL_SWEEP
    long = lines(1000)
    assert len(long) < 50
    assert "[1000/1000] train broken failed: why" in long[-1]


def test_the_time_to_go_is_the_sum_over_kinds_that_are_open() -> None:
    counts = {"train": {"queued": 3, "claimed": 1, "done": 9}, "mmlu": {"done": 4}}
    assert _seconds_to_go(counts, {"train": 2.0}) == 120.0
    assert _seconds_to_go({**counts, "glue": {"queued": 1}}, {"train": 2.0, "glue": 0.5}) == 240.0
    assert _seconds_to_go({**counts, "glue": {"claimed": 1}}, {"train": 2.0}) is None
    assert _seconds_to_go({"mmlu": {"done": 4}}, {}) == 0.0


def test_processes_end_by_a_signal_or_a_status() -> None:
    assert [how_ended(code) for code in (-9, 0, 1)] == ["signal 9", "exit status 0", "exit status 1"]
