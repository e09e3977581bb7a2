"""Adds the members' low-rank terms to a frozen layer's output, forward and backward.

    y[tokens of k] += s_k * dropout_k(x) A_k^T B_k^T

One autograd function for all members of a layer: nothing is cut, padded or put together again, the layer's
input is kept once (not once per adapter), and of a dropped-out input only its mask, a byte an element. Source: LoRA
(arXiv 2106.09685) section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One member's tokens in the row, and how its term enters; its A and B are passed beside."""

    start: int
    end: int
    scale: float  # alpha / r, and 1 / (1 - p) with dropout
    mask_TI: Tensor | None = None  # bool, False where the input is dropped; None: nothing is

    @property
    def rows(self) -> slice:
        return slice(self.start, self.end)


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_NO: Tensor, x_NI: Tensor, terms: Sequence[Term], *factors: Tensor) -> Tensor:
        out_NO = torch.empty_like(y_NO)
        at, kept = 0, []
        for term, a_RI, b_OR in zip(terms, factors[::2], factors[1::2], strict=True):
            out_NO[at : term.start] = y_NO[at : term.start]
            h_TR = (_masked(x_NI[term.rows], term.mask_TI) @ a_RI.to(x_NI.dtype).T).mul_(term.scale)
            torch.addmm(y_NO[term.rows], h_TR, b_OR.to(x_NI.dtype).T, out=out_NO[term.rows])
            kept += [h_TR, term.mask_TI]
            at = term.end
        out_NO[at:] = y_NO[at:]
        ctx.spans = [(term.rows, term.scale) for term in terms]
        ctx.save_for_backward(x_NI, *factors, *kept)  # masks too: a checkpoint drops what is saved here, and only that
        return out_NO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NO,) = grads
        x_NI, *rest = ctx.saved_tensors
        factors, kept = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        grad_x_NI = torch.empty_like(x_NI) if ctx.needs_input_grad[1] else None
        of_factors: list[Tensor | None] = []
        at = 0
        for place, (rows, scale) in enumerate(ctx.spans):
            (a_RI, b_OR), (h_TR, mask_TI) = factors[2 * place : 2 * place + 2], kept[2 * place : 2 * place + 2]
            grad_TO = grad_NO[rows]
            grad_h_TR = (grad_TO @ b_OR.to(grad_TO.dtype)).mul_(scale)
            if grad_x_NI is not None:
                grad_x_NI[at : rows.start] = 0
                torch.mm(grad_h_TR, a_RI.to(grad_TO.dtype), out=grad_x_NI[rows])
                if mask_TI is not None:
                    grad_x_NI[rows].mul_(mask_TI.to(grad_x_NI.dtype))
            of_factors.append((grad_h_TR.T @ _masked(x_NI[rows], mask_TI)).to(a_RI.dtype))
            of_factors.append((grad_TO.T @ h_TR).to(b_OR.dtype))
            at = rows.stop
        if grad_x_NI is not None:
            grad_x_NI[at:] = 0
        return grad_NO, grad_x_NI, None, *of_factors


def _masked(x_TI: Tensor, mask_TI: Tensor | None) -> Tensor:
    return x_TI if mask_TI is None else mask_TI.to(x_TI.dtype).mul_(x_TI)


def add_low_rank(y_NO: Tensor, x_NI: Tensor, terms: Sequence[Term], factors: Sequence[Tensor]) -> Tensor:
    """-> y with every term added, [N, O], in the dtype of x and y.

    Args:
        y_NO: the frozen layer's output; where no gradient is recorded, the terms are added in its place.
        x_NI: its input.
        terms: the members' spans, ascending and apart; tokens of no span stay as they are.
        factors: A [r, I] and B [O, r] of each term in turn, in any float dtype; gradients come back in it.
    """
    if not torch.is_grad_enabled():
        for term, a_RI, b_OR in zip(terms, factors[::2], factors[1::2], strict=True):
            h_TR = _masked(x_NI[term.rows], term.mask_TI) @ a_RI.to(x_NI.dtype).T
            y_NO[term.rows].addmm_(h_TR, b_OR.to(x_NI.dtype).T, alpha=term.scale)
        return y_NO
    out: Tensor = _AddLowRank.apply(y_NO, x_NI, terms, *factors)  # type: ignore[no-untyped-call]
    return out
