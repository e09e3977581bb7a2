"""A worker of several devices without its processes: which rank is blamed, how long the others are given."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from harness.devices.heartbeats import PEER_LOST_STATUS
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobStatus
from sweeps.jobs.settings import WorkerSettings, worker_name
from sweeps.workers import ranks
from sweeps.workers.processes import ERRORS, PEER_SECONDS, POLL_SECONDS, STOP_SECONDS, how_ended
from sweeps.workers.signals import ignore_signals, stop_at, stopped_by, stopped_by_sigterm


class Rank:
    """A process that ends with a code at a second of the scripted clock; without one it lives on."""

    def __init__(self, clock: "Clock", code: int = 0, at: float | None = None) -> None:
        self.clock, self.code, self.at, self.asked, self.sentinel = clock, code, at, list[str](), 0

    @property
    def exitcode(self) -> int | None:
        return self.code if self.at is not None and self.clock.now >= self.at else None

    def is_alive(self) -> bool:
        return self.exitcode is None

    def terminate(self) -> None:
        self.asked.append("terminate")


class Clock:
    """Seconds, of which every look at the processes takes some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(ranks, "wait", self.wait)
        monkeypatch.setattr(ranks.time, "monotonic", lambda: self.now)

    def wait(self, sentinels: list[int], timeout: float) -> None:
        assert timeout == POLL_SECONDS
        self.now += timeout
        assert self.now < 1000, "it waits for ever"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def watched(*processes: Rank, stop: bool = False) -> float:
    """-> when the watch over them ended"""
    event = threading.Event()
    if stop:
        event.set()
    ranks._watch(list(processes), event)  # type: ignore[arg-type]
    return processes[0].clock.now


@pytest.mark.parametrize(
    ("codes", "ends"),
    [
        (((0, 101.0), (0, 102.0)), 102.0),  # all end in order
        (((0, None), (-9, 101.0)), 101.0),  # one is killed: nobody waits for its peers
        (((-9, 101.0), (0, None)), 101.0),
        (((1, 101.0), (0, None)), 101.0),  # rank 0 has settled all it could
        (((0, 101.0), (0, None)), 101.0 + STOP_SECONDS),
        (((0, None), (1, 101.0)), 101.0 + PEER_SECONDS),  # rank 0 is given time to record why
        (((0, 102.0), (1, 101.0)), 102.0),
    ],
)
def test_the_watch_ends_when_nothing_is_to_come(
    codes: tuple[tuple[int, float | None], ...], ends: float, clock: Clock
) -> None:
    assert watched(*(Rank(clock, code, at) for code, at in codes)) == pytest.approx(ends, abs=2.5 * POLL_SECONDS)


def test_a_stop_is_handed_to_rank_0_once(clock: Clock) -> None:
    first, second = Rank(clock, 0, 103.0), Rank(clock, 0, 103.0)
    watched(first, second, stop=True)
    assert (first.asked, second.asked) == (["terminate"], [])
    quiet = Rank(clock, 0, clock.now + 1)
    watched(quiet)
    assert quiet.asked == []


@pytest.mark.parametrize(
    ("codes", "broken"),
    [
        ((0, 0), None),
        ((0, 1), 1),
        ((1, -9), 1),  # a killed one is the cause of another's error
        ((PEER_LOST_STATUS, 1), 1),
        ((PEER_LOST_STATUS, 0), 0),
        ((-9, PEER_LOST_STATUS), 0),
        ((1, 2), 0),
    ],
)
def test_the_first_cause_is_blamed(codes: tuple[int, ...], broken: int | None, clock: Clock) -> None:
    assert ranks._first_broken([Rank(clock, code, 0.0) for code in codes]) == broken  # type: ignore[misc]


def test_a_rank_tells_why_in_its_own_words_else_by_its_code(clock: Clock) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))
    PrefixStore(ERRORS, store).set("1", "ValueError: no rows")
    assert ranks._reason(Rank(clock, 1, 0.0), 1, store) == "failed: ValueError: no rows"  # type: ignore[arg-type]
    assert ranks._reason(Rank(clock, -9, 0.0), 0, store) == "died (signal 9)"  # type: ignore[arg-type]
    assert how_ended(3) == "exit status 3"


def test_only_the_workers_open_claims_fail_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.add([Job(kind="train", spec_hash=n, run_id=n, group="g", label=n, payload="{}") for n in "abc"], sweep="s")
    (mine,), (_others,) = (ledger.claim(name, ["train"], 1, 60, max_attempts=2) for name in ("host:1", "host:2"))
    asked: dict[str, Any] = {"ledger_url": str(tmp_path / "ledger.sqlite"), "sweep": "s"}
    paths, launch = PathsConfig(runs=str(tmp_path), cache=""), LaunchConfig(devices_per_run=2)
    settings = WorkerSettings(**asked, paths=paths, launch=launch, tracking=TrackingConfig())
    ranks._report(settings, "host:1", "rank 1 of 2 died (signal 9)")
    rows = {row.run_id: row for row in ledger.rows()}
    assert (rows[mine.run_id].status, rows[mine.run_id].reason) == (JobStatus.queued, "rank 1 of 2 died (signal 9)")
    assert sorted(row.status for row in rows.values()) == ["claimed", "queued", "queued"]
    assert "worker host:1: rank 1 of 2 died (signal 9)" in capsys.readouterr().err


def test_signals_are_listed_ignored_and_given_back() -> None:
    numbers, event = (signal.SIGUSR1, signal.SIGINT), threading.Event()
    before = [signal.getsignal(number) for number in numbers]
    with stopped_by(event, [signal.SIGUSR1]) as caught:
        signal.raise_signal(signal.SIGINT)
        assert not event.is_set(), "Ctrl-C reaches the parent, who asks by another signal"
        signal.raise_signal(signal.SIGUSR1)
        assert event.is_set()
    assert caught == [signal.SIGUSR1]
    with ignore_signals([signal.SIGUSR1]):
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    assert [signal.getsignal(number) for number in numbers] == before
    term = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is term
    try:
        stop_at(threading.Event(), [])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[1])


def test_ranks_are_started_from_a_server_that_outlives_the_signal(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a preempted worker's ranks would lose the process that waits for them before they have saved."""
    told: list[Any] = []

    @contextmanager
    def ignored(signals: Sequence[signal.Signals]) -> Iterator[None]:
        told.append(("ignored", *signals))
        yield
        told.append("given back")

    class Started(Rank):
        def __init__(self, target: Any, args: tuple[Any, ...]) -> None:
            super().__init__(clock, 0, 101.0)
            self.args = args

        def start(self) -> None:
            _, connection, threads, name, place, *_ = self.args
            told.append((place.rank, place.size, connection, threads, name == worker_name(os.getpid())))

        kill = join = lambda self: None

    server = SimpleNamespace(set_forkserver_preload=lambda modules: told.append(len(modules)), Process=Started)
    monkeypatch.setattr(ranks.multiprocessing, "get_context", lambda kind: server)
    monkeypatch.setattr(ranks, "TCPStore", lambda *_, **__: SimpleNamespace(port=1))
    monkeypatch.setattr(ranks, "ignore_signals", ignored)
    monkeypatch.setattr(ranks, "ensure_running", lambda: told.append("running"))
    paths, launch = PathsConfig(runs=str(tmp_path), cache=""), LaunchConfig(devices_per_run=2)
    settings = WorkerSettings(ledger_url="", sweep="s", paths=paths, launch=launch, tracking=TrackingConfig())
    connection: Any = SimpleNamespace(close=lambda: told.append("closed"))
    ranks._run_ranks(settings, connection, 5, [signal.SIGUSR1], threading.Event())
    assert told == [
        *(1, ("ignored", signal.SIGUSR1), "running", "given back"),
        *((0, 2, connection, 2, True), (1, 2, None, 2, True)),  # rank 0 alone speaks with the parent
        "closed",
    ]
