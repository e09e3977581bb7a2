"""A rank that hangs, or is gone with its machine, ends the others in time; one that is only busy does not."""

import os
import signal
import time
from typing import Any

import pytest
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from harness.devices.hardware import Place
from harness.devices.heartbeats import PEER_LOST_STATUS, Heartbeats
from harness.devices.ranks import Ranks
from sweeps.jobs.peers import Peers
from tests.processes.rank_processes import on_ranks

SILENT_SECONDS = 2.0


def hang() -> None:
    """Stops this process. Another thread may take the signal, and this one would go on for a moment: it waits."""
    os.kill(os.getpid(), signal.SIGSTOP)
    signal.pause()


def stop_one(ranks: Ranks) -> float:
    """Rank 1 is stopped where it stands, as one that hangs; the other one waits for its numbers."""
    ranks.sum_numbers([1.0])
    if ranks.rank == 1:
        hang()
    return ranks.sum_numbers([1.0])[0]


def hear_nothing(ranks: Ranks, port: int) -> Any:
    """Rank 0, which should say what comes next, is stopped; the other one is idle."""
    store = TCPStore("127.0.0.1", port, is_master=False)
    if ranks.rank == 0:
        hang()
    return Peers(ranks=ranks, store=store).receive()


def busy(ranks: Ranks) -> float:
    if ranks.rank == 1:
        time.sleep(2 * SILENT_SECONDS)
    total = ranks.sum_numbers([1.0])[0]
    ranks.leave()
    return total


def test_a_rank_that_hangs_is_lost_and_ends_the_other() -> None:
    (outcome,) = on_ranks(2, stop_one, silent_seconds=SILENT_SECONDS, answering=(0,))
    assert outcome.error == "PeerLostError: rank 1 of 2 gave no sign of life for 2 s"


def test_an_idle_rank_hears_of_it_too() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (outcome,) = on_ranks(2, hear_nothing, store.port, silent_seconds=SILENT_SECONDS, answering=(1,))
    assert outcome.error == "PeerLostError: rank 0 of 2 gave no sign of life for 2 s"


def test_a_busy_rank_is_waited_for() -> None:
    outcomes = on_ranks(2, busy, silent_seconds=SILENT_SECONDS)
    assert [outcome.value for outcome in outcomes] == [2.0, 2.0]


def beats(store: Any, rank: int, silent_seconds: float = 0.5, exit_at_once: bool = False) -> Heartbeats:
    return Heartbeats(Place(rank=rank, size=2, local_rank=rank), store, silent_seconds, exit_at_once)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_that_left_in_good_order_is_not_lost() -> None:
    store = HashStore()
    first, second = beats(store, 0), beats(store, 1)
    second.stop()
    time.sleep(1.5)  # three times the silence
    assert first.lost is None
    first.stop()


def test_after_a_pause_of_its_own_nobody_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that suspends all ranks wakes one of them first."""
    store = HashStore()
    first = beats(store, 0, silent_seconds=100)
    first.stop()
    store.set("alive/1", "7")
    assert first._silent() is None
    clock = [time.monotonic() + 1000]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert first._silent() is None, "it slept itself"
    found = []
    for _ in range(11):
        clock[0] += 10
        found.append(first._silent())
    assert found[:10] == [None] * 10
    assert found[10] == "rank 1 of 2 gave no sign of life for 100 s"


def test_on_cuda_the_process_ends_before_anything_wrong_is_saved(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    first = beats(HashStore(), 0, exit_at_once=True)
    wait_for(lambda: ends)
    assert ends == [PEER_LOST_STATUS]
    assert first.lost == "rank 1 of 2 gave no sign of life for 0.5 s"
    assert "rank 0 ends: rank 1 of 2 gave no sign of life for 0.5 s (launch.peer_seconds)" in capfd.readouterr().err


def test_a_store_that_is_gone_is_said() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first = beats(TCPStore("127.0.0.1", store.port, is_master=False), 0)
    del store
    wait_for(lambda: first.lost)
    assert first.lost is not None
    assert first.lost.startswith("the store where the ranks meet can't be reached")
    first.stop()
