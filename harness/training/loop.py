"""Trains a group: several runs' adapters over one frozen base, in the same forward passes.

A single run is a group of one, on the same path. Each member keeps its own data order, dropout stream,
learning rate, clipping, optimizer state and step count; its loss reaches only its own A and B. So the
adapter of a run trained in a group equals the one trained alone (tests/unit/harness/training/test_loop.py).

Source of the recipe: QLoRA section 5 and appendix B; harness/config/schema.py cites the constants.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from harness.banks.bank import Bank
from harness.devices.ranks import ALONE, Ranks
from harness.training.checkpoint import save_checkpoint
from harness.training.group import Group, Member, Places
from harness.training.held_out import EvalPoint, better, eval_point, is_due, total_losses
from harness.training.starting import release_optimizer, start_members
from harness.training.step import make_step
from harness.training.stopping import StopNow


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
    group = Group(bank, bank.train(), [], ranks, should_stop)
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
            release_optimizer(member)
        bank.eval()


def _join(group: Group, members: Sequence[Member]) -> None:
    """Takes members into the group, each at its newest checkpoint.

    Raises:
        TrainingInterrupted: asked to stop; checkpoints of all members are written.
    """
    group.members += members
    start_members(group.bank, members, group.ranks)
    if not group.checkpointing:
        group.checkpointing = any(m.train.gradient_checkpointing for m in members)
        group.bank.set_checkpointing(group.checkpointing)
    with _interruptible(group):
        _evaluate(group, members)  # what a stop cut off


def _change_members(group: Group, places: Places, between_steps: Callable[[Sequence[Member]], None]) -> None:
    """Lets the members go that have ended, and gives their places to others, until nobody comes or all are taken."""
    while ended := [member for member in group.members if member.done]:
        _end_members(group, ended, between_steps)
        for member in ended:
            places.on_end(member)
            group.members.remove(member)
        _join(group, places.refill(group.num_places - len(group.members)))


def _end_members(group: Group, members: Sequence[Member], between_steps: Callable[[Sequence[Member]], None]) -> None:
    """The last callbacks of members that have ended, before the weights of their lowest held-out loss are taken."""
    between_steps([member for member in members if member.error is None and not member.deferred])
    for member in members:
        _take_best(group.bank, member)
        release_optimizer(member)


def _step_and_save(group: Group, active: Sequence[Member]) -> None:
    """One step of the active members, then the checkpoints that are due. Releases the members that have ended.

    Raises:
        TrainingInterrupted: asked to stop; checkpoints of all members are written.
    """
    with _interruptible(group):
        stepped = make_step(group, active)
        _evaluate(group, stepped)
    for member in active:
        if member.deferred:
            _save(group, member)
    for member in stepped:
        if member.stopped or (not member.done and member.step % member.train.checkpoint_steps == 0):
            _save(group, member)
    for member in active:
        if member.done:
            release_optimizer(member)


@contextmanager
def _interruptible(group: Group) -> Iterator[None]:
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


def _evaluate(group: Group, members: Sequence[Member]) -> None:
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


def _note_point(group: Group, member: Member, point: EvalPoint) -> None:
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


def _save(group: Group, member: Member) -> None:
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
