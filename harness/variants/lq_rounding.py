"""Rounds a weight to the numbers that a format of LQ-LoRA's can tell apart (`harness.methods.formats`).

    weight = codebook[code] * scale of its block,    scale = offset + code * constant of its group / (2^scale_bits - 1)

Source: LQ-LoRA (arXiv 2311.12023) section 3.2, and the authors' code (github.com/HanGuo97/lq-lora,
`quantization_utils_2.py` of its models, "blockwise-nf"). At 4 bits the codebook is NF4's.
"""

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.methods.formats import Format

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_NUM_CELLS = 512  # so narrow that no two middles of a codebook's values lie in one
_LAST_QUANTILE = 0.9677083  # of a normal distribution, which is the codebook's 1; NF4's, in bitsandbytes


class SimulatedLinear(nn.Linear):
    """A linear layer whose weight has been rounded to a format's numbers; in memory it is a plain one."""


def rounded(weight_OI: Tensor, kind: Format) -> Tensor:
    """-> the numbers that the format has for a weight, in the weight's dtype; the same bits whenever it is computed"""
    flat_W = weight_OI.float().flatten()
    blocks_NB = _in_rows(flat_W, kind.block_size)
    scales_N1 = _rounded_scales(blocks_NB.abs().amax(1), kind)[:, None]
    shares_NB = _shares(blocks_NB, scales_N1)
    numbers_NB = _nearest(shares_NB, _cells(shares_NB), kind.bits) * scales_N1
    return numbers_NB.flatten()[: flat_W.numel()].view_as(weight_OI).to(weight_OI.dtype)


def rounding_errors(flat_W: Tensor, kinds: Sequence[Format], counts_W: Tensor | None = None) -> NDArray[np.float64]:
    """-> what each format loses of a weight, squared, [F]: that of `rounded`, to the last bit

    Formats that differ only in the bits of a weight have the same scales: a weight's share of its scale is computed
    once for all of them.

    Args:
        flat_W: float32.
        kinds: the formats, in any order.
        counts_W: what each number counts; None: all alike.
    """
    errors: dict[Format, float] = {}
    for block_size, of_size in itertools.groupby(sorted(kinds, key=_block_size), key=_block_size):
        blocks_NB = _in_rows(flat_W, block_size)
        largest_N = blocks_NB.abs().amax(1)
        for _, alike in itertools.groupby(sorted(of_size, key=_scaling), key=_scaling):
            several = list(alike)
            scales_N1 = _rounded_scales(largest_N, several[0])[:, None]
            shares_NB = _shares(blocks_NB, scales_N1)
            cells_NB = _cells(shares_NB)
            for kind in several:
                numbers_NB = _nearest(shares_NB, cells_NB, kind.bits) * scales_N1
                lost_W = flat_W - numbers_NB.flatten()[: flat_W.numel()]
                errors[kind] = float((lost_W if counts_W is None else counts_W * lost_W).norm()) ** 2
    return np.array([errors[kind] for kind in kinds])


def _block_size(kind: Format) -> int:
    return kind.block_size


def _scaling(kind: Format) -> tuple[int, str, int]:
    """What the scales of blocks of one size depend on."""
    return kind.scale_bits, kind.constant, kind.group_size


def _shares(blocks_NB: Tensor, scales_N1: Tensor) -> Tensor:
    return blocks_NB / torch.where(scales_N1 > 0, scales_N1, 1.0)


def _cells(shares_NB: Tensor) -> Tensor:
    """Which of `_NUM_CELLS` equal parts of -1 to 1 a share lies in; one beyond them lies in the last."""
    half = _NUM_CELLS // 2  # a power of two: only the sum rounds, on every device alike, and it keeps the order
    inside_NB = (shares_NB * half + half).clamp(0, _NUM_CELLS - 1)
    return inside_NB.int().clamp(0, _NUM_CELLS - 1)  # again: what is no number


def _nearest(shares_NB: Tensor, cells_NB: Tensor, bits: int) -> Tensor:
    """-> the codebook's value for each share: as by a search among its middles, in a tenth of the time"""
    cells_W = cells_NB.flatten()
    below_W, middles_W, above_W = (part_C.index_select(0, cells_W) for part_C in _by_cell(bits).to(shares_NB.device))
    return torch.where(shares_NB.flatten() > middles_W, above_W, below_W).view_as(shares_NB)


@cache
def _by_cell(bits: int) -> Tensor:
    """Of each cell the value below its middle, that middle, and the value above it. [3, C]; no middle: infinity."""
    values_K = _codebook(bits)
    middles = (values_K[1:] + values_K[:-1]) / 2
    cells = _cells(middles)
    assert len(cells.unique()) == len(middles), "cells are too wide: two middles lie in one"
    middles_C = torch.full((_NUM_CELLS,), torch.inf).index_copy(0, cells.long(), middles)
    codes_C = torch.bucketize(torch.arange(_NUM_CELLS), cells)  # the number of middles in cells before it
    return torch.stack([values_K[codes_C], middles_C, values_K[(codes_C + 1).clamp(max=len(middles))]])


def _rounded_scales(scales_N: Tensor, kind: Format) -> Tensor:
    """-> the largest sizes of blocks as unsigned integers times their group's constant, above the smallest of all"""
    offset, levels = scales_N.min(), 2**kind.scale_bits - 1
    above_GS = _in_rows(scales_N - offset, kind.group_size)
    constants_G1 = above_GS.amax(1, keepdim=True).to(_DTYPES[kind.constant]).float()
    codes_GS = (above_GS * (levels / torch.where(constants_G1 > 0, constants_G1, 1.0))).round().clamp(0, levels)
    stored_N: Tensor = (codes_GS * (constants_G1 / levels)).flatten()[: len(scales_N)] + offset
    return stored_N


def _in_rows(flat_X: Tensor, width: int) -> Tensor:
    """[rows, width], the last row filled up with zeros."""
    filled_X: Tensor = nn.functional.pad(flat_X, (0, -len(flat_X) % width))
    return filled_X.view(-1, width)


@cache
def _codebook(bits: int) -> Tensor:
    """The 2^bits values from -1 to 1, quantiles of a normal distribution; 0 is one of them. [K] float32."""
    below = torch.linspace(1 - _LAST_QUANTILE, 0.5, 2 ** (bits - 1), dtype=torch.float64)[:-1]
    above = torch.linspace(0.5, _LAST_QUANTILE, 2 ** (bits - 1) + 1, dtype=torch.float64)
    values_K: Tensor = torch.special.ndtri(torch.cat([below, above]))
    return (values_K / values_K[-1]).float()
