"""Rounds a weight to the numbers that a format of LQ-LoRA's can tell apart (`harness.methods.formats`).

    weight = codebook[code] * scale of its block,    scale = offset + code * constant of its group / (2^scale_bits - 1)

Source: LQ-LoRA (arXiv 2311.12023) section 3.2, and the authors' code (github.com/HanGuo97/lq-lora,
`quantization_utils_2.py` of its models, "blockwise-nf"). At 4 bits the codebook is NF4's.
"""

from functools import cache

import torch
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
    codes_NB = torch.bucketize(shares_NB, (values_K[1:] + values_K[:-1]) / 2)
    numbers_W: Tensor = (values_K[codes_NB] * scales_N1).flatten()[: flat_W.numel()]
    return numbers_W.view_as(weight_OI).to(weight_OI.dtype)


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
