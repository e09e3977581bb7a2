"""Evaluations behind training, as the worker runs them: a result file a run, for each benchmark of causal models."""

import json
from pathlib import Path

import pytest

from eval.benchmarks.registry import BENCHMARKS
from harness.config.schema import Device, LaunchConfig, PathsConfig, TrackingConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobStatus
from harness.runs.scores import eval_file
from sweeps.jobs.context import Context
from sweeps.jobs.settings import WorkerSettings
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.workers.serve import work_once
from tests.builders import config, evals
from tests.tiny import make_checkpoint

local = pytest.importorskip("tests.local_tasks", reason="needs the `tasks` extra (lm-eval)")


def test_every_evaluation_leaves_its_result(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "text.jsonl").write_text('{"text": "Eat well, sleep well."}\n{"text": "Move often."}\n')
    names = [n for n, one in BENCHMARKS.items() if not one.scores_own_dataset and one.run_problem(None) is None]
    asked = evals(
        *names,
        mmlu={"num_shots": 0, "limit_per_subject": 1},
        perplexity={"text": str(tmp_path / "text.jsonl")},
        tasks={
            "names": list(local.write_local_tasks(tmp_path / "tasks", ("piqa",))),
            "folder": str(tmp_path / "tasks"),
        },
        answers={"limit": 2, "max_new_tokens": 4},
    )
    model = ("local", {"path": str(make_checkpoint(tmp_path / "tiny")), "hub_id": "tiny"})
    runs = plan_runs([config(model=model, adapter="none", quant="none", eval=asked)])
    jobs = make_jobs(runs)
    url = str(tmp_path / "ledger.sqlite")
    ledger = Ledger.open(url)
    enqueue(ledger, tmp_path / "runs", runs, jobs, "s", ["test"])
    settings = WorkerSettings(
        ledger_url=url,
        paths=PathsConfig(runs=str(tmp_path / "runs"), cache=str(tmp_path / "cache")),
        launch=LaunchConfig(device=Device.cpu),
        tracking=TrackingConfig(),
    )
    context = Context(settings=settings, ledger=ledger, should_stop=lambda: False, send=lambda message: None)
    while work_once(context, "worker"):
        pass
    rows = {row.kind: row for row in ledger.rows()}
    assert {kind: row.reason for kind, row in rows.items() if row.status is not JobStatus.done} == {}
    folder = tmp_path / "runs" / runs[0].run_id
    found = {name: json.loads(eval_file(folder, name).read_text()) for name in names}
    assert all(result["job"] == rows[name].spec_hash for name, result in found.items())
    assert all(result["system"] == runs[0].label for result in found.values())
    assert found["perplexity"]["num_documents"] == 2
    assert found["tasks"]["tasks"]["local_piqa"]["metrics"]["acc"]["n"] == 2
    answers = (folder / "answers" / "open.jsonl").read_text().splitlines()
    assert len(answers) == found["answers"]["num_answers"] == 2
    ledger.close()
    (tmp_path / "text.jsonl").write_text('{"text": "Other words."}\n')
    assert [job.kind for job in make_jobs(runs) if job.spec_hash not in {row.spec_hash for row in rows.values()}] == [
        "perplexity"
    ]
