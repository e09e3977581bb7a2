"""Trains a group: several runs' adapters over one frozen base, in the same forward passes.

A single run is a group of one, on the same path. Each member keeps its own data order, dropout stream,
learning rate, clipping, optimizer state and step count; its loss reaches only its own A and B. So the
adapter of a run trained in a group equals the one trained alone (tests/unit/test_train.py).

Source of the recipe: QLoRA section 5 and appendix B; harness/schema.py cites the constants.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from harness.bank import Bank
from harness.checkpoint import load_newest, save_checkpoint
from harness.collate import Item, split_rows
from harness.optim import make_optimizer
from harness.schedule import Lengths, batch_indices, learning_rate, num_steps
from harness.schema import AdapterConfig, LossMean, TrainConfig


class Example(Protocol):
    """A labelled one has `label: float | None` too (`harness.tokens.TokenizedExample`)."""

    @property
    def input_ids(self) -> "np.ndarray[tuple[int], np.dtype[np.int32]]": ...

    @property
    def num_source(self) -> int: ...


class Examples(Protocol):
    """Tokenized data: `harness.tokens.TokenizedDataset`, or a list of `TokenizedExample`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one step of one member measured; a line of metrics.jsonl."""

    step: int  # counted from 1
    loss: float  # nats a target token, or an example's mean first (`train.loss_mean`)
    learning_rate: float
    grad_norm: float  # before clipping
    target_tokens: int
    seconds: float  # of the whole group's step
    num_members: int = 1  # runs that shared the step


@dataclass(slots=True, kw_only=True)
class Member:
    """One run of a group while it trains."""

    run_id: str
    adapter: AdapterConfig
    train: TrainConfig
    examples: Examples
    checkpoint_folder: Path
    on_step: Callable[[StepMetrics], None]
    lost: Callable[[], bool] = lambda: False  # somebody else has the run now: stop, and write nothing
    num_characters: Lengths = field(  # of each example, to group by length
        default_factory=lambda: np.zeros(0, dtype=np.int64)
    )
    notes: list[str] = field(default_factory=list)  # what happened that a reader of the record should know
    error: str | None = None  # why it stopped early
    step: int = 0  # optimizer steps done
    total_steps: int = 0
    optimizer: torch.optim.Optimizer | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or self.step >= self.total_steps


class TrainingInterrupted(Exception):
    """Asked to stop; every member's state is saved."""


class _StopNow(Exception):
    """Asked to stop in the middle of a step, before any weight has changed."""


def train_group(
    bank: Bank,
    members: Sequence[Member],
    should_stop: Callable[[], bool] = lambda: False,
    between_steps: Callable[[Sequence[Member]], None] = lambda members: None,
) -> None:
    """Trains every member to its last step, from its newest checkpoint if it has one.

    Args:
        between_steps: called with the members under way before each step, and with all after the last. It may look
            at weights, score and save; it must leave everything as it was, the bank's training mode included.

    On return the members' adapters are in `bank`. A member whose loss is not finite, whose targets don't
    fit or whose claim was lost gets `error` and drops out; the others go on.

    Raises:
        TrainingInterrupted: `should_stop` said so; checkpoints of all members are written.
    """
    for member in members:
        try:
            _start(bank, member)
        except ValueError as error:
            member.error = str(error)
    bank.set_checkpointing(any(m.train.gradient_checkpointing for m in members))
    rows = _RowBudget(max((m.train.max_microbatch_tokens for m in members), default=0))
    bank.train()
    try:
        while active := [m for m in members if not m.done]:
            between_steps(active)
            try:
                _step_within_memory(bank, active, rows, should_stop)
            except _StopNow:
                _drop_lost(members)
                for member in members:
                    if member.error is None:
                        _save(bank, member)
                raise TrainingInterrupted from None
            _drop_lost(active)
            for member in active:
                if not member.done and member.step % member.train.checkpoint_steps == 0:
                    _save(bank, member)
        between_steps([member for member in members if member.error is None])
    finally:
        bank.eval()


def _drop_lost(members: Sequence[Member]) -> None:
    for member in members:
        if member.error is None and member.lost():
            member.error = f"the claim was lost at step {member.step}: another worker has the run"


def _start(bank: Bank, member: Member) -> None:
    bank.add_member(member.run_id, member.adapter, member.train.seed)
    member.total_steps = num_steps(member.train, len(member.examples))
    if not len(member.num_characters):
        member.num_characters = np.zeros(len(member.examples), dtype=np.int64)
    parameters = bank.member_parameters(member.run_id)
    member.optimizer = make_optimizer(parameters.values(), member.train, bank.device)
    checkpoint, problems = load_newest(member.checkpoint_folder, member.run_id)
    member.notes += problems
    if checkpoint is None:
        return
    with torch.no_grad():
        for name, tensor in checkpoint.adapter.items():
            parameters[name].copy_(tensor)
    member.optimizer.load_state_dict(checkpoint.optimizer)
    member.step = checkpoint.step
    member.notes.append(f"resumed at step {checkpoint.step}")


@dataclass(slots=True)
class _RowBudget:
    """Tokens a forward pass of the group; halved when the device has no room for it."""

    max_tokens: int


def _step_within_memory(
    bank: Bank, active: Sequence[Member], rows: _RowBudget, should_stop: Callable[[], bool]
) -> None:
    """A step; where memory runs out, the same step again in rows of half the size.

    More rows are accumulated instead, so the effective batch and the losses stay.
    """
    began = time.monotonic()
    items = [item for member in active for item in step_items(member)]
    while True:
        try:
            _step(bank, active, items, rows.max_tokens, began, should_stop)
            return
        except torch.OutOfMemoryError:
            smallest = max(len(item.tokens) for item in items)
            if rows.max_tokens <= smallest:
                raise
            rows.max_tokens = max(rows.max_tokens // 2, smallest)
            note = f"out of memory at step {{}}: rows of at most {rows.max_tokens} tokens from there on"
            for member in active:
                member.notes.append(note.format(member.step + 1))
                for parameter in bank.member_parameters(member.run_id).values():
                    parameter.grad = None
        if bank.device.type == "cuda":
            torch.cuda.empty_cache()


def _step(
    bank: Bank,
    active: Sequence[Member],
    items: Sequence[Item],
    max_tokens: int,
    began: float,
    should_stop: Callable[[], bool],
) -> None:
    losses = dict.fromkeys((m.run_id for m in active), 0.0)
    for row in split_rows(items, max_tokens):
        if should_stop():
            raise _StopNow
        weights = torch.cat([torch.full((item.num_targets,), item.weight) for item in row])
        token_losses = bank.item_losses(row) * weights.to(bank.device)
        token_losses.sum().backward()
        by_item = token_losses.detach().split([item.num_targets for item in row])
        for item, part in zip(row, by_item, strict=True):
            losses[item.member] += float(part.sum())
    targets = {m.run_id: sum(i.num_targets for i in items if i.member == m.run_id) for m in active}
    for member in active:
        metrics = _update(bank, member, losses[member.run_id], targets[member.run_id])
        if metrics is not None:
            member.on_step(replace(metrics, seconds=time.monotonic() - began, num_members=len(active)))


def step_items(member: Member) -> Iterator[Item]:
    """The examples of the member's next step, each with the weight of its target tokens in the mean."""
    indices = batch_indices(member.train, member.num_characters, member.step)
    examples = [member.examples[index] for index in indices]
    labels: list[float | None] = [getattr(example, "label", None) for example in examples]
    counts = [
        len(example.input_ids) - max(example.num_source, 1) if label is None else 1
        for example, label in zip(examples, labels, strict=True)
    ]
    for place, (example, count) in enumerate(zip(examples, counts, strict=True)):
        by_example = member.train.loss_mean is LossMean.example
        weight = 1 / (len(indices) * count) if by_example else 1 / sum(counts)
        yield Item(
            member=member.run_id,
            tokens=example.input_ids,
            num_source=example.num_source,
            dropout_key=member.step * len(indices) + place,
            weight=weight,
            label=labels[place],
        )


def _update(bank: Bank, member: Member, loss: float, num_targets: int) -> StepMetrics | None:
    """One optimizer step. -> its metrics, the time still to be filled in; None where the loss was not finite."""
    assert member.optimizer is not None
    parameters = list(bank.member_parameters(member.run_id).values())
    norm = float(nn.utils.clip_grad_norm_(parameters, member.train.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        member.error = f"loss {loss}, gradient norm {norm} at step {member.step + 1}: not finite; " + (
            "try a lower train.learning_rate or quant.compute_dtype=bfloat16 or float32; the last checkpoint is kept"
        )
        return None
    rate = learning_rate(member.train, member.step, member.total_steps)
    for group in member.optimizer.param_groups:
        group["lr"] = rate
    member.optimizer.step()
    member.optimizer.zero_grad(set_to_none=True)
    member.step += 1
    return StepMetrics(
        step=member.step, loss=loss, learning_rate=rate, grad_norm=norm, target_tokens=num_targets, seconds=0.0
    )


def _save(bank: Bank, member: Member) -> None:
    assert member.optimizer is not None
    save_checkpoint(
        member.checkpoint_folder,
        member.run_id,
        member.step,
        bank.member_parameters(member.run_id),
        member.optimizer,
        member.train.keep_checkpoints,
    )
