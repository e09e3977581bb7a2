"""What a command puts into the ledger: what is missing, what is broken, and a result for the settings asked for."""

import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.files.atomic import write_json
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus
from harness.runs.record import load_record, save_record
from harness.runs.scores import eval_file
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import PlannedRun, make_jobs, plan_runs
from tests.builders import config, evals, record

COMMAND = ["python", "-m", "harness.run", "model=llama7b"]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def planned(limit: int | None = None, model: str = "llama7b") -> tuple[list[PlannedRun], list[Job]]:
    """An untouched base (whose folder needs no adapter), measured on so many questions a subject."""
    asked = evals() if limit is None else evals("mmlu", mmlu={"limit_per_subject": limit})
    runs = plan_runs([config(model=model, adapter="none", eval=asked)])
    return runs, make_jobs(runs)


def put(ledger: Ledger, folder: Path, runs: list[PlannedRun], jobs: list[Job], sweep: str = "s") -> None:
    enqueue(ledger, folder, runs, jobs, sweep, COMMAND)


def work(ledger: Ledger, folder: Path) -> list[str]:
    """Does what is queued as a worker does. -> the jobs that were done"""
    done: list[str] = []
    while claims := ledger.claim("w", ["train", "mmlu"], max_jobs=1, lease_seconds=60, max_attempts=1):
        (claim,) = claims
        leave_result(claim, folder / claim.run_id)
        assert ledger.finish(claim, {}, 1.0)
        done.append(claim.job_id)
    return done


def leave_result(claim: JobRow, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if claim.kind == "train":
        save_record(folder, dataclasses.replace(record(), run_id=claim.run_id, label=claim.label))
    else:
        write_json(eval_file(folder, claim.kind), {"job": claim.spec_hash})


def test_a_result_belongs_to_the_settings_last_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    (train, one), (_, two) = planned(1)[1], planned(2)[1]
    for limit, wanted in ((1, [train, one]), (2, [two]), (1, [one]), (1, [])):
        put(ledger, tmp_path, *planned(limit))
        assert work(ledger, tmp_path) == [job.job_id for job in wanted]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"job": 3}', '{"job": "of anot'])
def test_a_result_that_is_gone_or_broken_is_made_again(ledger: Ledger, tmp_path: Path, text: str | None) -> None:
    runs, jobs = planned(1)
    put(ledger, tmp_path, runs, jobs)
    work(ledger, tmp_path)
    file = eval_file(tmp_path / runs[0].run_id, "mmlu")
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    put(ledger, tmp_path, runs, jobs)
    assert work(ledger, tmp_path) == [jobs[1].job_id]


def test_a_broken_run_is_done_again_with_its_evaluations(ledger: Ledger, tmp_path: Path) -> None:
    runs, jobs = planned(1)
    put(ledger, tmp_path, runs, jobs)
    work(ledger, tmp_path)
    (tmp_path / runs[0].run_id / "record.json").unlink()
    renamed = [dataclasses.replace(job, label="new") for job in jobs]
    put(ledger, tmp_path, [dataclasses.replace(runs[0], label="new")], renamed)
    assert work(ledger, tmp_path) == [job.job_id for job in jobs]
    found = load_record(tmp_path / runs[0].run_id)
    assert found is not None
    assert found.label == "new", "what is done again is called as it was asked for now"


def test_what_failed_is_tried_again(ledger: Ledger, tmp_path: Path) -> None:
    runs, jobs = planned(1)
    put(ledger, tmp_path, runs, jobs)
    (claim,) = ledger.claim("w", ["train"], max_jobs=1, lease_seconds=60, max_attempts=1)
    ledger.fail(claim, "out of memory", retry=False)
    assert {row.status for row in ledger.rows()} == {JobStatus.failed}
    put(ledger, tmp_path, runs, jobs)
    assert work(ledger, tmp_path) == [job.job_id for job in jobs]


def test_a_finished_run_takes_the_label_of_the_sweep_that_asks_for_it(ledger: Ledger, tmp_path: Path) -> None:
    runs, jobs = planned()
    put(ledger, tmp_path, runs, jobs, "first")
    work(ledger, tmp_path)
    before = load_record(tmp_path / runs[0].run_id)
    assert before is not None
    put(ledger, tmp_path, [dataclasses.replace(runs[0], label="longer")], jobs, "second")
    assert load_record(tmp_path / runs[0].run_id) == dataclasses.replace(before, label="longer")
    assert work(ledger, tmp_path) == []


def test_a_sweep_is_what_it_was_last_started_with(ledger: Ledger, tmp_path: Path) -> None:
    put(ledger, tmp_path, *planned(1))
    runs, jobs = planned(1, model="llama13b")
    put(ledger, tmp_path, runs, jobs)
    assert [row.job_id for row in ledger.rows("s")] == [job.job_id for job in jobs]
    assert work(ledger, tmp_path) == [job.job_id for job in jobs]


def test_no_password_is_kept_with_the_sweep(ledger: Ledger, tmp_path: Path) -> None:
    command = [*COMMAND, "paths.ledger_url=postgresql://u:hunter2@h/d", 'grid=[{dataset: "a,b"}]']
    enqueue(ledger, tmp_path, *planned(), "s", command)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        rows = database.execute("SELECT * FROM sweeps").fetchall()
    assert "hunter2" not in repr(rows)
    assert "u:***@h/d" in repr(rows)
    (sweep,) = ledger.sweeps()
    assert sweep.command.endswith("""'grid=[{dataset: "a,b"}]'"""), "it can be pasted into a shell"
