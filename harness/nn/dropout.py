"""Dropout masks that depend on (seed, example and step, layer) alone.

A run trained in a group, resumed or recomputed by gradient checkpointing draws the same zeros as the run trained
alone (docs/decisions/0004). On a CPU the bits come 16 at a time from numpy's SFC64, seven times faster than
torch's `bernoulli_` there.

On a GPU a call costs more than the bits, so the masks of a whole row are drawn together (`RowMasks`), by torch's
stateless Philox 4x32-10 (Salmon et al., SC 2011): each token has a key of its own and an offset into that key's
stream, so what it draws doesn't depend on the row. Where torch has no such operation, a generator is seeded a segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.devices.buffers import DRAW_BYTES
from harness.nn.batch import send

_TOKEN_STRIDE = 1 << 20  # of a stream's offset, more than a layer has inputs
_LAYER_STRIDE = 1 << 44  # more than an example has tokens, times the above
_LEVELS = 1 << 16  # a mask's element compares 16 random bits, so a probability is rounded to 1/65536


def rounded_probability(probability: float, device: torch.device) -> float:
    """The probability that `draw_mask` uses on a device. What is kept has to be scaled by 1 / (1 - probability)."""
    return round(probability * _LEVELS) / _LEVELS if device.type == "cpu" else probability


def draw_mask(mask_TI: Tensor, probability: float, seed: int) -> None:
    """Fills a mask in place, False with the given probability.

    Args:
        mask_TI: bool, of one example's tokens.
        probability: of being dropped, in [0, 1).
        seed: 63 bits, from `mix_seed`.
    """
    if mask_TI.device.type == "cpu":
        num_words = -(-mask_TI.numel() // 4)
        bits = np.random.SFC64(seed).random_raw(num_words).view(np.uint16)[: mask_TI.numel()]
        np.greater_equal(bits.reshape(mask_TI.shape), round(probability * _LEVELS), out=mask_TI.numpy())
    else:
        generator = torch.Generator(device=mask_TI.device)
        mask_TI.bernoulli_(1 - probability, generator=generator.manual_seed(seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Neighbouring tokens of a row that belong to one example and are dropped with one probability."""

    num_tokens: int
    probability: float  # 0: nothing is
    seed: int  # 63 bits, from `mix_seed` with layer 0


class RowMasks:
    """The masks of a row, drawn on its device by few calls for each layer.

    Args:
        drawn: all of the row's tokens.
        device: where masks are drawn; torch has the operation for CUDA alone.
    """

    def __init__(self, drawn: Sequence[Drawn], device: torch.device) -> None:
        lengths = [one.num_tokens for one in drawn]
        keys_N2 = np.zeros((sum(lengths), 2), dtype=np.int64)
        keys_N2[:, 0] = np.repeat([one.seed for one in drawn], lengths)
        keys_N2[:, 1] = np.concatenate([np.arange(length) for length in lengths]) * _TOKEN_STRIDE
        probabilities = np.repeat(np.array([one.probability for one in drawn], dtype=np.float32), lengths)
        self._keys_N12 = send(keys_N2[:, None], device)
        self._offsets_N1 = self._keys_N12[..., 1].clone()
        self._probability_N1 = send(probabilities[:, None], device)

    def draw(self, layer: int, num_features: int) -> Tensor:
        """-> bool [N, features], False where the layer's input is dropped."""
        num_tokens, device = len(self._keys_N12), self._keys_N12.device
        torch.add(self._offsets_N1, layer * _LAYER_STRIDE, out=self._keys_N12[..., 1])
        mask_NI = torch.empty(num_tokens, num_features, dtype=torch.bool, device=device)
        step = max(1, DRAW_BYTES // (4 * num_features))
        for start in range(0, num_tokens, step):
            rows = slice(start, start + step)
            drawn_TI = torch.empty(len(mask_NI[rows]), num_features, device=device)
            torch.ops.aten._philox_uniform_(drawn_TI, self._keys_N12[rows].view(torch.uint64))
            torch.ge(drawn_TI, self._probability_N1[rows], out=mask_NI[rows])
        return mask_NI


def can_draw_rows(device: torch.device) -> bool:
    """Whether torch has the stateless generator that `RowMasks` needs (from 2.13 on, for CUDA)."""
    return device.type == "cuda" and hasattr(torch.ops.aten, "_philox_uniform_")


def mix_seed(seed: int, key: int, layer: int) -> int:
    """A 63-bit seed from three numbers (splitmix64's finalizer), so that streams don't overlap."""
    value = (seed * 0x9E3779B97F4A7C15 + key * 0xBF58476D1CE4E5B9 + layer * 0x94D049BB133111EB + 1) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & (2**64 - 1)
    return (value ^ (value >> 31)) & (2**63 - 1)
