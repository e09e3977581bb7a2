"""MMLU in training and kept adapters: the training is bit for bit as without them; steps scored in one load."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from eval.benchmarks.mmlu.checkpoints import find_snapshots, score_checkpoints
from eval.benchmarks.mmlu.score import score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import PathsConfig
from harness.files.atomic import read_jsonl
from harness.models.locate import ModelSource, folder_fingerprint
from harness.runs.record import save_record
from harness.training.checkpoint import checkpoints
from harness.training.group import Member
from harness.training.loop import TrainingInterrupted, train_group
from sweeps.jobs import callbacks
from sweeps.jobs.callbacks import MmluPoint, StepCallbacks, Watched, remove_callback_files
from tests.builders import PLAIN, make_member, record, spec, weights
from tests.tiny import make_checkpoint

LOOKS: dict[str, Any] = {"mmlu_every_steps": 2, "mmlu_num_shots": 1, "mmlu_limit": 3, "snapshot_steps": 3}
QUESTIONS = MmluSettings(num_shots=1, limit=3, protocol=Protocol.qlora_callback)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def load(folder: Path) -> LoadedBase:
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=2048)
    return load_base(source, PLAIN, torch.device("cpu"), folder)


def watch(
    base: LoadedBase, members: list[Member], runs: Path, stop: Any = lambda: False
) -> tuple[StepCallbacks, list[MmluPoint]]:
    logged: list[MmluPoint] = []
    watched = {m.run_id: Watched(spec=spec(), folder=runs / m.run_id, log=logged.append) for m in members}
    return StepCallbacks(base, watched, stop), logged


def points(runs: Path, name: str) -> list[dict[str, Any]]:
    return read_jsonl(runs / name / callbacks.MMLU_LOG)


def test_weights_are_bit_for_bit_those_without_looking(folder: Path, tmp_path: Path) -> None:
    """Two members with dropout, one of them looked at; other steps, other data."""
    plain = load(folder)
    members = [make_member("a", tmp_path / "plain")[0], make_member("b", tmp_path / "plain", seed=1, max_steps=5)[0]]
    train_group(plain.bank, members)
    watched = load(folder)
    members = [
        make_member("a", tmp_path / "seen", **LOOKS)[0],
        make_member("b", tmp_path / "seen", seed=1, max_steps=5, **LOOKS)[0],
    ]
    look, logged = watch(watched, members, tmp_path / "runs")
    torch.manual_seed(7)
    np.random.seed(7)
    streams = torch.get_rng_state(), str(np.random.get_state())
    train_group(watched.bank, members, between_steps=look)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert str(np.random.get_state()) == streams[1]
    for name in ("a", "b"):
        for key, value in weights(watched.bank, name).items():
            assert torch.equal(value, weights(plain.bank, name)[key])
    assert [point["step"] for point in points(tmp_path / "runs", "a")] == [2, 4, 6]
    assert [point["step"] for point in points(tmp_path / "runs", "b")] == [2, 4, 5]  # the last one too
    assert len(logged) == 6
    last = points(tmp_path / "runs", "a")[-1]
    result = score_mmlu(watched, {"a": "a"}, QUESTIONS)["a"]
    assert last["mmlu_accuracy_micro"] == result.accuracy_micro
    assert last["protocol"] == "qlora_callback"
    right = [p.logprobs[p.answer] for p in result.predictions]
    assert last["mmlu_answer_loss"] == pytest.approx(-sum(right) / len(right), rel=1e-4)
    kept = sorted(path.name for path in (tmp_path / "runs" / "a" / "adapters").iterdir())
    assert kept == ["step-00000003", "step-00000006"]
    watched.bank.load_member("kept", tmp_path / "runs" / "a" / "adapters" / kept[-1])
    for key, value in weights(watched.bank, "kept").items():
        assert torch.equal(value, weights(watched.bank, "a")[key])


def test_scoring_cut_off_by_a_stop_is_made_up_for(folder: Path, tmp_path: Path) -> None:
    stop = {"now": False}
    base = load(folder)
    member, _ = make_member("a", tmp_path, **LOOKS)
    look, logged = watch(base, [member], tmp_path, lambda: stop["now"])
    member.on_step = lambda metrics: stop.update(now=metrics.step == 4)  # asked to stop just before it is scored
    with pytest.raises(TrainingInterrupted):
        train_group(base.bank, [member], lambda: stop["now"], look)
    assert [point.step for point in logged] == [2]
    assert checkpoints(member.checkpoint_folder)[0].name == "step-00000004"
    base = load(folder)
    member, _ = make_member("a", tmp_path, **LOOKS)
    look, logged = watch(base, [member], tmp_path)
    train_group(base.bank, [member], between_steps=look)
    assert [point.step for point in logged] == [4, 6]
    assert [point["step"] for point in points(tmp_path, "a")] == [2, 4, 6]
    remove_callback_files(tmp_path / "a")
    assert not (tmp_path / "a" / "adapters").exists()
    assert not (tmp_path / "a" / callbacks.MMLU_LOG).exists()


def test_ranks_score_the_members_that_rank_0_says(folder: Path, tmp_path: Path) -> None:
    """What the others know of files or lost claims doesn't count: all have to make the same passes."""
    members = [make_member(name, tmp_path)[0] for name in "abc"]
    watched = {m.run_id: Watched(spec=spec(), folder=tmp_path / m.run_id, log=lambda _: None) for m in members}
    said: list[list[str]] = []
    base: Any = SimpleNamespace()
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / callbacks.MMLU_LOG).write_text('{"step": 0}\n')  # scored before
    members[1].lost = lambda: True
    first: Any = SimpleNamespace(ranks=SimpleNamespace(leads=True), broadcast=said.append)
    assert StepCallbacks(base, watched, lambda: False, first)._agreed(members) == [members[2]]
    assert said == [["c"]]
    other: Any = SimpleNamespace(ranks=SimpleNamespace(leads=False), receive=lambda: ["a", "b"])
    assert StepCallbacks(base, watched, lambda: False, other)._agreed(members) == members[:2]


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A finished run of 6 steps that kept its adapter every 3 steps... and of 6 the final one."""
    base = load(folder)
    member, _ = make_member("a", tmp_path, **LOOKS)
    look, _ = watch(base, [member], tmp_path)
    train_group(base.bank, [member], between_steps=look)
    base.bank.save_member("a", tmp_path / "a" / "adapter", "tiny", "main")
    one = spec(model=("local", {"path": str(folder), "hub_id": "tiny"}), quant="none")
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(one.to_dict()))
    fingerprint = folder_fingerprint(folder)
    save_record(tmp_path / "a", dataclasses.replace(record(), run_id="a", num_steps=6, base_fingerprint=fingerprint))
    return tmp_path / "a"


def test_many_steps_of_a_run_are_scored_in_one_load(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = PathsConfig(cache=str(tmp_path / "cache"))
    found = score_checkpoints(run, "all", QUESTIONS, tmp_path / "out", paths, lambda done, total: None)
    assert [score.step for score in found.steps] == [3, 6]
    saved = json.loads((tmp_path / "out" / "checkpoints.json").read_text())
    assert [row["step"] for row in saved["steps"]] == [3, 6]
    base = load(folder)
    for score in found.steps:
        name = f"s{score.step}"
        base.bank.load_member(name, run / "adapters" / f"step-{score.step:08d}")
        alone = score_mmlu(base, {name: name}, QUESTIONS)[name]
        of_step = json.loads((tmp_path / "out" / f"step-{score.step}" / "mmlu.json").read_text())
        assert of_step["model_sha256"] == alone.model_sha256
        for one, other in zip(of_step["predictions"], alone.predictions, strict=True):
            np.testing.assert_allclose(one["logprobs"], other.logprobs, atol=1e-4)
    monkeypatch.setattr(
        "eval.benchmarks.mmlu.checkpoints.free_bytes", lambda device: 1
    )  # no room for two at once: one behind the other
    again = score_checkpoints(run, "3,6", QUESTIONS, tmp_path / "again", paths, lambda done, total: None)
    assert [s.accuracy_micro for s in again.steps] == [s.accuracy_micro for s in found.steps]


@pytest.mark.parametrize(
    ("which", "message"),
    [("4", "keeps no adapter of step 4; there are 3, 6"), ("some", "expected all, last, or steps")],
)
def test_steps_that_are_not_there_are_named(run: Path, which: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_snapshots(run, which)
    assert [snapshot.step for snapshot in find_snapshots(run, "last")] == [6]
    with pytest.raises(ValueError, match="no such run"):
        find_snapshots(run.parent / "nobody", "all")
