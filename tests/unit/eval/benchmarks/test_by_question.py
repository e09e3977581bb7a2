"""What each benchmark's file says question by question: values by hand."""

from typing import Any

import pytest

from eval.benchmarks.benchmark import QuestionScores
from eval.benchmarks.registry import BENCHMARKS


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


def test_answers_have_none() -> None:
    assert _scores("answers", {}) == []
