"""Tells whether the processes that train together are alive, even while they are busy.

A collective operation waits for up to a day, because rank 0 may tokenize or score meanwhile. A rank that was killed is
noticed by its closed connection, or by the process that started it. One that hangs, or whose machine or network is
gone, is noticed here: whatever its main thread does, a thread of each rank counts up in the store where the ranks met,
and reads the others' counts.
"""

import os
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from harness.devices.hardware import Place

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]


PEER_LOST_STATUS = 75  # a rank's exit status, where another one's end ended it
MOST_SECONDS_APART = 5.0  # of two signs of life
GRACE_SECONDS = 60.0  # for the main thread to notice by itself, and to record what it can
_DONE = b"done"


class Heartbeats:
    """Sends this rank's signs of life and watches those of the others.

    Args:
        place: this rank's.
        store: where the ranks met. It is cloned, because a connection that waits is blocked for all other use.
        silent_seconds: a rank that was silent for so long is lost.
        exit_at_once: on CUDA. A kernel that waits for a lost rank can only be aborted, and what it leaves in gradients
            must reach no checkpoint; so the process ends, as it does after NCCL's own errors. Else the main thread
            raises at its next check, and the process is ended only if that doesn't happen in time.
    """

    def __init__(self, place: Place, store: "Store", silent_seconds: float, exit_at_once: bool) -> None:
        self.lost: str | None = None  # why there is nothing to wait for any more
        self._place, self._silent_seconds, self._exit_at_once = place, silent_seconds, exit_at_once
        self._apart = min(MOST_SECONDS_APART, silent_seconds / 5)
        self._store: Store = store.clone()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=silent_seconds))
        self._ended = threading.Event()
        self._looked = time.monotonic()
        self._heard = {rank: (b"", time.monotonic()) for rank in range(place.size) if rank != place.rank}
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tells the others that this rank ended well and sends no more signs of life."""
        self._ended.set()
        self._thread.join(self._apart)
        try:
            self._store.set(_key(self._place.rank), _DONE.decode())
        except RuntimeError:
            pass  # the store went with the last of them

    def _go_on(self) -> None:
        num_signs = 0
        while not self._ended.wait(self._apart):
            num_signs += 1
            try:
                self._store.set(_key(self._place.rank), str(num_signs))
                self.lost = self._silent()
            except RuntimeError as error:
                if self._ended.wait(self._apart):  # it ends with the sweep, a moment before we hear of that
                    return
                self.lost = f"the store where the ranks meet can't be reached: {error}"
            if self.lost is not None:
                self._end()
                return

    def _silent(self) -> str | None:
        """Names the first rank whose count has stood still for too long."""
        now = time.monotonic()
        if now - self._looked > 3 * self._apart:  # this process was stopped itself, the others maybe with it
            self._heard = {rank: (count, now) for rank, (count, _) in self._heard.items()}
        self._looked = now
        for rank, (count, since) in self._heard.items():
            found = self._store.get(_key(rank)) if self._store.check([_key(rank)]) else b""
            if found != count or found == _DONE:
                self._heard[rank] = found, now
            elif now - since > self._silent_seconds:
                return f"rank {rank} of {self._place.size} gave no sign of life for {self._silent_seconds:g} s"
        return None

    def _end(self) -> None:
        if self._exit_at_once or not self._ended.wait(GRACE_SECONDS):
            print(f"rank {self._place.rank} ends: {self.lost} (launch.peer_seconds)", file=sys.stderr, flush=True)
            os._exit(PEER_LOST_STATUS)


def _key(rank: int) -> str:
    return f"alive/{rank}"
