"""Runs the passes of a step over the rows of a group: forward and backward to train, forward alone to measure.

Each rank of a worker takes its share of the items. Whether they stop, or have run out of memory, is agreed afterwards.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from harness.banks.bank import Bank
from harness.devices.memory import is_out_of_memory, release_cached
from harness.devices.ranks import Ranks
from harness.nn.batch import Item, send, share_out, split_rows
from harness.training.stopping import StopNow, stops_at_layers

Work = Callable[[Bank, Sequence[Item]], dict[str, Tensor]]  # on one row -> each member's share of its loss


@dataclass(slots=True, kw_only=True)
class Pass:
    """The outcome of a step's passes on this rank."""

    losses: dict[str, float] = field(default_factory=dict)  # member -> its share of the step's loss
    stop: bool = False  # asked to
    out_of_memory: str | None = None  # the device's own words


def run_passes(
    bank: Bank,
    model: nn.Module,
    items: Sequence[Item],
    work: Work,
    *,
    max_tokens: int,
    ranks: Ranks,
    should_stop: Callable[[], bool],
    apart: bool = False,
    backward: bool = True,
) -> Pass:
    """Does the work on every row of this rank's share of the items.

    Ranks that shard their base gather it together, so all make the same number of passes: a rank with fewer rows
    repeats an example with weight 0, and trouble is told before each pass, not after the last.

    Args:
        bank: with the items' members.
        model: the same, for its layers.
        items: of one member next to each other.
        work: on a row.
        max_tokens: of a row; a longer item has a row of its own.
        ranks: that share the items.
        should_stop: called at every layer (of a sharded base between two passes).
        apart: no row holds two members, so that what isn't finite stays with its own.
        backward: whether the work has a backward pass.
    """
    shards = bank.shards
    done, losses = Pass(), list[dict[str, Tensor]]()
    for row in _rows_of_rank(items, max_tokens, ranks, apart=apart, even=shards is not None):
        done.stop = done.stop or should_stop()
        trouble = done.stop or done.out_of_memory is not None
        if shards is not None:
            trouble = ranks.sum_numbers([trouble])[0] > 0
            shards.begin_pass()
        if trouble:
            break
        try:  # ranks that gather their base together can't leave in the middle of a pass
            with stops_at_layers(model, should_stop) if shards is None else nullcontext():
                losses.append(work(bank, row))
        except StopNow:
            done.stop = True
        except (RuntimeError, MemoryError) as error:  # cuBLAS and the driver raise plain RuntimeErrors
            if not is_out_of_memory(error):
                raise
            done.out_of_memory = str(error)  # not the error: its traceback holds the pass's tensors
        if done.out_of_memory is not None:
            release_cached(bank.device)
            if shards is not None:
                shards.catch_up(backward)
    whole = not done.stop and done.out_of_memory is None
    done.losses = _summed(losses if whole else [], list(dict.fromkeys(item.member for item in items)))
    return done


def _rows_of_rank(items: Sequence[Item], max_tokens: int, ranks: Ranks, *, apart: bool, even: bool) -> list[list[Item]]:
    """This rank's rows.

    Args:
        items: of one member next to each other.
        max_tokens: of a row.
        ranks: that share the items.
        apart: no row holds two members.
        even: as many on every rank, by rows of one example with weight 0.
    """
    together = [list(own) for _, own in groupby(items, key=lambda item: item.member)] if apart else [items]
    shares = [share_out(those, ranks.size) for those in together]
    rows_by_rank = [
        [row for share in shares for row in split_rows(share[rank], max_tokens)] for rank in range(ranks.size)
    ]
    missing = max(map(len, rows_by_rank)) - len(rows_by_rank[ranks.rank]) if even else 0
    idle = replace(min(items, key=lambda item: len(item.tokens)), weight=0.0)
    return rows_by_rank[ranks.rank] + [[idle]] * missing


def forward_backward(bank: Bank, row: Sequence[Item]) -> dict[str, Tensor]:
    """Adds the row's gradients to the parameters'. -> each member's share of its loss, on the bank's device."""
    token_losses = _weighted_losses(bank, row)
    token_losses.sum().backward()
    return _by_member(token_losses.detach(), row)


@torch.no_grad()
def forward_only(bank: Bank, row: Sequence[Item]) -> dict[str, Tensor]:
    """Each member's share of its loss, on the bank's device; no gradients."""
    return _by_member(_weighted_losses(bank, row), row)


def _weighted_losses(bank: Bank, row: Sequence[Item]) -> Tensor:
    weights = np.repeat(np.array([item.weight for item in row], dtype=np.float32), [item.num_targets for item in row])
    return bank.item_losses(row) * send(weights, bank.device)


def _by_member(token_losses: Tensor, row: Sequence[Item]) -> dict[str, Tensor]:
    counts = Counter[str]()
    for item in row:
        counts[item.member] += item.num_targets
    parts = token_losses.split(list(counts.values()))
    return {member: part.sum(dtype=torch.float64) for member, part in zip(counts, parts, strict=True)}


def _summed(losses: Sequence[Mapping[str, Tensor]], members: Sequence[str]) -> dict[str, float]:
    """Adds up the rows' losses. Only here in a step does the host wait for the device's passes."""
    parts = [(member, part) for row in losses for member, part in row.items()]
    sums = dict.fromkeys(members, 0.0)
    numbers = torch.stack([part for _, part in parts]).tolist() if parts else []
    for (member, _), number in zip(parts, numbers, strict=True):
        sums[member] += number
    return sums
