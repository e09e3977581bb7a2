"""What a worker process is told. No torch: the parent makes it."""

import socket
from dataclasses import dataclass

from harness.schema import LaunchConfig, PathsConfig, TrackingConfig

EXIT_NO_SPACE = 75  # a worker could write nothing any more: a full or read-only disk (sysexits.h: try again later)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All that a worker process needs to know; small enough to be pickled to it."""

    ledger_url: str
    paths: PathsConfig
    launch: LaunchConfig
    tracking: TrackingConfig
    sweep: str | None = None  # only this sweep's jobs; None: any


def worker_name(pid: int | None) -> str:
    """What a worker process of this machine is called in the ledger."""
    return f"{socket.gethostname()}:{pid}"


def worker_pid(name: str | None) -> int | None:
    """The process of a worker of this machine; None for another machine's."""
    host, _, pid = (name or "").rpartition(":")
    return int(pid) if host == socket.gethostname() and pid.isdigit() else None
