"""How rank 0 of a worker tells the other ranks what is done next, and how they meet.

Jobs are claimed and settled by rank 0 alone. It tells every job of several devices to the others through the store
where they met, as JSON; within the job they agree by `harness.devices.ranks`. An idle rank waits at the store, which no
timeout of a collective operation ends.
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

LEAST_PAUSE, MOST_PAUSE = 0.001, 0.1  # seconds between an idle rank's looks at the store


@dataclass(slots=True, kw_only=True)
class Crew:
    """This process among those of its worker. Made without arguments: the only one, who has nobody to talk to."""

    ranks: Ranks = ALONE
    store: Store | None = None
    num_messages: int = 0  # told or heard so far

    def tell(self, message: Any) -> None:
        """Rank 0: hands plain values to every other rank, in order."""
        if self.store is not None:
            self.store.set(self._next_key(), json.dumps(message))

    def hear(self) -> Any:
        """The others: waits for the next message, however long.

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

    def tell_job(self, claims: Sequence[JobRow]) -> None:
        """Rank 0: the others are to work on these."""
        self.tell([asdict(claim) for claim in claims])

    def hear_job(self) -> list[JobRow] | None:
        """The others: the next job, or None at the end."""
        rows = self.hear()
        return rows and [JobRow(**{**row, "status": JobStatus(row["status"])}) for row in rows]

    def _next_key(self) -> str:
        self.num_messages += 1
        return f"message/{self.num_messages}"


def join_crew(place: Place, store: Store, launch: LaunchConfig) -> Crew:
    """Takes this rank's device and meets the others.

    Raises:
        ValueError: fewer CUDA devices than ranks on this machine.
    """
    device = resolve_device(launch.device, place.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = join_ranks(place, PrefixStore("ranks", store), device, launch.peer_seconds)
    return Crew(ranks=ranks, store=PrefixStore("crew", store))
