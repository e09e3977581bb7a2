"""A stop is obeyed at the next layer, forward or backward, and leaves the numbers alone where nobody asks for one."""

import pytest
import torch
from torch import nn

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
