"""The settings that a worker process gets from its parent."""

import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from sweeps.plan.slots import Work

_NAME = re.compile(r".*/(?P<boot>\w+)\.(?P<namespace>\d+)\.(?P<started>\d+):(?P<pid>\d+)")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The process of a worker. Its pid alone names no process: it is used again after a boot and in containers."""

    host: str
    pid: int
    boot: str  # the beginning of the boot's id
    namespace: str  # of pids
    started: str  # in clock ticks since the boot

    @property
    def name(self) -> str:
        """The worker's name in the ledger."""
        return f"{self.host}/{self.boot}.{self.namespace}.{self.started}:{self.pid}"


def worker_name(pid: int) -> str:
    """The name in the ledger of a worker process of this machine; no other process ever has it."""
    return _process(pid).name


def short_name(name: str | None) -> str:
    """The part of a worker's name that is for people."""
    host, _, pid = (name or "?").rpartition(":")
    return f"{host.partition('/')[0]}:{pid}" if host else pid


def worker_pid(name: str | None) -> int | None:
    """The pid of a worker that lives on this machine; None for any other."""
    return int(name.rpartition(":")[2]) if name is not None and is_alive(name) else None


def is_alive(name: str | None) -> bool | None:
    """Whether a worker's process lives; None where that can't be seen: on another machine, in another container."""
    found = _NAME.fullmatch(name or "")
    if found is None:
        return None
    pid = int(found["pid"])
    here = _process(pid)
    if (found["boot"], found["namespace"]) != (here.boot, here.namespace) or found["started"] == "0":
        return None  # "0": nobody could see when it started, as on a machine without /proc
    return found["started"] == here.started


def _process(pid: int) -> Process:
    """The process that has this pid now; one that has none has not started."""
    return Process(
        host=socket.gethostname(),
        pid=pid,
        boot=_read(Path("/proc/sys/kernel/random/boot_id"))[:8] or "0",
        namespace=_pid_namespace(),
        started=_start_ticks(_read(Path(f"/proc/{pid}/stat"))),
    )


def _start_ticks(stat: str) -> str:
    """The 22nd field of /proc/PID/stat, counted from behind the command's name; 0 of a process that has ended."""
    after = stat.rpartition(")")[2].split()
    return after[19] if len(after) > 19 and after[0] not in "ZX" else "0"


def _pid_namespace() -> str:
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")) or "0"
    except OSError:
        return "0"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


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
