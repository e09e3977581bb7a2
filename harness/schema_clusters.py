"""What a worker asks a cluster for: the parts of `launch` that go to SLURM and to Ray. Part of `harness.schema`."""

from dataclasses import dataclass, field
from typing import Any


def require(config: Any, group: str, least: float, *keys: str) -> None:
    """Raises ValueError for the first of the keys whose number is below `least`; unset ones pass."""
    for key in keys:
        value = getattr(config, key)
        if isinstance(value, (int, float)) and not value >= least:  # not, so that NaN fails too
            raise ValueError(f"{group}.{key}={value}: must be {'at least 0' if least == 0 else 'above 0'}")


@dataclass(slots=True, kw_only=True)
class SlurmConfig:
    """What a worker asks SLURM for; one array task is one worker. Names as in sbatch, units in the key."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None  # node features
    time_minutes: int = 240  # of one worker; at its end it saves, gives back its claims and is requeued
    gpus_per_worker: int | None = None  # null: launch.devices_per_run, or 0 where launch.device=cpu
    cpus_per_worker: int = 4
    mem_gb: float | None = None  # of a worker; null: the partition's default
    setup: list[str] = field(default_factory=list)  # shell lines before the worker starts: module load cuda
    extra: dict[str, Any] = field(default_factory=dict)  # more of sbatch's options: +launch.slurm.extra.exclude=n7
    log_folder: str | None = None  # on the shared file system; null: slurm/<sweep> among the runs
    signal_seconds: int = 90  # so long before the time limit a worker is told to save
    max_timeouts: int = 1000  # a worker is requeued so often at its time limit; preemptions are not counted

    def __post_init__(self) -> None:
        positive = ("time_minutes", "cpus_per_worker", "mem_gb", "signal_seconds")
        require(self, "launch.slurm", 1e-9, *positive)
        require(self, "launch.slurm", 0, "gpus_per_worker", "max_timeouts")


@dataclass(slots=True, kw_only=True)
class RayConfig:
    """Which Ray cluster, and what a worker asks it for; one task is one worker."""

    address: str | None = None  # host:port, ray://..., or auto; null: a cluster on this machine for this command
    gpus_per_worker: float | None = None  # null: as of SLURM; 0.5 puts two workers on a GPU
    cpus_per_worker: float = 1.0
    retries: int = 3  # a worker whose process or node is lost starts so often again
    runtime_env: dict[str, Any] = field(default_factory=dict)  # Ray's own: +launch.ray.runtime_env.working_dir=.

    def __post_init__(self) -> None:
        require(self, "launch.ray", 1e-9, "cpus_per_worker")
        require(self, "launch.ray", 0, "gpus_per_worker", "retries")
