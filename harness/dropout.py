"""Dropout masks that depend on (seed, example and step, layer) alone.

A run trained in a group, resumed or recomputed by gradient checkpointing draws the same zeros as the run trained
alone (docs/decisions/0004). On a CPU the bits come 16 at a time from numpy's SFC64, seven times faster than
torch's `bernoulli_` there; on a GPU from a torch generator.
"""

import numpy as np
import torch
from torch import Tensor

_LEVELS = 1 << 16  # a mask's element compares 16 random bits, so a probability is rounded to 1/65536


def rounded_probability(probability: float, device: torch.device) -> float:
    """The probability that `draw_mask` really uses there; what survives is scaled by 1 / (1 - it)."""
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


def mix_seed(seed: int, key: int, layer: int) -> int:
    """A 63-bit seed from three numbers (splitmix64's finalizer), so that streams don't overlap."""
    value = (seed * 0x9E3779B97F4A7C15 + key * 0xBF58476D1CE4E5B9 + layer * 0x94D049BB133111EB + 1) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & (2**64 - 1)
    return (value ^ (value >> 31)) & (2**63 - 1)
