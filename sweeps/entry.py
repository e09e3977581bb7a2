"""The importable entry of a worker process; imports torch only once it runs in the worker."""

from multiprocessing.connection import Connection

from sweeps.settings import WorkerSettings


def start_worker(settings: WorkerSettings, connection: Connection | None, threads: int | None) -> None:
    """See `sweeps.worker.run_worker`."""
    from sweeps.worker import run_worker

    run_worker(settings, connection, threads)
