"""A ledger is made anew from the run folders, and the same command then finds what is done."""

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.files.atomic import write_json
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobStatus, LedgerError
from harness.runs.folder import GONE
from harness.runs.record import save_record
from harness.runs.scores import eval_file
from sweeps.__main__ import app
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import PlannedRun, make_jobs, plan_runs
from sweeps.plan.planned import _broken_notes
from sweeps.watch.rebuild import rebuild
from tests.builders import config, evals, record


@pytest.fixture(scope="module")
def planned() -> list[PlannedRun]:
    """Untouched bases, whose folders need no adapters."""
    asked = evals("mmlu", mmlu={"limit_per_subject": 1})
    return plan_runs([config(model=model, adapter="none", eval=asked) for model in ("llama7b", "llama13b", "smollm2")])


@pytest.fixture
def runs(tmp_path: Path, planned: list[PlannedRun]) -> Path:
    """Two finished runs, one of them measured; one cut off; a folder that holds another's run, and no run at all."""
    jobs = {(job.run_id, job.kind): job for job in make_jobs(planned)}
    for run in planned:
        folder = tmp_path / run.run_id
        folder.mkdir()
        (folder / "config.yaml").write_text("{}")
    for run in planned[:2]:
        done = dataclasses.replace(record(), run_id=run.run_id, label=run.label, spec=run.spec.to_dict())
        save_record(tmp_path / run.run_id, done)
    measured = jobs[planned[0].run_id, "mmlu"]
    write_json(
        eval_file(tmp_path / planned[0].run_id, "mmlu"), {"job": measured.spec_hash, "headline": {"value": 0.25}}
    )
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied" / "config.yaml").write_text("{}")
    save_record(tmp_path / "copied", done)
    (tmp_path / "slurm").mkdir()
    return tmp_path


def damage(path: Path) -> None:
    """Overwrites the middle of a ledger that was closed."""
    ledger = Ledger.open(path)
    ledger.record_sweep("s", "x" * 50_000)
    ledger.close()
    content = bytearray(path.read_bytes())
    content[1024:] = b"\xff" * len(content[1024:])
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_what_is_finished_is_done_again_in_the_new_ledger(runs: Path, planned: list[PlannedRun], how: str) -> None:
    path = runs / "ledger.sqlite"
    if how == "damaged":
        damage(path)
        with pytest.raises(LedgerError, match="python -m sweeps rebuild"):
            Ledger.open(path).counts()
    done = CliRunner().invoke(app, ["rebuild", "--runs", str(runs)])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "2 finished runs and 1 evaluations are recorded" in text
    assert f"left out {planned[2].run_id}: there is no record.json: it was cut off" in text
    assert "left out copied: its record is that of another run" in text
    assert (runs / "ledger.sqlite.damaged-1").exists() is (how == "damaged")
    ledger = Ledger.open(path)
    (measured,) = ledger.rows("rebuilt", kinds=["mmlu"])
    assert (measured.status, measured.result) == (JobStatus.done, {"accuracy_macro": 0.25})
    assert [row.result and row.result["final_loss"] for row in ledger.rows("rebuilt", kinds=["train"])] == [1.5, 1.5]
    enqueue(ledger, runs, planned, make_jobs(planned), "s", ["python"])
    open_jobs = [(row.run_id, row.kind) for row in ledger.rows("s") if row.status is not JobStatus.done]
    assert sorted(open_jobs) == sorted(
        [(planned[1].run_id, "mmlu"), (planned[2].run_id, "train"), (planned[2].run_id, "mmlu")]
    )
    ledger.close()


def test_a_whole_ledger_is_left_alone(runs: Path) -> None:
    Ledger.open(runs / "ledger.sqlite").close()
    with pytest.raises(ValueError, match="it is whole"):
        rebuild(runs, str(runs / "ledger.sqlite"))
    with pytest.raises(ValueError, match="only a ledger that is a SQLite file"):
        rebuild(runs, "postgresql://u@h/d")
    with pytest.raises(ValueError, match="no such folder of runs"):
        rebuild(runs / "nowhere", str(runs / "nowhere" / "ledger.sqlite"))


def test_a_plan_says_which_broken_runs_are_made_again(planned: list[PlannedRun]) -> None:
    """A run that nobody began, or that was cut off, is no news; one that can't be read is, and stops no plan."""
    problems = [None, GONE, "it can't be read (record.json: Permission denied)"]
    state = {run.run_id: problem for run, problem in zip(planned, problems, strict=True)}
    run = planned[2]
    assert _broken_notes(planned, state) == [
        f"run {run.run_id} ({run.label}) is made again: it can't be read (record.json: Permission denied)"
    ]
