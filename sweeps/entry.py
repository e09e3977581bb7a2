"""The importable entry of a worker process; imports torch only once it runs in the worker."""

from multiprocessing.connection import Connection

from harness.devices import Place
from harness.process import prepare_process
from sweeps.settings import WorkerSettings

prepare_process()  # this module is the first that the forkserver loads


def start_worker(settings: WorkerSettings, connection: Connection | None, threads: int | None) -> None:
    """See `sweeps.worker.run_worker`."""
    from sweeps.worker import run_worker

    run_worker(settings, connection, threads)


def start_rank(
    settings: WorkerSettings, connection: Connection | None, threads: int | None, name: str, place: Place, port: int
) -> None:
    """See `sweeps.worker.run_rank`."""
    from sweeps.worker import run_rank

    run_rank(settings, connection, threads, name, place, port)
