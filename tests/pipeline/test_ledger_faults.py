"""The ledger under faults, with real processes: kill -9, locks, full disks, files that vanish, several users.

On SQLite and, where HARNESS_TEST_POSTGRES_URL names a server, on PostgreSQL.
"""

import os
import signal
import sqlite3
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.ledger.database import Access
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus, LedgerError, LedgerUnavailableError

POSTGRES_URL = os.environ.get("HARNESS_TEST_POSTGRES_URL")
DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
# Fork: children inherit an open ledger, which must not harm theirs or the parent's connections.
# pytest itself runs no other thread while they start.
FORK = get_context("fork")

pytestmark = pytest.mark.timeout(120)


def make_jobs(number: int, group_size: int = 5) -> list[Job]:
    return [
        Job(kind="train", spec_hash=f"{n}", run_id=f"{n}", group=f"{n // group_size}", label="", payload="x" * 500)
        for n in range(number)
    ]


def claim(ledger: Ledger, worker: str = "w", max_jobs: int = 5, lease_seconds: float = 60.0) -> list[JobRow]:
    return ledger.claim(worker, ["train"], max_jobs, lease_seconds, max_attempts=3)


def statuses(ledger: Ledger) -> Counter[str]:
    return Counter(row.status.value for row in ledger.rows())


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: a file, or a schema of its own on the server."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.sqlite")
        return
    if POSTGRES_URL is None:
        pytest.skip("HARNESS_TEST_POSTGRES_URL names no PostgreSQL server")
    schema = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(sa.make_url(POSTGRES_URL).set(drivername="postgresql+psycopg"))
    with server.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    of_schema = sa.make_url(POSTGRES_URL).update_query_dict({"options": f"-csearch_path={schema}"})
    yield of_schema.render_as_string(hide_password=False)
    with server.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    server.dispose()


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """A forked process that runs `target(pipe, *arguments)`; killed at the end if it still lives."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=target, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()


def received(pipe: Connection) -> list[Any]:
    """All that the child sent until it ended."""
    items = []
    while True:
        try:
            items.append(pipe.recv())
        except EOFError:
            return items


# Workers.


def claim_and_finish_all(pipe: Connection, ledger: Ledger, worker: str) -> None:
    while claims := claim(ledger, worker, max_jobs=3):
        for held in claims:
            if ledger.finish(held, {"by": worker}, 0.0):
                pipe.send(held.job_id)


def test_four_workers_never_share_a_job(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.add(make_jobs(400))
    with (
        child(claim_and_finish_all, ledger, "0") as (_, a),
        child(claim_and_finish_all, ledger, "1") as (_, b),
        child(claim_and_finish_all, ledger, "2") as (_, c),
        child(claim_and_finish_all, ledger, "3") as (_, d),
    ):
        by_worker = [received(pipe) for pipe in (a, b, c, d)]
    claim_and_finish_all(FORK.Pipe()[1], ledger, "last")  # an empty claim may come of another's row lock
    rows = list(ledger.rows())
    assert {(row.status, row.attempts, row.claim_token) for row in rows} == {(JobStatus.done, 1, 1)}
    told = {job_id: str(worker) for worker, ids in enumerate(by_worker) for job_id in ids}
    assert sum(map(len, by_worker)) == len(told)
    assert {row.job_id: (row.result or {})["by"] for row in rows if row.job_id in told} == told
    ledger.close()


def test_processes_that_open_and_add_at_once_make_one_ledger(url: str) -> None:
    def add(pipe: Connection) -> None:
        pipe.send(Ledger.open(url).add(make_jobs(50), sweep="s").num_new)

    with child(add) as (_, a), child(add) as (_, b), child(add) as (_, c), child(add) as (_, d):
        answers = [received(pipe) for pipe in (a, b, c, d)]
    assert sorted(answers) == [[0], [0], [0], [50]]
    assert Ledger.open(url).sweeps()[0].num_jobs == 50


def claim_then_hang(pipe: Connection, url: str) -> None:
    pipe.send(claim(Ledger.open(url), "victim", lease_seconds=0.5))
    time.sleep(3600)


def test_a_killed_workers_job_passes_on_and_its_late_report_is_refused(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.add(make_jobs(2))
    with child(claim_then_hang, url) as (process, pipe):
        stale = pipe.recv()
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    fresh: list[JobRow] = []
    for _ in range(100):
        if fresh := claim(ledger, "heir"):
            break
        time.sleep(0.05)
    assert [(row.attempts, row.claim_token, row.worker) for row in fresh] == [(2, 2, "heir")] * 2
    assert ledger.heartbeat(stale, 60) == set()
    assert not ledger.finish(stale[0], {"by": "victim"}, 1.0)
    assert ledger.finish(fresh[0], {"by": "heir"}, 1.0)
    assert not ledger.finish(stale[0], {"by": "victim"}, 1.0)
    assert [row.result for row in ledger.rows(status=JobStatus.done)] == [{"by": "heir"}]
    ledger.close()


def test_what_a_killed_worker_was_told_is_recorded_stays_recorded(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.add(make_jobs(3000, group_size=3000))
    told: list[str] = []
    for round_number in range(4):
        with child(claim_and_finish_all, ledger, f"w{round_number}") as (process, pipe):
            for _ in range(20 + 15 * round_number):  # killed at a moment that nothing is aligned to
                told.append(pipe.recv())
            process.kill()
            told += received(pipe)
    assert len(told) >= 4 * 20
    done = {row.job_id for row in ledger.rows(status=JobStatus.done)}
    assert len(told) == len(set(told))
    assert done.issuperset(told)
    assert len(done) - len(told) <= 4  # killed between the record and the message
    assert statuses(ledger)["claimed"] <= 4 * 3
    ledger.close()


# Databases that are locked, full or gone.


def hold_lock(pipe: Connection, path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    pipe.send("locked")
    pipe.recv()
    connection.execute("ROLLBACK")


def test_a_locked_file_is_waited_for(sqlite_path: Path) -> None:
    ledger = Ledger.open(sqlite_path, wait_seconds=30)
    ledger.add(make_jobs(1))
    with child(hold_lock, sqlite_path) as (process, pipe):
        assert pipe.recv() == "locked"
        threading.Timer(0.5, pipe.send, ["release"]).start()
        (held,) = claim(ledger)
        process.join()
    assert process.exitcode == 0
    assert ledger.finish(held, {}, 1.0)
    ledger.close()


def test_a_file_that_stays_locked_is_an_error_and_nothing_is_lost(sqlite_path: Path) -> None:
    ledger = Ledger.open(sqlite_path, wait_seconds=0.3)
    ledger.add(make_jobs(1))
    (held,) = claim(ledger)
    with child(hold_lock, sqlite_path) as (_, pipe):
        assert pipe.recv() == "locked"
        with pytest.raises(LedgerUnavailableError, match=r"ledger\.sqlite: another process keeps it locked"):
            ledger.finish(held, {}, 1.0)
        assert ledger.counts()["train"][JobStatus.claimed] == 1  # readers aren't held up
    assert ledger.finish(held, {}, 1.0)
    ledger.close()


def test_a_full_disk_is_an_error_and_nothing_is_lost(sqlite_path: Path) -> None:
    ledger = Ledger.open(sqlite_path)
    ledger.add(make_jobs(10))
    (held,) = claim(ledger, max_jobs=1)
    with ledger._database._ready_engine().connect() as connection:  # the pool's only connection
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerUnavailableError, match=r"ledger\.sqlite: the disk is full; nothing was recorded"):
        ledger.add(make_jobs(1000), sweep="large")
    with pytest.raises(LedgerUnavailableError, match="the disk is full"):
        ledger.finish(held, {"text": "x" * 100_000}, 1.0)
    assert statuses(ledger) == {"queued": 9, "claimed": 1}
    assert ledger.sweeps() == []
    ledger.close()  # space was freed
    assert ledger.finish(held, {"text": "x" * 100_000}, 1.0)
    assert ledger.add(make_jobs(1000)).num_new == 990
    ledger.close()


def test_a_file_that_is_gone_for_a_while_is_waited_for(sqlite_path: Path) -> None:
    ledger = Ledger.open(sqlite_path)
    ledger.add(make_jobs(1))
    (held,) = claim(ledger)
    elsewhere = sqlite_path.parent.with_name("elsewhere")
    sqlite_path.parent.rename(elsewhere)
    threading.Timer(0.5, elsewhere.rename, [sqlite_path.parent]).start()
    assert ledger.finish(held, {}, 1.0)
    ledger.close()
    assert statuses(Ledger.open(sqlite_path)) == {"done": 1}


def test_nothing_is_written_into_a_deleted_or_replaced_file(sqlite_path: Path) -> None:
    ledger = Ledger.open(sqlite_path, wait_seconds=0.3)
    ledger.add(make_jobs(1))
    (held,) = claim(ledger)
    for file in sqlite_path.parent.iterdir():
        file.unlink()
    with pytest.raises(LedgerUnavailableError, match=r"ledger\.sqlite: the file is gone; put it back"):
        ledger.finish(held, {}, 1.0)
    Ledger.open(sqlite_path).add(make_jobs(1))
    assert not ledger.finish(held, {}, 1.0)  # the new file knows of no such claim
    assert statuses(ledger) == {"queued": 1}
    ledger.close()


@pytest.mark.postgres
@pytest.mark.skipif(POSTGRES_URL is None, reason="HARNESS_TEST_POSTGRES_URL names no PostgreSQL server")
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_server_that_drops_its_connections_is_reached_again(url: str) -> None:
    ledger = Ledger.open(url)
    ledger.add(make_jobs(3))
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {}"
    server = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    for held in claim(ledger):
        with ledger._database._ready_engine().connect() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with server.begin() as connection:
            assert connection.exec_driver_sql(others.format(pid)).scalar() is True
        assert ledger.finish(held, {}, 1.0)
    assert statuses(ledger) == {"done": 3}
    ledger.close()
    server.dispose()


@pytest.mark.postgres
@pytest.mark.skipif(POSTGRES_URL is None, reason="HARNESS_TEST_POSTGRES_URL names no PostgreSQL server")
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_process_stopped_within_a_transaction_holds_up_others_only_for_a_while(url: str) -> None:
    ledger, stalled = Ledger.open(url, wait_seconds=20), Ledger.open(url, wait_seconds=0.5)
    ledger.add(make_jobs(1))
    claimed_meanwhile: list[int] = []

    def stall_once(connection: sa.Connection) -> str:
        connection.exec_driver_sql("SELECT * FROM jobs FOR UPDATE").all()
        if not claimed_meanwhile:
            claimed_meanwhile.append(len(claim(ledger)))  # waits until the server ends the idle transaction
        return str(connection.exec_driver_sql("SELECT status FROM jobs").scalar())

    assert stalled._database.transact(Access.rearrange, stall_once) == "claimed"  # and it tries again by itself
    assert claimed_meanwhile == [1]
    ledger.close()
    stalled.close()


# Users. Root may become any user, and is itself refused nothing.

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two other users")
GROUP, ANN, BEN, EVE = 54321, 54322, 54323, 54324


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A lab's folder: its group may write, and what is made in it belongs to the group."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "runs"
        folder.mkdir()
        os.chown(folder, ANN, GROUP)
        folder.chmod(0o2775)
        yield folder


def as_user(pipe: Connection, user: int, group: int, work: Callable[[], Any]) -> None:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    os.umask(0o077)
    try:
        pipe.send(work())
    except LedgerError as error:
        pipe.send(error)


@needs_root
def test_two_users_with_strict_umasks_share_a_ledger(shared_folder: Path, sqlite_path: Path) -> None:
    path = shared_folder / "ledger.sqlite"
    Ledger.open(sqlite_path).close()  # loads the driver while its files are readable

    def add() -> int:
        return Ledger.open(path).add(make_jobs(2)).num_new

    def work() -> list[bool]:
        ledger = Ledger.open(path)
        return [ledger.finish(held, {}, 1.0) for held in claim(ledger)]

    with child(as_user, ANN, GROUP, add) as (_, pipe):
        assert pipe.recv() == 2
    with child(as_user, BEN, GROUP, work) as (_, pipe):
        assert pipe.recv() == [True, True]
    with child(as_user, ANN, GROUP, lambda: statuses(Ledger.open(path))) as (_, pipe):
        assert pipe.recv() == {"done": 2}


@needs_root
def test_a_file_or_folder_that_a_user_may_not_write_is_a_clear_error(shared_folder: Path, sqlite_path: Path) -> None:
    path = shared_folder / "ledger.sqlite"
    Ledger.open(sqlite_path).close()
    with child(as_user, EVE, EVE, lambda: Ledger.open(path)) as (_, pipe):
        assert "can't be opened; check that it is a file in a folder writable" in str(pipe.recv())
    Ledger.open(path).add(make_jobs(1))
    path.chmod(0o644)

    def steal() -> Any:
        return claim(Ledger.open(path))

    with child(as_user, EVE, EVE, steal) as (_, pipe):
        error = pipe.recv()
    assert isinstance(error, LedgerUnavailableError)
    assert "writable" in str(error)
    assert statuses(Ledger.open(path)) == {"queued": 1}
