"""From config to a score a user can read: RoBERTa on GLUE, T5 on Super-NaturalInstructions, at test size."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval.__main__ import app
from harness.ledger.tables import JobStatus
from tests.lab import Lab, write_rows
from tests.tiny_encoders import glue_mrpc_rows, make_roberta, make_t5, super_ni_rows

pytestmark = pytest.mark.slow  # three runs and their evaluations

SMALL = ("adapter.lora_r=4", "train.max_steps=3", "tracking.wandb_mode=disabled")
GRID = (  # one command, because a process costs more than what it trains here
    'grid=[{model:roberta_large,dataset:"glue_mrpc,glue_stsb",eval:glue},'
    "{model:t5_small,dataset:super_ni,adapter:lora_t5,eval:super_ni}]"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(folder=tmp_path_factory.mktemp("lab"))
    make_roberta(lab.models / "roberta_large")
    make_t5(lab.models / "t5_small")
    similar = [{**row, "label": 5.0 * row["label"]} for row in glue_mrpc_rows(24)]
    for name, rows in {"glue_mrpc": glue_mrpc_rows(24), "glue_stsb": similar}.items():
        write_rows(lab.data / name / "train.jsonl", rows[:16])
        write_rows(lab.data / name / "validation.jsonl", rows[16:])
    write_rows(lab.data / "super_ni" / "train.jsonl", super_ni_rows(12))
    write_rows(lab.data / "super_ni" / "test.jsonl", super_ni_rows(6))
    done = lab.harness("-m", GRID, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


def results(lab: Lab, name: str) -> dict[str, Any]:
    """label -> what the evaluation left in the run folder."""
    found = {}
    for label, record in lab.records().items():
        path = lab.runs / record["run_id"] / "eval" / name / f"{name}.json"
        if path.is_file():
            found[label] = json.loads(path.read_text())
    return found


def test_every_run_is_trained_and_scored(lab: Lab) -> None:
    jobs = [(job.kind, job.status) for job in lab.jobs()]
    assert sorted(jobs) == sorted(
        [("train", JobStatus.done)] * 3 + [("glue", JobStatus.done)] * 2 + [("super_ni", JobStatus.done)]
    )
    record = lab.records()["roberta_large-glue_mrpc-nf4"]
    assert record["target_tokens"] == 3 * 32, "three steps of 32 rows, each with one target, its label"
    scored = results(lab, "glue")
    assert {label: (r["score_name"], r["n"], r["num_labels"]) for label, r in scored.items()} == {
        "roberta_large-glue_mrpc-nf4": ("accuracy", 8, 2),
        "roberta_large-glue_stsb-nf4": ("pearson", 8, 1),
    }
    (answered,) = results(lab, "super_ni").values()
    assert (answered["n"], answered["num_tasks"]) == (6, 2)


def test_the_command_scores_as_the_job_did(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in lab.environment.items():
        monkeypatch.setenv(key, value)
    for kind, label in (("glue", "roberta_large-glue_mrpc-nf4"), ("super_ni", "t5_small-super_ni-nf4")):
        run_id = lab.records()[label]["run_id"]
        out = lab.folder / f"out-{kind}"
        done = CliRunner().invoke(app, [kind, "--run", run_id, "--out", str(out), "--json"])
        assert done.exit_code == 0, done.output
        job = results(lab, kind)[label]
        assert json.loads(done.stdout)[label] == {key: value for key, value in job.items() if key != "job"}
        assert json.loads((out / f"{kind}.json").read_text())["model_sha256"] == job["model_sha256"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("model=t5_small", "dataset=super_ni", "eval=glue"), "glue scores finetuned runs of model.kind=classifier"),
        (("model=roberta_large", "dataset=glue_mrpc", "eval=mmlu"), "mmlu scores model.kind=causal, not classifier"),
        (("model=roberta_large", "dataset=glue_rte", "eval=glue"), "rows of glue_rte (nyu-mll/glue): not found"),
    ],
)
def test_what_cannot_be_scored_is_said_before_training(
    lab: Lab, arguments: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval.benchmarks.registry import eval_config
    from harness.config.compose import compose_grid
    from sweeps.plan.planned import planned

    for key, value in lab.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    plan = planned([point.config for point in compose_grid([*arguments, *SMALL], eval_config())])
    assert any(problem in found for found in plan.problems), plan.problems
