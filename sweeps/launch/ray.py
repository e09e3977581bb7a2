"""Starts workers as tasks of a Ray cluster, through Ray core.

    python -m harness.run -m ... launch=ray                                    this machine, for the time of the command
    python -m harness.run -m ... launch=ray launch.ray.address=auto \\
        paths.ledger_url=postgresql://user@host/db                             a cluster that runs

A task is one worker that claims from the ledger until nothing is left. Ray starts it again where its process or node
was lost; what it held is claimed again once its lease has run out. Ctrl-C asks all workers to save and end.

Security: Ray's ports have no authentication; whoever reaches them runs code. A cluster that this command starts listens
on the loopback address only and has no dashboard. Join none but a private network by `launch.ray.address`.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.schema import RayConfig
from harness.ledger.ledger import Ledger
from sweeps.jobs.settings import WorkerSettings, absolute_paths, absolute_url
from sweeps.launch.waiting import NoWorkersError, Watch, open_jobs, wait_for_jobs
from sweeps.workers.entry import start_cluster_worker
from sweeps.workers.signals import stopped_by_sigterm

STOP_SECONDS = 30.0  # a worker looks up between two forward passes
OBJECT_STORE_BYTES = 100_000_000  # nothing goes through it: state is in the ledger and the run folders
PROJECT = Path(__file__).resolve().parents[2]


def run_ray(settings: WorkerSettings, ledger: Ledger, watch: Watch) -> bool:
    """Runs workers on the cluster until the sweep has no open job. -> True: it has waited for the end.

    Raises:
        ValueError: no cluster at that address, no room for a worker, or all workers have ended early.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; by then the workers have saved and ended.
    """
    import ray

    launch = settings.launch
    config = launch.ray
    gpus = launch.gpus_per_worker
    with _cluster(config):
        room = _room(ray.nodes(), config.cpus_per_worker, gpus)
        if not room:
            _nowhere(config, gpus, watch)
        count = min(launch.workers or max(1, room), open_jobs(ledger, settings.sweep))
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": gpus, "max_retries": config.retries}
        worker = ray.remote(**options)(ray_worker)
        moved = replace(settings, paths=absolute_paths(settings.paths), ledger_url=absolute_url(settings.ledger_url))
        threads = launch.threads or max(1, int(config.cpus_per_worker))
        tasks = [worker.remote(moved, threads, os.getcwd()) for _ in range(count)]
        watch({"phase": "note", "label": "", "note": f"Ray: {count} workers asked for, room for {room} now"})
        failures: dict[Any, str] = {}
        try:
            with stopped_by_sigterm():
                wait_for_jobs(ledger, settings.sweep, watch, lambda: _any_left(tasks, failures, watch))
        except NoWorkersError as error:
            reasons = "; ".join(dict.fromkeys(filter(None, failures.values()))) or "no worker said why"
            raise ValueError(f"launch=ray: {error}: {reasons}") from None
        except KeyboardInterrupt:
            _end(tasks)
            raise
    return True


def ray_worker(settings: WorkerSettings, threads: int, folder: str) -> None:
    """What Ray runs in each task.

    Args:
        folder: where the command was given; relative paths in specs start from it, where this node has it.
    """
    if os.path.isdir(folder):
        os.chdir(folder)
    start_cluster_worker(settings, threads, (signal.SIGTERM, signal.SIGINT))  # ray.cancel interrupts as Ctrl-C does


@contextmanager
def _cluster(config: RayConfig) -> Iterator[None]:
    """Connects to the cluster at the address, or starts one here; leaves it, or ends it."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody outside
    own = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
        "num_cpus": os.cpu_count(),
    }
    try:
        ray.init(
            address=config.address or "local",
            runtime_env=_runtime_env(config),
            log_to_driver=False,
            logging_level="ERROR",
            **({} if config.address else own),
        )
    except (ConnectionError, ValueError) as error:
        raise ValueError(f"launch.ray.address={config.address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _runtime_env(config: RayConfig) -> dict[str, Any]:
    """The user's runtime environment, with the path of this project's code if no working_dir brings it."""
    environment: dict[str, Any] = dict(config.runtime_env)
    variables = {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if "working_dir" in environment:
        variables = {}
    environment["env_vars"] = {**variables, **environment.get("env_vars", {})}
    return environment


def _room(nodes: list[dict[str, Any]], cpus: float, gpus: float) -> int:
    """How many workers the living nodes have room for."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            has = node["Resources"]
            parts = [has.get("CPU", 0.0) / cpus, *([has.get("GPU", 0.0) / gpus] if gpus else [])]
            room += int(min(parts) + 1e-6)
    return room


def _nowhere(config: RayConfig, gpus: float, watch: Watch) -> None:
    """Refuses a worker that has no room on a cluster of our own. Another cluster may grow, so there the tasks wait."""
    needs = f"launch.ray.cpus_per_worker={config.cpus_per_worker:g} and {gpus:g} GPUs"
    if config.address is None:
        raise ValueError(
            f"launch=ray: this machine has no room for a worker with {needs}; without GPUs: launch.device=cpu"
        )
    watch(
        {"phase": "note", "label": "", "note": f"Ray: no node has room for a worker with {needs} now; waiting for one"}
    )


def _any_left(tasks: list[Any], failures: dict[Any, str], watch: Watch) -> bool:
    """Whether a worker runs or waits. Reports each failed one once."""
    import ray

    ended, left = ray.wait(tasks, num_returns=len(tasks), timeout=0)
    for task in ended:
        if task in failures:
            continue
        try:
            ray.get(task)
            failures[task] = ""
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            failures[task] = f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
            watch({"phase": "died", "label": "Ray worker", "reason": failures[task]})
    return bool(left)


def _end(tasks: list[Any]) -> None:
    """Asks the workers to save and end; those that don't in time are killed."""
    import ray

    for task in tasks:
        ray.cancel(task, force=False)
    _, left = ray.wait(tasks, num_returns=len(tasks), timeout=STOP_SECONDS)
    for task in left:
        ray.cancel(task, force=True)
