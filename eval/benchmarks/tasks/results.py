"""Results of lm-eval's tasks: each metric with its interval; CrowS-Pairs by category, as in the paper.

Paper: QLoRA Table 8 (CrowS-Pairs) prints nine categories and an average. Its Guanaco column averages the categories
(43.5); its LLaMA column, taken from LLaMA's paper, all pairs (66.6; its nine categories average 70.9). Both are given.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from eval.benchmarks.intervals import mean_interval, mean_score
from harness.runs.estimate import Estimate, Interval, plain_values

SCHEMA_VERSION = 1
NO_FILTER = "none"  # lm-eval's name of the filter that leaves answers as they are
NO_METRIC = "bypass"  # lm-eval's metric of tasks whose answers are only kept
_BY_UNIT = ("word_perplexity", "byte_perplexity", "bits_per_byte")  # of a sample (log-likelihood, words or bytes)
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
    """What a system said to one question: the log-probabilities of its choices, or the texts that it wrote."""

    doc_id: int
    target: str
    logprobs: tuple[float, ...]  # of each choice, or of the one continuation: sums over tokens, nats
    metrics: dict[str, float]  # of several values by their mean; perplexity: log-likelihood, others' by word or byte
    responses: tuple[str, ...] = ()  # generated texts as they came, several where the task repeats its question
    extracted: dict[str, str] = field(default_factory=dict)  # what each of the task's filters made of them
    weights: dict[str, int] = field(default_factory=dict)  # values, words or bytes behind a metric, where several


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task's metrics, and what it was scored on."""

    version: str
    num_fewshot: int
    metrics: dict[str, Estimate]  # as lm-eval aggregates them; an interval where one is a mean over questions
    higher_is_better: dict[str, bool]  # of each metric, as lm-eval says
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
        values = [sample_values(sample[name]) for sample in samples if name in sample]
        known = [found for found in values if found]
        scores[name] = Estimate.of(float(value), _interval_of_mean(known, len(samples), float(value)), len(samples))
    return scores


def filtered_metrics(reported: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """The metrics of all of a task's filters: "acc" without one, else "exact_match,strict-match" as lm-eval writes it.

    Args:
        reported: lm-eval's results of the task, by "metric,filter".
        samples: lm-eval's, one for each question and filter.
    """
    scores: dict[str, Estimate] = {}
    for key, value in reported.items():
        metric, comma, name = key.partition(",")
        if not comma or metric.endswith("_stderr") or metric == NO_METRIC or not isinstance(value, (int, float)):
            continue
        own = [sample for sample in samples if _filter_of(sample) == name]
        scores[metric_name(metric, name)] = metric_scores({metric: value}, own)[metric]
    return scores


def metric_name(metric: str, filter_name: str) -> str:
    """What a metric of the texts that a filter has made is called."""
    return metric if filter_name == NO_FILTER else f"{metric},{filter_name}"


def predictions_of(samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[TaskPrediction, ...]:
    """A prediction of each question, from its samples of all filters.

    Args:
        samples: lm-eval's.
        names: of the metrics that are kept, as `metric_name` has them.
    """
    by_question: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_question.setdefault(int(sample["doc_id"]), []).append(sample)
    return tuple(_prediction(doc_id, found, names) for doc_id, found in by_question.items())


def sample_values(value: Any) -> list[float]:
    """A question's values of a metric: one number, or one for each of its instructions; none of another kind."""
    if isinstance(value, (list, tuple)) and all(isinstance(part, (bool, np.bool_)) for part in value):
        return [float(part) for part in value]
    return [float(value)] if isinstance(value, (int, float, np.bool_, np.integer, np.floating)) else []


def _prediction(doc_id: int, samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> TaskPrediction:
    metrics: dict[str, float] = {}
    weights: dict[str, int] = {}
    extracted: dict[str, str] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            name, (mean, weight) = _named(metric, sample), _mean_and_weight(metric, sample.get(metric))
            if mean is not None and name in names:
                metrics[name] = mean
                weights |= {name: weight} if weight > 1 else {}
        if _filter_of(sample) != NO_FILTER:
            extracted[_filter_of(sample)] = ", ".join(str(text) for text in sample["filtered_resps"])
    first = samples[0]
    given = [given for of_request in first["resps"] for given in of_request]
    are_texts = all(isinstance(text, str) for text in given)
    return TaskPrediction(
        doc_id=doc_id,
        target=str(first["target"]),
        logprobs=() if are_texts else tuple(_logprob(response) for response in first["filtered_resps"]),
        metrics=metrics,
        responses=tuple(given) if are_texts else (),
        extracted=extracted,
        weights=weights,
    )


def _mean_and_weight(metric: str, value: Any) -> tuple[float | None, int]:
    """A question's mean in a metric, and of how many values; None for a value that has none."""
    if metric in _BY_UNIT:
        log_likelihood, units = value
        return (log_likelihood / units, int(units)) if units else (None, 0)
    values = sample_values(value)
    return (fmean(values), len(values)) if values else (None, 0)


def _named(metric: str, sample: Mapping[str, Any]) -> str:
    return metric_name(metric, _filter_of(sample))


def _filter_of(sample: Mapping[str, Any]) -> str:
    return str(sample.get("filter", NO_FILTER))


def _logprob(response: Any) -> float:
    return float(response[0] if isinstance(response, (list, tuple)) else response)


def _interval_of_mean(values: Sequence[Sequence[float]], num_samples: int, value: float) -> Interval | None:
    """The interval of an aggregate that is the mean over all values of all questions; None for any other."""
    every = [one for of_question in values for one in of_question]
    if len(values) < num_samples or abs(fmean(every) - value) >= 1e-9:
        return None
    return mean_interval(every) if len(every) == len(values) else mean_score(values).ci95


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
