"""Our training loop against what people trust: transformers' Trainer with PEFT, the same batches and settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, TrainConfig
from harness.nn.attention import PACKED
from harness.training.group import Member, StepMetrics
from harness.training.loop import train_group
from harness.training.schedule import batch_indices
from tests.tiny import VOCAB_SIZE, make_checkpoint

STEPS = 20
TRAIN = TrainConfig(max_steps=STEPS, batch_size=4, learning_rate=2e-3, max_epochs=100.0, max_microbatch_tokens=50)
LORA = AdapterConfig(name="lora", lora_r=8, lora_alpha=16, lora_dropout=0.0)


@dataclass
class Example:
    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int


class InOurOrder(Dataset[dict[str, Any]]):
    """The examples in the order in which our loop takes them, padded on the right."""

    def __init__(self, examples: list[Example]) -> None:
        lengths = np.zeros(len(examples), dtype=np.int64)
        self.rows = [examples[i] for step in range(STEPS) for i in batch_indices(TRAIN, lengths, step)]
        self.longest = max(len(e.input_ids) for e in examples)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.rows[index]
        ids = torch.zeros(self.longest, dtype=torch.long)
        length = len(example.input_ids)
        ids[:length] = torch.from_numpy(example.input_ids.astype(np.int64))
        labels = torch.full_like(ids, -100)
        labels[example.num_source : length] = ids[example.num_source : length]
        return {"input_ids": ids, "labels": labels, "attention_mask": (torch.arange(self.longest) < length).long()}


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.values.append(logs["loss"])


class SequentialTrainer(Trainer):
    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def train_with_trainer(
    folder: Path, out: Path, examples: list[Example], initial: dict[str, torch.Tensor]
) -> list[float]:
    base = AutoModelForCausalLM.from_pretrained(folder)
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    result = set_peft_model_state_dict(model, initial)
    assert not result.unexpected_keys
    losses = Losses()
    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.0,
        adam_beta2=0.999,
        max_grad_norm=0.3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    SequentialTrainer(model=model, args=arguments, train_dataset=InOurOrder(examples), callbacks=[losses]).train()
    return losses.values


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_of_20_steps_equal_the_trainers(tmp_path: Path, seed: int) -> None:
    folder = make_checkpoint(tmp_path / "model", seed)
    rng = np.random.default_rng(seed)
    examples = [
        Example(rng.integers(3, VOCAB_SIZE, size=n).astype(np.int32), int(n) // 3) for n in rng.integers(6, 30, size=12)
    ]
    bank = AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED))
    bank.add_member("a", LORA, seed=TRAIN.seed)
    initial = {name: p.detach().clone() for name, p in bank.member_parameters("a").items()}
    bank.remove_member("a")
    log: list[StepMetrics] = []
    member = Member(
        run_id="a",
        adapter=LORA,
        train=TRAIN,
        examples=examples,
        checkpoint_folder=tmp_path / "checkpoint",
        on_step=log.append,
    )
    train_group(bank, [member])
    theirs = train_with_trainer(folder, tmp_path / "trainer", examples, initial)
    assert len(theirs) == STEPS
    assert theirs[-1] < theirs[0] - 0.05  # it learns, so equal losses say something
    np.testing.assert_allclose([m.loss for m in log], theirs, rtol=1e-4)
