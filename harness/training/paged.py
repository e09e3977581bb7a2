"""bitsandbytes' AdamW, AdEMAMix and Lion; AdamW's large state may lie in unified memory that later runs use again.

bitsandbytes allocates unified memory by `cudaMallocManaged` and has no call that frees it, so a process that trains
run after run would keep every run's state for ever. Here a run takes its buffers from a pool and gives them back.
Its own `step` waits for the device after every parameter; this one doesn't wait at all: what follows on the device is
in order anyway, and who reads the state on the host gets it by `state_dict`, which waits once.

Source: bitsandbytes 0.50, optim/optimizer.py and functional.py.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.optim import AdamW, AdEMAMix, Lion
from bitsandbytes.optim.optimizer import Optimizer8bit
from bitsandbytes.utils import sync_gpu
from torch import Tensor, nn

from harness.devices.buffers import MIN_PAGED_ELEMENTS

_Key = tuple[tuple[int, ...], torch.dtype, int | None]  # shape, dtype, number of the CUDA device


class BufferPool:
    """Buffers in unified memory that no optimizer uses at the moment."""

    def __init__(self) -> None:
        self._unused: defaultdict[_Key, list[Tensor]] = defaultdict(list)

    def take(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """-> a buffer of zeros; `is_paged` is set, as bitsandbytes wants it. The device it pages to is `device`."""
        unused = self._unused[(tuple(shape), dtype, device.index)]
        buffer: Tensor = unused.pop() if unused else functional.get_paged(*shape, dtype=dtype, device=device)
        functional.fill(buffer, 0)
        return buffer

    def give_back(self, buffers: Iterable[Tensor]) -> None:
        """Keeps buffers for the next optimizer that needs such shapes."""
        for buffer in buffers:
            self._unused[(tuple(buffer.shape), buffer.dtype, buffer.page_deviceid)].append(buffer)  # type: ignore[attr-defined]


POOL = BufferPool()


class _Pooled(Optimizer8bit):  # type: ignore[misc]
    """What bitsandbytes' optimizers have in common here: `step` without waiting, and a state that can be resumed."""

    def get_state_buffer(self, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """-> zeros of the parameter's shape, where its state belongs."""
        if not self.is_paged or p.numel() < MIN_PAGED_ELEMENTS:
            return torch.zeros_like(p, dtype=dtype)
        return POOL.take(p.shape, dtype, p.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Updates every parameter that has a gradient, without waiting for the device."""
        assert closure is None
        for group_index, group in enumerate(self.param_groups):
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.init_state(group, p, group_index, index)
                self.prefetch_state(p)
                self.update_step(group, p, group_index, index)

    def state_dict(self) -> dict[str, Any]:
        """bitsandbytes' state, after the device has done every step."""
        sync_gpu(self.param_groups[0]["params"][0])  # unified memory is read on the host without waiting
        state: dict[str, Any] = super().state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
        """Copies a state to where `step` would have made it: large moments into paged buffers.

        bitsandbytes' own puts all of it into device memory, where it isn't paged. Constants such as betas stay as they
        are; the learning rate is set at every step.
        """
        assert move_to_device
        parameters = [p for group in self.param_groups for p in group["params"]]
        shared: dict[int, Tensor] = {}  # quantization maps belong to all parameters
        for index, entries in state_dict["state"].items():
            wrapped = entries.get(self._FSDP_WRAPPED_QUANT_STATE_KEY, {})
            p = parameters[index]
            for key, value in (entries | wrapped).items():
                if key in ("state1", "state2") and value.shape == p.shape:  # AdEMAMix has two averages in one tensor
                    self.state[p][key] = self.get_state_buffer(p, value.dtype).copy_(value)
                elif isinstance(value, Tensor):
                    if id(value) not in shared:
                        shared[id(value)] = value.to(p.device, copy=True)
                    self.state[p][key] = shared[id(value)]
                elif key != self._FSDP_WRAPPED_QUANT_STATE_KEY:
                    self.state[p][key] = value


class PooledAdamW(_Pooled, AdamW):  # type: ignore[misc]
    """AdamW with 32-bit or blockwise 8-bit state; `harness.training.optim.release_state` ends its use.

    Args:
        parameters: on one device.
        lr, betas, eps, weight_decay: AdamW's constants.
        bits: of the state: 32 or 8. Tensors of fewer than 4,096 elements have 32-bit state all the same.
        paged: whether the state of tensors of 100,000 elements or more lies in unified memory.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        bits: int,
        paged: bool,
    ) -> None:
        super().__init__(
            parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, optim_bits=bits, is_paged=paged
        )


class PooledLion(_Pooled, Lion):  # type: ignore[misc]
    """Lion: the sign of one moving average, with 32-bit or blockwise 8-bit state."""


class PooledAdEMAMix(_Pooled, AdEMAMix):  # type: ignore[misc]
    """AdEMAMix: AdamW with a second, slower average of the gradients, with 32-bit or blockwise 8-bit state."""
