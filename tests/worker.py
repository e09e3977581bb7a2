"""A worker within this process over a tiny model and a file of rows: it plans, claims and runs jobs as a sweep does."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.config.schema import Config, Device, LaunchConfig, PathsConfig, TrackingConfig, WandbMode
from harness.files.atomic import read_jsonl
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow
from harness.runs.record import METRICS_FILE, RunRecord, load_record
from sweeps.jobs.context import Context
from sweeps.jobs.settings import WorkerSettings
from sweeps.plan.enqueue import Stops, enqueue
from sweeps.plan.jobs import PlannedRun, make_jobs, plan_runs
from sweeps.workers.serve import work_once
from tests.builders import config
from tests.lab import write_rows

ROWS = [{"input": f"What is {n} and {n + 1}?", "output": f"It is {2 * n + 1}, as ever."} for n in range(24)]


class OneWorker:
    """Works off what is planned.

    Args:
        folder: of runs, ledger and rows.
        model: a checkpoint's folder.
        launch: more of the launch's settings.
    """

    def __init__(self, folder: Path, model: Path, **launch: Any) -> None:
        self.folder, self.model, self.messages = folder, model, list[dict[str, Any]]()
        self.should_stop: Callable[[], bool] = lambda: False
        self.paths = PathsConfig(runs=str(folder / "runs"), cache=str(folder / "cache"))
        self.ledger = Ledger.open(str(folder / "ledger.sqlite"))
        self.rows = folder / "mine.jsonl"
        write_rows(self.rows, ROWS)
        settings = WorkerSettings(
            ledger_url=str(folder / "ledger.sqlite"),
            paths=self.paths,
            launch=LaunchConfig(device=Device.cpu, **launch),
            tracking=TrackingConfig(wandb_mode=WandbMode.disabled),
        )
        self.context = Context(
            settings=settings,
            ledger=self.ledger,
            should_stop=lambda: self.should_stop(),
            send=self.messages.append,
        )

    def config(self, dataset: Any = None, **train: Any) -> Config:
        """A point of a grid, on the file of rows where no other dataset is given."""
        mine = ("local", {"path": str(self.rows), "format": "input_output"})
        short = {"max_steps": 4, "batch_size": 2, "learning_rate": 5e-3}
        made = config(
            model=("llama7b", {"path": str(self.model)}),
            dataset=dataset or mine,
            quant="fp32",
            adapter=("lora", {"lora_r": 2}),
            train=("default", short | train),
        )
        made.paths = self.paths
        return made

    def plan(self, configs: Sequence[Config], sweep: str = "s", stops: Stops | None = None) -> list[PlannedRun]:
        """Enqueues the points as one sweep."""
        runs = plan_runs(configs)
        enqueue(self.ledger, self.folder / "runs", runs, make_jobs(runs, self.paths), sweep, [], stops)
        return runs

    def work(self) -> dict[str, JobRow]:
        """Works until nothing is left, or until it is stopped. -> the training jobs by run id"""
        while work_once(self.context, "w"):
            pass
        return {row.run_id: row for row in self.ledger.rows(kinds=["train"])}

    def record(self, run_id: str) -> RunRecord:
        """The record of a finished run."""
        record = load_record(self.folder / "runs" / run_id)
        assert record is not None
        return record

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        """The lines of a run's metrics.jsonl."""
        return read_jsonl(self.folder / "runs" / run_id / METRICS_FILE)
