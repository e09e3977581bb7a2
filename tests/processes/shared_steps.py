"""What the ranks of tests/unit/harness/devices/test_ranks.py and test_shards.py do: importable, so that a
process can be told of it.
"""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.banks.load import make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DType,
    LossMean,
    ModelKind,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.devices.ranks import Ranks
from harness.nn.batch import Item
from harness.nn.shards import ShardedLayers
from harness.training.group import Member, StepMetrics
from harness.training.held_out import HeldOut
from harness.training.loop import TrainingInterrupted, train_group
from tests.tiny import VOCAB_SIZE

CPU = torch.device("cpu")
TRAIN = TrainConfig(
    max_steps=6, batch_size=4, learning_rate=5e-3, max_epochs=100.0, checkpoint_steps=2, max_microbatch_tokens=64
)
LORA = AdapterConfig(name="lora", lora_r=4, lora_alpha=8, lora_dropout=0.0)
QUANTS = {
    method: QuantConfig(name=method, method=QuantMethod(method), compute_dtype=DType.float32)
    for method in ("none", "nf4", "int8")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One group's training on some ranks."""

    model: Path
    folder: Path  # of the members' checkpoints
    quant: str = "none"
    sharded: bool = False
    gradient_checkpointing: bool = False
    dropout: float = 0.0
    stop_after: int | None = None  # steps, after which the last rank is asked to stop
    kill_after: int | None = None  # steps, after which the last rank is killed
    cramped: int | None = None  # tokens of a row from which on the last rank is out of memory, in its second layer
    apart: bool = False  # the last rank looks for checkpoints elsewhere
    measured: bool = False  # on held-out rows after every third step, and after the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of it on one rank."""

    losses: dict[str, list[float]]
    weights: dict[str, dict[str, torch.Tensor]]
    notes: dict[str, list[str]]
    interrupted: bool
    layer_bytes: list[int] = field(default_factory=list)  # of the sharded layers on this rank, whenever one is entered
    bytes_between: int = 0  # after training
    eval_losses: dict[str, dict[int, float]] = field(default_factory=dict)  # by step; rank 0 has them


@dataclass
class Example:
    input_ids: "np.ndarray[tuple[int], np.dtype[np.int32]]"
    num_source: int


def make_examples(seed: int, count: int = 10) -> list[Example]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 30, size=count)
    return [Example(rng.integers(3, VOCAB_SIZE, size=n).astype(np.int32), int(n) // 3) for n in lengths]


def train(ranks: Ranks, case: Case) -> Trained:
    """Two members, the second with fewer steps, examples of its own in batches of one, and other targets."""
    last = ranks.rank == ranks.size - 1
    shards = ShardedLayers(ranks) if case.sharded else None
    bank = make_bank(case.model, ModelKind.causal, AdapterMethod.lora, QUANTS[case.quant], CPU, shards)
    layer_bytes: list[int] = []
    if shards is not None:
        for layer in bank.base.get_decoder().layers:  # type: ignore[operator]
            layer.register_forward_pre_hook(lambda *_: layer_bytes.append(shards.num_bytes))
    if case.cramped is not None and last:
        _make_cramped(bank, case.cramped)
    losses: dict[str, list[float]] = {"a": [], "b": []}
    folder = case.folder / "elsewhere" if case.apart and last else case.folder
    members = [
        _member("a", case, folder, losses, LORA),
        _member("b", case, folder, losses, replace(LORA, targets=["up_proj"]), batch_size=1, max_steps=4),
    ]
    members[1].train.loss_mean = LossMean.example
    eval_losses: dict[str, dict[int, float]] = {member.run_id: {} for member in members}
    for member in members if case.measured else ():
        _measure(member, eval_losses[member.run_id])

    def should_stop() -> bool:
        if last and case.kill_after is not None and members[0].step >= case.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return last and case.stop_after is not None and members[0].step >= case.stop_after

    interrupted = False
    try:
        train_group(bank, members, should_stop, ranks=ranks)
    except TrainingInterrupted:
        interrupted = True
    assert not [m.error for m in members if m.error]
    weights = {m.run_id: {k: p.detach() for k, p in bank.member_parameters(m.run_id).items()} for m in members}
    return Trained(
        losses=losses,
        weights=weights,
        notes={m.run_id: m.notes for m in members},
        interrupted=interrupted,
        layer_bytes=layer_bytes,
        bytes_between=0 if shards is None else shards.num_bytes,
        eval_losses=eval_losses,
    )


def _member(
    name: str, case: Case, folder: Path, losses: dict[str, list[float]], adapter: AdapterConfig, **changes: Any
) -> Member:
    def on_step(metrics: StepMetrics) -> None:
        losses[name].append(metrics.loss)

    return Member(
        run_id=name,
        adapter=replace(adapter, lora_dropout=case.dropout),
        train=replace(TRAIN, gradient_checkpointing=case.gradient_checkpointing, **changes),
        examples=make_examples(ord(name)),
        checkpoint_folder=folder / name / "checkpoint",
        on_step=on_step,
    )


def _measure(member: Member, losses: dict[int, float]) -> None:
    member.train.eval_rows, member.train.eval_every_steps = 7, 3
    member.held_out = HeldOut(make_examples(99, 7), None)
    member.on_eval = lambda point: losses.update({point.step: point.eval_loss})


def _make_cramped(bank: AdapterBank, num_tokens: int) -> None:
    """No room in the second layer for rows from this size on."""

    def refuse(_: torch.nn.Module, args: Sequence[Any]) -> None:
        if args[0].shape[1] >= num_tokens:
            raise torch.OutOfMemoryError("no room")

    bank.base.get_decoder().layers[1].mlp.register_forward_pre_hook(refuse)  # type: ignore[operator]


def assert_same_training(ours: Trained, theirs: Trained) -> None:
    """Up to the order of summation."""
    for name, losses in theirs.losses.items():
        np.testing.assert_allclose(ours.losses[name], losses, rtol=1e-5)
        for key, value in theirs.weights[name].items():
            torch.testing.assert_close(ours.weights[name][key], value, rtol=1e-4, atol=1e-5)
        assert ours.eval_losses[name].keys() == theirs.eval_losses[name].keys()
        for step, loss in theirs.eval_losses[name].items():
            np.testing.assert_allclose(ours.eval_losses[name][step], loss, rtol=1e-5)


def make_items(lengths: Sequence[int]) -> list[Item]:
    """Items that are as long as that, and nothing else."""
    return [
        Item(member="a", tokens=np.zeros(n, dtype=np.int32), num_source=1, dropout_key=i, weight=1.0)
        for i, n in enumerate(lengths)
    ]
