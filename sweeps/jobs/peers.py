"""Connects the ranks of a worker, and lets rank 0 broadcast to the others what is done next.

Rank 0 alone claims and settles jobs. It broadcasts every job that several devices share through the store where the
ranks met, as JSON; within the job the ranks agree by `harness.devices.ranks`. An idle rank waits at the store, because
a wait there is not ended by the timeout of a collective operation.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.distributed import DistError, PrefixStore, Store  # type: ignore[attr-defined]

from harness.config.schema import LaunchConfig
from harness.devices.hardware import Place
from harness.devices.ranks import ALONE, PeerLostError, Ranks, join_ranks
from harness.devices.torch_device import resolve_device
from harness.ledger.tables import JobRow, JobStatus

LEAST_PAUSE, MOST_PAUSE = 0.001, 0.1  # seconds between two reads of the store by an idle rank


@dataclass(slots=True, kw_only=True)
class Peers:
    """This process among those of its worker. Without arguments it is the only process of the worker."""

    ranks: Ranks = ALONE
    store: Store | None = None
    num_messages: int = 0  # broadcast or received so far

    def broadcast(self, message: Any) -> None:
        """Rank 0 sends plain values to every other rank; they arrive in order."""
        if self.store is not None:
            self.store.set(self._next_key(), json.dumps(message))

    def receive(self) -> Any:
        """Another rank waits for the next message, without a limit of time.

        Raises:
            PeerLostError: another rank is gone, or the store.
        """
        assert self.store is not None
        key, pause = self._next_key(), LEAST_PAUSE
        try:
            while not self.store.check([key]):  # its own wait logs a warning at every time-out
                self.ranks.require_peers()
                time.sleep(pause)
                pause = min(2 * pause, MOST_PAUSE)
            return json.loads(self.store.get(key))
        except DistError as error:
            raise PeerLostError(f"the store where the ranks meet is gone: {error}") from error

    def broadcast_job(self, claims: Sequence[JobRow]) -> None:
        """Rank 0 tells the other ranks which claims they work on next."""
        self.broadcast([asdict(claim) for claim in claims])

    def receive_job(self) -> list[JobRow] | None:
        """Another rank waits for the next job; None after the last one."""
        rows = self.receive()
        return rows and [JobRow(**{**row, "status": JobStatus(row["status"])}) for row in rows]

    def _next_key(self) -> str:
        self.num_messages += 1
        return f"message/{self.num_messages}"


def join_peers(place: Place, store: Store, launch: LaunchConfig) -> Peers:
    """Takes this rank's device and waits until all ranks have joined.

    Raises:
        ValueError: fewer CUDA devices than ranks on this machine.
    """
    device = resolve_device(launch.device, place.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = join_ranks(place, PrefixStore("ranks", store), device, launch.peer_seconds)
    return Peers(ranks=ranks, store=PrefixStore("peers", store))
