"""How often does a file appear in each of many folders? Counted by the kernel (Linux' inotify), so none is missed."""

import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

_IN_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")


class Arrivals:
    """Counts renames into the folders from its making on; a context manager.

    Args:
        folders: that exist by now.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folders: dict[int, Path] = {}
        for folder in folders:
            watch = libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_MOVED_TO)
            if watch < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
            self._folders[watch] = folder
        self._counts: Counter[tuple[Path, str]] = Counter()

    def counts(self) -> Counter[tuple[Path, str]]:
        """(folder, name) -> how often it was renamed into place. Call it often: the kernel's queue is short."""
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return self._counts
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, offset)
                assert mask & _IN_MOVED_TO, "the kernel's queue of events ran over"
                name = data[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0").decode()
                self._counts[(self._folders[watch], name)] += 1
                offset += _EVENT.size + length

    def __enter__(self) -> "Arrivals":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
