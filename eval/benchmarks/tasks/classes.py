"""Weighted F1 and Matthews' correlation of tasks whose questions all have the same classes (sentiment, decisions).

A task is a classifier's where its `doc_to_choice` gives the same choices for every question, and they are more than the
letters of a list. The class chosen is the likeliest choice; of a task that generates, the choice that its filtered text
is, whatever its case and the blanks around it; any other text is a class of its own, which is never right. Metrics and
intervals: eval/benchmarks/glue/class_scores.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.benchmarks.glue.class_scores import class_scores
from eval.benchmarks.tasks.results import NO_FILTER, metric_name
from harness.runs.estimate import Estimate

METRICS = ("f1_weighted", "matthews")


def classes_of(task: Any, samples: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The classes of a classifier-like task; None for any other.

    Args:
        task: lm-eval's.
        samples: lm-eval's, of the task.
    """
    if getattr(task.config, "doc_to_choice", None) is None or task.multiple_input or task.multiple_target:
        return None
    choices = [str(choice) for choice in task.doc_to_choice(samples[0]["doc"])]
    if len(choices) < 2 or all(len(choice.strip()) == 1 and choice.strip().isalnum() for choice in choices):
        return None
    others = (task.doc_to_choice(sample["doc"]) for sample in samples[1:])
    return choices if all([str(choice) for choice in of_doc] == choices for of_doc in others) else None


def class_metrics(task: Any, samples: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Estimate]:
    """The scores of a classifier-like task, for each of its filters; empty for any other task."""
    classes = classes_of(task, samples)
    if classes is None:
        return {}
    found: dict[str, Estimate] = {}
    for name in dict.fromkeys(str(sample.get("filter", NO_FILTER)) for sample in samples):
        own = [sample for sample in samples if str(sample.get("filter", NO_FILTER)) == name]
        answers = [_answer(sample, classes) for sample in own]
        if None in answers:
            return {}
        chosen = [_chosen(sample, classes) for sample in own]
        num_classes = len(classes) + (len(classes) in chosen)
        scores = class_scores([a for a in answers if a is not None], chosen, num_classes, np.random.default_rng(seed))
        for metric in METRICS:
            score = scores[metric]
            found[metric_name(metric, name)] = Estimate.of(score.value, score.ci95, len(own))
    return found


def _answer(sample: Mapping[str, Any], classes: Sequence[str]) -> int | None:
    """The right class; None where the task's target is none of them."""
    target = sample["target"]
    if isinstance(target, int):
        return target if 0 <= target < len(classes) else None
    return classes.index(target) if target in classes else None


def _chosen(sample: Mapping[str, Any], classes: Sequence[str]) -> int:
    """The class that was chosen; the number of classes for a text that is none of them."""
    responses = sample["filtered_resps"]
    if not isinstance(responses[0], str):
        return int(np.argmax([response[0] for response in responses[: len(classes)]]))
    plain = [choice.strip().casefold() for choice in classes]
    text = responses[0].strip().casefold()
    return plain.index(text) if text in plain else len(classes)
