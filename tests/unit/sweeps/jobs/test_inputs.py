"""Inputs that change between the plan and the job: that run fails with the reason, the others go on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.config.schema import Config, Device, LaunchConfig, PathsConfig, TrackingConfig, WandbMode
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus
from harness.models.sign import sampled_sha256
from harness.runs.record import load_record
from sweeps.jobs.context import Context
from sweeps.jobs.settings import WorkerSettings
from sweeps.plan.enqueue import enqueue
from sweeps.plan.jobs import make_jobs, plan_runs
from sweeps.workers.serve import work_once
from tests.builders import config, evals
from tests.lab import write_rows
from tests.tiny import make_checkpoint

ROWS = [{"input": f"What is {n}?", "output": f"{n}."} for n in range(4)]
TRAIN = {"max_steps": 1, "batch_size": 2}


class Lab:
    """A worker within this process over two tiny models and two files of rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = PathsConfig(
            runs=str(folder / "runs"),
            cache=str(folder / "cache"),
            model_store=str(folder / "models"),
            data_store=str(folder / "data"),
        )
        self.ledger = Ledger.open(str(folder / "ledger.sqlite"))
        for seed, name in enumerate(("llama7b", "llama13b")):
            make_checkpoint(folder / "models" / name, seed)
        write_rows(folder / "data" / "longform.jsonl", ROWS)
        write_rows(folder / "mine.jsonl", ROWS)
        (folder / "text.jsonl").write_text('{"text": "Eat well, sleep well."}\n')
        settings = WorkerSettings(
            ledger_url=str(folder / "ledger.sqlite"),
            paths=self.paths,
            launch=LaunchConfig(device=Device.cpu),
            tracking=TrackingConfig(wandb_mode=WandbMode.disabled),
        )
        self.context = Context(
            settings=settings, ledger=self.ledger, should_stop=lambda: False, send=lambda message: None
        )

    def config(self, model: str, dataset: str) -> Config:
        mine = {"path": str(self.folder / "mine.jsonl"), "format": "input_output"}
        return config(
            model=model,
            dataset=("local", mine) if dataset == "local" else dataset,
            quant="fp32",
            adapter=("lora", {"lora_r": 2}),
            train=("default", TRAIN),
            eval=evals("perplexity", perplexity={"text": str(self.folder / "text.jsonl")}),
        )

    def plan(self, *points: tuple[str, str]) -> None:
        runs = plan_runs([self.config(*point) for point in points])
        enqueue(self.ledger, self.folder / "runs", runs, make_jobs(runs, self.paths), "s", [])

    def work(self) -> dict[tuple[str, str], JobRow]:
        """Works until nothing is left. -> the jobs by kind and label"""
        while work_once(self.context, "w"):
            pass
        return {(row.kind, row.label): row for row in self.ledger.rows()}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.ledger.close()


ONE, OTHER = "llama7b-longform-fp32", "llama13b-longform-fp32"


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("model.safetensors", "the weights or the config of llama7b changed after this run was planned"),
        ("chat_template.jinja", "the tokenizer or the chat template of llama7b changed"),
    ],
)
def test_a_model_that_changed_fails_its_runs_alone(lab: Lab, file: str, problem: str) -> None:
    lab.plan(("llama7b", "longform"), ("llama13b", "longform"))
    changed = lab.folder / "models" / "llama7b" / file
    kept = changed.read_bytes() if changed.is_file() else b""
    changed.write_bytes(kept[:-1] + b"\1")
    rows = lab.work()
    assert rows["train", OTHER].status is rows["perplexity", OTHER].status is JobStatus.done
    assert rows["train", ONE].status is JobStatus.failed
    assert problem in str(rows["train", ONE].reason)
    assert "give the sweep's command again" in str(rows["train", ONE].reason)
    lab.plan(("llama7b", "longform"), ("llama13b", "longform"))  # planned anew, it takes what is there now
    assert {row.status for row in lab.work().values()} == {JobStatus.done}


def test_rows_that_changed_fail_their_runs(lab: Lab) -> None:
    points = ("llama7b", "longform"), ("llama7b", "local")
    lab.plan(*points)
    files = (lab.folder / "data" / "longform.jsonl", lab.folder / "mine.jsonl")
    for file in files:
        write_rows(file, [*ROWS, {"input": "More?", "output": "Yes."}])
    failed = {label: row for (kind, label), row in lab.work().items() if kind == "train"}
    assert {row.status for row in failed.values()} == {JobStatus.failed}
    assert "the rows of longform changed after this run was planned" in str(failed[ONE].reason)
    assert f"the rows of {files[1]} changed" in str(failed["llama7b-local-fp32"].reason)
    for file in files:
        write_rows(file, ROWS)
    lab.plan(*points)  # the files are restored
    assert {row.status for row in lab.work().values()} == {JobStatus.done}


def test_a_record_says_which_sample_was_read(lab: Lab) -> None:
    sampled, whole = lab.config("llama7b", "longform"), lab.config("llama7b", "longform")
    sampled.dataset.max_rows, whole.dataset.max_rows = 3, 450_000
    runs = plan_runs([sampled, whole])
    enqueue(lab.ledger, lab.folder / "runs", runs, make_jobs(runs, lab.paths), "s", [])
    work_once(lab.context, "w")
    record = load_record(lab.folder / "runs" / runs[0].run_id)
    assert record is not None
    assert "longform: a sample of the rows, 3 at most, seed 42" in record.notes
    assert record.num_examples == 3
    of_all = load_record(lab.folder / "runs" / runs[1].run_id)
    assert of_all is not None
    assert of_all.num_examples == len(ROWS)
    assert not any("a sample" in note for note in of_all.notes), "all rows were read"


def test_an_evaluation_scores_what_was_planned(lab: Lab) -> None:
    lab.plan(("llama7b", "longform"))
    (lab.folder / "text.jsonl").write_text('{"text": "Other words."}\n')
    row = lab.work()["perplexity", ONE]
    assert row.status is JobStatus.failed
    assert "content of its text changed after this evaluation was planned" in str(row.reason)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
def test_an_evaluation_wants_the_model_of_the_training(lab: Lab, file: str) -> None:
    lab.plan(("llama7b", "longform"))
    work_once(lab.context, "w")
    changed = lab.folder / "models" / "llama7b" / file
    changed.write_bytes(changed.read_bytes().replace(b"{", b"{ ", 1) if file.endswith("json") else b"")
    make_checkpoint(changed.parent, 5) if file == "model.safetensors" else None
    lab.context._base = None  # as in another worker
    rows = lab.work()
    assert (rows["train", ONE].status, rows["perplexity", ONE].status) == (JobStatus.done, JobStatus.failed)
    assert "changed after this run was planned" in str(rows["perplexity", ONE].reason)


def test_jobs_of_earlier_versions_have_no_signs_and_run(lab: Lab) -> None:
    runs = plan_runs([lab.config("llama7b", "longform")])
    jobs = make_jobs(runs)
    assert all("inputs" not in json.loads(job.payload) for job in jobs)
    enqueue(lab.ledger, lab.folder / "runs", runs, jobs, "s", [])
    assert {row.status for row in lab.work().values()} == {JobStatus.done}


def test_a_held_base_serves_its_own_plan_and_gives_way_to_a_newer_one(lab: Lab) -> None:
    lab.plan(("llama7b", "longform"))
    lab.work()
    before = lab.context.signs
    make_checkpoint(lab.folder / "models" / "llama7b", 3)
    lab.plan(("llama7b", "local"))
    assert lab.work()["train", "llama7b-local-fp32"].status is JobStatus.done
    assert lab.context.signs["weights"] != before["weights"]


def test_a_large_file_is_sampled_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.models.sign._WHOLE_BYTES", 100)
    data = bytes(range(256)) * 4000
    signs = []
    for number, text in enumerate((data, b"\1" + data[1:], data[:-1] + b"\1", data + b"\0")):
        path = tmp_path / str(number)
        path.write_bytes(text)
        signs.append(sampled_sha256(path))
    assert len(set(signs)) == 4
    copy = tmp_path / "copy"
    copy.write_bytes(data)
    assert sampled_sha256(copy) == signs[0]
