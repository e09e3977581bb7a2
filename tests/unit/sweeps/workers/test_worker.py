"""A worker's life without processes: what it claims it settles or gives back, leases are renewed, signals end it."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus
from harness.training.loop import TrainingInterrupted
from sweeps.jobs.context import Context
from sweeps.jobs.peers import Peers
from sweeps.jobs.settings import WorkerSettings, worker_name
from sweeps.workers import serve, worker
from sweeps.workers.serve import work_once
from sweeps.workers.worker import run_worker

WAIT_SECONDS = 30.0  # for what comes at once; a loaded machine is slow, not wrong
Train = Callable[[Context, Sequence[JobRow]], None]


def settings_in(folder: Path, **launch: Any) -> WorkerSettings:
    return WorkerSettings(
        ledger_url=str(folder / "ledger.sqlite"),
        paths=PathsConfig(runs=str(folder), cache=str(folder)),
        launch=LaunchConfig(**launch),
        tracking=TrackingConfig(),
        sweep="s",
    )


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """Two queued runs of one group."""
    settings = settings_in(tmp_path)
    ledger = Ledger.open(settings.ledger_url, clock=lambda: 1000.0)  # no lease expires
    jobs = [Job(kind="train", spec_hash=n, run_id=n, group="g", label=n, payload="{}") for n in "ab"]
    ledger.add(jobs, sweep="s")
    yield Context(settings=settings, ledger=ledger, should_stop=lambda: False, send=lambda _: None)
    ledger.close()


def as_training(monkeypatch: pytest.MonkeyPatch, train: Train) -> None:
    monkeypatch.setattr(serve, "train_jobs", train)


def states(context: Context) -> list[tuple[JobStatus, int]]:
    return [(row.status, row.attempts) for row in context.ledger.rows()]


def test_preempted_runs_are_given_back_and_finished_ones_stay(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(context: Context, claims: Sequence[JobRow]) -> None:
        context.finish(claims[0], {}, 1.0)
        raise TrainingInterrupted

    as_training(monkeypatch, train)
    assert not work_once(context, "w"), "nothing more is claimed"
    assert states(context) == [(JobStatus.done, 1), (JobStatus.queued, 0)]  # an orderly end is no attempt


def test_leases_are_renewed_while_the_work_goes_on_and_no_longer(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, twice, threads = list[list[str]](), threading.Event(), set(threading.enumerate())
    heartbeat = context.ledger.heartbeat

    def count(claims: Collection[JobRow], lease_seconds: float) -> set[str]:
        renewed.append([claim.run_id for claim in claims])
        twice.set() if len(renewed) > 1 else None
        return heartbeat(claims, lease_seconds)

    def train(context: Context, claims: Sequence[JobRow]) -> None:
        assert twice.wait(WAIT_SECONDS)
        for claim in claims:
            context.finish(claim, {}, 1.0)

    context.settings.launch.lease_seconds = 0.1
    monkeypatch.setattr(context.ledger, "heartbeat", count)
    as_training(monkeypatch, train)
    assert work_once(context, "w")
    assert renewed[:2] == [["a", "b"]] * 2
    assert set(threading.enumerate()) <= threads
    assert not context.lost


def test_a_lease_is_renewed_after_a_quarter_of_it(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a machine that is late three times in a row keeps its runs."""
    waited: list[float] = []
    ended = SimpleNamespace(wait=lambda seconds: waited.append(seconds) or True, set=lambda: None)
    monkeypatch.setattr(serve, "threading", SimpleNamespace(Event=lambda: ended, Thread=threading.Thread))
    context.settings.launch.lease_seconds = 60
    with serve._leases_renewed(context):
        pass
    assert waited == [15.0]


def test_only_what_is_under_way_is_renewed_and_what_others_took_is_lost(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims, renewed, heartbeat = context.ledger.claim("w", ["train"], 8, 60, 2), list[str](), context.ledger.heartbeat

    def note(under_way: Collection[JobRow], lease_seconds: float) -> set[str]:
        renewed.extend(claim.run_id for claim in under_way)
        return heartbeat(under_way, lease_seconds)

    monkeypatch.setattr(context.ledger, "heartbeat", note)
    context.finish(claims[0], {}, 1.0)
    context.renew(claims)
    assert renewed == ["b"]
    assert not context.lost, "a finished run is nobody's"
    context.ledger.cancel("s")
    context.renew(claims)
    assert context.lost == {claims[1].job_id}
    assert context.is_lost(claims[1])


def test_the_launch_is_told_how_a_run_ended(context: Context) -> None:
    told: list[dict[str, Any]] = []
    context.send = told.append
    first, second = context.ledger.claim("w", ["train"], 8, 60, 2)
    context.finish(first, {"loss": 1.0}, 1.5, save_seconds=0.5)
    context.ledger.cancel("s")
    context.finish(second, {}, 1.5)  # another's by now
    assert told == [{"kind": "train", "label": "a", "phase": "done", "seconds": 1.5, "save_seconds": 0.5}]
    assert context.settled == {first.job_id, second.job_id}


def test_a_run_that_ends_while_leases_are_renewed_is_not_lost(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = context.ledger.claim("w", ["train"], 8, 60, 2)
    heartbeat = context.ledger.heartbeat

    def ends_meanwhile(renewed: Collection[JobRow], lease_seconds: float) -> set[str]:
        context.finish(claims[0], {}, 1.0)
        return heartbeat(renewed, lease_seconds)

    monkeypatch.setattr(context.ledger, "heartbeat", ends_meanwhile)
    context.renew(claims)
    assert not context.lost


def test_a_worker_waits_for_what_others_have_claimed(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "IDLE_SECONDS", 0.0)
    claims = context.ledger.claim("another", ["train"], 8, 60, 2)
    assert work_once(context, "w"), "they may come back"
    for claim in claims:
        context.ledger.finish(claim, {}, 1.0)
    assert not work_once(context, "w")


def test_a_stop_between_two_jobs_claims_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()
    stop = threading.Event()

    def once(context: Context, name: str) -> bool:
        calls.append(name)
        stop.set()
        return len(calls) < 3

    monkeypatch.setattr(serve, "work_once", once)
    Ledger.open(tmp_path / "ledger.sqlite").close()
    serve.serve_watched(settings_in(tmp_path), "w", stop, None, Peers())
    assert calls == ["w"]


# A process's life.


def lives(
    monkeypatch: pytest.MonkeyPatch, folder: Path, work: Callable[[threading.Event], None], **given: Any
) -> tuple[signal.Signals | None, list[str]]:
    """-> what `run_worker` says, and the names under which it worked, where `work` stands for its jobs."""
    names = list[str]()

    def served(settings: WorkerSettings, name: str, stop: threading.Event, *_: object) -> None:
        names.append(name)
        work(stop)

    monkeypatch.setattr(worker, "serve_watched", served)
    given = {"connection": None, "threads": None} | given
    return run_worker(settings_in(folder), **given), names


def test_a_worker_with_nothing_left_to_do_ends_by_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()
    torch_threads = torch.get_num_threads()
    try:
        ended, names = lives(monkeypatch, tmp_path, lambda stop: seen.append(torch.get_num_threads()), threads=3)
    finally:
        torch.set_num_threads(torch_threads)
    assert (ended, names, seen) == (None, [worker_name(os.getpid())], [3])


def test_the_first_signal_is_what_ended_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(stop: threading.Event) -> None:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
            assert stop.is_set()

    before = signal.getsignal(signal.SIGTERM)
    ended, _ = lives(monkeypatch, tmp_path, work, stop_on=(signal.SIGTERM, signal.SIGUSR1))
    assert ended is signal.SIGUSR1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_stops_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, child = Pipe()

    def work(stop: threading.Event) -> None:
        assert not stop.is_set()
        parent.close()
        assert stop.wait(WAIT_SECONDS)

    ended, names = lives(monkeypatch, tmp_path, work, connection=child)
    assert (ended, len(names)) == (None, 1)


def test_two_devices_a_run_are_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ranks(settings: WorkerSettings, connection: Connection | None, threads: int | None, stop_on: Any) -> Any:
        return settings.launch.devices_per_run, threads, stop_on

    monkeypatch.setattr(worker, "run_ranks", ranks)
    found = run_worker(settings_in(tmp_path, devices_per_run=2), None, 5, (signal.SIGUSR1,))
    assert found == (2, 5, (signal.SIGUSR1,))  # type: ignore[comparison-overlap]
