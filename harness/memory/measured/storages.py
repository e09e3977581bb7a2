"""Follows every storage of a device from the operation that makes it to its death, and adds up what is alive.

`LiveStorages` is a dispatch mode: torch hands it each operation. It keeps a log of births and deaths, so that what was
alive at the peak can be told afterwards, by what it was for and by the operation that made it. Bytes are counted in
blocks of 512, as CUDA's allocator cuts memory.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

BLOCK_BYTES = 512
WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER = "weights", "adapters", "gradients", "optimizer"
ACTIVATIONS = "activations"  # made before the backward pass began, and alive when it did
TEMPORARY = "temporary"  # everything else
NOWHERE = "nowhere"  # takes no memory: what was asked for without data
CATEGORIES = (WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY)

_aten = torch.ops.aten
Operation = Callable[..., Any]


@dataclass(slots=True)
class _Storage:
    """A storage, by the log's numbers of its birth and death."""

    num_bytes: int
    origin: str  # operation, shape and type
    born: int
    died: int | None = None
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most bytes that were alive at once, and what they were."""

    num_bytes: int
    by_category: Mapping[str, int]
    by_origin: Mapping[str, int]  # operation, shape and type -> bytes; what lived before the pass is left out


class LiveStorages(TorchDispatchMode):
    """Adds up the storages alive on a device.

    Args:
        without_data: whether tensors without data count (torch's meta tensors), or real ones.
        kernels: operations that are computed otherwise, under this mode too, so that what they hold counts.
        workspace: given an operation and its arguments, the bytes that its kernel takes and frees within the call.
    """

    def __init__(
        self,
        without_data: bool,
        kernels: Mapping[Any, Operation] | None = None,
        workspace: Callable[[Any, Sequence[Any]], int] = lambda operation, args: 0,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.without_data, self.kernels, self.workspace = without_data, kernels or {}, workspace
        self.block_bytes = block_bytes
        self.live_bytes = self.peak_bytes = 0
        self._time = itertools.count()  # numbers births and deaths, in their order
        self._storages: list[_Storage] = []
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}  # address -> its reference, its place in the list
        self._peak_time = -1
        self._backward_began: list[int] = []
        self._pass_began = 0
        self._kernel_bytes = 0  # of the peak: what a kernel held within a call

    def start_pass(self) -> None:
        """What lives now is no part of the pass; the peak counts from here."""
        self._pass_began = next(self._time)
        self.peak_bytes, self._peak_time, self._kernel_bytes = self.live_bytes, next(self._time), 0

    def mark(self, tensors: Iterable[Tensor], category: str) -> None:
        """Says what tensors are for."""
        for tensor in tensors:
            if tensor.is_meta is self.without_data:
                storage = self._storages[self._follow(tensor, "given", num_bytes=0 if category is NOWHERE else None)]
                if storage.category is not NOWHERE:
                    storage.category = category

    def mark_all(self, category: str) -> None:
        """Says what all storages that are alive are for."""
        for _, place in self._alive.values():
            if self._storages[place].category is not NOWHERE:
                self._storages[place].category = category

    def peak(self) -> Peak:
        """What was alive at the peak."""
        alive = [
            s for s in self._storages if s.born <= self._peak_time and (s.died is None or s.died > self._peak_time)
        ]
        by_category, by_origin = dict.fromkeys(CATEGORIES, 0), dict[str, int]()
        for storage in alive:
            if storage.category is NOWHERE:
                continue
            by_category[storage.category or self._kind(storage)] += storage.num_bytes
            if storage.born > self._pass_began:
                by_origin[storage.origin] = by_origin.get(storage.origin, 0) + storage.num_bytes
        by_category[TEMPORARY] += self._kernel_bytes
        if self._kernel_bytes:
            by_origin["within a kernel"] = self._kernel_bytes
        ordered = dict(sorted(by_origin.items(), key=lambda item: -item[1]))
        return Peak(num_bytes=self.peak_bytes, by_category=by_category, by_origin=ordered)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it takes time

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.kernels:
            with self:
                return self.kernels[func](*args, **kwargs)
        if torch._C._current_graph_task_id() >= 0:
            self._note_backward()
            if func is _aten.add.Tensor and _accumulates(*args, **kwargs):
                func = _aten.add_.Tensor
        else:
            self._in_backward = False
        self._note_peak(self.workspace(func, args))
        out = func(*args, **kwargs)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_meta is self.without_data:
                self._follow(tensor, func)
        return out

    _in_backward = False

    def _note_backward(self) -> None:
        if not self._in_backward:
            self._in_backward = True
            self._backward_began.append(next(self._time))

    def _kind(self, storage: _Storage) -> str:
        """Activations are alive when a backward pass begins; of the passes, it is the one after the storage's birth."""
        began = next((time for time in self._backward_began if time > storage.born), None)
        is_kept = began is not None and (storage.died is None or storage.died > began)
        return ACTIVATIONS if is_kept else TEMPORARY

    def _follow(self, tensor: Tensor, func: Any, num_bytes: int | None = None) -> int:
        """-> the storage's place in the list. Args: num_bytes: that it takes up; None: its own size."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._alive:
            return self._alive[address][1]
        place = len(self._storages)
        if num_bytes is None:
            num_bytes = -(-storage.nbytes() // self.block_bytes) * self.block_bytes
        origin = f"{func} {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        self._storages.append(_Storage(num_bytes, origin, next(self._time)))
        self._alive[address] = weakref.ref(storage, lambda _: self._forget(address)), place
        self.live_bytes += num_bytes
        self._note_peak(0)
        return place

    def _note_peak(self, of_a_kernel: int) -> None:
        if self.live_bytes + of_a_kernel > self.peak_bytes:
            self.peak_bytes, self._peak_time = self.live_bytes + of_a_kernel, next(self._time)
            self._kernel_bytes = of_a_kernel

    def _forget(self, address: int) -> None:
        storage = self._storages[self._alive.pop(address)[1]]
        storage.died = next(self._time)
        self.live_bytes -= storage.num_bytes


def _accumulates(one: Tensor, other: Any, **options: Any) -> bool:
    """Whether this sum is autograd's own of two gradients, which it makes in place where no mode watches."""
    return not torch.is_grad_enabled() and isinstance(other, Tensor) and one.shape == other.shape
