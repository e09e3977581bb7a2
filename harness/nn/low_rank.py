"""Adds the members' low-rank terms to a frozen layer's output, forward and backward.

    y[tokens of k] += s_k * dropout_k(x) A_k^T B_k^T

One autograd function for all members of a layer, which adds to the frozen layer's output in place: the layer's
input is kept once (not once per adapter), and of a dropped-out input only its mask, a byte an element. Source: LoRA
(arXiv 2106.09685) section 4.1.

A term serves one member or several neighbours of one rank. On a GPU the host needs longer to start a small product
than the device needs to compute it, so there neighbours are computed by common calls, in one of two ways:

- `Grouped`: torch's `grouped_mm`, as mixture-of-experts layers use it. Nothing is computed in vain. Its kernel exists
  for bfloat16 on compute capability 9.0 and 10.x; elsewhere it loops over the members and, each time, waits for the
  device to tell it their lengths.
- `Blocks`: plain products with the matrices of all members, of whose results each token keeps its own member's.
  K members cost K times the arithmetic, so only few tokens are put together.

On a CPU, where neither is faster, it is `Stacked`: batched products (`bmm`) of neighbours that have the same number of
tokens, too. Others are computed alone there: copying them to a padded batch costs more than it saves
(benchmarks/results/group-training-cpu-2026-11-29.md).

`Alone`, one member at a time, is what all are held against (tests/unit/harness/nn/test_low_rank.py).
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

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor) -> None:
        """Adds h B^T to y in place."""
        ...

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        """Adds the whole term to y in place, where no gradient is recorded."""
        ...

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        """-> the gradient with respect to x A^T, [T, C]."""
        ...

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, kept_TI: Tensor | None, out_TI: Tensor) -> None:
        """Writes the gradient with respect to x to `out`; `kept` is the mask to multiply by (`_factor`)."""
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

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor) -> None:
        y_TO.addmm_(h_TC, b_KOR[0].T)

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        y_TO.addmm_(x_TI @ a_KRI[0].T, b_KOR[0].T, alpha=self.scale)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return (grad_TO @ b_KOR[0]).mul_(self.scale)

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, kept_TI: Tensor | None, out_TI: Tensor) -> None:
        torch.mm(grad_h_TC, a_KRI[0], out=out_TI)
        if kept_TI is not None:
            out_TI.mul_(kept_TI)

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

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor) -> None:
        y_TO.add_(functional.grouped_mm(h_TC, b_KOR.mT, offs=self.ends))

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        self.up(y_TO, self.down(x_TI, a_KRI), b_KOR)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return functional.grouped_mm(grad_TO, b_KOR, offs=self.ends).mul_(self.scale)

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, kept_TI: Tensor | None, out_TI: Tensor) -> None:
        grad_TI = functional.grouped_mm(grad_h_TC, a_KRI, offs=self.ends)
        if kept_TI is None:
            out_TI.copy_(grad_TI)
        else:
            torch.mul(grad_TI, kept_TI, out=out_TI)

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

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor) -> None:
        y_TO.addmm_(h_TC, _columns(b_KOR).T)

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        self.up(y_TO, self.down(x_TI, a_KRI), b_KOR)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return self._own(grad_TO @ _columns(b_KOR))

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, kept_TI: Tensor | None, out_TI: Tensor) -> None:
        torch.mm(grad_h_TC, a_KRI.flatten(0, 1), out=out_TI)
        if kept_TI is not None:
            out_TI.mul_(kept_TI)

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


@dataclass(frozen=True, slots=True)
class Stacked:
    """Several members' products, batched: each member has the same number of the term's tokens."""

    num_members: int
    scale: float | Tensor  # of all members, or [K, 1, 1]

    @classmethod
    def of(cls, scales: Sequence[float], like: Tensor) -> "Stacked":
        """Makes the products of members with these scales, for tokens of the dtype and on the device of `like`."""
        if len(set(scales)) == 1:
            return cls(len(scales), scales[0])
        return cls(len(scales), torch.tensor(scales, dtype=like.dtype, device=like.device)[:, None, None])

    def down(self, x_TI: Tensor, a_KRI: Tensor) -> Tensor:
        return torch.bmm(self._apart(x_TI), a_KRI.mT).mul_(self.scale).flatten(0, 1)

    def up(self, y_TO: Tensor, h_TC: Tensor, b_KOR: Tensor) -> None:
        self._apart(y_TO).baddbmm_(self._apart(h_TC), b_KOR.mT)

    def add(self, y_TO: Tensor, x_TI: Tensor, a_KRI: Tensor, b_KOR: Tensor) -> None:
        self.up(y_TO, self.down(x_TI, a_KRI), b_KOR)

    def grad_h(self, grad_TO: Tensor, b_KOR: Tensor) -> Tensor:
        return torch.bmm(self._apart(grad_TO), b_KOR).mul_(self.scale).flatten(0, 1)

    def grad_x(self, grad_h_TC: Tensor, a_KRI: Tensor, kept_TI: Tensor | None, out_TI: Tensor) -> None:
        torch.bmm(self._apart(grad_h_TC), a_KRI, out=self._apart(out_TI))
        if kept_TI is not None:
            out_TI.mul_(kept_TI)

    def grad_a(self, grad_h_TC: Tensor, x_TI: Tensor) -> Tensor:
        return torch.bmm(self._apart(grad_h_TC).mT, self._apart(x_TI))

    def grad_b(self, grad_TO: Tensor, h_TC: Tensor) -> Tensor:
        return torch.bmm(self._apart(grad_TO).mT, self._apart(h_TC))

    def _apart(self, tensor_TX: Tensor) -> Tensor:
        """[T, X] -> [K, T/K, X], a view."""
        return tensor_TX.view(self.num_members, -1, tensor_TX.shape[1])


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
    def forward(ctx: Any, y: Tensor, x: Tensor, terms: Sequence[Term], *factors: nn.Parameter) -> Tensor:
        y_NO, x_NI = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        kept: list[Tensor | None] = []
        for term in terms:
            h_TC = term.products.down(_masked(x_NI[term.rows], term.mask_TI), term.a_KRI.to(x.dtype))
            term.products.up(y_NO[term.rows], h_TC, term.b_KOR.to(x.dtype))
            kept += [term.a_KRI, term.b_KOR, h_TC, term.mask_TI]
        ctx.spans = [(term.rows, term.products) for term in terms]
        ctx.factors = factors
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, *kept)  # masks too: a checkpoint drops what is saved here, and only that
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        grad_NO, x_NI = grads[0].reshape(-1, grads[0].shape[-1]), x.reshape(-1, x.shape[-1])
        grad_x_NI = None
        if ctx.needs_input_grad[1]:
            is_all_written = sum(rows.stop - rows.start for rows, _ in ctx.spans) == len(x_NI)
            grad_x_NI = torch.empty_like(x_NI) if is_all_written else torch.zeros_like(x_NI)
        of_factors: list[Tensor | None] = []
        for place, (rows, products) in enumerate(ctx.spans):
            a_KRI, b_KOR, h_TC, mask_TI = kept[4 * place : 4 * place + 4]
            grad_TO, x_TI = grad_NO[rows], x_NI[rows]
            grad_h_TC = products.grad_h(grad_TO, b_KOR.to(grad_TO.dtype))
            kept_TI = None if mask_TI is None else _factor(mask_TI, x_TI.dtype)
            if grad_x_NI is not None:
                products.grad_x(grad_h_TC, a_KRI.to(grad_TO.dtype), kept_TI, grad_x_NI[rows])
            grad_a_KRI = products.grad_a(grad_h_TC, x_TI if kept_TI is None else _dropped(x_TI, kept_TI))
            grad_b_KOR = products.grad_b(grad_TO, h_TC)
            own = ctx.factors[len(of_factors) : len(of_factors) + 2 * len(a_KRI)]
            of_factors += _interleaved(_reach(grad_a_KRI, own[::2]), _reach(grad_b_KOR, own[1::2]))
        return grads[0], None if grad_x_NI is None else grad_x_NI.view(x.shape), None, *of_factors


def add_low_rank(y: Tensor, x: Tensor, terms: Sequence[Term], factors: Sequence[nn.Parameter]) -> Tensor:
    """Adds every term to y, in place where it is no view of another tensor. -> the sum, [..., O]

    Args:
        y: the frozen layer's output, contiguous, which nothing else uses.
        x: its input, [..., I].
        terms: ascending and apart; tokens of no term stay as they are.
        factors: what learns: A [r, I] and B [O, r] of each term's members in turn, whose values the terms have too.
            Gradients come back in their dtype.
    """
    if not torch.is_grad_enabled():
        y_NO, x_NI = y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        for term in terms:
            x_TI = _masked(x_NI[term.rows], term.mask_TI)
            term.products.add(y_NO[term.rows], x_TI, term.a_KRI.to(x.dtype), term.b_KOR.to(x.dtype))
        return y
    if y._is_view():  # what the base computed may be a view (of a product with bias): autograd wants it for itself
        y = y.clone()
    out: Tensor = _AddLowRank.apply(y, x, terms, *factors)  # type: ignore[no-untyped-call]
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
    return x_TI if mask_TI is None else _dropped(x_TI, _factor(mask_TI, x_TI.dtype))


def _dropped(x_TI: Tensor, kept_TI: Tensor) -> Tensor:
    """The input times a mask, in the place of the mask where that is a copy."""
    return x_TI * kept_TI if kept_TI.dtype is torch.bool else kept_TI.mul_(x_TI)


def _factor(mask_TI: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask to multiply by: on a GPU as it is, on a CPU in the dtype of the numbers, which is faster there.

    Of bytes it is cast eight times as fast as of truth values.
    """
    return mask_TI.view(torch.uint8).to(dtype) if mask_TI.device.type == "cpu" else mask_TI


def _columns(b_KOR: Tensor) -> Tensor:
    """-> [O, K R]."""
    return b_KOR.transpose(0, 1).flatten(1)


def _reach(grad_KXX: Tensor, factors: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """-> each factor's gradient in its dtype; None where it was added to the gradient of an earlier row.

    Autograd would cast and add each gradient by a call of its own. It has to where a factor has a hook, which changes
    the gradient on its way (ALLoRA).
    """
    earlier = [factor.grad for factor in factors if factor.grad is not None and not factor._backward_hooks]
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
