"""One worker process: claims jobs of one group, runs them, settles them, until nothing is left.

Every job under every launch goes through here, single runs too. Over several devices, rank 0 does so and tells the
other ranks (`launch.devices_per_run` starts them here, or torchrun has). Its entry is an importable function, so
that a preloaded forkserver starts it in 0.05 s. SIGTERM (and what else the launcher names): state is saved, claims are
given back, the process ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Never

import torch
from torch.distributed import PrefixStore, TCPStore, rendezvous  # type: ignore[attr-defined]

from harness.devices import Place
from harness.files import is_out_of_space, share_as_folder_says
from harness.heartbeats import PEER_LOST_STATUS
from harness.ledger import JobRow, JobStatus, Ledger
from harness.models import quiet_libraries
from harness.ranks import PeerLostError
from harness.signs import heard_by
from harness.train import TrainingInterrupted
from sweeps.context import Context, Workplace, now_awake_or_not
from sweeps.crew import Crew, join_crew
from sweeps.evals import EVALS, SCORES, follow_evals
from sweeps.launch import whole_base_problem
from sweeps.local import ALIVE, STOP_SECONDS
from sweeps.plan import TRAIN
from sweeps.rank_processes import ERRORS, PEER_SECONDS, run_ranks
from sweeps.settings import EXIT_NO_SPACE, WorkerSettings, worker_name
from sweeps.training import follow_training, train_jobs
from sweeps.waiting import stop_at, stopped_by

KINDS: dict[str, Callable[[Context, Sequence[JobRow]], None]] = {TRAIN: train_jobs, **EVALS}
FOLLOWED: dict[str, Callable[[Workplace, Sequence[JobRow]], None]] = {
    TRAIN: follow_training,
    **dict.fromkeys(SCORES, follow_evals),
}
IDLE_SECONDS = 0.5
PEER_GRACE_SECONDS = 2 * PEER_SECONDS


def run_worker(
    settings: WorkerSettings,
    connection: Connection | None,
    threads: int | None,
    stop_on: Sequence[signal.Signals] = (signal.SIGTERM,),
) -> signal.Signals | None:
    """A worker's life. -> the signal that ended it, None where nothing was left to do, or the parent went.

    Args:
        settings: what it must know.
        connection: carries progress to the parent; its end means that the parent is gone.
        threads: CPU threads for torch; None leaves torch's own number.
        stop_on: signals that ask for an orderly end. Ctrl-C reaches the parent, which asks us by one of these.
    """
    if settings.launch.devices_per_run > 1:
        return run_ranks(settings, connection, threads, stop_on)
    stop = threading.Event()
    with stopped_by(stop, stop_on) as caught:
        _prepare(connection, threads, stop)
        _serve_watched(settings, worker_name(os.getpid()), stop, connection, Crew())
    return caught[0] if caught else None


def run_rank(
    settings: WorkerSettings,
    connection: Connection | None,
    threads: int | None,
    name: str,
    place: Place,
    port: int,
    stop_on: Sequence[signal.Signals],
) -> None:
    """The life of one process of a worker of several devices; `sweeps.rank_processes` starts it.

    Args:
        settings: as the worker's.
        connection: rank 0's to the worker's parent.
        threads: of this process.
        name: the worker's, under which rank 0 claims.
        place: which rank this is.
        port: of the store on this machine where the ranks meet.
        stop_on: as the worker's; a scheduler sends them to every process.
    """
    stop = threading.Event()
    stop_at(stop, stop_on)
    _prepare(connection, threads, stop)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()
    store = TCPStore("127.0.0.1", port, is_master=False)
    try:
        crew = join_crew(place, store, settings.launch)
        if crew.ranks.leads:
            _serve_watched(settings, name, stop, connection, crew)
        else:
            _follow(Workplace(settings=settings, should_stop=stop.is_set, send=lambda _: None, crew=crew))
        crew.ranks.leave()
        status = 0
    except _OutOfStep:
        status = 1
    except PeerLostError as error:
        print(f"rank {place.rank}: {error}", file=sys.stderr)
        status = PEER_LOST_STATUS
    except Exception as error:  # the boundary of the process: its last words go to those who ask why it ended
        PrefixStore(ERRORS, store).set(str(place.rank), f"{type(error).__name__}: {error}")
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # whatever the ranks' connections are up to: nothing is left to do in this process


def run_here(settings: WorkerSettings, place: Place, send: Callable[[dict[str, Any]], None]) -> None:
    """This process is one of those that torchrun started; it works until nothing is left.

    Raises:
        KeyboardInterrupt: asked to stop; state is saved.
    """
    stop = threading.Event()
    stop_at(stop, (signal.SIGTERM, signal.SIGINT))
    _prepare(None, settings.launch.threads, stop)
    store, _, _ = next(rendezvous("env://"))
    crew = join_crew(place, store, settings.launch)
    try:
        if crew.ranks.leads:
            _serve(settings, worker_name(os.getpid()), stop, send, crew)
        else:
            _follow(Workplace(settings=settings, should_stop=stop.is_set, send=send, crew=crew))
        crew.ranks.leave()
        torch.distributed.destroy_process_group()
    except _OutOfStep as error:
        if isinstance(error.__cause__, PeerLostError):
            _end_at_once(error.__cause__)
        # the ledger says what went wrong; what is left is for the next launch
    except PeerLostError as error:
        _end_at_once(error)
    if stop.is_set():
        raise KeyboardInterrupt


def _end_at_once(error: PeerLostError) -> Never:
    """An orderly end would wait for the operation that the lost rank doesn't answer; torchrun ends the others."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(PEER_LOST_STATUS)


class _OutOfStep(Exception):
    """A job failed on rank 0 and is settled; where the others are in it, nobody knows."""


def _prepare(connection: Connection | None, threads: int | None, stop: threading.Event) -> None:
    quiet_libraries()
    if threads is not None:
        torch.set_num_threads(threads)
    if connection is not None:
        threading.Thread(target=_stop_with_parent, args=(connection, stop), daemon=True).start()


def _serve_watched(
    settings: WorkerSettings, name: str, stop: threading.Event, connection: Connection | None, crew: Crew
) -> None:
    """As `_serve`; whoever holds the other end also hears that downloads and other long work get on."""
    send = _sender(connection)
    with heard_by(lambda: send({"phase": ALIVE, "label": ""})):
        _serve(settings, name, stop, send, crew)


def _serve(
    settings: WorkerSettings,
    name: str,
    stop: threading.Event,
    send: Callable[[dict[str, Any]], None],
    crew: Crew,
) -> None:
    """Works until nothing is left, or `stop`; then lets the other ranks go."""
    share_as_folder_says(settings.paths.runs)
    ledger = Ledger.open(settings.ledger_url)
    context = Context(settings=settings, ledger=ledger, should_stop=stop.is_set, send=send, crew=crew)
    try:
        while not stop.is_set() and work_once(context, name):
            pass
        crew.tell(None)
    finally:
        ledger.close()


def _follow(place: Workplace) -> None:
    """What every rank but the first does: its part of each job that rank 0 tells of."""
    while (claims := place.crew.hear_job()) is not None:
        try:
            FOLLOWED[claims[0].kind](place, claims)
        except TrainingInterrupted:
            continue


def work_once(context: Context, name: str) -> bool:
    """Claims as the worker `name` and runs one batch of jobs. -> False at a stop, or with nothing left to claim."""
    launch = context.settings.launch
    context.renewed = now_awake_or_not()
    claims = context.ledger.claim(
        name,
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
        return _run(context, claims)


def _run(context: Context, claims: Sequence[JobRow]) -> bool:
    """-> False where some rank was asked to stop.

    Raises:
        SystemExit: nothing can be written any more (EXIT_NO_SPACE); the claims are given back.
    """
    kind = claims[0].kind
    try:
        if context.shards_base and kind not in FOLLOWED:
            raise ValueError(whole_base_problem(kind))
        if kind == TRAIN or context.shards_base:
            context.crew.tell_job(claims)
        KINDS[kind](context, claims)
    except TrainingInterrupted:
        _release(context, claims)
        return False
    except Exception as error:  # the boundary of a job: whatever broke becomes its recorded reason
        if isinstance(error, PeerLostError):
            time.sleep(PEER_GRACE_SECONDS)  # who started us knows which one died and why: we are ended, that recorded
        if is_out_of_space(error):  # it fails every run alike: the sweep stops, and no run is blamed
            _release(context, claims)
            context.send({"phase": "stopped", "label": "the sweep", "reason": str(error)})
            if context.crew.ranks.size == 1:
                sys.exit(EXIT_NO_SPACE)
        for claim in claims:
            if claim.job_id not in context.settled:
                context.fail_with(claim, error)
        if context.crew.ranks.size > 1:
            raise _OutOfStep from error
    return True


def _release(context: Context, claims: Sequence[JobRow]) -> None:
    context.ledger.release([claim for claim in claims if claim.job_id not in context.settled])
    context.settled |= {claim.job_id for claim in claims}


@contextmanager
def _leases_renewed(context: Context, claims: Sequence[JobRow]) -> Iterator[None]:
    """Renews the claims' leases from a thread while the work goes on."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(context.settings.launch.lease_seconds / 4):
            context.renew(claims)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _anything_open(context: Context) -> bool:
    counts = context.ledger.counts(context.settings.sweep)
    return any(
        per_kind.get(status, 0) for per_kind in counts.values() for status in (JobStatus.queued, JobStatus.claimed)
    )


def _sender(connection: Connection | None) -> Callable[[dict[str, Any]], None]:
    one_at_a_time = threading.Lock()  # threads that download tell of it themselves

    def send(message: dict[str, Any]) -> None:
        if connection is None:
            return
        try:
            with one_at_a_time:
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


def _end_with_parent(stop: threading.Event) -> None:
    """Where the process that watches over the ranks is gone: time to save, then the end, whoever is waited for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.set()
    time.sleep(STOP_SECONDS)
    os._exit(1)
