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
_LAST_QUANTILE = 0.9677083  # of a normal distribution, which is the codebook's 1; NF4's, in bitsandbytes


class SimulatedLinear(nn.Linear):
    """A linear layer whose weight has been rounded to a format's numbers; in memory it is a plain one."""


def rounded(weight_OI: Tensor, kind: Format) -> Tensor:
    """-> the numbers that the format has for a weight, in the weight's dtype; the same bits whenever it is computed"""
    flat_W = weight_OI.float().flatten()
    blocks_NB = _in_rows(flat_W, kind.block_size)
    scales_N1 = _rounded_scales(blocks_NB.abs().amax(1), kind)[:, None]
    values_K = _codebook(kind.bits).to(flat_W.device)
    shares_NB = blocks_NB / torch.where(scales_N1 > 0, scales_N1, 1.0)
    codes_NB = torch.bucketize(shares_NB, _middles(values_K))
    numbers_W: Tensor = (values_K[codes_NB] * scales_N1).flatten()[: flat_W.numel()]
    return numbers_W.view_as(weight_OI).to(weight_OI.dtype)


def rounding_errors(flat_W: Tensor, kinds: Sequence[Format], counts_W: Tensor | None = None) -> NDArray[np.float64]:
    """-> what each format loses of a weight, squared, [F]: by `rounded` to the last bit, in a third of the time

    Formats that differ only in the bits of a weight have the same scales. So a weight's share of its scale is computed
    once for all of them, and one search finds its place among the middles of all their codebooks.

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
            bounds_U, values_FP = _all_codes(tuple(kind.bits for kind in several))
            shares_NB = blocks_NB / torch.where(scales_N1 > 0, scales_N1, 1.0)
            places_NB = torch.bucketize(shares_NB, bounds_U.to(flat_W.device), out_int32=True)
            for kind, values_P in zip(several, values_FP.to(flat_W.device), strict=True):
                numbers_NB = values_P.index_select(0, places_NB.flatten()).view_as(blocks_NB) * scales_N1
                lost_W = flat_W - numbers_NB.flatten()[: flat_W.numel()]
                errors[kind] = float((lost_W if counts_W is None else counts_W * lost_W).norm()) ** 2
    return np.array([errors[kind] for kind in kinds])


def _block_size(kind: Format) -> int:
    return kind.block_size


def _scaling(kind: Format) -> tuple[int, str, int]:
    """What the scales of blocks of one size depend on."""
    return kind.scale_bits, kind.constant, kind.group_size


@cache
def _all_codes(bits_F: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The middles of several codebooks, sorted, [U]; and each codebook's value in each place among them, [F, U + 1]."""
    codebooks = [_codebook(bits) for bits in bits_F]
    bounds_U = torch.cat([_middles(values_K) for values_K in codebooks]).unique()
    rows = []
    for values_K in codebooks:
        is_own_U = torch.isin(bounds_U, _middles(values_K))
        rows.append(values_K[torch.cat([torch.zeros(1, dtype=torch.long), is_own_U.cumsum(0)])])
    return bounds_U, torch.stack(rows)


def _middles(values_K: Tensor) -> Tensor:
    return (values_K[1:] + values_K[:-1]) / 2


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
