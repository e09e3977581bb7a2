"""On a CUDA device: common calls for several members compute what single ones do, and masks are stateless."""

import pytest
import torch
from torch import nn

from harness.nn.dropout import Drawn, RowMasks, can_draw_rows, mix_seed
from harness.nn.low_rank import Alone, Blocks, Grouped, Products, Term, add_low_rank
from harness.nn.member_row import Kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none"),
]
LENGTHS = (37, 200, 1, 511)
SCALES = (0.25, 0.25, 2.0, 0.5)


def compute(kind: type[Alone] | type[Grouped] | type[Blocks]) -> list[torch.Tensor]:
    """-> output and gradients of a layer of LLaMA-7B's widths, in bfloat16."""
    torch.manual_seed(0)
    device, rank, inputs, outputs = torch.device("cuda"), 16, 4096, 11008
    x, y = (torch.randn(sum(LENGTHS), n, device=device).bfloat16().requires_grad_() for n in (inputs, outputs))
    factors = [
        nn.Parameter(torch.randn(shape, device=device) * 0.02)
        for _ in LENGTHS
        for shape in ((rank, inputs), (outputs, rank))
    ]
    runs: list[tuple[list[int], Products]]
    if kind is Alone:
        runs = [([k], Alone(SCALES[k])) for k in range(len(LENGTHS))]
    else:
        runs = [(list(range(len(LENGTHS))), kind.of(LENGTHS, SCALES, device))]  # type: ignore[union-attr]
    terms = [
        Term(
            start=sum(LENGTHS[: members[0]]),
            end=sum(LENGTHS[: members[-1] + 1]),
            products=products,
            a_KRI=torch.stack([factors[2 * k].detach() for k in members]).bfloat16(),
            b_KOR=torch.stack([factors[2 * k + 1].detach() for k in members]).bfloat16(),
        )
        for members, products in runs
    ]
    out = add_low_rank(y, x, terms, factors)
    out.backward(torch.randn_like(out))
    return [out.detach(), *(tensor.grad for tensor in (x, *factors) if tensor.grad is not None)]


@pytest.mark.parametrize("kind", [Blocks, Grouped])
def test_common_calls_compute_what_single_ones_do(kind: type[Blocks] | type[Grouped]) -> None:
    if kind is Grouped and not Kernels.of(torch.device("cuda")).grouped:
        pytest.skip("torch's grouped_mm has no kernel for this device")
    ours, theirs = compute(kind), compute(Alone)
    assert len(ours) == len(theirs) == 2 + 2 * len(LENGTHS)
    for mine, reference in zip(ours, theirs, strict=True):
        difference = (mine.float() - reference.float()).norm() / reference.float().norm()
        assert difference < 0.01  # bfloat16 rounds to 0.004


def test_masks_of_a_row_depend_on_their_example_alone() -> None:
    device = torch.device("cuda")
    if not can_draw_rows(device):
        pytest.skip("this torch has no stateless generator")
    examples = [Drawn(num_tokens=n, probability=0.1, seed=mix_seed(3, n, 0)) for n in (300, 41, 77)]
    row = RowMasks(examples, device).draw(5, 11008)
    alone = RowMasks(examples[1:2], device).draw(5, 11008)
    assert torch.equal(row[300:341], alone)
    assert (~row).double().mean().item() == pytest.approx(0.1, rel=0.01)
    layers = [RowMasks(examples[1:2], device).draw(layer, 11008).double().flatten() for layer in (5, 6)]
    assert abs(torch.corrcoef(torch.stack(layers))[0, 1].item()) < 0.01
