"""What a launcher waits for, by the ledger where its workers are elsewhere; which signals end a wait or a worker."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from harness.ledger import JobStatus, Ledger

POLL_SECONDS = 1.0
SETTLE_SECONDS = 5.0  # a worker's last word may be a moment behind its end
Watch = Callable[[dict[str, Any]], None]


class NoWorkersError(ValueError):
    """All workers have ended, and jobs are open."""


def open_jobs(ledger: Ledger, sweep: str | None) -> int:
    """Jobs of the sweep that are queued or claimed."""
    counts = ledger.counts(sweep)
    return sum(per.get(status, 0) for per in counts.values() for status in (JobStatus.queued, JobStatus.claimed))


def wait_for_jobs(ledger: Ledger, sweep: str | None, watch: Watch, workers_left: Callable[[], bool]) -> None:
    """Returns when the sweep has no open job, and tells `watch` of every change in the counts.

    Args:
        workers_left: is there a worker that runs, or waits for its turn?

    Raises:
        NoWorkersError: nobody is left to do what is open.
    """
    gone_since: float | None = None
    while True:
        counts = ledger.counts(sweep)
        total = {status: sum(per.get(status, 0) for per in counts.values()) for status in JobStatus}
        watch({"phase": "counts", "label": sweep or "all sweeps", "counts": {str(k): v for k, v in total.items()}})
        num_open = total[JobStatus.queued] + total[JobStatus.claimed]
        if not num_open:
            return
        gone_since = None if workers_left() else gone_since or time.monotonic()
        if gone_since is not None and time.monotonic() - gone_since > SETTLE_SECONDS:
            raise NoWorkersError(f"all workers have ended, but {num_open} jobs are open")
        time.sleep(POLL_SECONDS)


@contextmanager
def stopped_by(stop: threading.Event, signals: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    """While it lasts, the signals set `stop` and are listed; Ctrl-C is passed over unless it is one of them."""
    before = {number: signal.getsignal(number) for number in {signal.SIGINT, *signals}}
    try:
        yield stop_at(stop, signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at(stop: threading.Event, signals: Sequence[signal.Signals]) -> list[signal.Signals]:
    """As `stopped_by`, from here on. -> those that came so far."""
    caught: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        stop.set()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in signals:
        signal.signal(number, note)
    return caught


@contextmanager
def deaf_children(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """A process started within ignores the signals until it says otherwise: a scheduler sends them to every one."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM reads like Ctrl-C while it lasts: a KeyboardInterrupt."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def interrupt(*_: object) -> None:
    """A signal handler."""
    raise KeyboardInterrupt
