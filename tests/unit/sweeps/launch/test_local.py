"""The launcher of this machine with scripted workers in place of processes: who is replaced, killed and told of."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus
from sweeps.jobs.settings import WorkerSettings, worker_name
from sweeps.launch import local
from sweeps.launch.local import MAX_FAILED_STARTS, run_local
from sweeps.workers.processes import ALIVE

Script = list[dict[str, Any]]


class Process:
    """A worker that sends its messages, does something, and then ends with a code; None: it lives until it is ended."""

    def __init__(self, pid: int, messages: Script, code: int | None, work: Callable[[], object] = lambda: None) -> None:
        self.pid, self.messages, self.code, self.work = pid, list(messages), code, work
        self.exitcode: int | None = None
        self.asked: list[str] = []
        self.obeys = True

    def start(self) -> None:
        self.asked.append("start")

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self.asked.append("kill")
        self.exitcode = -9

    def terminate(self) -> None:
        self.asked.append("terminate")
        if self.obeys:
            self.exitcode = 0

    def join(self, seconds: float | None = None) -> None:
        self.asked.append("join")

    def recv(self) -> dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        if self.exitcode is None and self.code is not None:
            self.work()
            self.exitcode = self.code
        raise EOFError

    def poll(self) -> bool:
        return bool(self.messages) or self.exitcode is not None  # as a pipe whose other end is closed

    def close(self) -> None:
        self.asked.append("close")


class Machine:
    """What `run_local` sees instead of a forkserver: each start takes the next of the scripted workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *workers: Process, slots: list[str | None]) -> None:
        self.waiting, self.started, self.given = list(workers), list[Process](), list[tuple[Any, ...]]()
        self.seconds = self.began = time.monotonic()
        monkeypatch.setattr(local, "start_forkserver", lambda device: None)
        monkeypatch.setattr(local, "local_slots", lambda launch, work: slots)
        monkeypatch.setattr(local.multiprocessing, "get_context", lambda name: self)
        monkeypatch.setattr(local, "wait", lambda connections, timeout: self.pass_time(timeout) or connections)
        monkeypatch.setattr(local.time, "sleep", self.pass_time)
        monkeypatch.setattr(local.time, "monotonic", lambda: self.seconds)

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds + 0.01
        assert self.seconds < self.began + 2_000, "it goes on for ever"

    def Pipe(self) -> tuple[Process, Process]:
        return self.waiting[0], Process(0, [], None)

    def Process(self, target: Any, args: tuple[Any, ...]) -> Process:
        assert target is local.start_worker
        self.given.append(args)
        self.started.append(self.waiting.pop(0))
        return self.started[-1]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two queued runs."""
    made = Ledger.open(tmp_path / "ledger.sqlite")
    made.add(
        [Job(kind="train", spec_hash=n, run_id=n, group="g", label=n, payload="{}") for n in "ab"],
        sweep="s",
    )
    return made


def settings(**launch: Any) -> WorkerSettings:
    paths = PathsConfig(runs="runs", cache="cache")
    asked = LaunchConfig(**launch)
    return WorkerSettings(ledger_url="l", paths=paths, launch=asked, tracking=TrackingConfig(), sweep="s")


def claimed_by(pid: int, ledger: Ledger, number: int = 1) -> list[JobRow]:
    return ledger.claim(worker_name(pid), ["train"], number, 1e6, max_attempts=2)


def finishing(pid: int, ledger: Ledger, number: int = 2) -> Callable[[], object]:
    return lambda: [ledger.finish(claim, {}, 1.0) for claim in claimed_by(pid, ledger, number)]


def states(ledger: Ledger) -> list[tuple[str, str | None]]:
    return [(str(row.status), row.reason) for row in ledger.rows()]


DEAD = 2**22 + 7  # no process of Linux has so high a number
BEGAN: Script = [{"phase": "training", "label": "a"}]


def test_messages_are_passed_on_and_all_ends_with_the_last_job(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    worker = Process(DEAD, [{"phase": ALIVE, "label": ""}, *BEGAN], 0, finishing(DEAD, ledger))
    machine, told = Machine(monkeypatch, worker, slots=["0"]), list[dict[str, Any]]()
    assert run_local(settings(threads=3), ledger, told.append)
    assert told == BEGAN, "a sign of life is nobody's message; an orderly end is no death"
    ((given, _, threads, slot),) = machine.given
    assert (given.workers_on_device, threads, slot) == (1, 3, "0")
    assert signal.getsignal(signal.SIGTERM) is before


def test_each_slot_has_a_worker_that_knows_how_many_share_its_device(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.os, "cpu_count", lambda: 7)
    workers = [Process(DEAD + n, [], None) for n in range(2)]
    machine = Machine(monkeypatch, *workers, Process(DEAD + 2, [], 0, finishing(DEAD, ledger)), slots=["0", "0", "1"])
    run_local(settings(), ledger, lambda _: None)
    assert [(given.workers_on_device, threads, slot) for given, _, threads, slot in machine.given] == [
        (2, 2, "0"),
        (2, 2, "0"),
        (1, 2, "1"),
    ]
    assert [one.asked for one in workers] == [["start", "terminate", "join"]] * 2


def test_a_worker_that_dies_is_told_of_and_replaced_and_its_job_tried_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Process(DEAD, BEGAN, -9, lambda: claimed_by(DEAD, ledger))
    second, told = Process(DEAD + 1, BEGAN, 0, finishing(DEAD + 1, ledger)), list[dict[str, Any]]()
    machine = Machine(monkeypatch, first, second, slots=[None])
    run_local(settings(), ledger, told.append)
    assert machine.started == [first, second]
    assert told == [*BEGAN, {"phase": "died", "label": f"worker {DEAD}", "reason": "signal 9"}, *BEGAN]
    assert {row.run_id: row.attempts for row in ledger.rows()} == {"a": 2, "b": 1}
    assert "close" in first.asked


def test_a_worker_that_ends_in_order_over_a_job_is_said_to(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that another command ended: its job is tried again, with the reason."""
    first = Process(DEAD, BEGAN, 0, lambda: claimed_by(DEAD, ledger))
    machine = Machine(monkeypatch, first, slots=[None])
    worker = local._start(machine, settings(), [None], 0)  # type: ignore[arg-type]
    while local._receive(worker, lambda _: None):
        pass
    assert machine.seconds - machine.began > local.POLL_SECONDS, "the end of a pipe is not looked at all the time"
    assert not local._settle_ended(worker, ledger, lambda _: None, "s")
    assert states(ledger)[0] == ("queued", f"worker {local.short_name(worker.name)} died (exit status 0)")


def test_the_last_words_of_a_process_that_ended_are_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    words: Script = [{"phase": "training", "label": "a", "step": step} for step in range(3)]
    ended, told = Process(DEAD, words, 1), list[dict[str, Any]]()
    monkeypatch.setattr(ended, "start", lambda: setattr(ended, "exitcode", 1))
    Machine(monkeypatch, ended, Process(DEAD + 1, [], 0, finishing(DEAD + 1, ledger)), slots=[None])
    run_local(settings(), ledger, told.append)
    assert told == [*words, {"phase": "died", "label": f"worker {DEAD}", "reason": "exit status 1"}]


def test_workers_that_die_before_they_begin_are_given_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, *(Process(DEAD, [], 1) for _ in range(9)), slots=[None])
    with pytest.raises(ValueError, match=f"{MAX_FAILED_STARTS} workers in a row died before they began a job"):
        run_local(settings(), ledger, lambda _: None)
    assert len(machine.started) == MAX_FAILED_STARTS
    assert {row.status for row in ledger.rows()} == {JobStatus.queued}


def test_failed_starts_count_in_a_row(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [Process(DEAD, [], 1) for _ in range(4)]
    good = Process(DEAD + 1, BEGAN, 1)
    machine = Machine(
        monkeypatch, *bad[:2], good, *bad[2:], Process(DEAD, [], 0, finishing(DEAD, ledger)), slots=[None]
    )
    assert run_local(settings(), ledger, lambda _: None)
    assert len(machine.started) == 6


@pytest.mark.parametrize(("holds", "killed"), [(True, True), (False, False)])
def test_who_is_silent_over_a_job_is_killed(
    holds: bool, killed: bool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, told = Process(DEAD, [], None), list[dict[str, Any]]()
    if holds:
        claimed_by(DEAD, ledger)
        monkeypatch.setattr(local, "is_alive", lambda name: True)
    later = Process(DEAD + 1, [], 0, finishing(DEAD + 1, ledger))
    machine = Machine(monkeypatch, silent, later, slots=[None] if killed else [None, None])
    if not killed:
        later.work = lambda: machine.pass_time(400) or finishing(DEAD + 1, ledger)()
    run_local(settings(hang_seconds=60.0), ledger, told.append)
    assert ("kill" in silent.asked) is killed
    reason = "it said nothing for 60 s and was killed (launch.hang_seconds)"
    assert told == ([{"phase": "died", "label": f"worker {DEAD}", "reason": reason}] if killed else [])


def test_nobody_is_killed_where_hanging_has_no_limit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Process(DEAD, [], None)
    Machine(monkeypatch, silent, slots=[None])
    worker = local._Worker(silent, worker_name(DEAD), silent, 0)  # type: ignore[arg-type]
    claimed_by(DEAD, ledger)
    monkeypatch.setattr(local.time, "monotonic", lambda: 1e12)
    local._kill_hanging([worker], ledger, settings(hang_seconds=None))
    assert silent.asked == []
    local._kill_hanging([worker], ledger, settings(hang_seconds=1.0))
    assert silent.asked == ["kill", "join"]


def test_a_full_disk_ends_the_launch_and_blames_no_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    full: Script = [{"phase": "stopped", "label": "the sweep", "reason": "no space left"}]
    other = Process(DEAD + 1, [], None)
    Machine(monkeypatch, Process(DEAD, full, 75), other, slots=[None, None])
    with pytest.raises(ValueError, match=r"no space left: make room and start the same command again; nothing is lost"):
        run_local(settings(), ledger, lambda _: None)
    assert other.exitcode == 0, "the others are asked to save"
    assert states(ledger) == [("queued", None)] * 2


def test_what_a_killed_parents_workers_held_is_free_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = re.sub(r"\d+:\d+$", f"1:{DEAD}", worker_name(DEAD))
    ledger.claim(gone, ["train"], 1, 1e6, max_attempts=2)
    elsewhere = ledger.claim("another-host/0.0.0:5", ["train"], 1, 1e6, max_attempts=2)
    local._give_up_orphaned_claims(ledger, "another sweep")
    assert [status for status, _ in states(ledger)] == ["claimed", "claimed"]
    local._give_up_orphaned_claims(ledger, "s")
    assert [status for status, _ in states(ledger)] == ["queued", "claimed"]
    assert "died, and its parent too" in (next(iter(ledger.rows())).reason or "")
    assert [row.worker for row in ledger.rows(status=JobStatus.claimed)] == [elsewhere[0].worker]


def test_who_does_not_end_in_time_is_killed_and_its_claims_given_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = Process(DEAD, [{"phase": "done", "label": "x"}], None)
    deaf.obeys = False

    def interrupted(message: dict[str, Any]) -> None:
        claimed_by(DEAD, ledger)
        raise KeyboardInterrupt

    Machine(monkeypatch, deaf, slots=[None])
    with pytest.raises(KeyboardInterrupt):
        run_local(settings(), ledger, interrupted)
    assert deaf.asked == ["start", "terminate", "join", "kill", "join"]
    assert [(row.status, row.attempts) for row in ledger.rows()] == [(JobStatus.queued, 0)] * 2


def test_a_worker_that_spoke_within_the_limit_lives(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Process(DEAD, [], None)
    Machine(monkeypatch, silent, slots=[None])
    worker = local._Worker(silent, worker_name(DEAD), silent, 0)  # type: ignore[arg-type]
    worker.last_message = 1000.0
    claimed_by(DEAD, ledger)
    for now, asked in ((1059.9, []), (1060.0, ["kill", "join"])):
        monkeypatch.setattr(local.time, "monotonic", lambda now=now: now)
        local._kill_hanging([worker], ledger, settings(hang_seconds=60.0))
        assert silent.asked == asked
    assert worker.last_message == 1060.0
    assert worker.out_of_space is False
