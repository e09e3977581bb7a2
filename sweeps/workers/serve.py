"""The claim loop of a worker process: it claims jobs of one group, runs and settles them, until none is left.

Every job under every launch goes through here, single runs too. Over several devices rank 0 claims and settles, and
tells the other ranks of each job (`run_rank`; `run_here` where torchrun has started the processes).
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

from eval.benchmarks.registry import BENCHMARKS
from harness.devices.hardware import Place
from harness.devices.heartbeats import PEER_LOST_STATUS
from harness.devices.ranks import PeerLostError
from harness.devices.torch_device import quiet_libraries
from harness.files.atomic import is_out_of_space, share_as_folder_says
from harness.files.signs import heard_by
from harness.ledger.database import Opening
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus
from harness.training.loop import TrainingInterrupted
from sweeps.jobs.context import Context, Workplace, now_awake_or_not
from sweeps.jobs.evals import eval_jobs, follow_evals
from sweeps.jobs.peers import Peers, join_peers
from sweeps.jobs.settings import EXIT_NO_SPACE, WorkerSettings, worker_name
from sweeps.jobs.training import follow_training, train_jobs
from sweeps.plan.jobs import TRAIN, whole_base_problem
from sweeps.workers.processes import ALIVE, ERRORS, PEER_SECONDS, STOP_SECONDS
from sweeps.workers.signals import stop_at

IDLE_SECONDS = 0.5
PEER_GRACE_SECONDS = 2 * PEER_SECONDS


def run_rank(
    settings: WorkerSettings,
    connection: Connection | None,
    threads: int | None,
    name: str,
    place: Place,
    port: int,
    stop_on: Sequence[signal.Signals],
) -> None:
    """The life of one process of a worker of several devices; `sweeps.workers.ranks` starts it.

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
    prepare_worker(connection, threads, stop)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()
    store = TCPStore("127.0.0.1", port, is_master=False)
    try:
        peers = join_peers(place, store, settings.launch)
        if peers.ranks.leads:
            serve_watched(settings, name, stop, connection, peers)
        else:
            _follow(Workplace(settings=settings, should_stop=stop.is_set, send=lambda _: None, peers=peers))
        peers.ranks.leave()
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
    """Works, as one of the processes that torchrun started, until nothing is left.

    Raises:
        KeyboardInterrupt: asked to stop; state is saved.
    """
    stop = threading.Event()
    stop_at(stop, (signal.SIGTERM, signal.SIGINT))
    prepare_worker(None, settings.launch.threads, stop)
    store, _, _ = next(rendezvous("env://"))
    peers = join_peers(place, store, settings.launch)
    try:
        if peers.ranks.leads:
            _serve(settings, worker_name(os.getpid()), stop, send, peers)
        else:
            _follow(Workplace(settings=settings, should_stop=stop.is_set, send=send, peers=peers))
        peers.ranks.leave()
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
    """Raised when a job failed on rank 0 and is settled, while the other ranks may be anywhere within it."""


def prepare_worker(connection: Connection | None, threads: int | None, stop: threading.Event) -> None:
    """Readies this process: CPU threads, quiet libraries, and the watch over its parent."""
    quiet_libraries()
    if threads is not None:
        torch.set_num_threads(threads)
    if connection is not None:
        threading.Thread(target=_stop_with_parent, args=(connection, stop), daemon=True).start()


def serve_watched(
    settings: WorkerSettings, name: str, stop: threading.Event, connection: Connection | None, peers: Peers
) -> None:
    """As `_serve`, and tells the other end of the connection of progress in downloads and other long work."""
    send = _sender(connection)
    with heard_by(
        lambda: send({"phase": ALIVE, "label": ""}), lambda note: send({"phase": "note", "label": "", "note": note})
    ):
        _serve(settings, name, stop, send, peers)


def _serve(
    settings: WorkerSettings,
    name: str,
    stop: threading.Event,
    send: Callable[[dict[str, Any]], None],
    peers: Peers,
) -> None:
    """Works until nothing is left, or `stop`; then lets the other ranks go."""
    share_as_folder_says(settings.paths.runs)
    ledger = Ledger.open(settings.ledger_url, opening=Opening.use)
    context = Context(settings=settings, ledger=ledger, should_stop=stop.is_set, send=send, peers=peers)
    try:
        while not stop.is_set() and work_once(context, name):
            pass
        peers.broadcast(None)
    finally:
        ledger.close()


def _follow(place: Workplace) -> None:
    """Does this rank's part of each job that rank 0 broadcasts."""
    while (claims := place.peers.receive_job()) is not None:
        try:
            (follow_training if claims[0].kind == TRAIN else follow_evals)(place, claims)
        except TrainingInterrupted:
            continue


def work_once(context: Context, name: str) -> bool:
    """Claims as the worker `name` and runs one batch of jobs. -> False at a stop, or with nothing left to claim."""
    context.renewed, context.worker = now_awake_or_not(), name
    context.held.clear()
    claims = context.claim([TRAIN, *BENCHMARKS], context.settings.launch.max_group_size)
    if not claims:
        if not _anything_open(context):
            return False
        time.sleep(IDLE_SECONDS)
        return True
    context.settled.clear()
    context.lost.clear()
    claims = [claim for claim in claims if _is_well_named(context, claim)]
    with _leases_renewed(context):
        return _run(context, claims) if claims else True


def _is_well_named(context: Context, claim: JobRow) -> bool:
    """Fails a job of a shared ledger whose run would lie outside of the folder of runs."""
    try:
        context.run_folder(claim.run_id)
    except ValueError as error:
        context.fail(claim, str(error), retry=False)
        return False
    return True


def _run(context: Context, claims: Sequence[JobRow]) -> bool:
    """-> False where some rank was asked to stop.

    Raises:
        SystemExit: nothing can be written any more (EXIT_NO_SPACE); the claims are given back.
    """
    kind = claims[0].kind
    try:
        if context.shards_base and kind != TRAIN and not BENCHMARKS[kind].scores_sharded_base:
            raise ValueError(whole_base_problem(kind))
        if kind == TRAIN or context.shards_base:
            context.peers.broadcast_job(claims)
        (train_jobs if kind == TRAIN else eval_jobs)(context, claims)
    except TrainingInterrupted:
        context.give_back(context.held)
        return False
    except Exception as error:  # the boundary of a job: whatever broke becomes its recorded reason
        if isinstance(error, PeerLostError):
            time.sleep(PEER_GRACE_SECONDS)  # who started us knows which one died and why: we are ended, that recorded
        if is_out_of_space(error):  # it fails every run alike: the sweep stops, and no run is blamed
            context.give_back(context.held)
            context.send({"phase": "stopped", "label": "the sweep", "reason": str(error)})
            if context.peers.ranks.size == 1:
                sys.exit(EXIT_NO_SPACE)
        for claim in context.held:
            if claim.job_id not in context.settled:
                context.fail_with(claim, error)
        if context.peers.ranks.size > 1:
            raise _OutOfStep from error
    return True


@contextmanager
def _leases_renewed(context: Context) -> Iterator[None]:
    """Renews the leases of the claims that are held from a thread while the work goes on."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(context.settings.launch.lease_seconds / 4):
            context.renew(list(context.held))

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
    """When the process that watches the ranks is gone, gives this one time to save and then ends it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop.set()
    time.sleep(STOP_SECONDS)
    os._exit(1)
