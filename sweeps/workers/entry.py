"""The functions that a worker process starts with. They import torch only when they run, in the worker."""

import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection

from harness.devices.process import heavy_imports
from sweeps.jobs.settings import WorkerSettings


def start_worker(
    settings: WorkerSettings, connection: Connection | None, threads: int | None, visible_as: str | None = None
) -> None:
    """Runs a worker of this machine, see `sweeps.workers.worker.run_worker`.

    Args:
        visible_as: the one CUDA device that it may see; None leaves it what its parent sees.
    """
    if visible_as is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_as  # before the driver is first asked
    from sweeps.workers.worker import run_worker

    run_worker(settings, connection, threads)


def start_cluster_worker(
    settings: WorkerSettings, threads: int | None, stop_on: Sequence[signal.Signals]
) -> signal.Signals | None:
    """Runs a worker that a cluster's scheduler starts and stops. -> the signal that asked it to end, if any"""
    with heavy_imports():
        from sweeps.workers.worker import run_worker

    return run_worker(settings, None, threads, stop_on)
