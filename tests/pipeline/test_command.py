"""The user's own command, as a subprocess: `python -m harness.run -m model=llama7b,13b dataset=oasst1,flan`."""

import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from harness.config.schema import DType, QuantConfig
from harness.ledger.tables import JobStatus
from tests.in_memory import quantize_linear_layers
from tests.lab import FLAN_ROWS, PAPER_GRID, SHARED_DATASETS, Lab, make_lab, write_rows

LABELS = ["llama7b-oasst1-nf4", "llama7b-flan-nf4", "llama13b-oasst1-nf4", "llama13b-flan-nf4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The four runs, trained once for the tests of this module."""
    lab = make_lab(tmp_path_factory.mktemp("lab"))
    done = lab.harness(*PAPER_GRID)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


def test_four_runs_are_done_in_the_ledger(trained: Lab) -> None:
    jobs = trained.jobs()
    assert [(job.kind, job.label, job.status) for job in jobs] == [("train", label, JobStatus.done) for label in LABELS]
    assert len({job.group for job in jobs}) == 2, "the runs of one base share it"
    assert all(job.attempts == 1 for job in jobs)


@pytest.mark.parametrize("label", LABELS)
def test_run_folder_is_whole(trained: Lab, label: str) -> None:
    record = trained.records()[label]
    folder = trained.runs / record["run_id"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == list(range(1, record["num_steps"] + 1))
    assert all(math.isfinite(row["loss"]) and row["learning_rate"] > 0 for row in metrics)
    assert record["num_steps"] == 6, "24 rows, batch 16, at most 4 epochs"
    assert record["num_examples"] == 24
    assert record["row_tokens"] == 2048, "a CPU's"
    assert record["target_tokens"] == sum(row["target_tokens"] for row in metrics)
    assert (folder / "config.yaml").is_file()
    assert not (folder / "checkpoint").exists()
    assert record["spec"]["quant"]["compute_dtype"] != "auto"


@pytest.mark.parametrize(("label", "model"), [(LABELS[0], "llama7b"), (LABELS[3], "llama13b")])
def test_plain_peft_loads_the_adapter(trained: Lab, label: str, model: str) -> None:
    record = trained.records()[label]
    base = AutoModelForCausalLM.from_pretrained(trained.models / model, dtype=torch.float32)
    quantize_linear_layers(base, QuantConfig(name="nf4", compute_dtype=DType.float32), torch.device("cpu"))
    tokens = torch.tensor([[1, 5, 9, 33]])
    with torch.no_grad():
        before = base(tokens).logits.clone()
        adapted = PeftModel.from_pretrained(base, trained.runs / record["run_id"] / "adapter").eval()
        after = adapted(tokens).logits
    targets = {name.rpartition(".")[2] for name in adapted.targeted_module_names}
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (after - before).abs().max() > 1e-4, "training left the adapter at its first value, B = 0"


def test_second_call_does_nothing(trained: Lab) -> None:
    def state() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in sorted(trained.runs.glob("*/**/*")) if p.is_file()}

    before = state()
    again = trained.harness(*PAPER_GRID)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4 jobs, 4 done before" in again.stdout
    assert state() == before
    assert all(job.attempts == 1 for job in trained.jobs())


def test_shorthand_and_added_value_find_the_runs_that_are_done(trained: Lab) -> None:
    plan = trained.harness("-m", "model=7b,llama13b", "dataset=oasst1,flan", "train.seed=0,1", "launch.dry_run=true")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    lines = [line for line in plan.stdout.splitlines() if "to do" in line or "done" in line]
    assert len(lines) == 8
    done = {line.split()[0] for line in lines if "done" in line}
    assert done == {job.run_id for job in trained.jobs()}


def test_a_single_run_is_refused_by_one_line(trained: Lab) -> None:
    refused = trained.harness("model=llama7b", "dataset=oasst1", "train.max_steps=5", "train.warmup_steps=6")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: train.warmup_steps=6: the run has at most 5 steps")
    assert refused.stderr.count("\n") == 1, "nothing of Hydra's own"


@pytest.mark.alone
@pytest.mark.slow
def test_lost_ledger_is_filled_from_whole_folders(trained: Lab) -> None:
    ledger = trained.runs / "ledger.sqlite"
    kept = ledger.read_bytes()
    left = trained.runs / trained.jobs()[0].run_id / "checkpoint" / "step-00000001"
    ledger.unlink()
    left.mkdir(parents=True)  # as by a worker that died between its record and the end of its checkpoints
    try:
        records = trained.records()
        again = trained.harness(*PAPER_GRID)
        assert again.returncode == 0, again.stdout + again.stderr
        assert [job.status for job in trained.jobs()] == [JobStatus.done] * 4
        assert trained.records() == records, "nothing was trained anew"
        assert not left.exists()
    finally:
        ledger.write_bytes(kept)


def test_changed_data_file_is_refused(trained: Lab) -> None:
    path = trained.data / "flan.jsonl"
    kept = path.read_text()
    write_rows(path, [*FLAN_ROWS, {"inputs": "One more.", "targets": "Yes."}])
    try:
        refused = trained.harness(*PAPER_GRID)
    finally:
        path.write_text(kept)
    assert refused.returncode == 2
    assert refused.stderr.count("was trained on other rows of flan") == 2
    assert "say dataset.path=... to train runs of its own beside it" in refused.stderr
    assert str(path) in refused.stderr
    assert "oasst1-nf4) was trained" not in refused.stderr


def test_changed_base_is_refused(trained: Lab) -> None:
    path = trained.models / "llama7b" / "model.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-4] + b"\0\0\0\1")
    try:
        refused = trained.harness("-m", "model=llama7b", "dataset=oasst1,flan")
    finally:
        path.write_bytes(kept)
    assert refused.returncode == 2
    assert refused.stderr.count("was trained on other weights of llama7b") == 2


@pytest.mark.skipif(not SHARED_DATASETS.is_dir(), reason="the reference data (../shared) are not on this machine")
@pytest.mark.slow  # four runs
def test_store_with_hub_names_and_real_rows(tmp_path: Path) -> None:
    """Hub folder names, OASST1's rows as Guanaco saw them, FLAN v2's as the hub has them."""
    lab = make_lab(tmp_path, models={"huggyllama/llama-7b": 0, "llama-13b": 1})
    (lab.data / "oasst1.jsonl").unlink()
    for source, target in (
        ("openassistant_guanaco_text_derived.jsonl", "timdettmers/openassistant-guanaco.jsonl"),
        ("flan_v2_hf_fields_derived.jsonl", "flan.jsonl"),
    ):
        with (SHARED_DATASETS / source).open() as lines:
            write_rows(lab.data / target, [json.loads(line) for line in islice(lines, 16)])
    done = lab.harness(*PAPER_GRID, "train.max_steps=2", "train.batch_size=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(lab.records()) == sorted(LABELS)
    assert all(record["num_steps"] == 2 and record["num_examples"] == 16 for record in lab.records().values())


class TestNothingIsThere:
    """No GPU, no weights, no network."""

    @pytest.fixture
    def bare(self, tmp_path: Path) -> Lab:
        lab = Lab(folder=tmp_path / "bare", cwd=tmp_path)
        lab.folder.mkdir()
        return replace(lab, extra={"HARNESS_MODEL_STORE": str(tmp_path / "nowhere")})

    @pytest.mark.parametrize("offline", ["1", "0"])
    def test_one_message_for_each_missing_thing(self, bare: Lab, offline: str) -> None:
        before = sorted(bare.cwd.rglob("*"))
        refused = bare.harness(*PAPER_GRID, HF_HUB_OFFLINE=offline, HF_ENDPOINT="http://127.0.0.1:9")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        for what in ("weights of llama7b", "weights of llama13b", "rows of oasst1", "rows of flan", "a CUDA GPU for"):
            assert refused.stderr.count(f"{what}") == 1, what
        assert refused.stderr.count("looked in") == refused.stderr.count("remedy: ") == 5
        assert refused.stderr.count(str(bare.cwd / "nowhere" / "llama7b")) == 1
        assert ("HF_HUB_OFFLINE is set" in refused.stderr) == (offline == "1")
        assert ("could not be reached" in refused.stderr) == (offline == "0")
        assert "Traceback" not in refused.stdout + refused.stderr
        assert sorted(bare.cwd.rglob("*")) == before, "nothing may be left behind"

    def test_dry_run_prints_the_plan(self, bare: Lab) -> None:
        before = sorted(bare.cwd.rglob("*"))
        plan = bare.harness(*PAPER_GRID, "launch.dry_run=true")
        assert plan.returncode == 0, plan.stdout + plan.stderr
        assert "4 runs in 2 groups" in plan.stdout
        assert all(plan.stdout.count(label) == 1 for label in LABELS)
        assert plan.stdout.count("to do") == 4
        assert sorted(bare.cwd.rglob("*")) == before
