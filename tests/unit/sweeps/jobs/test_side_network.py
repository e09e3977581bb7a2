"""Runs of QST as jobs: planned with others, stopped and gone on with, opened again to be scored."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eval.systems import loaded, open_system
from harness.banks.side import SideBank
from harness.config.choices import load_choice
from harness.config.schema import AdapterConfig, Config, typed
from harness.ledger.tables import JobStatus
from tests.tiny import make_checkpoint
from tests.unit.harness.banks.test_causal import make_items
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


def point(worker: OneWorker, **train: Any) -> Config:
    made = worker.config(**train)
    own = {"qst_reduction": 4, "qst_down_rank": 4}
    made.adapter = typed(AdapterConfig, load_choice("adapter", "qst") | own)
    return made


def test_runs_beside_others_are_proved_kept_and_opened_again(worker: OneWorker) -> None:
    first, second, lora = worker.plan([point(worker), point(worker, seed=1), worker.config()])
    assert len({run.spec.group for run in (first, second, lora)}) == 3, "each reads the base for itself"
    assert all(row.status is JobStatus.done for row in worker.work().values())
    record = worker.record(first.run_id)
    assert record.identity is not None
    assert record.identity["checks"]["differs from LoRA"] == "passed: no backward pass goes through the base"
    assert record.label == "llama7b-local-fp32-qst-s0"
    ends = [load_file(worker.folder / "runs" / run.run_id / WEIGHTS) for run in (first, second)]
    assert not torch.equal(ends[0]["up.weight"], ends[1]["up.weight"])
    system = open_system(worker.folder / "runs" / first.run_id)
    with loaded([system], worker.paths, torch.device("cpu")) as base:
        bank: Any = base.bank
        assert isinstance(bank, SideBank)
        held = bank.member_parameters(str(system.member))
        assert all(torch.equal(held[key], value) for key, value in ends[0].items())
        with torch.no_grad():
            tuned = bank.item_losses(make_items(system.member))
            with bank.without_member(str(system.member)):
                assert not torch.equal(bank.item_losses(make_items(system.member)), tuned)


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path: Path, model: Path) -> None:
    found = []
    for place, stops in (("straight", ()), ("stopped", (3,))):
        (folder := tmp_path / place).mkdir()
        worker = OneWorker(folder, model)
        [run] = worker.plan([point(worker, checkpoint_steps=1, max_steps=6)])
        for steps in stops:
            worker.should_stop = lambda worker=worker, steps=steps: any(  # type: ignore[misc]
                message.get("step") == steps for message in worker.messages
            )
            assert worker.work()[run.run_id].status is not JobStatus.done
            worker.should_stop = lambda: False
        assert worker.work()[run.run_id].status is JobStatus.done
        found.append(load_file(folder / "runs" / run.run_id / WEIGHTS))
        assert [line["step"] for line in worker.metrics(run.run_id)] == [1, 2, 3, 4, 5, 6]
        worker.ledger.close()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"qst_reduction": 2}, "the run was trained with"),
        ({"peft_type": "LORA"}, "qst_down_rank=4, qst_reduction=4: can't be served here"),
    ],
)
def test_a_config_that_was_changed_is_not_served(worker: OneWorker, change: dict[str, Any], problem: str) -> None:
    [run] = worker.plan([point(worker)])
    worker.work()
    file = worker.folder / "runs" / run.run_id / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    system = open_system(worker.folder / "runs" / run.run_id)
    with (
        pytest.raises(ValueError, match=rf"adapter_config\.json: .*{problem}"),
        loaded([system], worker.paths, torch.device("cpu")),
    ):
        pass
