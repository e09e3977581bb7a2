"""LQ-LoRA: a weight is taken apart into a quantized matrix, which is frozen, and a low-rank one, which learns.

    min |W - (Q + s B A)|, by turns:    Q <- quantized(W - s B A),    s B A <- the best of rank r for W - Q

It ends after so many rounds, or with the round before the error grows. The first round is LoftQ's (T = 1), so the start
is at least as near to W. With a weighting by data (`harness.variants.lq_fisher`) the best of rank r is the one by rows
and columns, and the error that of all numbers, each by the root of its Fisher information.

Source: LQ-LoRA (arXiv 2311.12023) section 3, algorithm 1. The authors begin with the low-rank matrix (Q = 0) and end
with the quantized one; here it is the other way round, so that what learns makes up for the last quantization.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harness.variants.lq_fisher import Weighting
from harness.variants.lq_spectrum import leading


class Factors(NamedTuple):
    """A low-rank matrix, s B A."""

    a_RI: Tensor
    b_OR: Tensor


class Parts(NamedTuple):
    """What a weight is taken apart into."""

    taken: Factors  # what the weight is less of where it is quantized
    learned: Factors  # what is added to the quantized matrix, and learns
    error: float  # |W - (Q + s B A)|, Frobenius, weighted


def take_apart(
    weight_OI: Tensor,
    rank: int,
    scale: float,
    quantized: Callable[[Factors], Tensor],
    num_rounds: int,
    weighting: Weighting | None = None,
) -> Parts:
    """Takes a weight apart.

    Args:
        weight_OI: float32.
        rank: of the low-rank matrix.
        scale: s, of the adapter.
        quantized: -> what quantization makes of the weight less s B A, in float32 [O, I].
        num_rounds: at most.
        weighting: what each number counts, on the weight's device; None: all alike.
    """
    num_out, num_in = weight_OI.shape
    taken = Factors(weight_OI.new_zeros(rank, num_in), weight_OI.new_zeros(num_out, rank))
    best: Parts | None = None
    for _ in range(num_rounds):
        rest_OI = weight_OI - quantized(taken)
        learned = best_factors(rest_OI, rank, scale, weighting)
        left_OI = rest_OI - scale * (learned.b_OR @ learned.a_RI)
        error = float((left_OI if weighting is None else weighting.root_OI * left_OI).norm())
        if best is not None and error >= best.error:
            break
        best = Parts(taken, learned, error)
        taken = learned
    assert best is not None
    return best


def best_factors(matrix_OI: Tensor, rank: int, scale: float, weighting: Weighting | None = None) -> Factors:
    """-> the factors whose product times the scale is nearest to the matrix, by rows and columns where they count

    By the eigenvectors of the matrix times itself, in float64: no less exact than its decomposition in float32.
    """
    if weighting is not None:
        matrix_OI = weighting.row_O[:, None] * matrix_OI * weighting.column_I
    is_wide = matrix_OI.shape[0] <= matrix_OI.shape[1]
    short_SL = (matrix_OI if is_wide else matrix_OI.T).double()
    vectors_SR = leading(short_SL @ short_SL.T, rank).flip(1)  # the largest first, as of a decomposition
    seen_RL = vectors_SR.T @ short_SL
    sizes_R = seen_RL.norm(dim=1)
    root_R = (sizes_R / scale).sqrt()
    short_factor_SR = vectors_SR * root_R
    long_factor_RL = seen_RL * (root_R / torch.where(sizes_R > 0, sizes_R, 1.0))[:, None]
    a_RI, b_OR = (long_factor_RL, short_factor_SR) if is_wide else (short_factor_SR.T, long_factor_RL.T)
    a_RI, b_OR = a_RI.to(matrix_OI.dtype), b_OR.to(matrix_OI.dtype)
    if weighting is not None:
        a_RI, b_OR = a_RI / weighting.column_I, b_OR / weighting.row_O[:, None]
    return Factors(a_RI.contiguous(), b_OR.contiguous())
