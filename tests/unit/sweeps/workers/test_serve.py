"""A worker and the jobs of a ledger that it shares with others."""

from pathlib import Path

from harness.config.schema import LaunchConfig, PathsConfig, TrackingConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobStatus
from sweeps.jobs.context import Context
from sweeps.jobs.settings import WorkerSettings
from sweeps.workers.serve import work_once


def test_a_job_that_would_write_elsewhere_fails_alone(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    for run_id in ("../out", str(tmp_path / "absolute")):
        ledger.add([Job(kind="train", spec_hash=run_id, run_id=run_id, group="g", label=run_id, payload="{}")])
    settings = WorkerSettings(
        ledger_url=str(tmp_path / "ledger.sqlite"),
        paths=PathsConfig(runs=str(tmp_path / "runs"), cache=str(tmp_path / "cache")),
        launch=LaunchConfig(),
        tracking=TrackingConfig(),
    )
    context = Context(settings=settings, ledger=ledger, should_stop=lambda: False, send=lambda message: None)
    assert work_once(context, "w")
    assert {(row.status, row.attempts) for row in ledger.rows()} == {(JobStatus.failed, 1)}
    assert all("not the name of a file or folder" in (row.reason or "") for row in ledger.rows())
    assert not work_once(context, "w"), "nothing is left to do"
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"ledger.sqlite"}
    ledger.close()
