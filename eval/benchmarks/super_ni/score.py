"""Scores a finetuned T5 on Super-NaturalInstructions, by RougeL of its answers to instructions it has not seen.

    rows = evaluation_rows(dataset, None, None, paths)          # the hub's test split: 119 tasks
    result = score_super_ni(base, "t5_small-super_ni-nf4", run_id, rows, SuperNiSettings())

As `python -m eval super_ni --run RUN_ID`. The first 100 instances of each task, greedy answers in batches, each kept
as it comes. Rows of one `id` are one instance with several references. The mean is over instances, as the official
one; its interval is over tasks, which is what a new set of tasks would change.
Source: Super-NaturalInstructions (arXiv 2204.07705); yizhongw/Tk-Instruct; QLoRA, table 3 (T5).

RougeL and exact match take the best of several references. RougeL is the F measure of the longest common subsequence of
stemmed words, by the `rouge_score` package; exact match ignores case, punctuation and spacing, not articles.
Source: yizhongw/Tk-Instruct, src/compute_metrics.py (its English track).
"""

import hashlib
import json
import string
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.dataset_rows import EvalRows
from eval.benchmarks.intervals import mean_share
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.partial import Partial
from eval.scoring.row_sizes import Backoff
from harness.banks.load import LoadedBase
from harness.banks.seq2seq import Seq2SeqBank
from harness.data.encoding import shorten, source_tokens
from harness.data.fields import Example
from harness.data.source import read_rows, row_examples
from harness.data.tokens import TASK_FIELD
from harness.progress import Progress
from harness.runs.estimate import Estimate, plain_values

SCHEMA_VERSION = 1
MAX_BATCH_TOKENS = 16_384  # padded tokens of a batch's sources
MAX_BATCH = 64  # answers under way at once; halved where the device has no room

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One input of a task, with the answers that would be right."""

    task: str
    instance_id: str
    example: Example  # of its first row
    references: tuple[str, ...]


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """-> 0 to 1. Raises ValueError without references."""
    return max(
        float(_scorer().score(target=reference, prediction=answer)["rougeL"].fmeasure) for reference in references
    )


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer equals a reference, but for case, punctuation and spacing."""
    return any(_normalized(answer) == _normalized(reference) for reference in references)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrediction:
    """The answer to one instance, and its scores from 0 to 1."""

    task: str
    instance_id: str
    answer: str
    rouge_l: float
    exact_match: bool
    num_references: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """The mean scores of a task's instances."""

    n: int
    rouge_l: Estimate
    exact_match: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperNiResult:
    """One system on one set of tasks. Scores from 0 to 1."""

    system: str
    dataset: str
    split_name: str
    rouge_l: float
    rouge_l_ci95: tuple[float, float] | None  # over tasks; of a single task, over its instances
    rouge_l_macro: float  # mean over tasks
    exact_match: float
    n: int
    num_tasks: int
    num_truncated: int  # sources that were cut to fit
    max_new_tokens: int
    per_task: dict[str, TaskScore]
    data_sha256: str
    settings_sha256: str  # of rows, format, lengths and limits
    model_sha256: str
    predictions: tuple[TextPrediction, ...]  # in the file's order
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = plain_values(self)
        return values


def score_super_ni(
    base: LoadedBase,
    name: str,
    member: str | None,
    rows: EvalRows,
    settings: SuperNiSettings,
    on_progress: Progress | None = None,
    partial_dir: Path | None = None,
) -> SuperNiResult:
    """Answers and scores.

    Args:
        base: an encoder-decoder, the member loaded in its bank.
        name: of the system, in the result.
        member: None for the untouched base.
        rows: what is asked.
        settings: how much, and how long answers get.
        on_progress: (instances done, in all).
        partial_dir: where answers are kept, tied to model, rows and settings. None keeps nothing.

    Raises:
        ValueError: not an encoder-decoder, a row without a task or an answer.
    """
    bank: object = base.bank
    if not isinstance(bank, Seq2SeqBank):
        raise ValueError(f"{base.source.location}: `eval super_ni` scores encoder-decoders (model.kind=seq2seq), T5")
    instances = read_instances(rows, settings.limit_per_task)
    most = min(rows.dataset.source_max_tokens, base.max_length)
    whole = [
        shorten(source_tokens(i.example.input, base.tokenizer), i.example, base.tokenizer, most) for i in instances
    ]
    sources = [ids[:most] for ids in whole]
    model, asked_sha256 = model_sha256(base, member), _settings_sha256(rows, settings, most)
    tied_to = (model, asked_sha256, read_by(base))
    partial: Partial[int] = Partial.open(partial_dir, "super_ni", *tied_to)  # answers by place
    missing = [place for place in range(len(instances)) if place not in partial.done]
    for places, tokens in _generate(bank, sources, missing, settings.max_new_tokens):
        texts = [str(base.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in tokens]
        partial.add(dict(zip(places, texts, strict=True)))
        if on_progress is not None:
            on_progress(len(partial.done), len(instances))
    predictions = tuple(_prediction(instance, partial.done[place]) for place, instance in enumerate(instances))
    num_truncated = sum(len(ids) > most for ids in whole)
    return _result(name, rows, predictions, settings, num_truncated, asked_sha256, model)


def _result(
    name: str,
    rows: EvalRows,
    predictions: tuple[TextPrediction, ...],
    settings: SuperNiSettings,
    num_truncated: int,
    settings_sha256: str,
    model: str,
) -> SuperNiResult:
    per_task, overall = _scores(predictions)
    return SuperNiResult(
        system=name,
        dataset=rows.dataset.name,
        split_name=rows.split_name,
        rouge_l=float(np.mean([p.rouge_l for p in predictions])),
        rouge_l_ci95=overall.ci95,
        rouge_l_macro=float(np.mean([score.rouge_l.value or 0.0 for score in per_task.values()])),
        exact_match=float(np.mean([p.exact_match for p in predictions])),
        n=len(predictions),
        num_tasks=len(per_task),
        num_truncated=num_truncated,
        max_new_tokens=settings.max_new_tokens,
        per_task=per_task,
        data_sha256=rows.sha256,
        settings_sha256=settings_sha256,
        model_sha256=model,
        predictions=predictions,
    )


def read_instances(rows: EvalRows, limit_per_task: int | None) -> list[Instance]:
    """The first instances of each task, rows of one `id` (or of one input, without ids) put together.

    Rows that the publisher marked as outside of the test set (`eval` false) are passed over.

    Raises:
        ValueError: no rows; a row that the format can't read.
    """
    instances: dict[tuple[str, str], Instance] = {}
    counts: dict[str, int] = {}
    for row in read_rows(rows.source):
        if row.fields.get("eval") in (False, "False", "false"):
            continue
        task = str(row.fields.get(TASK_FIELD, rows.dataset.name))
        for example in row_examples(row, rows.dataset.format):
            key = task, str(row.fields.get("id", example.input))
            if key in instances:
                known = instances[key]
                instances[key] = Instance(
                    task=task,
                    instance_id=known.instance_id,
                    example=known.example,
                    references=(*known.references, example.output),
                )
            elif limit_per_task is None or counts.get(task, 0) < limit_per_task:
                counts[task] = counts.get(task, 0) + 1
                name = str(row.fields.get("id", f"{Path(row.file).name}:{row.line}"))
                instances[key] = Instance(task=task, instance_id=name, example=example, references=(example.output,))
    if not instances:
        raise ValueError(f"{rows.dataset.name}, {rows.split_name}: no rows to score")
    return list(instances.values())


def _settings_sha256(rows: EvalRows, settings: SuperNiSettings, max_tokens: int) -> str:
    parts = [rows.sha256, rows.dataset.format, max_tokens, settings.limit_per_task, settings.max_new_tokens]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _generate(
    bank: Seq2SeqBank, sources: Sequence[Sequence[int]], missing: Sequence[int], max_new_tokens: int
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """-> places of similar length, the longest first, and their answers' tokens, as they are made."""
    backoff = Backoff(MAX_BATCH, bank.device, "source with its answer", "take a lower --max-new-tokens")
    return backoff.in_batches(
        deque(sorted(missing, key=lambda place: -len(sources[place]))),
        lambda waiting, size: _next_batch(waiting, sources, size),
        lambda places: bank.generate([sources[at] for at in places], max_new_tokens),
        smallest=lambda place: 1,
    )


def _next_batch(waiting: Sequence[int], sources: Sequence[Sequence[int]], size: int) -> list[int]:
    """The first `size` of the waiting places, fewer if padding makes them too many tokens, but at least one."""
    most_tokens = MAX_BATCH_TOKENS * size // MAX_BATCH
    return list(islice(waiting, max(1, min(size, most_tokens // max(1, len(sources[waiting[0]]))))))


def _prediction(instance: Instance, answer: str) -> TextPrediction:
    return TextPrediction(
        task=instance.task,
        instance_id=instance.instance_id,
        answer=answer,
        rouge_l=rouge_l(answer, instance.references),
        exact_match=exact_match(answer, instance.references),
        num_references=len(instance.references),
    )


def _scores(predictions: Sequence[TextPrediction]) -> tuple[dict[str, TaskScore], Estimate]:
    groups: dict[str, list[TextPrediction]] = {}
    for prediction in predictions:
        groups.setdefault(prediction.task, []).append(prediction)
    per_task = {
        task: TaskScore(
            n=len(group),
            rouge_l=mean_share([[p.rouge_l for p in group]]),
            exact_match=float(np.mean([p.exact_match for p in group])),
        )
        for task, group in groups.items()
    }
    return per_task, mean_share([[p.rouge_l for p in group] for group in groups.values()])


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports scikit-learn and pandas: 0.8 s

    return RougeScorer(["rougeL"], use_stemmer=True)


def _normalized(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())
