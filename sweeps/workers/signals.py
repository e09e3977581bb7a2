"""Which signals end a wait or a worker, and how a process ignores them for a while."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by(stop: threading.Event, signals: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    """Within this context, the signals set `stop` and are listed; Ctrl-C is ignored unless it is one of them."""
    before = {number: signal.getsignal(number) for number in {signal.SIGINT, *signals}}
    try:
        yield stop_at(stop, signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at(stop: threading.Event, signals: Sequence[signal.Signals]) -> list[signal.Signals]:
    """As `stopped_by`, but for good. -> a list of the signals that came so far"""
    caught: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        stop.set()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in signals:
        signal.signal(number, note)
    return caught


@contextmanager
def ignore_signals(signals: Sequence[signal.Signals]) -> Iterator[None]:
    """Lets a process started in this context ignore the signals, which a scheduler sends to all, until it sets them."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within this context, SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def interrupt(*_: object) -> None:
    """The signal handler that raises KeyboardInterrupt."""
    raise KeyboardInterrupt
