"""Signs of life of long work other than training, so that a watcher can tell it from work that hangs.

Downloads (bytes), building a dataset, converting a checkpoint and reading weights tell their progress to a bar of
tqdm, shown or not; our own loops call `progressed`. Work that makes no progress gives no sign: a download that stands
still is a hang.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

SECONDS_APART = 5.0  # between two signs that are handed on
SECONDS_BETWEEN_LINES = 10.0  # that say how far work is
Item = TypeVar("Item")
_lock = threading.Lock()
_listener: Callable[[], None] | None = None
_reader: Callable[[str], None] | None = None
_handed_on = 0.0


@contextmanager
def heard_by(listener: Callable[[], None], reader: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within this context, progress calls `listener`, from any thread and at most once in `SECONDS_APART`.

    Args:
        listener: called without words.
        reader: called with what `in_view` says of how far work is.
    """
    import tqdm.std  # imported here, because planning needs neither
    from transformers.utils import logging as transformers_logging

    global _listener, _reader
    plain_update = tqdm.std.tqdm.update

    def update(bar: Any, n: float | None = 1) -> Any:
        if n:
            progressed()
        return plain_update(bar, n)

    def counted(factory: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A progress bar of transformers, whose class differs where bars are turned off."""
        items = [_signing(arguments[0]), *arguments[1:]] if arguments else []
        return factory(*items, **options)

    _listener, _reader = listener, reader
    tqdm.std.tqdm.update = update
    previous = transformers_logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
        tqdm.std.tqdm.update = plain_update
        _listener = _reader = None


def progressed() -> None:
    """Says that long work made progress; costs next to nothing where nobody listens."""
    global _handed_on
    if _listener is None or time.monotonic() - _handed_on < SECONDS_APART:
        return
    with _lock:
        if time.monotonic() - _handed_on < SECONDS_APART:
            return
        _handed_on = time.monotonic()
    _listener()


def in_view(what: str, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
    """Gives the items of long work; each is a sign, and every `SECONDS_BETWEEN_LINES` a line says how far it is.

    Args:
        what: is worked on, in words.
        items: made one after the other.
        total: how many there are, where that is known.
    """
    said, of_all = time.monotonic(), "" if total is None else f" of {total}"
    for done, item in enumerate(items):
        progressed()
        if _reader is not None and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            _reader(f"{what}: {done}{of_all}")
        yield item


def _signing(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        yield item
        progressed()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes. Waiting for it counts as a sign of life: its holder is watched by itself."""
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=SECONDS_APART)
            break
        except Timeout:
            progressed()
    try:
        yield
    finally:
        lock.release()
