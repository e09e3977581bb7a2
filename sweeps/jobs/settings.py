"""What a worker process is told. No torch: the parent makes it."""

import socket
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from sweeps.plan.slots import Work

EXIT_NO_SPACE = 75  # a worker could write nothing any more: a full or read-only disk (sysexits.h: try again later)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All that a worker process needs to know; small enough to be pickled to it."""

    ledger_url: str
    paths: PathsConfig
    launch: LaunchConfig
    tracking: TrackingConfig
    sweep: str | None = None  # only this sweep's jobs; None: any
    work: Work | None = None  # for the launcher; None where nothing is known of it
    workers_on_device: int = 1  # that share this worker's GPU, it included


def worker_name(pid: int | None) -> str:
    """What a worker process of this machine is called in the ledger."""
    return f"{socket.gethostname()}:{pid}"


def worker_pid(name: str | None) -> int | None:
    """The process of a worker of this machine; None for another machine's."""
    host, _, pid = (name or "").rpartition(":")
    return int(pid) if host == socket.gethostname() and pid.isdigit() else None


def absolute_paths(paths: PathsConfig) -> PathsConfig:
    """The same places for a worker that starts elsewhere."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    return replace(
        paths,
        runs=absolute(paths.runs) or "",
        cache=absolute(paths.cache) or "",
        model_store=absolute(paths.model_store),
        data_store=absolute(paths.data_store),
    )


def absolute_url(url: str) -> str:
    """The same ledger for a worker that starts elsewhere: a SQLite file by its whole path."""
    return url if "://" in url else str(Path(url).expanduser().absolute())
