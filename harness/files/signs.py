"""Signs of life of long work that isn't training, so that whoever watches can tell it from work that hangs.

Downloads (bytes), building a dataset, converting a checkpoint and reading weights tell their progress to a bar of
tqdm, shown or not; our own loops call `progressed`. Work that makes no progress gives no sign: a download that stands
still is a hang.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

SECONDS_APART = 5.0  # between two signs that are handed on
_lock = threading.Lock()
_listener: Callable[[], None] | None = None
_handed_on = 0.0


@contextmanager
def heard_by(listener: Callable[[], None]) -> Iterator[None]:
    """While it lasts, progress calls `listener`, at most every `SECONDS_APART`, from any thread."""
    import tqdm.std  # here, as planning, which tells nobody, does without them
    from transformers.utils import logging as transformers_logging

    global _listener
    plain_update = tqdm.std.tqdm.update

    def update(bar: Any, n: float | None = 1) -> Any:
        if n:
            progressed()
        return plain_update(bar, n)

    def counted(factory: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A bar of transformers, which is of another class where it is turned off."""
        items = [_signing(arguments[0]), *arguments[1:]] if arguments else []
        return factory(*items, **options)

    _listener = listener
    tqdm.std.tqdm.update = update
    previous = transformers_logging.set_tqdm_hook(counted)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)
        tqdm.std.tqdm.update = plain_update
        _listener = None


def progressed() -> None:
    """Something long got on; costs next to nothing where nobody listens."""
    global _handed_on
    if _listener is None or time.monotonic() - _handed_on < SECONDS_APART:
        return
    with _lock:
        if time.monotonic() - _handed_on < SECONDS_APART:
            return
        _handed_on = time.monotonic()
    _listener()


def _signing(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        yield item
        progressed()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A lock between processes. Whoever waits for it lives: the one that holds it is watched by itself."""
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
