"""Common calls for several members compute what each member's own calls do."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.nn.low_rank import Alone, Blocks, Grouped, Products, Stacked, Term, add_low_rank, cast_together

LENGTHS, RANK, INPUTS, OUTPUTS = (5, 11, 3), 8, 16, 24
GAP = 4  # tokens of the untouched base before, between the runs and behind


@dataclass
class Computed:
    y: Tensor
    x_grad: Tensor
    factor_grads: list[Tensor]


def compute(
    terms: list[tuple[int, list[int], Products, Tensor | None]], factors: list[nn.Parameter], rows: int
) -> Computed:
    """Two rows' forward and backward passes, so that gradients add up. A term: its first token, its members."""
    generator = torch.Generator().manual_seed(1)
    num_tokens = sum(LENGTHS) + 2 * GAP
    x, y = (torch.randn(num_tokens, width, generator=generator).requires_grad_() for width in (INPUTS, OUTPUTS))
    made = [
        Term(
            start=start,
            end=start + sum(LENGTHS[member] for member in members),
            products=products,
            a_KRI=torch.stack([factors[2 * member].detach() for member in members]),
            b_KOR=torch.stack([factors[2 * member + 1].detach() for member in members]),
            mask_TI=mask,
        )
        for start, members, products, mask in terms
    ]
    for _ in range(rows):
        out = add_low_rank(y.clone(), x, made, factors)
        (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(add_low_rank(y.detach().clone(), x.detach(), made, factors), out, equal_nan=True)
    return Computed(out.detach(), x.grad, [f.grad for f in factors if f.grad is not None])


def make_factors() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(RANK, INPUTS), (OUTPUTS, RANK)] * len(LENGTHS)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.5, 2.0, -1.0)])
@pytest.mark.parametrize("kind", ["grouped", "blocks"])
def test_members_together_equal_members_alone(kind: str, scales: tuple[float, ...], has_mask: bool, rows: int) -> None:
    starts = [GAP, GAP + LENGTHS[0], GAP + sum(LENGTHS[:2])]
    mask = torch.rand(sum(LENGTHS), INPUTS, generator=torch.Generator().manual_seed(2)) > 0.4
    masks = mask.split(LENGTHS) if has_mask else [None] * 3
    alone = compute([(starts[k], [k], Alone(scales[k]), masks[k]) for k in range(3)], make_factors(), rows)
    products = (Grouped if kind == "grouped" else Blocks).of(LENGTHS, scales, torch.device("cpu"))
    assert len(alone.factor_grads) == 6
    assert_equal(compute([(GAP, [0, 1, 2], products, mask if has_mask else None)], make_factors(), rows), alone)


def assert_equal(ours: Computed, theirs: Computed) -> None:
    torch.testing.assert_close(ours.y, theirs.y)
    torch.testing.assert_close(ours.x_grad, theirs.x_grad)
    for mine, other in zip(ours.factor_grads, theirs.factor_grads, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.5, 2.0, -1.0)])
def test_members_of_one_length_are_stacked(
    monkeypatch: pytest.MonkeyPatch, scales: tuple[float, ...], has_mask: bool, rows: int
) -> None:
    monkeypatch.setattr(f"{__name__}.LENGTHS", (6, 6, 6))
    mask = torch.rand(18, INPUTS, generator=torch.Generator().manual_seed(2)) > 0.4
    masks = mask.split(6) if has_mask else [None] * 3
    alone = compute([(GAP + 6 * k, [k], Alone(scales[k]), masks[k]) for k in range(3)], make_factors(), rows)
    stacked = Stacked.of(scales, torch.empty(0))
    assert_equal(compute([(GAP, [0, 1, 2], stacked, mask if has_mask else None)], make_factors(), rows), alone)


@pytest.mark.parametrize("poisoned", [0, 1, 2])
@pytest.mark.parametrize("kind", ["grouped", "stacked"])
def test_what_is_not_finite_stays_with_its_member(monkeypatch: pytest.MonkeyPatch, kind: str, poisoned: int) -> None:
    monkeypatch.setattr(f"{__name__}.LENGTHS", (6, 6, 6))
    scales = (0.5, 0.5, 0.5)
    grouped, stacked = Grouped.of(LENGTHS, scales, torch.device("cpu")), Stacked.of(scales, torch.empty(0))
    results = []
    for value in (0.0, torch.nan):
        factors = make_factors()
        factors[2 * poisoned].data[0] += value
        results.append(compute([(GAP, [0, 1, 2], grouped if kind == "grouped" else stacked, None)], factors, rows=1))
    for k in range(3):
        own = slice(GAP + 6 * k, GAP + 6 * k + 6)
        of_member = [(r.y[own], r.x_grad[own], *r.factor_grads[2 * k : 2 * k + 2]) for r in results]
        assert all(torch.equal(one, other) for one, other in zip(*of_member, strict=True)) == (k != poisoned)


def test_a_view_that_the_base_computed_stays_what_it_is() -> None:
    generator = torch.Generator().manual_seed(1)
    base, x = (torch.randn(GAP, width, generator=generator).requires_grad_() for width in (OUTPUTS, INPUTS))
    factors = make_factors()[:2]
    a_KRI, b_KOR = (factor.detach()[None] for factor in factors)
    product = base * 1
    term = Term(start=0, end=GAP, products=Alone(1.0), a_KRI=a_KRI, b_KOR=b_KOR)
    out = add_low_rank(product.view(1, GAP, OUTPUTS), x[None], [term], factors)
    assert torch.equal(product, base)
    torch.testing.assert_close(out, (base + x @ factors[0].T @ factors[1].T)[None])
    out.sum().backward()
    assert base.grad is not None
    assert torch.equal(base.grad, torch.ones_like(base))


def test_members_alone_equal_autograd() -> None:
    factors = make_factors()
    terms: list[tuple[int, list[int], Products, Tensor | None]] = [(GAP, [0], Alone(0.5), None)]
    ours = compute(terms, factors[:2], rows=1)
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
