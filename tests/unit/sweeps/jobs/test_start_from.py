"""A run that starts from another one's adapter: its weights, its identity, and parents that can't be."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.config.schema import AdapterConfig, AdapterMethod
from harness.ledger.tables import JobStatus
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
    dora = worker.config(start_from=first.run_id)
    dora.adapter = AdapterConfig(name="dora", method=AdapterMethod.dora, lora_r=2)
    with pytest.raises(ValueError, match="can't start from an adapter; use lora, rslora or allora"):
        worker.plan([dora])
    side = worker.folder / "side"
    side.mkdir()
    (side / "adapter_config.json").write_text('{"peft_type": "QST", "qst_reduction": 4, "qst_down_rank": 4}')
    with pytest.raises(ValueError, match="it isn't plain LoRA, but like adapter=qst; name one of lora or rslora"):
        worker.plan([worker.config(start_from=str(side))])


def test_a_parent_that_was_changed_after_the_plan_fails_the_run(worker: OneWorker) -> None:
    [first] = worker.plan([worker.config()])
    worker.work()
    [second] = worker.plan([worker.config(start_from=first.run_id)], sweep="second")
    path = worker.folder / "runs" / first.run_id / WEIGHTS
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    row = worker.work()[second.run_id]
    assert row.status is JobStatus.failed
    assert "the adapter was changed after this run was planned" in str(row.reason)
