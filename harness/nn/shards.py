"""Shards a frozen base that is too large for one device: each rank keeps 1/N of every decoder layer's bytes.

So `launch.shard_base=true` trains 65B where one device is too small. A layer's frozen tensors, whatever they store
(floats, NF4's packed bytes with their quantization constants, LLM.int8), are laid into one flat row of bytes, and a
rank keeps its part of it. Just before a layer's forward pass the parts are gathered, and after it the row is freed;
the same happens around its backward pass, the recomputation of checkpointing included. All tensors are
views of the row's storage, which is emptied and refilled, so that what autograd has saved sees the bytes again.

Every pass does the same gathers in the same order on every rank: all layers forward, then all backward. That is why
the first layer's input is given a gradient, and why `catch_up` does what a rank that ran out of memory left out.

Source: the storage trick of PyTorch's FSDP (arXiv 2304.11277). FSDP2 shards by rows of a parameter, which packed
4-bit weights with their constants don't have (docs/decisions/0007-more-devices.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.devices.ranks import Ranks

ALIGNMENT = 256  # bytes; where a tensor begins in its row, so that every kernel may read it
_NESTED = ("quant_state", "state2", "state")  # where bitsandbytes keeps tensors beside a weight


@dataclass(slots=True)
class _View:
    """One frozen tensor's place in its layer's row."""

    tensor: Tensor
    offset: int  # bytes


class LayerShard:
    """One decoder layer's frozen bytes: a rank's part of them always, and all of them while the layer computes.

    Args:
        layer: on the device, quantized, with no adapters in it yet; its tensors become views.
        ranks: who holds the other parts.
    """

    def __init__(self, layer: nn.Module, ranks: Ranks) -> None:
        self.ranks = ranks
        self.in_backward = False
        views, used = _lay_out(layer)
        self.part_bytes = -(-used // (ranks.size * ALIGNMENT)) * ALIGNMENT
        device = views[0].tensor.device
        self._row = torch.zeros(self.part_bytes * ranks.size, dtype=torch.uint8, device=device)
        for view in views:
            _move_into(view, self._row)
        begin = ranks.rank * self.part_bytes
        self.part = self._row[begin : begin + self.part_bytes].clone()
        self.free()

    @property
    def num_bytes(self) -> int:
        """The bytes that the layer takes up on this rank now."""
        return self.part.nbytes + self._row.untyped_storage().nbytes()

    def gather(self) -> None:
        """Fills the row from all ranks; every rank has to call it at the same place of the pass."""
        self._row.untyped_storage().resize_(self.part_bytes * self.ranks.size)
        self.ranks.gather_bytes(self._row, self.part)

    def free(self) -> None:
        """Frees the row's memory; the tensors keep their shapes."""
        self._row.untyped_storage().resize_(0)


class ShardedLayers:
    """All decoder layers of a base. It begins empty; `add` takes layers in the order of the forward pass."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.shards: list[LayerShard] = []
        self._num_gathers = 0  # of the pass under way

    @property
    def num_bytes(self) -> int:
        """The bytes that the sharded layers take up on this rank now."""
        return sum(shard.num_bytes for shard in self.shards)

    def add(self, layer: nn.Module) -> None:
        """Shards a layer; from here on it gathers and frees itself around its passes."""
        shard = LayerShard(layer, self.ranks)
        self.shards.append(shard)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if shard.in_backward:  # recomputed, where a library's hooks run within the checkpoint
                return None
            self._gather(shard)
            if not torch.is_grad_enabled():
                return None
            return _with_hidden(args, kwargs, lambda hidden: self._entered(shard, hidden))

        def after(_: nn.Module, __: tuple[Any, ...], out: Any) -> Any:
            if shard.in_backward:
                return None
            shard.free()
            if not torch.is_grad_enabled():
                return None
            hidden = out[0] if isinstance(out, tuple) else out
            hidden = _AtBackward.apply(hidden, lambda: self._begin_backward(shard))  # type: ignore[no-untyped-call]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        layer.register_forward_pre_hook(before, with_kwargs=True)
        layer.register_forward_hook(after)

    def begin_pass(self) -> None:
        """Called before each forward pass of training, of which a rank may have to do the rest by `catch_up`."""
        self._num_gathers = 0

    def catch_up(self, backward: bool = True) -> None:
        """Does the gathers of a pass that broke off, so that the other ranks can end theirs.

        Args:
            backward: whether the pass is followed by a backward pass.
        """
        order = [*self.shards, *(reversed(self.shards) if backward else ())]
        for shard in self.shards:
            shard.free()
            shard.in_backward = False
        for shard in order[self._num_gathers :]:
            self._gather(shard)
            shard.free()

    def _gather(self, shard: LayerShard) -> None:
        shard.gather()
        self._num_gathers += 1

    def _entered(self, shard: LayerShard, hidden: Tensor) -> Tensor:
        if not hidden.requires_grad:  # the first layer: without this, whether it has a backward pass varied by rank
            hidden = hidden.detach().requires_grad_()
        entered: Tensor = _AtBackward.apply(hidden, lambda: self._end_backward(shard))  # type: ignore[no-untyped-call]
        return entered

    def _begin_backward(self, shard: LayerShard) -> None:
        shard.in_backward = True
        self._gather(shard)

    def _end_backward(self, shard: LayerShard) -> None:
        shard.in_backward = False
        shard.free()


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """A model's decoder layers, in the order of the forward pass.

    Raises:
        ValueError: a model without any.
    """
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"launch.shard_base=true: {type(model).__name__} has no decoder layers that can be sharded; "
            "use launch.shard_base=false"
        )
    return layers


class _AtBackward(torch.autograd.Function):
    """The identity, which calls `call` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, call: Any) -> Tensor:
        ctx.call = call
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.call()
        return grads[0], None


def _with_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A decoder layer's arguments with its hidden states changed."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}


def _lay_out(layer: nn.Module) -> tuple[list[_View], int]:
    """-> each tensor's place in the row (tensors that share memory share a place), and the row's bytes"""
    views: list[_View] = []
    places: dict[int, int] = {}  # address -> offset
    used = 0
    for tensor in _frozen_tensors(layer):
        if tensor.data_ptr() not in places:
            places[tensor.data_ptr()] = used
            used += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        views.append(_View(tensor, places[tensor.data_ptr()]))
    return views, used


def _frozen_tensors(layer: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and what bitsandbytes keeps beside them."""
    seen: set[int] = set()
    for module in layer.modules():
        for owner in [*module._parameters.values(), *module._buffers.values(), getattr(module, "state", None)]:
            yield from _tensors_of(owner, seen)


def _tensors_of(owner: Any, seen: set[int]) -> Iterator[Tensor]:
    if owner is None or id(owner) in seen:
        return
    seen.add(id(owner))
    if isinstance(owner, Tensor) and owner.numel():
        yield owner
    for name, value in getattr(owner, "__dict__", {}).items():
        if isinstance(value, Tensor) or name in _NESTED:
            yield from _tensors_of(value, seen)


@torch.no_grad()
def _move_into(view: _View, row: Tensor) -> None:
    """Copies a tensor's bytes into the row and makes the tensor itself a view of it."""
    tensor = view.tensor
    target = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    begin = view.offset // tensor.element_size()
    target.set_(row.untyped_storage(), begin, tensor.shape, tensor.stride())
    target.copy_(tensor)
    tensor.data = target
