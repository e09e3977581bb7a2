"""Parts of a worker's jobs by hand: what ranks tell each other, adopted runs, metrics that are done again, saving."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.distributed import DistStoreError

from harness.config.schema import AdapterMethod, ModelKind
from harness.devices.ranks import PeerLostError
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus
from harness.runs.record import CHECKPOINT_FOLDER, METRICS_FILE
from harness.training.group import StepMetrics
from harness.training.held_out import EvalPoint
from sweeps.jobs import peers, preparing, settling
from sweeps.jobs.claimed_run import ClaimedRun, earlier_metrics
from sweeps.jobs.peers import LEAST_PAUSE, MOST_PAUSE, Peers
from sweeps.plan.inputs import DATA


class Store:
    """A store of torch's, in memory; each look at a key that is not there yet counts."""

    def __init__(self, late: int = 0) -> None:
        self.values: dict[str, str] = {}
        self.late = late

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> str:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        self.late -= 1
        return self.late < 0 and keys[0] in self.values


def ranks(**changes: Any) -> Any:
    return SimpleNamespace(require_peers=lambda: None, **changes)


def test_messages_arrive_in_their_order_and_a_wait_grows_to_its_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(peers.time, "sleep", slept.append)
    store: Any = Store(late=9)
    leader, other = Peers(ranks=ranks(), store=store), Peers(ranks=ranks(), store=store)
    leader.broadcast({"a": 1})
    leader.broadcast([])
    assert sorted(store.values) == ["message/1", "message/2"]
    assert other.receive() == {"a": 1}
    assert slept == [LEAST_PAUSE * 2**i for i in range(7)] + [MOST_PAUSE] * 2
    assert other.receive() == []
    Peers().broadcast("nobody hears it")


def test_a_lost_peer_or_store_ends_the_wait() -> None:
    def lost() -> None:
        raise PeerLostError("rank 1 is gone")

    alone = Peers(ranks=SimpleNamespace(require_peers=lost), store=Store(late=9))  # type: ignore[arg-type]
    with pytest.raises(PeerLostError, match="rank 1 is gone"):
        alone.receive()

    def gone(keys: list[str]) -> bool:
        raise DistStoreError("closed")

    with pytest.raises(PeerLostError, match="the store where the ranks meet is gone: closed"):
        Peers(ranks=ranks(), store=SimpleNamespace(check=gone)).receive()  # type: ignore[arg-type]


def claimed(tmp_path: Path) -> JobRow:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.add([Job(kind="train", spec_hash="ab", run_id="ab", group="g", label="l", payload="{}")], sweep="s")
    (claim,) = ledger.claim("w", ["train"], 1, 60, max_attempts=1)
    ledger.close()
    return claim


def test_a_job_comes_to_the_other_ranks_as_it_was_claimed(tmp_path: Path) -> None:
    store: Any = Store()
    claim = claimed(tmp_path)
    Peers(ranks=ranks(), store=store).broadcast_job([claim])
    other = Peers(ranks=ranks(), store=store)
    assert other.receive_job() == [claim]
    store.set("message/2", "null")
    assert other.receive_job() is None
    store.set("message/3", "[]")
    assert other.receive_job() == []
    assert claim.status is JobStatus.claimed


def run(folder: Path, **changes: Any) -> Any:
    values = {"claim": SimpleNamespace(run_id="ab"), "folder": folder, "member": None, "metrics": [], "data": None}
    model = SimpleNamespace(hub_id="a/m", revision="main")
    return SimpleNamespace(**{**values, "spec": SimpleNamespace(model=model), "data_fingerprint": "d", **changes})


def test_a_checkpoint_of_other_inputs_is_dropped_and_of_the_same_kept(tmp_path: Path) -> None:
    one, base = run(tmp_path), SimpleNamespace(fingerprint="f")
    folder = tmp_path / CHECKPOINT_FOLDER
    preparing._drop_checkpoint_of_other_inputs(one, base)  # type: ignore[arg-type]
    assert json.loads((folder / "inputs.json").read_text()) == {"base_fingerprint": "f", "data_fingerprint": "d"}
    (folder / "step-1").mkdir()
    preparing._drop_checkpoint_of_other_inputs(one, base)  # type: ignore[arg-type]
    assert (folder / "step-1").is_dir()
    preparing._drop_checkpoint_of_other_inputs(run(tmp_path, data_fingerprint="e"), base)  # type: ignore[arg-type]
    assert not (folder / "step-1").exists()
    assert json.loads((folder / "inputs.json").read_text())["data_fingerprint"] == "e"


def metrics(step: int) -> StepMetrics:
    return StepMetrics(step=step, loss=1.0 / step, learning_rate=0.1, grad_norm=0.5, target_tokens=3, seconds=0.1)


def test_steps_that_are_done_again_leave_the_metrics(tmp_path: Path) -> None:
    point = EvalPoint(step=1, eval_loss=0.5, eval_bits_per_byte=0.25, eval_seconds=0.1)
    one = ClaimedRun(
        claim=Any,
        spec=Any,
        label="l",
        folder=tmp_path,
        started="",
        until=None,
        inputs={},  # type: ignore[arg-type]
    )
    assert earlier_metrics(tmp_path) == ([], {})
    for step in (1, 2, 3):
        one.add_step(metrics(step))
    one.add_point(point)
    one.add_point(replace(point, step=3))
    assert earlier_metrics(tmp_path) == ([metrics(1), metrics(2), metrics(3)], {1: point, 3: replace(point, step=3)})
    one.add_step(metrics(2))
    assert [kept.step for kept in one.metrics] == [1, 2]
    assert earlier_metrics(tmp_path) == ([metrics(1), metrics(2)], {1: point})
    (tmp_path / METRICS_FILE).write_text('{"other": 1}\n')
    one.read_earlier_metrics()
    assert (one.metrics, one.points) == ([], {})


class Told:
    """What the ledger and whoever watches were told of a run."""

    def __init__(self, held: bool = True) -> None:
        self.held, self.finished, self.failed = held, list[Any](), list[Any]()
        self.peers = SimpleNamespace(ranks=SimpleNamespace(size=2))

    def still_held(self, claim: Any) -> bool:
        return self.held

    def finish(self, claim: Any, result: Any, seconds: float, **what: Any) -> None:
        self.finished.append((result, seconds, sorted(what)))

    def fail(self, claim: Any, reason: str, retry: bool) -> None:
        self.failed.append((reason, retry))


@pytest.fixture
def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run with an adapter to save, and a bank that writes one file."""
    for folder in ("adapter", CHECKPOINT_FOLDER):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "old").write_text("")
    seen: list[Any] = []
    monkeypatch.setattr(
        settling, "_record", lambda base, run, digest, size: SimpleNamespace(train_seconds=2.5, d=digest, n=size)
    )
    monkeypatch.setattr(settling, "save_record", lambda folder, record: seen.append((folder, record.d, record.n)))
    monkeypatch.setattr(settling, "train_result", lambda record: {"loss": 1})

    def save_member(name: str, folder: Path, hub_id: str, revision: str) -> str:
        folder.mkdir()
        (folder / "new").write_text(f"{name} {hub_id} {revision}")
        return "sha"

    base = SimpleNamespace(bank=SimpleNamespace(save_member=save_member))
    return SimpleNamespace(
        base=base, seen=seen, run=run(tmp_path, member=SimpleNamespace(error=None, stopped=False)), folder=tmp_path
    )


def test_a_run_is_saved_whole_before_the_ledger_knows(saving: Any) -> None:
    told: Any = Told()
    settling.settle(told, saving.base, saving.run)
    assert (told.finished, told.failed) == ([({"loss": 1}, 2.5, ["save_seconds"])], [])
    assert saving.seen == [(saving.folder, "sha", 2)]
    assert sorted(path.name for path in saving.folder.iterdir()) == ["adapter"]
    assert (saving.folder / "adapter" / "new").read_text() == "ab a/m main"
    assert not (saving.folder / "adapter" / "old").exists()


def test_what_another_worker_holds_is_not_overwritten(saving: Any) -> None:
    told: Any = Told(held=False)
    settling.settle(told, saving.base, saving.run)
    assert (told.finished, told.failed, saving.seen) == ([], [], [])
    assert sorted(path.name for path in saving.folder.iterdir()) == ["adapter", CHECKPOINT_FOLDER]
    assert (saving.folder / "adapter" / "old").exists()


def test_a_member_that_stopped_early_fails_without_another_try(saving: Any) -> None:
    told: Any = Told()
    saving.run.member.error = "its loss is not finite"
    settling.settle(told, saving.base, saving.run)
    assert (told.failed, told.finished, saving.seen) == ([("its loss is not finite", False)], [], [])


def test_a_folder_that_can_not_be_written_keeps_the_checkpoint_and_leaves_nothing_half(saving: Any) -> None:
    told: Any = Told()

    def refuse(name: str, folder: Path, hub_id: str, revision: str) -> str:
        folder.mkdir()
        raise PermissionError("not yours")

    saving.base.bank.save_member = refuse
    settling.settle(told, saving.base, saving.run)
    assert told.failed == [("PermissionError: not yours; its last checkpoint is kept", True)]
    assert sorted(path.name for path in saving.folder.iterdir()) == ["adapter", CHECKPOINT_FOLDER]

    def full(name: str, folder: Path, hub_id: str, revision: str) -> str:
        raise OSError(28, "No space left on device")

    saving.base.bank.save_member = full
    with pytest.raises(OSError, match="No space left"):
        settling.settle(told, saving.base, saving.run)


def test_an_untouched_base_has_a_record_and_no_adapter(saving: Any) -> None:
    told: Any = Told()
    saving.run.member = None
    settling.settle(told, saving.base, saving.run)
    assert saving.seen == [(saving.folder, None, 2)]
    assert (saving.folder / "adapter" / "old").exists()
    assert len(told.finished) == 1


def test_a_whole_folder_is_taken_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    method = AdapterMethod
    one = run(tmp_path)
    one.spec.adapter = SimpleNamespace(method=method.lora)
    (tmp_path / CHECKPOINT_FOLDER).mkdir()
    problem: list[str | None] = ["half"]
    monkeypatch.setattr(settling, "folder_problem", lambda *given: asked.append(given) or problem[0])
    monkeypatch.setattr(settling, "load_record", lambda folder: SimpleNamespace(train_seconds=4.5))
    monkeypatch.setattr(settling, "train_result", lambda record: {"loss": 2})
    told: Any = Told()
    assert settling.adopt(told, one) is False
    assert (tmp_path / CHECKPOINT_FOLDER).is_dir()
    problem[0] = None
    assert settling.adopt(told, one) is True
    assert told.finished == [({"loss": 2}, 4.5, [])]
    assert not (tmp_path / CHECKPOINT_FOLDER).exists()
    one.spec.adapter.method = method.none
    assert settling.adopt(told, one) is True
    assert [given[1:] for given in asked] == [(True, "ab"), (True, "ab"), (False, "ab")]
    assert os.listdir(tmp_path) == []


def test_rows_are_checked_calibrated_on_and_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    adapter = SimpleNamespace(corda_keep=None)
    data = SimpleNamespace(
        lines=None, labels=None, num_characters=np.array([3, 4]), require_fits=lambda *a, **k: called.append((a, k))
    )
    dataset = SimpleNamespace(
        empty_targets=SimpleNamespace(value="keep"), assistant_turns=None, fraction=1.0, format="plain"
    )
    spec = SimpleNamespace(
        dataset=dataset, train="train", adapter=adapter, model=SimpleNamespace(kind=ModelKind.causal)
    )
    one = SimpleNamespace(spec=spec, inputs={"data": "x"}, data=None, data_fingerprint=None, notes=[])
    place: Any = SimpleNamespace(settings=SimpleNamespace(paths=SimpleNamespace(cache=str(tmp_path))))
    base: Any = SimpleNamespace(tokenizer="t", max_length=7, bank="bank")
    monkeypatch.setattr(preparing, "locate_dataset", lambda *given: SimpleNamespace(files=["f"]))
    monkeypatch.setattr(preparing, "fingerprint", lambda source: "sign")
    monkeypatch.setattr(preparing, "tokenize_dataset", lambda *given, **named: called.append((given[3], named)) or data)
    for name in ("require_planned", "calibrate", "set_master_weights", "set_num_labels"):
        monkeypatch.setattr(preparing, name, lambda *given, name=name: called.append((name, *given)))
    monkeypatch.setattr(preparing, "split_examples", lambda *given: None)
    monkeypatch.setattr(
        preparing,
        "divided",
        lambda data, numbers, train, lines: SimpleNamespace(
            examples=["example"], num_characters=numbers, held_out=None, num_twins=2
        ),
    )
    monkeypatch.setattr(preparing, "num_labels", lambda dataset, highest: int(highest) + 1)
    rows = preparing.read_rows(place, base, one)  # type: ignore[arg-type]
    assert (rows.examples, rows.num_characters.tolist(), rows.held_out) == (["example"], [3, 4], None)
    assert rows.num_characters.dtype == np.int64
    assert one.notes == ["2 rows are equal to held-out ones and were left out of training"]
    assert called == [
        ("require_planned", {"data": "x"}, {DATA: "sign"}, spec),
        (tmp_path / "tokenized", {"empty_targets": "keep"}),
        ((7,), {"apart": False}),
        ("calibrate", "bank", adapter, ["example"], "train"),
        ("set_master_weights", "bank", adapter, "train"),
    ]
    called.clear()
    data.labels = np.array([0.0, 2.0])
    spec.model.kind = ModelKind.seq2seq
    preparing.read_rows(place, base, one)  # type: ignore[arg-type]
    assert called[2] == ((7,), {"apart": True})
    assert called[3] == ("set_num_labels", "bank", 3)
