"""The settings that a worker process gets from its parent."""

import socket
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from sweeps.plan.slots import Work

EXIT_NO_SPACE = 75  # a worker could write nothing any more: a full or read-only disk (sysexits.h: try again later)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All settings of a worker process; they are pickled to it."""

    ledger_url: str
    paths: PathsConfig
    launch: LaunchConfig
    tracking: TrackingConfig
    sweep: str | None = None  # only this sweep's jobs; None: any
    work: Work | None = None  # for the launcher; None where nothing is known of it
    workers_on_device: int = 1  # that share this worker's GPU, it included


def worker_name(pid: int | None) -> str:
    """The name in the ledger of a worker process of this machine."""
    return f"{socket.gethostname()}:{pid}"


def worker_pid(name: str | None) -> int | None:
    """The process id of a worker of this machine; None for another machine's worker."""
    host, _, pid = (name or "").rpartition(":")
    return int(pid) if host == socket.gethostname() and pid.isdigit() else None


def absolute_paths(paths: PathsConfig) -> PathsConfig:
    """`paths` made absolute, for a worker that starts in another folder."""

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
    """The ledger's URL for a worker that starts in another folder: a SQLite file by its absolute path."""
    return url if "://" in url else str(Path(url).expanduser().absolute())
