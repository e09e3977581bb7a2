"""Measures how far equal computations drift apart by rounding: a run alone, in a group of four, and by PEFT and torch.

    python -m benchmarks.rounding [--steps 20] [--quant fp32]

SmolLM2 in float32, rank 16 on every linear layer, no dropout, a gradient norm of 0.3 and batches of four rows of the
embedded `concise` set. Prints the largest relative difference of the losses, and how far the adapter's weights are
apart after the last step, as a share of the way that they went. Adam divides by the gradient's size, so the last bits
of near-zero gradients are amplified: the weights differ more than the losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from harness.banks.load import LoadedBase, load_base
from harness.config.choices import load_choice, model_choice, quant_choice
from harness.config.schema import AdapterConfig, DatasetConfig, DType, PathsConfig, TrainConfig, typed
from harness.data.source import DataSource, locate_dataset
from harness.data.tokens import TokenizedDataset, tokenize_dataset
from harness.devices.torch_device import quiet_libraries
from harness.models.locate import ModelSource, locate_model
from harness.training.group import Member, StepMetrics
from harness.training.loop import train_group
from harness.training.schedule import batch_indices

RANK, BATCH, RATE = 16, 4, 2e-4
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Trained:
    """The losses and the adapter of a run."""

    losses: list[float]
    weights: Weights


def main(
    steps: int = 20,
    quant: Annotated[str, typer.Option(help="A choice of conf/quant that PEFT's plain model has too: fp32.")] = "fp32",
    cache: Path = Path(".cache"),
) -> None:
    """Prints the two comparisons."""
    quiet_libraries()
    source = locate_model(model_choice("smollm2"), PathsConfig(cache=str(cache)))
    assert isinstance(source, ModelSource)
    stored = quant_choice(quant)
    stored.compute_dtype = DType.float32
    base = load_base(source, stored, torch.device("cpu"), cache)
    rows = _rows(base, cache)
    initial = _initial(base)
    alone, grouped = _ours(base, rows, steps, 1), _ours(base, rows, steps, 4)
    _show("alone against in a group of 4", alone, grouped, initial)
    _show("alone against PEFT", alone, _peft(cache, source, rows, steps, initial), initial)


def _rows(base: LoadedBase, cache: Path) -> TokenizedDataset:
    dataset = typed(DatasetConfig, load_choice("dataset", "concise"))
    source = locate_dataset(dataset, PathsConfig(cache=str(cache)))
    assert isinstance(source, DataSource)
    return tokenize_dataset(dataset, source, base.tokenizer, cache / "tokenized")


def _train(steps: int, seed: int = 0) -> TrainConfig:
    return TrainConfig(max_steps=steps, batch_size=BATCH, learning_rate=RATE, data_seed=42 + seed)


def _adapter() -> AdapterConfig:
    return AdapterConfig(name="lora", lora_r=RANK, lora_dropout=0.0)


def _initial(base: LoadedBase) -> Weights:
    base.bank.add_member("0", _adapter(), seed=0)
    found = _copied(base)
    base.bank.remove_member("0")
    return found


def _copied(base: LoadedBase) -> Weights:
    parameters: Any = base.bank
    return {name: value.detach().clone() for name, value in parameters.member_parameters("0").items()}


def _ours(base: LoadedBase, rows: TokenizedDataset, steps: int, num_members: int) -> Trained:
    losses: list[float] = []

    def on_step(metrics: StepMetrics) -> None:
        losses.append(metrics.loss)

    with TemporaryDirectory() as folder:
        members = [
            Member(
                run_id=str(number),
                adapter=_adapter(),
                train=_train(steps, number),
                examples=rows,
                num_characters=rows.num_characters.astype("int64"),
                checkpoint_folder=Path(folder) / str(number),
                on_step=(lambda _: None) if number else on_step,
            )
            for number in range(num_members)
        ]
        train_group(base.bank, members)
    trained = Trained(losses, _copied(base))
    for member in members:
        base.bank.remove_member(member.run_id)
    return trained


def _peft(cache: Path, source: ModelSource, rows: TokenizedDataset, steps: int, initial: Weights) -> Trained:
    """The same steps by PEFT's model and torch alone, an example at a time."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from harness.models.convert import checkpoint_folder

    train = _train(steps)
    plain = AutoModelForCausalLM.from_pretrained(checkpoint_folder(source, cache), dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=_adapter().lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(plain, config)
    assert not set_peft_model_state_dict(model, initial).unexpected_keys
    trained = {name.replace(".default", ""): value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=RATE, betas=(train.adam_beta1, train.adam_beta2), eps=train.adam_epsilon, weight_decay=0.0
    )
    losses = []
    for step in range(steps):
        losses.append(_step(model, rows, batch_indices(train, rows.num_characters.astype("int64"), step)))
        nn.utils.clip_grad_norm_(list(trained.values()), train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return Trained(losses, {name: value.detach() for name, value in trained.items()})


def _step(model: nn.Module, rows: TokenizedDataset, chosen: Sequence[int]) -> float:
    """Adds the gradients of the mean over the batch's target tokens. -> that mean"""
    examples = [rows[index] for index in chosen]
    counts = [len(example.input_ids) - example.num_source for example in examples]
    total = 0.0
    for example, count in zip(examples, counts, strict=True):
        ids = torch.from_numpy(example.input_ids.astype("int64"))[None]
        labels = ids.clone()
        labels[:, : example.num_source] = -100
        loss = model(input_ids=ids, labels=labels).loss * (count / sum(counts))
        loss.backward()
        total += loss.item()
    return total


def _show(title: str, one: Trained, other: Trained, initial: Weights) -> None:
    losses = max(abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True))
    apart = sum(float((one.weights[name] - other.weights[name]).square().sum()) for name in one.weights) ** 0.5
    way = sum(float((one.weights[name] - initial[name]).square().sum()) for name in one.weights) ** 0.5
    print(f"{title}, {len(one.losses)} steps: losses differ by {losses:.1e}, weights by {apart / way:.1e} of their way")


if __name__ == "__main__":
    typer.run(main)
