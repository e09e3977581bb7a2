"""The runs of a group while they train, and what they share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.banks.bank import Bank
from harness.config.schema import AdapterConfig, TrainConfig
from harness.data.tokens import EncodedExamples, Lengths
from harness.devices.memory import is_out_of_memory
from harness.devices.ranks import Ranks
from harness.training.held_out import Best, EvalPoint, HeldOut
from harness.training.loss_scale import LossScale
from harness.training.optim import (
    OptimizerKind,
)


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


@dataclass(slots=True)
class Group:
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


@contextmanager
def naming_out_of_memory(what: str) -> Iterator[None]:
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
