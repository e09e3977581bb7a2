"""The loss on held-out rows while a group trains: one pass without dropout and gradients for all members that are due.

`train.eval_rows` rows are measured after every `train.eval_every_steps` steps, after the last one, and where a race
judges a run. A member's number doesn't depend on who else is measured in the pass. `train.keep_best` keeps the weights
of the lowest loss.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.banks.bank import Bank
from harness.config.schema import TrainConfig
from harness.data.tokens import EncodedExample, EncodedExamples
from harness.devices.ranks import Ranks
from harness.nn.batch import Item
from harness.training.passes import forward_only, run_passes
from harness.training.stopping import StopNow


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The rows that a run is measured on."""

    examples: EncodedExamples
    num_bytes: int | None  # of all targets, UTF-8; None: they are labels


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPoint:
    """The held-out loss at one step of a run."""

    step: int  # optimizer steps done
    eval_loss: float  # mean over all target tokens, nats
    eval_bits_per_byte: float | None  # None where targets are labels
    eval_seconds: float  # this run's share of the group's pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The weights of the lowest held-out loss so far (`train.keep_best`), on the host."""

    step: int
    eval_loss: float
    adapter: dict[str, Tensor]


def is_due(train: TrainConfig, step: int, total_steps: int, until: int | None) -> bool:
    """Whether a run with held-out rows is measured after this step.

    Args:
        until: the step at which the run stops to be judged, if it does.
    """
    if step == 0:
        return False
    every = train.eval_every_steps
    return step == total_steps or (until is not None and step >= until) or (every is not None and step % every == 0)


def total_losses(
    bank: Bank,
    model: nn.Module,
    examples: Mapping[str, EncodedExamples],
    max_tokens: int,
    ranks: Ranks,
    should_stop: Callable[[], bool],
) -> dict[str, float]:
    """The summed loss of each member's held-out rows, nats. Rows are halved where the device has no room for them.

    Where what isn't finite in one member may have reached others, each member is measured apart.

    Args:
        bank: in evaluation mode.
        model: the same, for its layers.
        examples: by member.
        max_tokens: of a row.
        ranks: that share the rows.
        should_stop: called at every layer.

    Raises:
        StopNow: `should_stop` said so on some rank.
        torch.OutOfMemoryError: no room for one example.
    """
    measure = partial(_losses, bank, model, ranks=ranks, should_stop=should_stop)
    items = [item for name, those in examples.items() for item in _items(name, those)]
    losses = measure(items, max_tokens)
    if not bank.isolates_members and len(examples) > 1 and not all(map(math.isfinite, losses.values())):
        losses = measure(items, max_tokens, apart=True)
    return losses


def _losses(
    bank: Bank,
    model: nn.Module,
    items: Sequence[Item],
    max_tokens: int,
    *,
    ranks: Ranks,
    should_stop: Callable[[], bool],
    apart: bool = False,
) -> dict[str, float]:
    longest = max(len(item.tokens) for item in items)
    while True:
        mine = run_passes(
            bank,
            model,
            items,
            forward_only,
            max_tokens=max_tokens,
            ranks=ranks,
            should_stop=should_stop,
            apart=apart,
            backward=False,
        )
        trouble = [float(mine.stop), float(mine.out_of_memory is not None)]
        stop, out_of_memory, *losses = ranks.sum_numbers([*trouble, *mine.losses.values()])
        if stop:
            raise StopNow
        if not out_of_memory:
            return dict(zip(mine.losses, losses, strict=True))
        if max_tokens <= longest:
            raise torch.OutOfMemoryError(mine.out_of_memory or "on another rank")
        max_tokens = max(max_tokens // 2, longest)


def eval_point(held_out: HeldOut, nats: float, step: int, seconds: float) -> EvalPoint:
    """The held-out loss of a member. Args: nats: its summed loss."""
    num_targets = sum(item.num_targets for item in _items("", held_out.examples))
    num_bytes = held_out.num_bytes
    return EvalPoint(
        step=step,
        eval_loss=nats / num_targets,
        eval_bits_per_byte=nats / math.log(2) / num_bytes if num_bytes else None,
        eval_seconds=seconds,
    )


def better(best: Best | None, point: EvalPoint, parameters: Mapping[str, nn.Parameter]) -> Best:
    """The best weights after this point; of equal losses the earlier one stays."""
    if best is not None and point.eval_loss >= best.eval_loss:
        return best
    adapter = {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}
    return Best(step=point.step, eval_loss=point.eval_loss, adapter=adapter)


def _items(member: str, examples: EncodedExamples) -> Iterator[Item]:
    for index in range(len(examples)):
        example: EncodedExample = examples[index]
        yield Item(
            member=member,
            tokens=example.input_ids,
            num_source=example.num_source,
            dropout_key=0,
            weight=1.0,
            label=getattr(example, "label", None),
        )
