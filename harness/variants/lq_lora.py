"""LQ-LoRA: a weight is taken apart into a quantized matrix, which is frozen, and a low-rank one, which learns.

    min |W - (Q + s B A)|, by turns:    Q <- quantized(W - s B A),    s B A <- the best of rank r for W - Q

It ends after so many rounds, or with the round before the error grows. The first round is LoftQ's (T = 1), so the start
is at least as near to W.

Source: LQ-LoRA (arXiv 2311.12023) section 3.1, algorithm 1: without data (no Fisher weights), every matrix quantized
alike (no bit budget).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """A low-rank matrix, s B A."""

    a_RI: Tensor
    b_OR: Tensor


class Parts(NamedTuple):
    """What a weight is taken apart into."""

    taken: Factors  # what the weight is less of where it is quantized
    learned: Factors  # what is added to the quantized matrix, and learns
    error: float  # |W - (Q + s B A)|, Frobenius


def take_apart(
    weight_OI: Tensor, rank: int, scale: float, quantized: Callable[[Factors], Tensor], num_rounds: int
) -> Parts:
    """Takes a weight apart.

    Args:
        weight_OI: float32.
        rank: of the low-rank matrix.
        scale: s, of the adapter.
        quantized: -> what quantization makes of the weight less s B A, in float32 [O, I].
        num_rounds: at most.
    """
    num_out, num_in = weight_OI.shape
    taken = Factors(weight_OI.new_zeros(rank, num_in), weight_OI.new_zeros(num_out, rank))
    best: Parts | None = None
    for _ in range(num_rounds):
        rest_OI = weight_OI - quantized(taken)
        learned = best_factors(rest_OI, rank, scale)
        error = float((rest_OI - scale * (learned.b_OR @ learned.a_RI)).norm())
        if best is not None and error >= best.error:
            break
        best = Parts(taken, learned, error)
        taken = learned
    assert best is not None
    return best


def best_factors(matrix_OI: Tensor, rank: int, scale: float) -> Factors:
    """-> the factors whose product times the scale is nearest to the matrix"""
    u_OK, s_K, v_KI = torch.linalg.svd(matrix_OI, full_matrices=False)
    root_R = (s_K[:rank] / scale).sqrt()
    return Factors((root_R[:, None] * v_KI[:rank]).contiguous(), (u_OK[:, :rank] * root_R).contiguous())
