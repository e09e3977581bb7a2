"""One worker process: claims jobs of one group, runs them, settles them, until nothing is left.

Every job under every launch goes through here, single runs too. Its entry is an importable function, so
that a preloaded forkserver starts it in 0.05 s. SIGTERM: state is saved, claims are given back, the process ends.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from harness.ledger import JobRow, JobStatus, Ledger, LedgerError
from harness.models import quiet_libraries
from harness.train import TrainingInterrupted
from sweeps.context import Context
from sweeps.evals import EVALS
from sweeps.settings import WorkerSettings, worker_name
from sweeps.training import train_jobs

KINDS: dict[str, Callable[[Context, Sequence[JobRow]], None]] = {"train": train_jobs, **EVALS}
IDLE_SECONDS = 0.5


def run_worker(settings: WorkerSettings, connection: Connection | None, threads: int | None) -> None:
    """A worker's life. `connection` carries progress to the parent; its end means that the parent is gone."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us by SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    quiet_libraries()
    if threads is not None:
        torch.set_num_threads(threads)
    if connection is not None:
        threading.Thread(target=_stop_with_parent, args=(connection, stop), daemon=True).start()
    ledger = Ledger.open(settings.ledger_url)
    context = Context(settings=settings, ledger=ledger, should_stop=stop.is_set, send=_sender(connection))
    try:
        while not stop.is_set() and work_once(context):
            pass
    finally:
        ledger.close()


def work_once(context: Context) -> bool:
    """Claims and runs one batch of jobs. -> False when nothing is left that could become ours."""
    launch = context.settings.launch
    claims = context.ledger.claim(
        worker_name(os.getpid()),
        list(KINDS),
        max_jobs=launch.max_group_size,
        lease_seconds=launch.lease_seconds,
        max_attempts=launch.max_attempts,
        sweep=context.settings.sweep,
    )
    if not claims:
        if not _anything_open(context):
            return False
        time.sleep(IDLE_SECONDS)
        return True
    context.settled.clear()
    context.lost.clear()
    with _leases_renewed(context, claims):
        _run(context, claims)
    return True


def _run(context: Context, claims: Sequence[JobRow]) -> None:
    try:
        KINDS[claims[0].kind](context, claims)
    except TrainingInterrupted:
        context.ledger.release([claim for claim in claims if claim.job_id not in context.settled])
    except Exception as error:  # the boundary of a job: whatever broke becomes its recorded reason
        retry = not isinstance(error, ValueError)
        for claim in claims:
            if claim.job_id not in context.settled:
                folder = context.run_folder(claim.run_id)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "error.log").write_text(traceback.format_exc())
                context.fail(claim, f"{type(error).__name__}: {error} ({folder / 'error.log'})", retry)


@contextmanager
def _leases_renewed(context: Context, claims: Sequence[JobRow]) -> Iterator[None]:
    """Renews the claims' leases from a thread while the work goes on."""
    ended = threading.Event()
    lease = context.settings.launch.lease_seconds

    def renew() -> None:
        while not ended.wait(lease / 4):
            open_claims = [claim for claim in claims if claim.job_id not in context.settled]
            if open_claims:
                context.lost |= {claim.job_id for claim in open_claims} - _still_held(context, open_claims, lease)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _still_held(context: Context, claims: Sequence[JobRow], lease: float) -> set[str]:
    try:
        return context.ledger.heartbeat(claims, lease)
    except LedgerError:  # gone for longer than it waits: the work goes on, and the next heartbeat or `finish` decides
        return {claim.job_id for claim in claims}


def _anything_open(context: Context) -> bool:
    counts = context.ledger.counts(context.settings.sweep)
    return any(
        per_kind.get(status, 0) for per_kind in counts.values() for status in (JobStatus.queued, JobStatus.claimed)
    )


def _sender(connection: Connection | None) -> Callable[[dict[str, Any]], None]:
    def send(message: dict[str, Any]) -> None:
        if connection is None:
            return
        try:
            connection.send(message)
        except OSError:
            pass  # the parent is gone; the watching thread ends us

    return send


def _stop_with_parent(connection: Connection, stop: threading.Event) -> None:
    try:
        connection.recv()
    except (EOFError, OSError):
        pass
    stop.set()
