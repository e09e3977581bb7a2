"""Runs a function on several ranks, real processes over gloo, and hands back what each returned or died of."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from harness.devices.hardware import Place
from harness.devices.ranks import Ranks, join_ranks

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one rank."""

    value: Any = None
    error: str | None = None  # the type's name and the message
    exit_code: int | None = 0


def on_ranks(
    size: int,
    target: Callable[..., Any],
    *arguments: Any,
    silent_seconds: float | None = None,
    answering: Sequence[int] | None = None,
) -> list[Outcome]:
    """Calls `target(ranks, *arguments)` on each of `size` ranks. `target` must be importable.

    Args:
        silent_seconds: as in `join_ranks`.
        answering: those whose outcomes are waited for, and handed back; None: all.

    Raises:
        TimeoutError: some rank neither returned nor died; all are killed by then.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes.rank_processes", "harness.training.loop", "harness.banks.load"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        context.Process(target=_run, args=(rank, size, store.port, pipe[1], target, arguments, silent_seconds))
        for rank, pipe in enumerate(pipes)
    ]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    try:
        return [_outcome(processes[rank], pipes[rank][0]) for rank in answering or range(size)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def values(outcomes: Sequence[Outcome]) -> list[Any]:
    """What every rank returned; fails with what one died of."""
    for outcome in outcomes:
        assert outcome.error is None and outcome.exit_code == 0, outcome  # noqa: PT018
    return [outcome.value for outcome in outcomes]


def _outcome(process: Any, pipe: Connection) -> Outcome:
    if not pipe.poll(TIMEOUT_SECONDS):
        raise TimeoutError(f"no answer in {TIMEOUT_SECONDS} s")
    try:
        outcome: Outcome = pickle.loads(pipe.recv_bytes())
    except EOFError:
        process.join()
        return Outcome(exit_code=process.exitcode)
    return outcome


# send_bytes below, not send, which would share tensors memory with a process that has ended
def _run(
    rank: int,
    size: int,
    port: int,
    pipe: Connection,
    target: Callable[..., Any],
    arguments: Sequence[Any],
    silent_seconds: float | None,
) -> None:
    torch.set_num_threads(1)
    try:
        store = TCPStore("127.0.0.1", port, is_master=False)
        place = Place(rank=rank, size=size, local_rank=rank)
        ranks: Ranks = join_ranks(place, store, torch.device("cpu"), silent_seconds)
        pipe.send_bytes(pickle.dumps(Outcome(value=target(ranks, *arguments))))
    except Exception as error:
        traceback.print_exc()
        pipe.send_bytes(pickle.dumps(Outcome(error=f"{type(error).__name__}: {error}")))
    pipe.close()
    os._exit(0)
