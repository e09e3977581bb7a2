"""A run unmerged, merged in 16 bits, and merged and quantized again: what each row computes, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from eval.benchmarks.mmlu.settings import MmluSettings
from eval.benchmarks.registry import BENCHMARKS
from eval.commands.beside import Beside
from eval.commands.score_runs import OwnRows, score_target
from eval.commands.serving_gap import write_16_bit
from eval.systems import Target
from harness.models.locate import folder_fingerprint
from harness.runs.record import save_record
from tests.builders import open_base, record, spec
from tests.tiny import make_checkpoint

SETTINGS = MmluSettings(num_shots=0, limit=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "base", seed=1)


def put_run(runs: Path, checkpoint: Path, quant: str, adapter: str = "lora") -> Target:
    """A finished run of the checkpoint, its base quantized."""
    folder = runs / "0123456789ab"
    digest = open_base(checkpoint).bank.save_member("tuned", folder / "adapter", "tiny", "main")
    saved = folder / "adapter" / "adapter_config.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"use_dora": adapter == "dora"}))
    made = spec(model=("local", {"path": str(checkpoint)}), quant=quant, adapter=adapter)
    save_record(
        folder, dataclasses.replace(record(), base_fingerprint=folder_fingerprint(checkpoint), adapter_sha256=digest)
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(made.to_dict()))
    return Target(model=None, adapters=(), quant=None, run_ids=(folder.name,), sweep=None, runs=runs)


def scored(target: Target, out: Path) -> dict[str, Any]:
    values, _ = score_target(
        BENCHMARKS["mmlu"],
        SETTINGS,
        target,
        OwnRows(),
        {"checkpoints": None},
        out,
        lambda done, total: None,
        Beside(serving_gap=True),
    )
    return values


def test_a_run_is_scored_as_trained_and_in_both_merged_forms(checkpoint: Path, tmp_path: Path) -> None:
    values = scored(put_run(tmp_path / "runs", checkpoint, "nf4"), tmp_path / "out")
    unmerged, merged, again = values
    assert [name.removeprefix("tiny ") for name in values] == [
        "unmerged on nf4",
        "merged in 16 bits",
        "merged and quantized again (nf4)",
    ]
    logprobs = {name: torch.tensor([p["logprobs"] for p in result["predictions"]]) for name, result in values.items()}
    assert len({result["model_sha256"] for result in values.values()}) == 3
    gaps = [(logprobs[name] - logprobs[unmerged]).abs().max() for name in (merged, again)]
    assert all(gap > 1e-3 for gap in gaps)
    changes = json.loads((tmp_path / "out" / "changes.json").read_text())["changes"]
    assert [(change["system"], change["base"]) for change in changes] == [(merged, unmerged), (again, unmerged)]


def test_the_merged_weights_are_pefts_in_16_bits(checkpoint: Path, tmp_path: Path) -> None:
    put_run(tmp_path / "runs", checkpoint, "nf4")
    adapter = tmp_path / "runs" / "0123456789ab" / "adapter"
    write_16_bit(checkpoint, adapter, tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, adapter).merge_and_unload().to(torch.bfloat16)
    expected = theirs.state_dict()
    assert {value.dtype for value in ours.state_dict().values()} == {torch.bfloat16}
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("quant", "adapter", "problem"),
    [
        ("fp32", "lora", "trained on an unquantized base"),
        ("nf4", "dora", r"adapter\.method=dora; only allora, lora, rslora"),
    ],
)
def test_a_run_without_such_a_gap_is_refused(
    checkpoint: Path, tmp_path: Path, quant: str, adapter: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        scored(put_run(tmp_path / "runs", checkpoint, quant, adapter), tmp_path / "out")


def test_a_gap_is_of_runs_and_alone(checkpoint: Path, tmp_path: Path) -> None:
    target = Target(model=str(checkpoint), adapters=(), quant="nf4", run_ids=(), sweep=None, runs=tmp_path)
    with pytest.raises(ValueError, match="name a --run or a --sweep"):
        scored(target, tmp_path / "out")
