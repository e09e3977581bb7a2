"""Classifiers scored on labelled rows: a trained one is good, results belong to model and rows, misfits are refused."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from eval.benchmarks.dataset_rows import EvalRows, evaluation_rows
from eval.benchmarks.glue.class_scores import class_scores
from eval.benchmarks.glue.score import score_glue
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.registry import BENCHMARKS
from eval.commands.score_runs import OwnRows, score_target
from eval.systems import Target, chosen_systems
from harness.banks.load import LoadedBase, load_base, set_num_labels
from harness.config.choices import dataset_choice
from harness.config.schema import (
    AdapterConfig,
    DatasetConfig,
    DType,
    ModelKind,
    PathsConfig,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.data.labels import num_labels
from harness.data.source import DataSource, locate_dataset
from harness.data.tokens import tokenize_dataset
from harness.models.locate import ModelSource
from harness.runs.record import save_record
from harness.training.group import Member
from harness.training.loop import train_group
from tests.builders import record, spec
from tests.lab import write_rows
from tests.tiny import make_checkpoint
from tests.tiny_encoders import WORDS, glue_mrpc_rows, make_roberta

PLAIN = QuantConfig(name="fp32", method=QuantMethod.none, compute_dtype=DType.float32)
TRAIN = TrainConfig(max_steps=40, batch_size=8, learning_rate=5e-3, max_epochs=100.0, checkpoint_steps=1000)
SENTENCES = [{"sentence": f"A {WORDS[i % 8]} day", "label": int(i % 8 < 4), "idx": i} for i in range(16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    base: LoadedBase
    adapter: Path
    store: Path

    def rows(self, name: str = "glue_sst2", **where: Any) -> EvalRows:
        paths = PathsConfig(data_store=str(self.store), cache="unused")
        return evaluation_rows(dataset_choice(name), where.get("data"), where.get("split"), paths)


def opened(folder: Path) -> LoadedBase:
    source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=512)
    return load_base(source, PLAIN, torch.device("cpu"), folder, ModelKind.classifier)


def train(base: LoadedBase, config: DatasetConfig, folder: Path, steps: int = 80) -> Path:
    """As `sweeps.jobs.training` does. -> the adapter's folder"""
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)
    data = tokenize_dataset(config, source, base.tokenizer, folder)
    assert data.labels is not None
    set_num_labels(base.bank, num_labels(config, float(data.labels.max())))
    member = Member(
        run_id="a",
        adapter=AdapterConfig(name="lora", lora_r=4, lora_dropout=0.0),
        train=replace(TRAIN, max_steps=steps),
        examples=data,
        checkpoint_folder=folder / "checkpoint",
        on_step=lambda metrics: None,
    )
    train_group(base.bank, [member])
    assert member.error is None
    base.bank.save_member("a", folder / "adapter", "tiny", "main")
    return folder / "adapter"


@pytest.fixture(scope="module", params=["roberta", "llama"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    store = folder / "store"
    make = make_roberta if request.param == "roberta" else make_checkpoint
    write_rows(store / "glue_sst2" / "validation.jsonl", SENTENCES)
    config = replace(dataset_choice("glue_sst2"), path=str(write_rows(folder / "train.jsonl", SENTENCES)))
    base = opened(make(folder / "model"))
    return Trained(base=base, adapter=train(base, config, folder), store=store)


def test_a_trained_classifier_is_right_about_what_it_learned(trained: Trained, tmp_path: Path) -> None:
    result = score_glue(trained.base, "s", "a", trained.rows(), GlueSettings(), partial_dir=tmp_path)
    assert (result.task, result.split_name, result.score_name, result.n) == ("glue_sst2", "validation", "accuracy", 16)
    assert result.score is not None
    assert result.score >= 0.8, "80 steps on the same 16 rows"
    assert [p.answer for p in result.predictions] == [row["label"] for row in SENTENCES], "in the file's order"
    assert [p.line for p in result.predictions] == list(range(1, 17))
    assert all(p.choice == int(np.argmax(p.scores)) for p in result.predictions)
    choices = [int(p.choice) for p in result.predictions]
    expected = class_scores([int(row["label"]) for row in SENTENCES], choices, 2, np.random.default_rng(0))  # type: ignore[call-overload]
    assert result.metrics == expected
    json.dumps(result.to_json(), allow_nan=False)


def test_scores_that_are_no_numbers_choose_no_class(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trained.base.bank.label_logits  # type: ignore[attr-defined]
    monkeypatch.setattr(trained.base.bank, "label_logits", lambda items: real(items) * float("nan"))
    with pytest.raises(ValueError, match="with adapter a: its logits are NaN or infinite"):
        score_glue(trained.base, "s", "a", trained.rows(), GlueSettings())


def test_the_saved_adapter_scores_the_same(trained: Trained) -> None:
    fresh = opened(Path(trained.base.source.location))
    fresh.bank.load_member("b", trained.adapter)
    ours = score_glue(trained.base, "s", "a", trained.rows(), GlueSettings())
    again = score_glue(fresh, "s", "b", trained.rows(), GlueSettings())
    for one, other in zip(ours.predictions, again.predictions, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert again.settings_sha256 == ours.settings_sha256


def test_a_killed_call_goes_on_and_changed_rows_do_not_reuse_it(trained: Trained, tmp_path: Path) -> None:
    rows, seen = trained.rows(), list[int]()

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.benchmarks.glue.score.MAX_BATCH_TOKENS", 40)
        with pytest.raises(KeyboardInterrupt):
            score_glue(trained.base, "s", "a", rows, GlueSettings(), stop, tmp_path)
        first = seen[0]
        result = score_glue(trained.base, "s", "a", rows, GlueSettings(), stop, tmp_path)
    assert 0 < first < 16
    assert seen[1] > first, "the rows of the killed call are not asked again"
    whole = score_glue(trained.base, "s", "a", rows, GlueSettings())
    assert [p.choice for p in whole.predictions] == [p.choice for p in result.predictions]
    seen.clear()
    other = trained.rows(data=str(write_rows(tmp_path / "other.jsonl", SENTENCES[:4])))
    seen.append(0)
    assert score_glue(trained.base, "s", "a", other, GlueSettings(), stop, tmp_path).data_sha256 != result.data_sha256
    assert seen[-1] == 4


def test_a_limit_takes_the_first_rows(trained: Trained) -> None:
    result = score_glue(trained.base, "s", "a", trained.rows(), GlueSettings(limit=5))
    assert [p.line for p in result.predictions] == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="limit=0: expected 1 or more"):
        GlueSettings(limit=0)


def test_a_head_of_another_task_is_refused(trained: Trained, tmp_path: Path) -> None:
    nli = [{"premise": "a", "hypothesis": "b", "label": 2}]
    rows = trained.rows("glue_mnli", data=str(write_rows(tmp_path / "nli.jsonl", nli)))
    with pytest.raises(ValueError, match="glue_mnli has 3 classes, and this model's head 2 classes"):
        score_glue(trained.base, "s", "a", rows, GlueSettings())
    local = DatasetConfig(name="local", hub_id="local", format="classification")
    data = str(write_rows(tmp_path / "local.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 2}]))
    rows = evaluation_rows(local, data, None, PathsConfig(cache="unused"))
    with pytest.raises(ValueError, match=r"local.jsonl, line 2, field 'label': label 2 is out of range: .* 0 to 1"):
        score_glue(trained.base, "s", "a", rows, GlueSettings())


def test_an_untrained_head_is_refused(trained: Trained) -> None:
    untouched = opened(Path(trained.base.source.location))
    with pytest.raises(ValueError, match="has no trained classification head"):
        score_glue(untouched, "s", None, trained.rows(), GlueSettings())


def test_rows_without_labels_are_refused(trained: Trained, tmp_path: Path) -> None:
    rows = trained.rows("alpaca", data=str(write_rows(tmp_path / "x.jsonl", [{"instruction": "a", "output": "b"}])))
    with pytest.raises(ValueError, match=r"dataset.format=alpaca has no labels; there are: classification, glue_cola"):
        score_glue(trained.base, "s", "a", rows, GlueSettings())


def test_numbers_are_predicted_and_correlated(tmp_path: Path) -> None:
    """STS-B: one output, squared error; the wider the gap in the first words, the lower the number."""
    made: list[dict[str, Any]] = [
        {"sentence1": "A red day", "sentence2": f"A {WORDS[i % 8]} day", "label": (i % 8) * 0.6, "idx": i}
        for i in range(16)
    ]
    path = str(write_rows(tmp_path / "stsb.jsonl", made))
    base = opened(make_roberta(tmp_path / "model"))
    train(base, replace(dataset_choice("glue_stsb"), path=path), tmp_path, steps=160)
    rows = evaluation_rows(dataset_choice("glue_stsb"), path, None, PathsConfig(cache="unused"))
    result = score_glue(base, "s", "a", rows, GlueSettings())
    assert (result.num_labels, result.score_name, set(result.metrics)) == (1, "pearson", {"pearson", "spearman"})
    assert result.score is not None
    assert result.score > 0.7
    error = np.mean([(p.choice - p.answer) ** 2 for p in result.predictions])
    assert error < 0.7 * np.var([row["label"] for row in made]), "better than always saying the mean"


def call(out: Path, dataset: str | None = None, data: Path | None = None, **changes: Any) -> Any:
    empty: dict[str, Any] = {"model": None, "quant": None, "sweep": None, "runs": None, "adapters": (), "run_ids": ()}
    settings = GlueSettings(data=None if data is None else str(data))
    target, own_rows = Target(**empty | changes), OwnRows(dataset=dataset)
    return score_target(BENCHMARKS["glue"], settings, target, own_rows, {}, out, lambda done, total: None)


def test_an_adapter_of_another_base_is_refused(trained: Trained, tmp_path: Path) -> None:
    folder = Path(trained.base.source.location)
    common = {"model": str(folder), "dataset": "glue_sst2", "data": trained.store / "glue_sst2" / "validation.jsonl"}
    results, _ = call(tmp_path / "out", **common, adapters=(trained.adapter,), quant="fp32")
    assert json.loads((tmp_path / "out" / "glue.json").read_text())["n"] == 16
    assert all(result["score"] >= 0.8 for result in results.values())
    wider = make_roberta(tmp_path / "wide", width=64)
    with pytest.raises(ValueError, match=r"(this base model; it was made for tiny)"):
        call(tmp_path, **common | {"model": str(wider)}, adapters=(trained.adapter,), quant="fp32")
    run = tmp_path / "run"
    run.mkdir()
    (run / "adapter").symlink_to(trained.adapter)
    about = spec(model=("roberta_large", {}), dataset="glue_sst2", quant="fp32").to_dict()
    save_record(run, replace(record(), base_fingerprint="elsewhere", spec=about))
    with pytest.raises(ValueError, match=r"was trained on another base than .*then elsewhere, now"):
        call(tmp_path, **common, adapters=(run / "adapter",))


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_record(tmp_path / "aaaaaaaaaaaa", replace(record(), run_id="aaaaaaaaaaaa"))
    (tmp_path / "aaaaaaaaaaaa" / "config.yaml").write_text(yaml.safe_dump(spec().to_dict()))
    assert len(chosen_systems(None, ["aaaaaaaaaaaa"], tmp_path)) == 1
    with pytest.raises(ValueError, match=r"model.kind=causal; this command scores model.kind=classifier"):
        call(tmp_path, run_ids=("aaaaaaaaaaaa",), runs=tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "roberta_large", "dataset": "glue_mrcp"}, "Did you mean .*glue_mrpc"),
        ({"adapters": (Path("x"),)}, "--adapter needs --model"),
        ({}, "nothing to measure: name a --sweep or a --run"),
    ],
)
def test_unknown_tasks_and_missing_choices(
    tmp_path: Path, trained: Trained, changes: dict[str, Any], problem: str
) -> None:
    if "model" in changes:
        changes = changes | {"model": trained.base.source.location}
    with pytest.raises(ValueError, match=problem):
        call(tmp_path, **changes)


def test_the_store_may_hold_the_hubs_folder(tmp_path: Path) -> None:
    """`nyu-mll/glue` is nine datasets: each looks into a folder of its own."""
    write_rows(tmp_path / "nyu-mll" / "glue" / "mrpc" / "train.jsonl", glue_mrpc_rows(2))
    paths = PathsConfig(data_store=str(tmp_path), cache="unused")
    found = locate_dataset(dataset_choice("glue_mrpc"), paths)
    assert isinstance(found, DataSource)
    assert found.files == (tmp_path / "nyu-mll" / "glue" / "mrpc" / "train.jsonl",)
    assert not isinstance(locate_dataset(dataset_choice("glue_rte"), paths), DataSource)
