"""A run that starts from another one's adapter: its weights, its identity, and parents that can't be."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.config.schema import AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod
from harness.ledger.tables import JobStatus
from sweeps.plan.jobs import PlannedRun
from tests.tiny import make_checkpoint
from tests.worker import OneWorker

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def worker(tmp_path: Path, model: Path) -> Iterator[OneWorker]:
    worker = OneWorker(tmp_path, model)
    yield worker
    worker.ledger.close()


def test_a_second_stage_goes_on_from_the_first_ones_adapter(worker: OneWorker) -> None:
    """With a rate of nearly nothing the second stage ends where the first did; a fresh run doesn't."""
    [first] = worker.plan([worker.config()])
    assert worker.work()[first.run_id].status is JobStatus.done
    still = {"learning_rate": 1e-12, "max_steps": 1}
    fresh, second, by_folder = worker.plan(
        [
            worker.config(**still),
            worker.config(**still, start_from=first.run_id),
            worker.config(**still, start_from=str(worker.folder / "runs" / first.run_id), seed=1),
        ],
        sweep="second",
    )
    assert all(row.status is JobStatus.done for row in worker.work().values())
    parent = load_file(worker.folder / "runs" / first.run_id / WEIGHTS)
    for run, is_there in ((second, True), (by_folder, True), (fresh, False)):
        found = load_file(worker.folder / "runs" / run.run_id / WEIGHTS)
        assert all(torch.allclose(found[key], tensor, atol=1e-6) for key, tensor in parent.items()) is is_there
    assert second.run_id != fresh.run_id
    assert "from-" in second.label
    assert second.spec.start_sha256 == worker.record(first.run_id).adapter_sha256
    assert any(note.startswith("started from ") for note in worker.record(second.run_id).notes)
    assert type(second.spec).from_dict(second.spec.to_dict()) == second.spec


def test_parents_that_cannot_be_are_refused_with_what_to_do(worker: OneWorker) -> None:
    with pytest.raises(ValueError, match=r"no run of that id in .*; train it first"):
        worker.plan([worker.config(start_from="0123456789ab")])
    [first] = worker.plan([worker.config()])
    (worker.folder / "runs" / first.run_id).mkdir(parents=True)
    with pytest.raises(ValueError, match="isn't finished; train it to its end"):
        worker.plan([worker.config(start_from=first.run_id)])
    assert worker.work()[first.run_id].status is JobStatus.done
    other = worker.config(start_from=first.run_id)
    other.adapter = replace(other.adapter, lora_r=4)
    with pytest.raises(ValueError, match=r"adapter.lora_r=4 here, 2 there: take the same"):
        worker.plan([other])
    for adapter, problem in (
        (AdapterConfig(name="dora", method=AdapterMethod.dora, lora_r=2), "adapter.method=dora here, lora there"),
        (
            AdapterConfig(name="eva", method=AdapterMethod.eva, lora_r=2),
            "eva begins with what its first",
        ),
        (AdapterConfig(name="lq_lora", method=AdapterMethod.lq_lora, lora_r=2, lq_rounds=2, fisher=True), "its first"),
        (AdapterConfig(name="hft", method=AdapterMethod.hft), rf"model=local model.path=.*{first.run_id}/adapter"),
    ):
        other = worker.config(start_from=first.run_id)
        other.adapter = adapter
        if adapter.method is AdapterMethod.lq_lora:
            other.quant = QuantConfig(name="nf4", method=QuantMethod.nf4, compute_dtype=DType.float32)
        with pytest.raises(ValueError, match=problem):
            worker.plan([other])
    for name in (f"runs/{first.run_id}/adapter", "foreign"):  # of a run's own adapter, and of another program's
        folder = worker.folder / name
        if not folder.is_dir():
            shutil.copytree(worker.folder / "runs" / first.run_id / "adapter", folder)
        other = worker.config(start_from=str(folder))
        other.adapter = AdapterConfig(name="dora", method=AdapterMethod.dora, lora_r=2)
        with pytest.raises(ValueError, match=r"lora there: take the same|is an adapter of LORA, not of dora"):
            worker.plan([other])
        assert worker.plan([worker.config(start_from=str(folder))])
    side = worker.folder / "side"
    side.mkdir()
    (side / "adapter_config.json").write_text('{"peft_type": "QST", "qst_reduction": 4, "qst_down_rank": 4}')
    with pytest.raises(ValueError, match="side is an adapter of QST, not of LORA: take the same"):
        worker.plan([worker.config(start_from=str(side))])


@pytest.mark.parametrize(
    "adapter",
    [
        AdapterConfig(name="dora", method=AdapterMethod.dora, lora_r=2),
        AdapterConfig(name="pissa", method=AdapterMethod.pissa, lora_r=2),
        AdapterConfig(name="allora", method=AdapterMethod.allora, lora_r=2, allora_eta=10.0),
        AdapterConfig(name="vera", method=AdapterMethod.peft, peft_type="VERA", lora_r=2),
        AdapterConfig(name="qst", method=AdapterMethod.qst, qst_reduction=4, qst_down_rank=2),
        AdapterConfig(name="s2ft", method=AdapterMethod.s2ft, s2ft_share=0.25, targets=["o_proj", "down_proj"]),
    ],
    ids=lambda adapter: adapter.name,
)
def test_every_kind_of_method_goes_on_from_its_own_adapter(worker: OneWorker, adapter: AdapterConfig) -> None:
    def planned(sweep: str, **train: Any) -> PlannedRun:
        config = worker.config(**train)
        config.adapter = adapter
        (run,) = worker.plan([config], sweep=sweep)
        assert worker.work()[run.run_id].status is JobStatus.done
        return run

    first = planned("first")
    second = planned("second", learning_rate=1e-12, max_steps=1, start_from=first.run_id)
    parent, child = (load_file(worker.folder / "runs" / run.run_id / WEIGHTS) for run in (first, second))
    assert parent.keys() == child.keys()
    assert all(torch.allclose(child[key], tensor, atol=1e-6) for key, tensor in parent.items())
    if adapter.method is AdapterMethod.s2ft:
        with pytest.raises(ValueError, match=r"train\.seed=9 here, 0 there, which chose what learns"):
            planned("other", seed=9, start_from=first.run_id)


def test_a_base_that_its_method_changed_is_stored_alike(worker: OneWorker) -> None:
    first = worker.config()
    first.adapter = AdapterConfig(name="pissa", method=AdapterMethod.pissa, lora_r=2)
    (run,) = worker.plan([first])
    worker.work()
    second = worker.config(start_from=run.run_id)
    second.adapter = first.adapter
    second.quant = QuantConfig(name="nf4", method=QuantMethod.nf4, compute_dtype=DType.float32)
    with pytest.raises(ValueError, match=r"quant\.method=nf4 here, none there, whose base it changed"):
        worker.plan([second])


def test_a_parent_that_was_changed_after_the_plan_fails_the_run(worker: OneWorker) -> None:
    [first] = worker.plan([worker.config()])
    worker.work()
    [second] = worker.plan([worker.config(start_from=first.run_id)], sweep="second")
    path = worker.folder / "runs" / first.run_id / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    row = worker.work()[second.run_id]
    assert row.status is JobStatus.failed
    assert "the adapter was changed after this run was planned" in str(row.reason)


def test_a_base_that_its_start_changed_is_the_parents(worker: OneWorker) -> None:
    """Blocks of another size round otherwise, so that LQ-LoRA would begin, and leave its base, elsewhere."""
    parent = worker.config()
    parent.adapter = AdapterConfig(name="lq_lora", method=AdapterMethod.lq_lora, lora_r=2, lq_rounds=3)
    parent.quant = QuantConfig(name="nf4", method=QuantMethod.nf4, compute_dtype=DType.float32, block_size=64)
    (first,) = worker.plan([parent], sweep="first")
    assert worker.work()[first.run_id].status is JobStatus.done
    child = worker.config(learning_rate=1e-12, max_steps=1, start_from=first.run_id)
    child.adapter, child.quant = parent.adapter, replace(parent.quant, block_size=128)
    alone = worker.config(learning_rate=1e-12, max_steps=1)
    alone.adapter, alone.quant = child.adapter, child.quant
    second, third = worker.plan([child, alone], sweep="second")
    assert all(row.status is JobStatus.done for row in worker.work().values())
    theirs, mine, fresh = (load_file(worker.folder / "runs" / run.run_id / WEIGHTS) for run in (first, second, third))
    keys = [key for key in theirs if ".lora_A." in key]
    assert all(torch.allclose(mine[key], theirs[key], atol=1e-6) for key in keys)
    assert not all(torch.allclose(fresh[key][2:], theirs[key][2:], atol=1e-4) for key in keys)


@pytest.mark.parametrize(
    ("saved", "problem"),
    [
        ({"lora_alpha": 99}, r"foreign has r=2, lora_alpha=99, use_rslora=False, and this run r=2, lora_alpha=\S+"),
        ({"use_rslora": True}, "use_rslora=True, and this run r=2"),
        ({"r": 4}, "foreign has r=4"),
    ],
)
def test_another_programs_adapter_of_other_sizes_is_refused(
    worker: OneWorker, saved: dict[str, Any], problem: str
) -> None:
    [first] = worker.plan([worker.config()])
    worker.work()
    shutil.copytree(worker.folder / "runs" / first.run_id / "adapter", worker.folder / "foreign")
    path = worker.folder / "foreign" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | saved))
    with pytest.raises(ValueError, match=problem):
        worker.plan([worker.config(start_from=str(path.parent))])


@pytest.mark.parametrize(
    ("adapter", "kind"),
    [
        (AdapterConfig(name="pissa", method=AdapterMethod.pissa, lora_r=1), "LORA, not of pissa"),
        (
            AdapterConfig(name="s2ft", method=AdapterMethod.s2ft, s2ft_share=0.25, targets=["o_proj", "down_proj"]),
            "LORA, not of s2ft",
        ),
    ],
    ids=["pissa", "s2ft"],
)
def test_plain_lora_is_no_start_of_a_method_with_files_of_its_own(
    worker: OneWorker, adapter: AdapterConfig, kind: str
) -> None:
    """PiSSA of rank 1 would take one half of a file of rank 2 for what it began from."""
    [first] = worker.plan([worker.config()])
    worker.work()
    folder = worker.folder / "foreign"
    shutil.copytree(worker.folder / "runs" / first.run_id / "adapter", folder)
    config = worker.config(start_from=str(folder))
    config.adapter = adapter
    with pytest.raises(ValueError, match=f"is an adapter of {kind}: take the same adapter.method, or name a run of it"):
        worker.plan([config])


def test_an_adapter_of_fewer_layers_is_not_taken_in_part(worker: OneWorker) -> None:
    parent = worker.config()
    parent.adapter = replace(parent.adapter, targets=["q_proj"])
    (first,) = worker.plan([parent])
    worker.work()
    folder = worker.folder / "foreign"
    shutil.copytree(worker.folder / "runs" / first.run_id / "adapter", folder)
    (second,) = worker.plan([worker.config(start_from=str(folder))], sweep="second")
    row = worker.work()[second.run_id]
    assert row.status is JobStatus.failed
    assert "is on one side only; take the same adapter.targets" in str(row.reason)
