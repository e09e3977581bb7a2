"""Takes members into a group: adapter, optimizer and data order, each at its newest checkpoint; on all ranks alike."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from harness.banks.bank import Bank
from harness.banks.load import add_member
from harness.devices.memory import free_bytes
from harness.devices.ranks import Ranks
from harness.methods.blocks import depths, rate_ratio
from harness.training.checkpoint import Checkpoint, load_newest
from harness.training.group import Member, naming_out_of_memory
from harness.training.held_out import Best
from harness.training.loss_scale import LossScale
from harness.training.optim import (
    OptimizerKind,
    load_state,
    make_optimizer,
    rate_groups,
    release_state,
    resumed_optimizer,
    state_bytes,
    state_pages,
    used_optimizer,
)
from harness.training.schedule import num_steps

_START = "start"  # in the folder of checkpoints: an adapter as it began, whose base follows from that


def start_members(bank: Bank, members: Sequence[Member], ranks: Ranks) -> None:
    """Adds the members and takes each to its newest checkpoint; one that can't start gets its error."""
    for member in members:
        with _failing_alone(member), naming_out_of_memory(f"run {member.run_id}, its adapter"):
            start = member.checkpoint_folder / _START
            add_member(bank, member.run_id, member.adapter, member.train.seed, start, keep=ranks.leads)
            member.on_added()
    pages = _pages(bank, members, ranks)
    for member in members:
        if member.error is None:
            with _failing_alone(member), naming_out_of_memory(f"run {member.run_id}, its optimizer"):
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
        member.optimizer = new_optimizer(bank, member)
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
    member.optimizer = new_optimizer(bank, member)
    load_state(member.optimizer, checkpoint.state["optimizer"], saved)
    if member.optimizer_kind.with_paging(False) is not saved.with_paging(False):
        member.notes.append(f"{saved} gave way to {member.optimizer_kind} at step {member.step}: its state has to page")


def new_optimizer(bank: Bank, member: Member) -> torch.optim.Optimizer:
    """-> the optimizer of the member's kind, without state."""
    assert member.optimizer_kind is not None
    decay, plus = member.train.layer_lr_decay, member.adapter.lora_plus_ratio
    parameters = bank.member_parameters(member.run_id)
    at_depth = None if decay == 1 else partial(rate_ratio, decay=decay, num_blocks=depths(bank.layers))
    groups = rate_groups(parameters, plus, at_depth)
    return make_optimizer(groups, member.train, member.optimizer_kind, member.total_steps)


def release_optimizer(member: Member) -> None:
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
