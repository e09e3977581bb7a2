"""A pass at LLaMA-7B's widths starts no more kernels than its budget: on a fast GPU the host would bind."""

from contextlib import nullcontext

import pytest
import torch

from benchmarks import launches
from benchmarks.launches import KERNELS, NUM_LAYERS, LaunchCounter, count_pass, extrapolate
from harness.nn.member_row import Kernels

ADAPTED_LAYERS = 7 * NUM_LAYERS
NEWEST, OTHERS = KERNELS.values()
BEFORE = {1: 10_285, 8: 46_750}  # counted in the same way before members shared their calls


@pytest.mark.parametrize(
    ("num_members", "kernels", "budget"),
    [
        (1, NEWEST, 40 * ADAPTED_LAYERS),  # 0.87 of what it was
        (8, NEWEST, 50 * ADAPTED_LAYERS),  # less than a quarter
        (8, OTHERS, 60 * ADAPTED_LAYERS),  # the members in two parts, as 4,096 x 512 products are too many at once
    ],
)
def test_a_pass_keeps_to_its_budget(num_members: int, kernels: Kernels, budget: int) -> None:
    first = extrapolate(num_members, kernels)
    assert first <= budget
    assert first < (0.9 if num_members == 1 else 0.3) * BEFORE[num_members]
    assert extrapolate(num_members, kernels, num_rows=2) <= 1.1 * budget  # gradients add up with few calls too


def test_members_cost_few_launches_more() -> None:
    one, eight = (count_pass(2, num_members, NEWEST) for num_members in (1, 8))
    two_layers = 2 * 7
    assert eight.total - one.total <= 14 * two_layers  # two a member are its attention's
    for counter in (one, eight):
        assert sum(n for name, n in counter.by_name.items() if "philox" in name) <= 9 * two_layers // 7
        assert not any("bernoulli" in name or "_local_scalar_dense" in name for name in counter.by_name)


def test_being_ready_to_stop_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_hooks = count_pass(2, 2, NEWEST)
    monkeypatch.setattr(launches, "stops_at_layers", lambda *_: nullcontext())
    assert count_pass(2, 2, NEWEST).by_name == with_hooks.by_name


def test_factors_are_cast_once_a_pass_even_with_checkpointing() -> None:
    for checkpointing in (False, True):
        counter = count_pass(2, 2, NEWEST, checkpointing=checkpointing)
        # 2 members x 14 layers x A and B, of 4 to 11 chunks each, by calls of at most 320 chunks
        assert 1 <= counter.by_name["aten._foreach_copy_.default"] <= 2


def test_the_counter_sees_launches_and_no_views() -> None:
    with LaunchCounter() as counter:
        x = torch.empty(4, 6, device="meta")
        y = x.T[:2].reshape(-1)[None]
        assert counter.total == 1  # the copy that reshape makes
        torch._foreach_add_([torch.empty(10, device="meta")] * 65, 1.0)
        assert counter.total == 3
        (y * 2)[:0].mul_(3)
        assert counter.total == 4
    with pytest.raises(RuntimeError):
        y.sum().item()
