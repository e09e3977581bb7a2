"""One step of a group: passes over all members' examples in rows that fit the device, then each member's update.

Where memory runs out, the passes are done again in smaller rows, then with paged optimizer state, then with activations
that are recomputed, then for half of the members. What isn't finite ends its own member alone.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from harness.banks.bank import Bank
from harness.config.schema import LossMean
from harness.devices.memory import release_cached
from harness.nn.batch import Item
from harness.training.group import Group, Member, StepMetrics, naming_out_of_memory
from harness.training.optim import (
    clip_gradients,
    load_state,
    release_state,
    resumed_optimizer,
    set_rate,
    used_optimizer,
)
from harness.training.passes import Pass, forward_backward, run_passes
from harness.training.schedule import batch_indices, learning_rate
from harness.training.starting import new_optimizer
from harness.training.stopping import StopNow


def make_step(group: Group, active: Sequence[Member]) -> list[Member]:
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


def _learn(group: Group, active: Sequence[Member], apart: bool = False) -> _Learned:
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


def _train_passes(group: Group, items: Sequence[Item], apart: bool) -> Pass:
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


def _agree(group: Group, active: Sequence[Member], mine: Pass) -> _Agreed:
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


def _make_room(group: Group, active: Sequence[Member], items: Sequence[Item], reason: str) -> None:
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
    member.optimizer = new_optimizer(bank, member)
    load_state(member.optimizer, old.state_dict(), saved)
    release_state(old)


def step_items(member: Member) -> Iterator[Item]:
    """The examples of the member's next step, each with the weight of its target tokens in the scaled mean."""
    indices = batch_indices(member.train, member.num_characters, member.step)
    examples = [member.examples[index] for index in indices]
    labels: list[float | None] = [getattr(example, "label", None) for example in examples]
    scales: list[float] = [getattr(example, "loss_weight", 1.0) for example in examples]
    counts = [
        len(example.input_ids) - max(example.num_source, 1) if label is None else 1
        for example, label in zip(examples, labels, strict=True)
    ]
    by_example = member.train.loss_mean is LossMean.example
    total = sum(scale * (1 if by_example else count) for scale, count in zip(scales, counts, strict=True))
    for place, (example, count, scale) in enumerate(zip(examples, counts, scales, strict=True)):
        weight = scale / (total * count) if by_example else scale / total
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
            with naming_out_of_memory(f"run {member.run_id}, the optimizer at step {member.step + 1}"):
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
