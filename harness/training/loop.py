"""Trains a group: several runs' adapters over one frozen base, in the same forward passes.

A single run is a group of one, on the same path. Each member keeps its own data order, dropout stream,
learning rate, clipping, optimizer state and step count; its loss reaches only its own A and B. So the
adapter of a run trained in a group equals the one trained alone (tests/unit/harness/training/test_loop.py).

Source of the recipe: QLoRA section 5 and appendix B; harness/config/schema.py cites the constants.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.banks.bank import Bank
from harness.config.schema import AdapterConfig, LossMean, TrainConfig
from harness.data.tokens import EncodedExamples, Lengths
from harness.devices.memory import free_bytes, is_out_of_memory, release_cached
from harness.devices.ranks import ALONE, Ranks
from harness.methods.blocks import depths, rate_ratio
from harness.nn.batch import Item
from harness.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from harness.training.held_out import Best, EvalPoint, HeldOut, better, eval_point, is_due, total_losses
from harness.training.loss_scale import LossScale
from harness.training.optim import (
    OptimizerKind,
    clip_gradients,
    load_state,
    make_optimizer,
    rate_groups,
    release_state,
    resumed_optimizer,
    set_rate,
    state_bytes,
    state_pages,
    used_optimizer,
)
from harness.training.passes import Pass, forward_backward, run_passes
from harness.training.schedule import batch_indices, learning_rate, num_steps
from harness.training.stopping import StopNow


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """The measurements of one step of one member: a line of metrics.jsonl."""

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
    examples: EncodedExamples
    checkpoint_folder: Path
    on_step: Callable[[StepMetrics], None]
    lost: Callable[[], bool] = lambda: False  # somebody else has the run now: stop, and write nothing
    num_characters: Lengths = field(  # of each example, to group by length
        default_factory=lambda: np.zeros(0, dtype=np.int64)
    )
    held_out: HeldOut | None = None  # rows that its loss is measured on and that never train; None: it is not measured
    on_eval: Callable[[EvalPoint], None] = lambda point: None
    on_added: Callable[[], None] = lambda: None  # it is in the bank, before its first step; a ValueError refuses it
    until: int | None = None  # stops after this step, with a checkpoint, though it has not made its last one
    notes: list[str] = field(default_factory=list)  # what happened that a reader of the record should know
    error: str | None = None  # why it stopped early
    step: int = 0  # optimizer steps done
    total_steps: int = 0
    optimizer: torch.optim.Optimizer | None = None  # while it trains; its state is dropped at the end
    optimizer_kind: OptimizerKind | None = None  # which one runs; None: it is chosen at the start
    loss_scale: LossScale = field(default_factory=LossScale)
    evaluated: int = 0  # the step at which its held-out loss was measured last
    best: Best | None = None  # where `train.keep_best` asks for it
    deferred: bool = False  # it left the group because the device has no room for all: it goes on later

    @property
    def done(self) -> bool:
        """Whether it makes no further step here: after its last one, where it stops, with an error, or deferred."""
        return self.error is not None or self.step >= self.total_steps or self.stopped or self.deferred

    @property
    def stopped(self) -> bool:
        """Whether it has come to the step where it is to stop, before its last one. It can go on from there later."""
        return self.until is not None and self.error is None and self.until <= self.step < self.total_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The places of a group, which others take when members end."""

    number: int
    on_end: Callable[[Member], None]  # takes what a member leaves, and the member out of the bank
    refill: Callable[[int], Sequence[Member]]  # -> the next members, at most as many as places are free


class TrainingInterrupted(Exception):
    """Raised when training was asked to stop, after every member's state was saved."""


def train_group(
    bank: Bank,
    members: Sequence[Member],
    should_stop: Callable[[], bool] = lambda: False,
    between_steps: Callable[[Sequence[Member]], None] = lambda members: None,
    ranks: Ranks = ALONE,
    places: Places | None = None,
) -> None:
    """Trains every member to its last step, from its newest checkpoint if it has one.

    On return the members' adapters are in `bank`, with `train.keep_best` those of the lowest held-out loss. A member
    whose loss is not finite, whose targets don't fit or whose claim was lost gets `error` and drops out; one that comes
    to its `until` stops with a checkpoint; the others go on. A member that ends, however it does, hands its paged
    optimizer state on.

    Args:
        bank: on this rank's device.
        members: the same on every rank.
        should_stop: called at every layer (of a sharded base between two forward passes); True on one rank stops all.
        between_steps: called with the members under way before each step, and with all after the last. It may look
            at weights, score and save; it must leave everything as it was, the bank's training mode included.
        ranks: the processes that share every step. Rank 0 alone calls `on_step` and writes checkpoints.
        places: where it is given, a member leaves as soon as it ends, and others take its place; where the device has
            no room for all of them, some leave with a checkpoint. None: all stay until the last one ends.

    Raises:
        TrainingInterrupted: `should_stop` said so; checkpoints of all members are written.
        PeerLostError: another rank ended.
    """
    group = _Group(bank, bank.train(), [], ranks, should_stop)
    group.num_places = len(members) if places is None else places.number
    group.can_shrink = places is not None
    try:
        group.max_tokens = max((m.train.row_tokens for m in members), default=0)
        _join(group, members)
        while True:
            if places is not None:
                _change_members(group, places, between_steps)
            if not (active := [m for m in group.members if not m.done]):
                break
            between_steps(active)
            _step_and_save(group, active)
        _end_members(group, group.members, between_steps)
    finally:
        for member in group.members:
            _release(member)
        bank.eval()


def _join(group: "_Group", members: Sequence[Member]) -> None:
    """Takes members into the group, each at its newest checkpoint.

    Raises:
        TrainingInterrupted: asked to stop; checkpoints of all members are written.
    """
    group.members += members
    _start(group.bank, members, group.ranks)
    if not group.checkpointing:
        group.checkpointing = any(m.train.gradient_checkpointing for m in members)
        group.bank.set_checkpointing(group.checkpointing)
    with _interruptible(group):
        _evaluate(group, members)  # what a stop cut off


def _change_members(group: "_Group", places: Places, between_steps: Callable[[Sequence[Member]], None]) -> None:
    """Lets the members go that have ended, and gives their places to others, until nobody comes or all are taken."""
    while ended := [member for member in group.members if member.done]:
        _end_members(group, ended, between_steps)
        for member in ended:
            places.on_end(member)
            group.members.remove(member)
        _join(group, places.refill(group.num_places - len(group.members)))


def _end_members(group: "_Group", members: Sequence[Member], between_steps: Callable[[Sequence[Member]], None]) -> None:
    """The last callbacks of members that have ended, before the weights of their lowest held-out loss are taken."""
    between_steps([member for member in members if member.error is None and not member.deferred])
    for member in members:
        _take_best(group.bank, member)
        _release(member)


def _step_and_save(group: "_Group", active: Sequence[Member]) -> None:
    """One step of the active members, then the checkpoints that are due. Releases the members that have ended.

    Raises:
        TrainingInterrupted: asked to stop; checkpoints of all members are written.
    """
    with _interruptible(group):
        stepped = _step_within_memory(group, active)
        _evaluate(group, stepped)
    for member in active:
        if member.deferred:
            _save(group, member)
    for member in stepped:
        if member.stopped or (not member.done and member.step % member.train.checkpoint_steps == 0):
            _save(group, member)
    for member in active:
        if member.done:
            _release(member)


@contextmanager
def _interruptible(group: "_Group") -> Iterator[None]:
    """Writes checkpoints of all members where the work within is asked to stop.

    Raises:
        TrainingInterrupted: it was.
    """
    try:
        yield
    except StopNow:
        for member in group.members:
            if member.error is None and (member.optimizer is not None or member.step >= member.total_steps):
                _save(group, member)  # one that stopped and was released has its checkpoint, optimizer state included
        raise TrainingInterrupted from None


def _evaluate(group: "_Group", members: Sequence[Member]) -> None:
    """Measures the held-out loss of the members that are due, in one pass; one whose loss is not finite gets its error.

    Raises:
        StopNow: asked to stop; nothing is measured.
    """
    due = {m.run_id: m for m in members if m.error is None and m.evaluated != m.step and _is_due(m)}
    if not due:
        return
    began = time.monotonic()
    rows = {run_id: member.held_out.examples for run_id, member in due.items() if member.held_out is not None}
    try:
        nats = total_losses(group.bank, group.bank.eval(), rows, group.max_tokens, group.ranks, group.should_stop)
    finally:
        group.bank.train()
    for run_id, member in due.items():
        assert member.held_out is not None
        seconds = (time.monotonic() - began) / len(due)
        _note_point(group, member, eval_point(member.held_out, nats[run_id], member.step, seconds))


def _is_due(member: Member) -> bool:
    return member.held_out is not None and is_due(member.train, member.step, member.total_steps, member.until)


def _note_point(group: "_Group", member: Member, point: EvalPoint) -> None:
    if not math.isfinite(point.eval_loss):
        member.error = f"held-out loss {point.eval_loss} at step {member.step}: not finite; try a lower rate"
        return
    member.evaluated = member.step
    if member.train.keep_best:
        member.best = better(member.best, point, group.bank.member_parameters(member.run_id))
    if group.ranks.leads and not member.lost():
        member.on_eval(point)


def _take_best(bank: Bank, member: Member) -> None:
    """Gives a member that has made its last step the weights of its lowest held-out loss."""
    if member.best is None or member.error is not None or member.step < member.total_steps:
        return
    parameters = bank.member_parameters(member.run_id)
    with torch.no_grad():
        for name, tensor in member.best.adapter.items():
            parameters[name].copy_(tensor)
    member.notes.append(f"kept the weights of step {member.best.step}, of the lowest held-out loss")


@dataclass(slots=True)
class _Group:
    """The state that a group keeps over all its steps."""

    bank: Bank
    model: nn.Module  # the same, for its layers
    members: list[Member]
    ranks: Ranks
    should_stop: Callable[[], bool]
    num_places: int = 0  # fewer once the device had no room for as many members
    can_shrink: bool = False  # by members that leave and go on later
    max_tokens: int = 0  # of a forward pass of this rank; halved when the device has no room for it
    checkpointing: bool = False  # of activations; turned on when the device has no room for one example


def _start(bank: Bank, members: Sequence[Member], ranks: Ranks) -> None:
    """Adds the members and takes each to its newest checkpoint; one that can't start gets its error."""
    for member in members:
        with _failing_alone(member), _naming_out_of_memory(f"run {member.run_id}, its adapter"):
            bank.add_member(member.run_id, member.adapter, member.train.seed)
            member.on_added()
    pages = _pages(bank, members, ranks)
    for member in members:
        if member.error is None:
            with _failing_alone(member), _naming_out_of_memory(f"run {member.run_id}, its optimizer"):
                _start_member(bank, member, pages)
    _start_alike(bank, members, ranks)


@contextmanager
def _failing_alone(member: Member) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        member.error = str(error)


def _pages(bank: Bank, members: Sequence[Member], ranks: Ranks) -> bool:
    """Whether the group's paged optimizers page. Where one rank's have to, all ranks' do, so that they round alike."""
    num_bytes = sum(
        state_bytes(member.train.optimizer, parameter.numel())
        for member in members
        if member.error is None
        for parameter in bank.member_parameters(member.run_id).values()
    )
    return ranks.sum_numbers([float(state_pages(num_bytes, free_bytes(bank.device)))])[0] > 0


def _start_member(bank: Bank, member: Member, pages: bool) -> None:
    member.total_steps = num_steps(member.train, len(member.examples))
    if not len(member.num_characters):
        member.num_characters = np.zeros(len(member.examples), dtype=np.int64)
    parameters = bank.member_parameters(member.run_id)
    if (allocation := bank.rank_allocation(member.run_id)) is not None:
        allocation.begin(member.total_steps)
    in_16_bits = [p.dtype for p in parameters.values() if p.dtype is not torch.float32]
    kind = member.optimizer_kind or used_optimizer(
        member.train.optimizer, bank.device, pages, in_16_bits[0] if in_16_bits else torch.float32
    )
    member.loss_scale = LossScale.of(bank.dtype)
    checkpoint, problems = load_newest(member.checkpoint_folder, member.run_id)
    member.notes += problems
    if checkpoint is None:
        member.optimizer_kind = kind
        member.optimizer = make_optimizer(_groups(bank, member, parameters), member.train, kind, member.total_steps)
    else:
        _resume(bank, member, parameters, checkpoint, kind)
        if allocation is not None:
            allocation.load_state(checkpoint.state["rank_allocation"])


def _resume(
    bank: Bank,
    member: Member,
    parameters: Mapping[str, nn.Parameter],
    checkpoint: Checkpoint,
    kind: OptimizerKind,
) -> None:
    """Takes a fresh member to its checkpoint. `kind` is what would run if it began today."""
    with torch.no_grad():
        for name, tensor in checkpoint.adapter.items():
            parameters[name].copy_(tensor)
    member.step = checkpoint.step
    member.notes.append(f"resumed at step {checkpoint.step}")
    member.loss_scale = LossScale(**checkpoint.state["loss_scale"])
    if "held_out" in checkpoint.state:
        member.evaluated, best = checkpoint.state["held_out"]["evaluated"], checkpoint.state["held_out"]["best"]
        member.best = None if best is None else Best(**best)
    saved = OptimizerKind(checkpoint.state["optimizer_kind"])
    member.optimizer_kind = resumed_optimizer(saved, kind)
    if member.done:
        return
    member.optimizer = make_optimizer(
        _groups(bank, member, parameters), member.train, member.optimizer_kind, member.total_steps
    )
    load_state(member.optimizer, checkpoint.state["optimizer"], saved)
    if member.optimizer_kind.with_paging(False) is not saved.with_paging(False):
        member.notes.append(f"{saved} gave way to {member.optimizer_kind} at step {member.step}: its state has to page")


def _groups(bank: Bank, member: Member, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    decay, plus = member.train.layer_lr_decay, member.adapter.lora_plus_ratio
    if decay == 1:
        return rate_groups(parameters, plus)
    return rate_groups(parameters, plus, partial(rate_ratio, decay=decay, num_blocks=depths(bank.layers)))


def _release(member: Member) -> None:
    """Ends the use of the member's optimizer."""
    if member.optimizer is not None:
        release_state(member.optimizer)
        member.optimizer = None


def _start_alike(bank: Bank, members: Sequence[Member], ranks: Ranks) -> None:
    """Makes sure that every rank goes on from the same step, with the same weights.

    Raises:
        ValueError: ranks found other checkpoints than rank 0.
    """
    steps = [-1 if member.error is not None else member.step for member in members]
    lowest, highest = ranks.span(steps)
    for member, low, high in zip(members, lowest, highest, strict=True):
        if low != high:
            raise ValueError(
                f"{member.checkpoint_folder}: one rank would go on from step {low:.0f}, another from {high:.0f}; "
                "paths.runs has to be one folder that all machines of a run see"
            )
        if member.error is None:
            ranks.copy_leader(bank.member_parameters(member.run_id).values())


@contextmanager
def _naming_out_of_memory(what: str) -> Iterator[None]:
    """Names what found no room, where smaller rows don't help. cuBLAS and the driver raise plain RuntimeErrors for it.

    Raises:
        torch.OutOfMemoryError: something in it ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise torch.OutOfMemoryError(
            f"{what}: no room on the device ({error}); train fewer runs at once (launch.max_group_size), or use a "
            "lower adapter.lora_r or train.optimizer=paged_adamw_8bit"
        ) from error


def _step_within_memory(group: _Group, active: Sequence[Member]) -> list[Member]:
    """Makes a step. -> the members that have made theirs

    Where what isn't finite in one member may have reached others, their passes are done again, each member's apart.
    """
    began = time.monotonic()
    learned = _learn(group, active)
    if not group.bank.isolates_members and len(learned.active) > 1 and not learned.is_finite:
        _forget_gradients(group.bank, learned.active)
        learned = _learn(group, learned.active, apart=True)
    active, agreed = learned.active, learned.agreed
    targets = {m.run_id: sum(i.num_targets for i in learned.items if i.member == m.run_id) for m in active}
    metrics = _update(group.bank, active, agreed.losses, learned.norms, targets)
    stepped = [member for member in active if member.run_id in metrics]
    for member in stepped if group.ranks.leads else ():
        seconds = time.monotonic() - began
        member.on_step(replace(metrics[member.run_id], seconds=seconds, num_members=len(active)))
    for member in agreed.lost:
        if member.error is None:
            member.error = f"the claim was lost at step {member.step}: another worker has the run"
    return stepped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """A step's passes, on all ranks together: summed and clipped gradients of the members that took part."""

    active: Sequence[Member]
    items: Sequence[Item]
    agreed: "_Agreed"
    norms: list[float]  # of each member's gradients, before clipping

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(number) for number in (*self.agreed.losses.values(), *self.norms))


def _learn(group: _Group, active: Sequence[Member], apart: bool = False) -> _Learned:
    """Does a step's passes. Where memory runs out, again in rows of half the size, at last with checkpointing.

    More rows are accumulated instead, so the effective batch and the losses stay.
    """
    by_rank = sorted(active, key=lambda member: member.adapter.lora_r)  # neighbours of one rank share their products
    items = [item for member in by_rank for item in step_items(member)]
    while (agreed := _agree(group, active, _train_passes(group, items, apart))).out_of_memory is not None:
        _make_room(group, active, items, agreed.out_of_memory)
        active = [member for member in active if not member.deferred]
        staying = {member.run_id for member in active}
        items = [item for item in items if item.member in staying]
    for member in active:
        group.ranks.sum_gradients(agreed.learning[member.run_id])
    return _Learned(active=active, items=items, agreed=agreed, norms=_clip(group.bank, active))


def _train_passes(group: _Group, items: Sequence[Item], apart: bool) -> Pass:
    return run_passes(
        group.bank,
        group.model,
        items,
        forward_backward,
        max_tokens=group.max_tokens,
        ranks=group.ranks,
        should_stop=group.should_stop,
        apart=apart,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Agreed:
    """The outcome of a step's passes on all ranks together; equal on all of them."""

    losses: dict[str, float]
    learning: dict[str, list[nn.Parameter]]  # member -> parameters that have a gradient on some rank
    lost: list[Member]
    out_of_memory: str | None


def _agree(group: _Group, active: Sequence[Member], mine: Pass) -> _Agreed:
    """Exchanges between ranks what a step needs besides the gradients: losses, trouble, lost claims, who has gradients.

    Raises:
        StopNow: some rank was asked to stop; lost members have their error by then.
    """
    parameters = {m.run_id: list(group.bank.member_parameters(m.run_id).values()) for m in active}
    shared_numbers = [
        float(mine.stop),
        float(mine.out_of_memory is not None),
        *(float(member.error is None and member.lost()) for member in group.members),
        *mine.losses.values(),
        *(float(p.grad is not None) for those in parameters.values() for p in those),
    ]
    numbers = iter(group.ranks.sum_numbers(shared_numbers))
    stop, out_of_memory = next(numbers) > 0, next(numbers) > 0
    lost = [member for member in group.members if next(numbers) > 0]
    losses = {run_id: next(numbers) for run_id in mine.losses}
    learning = {run_id: [p for p in those if next(numbers) > 0] for run_id, those in parameters.items()}
    if stop:
        for member in lost:
            member.error = f"the claim was lost at step {member.step}: another worker has the run"
        raise StopNow
    text = (mine.out_of_memory or "on another rank") if out_of_memory else None
    return _Agreed(losses=losses, learning=learning, lost=lost, out_of_memory=text)


def _make_room(group: _Group, active: Sequence[Member], items: Sequence[Item], reason: str) -> None:
    """Halves the rows; where a row is one example already, pages optimizer state, then recomputes activations, then
    lets half of the members go, where others may train them later.

    Raises:
        torch.OutOfMemoryError: all of that was done before.
    """
    smallest = max(len(item.tokens) for item in items)
    if group.max_tokens > smallest:
        group.max_tokens = max(group.max_tokens // 2, smallest)
        remedy = f"rows of at most {group.max_tokens} tokens"
    elif pageable := [member for member in active if _may_page(group.bank, member)]:
        for member in pageable:
            _page(group.bank, member)
        remedy = "paged optimizer state"
    elif not group.checkpointing:
        group.checkpointing = True
        group.bank.set_checkpointing(True)
        remedy = "gradient checkpointing"
    elif group.can_shrink and len(active) > 1:
        group.num_places = len(active) // 2
        for member in active[group.num_places :]:
            member.deferred = True
        remedy = f"{group.num_places} runs at once instead of {len(active)}"
    else:
        raise torch.OutOfMemoryError(reason)
    for member in active:
        member.notes.append(f"out of memory at step {member.step + 1}: {remedy} from there on")
    _forget_gradients(group.bank, active)
    release_cached(group.bank.device)


def _forget_gradients(bank: Bank, members: Sequence[Member]) -> None:
    for member in members:
        for parameter in bank.member_parameters(member.run_id).values():
            parameter.grad = None


def _may_page(bank: Bank, member: Member) -> bool:
    """Whether the run names a paged optimizer, and its state lies on the device, because there was room."""
    assert member.optimizer_kind is not None
    return used_optimizer(member.train.optimizer, bank.device).paged and not member.optimizer_kind.paged


def _page(bank: Bank, member: Member) -> None:
    """Moves the optimizer's state into unified memory; torch's AdamW gives way to bitsandbytes'."""
    assert member.optimizer is not None
    assert member.optimizer_kind is not None
    old, saved = member.optimizer, member.optimizer_kind
    member.optimizer_kind = resumed_optimizer(saved, used_optimizer(member.train.optimizer, bank.device))
    parameters = bank.member_parameters(member.run_id)
    member.optimizer = make_optimizer(
        _groups(bank, member, parameters), member.train, member.optimizer_kind, member.total_steps
    )
    load_state(member.optimizer, old.state_dict(), saved)
    release_state(old)


def step_items(member: Member) -> Iterator[Item]:
    """The examples of the member's next step, each with the weight of its target tokens in the scaled mean."""
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
            weight=weight * member.loss_scale.factor,
            label=labels[place],
        )


def _clip(bank: Bank, active: Sequence[Member]) -> list[float]:
    """Clips each member's gradients of its scaled loss. -> their norms before; not finite where one of them isn't"""
    for member in active:
        if (allocation := bank.rank_allocation(member.run_id)) is not None:
            (allocation.penalty() * member.loss_scale.factor).backward()  # of no row: it is added once a step
    return clip_gradients(
        [list(bank.member_parameters(member.run_id).values()) for member in active],
        [member.train.max_grad_norm for member in active],
        [member.loss_scale.factor for member in active],
    )


def _update(
    bank: Bank,
    active: Sequence[Member],
    losses: Mapping[str, float],
    norms: Sequence[float],
    num_targets: Mapping[str, int],
) -> dict[str, StepMetrics]:
    """One optimizer step of every member whose loss and gradients are finite.

    Args:
        bank: with the clipped gradients.
        active: the members that share the step.
        losses: of each, scaled.
        norms: of each one's gradients before they were clipped.
        num_targets: of each.

    Returns:
        The metrics of those that made their step, the time still to be filled in. Of the others, those whose scaled
        gradients overflowed do the step again; the rest have their error.
    """
    metrics: dict[str, StepMetrics] = {}
    for member, norm in zip(active, norms, strict=True):
        assert member.optimizer is not None
        loss = losses[member.run_id] / member.loss_scale.factor
        if math.isfinite(loss) and math.isfinite(norm):
            with _naming_out_of_memory(f"run {member.run_id}, the optimizer at step {member.step + 1}"):
                metrics[member.run_id] = _step(bank, member, loss, norm, num_targets[member.run_id])
        elif math.isfinite(loss) and member.loss_scale.shrink():
            _note_overflow(member)
        else:
            member.error = (
                f"loss {loss}, gradient norm {norm} at step {member.step + 1}: not finite; try a lower "
                "train.learning_rate or quant.compute_dtype=bfloat16 or float32; the last checkpoint is kept"
            )
        member.optimizer.zero_grad()
    return metrics


def _step(bank: Bank, member: Member, loss: float, norm: float, num_targets: int) -> StepMetrics:
    assert member.optimizer is not None
    rate = learning_rate(member.train, member.step, member.total_steps)
    set_rate(member.optimizer, rate)
    member.optimizer.step()
    if (allocation := bank.rank_allocation(member.run_id)) is not None:
        allocation.after_step(member.step + 1)
    member.loss_scale.count_good_step()
    member.step += 1
    return StepMetrics(
        step=member.step, loss=loss, learning_rate=rate, grad_norm=norm, target_tokens=num_targets, seconds=0.0
    )


def _note_overflow(member: Member) -> None:
    """Notes the first overflow only: with a dynamic scale they are normal."""
    if member.loss_scale.num_overflows == 1:
        member.notes.append(
            f"float16 gradients overflowed at step {member.step + 1}: it is done again with the loss scaled by "
            f"{member.loss_scale.factor:.0f}, and so are later ones"
        )


def _save(group: _Group, member: Member) -> None:
    """Writes a checkpoint; for a member that has made its last step only the weights."""
    if not group.ranks.leads or member.lost():
        return
    parameters = group.bank.member_parameters(member.run_id)
    keep = member.train.keep_checkpoints
    save_checkpoint(member.checkpoint_folder, member.run_id, member.step, parameters, _state(group.bank, member), keep)


def _state(bank: Bank, member: Member) -> dict[str, Any]:
    """What a checkpoint holds beside the weights."""
    assert member.optimizer_kind is not None
    state: dict[str, Any] = {
        "optimizer_kind": member.optimizer_kind.value,
        "optimizer": None if member.optimizer is None else member.optimizer.state_dict(),
        "loss_scale": asdict(member.loss_scale),
    }
    if (allocation := bank.rank_allocation(member.run_id)) is not None:
        state["rank_allocation"] = allocation.state()
    if member.held_out is not None:
        best = member.best
        kept = best and {"step": best.step, "eval_loss": best.eval_loss, "adapter": best.adapter}
        state["held_out"] = {"evaluated": member.evaluated, "best": kept}
    return state
