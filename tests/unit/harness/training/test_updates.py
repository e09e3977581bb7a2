"""What reaches the weights: gradients of one pass only, finite ones only, by plain SGD, which hides no factor."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.banks.shared import AdapterBank
from harness.nn.attention import PACKED
from harness.nn.batch import Item
from harness.training import starting
from harness.training.group import Member
from harness.training.loop import train_group
from tests.builders import make_member, weights
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def plain_sgd(parameters: Iterable[Tensor], *_: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def trained(
    folder: Path, tmp: Path, losses: Callable[[int, Tensor], Tensor] = lambda _, losses: losses, steps: int = 3
) -> tuple[Member, dict[str, Tensor]]:
    """A run without clipping, and its weights. `losses` changes what the model says in its pass of a number."""
    original, num_passes = AdapterBank.item_losses, 0

    def changed(self: AdapterBank, items: Sequence[Item]) -> Tensor:
        nonlocal num_passes
        num_passes += 1
        return losses(num_passes, original(self, items))

    bank = AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED)).eval()
    given = {"max_steps": steps, "learning_rate": 0.1, "max_grad_norm": 1e9, "max_microbatch_tokens": 10_000}
    member, _ = make_member("a", tmp, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "make_optimizer", plain_sgd)
        patch.setattr(AdapterBank, "item_losses", changed)
        train_group(bank, [member])
    return member, weights(bank, "a")


@pytest.mark.parametrize("number", [1, 2])
def test_gradients_of_a_pass_that_ran_out_of_memory_do_not_count(folder: Path, tmp_path: Path, number: int) -> None:
    def cramped(num_passes: int, losses: Tensor) -> Tensor:
        if num_passes == number:
            losses.sum().backward()  # as a failure in the middle of a step leaves them behind
            raise torch.OutOfMemoryError("no room")
        return losses

    squeezed, ours = trained(folder, tmp_path / "tight", cramped)
    _, wanted = trained(folder, tmp_path / "roomy")
    assert any("out of memory" in note for note in squeezed.notes)
    for key, value in wanted.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-7)


def infinite_loss(losses: Tensor) -> Tensor:
    return losses + math.inf


def nan_gradients(losses: Tensor) -> Tensor:
    losses.register_hook(lambda grad: grad * math.nan)
    return losses


@pytest.mark.parametrize("broken", [infinite_loss, nan_gradients])
def test_what_is_not_finite_reaches_no_weight(folder: Path, tmp_path: Path, broken: Callable[[Tensor], Tensor]) -> None:
    member, ours = trained(
        folder, tmp_path / "broken", lambda number, losses: broken(losses) if number == 2 else losses
    )
    _, wanted = trained(folder, tmp_path / "short", steps=1)
    assert member.error is not None
    assert "at step 2: not finite" in member.error
    assert member.step == 1
    for key, value in wanted.items():
        assert torch.equal(ours[key], value), key
