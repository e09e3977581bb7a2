"""LQ-LoRA's two choices by data and memory: how each layer is quantized, and what each of its weights counts.

    min sum of errors[layer, format]   with   sum of bits[layer, format] <= budget, one format a layer
    min |D_row (W - L) D_col|,   D_row, D_col the roots of the row and column means of the diagonal Fisher

Source: LQ-LoRA (arXiv 2311.12023), the integer program and the Fisher-weighted decomposition, both of section 3.
A diagonal weighting has a closed form: scale the matrix, take its SVD, undo the scaling in the factors.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

_SMALLEST = 1e-6  # of a mean's ratio to the largest one: rows that no example reaches still count a little


def choose_formats(errors_LF: NDArray[np.float64], bits_LF: NDArray[np.float64], budget: float) -> NDArray[np.int64]:
    """-> the format of each layer, [L], of the least total error

    Args:
        errors_LF: squared errors of each layer in each format.
        bits_LF: what each layer takes in each format, its quantization constants included.
        budget: of all layers together, in bits.

    Raises:
        ValueError: the smallest formats don't fit into the budget.
    """
    num_layers, num_formats = errors_LF.shape
    if (least := float(bits_LF.min(1).sum())) > budget:
        raise ValueError(f"a budget of {budget:,.0f} bits; the smallest formats take {least:,.0f}: raise adapter.bits")
    one_each = np.kron(np.eye(num_layers), np.ones((1, num_formats)))
    scale = max(float(errors_LF.max()), np.finfo(np.float64).tiny)
    found = milp(
        errors_LF.reshape(-1) / scale,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(bits_LF.reshape(1, -1) / budget, -np.inf, 1),
        ],
        integrality=np.ones(errors_LF.size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise ValueError(f"no choice of formats was found for {num_layers} layers: {found.message}")
    return np.asarray(found.x.reshape(errors_LF.shape).argmax(1), dtype=np.int64)


def fisher_roots(fisher_OI: Tensor) -> tuple[Tensor, Tensor]:
    """-> roots of the row means [O] and of the column means [I] of mean squared gradients"""
    rows_O, columns_I = fisher_OI.mean(1), fisher_OI.mean(0)
    return _roots(rows_O), _roots(columns_I)


def best_weighted(matrix_OI: Tensor, rank: int, roots: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """-> B [O, R] and A [R, I] whose product is nearest to the matrix where rows and columns are weighted"""
    row_O, column_I = roots
    u_OK, s_K, v_KI = torch.linalg.svd(row_O[:, None] * matrix_OI * column_I, full_matrices=False)
    root_R = s_K[:rank].sqrt()
    return u_OK[:, :rank] * root_R / row_O[:, None], root_R[:, None] * v_KI[:rank] / column_I


def _roots(means_X: Tensor) -> Tensor:
    largest = means_X.max()
    if not largest > 0:
        return torch.ones_like(means_X)
    return means_X.clamp(min=float(largest) * _SMALLEST).sqrt()
