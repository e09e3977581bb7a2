"""Adds the members' low-rank terms to a frozen layer's output, forward and backward.

    y[tokens of k] += s_k * dropout_k(x) A_k^T B_k^T

One autograd function for all members of a layer: nothing is cut, padded or put together again, the layer's
input is kept once (not once per adapter), and of a dropped-out input only its mask, a byte an element. Source: LoRA
(arXiv 2106.09685) section 4.1.

A term serves one member or several neighbours of one rank. On a GPU the host needs longer to start a small product
than the device needs to compute it, so there neighbours are computed by common calls, in one of two ways:

- `Grouped`: torch's `grouped_mm`, as mixture-of-experts layers use it. Nothing is computed in vain. Its kernel exists
  for bfloat16 on compute capability 9.0 and 10.x; elsewhere it loops over the members and, each time, waits for the
  device to tell it their lengths.
- `Blocks`: plain products with the matrices of all members, of whose results each token keeps its own member's.
  K members cost K times the arithmetic, so only few tokens are put together.

`Alone`, one member at a time, is what both are held against (tests/unit/harness/nn/test_low_rank.py), and all that a
CPU uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.nn.batch import send

GROUP_ALIGNMENT = 8  # of a matrix's sides in `Grouped`: its rows have to begin at 16 bytes
BLOCK_ELEMENTS = 2**19  # tokens times columns of all members that `Blocks` may compute in one product
_ALIGNMENT = 128  # elements at which a cast matrix begins


class Products(Protocol):
    """A term's products. T tokens of K members of rank R; C is R, or K R where a token has all members' columns."""

    def down(self, x_TI: Tensor, a_KRI: Tensor) -> Tensor:
        """-> s x A^T, [T, C]."""
        ...

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor, out_TO: Tensor) -> None:
        """Writes y + h B^T to `out`."""
        ...

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        """Adds the whole term to y in place, where no gradient is recorded."""
        ...

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        """-> the gradient with respect to x A^T, [T, C]."""
        ...

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, mask_TI: Tensor | None, out_TI: Tensor) -> None:
        """Writes the gradient with respect to x to `out`."""
        ...

    def grad_a(self, grad_h_TC: Tensor, x_TI: Tensor) -> Tensor:
        """-> [K, R, I]."""
        ...

    def grad_b(self, grad_TO: Tensor, h_TC: Tensor) -> Tensor:
        """-> [K, O, R]."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """One member's products."""

    scale: float

    def down(self, x_TI: Tensor, a_KRI: Tensor) -> Tensor:
        return (x_TI @ a_KRI[0].T).mul_(self.scale)

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor, out_TO: Tensor) -> None:
        torch.addmm(y_TO, h_TC, b_KOR[0].T, out=out_TO)

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        y_TO.addmm_(x_TI @ a_KRI[0].T, b_KOR[0].T, alpha=self.scale)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return (grad_TO @ b_KOR[0]).mul_(self.scale)

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, mask_TI: Tensor | None, out_TI: Tensor) -> None:
        torch.mm(grad_h_TC, a_KRI[0], out=out_TI)
        if mask_TI is not None:
            out_TI.mul_(_factor(mask_TI, out_TI))

    def grad_a(self, grad_h_TC: Tensor, x_TI: Tensor) -> Tensor:
        return (grad_h_TC.T @ x_TI)[None]

    def grad_b(self, grad_TO: Tensor, h_TC: Tensor) -> Tensor:
        return (grad_TO.T @ h_TC)[None]


@dataclass(frozen=True, slots=True)
class Grouped:
    """Several members' products, by one call of `grouped_mm` for each kind of product."""

    scale: float | Tensor  # of all members, or [T, 1] float32
    ends: Tensor  # [K] int32, on the device: where each member's tokens end within the term

    @classmethod
    def of(cls, lengths: Sequence[int], scales: Sequence[float], device: torch.device) -> "Grouped":
        """Makes the products of members with these numbers of tokens and these scales."""
        ends = send(np.cumsum(lengths, dtype=np.int32), device)
        if len(set(scales)) == 1:
            return cls(scales[0], ends)
        return cls(send(np.repeat(np.array(scales, dtype=np.float32), lengths)[:, None], device), ends)

    def down(self, x_TI: Tensor, a_KRI: Tensor) -> Tensor:
        return functional.grouped_mm(x_TI, a_KRI.mT, offs=self.ends).mul_(self.scale)

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor, out_TO: Tensor) -> None:
        torch.add(y_TO, functional.grouped_mm(h_TC, b_KOR.mT, offs=self.ends), out=out_TO)

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        self.up(y_TO, self.down(x_TI, a_KRI), b_KOR, y_TO)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return functional.grouped_mm(grad_TO, b_KOR, offs=self.ends).mul_(self.scale)

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, mask_TI: Tensor | None, out_TI: Tensor) -> None:
        grad_TI = functional.grouped_mm(grad_h_TC, a_KRI, offs=self.ends)
        if mask_TI is None:
            out_TI.copy_(grad_TI)
        else:
            torch.mul(grad_TI, _factor(mask_TI, grad_TI), out=out_TI)

    def grad_a(self, grad_h_TC: Tensor, x_TI: Tensor) -> Tensor:
        return functional.grouped_mm(grad_h_TC.T, x_TI, offs=self.ends)

    def grad_b(self, grad_TO: Tensor, h_TC: Tensor) -> Tensor:
        return functional.grouped_mm(grad_TO.T, h_TC, offs=self.ends)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Several members' products, computed with the matrices of all members; each token keeps its own member's."""

    scale_TK1: Tensor  # float32: the member's at its own tokens, 0 at the others'

    @classmethod
    def of(cls, lengths: Sequence[int], scales: Sequence[float], device: torch.device) -> "Blocks":
        """Makes the products of members with these numbers of tokens and these scales."""
        own_KK = np.diag(np.array(scales, dtype=np.float32))
        return cls(send(np.repeat(own_KK, lengths, axis=0)[..., None], device))

    def down(self, x_TI: Tensor, a_KRI: Tensor) -> Tensor:
        return self._own(x_TI @ a_KRI.flatten(0, 1).T)

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor, out_TO: Tensor) -> None:
        torch.addmm(y_TO, h_TC, _columns(b_KOR).T, out=out_TO)

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        self.up(y_TO, self.down(x_TI, a_KRI), b_KOR, y_TO)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return self._own(grad_TO @ _columns(b_KOR))

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, mask_TI: Tensor | None, out_TI: Tensor) -> None:
        torch.mm(grad_h_TC, a_KRI.flatten(0, 1), out=out_TI)
        if mask_TI is not None:
            out_TI.mul_(_factor(mask_TI, out_TI))

    def grad_a(self, grad_h_TC: Tensor, x_TI: Tensor) -> Tensor:
        grad_KRI: Tensor = (grad_h_TC.T @ x_TI).unflatten(0, (self.scale_TK1.shape[1], -1))
        return grad_KRI

    def grad_b(self, grad_TO: Tensor, h_TC: Tensor) -> Tensor:
        grad_OKR: Tensor = (grad_TO.T @ h_TC).unflatten(1, (self.scale_TK1.shape[1], -1))
        return grad_OKR.transpose(0, 1)

    def _own(self, h_TC: Tensor) -> Tensor:
        """Scales each token's columns of its own member and clears the others'."""
        h_TC.unflatten(1, (self.scale_TK1.shape[1], -1)).mul_(self.scale_TK1)
        return h_TC


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A low-rank term of neighbouring tokens of the row, which belong to one member or several."""

    start: int
    end: int
    products: Products
    a_KRI: Tensor  # of the term's members in their order, in any float dtype
    b_KOR: Tensor
    mask_TI: Tensor | None = None  # bool, False where the input is dropped; None: nothing is

    @property
    def rows(self) -> slice:
        return slice(self.start, self.end)


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_NO: Tensor, x_NI: Tensor, terms: Sequence[Term], *factors: nn.Parameter) -> Tensor:
        out_NO = torch.empty_like(y_NO)
        row, kept = 0, []
        for term in terms:
            if row < term.start:
                out_NO[row : term.start] = y_NO[row : term.start]
            h_TC = term.products.down(_masked(x_NI[term.rows], term.mask_TI), term.a_KRI.to(x_NI.dtype))
            term.products.up(y_NO[term.rows], h_TC, term.b_KOR.to(x_NI.dtype), out_NO[term.rows])
            kept += [term.a_KRI, term.b_KOR, h_TC, term.mask_TI]
            row = term.end
        if row < len(y_NO):
            out_NO[row:] = y_NO[row:]
        ctx.spans = [(term.rows, term.products) for term in terms]
        ctx.factors = factors
        ctx.save_for_backward(x_NI, *kept)  # masks too: a checkpoint drops what is saved here, and only that
        return out_NO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NO,) = grads
        x_NI, *kept = ctx.saved_tensors
        grad_x_NI = torch.empty_like(x_NI) if ctx.needs_input_grad[1] else None
        of_factors: list[Tensor | None] = []
        row = 0
        for place, (rows, products) in enumerate(ctx.spans):
            a_KRI, b_KOR, h_TC, mask_TI = kept[4 * place : 4 * place + 4]
            grad_TO = grad_NO[rows]
            grad_h_TC = products.grad_h(grad_TO, b_KOR.to(grad_TO.dtype))
            if grad_x_NI is not None:
                if row < rows.start:
                    grad_x_NI[row : rows.start] = 0
                products.grad_x(grad_h_TC, a_KRI.to(grad_TO.dtype), mask_TI, grad_x_NI[rows])
            grad_a_KRI = products.grad_a(grad_h_TC, _masked(x_NI[rows], mask_TI))
            grad_b_KOR = products.grad_b(grad_TO, h_TC)
            own = ctx.factors[len(of_factors) : len(of_factors) + 2 * len(a_KRI)]
            of_factors += _interleaved(_reach(grad_a_KRI, own[::2]), _reach(grad_b_KOR, own[1::2]))
            row = rows.stop
        if grad_x_NI is not None and row < len(grad_x_NI):
            grad_x_NI[row:] = 0
        return grad_NO, grad_x_NI, None, *of_factors


def add_low_rank(y_NO: Tensor, x_NI: Tensor, terms: Sequence[Term], factors: Sequence[nn.Parameter]) -> Tensor:
    """-> y with every term added, [N, O], in the dtype of x and y.

    Args:
        y_NO: the frozen layer's output; where no gradient is recorded, the terms are added in its place.
        x_NI: its input.
        terms: ascending and apart; tokens of no term stay as they are.
        factors: what learns: A [r, I] and B [O, r] of each term's members in turn, whose values the terms have too.
            Gradients come back in their dtype.
    """
    if not torch.is_grad_enabled():
        for term in terms:
            x_TI = _masked(x_NI[term.rows], term.mask_TI)
            term.products.add(y_NO[term.rows], x_TI, term.a_KRI.to(x_NI.dtype), term.b_KOR.to(x_NI.dtype))
        return y_NO
    out: Tensor = _AddLowRank.apply(y_NO, x_NI, terms, *factors)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def cast_together(stacks: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    """Copies tensors to another dtype by one multi-tensor call.

    Args:
        stacks: lists of tensors of one shape each, all on one device.
        dtype: of the copies.

    Returns:
        One tensor [K, ...] a list. A list of a single tensor that has the dtype is not copied.
    """
    done = {place: stack[0][None] for place, stack in enumerate(stacks) if len(stack) == 1 and stack[0].dtype == dtype}
    others = [stack for place, stack in enumerate(stacks) if place not in done]
    if others:
        sizes = [len(stack) * stack[0].numel() for stack in others]
        rooms = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        pieces = torch.empty(sum(rooms), dtype=dtype, device=others[0][0].device).split(rooms)
        copies = [
            piece[:size].view(len(stack), *stack[0].shape)
            for piece, size, stack in zip(pieces, sizes, others, strict=True)
        ]
        targets = [target for copy in copies for target in copy.unbind()]
        torch._foreach_copy_(targets, [tensor for stack in others for tensor in stack])
        left = iter(copies)
        return [done[place] if place in done else next(left) for place in range(len(stacks))]
    return list(done.values())


def _masked(x_TI: Tensor, mask_TI: Tensor | None) -> Tensor:
    if mask_TI is None:
        return x_TI
    return mask_TI.to(x_TI.dtype).mul_(x_TI) if x_TI.device.type == "cpu" else x_TI * mask_TI


def _factor(mask_TI: Tensor, like_TI: Tensor) -> Tensor:
    """The mask to multiply by: on a GPU as it is, on a CPU in the dtype of the numbers, which is faster there."""
    return mask_TI.to(like_TI.dtype) if like_TI.device.type == "cpu" else mask_TI


def _columns(b_KOR: Tensor) -> Tensor:
    """-> [O, K R]."""
    return b_KOR.transpose(0, 1).flatten(1)


def _reach(grad_KXX: Tensor, factors: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """-> each factor's gradient in its dtype; None where it was added to the gradient of an earlier row.

    Autograd would cast and add each gradient by a call of its own.
    """
    earlier = [factor.grad for factor in factors if factor.grad is not None]
    has_earlier = len(earlier) == len(factors)
    if has_earlier and len(factors) == 1:
        earlier[0].add_(grad_KXX[0])
        return [None]
    if grad_KXX.dtype != factors[0].dtype or not grad_KXX.is_contiguous():
        grad_KXX = torch.empty(grad_KXX.shape, dtype=factors[0].dtype, device=grad_KXX.device).copy_(grad_KXX)
    grads = grad_KXX.unbind()
    if not has_earlier:
        return list(grads)
    torch._foreach_add_(earlier, grads)
    return [None] * len(factors)


def _interleaved(of_a: Sequence[Tensor | None], of_b: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [grad for pair in zip(of_a, of_b, strict=True) for grad in pair]
