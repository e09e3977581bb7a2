"""Lets several processes, with a device each, train one group so that a step over N devices equals the step on one.

Every rank knows the whole step (it is a function of the step number) and takes its share of the examples, each with
its weight in the whole batch's mean; then the gradients are summed. Dropout masks belong to examples, not to ranks.
So only the order of summation differs.

Source: data parallelism as in PyTorch's DDP (arXiv 2006.15704), over `torch.distributed`: NCCL on CUDA, gloo on CPU.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.devices.hardware import Place
from harness.devices.heartbeats import Heartbeats
from harness.devices.memory import is_out_of_memory

if TYPE_CHECKING:
    from torch.distributed import Store, Work  # type: ignore[attr-defined]

BUCKET_BYTES = 32 * 2**20  # of gradients summed by one call: few calls, little memory beside the gradients
TIMEOUT = timedelta(days=1)  # rank 0 may tokenize, or score MMLU, while the others wait; heartbeats tell of a dead one
LOOK_UP = timedelta(seconds=1)  # how often a rank that waits for the others on a CPU asks whether they live
_ALL_GATHER = "all_gather_single"  # its name from torch 2.13 on


class PeerLostError(RuntimeError):
    """Another rank ended, or can't be reached: nothing can be agreed on any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's place among those that share a step. With one process nothing is sent."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None  # where what is sent must lie
    heartbeats: Heartbeats | None = None  # whether the others live; None: nobody asks

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes metrics, checkpoints, records and the ledger."""
        return self.rank == 0

    def sum_numbers(self, values: Sequence[float]) -> list[float]:
        """Sums each number over the ranks, in float64; the same on every rank."""
        return self._reduced(values, "SUM")

    def span(self, values: Sequence[float]) -> tuple[list[float], list[float]]:
        """-> the smallest and the largest of each number over the ranks."""
        return self._reduced(values, "MIN"), self._reduced(values, "MAX")

    def _reduced(self, values: Sequence[float], operation: str) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        reduce_by = getattr(torch.distributed.ReduceOp, operation)
        self._wait(lambda: torch.distributed.all_reduce(tensor, reduce_by, async_op=True))
        numbers: list[float] = tensor.tolist()
        return numbers

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the parameters' gradients over the ranks, in place.

        Args:
            parameters: the same ones, in the same order, on every rank; a gradient that is None counts as zeros.
        """
        if self.size == 1:
            return
        for bucket in _buckets(parameters):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            self._sum(flat)
            for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def copy_leader(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives every rank the values that rank 0 has, in place."""
        if self.size == 1:
            return
        for bucket in _buckets(parameters):
            flat = torch.cat([parameter.detach().reshape(-1) for parameter in bucket])
            self._broadcast(flat)
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.detach().copy_(part.view_as(parameter))

    def gather_bytes(self, whole: Tensor, part: Tensor) -> None:
        """Fills `whole` [size * n] with every rank's `part` [n], in the order of the ranks."""
        gather = getattr(torch.distributed, _ALL_GATHER, torch.distributed.all_gather_into_tensor)
        self._wait(lambda: gather(whole, part, async_op=True))

    def leave(self) -> None:
        """Tells the other ranks that this one ends well, so that they don't take it for lost."""
        if self.heartbeats is not None:
            self.heartbeats.stop()

    def require_peers(self) -> None:
        """Raises PeerLostError where another rank has given no sign of life for too long."""
        if self.heartbeats is not None and self.heartbeats.lost is not None:
            raise PeerLostError(self.heartbeats.lost)

    def _sum(self, flat: Tensor) -> None:
        self._wait(lambda: torch.distributed.all_reduce(flat, async_op=True))

    def _broadcast(self, flat: Tensor) -> None:
        self._wait(lambda: torch.distributed.broadcast(flat, src=0, async_op=True))

    def _wait(self, begin: "Callable[[], Work | None]") -> None:
        """Waits for a collective operation: on CUDA by the order of the stream, on a CPU with a look for lost peers."""
        with _peers():
            work = begin()
            assert work is not None
            if self.device is not None and self.device.type == "cuda":
                work.wait()
                return
            while not work.is_completed():
                self.require_peers()
                with suppress(RuntimeError):  # it takes longer than this, or has failed: said below
                    work.wait(LOOK_UP)
            work.wait()  # raises what it failed of


ALONE = Ranks()


def join_ranks(place: Place, store: "Store", device: torch.device, silent_seconds: float | None = None) -> Ranks:
    """Connects this process with the other ranks. Each calls it once, and `Ranks.leave` when it ends well.

    Args:
        place: of this process.
        store: where the ranks meet; every rank's store leads to the same server.
        device: CUDA (its own, with an index) or the CPU.
        silent_seconds: a rank that gives no sign of life for so long is lost; None: nobody asks.
    """
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.size,
        timeout=TIMEOUT,
    )
    heartbeats = None
    if silent_seconds is not None:
        heartbeats = Heartbeats(place, store, silent_seconds, exit_at_once=device.type == "cuda")
    return Ranks(rank=place.rank, size=place.size, device=device, heartbeats=heartbeats)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbouring parameters of one dtype, up to `BUCKET_BYTES` together; a larger parameter is alone."""
    bucket: list[nn.Parameter] = []
    used = 0
    for parameter in parameters:
        if bucket and (parameter.dtype != bucket[0].dtype or used + parameter.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, used = [], 0
        bucket.append(parameter)
        used += parameter.nbytes
    if bucket:
        yield bucket


@contextmanager
def _peers() -> Iterator[None]:
    """Raises PeerLostError for the plain RuntimeError that torch.distributed raises when a peer is gone."""
    try:
        yield
    except PeerLostError:
        raise
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerLostError(f"another rank ended or can't be reached: {error}") from error
