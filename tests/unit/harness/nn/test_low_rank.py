"""Common calls for several members compute what each member's own calls do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.nn.low_rank import (
    Alone,
    Batch,
    Blocks,
    Grouped,
    Neighbours,
    Products,
    Stacked,
    Term,
    add_low_rank,
    cast_together,
)

LENGTHS, RANK, INPUTS, OUTPUTS = (5, 11, 3), 8, 16, 24
GAP = 4  # tokens of the untouched base before, between the runs and behind
TOKENS = [Neighbours(GAP + sum(LENGTHS[:member]), GAP + sum(LENGTHS[: member + 1])) for member in range(len(LENGTHS))]


@dataclass
class Computed:
    y: Tensor
    x_grad: Tensor
    factor_grads: list[Tensor]


def compute(
    terms: list[tuple[Neighbours | Batch, list[int], Products, Tensor | None]], factors: list[nn.Parameter], rows: int
) -> Computed:
    """Two rows' forward and backward passes, so that gradients add up. A term: its tokens, its members."""
    generator = torch.Generator().manual_seed(1)
    num_tokens = sum(LENGTHS) + 2 * GAP
    x, y = (torch.randn(num_tokens, width, generator=generator).requires_grad_() for width in (INPUTS, OUTPUTS))
    made = [
        Term(
            rows=tokens,
            products=products,
            a_KRI=torch.stack([factors[2 * member].detach() for member in members]),
            b_KOR=torch.stack([factors[2 * member + 1].detach() for member in members]),
            factors=[factor for member in members for factor in factors[2 * member : 2 * member + 2]],
            mask_TI=mask,
        )
        for tokens, members, products, mask in terms
    ]
    for _ in range(rows):
        out = add_low_rank(y.clone(), x, made)
        (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(add_low_rank(y.detach().clone(), x.detach(), made), out, equal_nan=True)
    return Computed(out.detach(), x.grad, [f.grad for f in factors if f.grad is not None])


def make_factors() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(RANK, INPUTS), (OUTPUTS, RANK)] * len(LENGTHS)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.5, 2.0, -1.0)])
@pytest.mark.parametrize("kind", ["grouped", "blocks", "stacked"])
def test_members_together_equal_members_alone(kind: str, scales: tuple[float, ...], has_mask: bool, rows: int) -> None:
    mask = torch.rand(sum(LENGTHS), INPUTS, generator=torch.Generator().manual_seed(2)) > 0.4
    masks = mask.split(LENGTHS) if has_mask else [None] * 3
    alone = compute([(TOKENS[k], [k], Alone(scales[k]), masks[k]) for k in range(3)], make_factors(), rows)
    tokens, products = together(kind, scales)
    if has_mask and isinstance(tokens, Batch):
        mask = torch.cat([functional.pad(own, (0, 0, 0, tokens.longest - len(own)), value=True) for own in masks])
    assert_equal(compute([(tokens, [0, 1, 2], products, mask if has_mask else None)], make_factors(), rows), alone)


def together(kind: str, scales: Sequence[float]) -> tuple[Neighbours | Batch, Products]:
    """All members' tokens and their common products."""
    if kind == "stacked":
        spans = tuple((tokens.start, tokens.end) for tokens in TOKENS)
        return Batch(spans, max(LENGTHS)), Stacked.of(scales, torch.empty(0))
    products = (Grouped if kind == "grouped" else Blocks).of(LENGTHS, scales, torch.device("cpu"))
    return Neighbours(GAP, GAP + sum(LENGTHS)), products


def assert_equal(ours: Computed, theirs: Computed) -> None:
    torch.testing.assert_close(ours.y, theirs.y)
    torch.testing.assert_close(ours.x_grad, theirs.x_grad)
    assert len(ours.factor_grads) == len(theirs.factor_grads)
    for mine, other in zip(ours.factor_grads, theirs.factor_grads, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("has_mask", [False, True])
def test_members_of_equal_length_are_stacked_where_they_lie(has_mask: bool) -> None:
    mask = torch.rand(10, INPUTS, generator=torch.Generator().manual_seed(2)) > 0.4 if has_mask else None
    masks = [None, None] if mask is None else list(mask.split(5))
    spans = [Neighbours(2, 7), Neighbours(7, 12)]
    alone = compute([(spans[k], [k], Alone(0.5), masks[k]) for k in range(2)], make_factors()[:4], rows=2)
    stacked = Stacked.of([0.5, 0.5], torch.empty(0))
    assert_equal(compute([(Neighbours(2, 12), [0, 1], stacked, mask)], make_factors()[:4], rows=2), alone)


def test_members_apart_are_stacked_around_the_others() -> None:
    """The first and the last member share products, what lies between them is a member's of its own."""
    own = [(TOKENS[k], [k], Alone(0.5), None) for k in range(3)]
    batch = Batch(((TOKENS[0].start, TOKENS[0].end), (TOKENS[2].start, TOKENS[2].end)), LENGTHS[0])
    stacked = Stacked.of([0.5, 0.5], torch.empty(0))
    factors = make_factors()
    ours = compute([(batch, [0, 2], stacked, None), own[1]], factors, rows=1)
    theirs = compute(own, make_factors(), rows=1)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["grouped", "stacked"])
def test_what_is_not_finite_stays_with_its_member(kind: str) -> None:
    tokens, products = together(kind, (0.5, 0.5, 0.5))
    for poisoned in range(3):
        results = []
        for value in (0.0, torch.nan):
            factors = make_factors()
            factors[2 * poisoned].data[0] += value
            results.append(compute([(tokens, [0, 1, 2], products, None)], factors, rows=1))
        for k, own in enumerate(TOKENS):
            assert torch.equal(results[0].y[own.start : own.end], results[1].y[own.start : own.end]) == (k != poisoned)
            same = [torch.equal(a, b) for a, b in zip(*(r.factor_grads[2 * k :][:2] for r in results), strict=True)]
            assert all(same) == (k != poisoned)


def test_a_view_that_the_base_computed_stays_what_it_is() -> None:
    generator = torch.Generator().manual_seed(1)
    base, x = (torch.randn(GAP, width, generator=generator).requires_grad_() for width in (OUTPUTS, INPUTS))
    factors = make_factors()[:2]
    a_KRI, b_KOR = (factor.detach()[None] for factor in factors)
    term = Term(rows=Neighbours(0, GAP), products=Alone(1.0), a_KRI=a_KRI, b_KOR=b_KOR, factors=factors)
    product = base * 1
    out = add_low_rank(product.view(1, GAP, OUTPUTS), x[None], [term])
    assert torch.equal(product, base)
    torch.testing.assert_close(out, (base + x @ factors[0].T @ factors[1].T)[None])


def test_members_alone_equal_autograd() -> None:
    factors = make_factors()
    ours = compute([(TOKENS[0], [0], Alone(0.5), None)], factors[:2], rows=1)
    a, b = (nn.Parameter(factor.detach().clone()) for factor in factors[:2])
    generator = torch.Generator().manual_seed(1)
    num_tokens = sum(LENGTHS) + 2 * GAP
    x, y = (torch.randn(num_tokens, width, generator=generator).requires_grad_() for width in (INPUTS, OUTPUTS))
    own = (torch.arange(num_tokens) >= GAP) & (torch.arange(num_tokens) < GAP + LENGTHS[0])
    out = y + 0.5 * (x * own[:, None]) @ a.T @ b.T
    (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
    torch.testing.assert_close(ours.y, out.detach())
    for mine, theirs in zip([ours.x_grad, *ours.factor_grads], [x.grad, a.grad, b.grad], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_cast_is_a_copy_only_where_it_has_to_be() -> None:
    a, b, c = torch.randn(3, 5), torch.randn(3, 5), torch.randn(7, 2)
    stacked, single = cast_together([[a, b], [c]], torch.bfloat16)
    assert torch.equal(stacked, torch.stack([a, b]).bfloat16())
    assert torch.equal(single, c[None].bfloat16())
    assert stacked.data_ptr() % 16 == single.data_ptr() % 16 == 0  # `Grouped` needs it
    stacked, single = cast_together([[a, b], [c]], torch.float32)
    assert torch.equal(stacked, torch.stack([a, b]))
    assert single.data_ptr() == c.data_ptr()


@pytest.mark.parametrize("kind", [Grouped, Blocks])
def test_scales_are_of_32_bits(kind: Any) -> None:
    products = kind.of([2, 1], [0.5, 0.25], torch.device("cpu"))
    scale = products.scale if kind is Grouped else products.scale_TK1
    assert scale.dtype is torch.float32
    assert scale.flatten().tolist() == ([0.5, 0.5, 0.25] if kind is Grouped else [0.5, 0.0, 0.5, 0.0, 0.0, 0.25])
