"""LQ-LoRA's budget: in which format each layer is stored, so that all together take so many bits a weight.

    min sum of errors[layer, format]   with   sum of bits[layer, format] <= budget, one format a layer

The authors' errors are those of up to 100 rounds in each of 432 formats. Here a layer's candidates are the formats on
the lower hull of (bits, error of quantization alone), that error from a sample of a large matrix; the errors that are
held against each other are those of one round: quantized, then the best of rank r added.

Source: LQ-LoRA (arXiv 2311.12023) section 3.2, and the authors' code (github.com/HanGuo97/lq-lora, `lq_utils.py` of
its models).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from harness.methods.formats import FORMATS, Format, stored_bits
from harness.variants.lq_fisher import Weighting
from harness.variants.lq_rounding import rounded, rounding_errors
from harness.variants.lq_spectrum import leading

_CHUNK, _NUM_CHUNKS = 64 * 256, 4  # a whole group of the largest blocks; of a large matrix so many are a sample
_EXACT_UP_TO = 1024  # rows or columns; larger matrices' vectors are found by subspace iteration
_MORE_VECTORS, _NUM_PASSES = 10, 4  # the authors' oversampling, and twice their passes
_MAX_NODES = 10_000  # of the search; a limit by time would make the choice depend on the machine
_INFEASIBLE = 2  # scipy.optimize.milp's status


class Candidates(NamedTuple):
    """The formats that a layer may get, from the smallest to the largest."""

    formats: tuple[Format, ...]
    errors_C: NDArray[np.float64]  # squared, of the weight taken apart in one round
    bits_C: NDArray[np.float64]  # that the layer takes


def candidates(weight_OI: Tensor, rank: int, weighting: Weighting | None = None) -> Candidates:
    """The formats that are worth their bits for one layer.

    Args:
        weight_OI: any dtype.
        rank: of what is added to it.
        weighting: what each number counts, on the weight's device; None: all alike.
    """
    counts_W = None if weighting is None else _sampled(weighting.root_OI)
    plain_F = rounding_errors(_sampled(weight_OI.float()), FORMATS, counts_W)
    bits_F = np.array([stored_bits(kind, weight_OI.numel()) for kind in FORMATS], dtype=np.float64)
    places = hull(plain_F, bits_F)
    formats = tuple(FORMATS[place] for place in places)
    errors_C = [error_left(weight_OI.float() - rounded(weight_OI, kind).float(), rank, weighting) for kind in formats]
    return Candidates(formats, np.array(errors_C), bits_F[places])


def share_out(layers: Sequence[Candidates], budget: float) -> list[Format]:
    """-> the format of each layer, of the least total error

    Args:
        layers: what each may get.
        budget: of all together, in bits.

    Raises:
        ValueError: the smallest formats don't fit into the budget.
    """
    width = max(len(layer.formats) for layer in layers)

    def filled(values_C: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.pad(values_C, (0, width - len(values_C)), mode="edge")  # the last one again: no other choice

    errors_LF = np.stack([filled(layer.errors_C) for layer in layers])
    chosen_L = choose_formats(errors_LF, np.stack([filled(layer.bits_C) for layer in layers]), budget)
    return [
        layer.formats[min(int(place), len(layer.formats) - 1)] for layer, place in zip(layers, chosen_L, strict=True)
    ]


def choose_formats(errors_LF: NDArray[np.float64], bits_LF: NDArray[np.float64], budget: float) -> NDArray[np.int64]:
    """-> the format of each layer, [L], of the least total error

    Args:
        errors_LF: squared errors of each layer in each format.
        bits_LF: what each layer takes in each format, its quantization constants included.
        budget: of all layers together, in bits.

    Raises:
        ValueError: the smallest formats don't fit into the budget, or the solver gave up.
    """
    num_layers, num_formats = errors_LF.shape
    if (least := float(bits_LF.min(1).sum())) > budget:
        raise ValueError(
            f"adapter.bits: it gives these layers {budget:,.0f} bits, and the smallest formats take {least:,.0f}, "
            f"{least / budget:.3f} times as many: raise it"
        )
    one_each = LinearConstraint(np.kron(np.eye(num_layers), np.ones((1, num_formats))), 1, 1)
    scale, limit = max(float(errors_LF.max()), np.finfo(np.float64).tiny), 1.0
    while True:
        found = milp(
            errors_LF.reshape(-1) / scale,
            constraints=[one_each, LinearConstraint(bits_LF.reshape(1, -1) / budget, -np.inf, limit)],
            integrality=np.ones(errors_LF.size, dtype=np.int64),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0, "node_limit": _MAX_NODES},
        )
        if found.x is None and found.status != _INFEASIBLE:
            raise ValueError(
                f"adapter.bits: no choice of formats was found ({found.message}): give it some more bits, or fewer "
                "layers by adapter.targets"
            )
        solved_LF = -bits_LF if found.x is None else found.x.reshape(errors_LF.shape)  # none: only the smallest fit
        chosen_L = solved_LF.argmax(1)
        taken = float(np.take_along_axis(bits_LF, chosen_L[:, None], 1).sum())
        if taken <= budget:
            return np.asarray(chosen_L, dtype=np.int64)
        limit -= 2 * (taken / budget - 1)  # the solver keeps to its limit up to 1e-6 only


def hull(errors_F: NDArray[np.float64], bits_F: NDArray[np.float64]) -> list[int]:
    """-> places of the points on the lower hull of errors over bits, from the fewest bits to the least error"""
    kept: list[int] = []
    for place in np.lexsort((errors_F, bits_F)).tolist():
        if kept and errors_F[place] >= errors_F[kept[-1]]:
            continue
        while len(kept) > 1 and _is_above(kept[-2], kept[-1], place, errors_F, bits_F):
            kept.pop()
        kept.append(place)
    return kept


def error_left(rest_OI: Tensor, rank: int, weighting: Weighting | None = None) -> float:
    """-> what is left of a matrix, squared and weighted, less the best of rank r for it"""
    scaled_OI = rest_OI if weighting is None else weighting.row_O[:, None] * rest_OI * weighting.column_I
    is_wide = scaled_OI.shape[0] <= scaled_OI.shape[1]
    short_SL = scaled_OI if is_wide else scaled_OI.T
    vectors_SR = _leading(short_SL @ short_SL.T, rank)
    low_SL = vectors_SR @ (vectors_SR.T @ short_SL)
    low_OI = low_SL if is_wide else low_SL.T
    if weighting is None:
        return float((rest_OI - low_OI).norm()) ** 2
    return float((weighting.root_OI * (rest_OI - low_OI / weighting.row_O[:, None] / weighting.column_I)).norm()) ** 2


def _leading(gram_SS: Tensor, rank: int) -> Tensor:
    """-> the eigenvectors of the largest eigenvalues, [S, R]; of a large matrix by a few passes from a drawn start"""
    if len(gram_SS) <= _EXACT_UP_TO:
        return leading(gram_SS, rank)
    generator = torch.Generator().manual_seed(0)  # the same wherever it is computed
    basis_SK = torch.randn(len(gram_SS), min(len(gram_SS), rank + _MORE_VECTORS), generator=generator).to(gram_SS)
    for _ in range(_NUM_PASSES):
        basis_SK = torch.linalg.qr(gram_SS @ basis_SK).Q
    found_KK: Tensor = torch.linalg.eigh(basis_SK.T @ gram_SS @ basis_SK).eigenvectors
    return basis_SK @ found_KK[:, -rank:]


def _sampled(matrix_OI: Tensor) -> Tensor:
    """Evenly spread parts of a large matrix, flat; a small one whole."""
    flat_W = matrix_OI.flatten()
    if len(flat_W) <= _CHUNK * _NUM_CHUNKS:
        return flat_W
    chunks_NC = flat_W[: len(flat_W) // _CHUNK * _CHUNK].view(-1, _CHUNK)
    places = torch.linspace(0, len(chunks_NC) - 1, _NUM_CHUNKS).long()
    return chunks_NC[places.to(flat_W.device)].flatten()


def _is_above(first: int, middle: int, last: int, errors_F: NDArray[np.float64], bits_F: NDArray[np.float64]) -> bool:
    """Whether the middle point is on the line from the first to the last, or above it."""
    along = (errors_F[middle] - errors_F[first]) * (bits_F[last] - bits_F[first])
    return bool(along >= (errors_F[last] - errors_F[first]) * (bits_F[middle] - bits_F[first]))
