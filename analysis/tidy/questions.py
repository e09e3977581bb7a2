"""Reads what evaluations scored question by question: the predictions, or documents, of a run's result files.

Each kind of evaluation has one entry in `READERS`. A row is a question's name (unique in its evaluation), its category,
the name of the metric, its value and its weight in the run's mean.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.runs.scores import evaluation_name


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRows:
    """One metric of one evaluation of a run, question by question. The lists have one length."""

    evaluation: str  # as `measured_scores` calls it
    metric: str
    unit: str
    higher_is_better: bool
    settings_sha256: str | None
    questions: list[str]
    categories: list[str | None]
    values: list[float]
    weights: list[float | None]


def read_questions(folder: Path) -> Iterator[QuestionRows]:
    """The questions of all evaluations of a run that have some.

    Args:
        folder: `runs/<run_id>/eval`.

    Raises:
        ValueError: a file that can't be read.
    """
    for path in sorted(folder.rglob("*.json")):
        kind = path.relative_to(folder).parts[0].removesuffix(".json")
        if kind not in READERS:
            continue
        try:
            values = from_json(path.read_bytes())
            yield from READERS[kind](evaluation_name(kind, values), values)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: {type(error).__name__}: {error}; score the run again with `python -m eval`"
            ) from error


def _rows(name: str, metric: str, unit: str, about: Mapping[str, Any], **more: Any) -> QuestionRows:
    questions: list[str] = more.pop("questions")
    empty: dict[str, Any] = {"categories": [None] * len(questions), "weights": [None] * len(questions)}
    fixed: dict[str, Any] = {"higher_is_better": True, "settings_sha256": about.get("settings_sha256")}
    return QuestionRows(evaluation=name, metric=metric, unit=unit, questions=questions, **{**fixed, **empty, **more})


def _mmlu(name: str, values: dict[str, Any]) -> Iterator[QuestionRows]:
    rows = values["predictions"]
    yield _rows(
        name,
        "accuracy",
        "share",
        values,
        questions=[f"{row['subject']} {row['index']}" for row in rows],
        categories=[row["subject"] for row in rows],
        values=[float(row["choice"] == row["answer"]) for row in rows],
    )


def _perplexity(name: str, values: dict[str, Any]) -> Iterator[QuestionRows]:
    rows = values["documents"]
    yield _rows(
        name,
        "nll_per_token",
        "nats a token",
        values,
        higher_is_better=False,
        questions=[f"document {number}" for number in range(len(rows))],
        values=[row["nll"] / row["num_tokens"] for row in rows],
        weights=[float(row["num_tokens"]) for row in rows],
    )


def _glue(name: str, values: dict[str, Any]) -> Iterator[QuestionRows]:
    rows = values["predictions"]
    is_number = values["num_labels"] == 1
    yield _rows(
        name,
        "squared_error" if is_number else "accuracy",
        "squared" if is_number else "share",
        values,
        higher_is_better=not is_number,
        questions=[f"row {row['line']}" for row in rows],
        values=[
            (row["choice"] - row["answer"]) ** 2 if is_number else float(row["choice"] == row["answer"]) for row in rows
        ],
    )


def _super_ni(name: str, values: dict[str, Any]) -> Iterator[QuestionRows]:
    rows = values["predictions"]
    for metric in ("rouge_l", "exact_match"):
        yield _rows(
            name,
            metric,
            "share",
            values,
            questions=[f"{row['task']} {row['instance_id']}" for row in rows],
            categories=[row["task"] for row in rows],
            values=[float(row[metric]) for row in rows],
        )


def _tasks(name: str, values: dict[str, Any]) -> Iterator[QuestionRows]:
    for task, found in values["tasks"].items():
        rows = found["predictions"]
        for metric in dict.fromkeys(metric for row in rows for metric in row["metrics"]):
            known = [row for row in rows if metric in row["metrics"]]
            yield _rows(
                f"{name} {task}",
                metric,
                "",
                values,
                questions=[f"document {row['doc_id']}" for row in known],
                categories=[task] * len(known),
                values=[float(row["metrics"][metric]) for row in known],
            )


READERS: dict[str, Callable[[str, dict[str, Any]], Iterator[QuestionRows]]] = {
    "mmlu": _mmlu,
    "perplexity": _perplexity,
    "glue": _glue,
    "super_ni": _super_ni,
    "tasks": _tasks,
}
