"""Measures what a run costs beside its training, in milliseconds with one worker, and the parent's memory.

    python -m benchmarks.overhead                         # 300 runs of a tiny model, groups of 1, then of 8
    python -m benchmarks.overhead --wandb offline
    python -m benchmarks.overhead --queued 10000          # the parent's memory with so many more jobs in the ledger

(wall - seconds in training steps and in saving adapters) / runs, from the end of the first fifth of the runs (imports,
loading and tokenizing are behind) to the end of the last: the parent, the worker process, the ledger and all files are
the real ones. All else counts as overhead: claims, leases, opening and closing a member, config, record and metrics.
"""

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.config.schema import Config
from harness.ledger.ledger import Ledger
from harness.ledger.open import ledger_url
from harness.ledger.tables import Job
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch.local import run_local
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import make_jobs, plan_runs
from tests.lab import make_lab
from tests.processes.many import many_configs

WARM_UP = 0.2  # of the runs


@dataclass(slots=True)
class Watch:
    """Keeps when each run ended, and how long it trained and saved."""

    ends: list[tuple[float, float]] = field(default_factory=list)  # (moment, seconds in training and saving)

    def __call__(self, message: dict[str, Any]) -> None:
        if message["phase"] == "done":
            self.ends.append((time.monotonic(), message["seconds"] + message["save_seconds"]))
        elif message["phase"] in ("failed", "died"):
            raise SystemExit(f"{message['label']}: {message['reason']}")

    def overhead_ms(self, group_size: int) -> tuple[float, float, int]:
        """-> milliseconds of overhead a run, of training and saving a run, and over how many runs."""
        first = int(len(self.ends) * WARM_UP) // group_size * group_size
        since, measured = self.ends[first - 1][0], self.ends[first:]
        wall, busy = measured[-1][0] - since, sum(seconds for _, seconds in measured)
        return 1000 * (wall - busy) / len(measured), 1000 * busy / len(measured), len(measured)


def main(
    runs: Annotated[int, typer.Option(help="Runs trained for each group size.")] = 300,
    groups: Annotated[str, typer.Option(help="launch.max_group_size, one measurement each.")] = "1,8",
    wandb: Annotated[str, typer.Option(help="tracking.wandb_mode.")] = "disabled",
    steps: Annotated[int, typer.Option(help="Training steps a run.")] = 2,
    queued: Annotated[int, typer.Option(help="Jobs of another group in the same ledger, cancelled at the end.")] = 0,
    ledger: Annotated[str | None, typer.Option(help="URL of the ledger; default: SQLite.")] = None,
    workers: int = 1,
) -> None:
    """Prints one line a group size."""
    for size in map(int, groups.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            overrides = [f"launch.max_group_size={size}", f"launch.workers={workers}", "launch.threads=1"]
            overrides += [f"tracking.wandb_mode={wandb}", f"train.max_steps={steps}"]
            watch = _measure(Path(folder), runs, overrides, queued, ledger)
            overhead, busy, number = watch.overhead_ms(size)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"groups of {size}: {overhead:.1f} ms overhead a run, {busy:.1f} ms of training and saving, "
                f"over {number} runs; the parent's peak memory {peak:.0f} MiB with {runs + queued} jobs",
                flush=True,
            )


def _measure(folder: Path, number: int, overrides: Sequence[str], queued: int, ledger_at: str | None) -> Watch:
    lab = make_lab(folder, models={"llama7b": 0})
    configs = many_configs(number, [*overrides, *(f"paths.{key}={value}" for key, value in _paths(lab.folder).items())])
    first = configs[0]
    if ledger_at is not None:
        first.paths.ledger_url = ledger_at
    Path(first.paths.runs).mkdir()
    ledger = Ledger.open(ledger_url(first.paths))
    jobs = _enqueue(ledger, configs)
    ledger.add([_other(jobs[0], n) for n in range(queued)], sweep="overhead")
    settings = WorkerSettings(
        ledger_url=ledger_url(first.paths),
        paths=first.paths,
        launch=first.launch,
        tracking=first.tracking,
        sweep="overhead",
    )
    watch = _Stopping(ledger, number)
    try:
        run_local(settings, ledger, watch)
    finally:
        ledger.close()
    return watch


def _enqueue(ledger: Ledger, configs: Sequence[Config]) -> list[Job]:
    runs = plan_runs(configs)
    jobs = make_jobs(runs)
    enqueue(ledger, Path(configs[0].paths.runs), runs, jobs, "overhead", ["python", "-m", "benchmarks.overhead"])
    return jobs


class _Stopping(Watch):
    """Cancels what is only there to fill the queue once the measured runs are done."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        super().__init__()
        self._ledger, self._number = ledger, number

    def __call__(self, message: dict[str, Any]) -> None:
        super().__call__(message)
        if len(self.ends) == self._number:
            self._ledger.cancel("overhead")


def _other(job: Job, number: int) -> Job:
    return Job(
        kind=job.kind, spec_hash=f"other{number}", run_id=f"other{number}", group="other", label="", payload=job.payload
    )


def _paths(folder: Path) -> dict[str, str]:
    names = {"runs": "runs", "model_store": "models", "data_store": "data", "cache": "cache"}
    return {key: str(folder / name) for key, name in names.items()}


if __name__ == "__main__":
    typer.run(main)
