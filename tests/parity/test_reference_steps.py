"""Steps of a group of unlike members against a plain loop: PEFT's model, injected dropout masks, torch's SGD.

Plain SGD shows every factor that Adam would hide: the gradients' norm limit, the mean of the loss, the schedule,
the scale of the low-rank term. Memory is filled with NaN before it is used.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, AdapterMethod, LossMean, Schedule, TrainConfig
from harness.nn.attention import PACKED
from harness.nn.dropout import draw_mask, mix_seed, rounded_probability
from harness.nn.quant import linear_layers
from harness.training import starting
from harness.training.group import Member
from harness.training.loop import train_group
from harness.training.schedule import batch_indices
from tests.builders import make_member, weights
from tests.tiny import make_checkpoint

MEMBERS: dict[str, dict[str, Any]] = {
    "plain": {"adapter": {"lora_dropout": 0.0}, "max_grad_norm": 0.3},
    "some": {
        "seed": 1,
        "adapter": {"lora_r": 3, "lora_dropout": 0.5, "targets": ["q_proj", "down_proj"]},
        "schedule": Schedule.cosine,
        "warmup_steps": 2,
        "max_grad_norm": 1e9,
    },
    "rslora": {
        "seed": 2,
        "adapter": {"method": AdapterMethod.rslora, "lora_r": 9, "lora_dropout": 0.1, "targets": ["v_proj", "up_proj"]},
        "schedule": Schedule.linear,
        "loss_mean": LossMean.example,
        "batch_size": 3,
        "max_grad_norm": 0.3,
    },
}
STEPS = 4
RATE = 0.5  # of plain SGD


class Masked(nn.Module):
    """Stands for PEFT's dropout: the mask that (seed, step and example, layer) draws."""

    def __init__(self, layer: int, adapter: AdapterConfig, seed: int) -> None:
        super().__init__()
        self.layer, self.seed, self.key = layer, seed, 0
        self.probability = rounded_probability(adapter.lora_dropout or 0.0, torch.device("cpu"))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.empty(x.shape, dtype=torch.bool)
        draw_mask(mask[0], self.probability, mix_seed(self.seed, self.key, self.layer))
        return x * mask / (1 - self.probability)


@pytest.fixture(autouse=True)
def uninitialized_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def reference(folder: Path, member: Member, initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """The member's weights after its steps, by PEFT and torch alone, an example at a time."""
    adapter, train = member.adapter, member.train
    base = AutoModelForCausalLM.from_pretrained(folder)
    places = {name: number for number, (name, _) in enumerate(linear_layers(base))}
    config = LoraConfig(
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        target_modules="all-linear" if adapter.targets == ["all-linear"] else adapter.targets,
        use_rslora=adapter.method is AdapterMethod.rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    assert not set_peft_model_state_dict(model, initial).unexpected_keys
    masks = []
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_dropout"):
            masks.append(Masked(places[name], adapter, train.seed))
            module.lora_dropout["default"] = masks[-1]
    trained = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.0)
    for step in range(STEPS):
        accumulate(model, member, step, masks)
        nn.utils.clip_grad_norm_(list(trained.values()), train.max_grad_norm)
        optimizer.param_groups[0]["lr"] = RATE * factor(train, step)
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in trained.items()}


def accumulate(model: nn.Module, member: Member, step: int, masks: Iterable[Masked]) -> None:
    """Adds the gradients of a step's mean loss."""
    train = member.train
    assert train.batch_size is not None
    chosen = [member.examples[index] for index in batch_indices(train, member.num_characters, step)]
    counts = [len(example.input_ids) - example.num_source for example in chosen]
    for place, (example, count) in enumerate(zip(chosen, counts, strict=True)):
        for mask in masks:
            mask.key = step * train.batch_size + place
        ids = torch.from_numpy(example.input_ids.astype("int64"))[None]
        labels = ids.clone()
        labels[:, : example.num_source] = -100
        loss = model(input_ids=ids, labels=labels).loss  # the mean over the example's targets
        share = 1 / len(chosen) if train.loss_mean is LossMean.example else count / sum(counts)
        (loss * share).backward()


def factor(train: TrainConfig, step: int) -> float:
    """The schedule, written out."""
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / (STEPS - train.warmup_steps)
    return {
        Schedule.constant: 1.0,
        Schedule.linear: 1 - progress,
        Schedule.cosine: (1 + math.cos(math.pi * progress)) / 2,
    }[train.schedule]


def test_weights_of_a_group_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = tmp_path_factory.mktemp("steps")
    folder = make_checkpoint(tmp_path / "model")

    def plain_sgd(parameters: Iterable[Tensor], *_: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.0)

    monkeypatch.setattr(starting, "make_optimizer", plain_sgd)
    bank = AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED))
    initial: dict[str, dict[str, Tensor]] = {}
    members: list[Member] = []
    for name, changes in MEMBERS.items():
        given = {"max_steps": STEPS, "learning_rate": RATE, "checkpoint_steps": 100, "max_microbatch_tokens": 64}
        member, _ = make_member(name, tmp_path, **(given | changes))
        bank.add_member(name, member.adapter, seed=member.train.seed)
        initial[name] = weights(bank, name)
        bank.remove_member(name)
        members.append(member)
    train_group(bank, members)
    for member in members:
        assert member.error is None
        wanted = reference(folder, member, initial[member.run_id])
        ours = weights(bank, member.run_id)
        assert ours.keys() == wanted.keys()
        for key, value in wanted.items():
            moved = (value - initial[member.run_id][key]).norm()
            assert moved > 1e-4, key
            assert (ours[key] - value).norm() < 1e-3 * moved + 1e-6, (member.run_id, key)
