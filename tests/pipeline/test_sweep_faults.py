"""What surrounds a sweep breaks: full and read-only disks, a ledger that is locked or gone, one run's broken folder.

The sweep says so or waits, no other run is blamed, and the same command goes on.
"""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sweeps.jobs.claimed_run
from harness.ledger.ledger import Ledger
from harness.ledger.open import ledger_url
from harness.ledger.tables import JobStatus
from sweeps.jobs.context import Context
from sweeps.jobs.settings import EXIT_NO_SPACE, WorkerSettings
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.workers.serve import work_once
from tests.lab import REPOSITORY, Lab, make_lab, wait_until
from tests.processes.many import many_configs

OUTAGE_SECONDS = 30
FEW = ("tracking.wandb_mode=disabled", "launch.max_group_size=4")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = make_lab(tmp_path, models={"llama7b": 0})
    yield lab
    lab.end_processes()


@pytest.fixture
def context(lab: Lab) -> Iterator[Context]:
    """A worker within this process, and four queued runs of one group."""
    places = {"runs": lab.runs, "model_store": lab.models, "data_store": lab.data, "cache": lab.folder / "cache"}
    configs = many_configs(4, [*FEW, *(f"paths.{key}={value}" for key, value in places.items())])
    first, runs = configs[0], plan_runs(configs)
    lab.runs.mkdir()
    ledger = Ledger.open(ledger_url(first.paths))
    enqueue(ledger, lab.runs, runs, make_jobs(runs), "s", [])
    settings = WorkerSettings(
        ledger_url=ledger_url(first.paths),
        paths=first.paths,
        launch=first.launch,
        tracking=first.tracking,
        sweep="s",
    )
    messages: list[dict[str, Any]] = []
    yield Context(settings=settings, ledger=ledger, should_stop=lambda: False, send=messages.append)
    ledger.close()


def start(lab: Lab, number: int, **environment: str) -> "subprocess.Popen[str]":
    with (lab.folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.processes.many",
                str(number),
                *FEW,
                "launch.threads=1",
                "launch.lease_seconds=5",
            ],
            cwd=REPOSITORY,
            env=lab.environment | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def output(lab: Lab) -> str:
    return (lab.folder / "output.txt").read_text()


def test_a_full_disk_stops_the_worker_and_blames_no_run(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _row: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.jobs.claimed_run, "append_jsonl", full)
        with pytest.raises(SystemExit) as stop:
            work_once(context, "w")
    assert stop.value.code == EXIT_NO_SPACE
    assert [(row.status, row.attempts, row.reason) for row in context.ledger.rows()] == [
        (JobStatus.queued, 0, None)
    ] * 4
    while work_once(context, "w"):  # there is room again
        pass
    assert {row.status for row in context.ledger.rows()} == {JobStatus.done}


def test_what_breaks_one_runs_preparation_fails_that_run_alone(context: Context) -> None:
    broken = next(iter(context.ledger.rows()))
    context.run_folder(broken.run_id).write_text("a file where its folder should be")
    while work_once(context, "w"):
        pass
    rows = {row.run_id: row for row in context.ledger.rows()}
    failed = rows.pop(broken.run_id)
    assert (failed.status, failed.attempts) == (JobStatus.failed, 2)
    assert failed.reason is not None
    assert failed.reason.startswith("FileExistsError")
    assert "no stack trace" in failed.reason
    assert [(row.status, row.attempts) for row in rows.values()] == [(JobStatus.done, 1)] * 3


# Real outages.


@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Path]:
    """A disk of one MiB where the runs go, as root may mount one."""
    lab.runs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(lab.runs)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"can't mount a small disk: {mounted.stderr.decode().strip()}")
    yield lab.runs
    lab.end_processes()
    subprocess.run(["umount", "--lazy", str(lab.runs)], check=True)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_sweep_on_a_disk_that_fails_goes_on_once_it_is_mended(lab: Lab, small_disk: Path, fault: str) -> None:
    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(small_disk)], check=True)

    ledger = {"HARNESS_LEDGER_URL": str(lab.folder / "ledger.sqlite")}
    if fault == "full":
        process = start(lab, 60, **ledger)
    else:
        remount("size=64m")
        process = start(lab, 60, **ledger)
        wait_until(lambda: len(list(lab.runs.glob("*/record.json"))) > 3, "three runs", process)
        remount("ro")
    assert process.wait(timeout=240) != 0
    assert "make room and start the same command again; nothing is lost" in output(lab)
    wait_until(lambda: not lab.processes(), "the end of all processes")
    states = Counter(row.status for row in Ledger.open(ledger["HARNESS_LEDGER_URL"]).rows())
    assert set(states) <= {JobStatus.done, JobStatus.queued}
    assert states[JobStatus.queued] > 0
    remount("rw,size=64m")
    assert start(lab, 60, **ledger).wait(timeout=240) == 0, output(lab)
    assert {row.status for row in Ledger.open(ledger["HARNESS_LEDGER_URL"]).rows()} == {JobStatus.done}


@pytest.mark.alone
@pytest.mark.slow
def test_a_ledger_that_is_locked_for_long_is_waited_for(lab: Lab) -> None:
    process = start(lab, 40)
    wait_until(lambda: len(list(lab.runs.glob("*/record.json"))) > 3, "three runs", process)
    lock = sqlite3.connect(lab.runs / "ledger.sqlite", isolation_level=None, timeout=60)
    lock.execute("BEGIN IMMEDIATE")
    time.sleep(OUTAGE_SECONDS)
    lock.execute("ROLLBACK")
    assert process.wait(timeout=240) == 0, output(lab)
    assert [(row.status, row.claim_token) for row in lab.jobs()] == [(JobStatus.done, 1)] * 40


@pytest.mark.alone
@pytest.mark.slow
def test_a_server_that_is_gone_for_long_is_waited_for(lab: Lab) -> None:
    with_server = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not with_server or os.geteuid() != 0:
        pytest.skip("no PostgreSQL server to stop and start (apt-get install postgresql; as root)")
    folder = Path(tempfile.mkdtemp(prefix="server-"))  # pytest's own are private, and the server is another user's
    shutil.chown(folder, "postgres")

    def server(command: str) -> None:
        subprocess.run(["su", "postgres", "-c", f"{with_server[-1].parent}/{command}"], check=True, capture_output=True)

    begin = f"pg_ctl -w -D {folder}/data -l {folder}/log -o \"-k {folder} -c listen_addresses=''\" start"
    server(f"initdb -D {folder}/data -A trust --no-sync --no-locale -E UTF8")
    server(begin)
    url = f"postgresql://postgres@/postgres?host={folder}"
    try:
        process = start(lab, 40, HARNESS_LEDGER_URL=url)
        wait_until(lambda: len(list(lab.runs.glob("*/record.json"))) > 3, "three runs", process)
        server(f"pg_ctl -D {folder}/data -m immediate stop")
        time.sleep(OUTAGE_SECONDS)
        server(begin)
        assert process.wait(timeout=240) == 0, output(lab)
        assert {row.status for row in Ledger.open(url).rows()} == {JobStatus.done}
    finally:
        server(f"pg_ctl -D {folder}/data -m immediate stop")
        shutil.rmtree(folder)
