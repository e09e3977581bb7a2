"""Training by the lean decoder computes the losses of the model's own code to the bit, and its gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.banks.shared import AdapterBank
from harness.models import lean_training
from harness.nn.batch import Item
from tests.unit.harness.models.test_lean import LEAN, bank_of, own_bank


def items() -> list[Item]:
    """Examples of both members, of several lengths."""
    rng = np.random.default_rng(0)
    sizes = [("a", 5), ("a", 3), ("b", 6)]
    return [
        Item(
            member=member,
            tokens=rng.integers(3, 97, size=size).astype(np.int32),
            num_source=1,
            dropout_key=place,
            weight=1.0,
        )
        for place, (member, size) in enumerate(sizes)
    ]


def losses_and_gradients(bank: AdapterBank) -> tuple[Tensor, dict[str, Tensor]]:
    """Of both members' examples, with dropout."""
    bank.train()
    losses = bank.item_losses(items())
    losses.mean().backward()
    return losses.detach(), {
        f"{member} {key}": parameter.grad
        for member in ("a", "b")
        for key, parameter in bank.member_parameters(member).items()
        if parameter.grad is not None
    }


@pytest.fixture(params=list(LEAN))
def bank(request: pytest.FixtureRequest) -> AdapterBank:
    return bank_of(LEAN[request.param])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the lean decoder normalized."""
    seen: list[int] = []
    normed = lean_training._normed
    monkeypatch.setattr(lean_training, "_normed", lambda *args: (seen.append(1), normed(*args))[1])
    return seen


def test_losses_are_the_same_to_the_bit_and_gradients_but_for_rounding(bank: AdapterBank, calls: list[int]) -> None:
    assert bank.layout.is_lean
    own = own_bank(bank)
    losses, gradients = losses_and_gradients(bank)
    assert calls
    calls.clear()
    own_losses, own_gradients = losses_and_gradients(own)
    assert not calls
    assert torch.equal(losses, own_losses)
    assert len(gradients) == len(own_gradients) == 2 * 2 * len(bank.layers)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, own_gradients[key], rtol=2e-5, atol=1e-7, msg=key)


def test_a_step_that_recomputes_layers_runs_the_models_own_code(bank: AdapterBank, calls: list[int]) -> None:
    losses, gradients = losses_and_gradients(own_bank(bank))
    bank.set_checkpointing(True)
    again, recomputed = losses_and_gradients(bank)
    assert not calls
    assert torch.equal(losses, again)
    assert all(torch.equal(recomputed[key], gradient) for key, gradient in gradients.items())
    bank.set_checkpointing(False)
    losses_and_gradients(bank)
    assert calls


def test_gradients_of_a_norm_and_a_rotation_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gain = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 6), (6,)))
    assert torch.autograd.gradcheck(lambda x: lean_training._Normed.apply(x, gain, 0.1), x.requires_grad_())
    states = torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    cos, sin = (torch.randn(1, 1, 3, 2, generator=generator, dtype=torch.float64).repeat(1, 1, 1, 2) for _ in range(2))
    assert torch.autograd.gradcheck(lambda states: lean_training._Rotated.apply(states, cos, sin), states)
