"""Runs a worker of several devices on this machine: a process for each, started and ended together.

This process holds no model. It hosts the store where the ranks meet, waits, and when one of them dies it ends the
others, tells the ledger why, and leaves with status 1, so that whoever started the worker starts another.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from harness.devices.hardware import Place
from harness.devices.heartbeats import PEER_LOST_STATUS
from harness.ledger.database import Opening
from harness.ledger.ledger import Ledger
from sweeps.jobs.settings import WorkerSettings, short_name, worker_name
from sweeps.workers.forkserver import preload
from sweeps.workers.processes import ERRORS, PEER_SECONDS, POLL_SECONDS, STOP_SECONDS, held_by, how_ended
from sweeps.workers.serve import run_rank
from sweeps.workers.signals import ignore_signals, stopped_by


def run_ranks(
    settings: WorkerSettings, connection: Connection | None, threads: int | None, stop_on: Sequence[signal.Signals]
) -> signal.Signals | None:
    """Runs `launch.devices_per_run` ranks until rank 0 has nothing left to do. -> the signal that asked for an end.

    Raises:
        SystemExit: status 1; a rank died.
    """
    stop = threading.Event()
    with stopped_by(stop, stop_on) as caught:
        _run_ranks(settings, connection, threads, stop_on, stop)
    return caught[0] if caught else None


def _run_ranks(
    settings: WorkerSettings,
    connection: Connection | None,
    threads: int | None,
    stop_on: Sequence[signal.Signals],
    stop: threading.Event,
) -> None:
    size = settings.launch.devices_per_run
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    name = worker_name(os.getpid())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload(settings.launch.device)])  # one import for all ranks
    with ignore_signals(stop_on):
        ensure_running()  # the forkserver lives on while the ranks save
    processes: list[ForkServerProcess] = []
    for rank in range(size):
        place = Place(rank=rank, size=size, local_rank=rank)
        own = threads and max(1, threads // size)
        arguments = (settings, connection if rank == 0 else None, own, name, place, store.port, stop_on)
        process = context.Process(target=run_rank, args=arguments)
        process.start()
        processes.append(process)
    if connection is not None:
        connection.close()  # rank 0 has it now
    try:
        _watch(processes, stop)
        broken = _first_broken(processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if broken is not None:
        _report(settings, name, f"rank {broken} of {size} {_reason(processes[broken], broken, store)}")
        raise SystemExit(1)


def _watch(processes: list[ForkServerProcess], stop: threading.Event) -> None:
    """Returns when all have ended, or when those that are left have nothing to wait for."""
    deadline: float | None = None
    stop_sent = False
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running], timeout=POLL_SECONDS)
        if stop.is_set() and not stop_sent:
            stop_sent = True
            processes[0].terminate()
        codes = [process.exitcode for process in processes]
        if any(code is not None and code < 0 for code in codes) or codes[0]:
            return
        if any(code is not None for code in codes):
            deadline = deadline or time.monotonic() + (PEER_SECONDS if any(codes) else STOP_SECONDS)
            if time.monotonic() > deadline:
                return


def _first_broken(processes: list[ForkServerProcess]) -> int | None:
    """The rank that failed first: a killed one, else one with an error, else one that lost its peers."""
    codes = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
    return min(codes, key=lambda rank: (codes[rank] == PEER_LOST_STATUS, codes[rank]), default=None)


def _reason(process: ForkServerProcess, rank: int, store: Store) -> str:
    errors = PrefixStore(ERRORS, store)
    if errors.check([str(rank)]):
        return f"failed: {errors.get(str(rank)).decode()}"
    return f"died ({how_ended(process.exitcode or 0)})"


def _report(settings: WorkerSettings, name: str, reason: str) -> None:
    """Fails the jobs that rank 0 has not settled by itself."""
    print(f"worker {short_name(name)}: {reason}", file=sys.stderr)
    ledger = Ledger.open(settings.ledger_url, opening=Opening.use)
    try:
        for claim in held_by(name, ledger, settings.sweep):
            ledger.fail(claim, reason, retry=True)
    finally:
        ledger.close()
