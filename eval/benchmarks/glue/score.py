"""Scores a finetuned classifier on GLUE, or on any rows with labels.

    rows = evaluation_rows(dataset, None, None, paths)
    result = score_glue(base, "roberta_large-glue_mrpc-nf4", run_id, rows, GlueSettings())

As `python -m eval glue --run RUN_ID`. Batches of similar length; every row's scores are kept as they come, so that a
killed call goes on. Source: GLUE (arXiv 1804.07461) and its official metrics; QLoRA, table 3 (RoBERTa-large).
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.benchmarks.dataset_rows import EvalRows
from eval.benchmarks.glue.class_scores import class_scores, number_scores, official_metrics
from eval.benchmarks.glue.settings import GlueSettings
from eval.scoring.finite import require_finite
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.partial import Partial
from eval.scoring.row_sizes import Backoff
from harness.banks.classifier import ClassifierBank
from harness.banks.load import LoadedBase
from harness.data.encoding import encode_texts
from harness.data.fields import Example
from harness.data.formats import LABELLED
from harness.data.labels import REGRESSION, declared_labels, label_value
from harness.data.rows import DataError
from harness.data.source import SourceRow, read_rows, row_examples
from harness.nn.batch import Item
from harness.progress import Progress
from harness.runs.estimate import Estimate, plain_values

SCHEMA_VERSION = 1
RESAMPLE_SEED = 0
MAX_BATCH_TOKENS = 4096  # to begin with; halved where the device has no room


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPrediction:
    """A classifier's choice for one row."""

    line: int  # of the row in its file, or its number in the split, from 1
    scores: tuple[float, ...]  # of the classes, before softmax; one number where a number is predicted
    choice: float  # the class, or the number
    answer: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueResult:
    """The scores of one classifier on one set of labelled rows."""

    system: str
    task: str  # the dataset's name
    split_name: str
    score_name: str  # the metric that enters a mean over tasks
    score: float | None
    score_ci95: tuple[float, float] | None
    official: tuple[str, ...]  # the metrics that the task reports
    metrics: dict[str, Estimate]
    n: int
    num_labels: int  # 1: a number is predicted
    label_names: tuple[str, ...] | None
    num_truncated: int  # rows that were cut to fit
    data_sha256: str
    settings_sha256: str  # of rows, format, labels, lengths and limit
    model_sha256: str  # of base, quantization, adapter and head
    predictions: tuple[ClassPrediction, ...]  # in the file's order
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = plain_values(self)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    line: int
    example: Example
    answer: float


def score_glue(
    base: LoadedBase,
    name: str,
    member: str | None,
    rows: EvalRows,
    settings: GlueSettings,
    on_progress: Progress | None = None,
    partial_dir: Path | None = None,
) -> GlueResult:
    """Scores one classifier.

    Args:
        base: with the member loaded in its bank.
        name: of the system, in the result.
        member: None for a checkpoint that has its own trained head.
        rows: what is asked.
        settings: how much of it.
        on_progress: (rows done, in all).
        partial_dir: where finished rows are kept, tied to model, rows and settings. None keeps nothing.

    Raises:
        ValueError: not a classifier, a head of another number of classes, a row without a class, or logits that are
            no numbers.
    """
    bank = _classifier(base, rows)
    num_labels = int(bank.base.config.num_labels)
    asked = _labelled_rows(rows, settings.limit, num_labels)
    most = min(rows.dataset.source_max_tokens, base.max_length)
    ids, num_cut = encode_texts(base.tokenizer, [(row.example.input, row.example.pair) for row in asked], most)
    model, asked_sha256 = model_sha256(base, member), _settings_sha256(rows, settings, most)
    partial: Partial[int] = Partial.open(partial_dir, "glue", model, asked_sha256, read_by(base))
    for places, scores in _score(bank, ids, [at for at in range(len(asked)) if at not in partial.done]):
        require_finite(base, [member] * len(places), np.asarray(scores, dtype=np.float32))
        partial.add(dict(zip(places, scores, strict=True)))
        if on_progress is not None:
            on_progress(len(partial.done), len(asked))
    predictions = tuple(_prediction(row, partial.done[at], num_labels) for at, row in enumerate(asked))
    num_truncated = sum(count > 0 for count in num_cut)
    return _result(name, rows, predictions, num_labels, num_truncated, asked_sha256, model)


def _result(
    name: str,
    rows: EvalRows,
    predictions: tuple[ClassPrediction, ...],
    num_labels: int,
    num_truncated: int,
    settings_sha256: str,
    model: str,
) -> GlueResult:
    metrics = _metrics(predictions, num_labels)
    official = official_metrics(rows.dataset.format, num_labels == REGRESSION)
    names = rows.dataset.label_names
    return GlueResult(
        system=name,
        task=rows.dataset.name,
        split_name=rows.split_name,
        score_name=official[0],
        score=metrics[official[0]].value,
        score_ci95=metrics[official[0]].ci95,
        official=official,
        metrics=metrics,
        n=len(predictions),
        num_labels=num_labels,
        label_names=None if names is None else tuple(names),
        num_truncated=num_truncated,
        data_sha256=rows.sha256,
        settings_sha256=settings_sha256,
        model_sha256=model,
        predictions=predictions,
    )


def _classifier(base: LoadedBase, rows: EvalRows) -> ClassifierBank:
    bank: object = base.bank
    if not isinstance(bank, ClassifierBank):
        raise ValueError(
            f"{base.source.location}: trained to write text, not to classify; `eval glue` scores runs with "
            "model.kind=classifier"
        )
    if rows.dataset.format not in LABELLED:
        raise ValueError(
            f"dataset.format={rows.dataset.format} has no labels; there are: {', '.join(sorted(LABELLED))}"
        )
    if not bank.has_trained_head:
        raise ValueError(
            f"{base.source.location}: has no trained classification head, only a language model's; name an adapter "
            "or a run that was trained on labels"
        )
    return bank


def _labelled_rows(rows: EvalRows, limit: int | None, num_labels: int) -> list[_Row]:
    """Raises ValueError for rows whose classes aren't those of the head."""
    declared = declared_labels(rows.dataset)
    if declared is not None and declared != num_labels:
        raise ValueError(
            f"{rows.dataset.name} has {_classes(declared)}, and this model's head {_classes(num_labels)}: it was "
            "trained on another task; choose the dataset it was trained on"
        )
    found: list[_Row] = []
    for row in read_rows(rows.source):
        for example in row_examples(row, rows.dataset.format):
            if limit is not None and len(found) == limit:
                return found
            found.append(_Row(line=row.line, example=example, answer=_answer(example, row, rows, num_labels)))
    if not found:
        raise ValueError(f"{rows.dataset.name}, {rows.split_name}: no rows to score")
    return found


def _answer(example: Example, row: SourceRow, rows: EvalRows, num_labels: int) -> float:
    answer = label_value(example, row, rows.dataset)
    if num_labels > REGRESSION and answer >= num_labels:
        problem = f"label {example.label!r} is out of range: this model's head has the classes 0 to {num_labels - 1}"
        raise DataError(problem, file=row.where, line=row.line, field="label")
    return answer


def _classes(count: int) -> str:
    return "a number to predict" if count == REGRESSION else f"{count} classes"


def _settings_sha256(rows: EvalRows, settings: GlueSettings, max_tokens: int) -> str:
    data = rows.dataset
    parts = [rows.sha256, data.format, data.label_names, data.num_labels, max_tokens, settings.limit]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _score(
    bank: ClassifierBank, ids: Sequence[Sequence[int]], waiting: Sequence[int]
) -> Iterator[tuple[list[int], list[list[float]]]]:
    """-> places and their scores as they are computed; rows of similar length together, the longest first."""
    backoff = Backoff(MAX_BATCH_TOKENS, bank.device, "row", "take a lower dataset.source_max_tokens")
    return backoff.in_batches(
        deque(sorted(waiting, key=lambda at: -len(ids[at]))),
        lambda order, limit: _next_batch(order, ids, limit),
        lambda places: _scores(bank, ids, places),
        smallest=lambda at: len(ids[at]),
    )


def _next_batch(order: Iterable[int], ids: Sequence[Sequence[int]], limit: int) -> list[int]:
    """The first rows that have at most `limit` tokens together, but at least one row."""
    places, used = list[int](), 0
    for at in order:
        if places and used + len(ids[at]) > limit:
            break
        places.append(at)
        used += len(ids[at])
    return places


@torch.no_grad()
def _scores(bank: ClassifierBank, ids: Sequence[Sequence[int]], places: Sequence[int]) -> list[list[float]]:
    items = [
        Item(member="", tokens=np.asarray(ids[at], dtype=np.int32), num_source=0, dropout_key=at, weight=1.0)
        for at in places
    ]
    found: list[list[float]] = bank.label_logits(items).cpu().tolist()
    return found


def _prediction(row: _Row, scores: Sequence[float], num_labels: int) -> ClassPrediction:
    choice = scores[0] if num_labels == REGRESSION else float(np.argmax(scores))
    return ClassPrediction(line=row.line, scores=tuple(scores), choice=choice, answer=row.answer)


def _metrics(predictions: Sequence[ClassPrediction], num_labels: int) -> dict[str, Estimate]:
    rng = np.random.default_rng(RESAMPLE_SEED)
    answers, choices = [p.answer for p in predictions], [p.choice for p in predictions]
    if num_labels == REGRESSION:
        return number_scores(answers, choices, rng)
    return class_scores([int(a) for a in answers], [int(c) for c in choices], num_labels, rng)
