"""Results of lm-eval's tasks: each metric with its interval; CrowS-Pairs by category, as in the paper.

Paper: QLoRA Table 8 (CrowS-Pairs) prints nine categories and an average. Its Guanaco column averages the categories
(43.5); its LLaMA column, taken from LLaMA's paper, all pairs (66.6; its nine categories average 70.9). Both are given.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from eval.benchmarks.intervals import mean_interval
from harness.runs.estimate import Estimate, plain_values

SCHEMA_VERSION = 1
CROWS_METRIC = "pct_stereotype"  # the share of pairs whose stereotyping sentence is the likelier one
CROWS_CATEGORIES = {  # `bias_type` of a pair -> the row of Table 8
    "gender": "Gender",
    "religion": "Religion",
    "race-color": "Race/Color",
    "sexual-orientation": "Sexual orientation",
    "age": "Age",
    "nationality": "Nationality",
    "disability": "Disability",
    "physical-appearance": "Physical appearance",
    "socioeconomic": "Socioeconomic status",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowsScores:
    """Table 8's numbers, in percent: the higher, the more stereotyping."""

    categories: dict[str, Estimate]  # by the table's row names
    average_of_categories: float | None  # over those of Table 8, as its Guanaco column; None if one has no pair
    average_of_pairs: Estimate  # as its LLaMA column


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrediction:
    """The log-probabilities of one question's choices."""

    doc_id: int
    target: str
    logprobs: tuple[float, ...]  # of each choice, or of the one continuation: sums over tokens, nats
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task's metrics, and what it was scored on."""

    version: str
    num_fewshot: int
    metrics: dict[str, Estimate]  # as lm-eval aggregates them; an interval where one is a mean over questions
    crows_pairs: CrowsScores | None
    predictions: tuple[TaskPrediction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksResult:
    """The results of one system on all tasks."""

    system: str
    tasks: dict[str, TaskScore]
    lm_eval_version: str
    settings_sha256: str  # of the tasks, their versions, questions and choices
    model_sha256: str  # of base, quantization and adapter
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = plain_values(self)
        return values


def missing_lm_eval() -> str | None:
    """The message with the remedy where lm-eval isn't installed; None where it is. Imports nothing."""
    if importlib.util.find_spec("lm_eval") is not None:
        return None
    return "lm-eval is not installed, whose tasks these are: pip install -c constraints.txt 'qlora-harness[tasks]'"


def metric_scores(aggregated: Mapping[str, float], samples: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """lm-eval's aggregates with intervals.

    Args:
        aggregated: by metric.
        samples: lm-eval's, one a question, each with its own value of the metric.
    """
    scores: dict[str, Estimate] = {}
    for name, value in aggregated.items():
        values = [sample[name] for sample in samples if isinstance(sample.get(name), (int, float))]
        is_mean = len(values) == len(samples) and abs(sum(values) / len(values) - value) < 1e-9
        interval = mean_interval([float(v) for v in values]) if is_mean else None
        scores[name] = Estimate.of(float(value), interval, len(samples))
    return scores


def crows_scores(samples: Sequence[Mapping[str, Any]]) -> CrowsScores | None:
    """Table 8 from lm-eval's samples; None for a task that isn't CrowS-Pairs."""
    if not all(CROWS_METRIC in sample and "bias_type" in sample["doc"] for sample in samples):
        return None
    by_row: dict[str, list[float]] = {}
    for sample in samples:
        row = CROWS_CATEGORIES.get(sample["doc"]["bias_type"])
        if row is not None:
            by_row.setdefault(row, []).append(float(sample[CROWS_METRIC]))
    categories = {row: _percent(by_row[row]) for row in CROWS_CATEGORIES.values() if row in by_row}
    whole = len(categories) == len(CROWS_CATEGORIES)
    return CrowsScores(
        categories=categories,
        average_of_categories=fmean(score.value or 0.0 for score in categories.values()) if whole else None,
        average_of_pairs=_percent([float(sample[CROWS_METRIC]) for sample in samples]),
    )


def _percent(values: Sequence[float]) -> Estimate:
    interval = mean_interval(values)
    hundredfold = None if interval is None else (100 * interval[0], 100 * interval[1])
    return Estimate.of(100 * sum(values) / len(values), hundredfold, len(values))
