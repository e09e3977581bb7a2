"""A stop is obeyed at the next layer, forward or backward, and leaves the numbers alone where nobody asks for one."""

import pytest
import torch
from torch import nn

from harness.banks.shared import BankLinear
from harness.nn.member_row import Kernels, MemberRow
from harness.training.stopping import StopNow, stops_at_layers


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))


def test_numbers_are_the_same() -> None:
    x, plain, watched = torch.ones(2, 4), stack(), stack()
    plain(x).sum().backward()
    with stops_at_layers(watched, lambda: False):
        watched(x).sum().backward()
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("allowed", [0, 3, 6, 8, 11])
def test_a_stop_comes_at_the_next_layer_on_either_way(allowed: int) -> None:
    looks = 0

    def should_stop() -> bool:
        nonlocal looks
        looks += 1
        return looks > allowed

    model = stack()
    with pytest.raises(StopNow), stops_at_layers(model, should_stop):
        model(torch.ones(2, 4)).sum().backward()
    assert looks == allowed + 1
    model(torch.ones(2, 4)).sum().backward()  # afterwards nobody looks
    assert looks == allowed + 1


@pytest.mark.parametrize("kept", [True, False], ids=["kept dequantized", "called as it is"])
def test_a_layer_with_members_looks_once_whether_it_calls_the_layer_that_it_wraps_or_not(kept: bool) -> None:
    layers = [BankLinear(layer, MemberRow(Kernels()), place) for place, layer in enumerate(stack())]
    for layer in layers:
        layer.dequantized_OI = layer.base.weight.detach() if kept else None  # type: ignore[union-attr, operator]
    looks = 0

    def should_stop() -> bool:
        nonlocal looks
        looks += 1
        return False

    with stops_at_layers(nn.Sequential(*layers), should_stop):
        nn.Sequential(*layers)(torch.ones(2, 4, requires_grad=True)).sum().backward()
    assert looks == 12
