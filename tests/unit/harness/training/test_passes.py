"""Passes of ranks that share a sharded base: equally many on each, and the gathers of a broken one are caught up."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.nn.batch import Item
from harness.training import passes
from harness.training.held_out import total_losses
from harness.training.passes import forward_only, run_passes
from tests.tiny import VOCAB_SIZE

CPU = torch.device("cpu")


def item(num_tokens: int, member: str = "a") -> Item:
    tokens = np.arange(3, 3 + num_tokens, dtype=np.int32) % VOCAB_SIZE
    return Item(member=member, tokens=tokens, num_source=1, dropout_key=0, weight=0.5)


class Sharded:
    """A bank over a sharded base, which notes what it is told; every token costs a nat."""

    isolates_members = True

    def __init__(self, rows_that_fit: int) -> None:
        self.device, self.rows_left = CPU, rows_that_fit
        self.told: list[str] = []
        self.shards = SimpleNamespace(begin_pass=lambda: self.told.append("begin"), catch_up=self._catch_up)

    def _catch_up(self, backward: bool = True) -> None:
        self.told.append(f"catch up, backward={backward}")

    def item_losses(self, items: Sequence[Item]) -> Tensor:
        if not self.rows_left:
            self.rows_left = 99
            raise torch.OutOfMemoryError("no room")
        self.rows_left -= 1
        self.told.append(f"row of {[(len(one.tokens), one.weight) for one in items]}")
        return torch.ones(sum(one.num_targets for one in items))


def ranks(rank: int = 0, size: int = 1) -> Any:
    return SimpleNamespace(rank=rank, size=size, sum_numbers=list)


def run(bank: Any, items: Sequence[Item], ranks: Any, backward: bool = True) -> passes.Pass:
    """Rows of at most five tokens."""
    return run_passes(
        *(bank, nn.Module(), items, forward_only),
        **{"max_tokens": 5, "ranks": ranks, "should_stop": lambda: False, "backward": backward},
    )


def test_a_rank_with_fewer_rows_repeats_the_shortest_example_without_weight() -> None:
    """Else its losses or gradients would count an example twice."""
    bank = Sharded(rows_that_fit=9)
    done = run(bank, [item(5), item(3), item(4)], ranks(rank=0, size=2))
    assert bank.told == ["begin", "row of [(5, 0.5)]", "begin", "row of [(3, 0.0)]"]
    assert done.losses == {"a": 4 * 0.5}


@pytest.mark.parametrize("backward", [True, False])
def test_the_gathers_of_a_pass_without_room_are_caught_up(monkeypatch: pytest.MonkeyPatch, backward: bool) -> None:
    """As many as a whole pass makes, of forward and backward or of forward alone; then nobody goes on."""
    released: list[torch.device] = []
    monkeypatch.setattr(passes, "release_cached", released.append)
    bank = Sharded(rows_that_fit=0)
    done = run(bank, [item(5), item(5, "b")], ranks(), backward)
    assert bank.told == ["begin", f"catch up, backward={backward}", "begin"]
    assert (done.out_of_memory, done.losses, released) == ("no room", {"a": 0.0, "b": 0.0}, [CPU])


def test_measuring_a_sharded_base_catches_up_no_backward_pass() -> None:
    bank: Any = Sharded(rows_that_fit=0)
    examples = [SimpleNamespace(input_ids=item(n).tokens, num_source=1) for n in (5, 3)]
    nats = total_losses(bank, nn.Module(), {"a": examples}, 8, ranks(), lambda: False)  # type: ignore[dict-item]
    assert bank.told[:2] == ["begin", "catch up, backward=False"]
    assert nats == {"a": 4.0 + 2.0}
