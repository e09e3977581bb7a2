"""Labelled rows: which class a label is, what a classifier reads, and every row that can't be used is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import DatasetConfig, ModelConfig, ModelKind, PathsConfig
from harness.data.encoding import encode_texts
from harness.data.fields import Example
from harness.data.labels import label_value, num_labels
from harness.data.rows import DataError
from harness.data.source import DataSource, SourceRow, locate_dataset, row_examples
from harness.data.tokens import TokenizedDataset, tokenize_dataset
from harness.runs.compatibility import task_problem
from tests.tiny import make_tokenizer
from tests.tiny_encoders import glue_mrpc_rows, make_roberta

NAMES = ["not_equivalent", "equivalent"]


def dataset(**changes: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "mine", "hub_id": "o/mine", "format": "glue_mrpc"} | changes)


def value(label: int | float | str, **changes: Any) -> float:
    return label_value(Example("a", "", "label", label=label), SourceRow("rows.csv", 7, {}), dataset(**changes))


@pytest.mark.parametrize(
    ("label", "changes", "expected"),
    [
        (1, {"label_names": NAMES}, 1),
        ("equivalent", {"label_names": NAMES}, 1),
        ("1", {"label_names": NAMES}, 1),  # a table's cell
        (1.0, {}, 1),
        (3.8, {"num_labels": 1}, 3.8),
        ("3.8", {"num_labels": 1}, 3.8),
    ],
)
def test_a_label_is_a_class_or_a_number(label: int | float | str, changes: dict[str, Any], expected: float) -> None:
    assert value(label, **changes) == expected


@pytest.mark.parametrize(
    ("label", "changes", "problem"),
    [
        (2, {"label_names": NAMES}, r"label 2 is out of range: dataset.label_names=.* has the classes 0 to 1"),
        (5, {"num_labels": 3}, "label 5 is out of range: dataset.num_labels=3 has the classes 0 to 2"),
        (-1, {"label_names": NAMES}, "label -1: its class is hidden, as in GLUE's test splits"),
        (-3, {}, "label -3 is no class: expected 0, 1, ..."),
        (0.5, {}, r"label 0.5 is no class.*dataset.num_labels=1"),
        ("maybe", {"label_names": NAMES}, "label 'maybe' is no class; dataset.label_names="),
        ("maybe", {}, r"label 'maybe' is no class; name the classes by dataset.label_names"),
        ("high", {"num_labels": 1}, "label 'high' is no number"),
        (float("nan"), {"num_labels": 1}, "label nan is no number"),
    ],
)
def test_a_label_that_is_none_names_its_row(label: int | float | str, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=rf"rows.csv, line 7, field 'label': {problem}"):
        value(label, **changes)


@pytest.mark.parametrize("label", ["", "  ", None, True, [1]])
def test_a_row_without_a_label_is_refused(label: Any) -> None:
    row = SourceRow("rows.jsonl", 3, {"text": "a", "label": label})
    with pytest.raises(DataError, match=r"rows.jsonl, line 3, field 'label': (empty|expected a number or a class)"):
        row_examples(row, "classification")


def test_the_number_of_classes_is_declared_or_found() -> None:
    assert num_labels(dataset(label_names=NAMES), 0) == 2
    assert num_labels(dataset(num_labels=1), 4.8) == 1
    assert num_labels(dataset(), 4) == 5
    assert num_labels(dataset(), 0) == 2, "a file that happens to hold one class is still a choice of two"
    with pytest.raises(ValueError, match=r"dataset.num_labels=3 and dataset.label_names=.*as many names as classes"):
        dataset(num_labels=3, label_names=NAMES)
    with pytest.raises(ValueError, match="name at least two classes, each once"):
        dataset(label_names=["a", "a"])


def tokenized(tmp_path: Path, tokenizer: Any, **changes: Any) -> TokenizedDataset:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in glue_mrpc_rows(6)))
    config = dataset(path=str(file), **{"label_names": NAMES} | changes)
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)
    return tokenize_dataset(config, source, tokenizer, tmp_path / "cache")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_roberta(tmp_path_factory.mktemp("roberta")))


def test_an_encoder_reads_its_own_frame(tmp_path: Path, roberta: Any) -> None:
    data = tokenized(tmp_path, roberta)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data[1].label == 1
    text = "<s>The house is blue.</s></s>The house is blue.</s>"
    assert roberta.decode(data[1].input_ids.tolist()) == text
    assert data.num_truncated_sources == 0


def test_the_frame_stays_whole_where_texts_are_cut(tmp_path: Path, roberta: Any) -> None:
    data = tokenized(tmp_path, roberta, source_max_tokens=9)
    assert data.lengths.tolist() == [9] * 6
    assert data.num_truncated_sources == 6
    ids = data[0].input_ids.tolist()
    assert (ids[0], ids[-1], ids.count(2)) == (0, 2, 3)


def test_a_causal_model_reads_both_texts_in_lines(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    data = tokenized(tmp_path, tokenizer)
    assert tokenizer.decode(data[1].input_ids.tolist()) == "<s>The house is blue.\nThe house is blue."
    (ids,), (num_cut,) = encode_texts(tokenizer, [("one text", None)], 3)
    assert len(ids) == 3
    assert num_cut > 0


def test_other_labels_are_other_data(tmp_path: Path, roberta: Any) -> None:
    paths = {tokenized(tmp_path, roberta, **changes).path for changes in ({}, {"label_names": ["a", "b"]})}
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("kind", "format", "expected"),
    [
        (ModelKind.causal, "glue_mrpc", "add model.kind=classifier"),
        (ModelKind.seq2seq, "glue_mrpc", "use model=roberta_large"),
        (ModelKind.classifier, "alpaca", "has no labels, and model.kind=classifier needs them"),
        (ModelKind.classifier, "glue_mrpc", None),
        (ModelKind.seq2seq, "super_ni", None),
    ],
)
def test_rows_and_models_have_to_fit(kind: ModelKind, format: str, expected: str | None) -> None:
    found = task_problem(ModelConfig(name="m", hub_id="o/m", kind=kind), dataset(format=format))
    assert found is None if expected is None else expected in (found or "")


def test_an_encoder_decoder_has_no_loss_on_its_source() -> None:
    model = ModelConfig(name="t5", hub_id="o/t5", kind=ModelKind.seq2seq)
    assert "dataset.train_on_source=false" in (task_problem(model, dataset(format="flan", train_on_source=True)) or "")
