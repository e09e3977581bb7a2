"""The life of one worker process, from its start to its end.

Its entry is an importable function, so that a preloaded forkserver starts it in 0.05 s. SIGTERM (and what else the
launcher names) ends it in order: state is saved, claims are given back, the process ends.
"""

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from sweeps.jobs.peers import Peers
from sweeps.jobs.settings import WorkerSettings, worker_name
from sweeps.workers.ranks import run_ranks
from sweeps.workers.serve import prepare_worker, serve_watched
from sweeps.workers.signals import stopped_by


def run_worker(
    settings: WorkerSettings,
    connection: Connection | None,
    threads: int | None,
    stop_on: Sequence[signal.Signals] = (signal.SIGTERM,),
) -> signal.Signals | None:
    """Runs a worker to its end. -> the signal that ended it; None if nothing was left to do or the parent ended.

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
        prepare_worker(connection, threads, stop)
        serve_watched(settings, worker_name(os.getpid()), stop, connection, Peers())
    return caught[0] if caught else None
