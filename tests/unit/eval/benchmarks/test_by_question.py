"""What each benchmark's file says question by question: values by hand."""

import math
from typing import Any

import pytest

from eval.benchmarks.benchmark import QuestionScores
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.tasks.results import predictions_of


def _scores(name: str, values: dict[str, Any]) -> list[QuestionScores]:
    return list(BENCHMARKS[name].by_question(values))


def test_mmlu_is_right_or_wrong() -> None:
    rows = [
        {"subject": "law", "index": 4, "choice": 1, "answer": 1},
        {"subject": "art", "index": 4, "choice": 0, "answer": 3},
    ]
    (found,) = _scores("mmlu", {"predictions": rows})
    assert (found.names, found.values, found.categories) == (["law 4", "art 4"], [1.0, 0.0], ["law", "art"])


def test_a_document_weighs_its_tokens() -> None:
    rows = [{"nll": 20.0, "num_tokens": 10}, {"nll": 30.0, "num_tokens": 30}]
    (found,) = _scores("perplexity", {"documents": rows})
    assert (found.values, found.weights, found.higher_is_better) == ([2.0, 1.0], [10.0, 30.0], False)


@pytest.mark.parametrize(
    ("num_labels", "metric", "values", "better"),
    [(2, "accuracy", [1.0, 0.0], True), (1, "squared_error", [0.0, 4.0], False)],
)
def test_glue_is_right_or_wrong_or_off(num_labels: int, metric: str, values: list[float], better: bool) -> None:
    rows = [{"line": 1, "choice": 1.0, "answer": 1.0}, {"line": 2, "choice": 0.0, "answer": 2.0}]
    (found,) = _scores("glue", {"num_labels": num_labels, "predictions": rows})
    assert (found.metric, found.values, found.higher_is_better) == (metric, values, better)
    assert found.names == ["row 1", "row 2"]


def test_super_ni_has_two_metrics() -> None:
    rows = [
        {"task": "t", "instance_id": "a", "rouge_l": 0.25, "exact_match": False, "answer": "x", "references": ["y"]}
    ]
    found = _scores("super_ni", {"predictions": rows})
    assert [(scores.metric, scores.values) for scores in found] == [("rouge_l", [0.25]), ("exact_match", [0.0])]


def test_tasks_are_parts_and_a_metric_has_the_questions_that_have_it() -> None:
    rows = [{"doc_id": 0, "metrics": {"acc": 1.0}}, {"doc_id": 1, "metrics": {"acc": 0.0, "acc_norm": 1.0}}]
    found = _scores("tasks", {"tasks": {"hellaswag": {"predictions": rows}}})
    assert [(scores.part, scores.metric, scores.names, scores.values) for scores in found] == [
        ("hellaswag", "acc", ["document 0", "document 1"], [1.0, 0.0]),
        ("hellaswag", "acc_norm", ["document 1"], [1.0]),
    ]


def test_a_tasks_perplexity_is_by_question_a_logarithm_of_which_less_is_better() -> None:
    """lm-eval's samples of it are log-likelihoods; as such a gain read as a loss."""
    rows = [
        {"doc_id": 0, "metrics": {"perplexity": -3.0, "bits_per_byte": -math.log(2)}, "weights": {"bits_per_byte": 8}},
        {"doc_id": 1, "metrics": {"perplexity": -1.0, "bits_per_byte": -math.log(4)}, "weights": {"bits_per_byte": 2}},
    ]
    found = _scores("tasks", {"tasks": {"lambada": {"predictions": rows}}})  # results of old say no direction
    assert [(scores.metric, scores.values, scores.weights, scores.unit) for scores in found] == [
        ("log perplexity", [3.0, 1.0], None, "nats"),
        ("bits_per_byte", [1.0, 2.0], [8.0, 2.0], "bits a byte"),
    ]
    assert not any(scores.higher_is_better for scores in found)


def test_a_document_of_a_task_weighs_its_words_and_bytes() -> None:
    sample = {
        "doc_id": 0, "target": "", "resps": [[(-6.0,)]], "filtered_resps": [(-6.0,)], "metrics": ["word_perplexity"],
        "word_perplexity": (-6.0, 4),
    }  # fmt: skip
    (found,) = predictions_of([sample], ["word_perplexity"])
    assert (found.metrics, found.weights) == ({"word_perplexity": -1.5}, {"word_perplexity": 4})
    (empty,) = predictions_of([sample | {"word_perplexity": (0.0, 0)}], ["word_perplexity"])
    assert (empty.metrics, empty.weights) == ({}, {})


def test_answers_have_none() -> None:
    assert _scores("answers", {}) == []
