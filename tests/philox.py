"""torch's stateless `_philox_uniform_` on a CPU, where torch has none, so that what CUDA draws can be tested there."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # Salmon et al., SC 2011, table 2; the increments too
_INCREMENTS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)

Words = NDArray[np.uint64]


def philox_4x32_10(seed: Words, counter: Words) -> tuple[Words, Words, Words, Words]:
    """-> four 32-bit words for each seed and each 64-bit counter."""
    key0, key1 = seed & _LOW, seed >> _SHIFT
    words = counter & _LOW, counter >> _SHIFT, np.zeros_like(counter), np.zeros_like(counter)
    for _ in range(10):
        product0, product1 = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = (
            (product1 >> _SHIFT) ^ words[1] ^ key0,
            product1 & _LOW,
            (product0 >> _SHIFT) ^ words[3] ^ key1,
            product0 & _LOW,
        )
        key0, key1 = (key0 + _INCREMENTS[0]) & _LOW, (key1 + _INCREMENTS[1]) & _LOW
    return words


def _uniform(self: Tensor, key: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    assert (low, high, self.dtype) == (0.0, 1.0, torch.float32)
    keys = key.view(torch.int64).numpy().view(np.uint64)  # [tokens, 1, 2]
    calls = -(-self.shape[1] // 4)
    seed, counter = np.broadcast_arrays(keys[..., 0], keys[..., 1] + np.arange(calls, dtype=np.uint64))
    words = np.stack(philox_4x32_10(seed, counter), axis=-1).reshape(len(self), -1)[:, : self.shape[1]]
    return self.copy_(torch.from_numpy((words >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)))


@contextmanager
def philox_on_cpu() -> Iterator[None]:
    """Within it, `torch.ops.aten._philox_uniform_` works on CPU tensors."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_philox_uniform_", _uniform, "CPU")
    try:
        yield
    finally:
        library._destroy()
