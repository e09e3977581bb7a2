"""Starts worker processes on this machine from a preloaded forkserver, and watches them until no job is left.

Each worker has a slot: CUDA devices that it may see, or a share of the cores (`sweeps.plan.slots`).
A worker that dies (-9, out of memory), or is killed because it says nothing for `launch.hang_seconds`, is replaced
while jobs remain: its jobs are taken again, at most `launch.max_attempts` times. Where the disk is full all stop and
no job is blamed. When the parent dies, its workers see their pipe end and stop.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus
from sweeps.jobs.settings import WorkerSettings, is_alive, short_name, worker_name
from sweeps.launch.waiting import Watch, open_jobs
from sweeps.plan.slots import local_slots
from sweeps.workers.entry import start_worker
from sweeps.workers.forkserver import start_forkserver
from sweeps.workers.processes import ALIVE, POLL_SECONDS, STOP_SECONDS, held_by, how_ended
from sweeps.workers.signals import interrupt

MAX_FAILED_STARTS = 3  # workers that die at once, in a row, before the launch gives up


@dataclass(slots=True)
class _Worker:
    process: ForkServerProcess
    name: str  # in the ledger
    connection: Connection
    slot: int
    spoke: bool = False  # it began a job
    last_message: float = field(default_factory=time.monotonic)  # when it came
    reason: str | None = None  # why it is about to end, where we know it
    out_of_space: bool = False  # it can write nothing any more


def run_local(settings: WorkerSettings, ledger: Ledger, watch: Watch) -> bool:
    """Runs workers until the sweep has no open job. -> True: it has waited for the end.

    Raises:
        ValueError: no such device; workers die before they begin a job; or nothing can be written any more.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; by then the workers have saved their state and ended.
    """
    start_forkserver(settings.launch.device)
    context = multiprocessing.get_context("forkserver")
    slots = local_slots(settings.launch, settings.work)
    previous = signal.signal(signal.SIGTERM, interrupt)
    workers: list[_Worker] = []
    num_failed_starts = 0  # in a row
    counted = -POLL_SECONDS  # when the open jobs were counted last
    try:
        _give_up_orphaned_claims(ledger, settings.sweep)
        while True:
            for worker in [w for w in workers if not w.process.is_alive()]:
                workers.remove(worker)
                never_began = _settle_ended(worker, ledger, watch, settings.sweep)
                num_failed_starts = num_failed_starts + 1 if never_began else 0
                counted = -POLL_SECONDS
            if num_failed_starts >= MAX_FAILED_STARTS:
                raise ValueError(
                    f"{num_failed_starts} workers in a row died before they began a job; the reason is above"
                )
            if time.monotonic() - counted > POLL_SECONDS:  # not for each message: to count costs more than a tiny run
                counted = time.monotonic()
                if not open_jobs(ledger, settings.sweep):
                    return True
                _kill_hanging(workers, ledger, settings)
            for slot in sorted(set(range(len(slots))) - {worker.slot for worker in workers}):
                workers.append(_start(context, settings, slots, slot))
            ready = wait([w.connection for w in workers], timeout=POLL_SECONDS)
            for worker in [w for w in workers if w.connection in ready]:
                _receive(worker, watch)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for worker in _stop(workers):
            ledger.release(_claims(worker, ledger, settings.sweep))


def _start(
    context: multiprocessing.context.ForkServerContext,
    settings: WorkerSettings,
    slots: Sequence[str | None],
    slot: int,
) -> _Worker:
    ours, theirs = context.Pipe()
    threads = settings.launch.threads or max(1, (os.cpu_count() or 1) // len(slots))
    shared = replace(settings, workers_on_device=slots.count(slots[slot]))
    process = context.Process(target=start_worker, args=(shared, theirs, threads, slots[slot]))
    process.start()
    theirs.close()
    assert process.pid is not None
    return _Worker(process, worker_name(process.pid), ours, slot)


def _receive(worker: _Worker, watch: Watch) -> bool:
    """Passes one message on to `watch`. -> False if the worker has ended."""
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        time.sleep(POLL_SECONDS)  # poll() stays true at the end of a pipe: don't spin until the process is reaped
        return False
    worker.spoke, worker.last_message = True, time.monotonic()
    if message["phase"] == ALIVE:
        return True
    if message["phase"] == "stopped":
        worker.reason, worker.out_of_space = message["reason"], True
    else:
        watch(message)
    return True


def _drain(worker: _Worker, watch: Watch) -> None:
    while worker.connection.poll() and _receive(worker, watch):
        pass


def _kill_hanging(workers: list[_Worker], ledger: Ledger, settings: WorkerSettings) -> None:
    """Kills workers that hold claims and have been silent for too long; their heartbeat may go on while work hangs."""
    limit = settings.launch.hang_seconds
    for worker in workers if limit is not None else []:
        if time.monotonic() - worker.last_message < (limit or 0.0):
            continue
        if _claims(worker, ledger, settings.sweep):
            worker.reason = f"it said nothing for {limit:.0f} s and was killed (launch.hang_seconds)"
            worker.process.kill()
            worker.process.join()
        worker.last_message = time.monotonic()


def _settle_ended(worker: _Worker, ledger: Ledger, watch: Watch, sweep: str | None) -> bool:
    """Reads the last messages of a process that ended, and gives its jobs to others. -> whether it never began a job

    Raises:
        ValueError: it could write nothing any more.
    """
    _drain(worker, watch)
    _report_end(worker, watch)
    given_up = _give_up_claims(worker, ledger, sweep)
    if worker.out_of_space:
        raise ValueError(f"{worker.reason}: make room and start the same command again; nothing is lost")
    return bool(worker.process.exitcode) and not (given_up or worker.spoke)


def _report_end(worker: _Worker, watch: Watch) -> None:
    worker.connection.close()
    if worker.process.exitcode:
        watch({"phase": "died", "label": f"worker {worker.process.pid}", "reason": _how_ended(worker)})


def _how_ended(worker: _Worker) -> str:
    return worker.reason or how_ended(worker.process.exitcode or 0)


def _give_up_claims(worker: _Worker, ledger: Ledger, sweep: str | None) -> int:
    """Gives a dead worker's jobs to others at once, not when their lease runs out. The attempt counts."""
    claims = _claims(worker, ledger, sweep)
    for claim in claims:
        ledger.fail(claim, f"worker {short_name(worker.name)} died ({_how_ended(worker)})", retry=True)
    return len(claims)


def _give_up_orphaned_claims(ledger: Ledger, sweep: str | None) -> None:
    """Gives up claims of workers whose process is gone, because their parent was killed together with them."""
    for claim in ledger.rows(sweep=sweep, status=JobStatus.claimed):
        if is_alive(claim.worker) is False:
            ledger.fail(claim, f"worker {short_name(claim.worker)} died, and its parent too", retry=True)


def _claims(worker: _Worker, ledger: Ledger, sweep: str | None) -> list[JobRow]:
    return held_by(worker.name, ledger, sweep)


def _stop(workers: list[_Worker]) -> list[_Worker]:
    """Asks the workers to save and end. -> those that didn't end in time and were killed"""
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    killed: list[_Worker] = []
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
            killed.append(worker)
    return killed
