"""A ledger is made anew from the run folders, and the same command then finds what is done."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from harness.files.atomic import write_json
from harness.ledger.kept import keep_decisions
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, JobStatus, LedgerError, Verdict
from harness.runs.folder import GONE
from harness.runs.merged import MergeMethod, MergeParent, MergeRecipe
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


def test_runs_that_a_race_stopped_are_stopped_again_and_merges_are_no_jobs(tmp_path: Path) -> None:
    """With the loss that each was judged by, so that a race shows it and can promote it."""
    (run,) = plan_runs([config(adapter="lora", train=("default", {"eval_rows": 4, "max_steps": 8}))])
    folder = tmp_path / run.run_id
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(run.spec.to_dict()))
    steps = [{"step": n, "loss": 2.0, "seconds": 3.0, "num_members": 2} for n in (1, 2, 3)]
    steps[1] |= {"eval_loss": 1.75, "eval_bits_per_byte": 1.5}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    numbers: dict[str, Any] = {"loss": 1.75, "rank": 3, "num_judged": 3, "num_kept": 1, "limit": 1.0}
    decision = Decision(sweep="r", run_id=run.run_id, rung=0, step=2, verdict=Verdict.stops, rule="halving", **numbers)
    keep_decisions(tmp_path, [decision])
    parents = [
        MergeParent(run_id="0" * 12, adapter_sha256="a", weight=0.5),
        MergeParent(run_id="1" * 12, adapter_sha256="b", weight=0.5),
    ]
    recipe = MergeRecipe(method=MergeMethod.linear, parents=parents, rank=8)
    spec = dataclasses.replace(run.spec, dataset=None, train=None, merged=recipe)
    merge = dataclasses.replace(record(), run_id=spec.run_id, spec=spec.to_dict())
    (tmp_path / spec.run_id / "adapter").mkdir(parents=True)
    (tmp_path / spec.run_id / "config.yaml").write_text("{}")
    (tmp_path / spec.run_id / "adapter" / "adapter_config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, tmp_path / spec.run_id / "adapter" / "adapter_model.safetensors")
    save_record(tmp_path / spec.run_id, merge)
    made = rebuild(tmp_path, str(tmp_path / "ledger.sqlite"))
    assert (made.num_runs, made.num_stopped, made.num_decisions) == (0, 1, 1)
    assert [(name, why[:22]) for name, why in made.left_out] == [(spec.run_id, "merged from other runs")]
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    (row,) = ledger.rows("rebuilt")
    ledger.close()
    assert (row.run_id, row.status, row.seconds) == (run.run_id, JobStatus.stopped, 4.5)
    assert row.result == {"eval_loss": 1.75, "eval_bits_per_byte": 1.5, "eval_step": 2, "num_steps": 8}


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
