"""Reads what evaluations scored question by question, from a run's result files, by the benchmarks that wrote them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json

from eval.benchmarks.benchmark import QuestionScores
from eval.benchmarks.registry import BENCHMARKS
from harness.runs.scores import evaluation_name


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRows:
    """One metric of one evaluation of a run, question by question."""

    evaluation: str  # as `measured_scores` calls it
    settings_sha256: str | None
    scores: QuestionScores


def read_questions(folder: Path) -> Iterator[QuestionRows]:
    """The questions of all evaluations of a run that have some.

    Args:
        folder: `runs/<run_id>/eval`.

    Raises:
        ValueError: a file that can't be read.
    """
    for path in sorted(folder.rglob("*.json")):
        kind = path.relative_to(folder).parts[0].removesuffix(".json")
        if kind not in BENCHMARKS:
            continue
        try:
            values = from_json(path.read_bytes())
            found = list(BENCHMARKS[kind].by_question(values))
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}: its questions can't be read ({why}); score the run again") from error
        for scores in found:
            name = evaluation_name(kind, values)
            yield QuestionRows(
                evaluation=f"{name} {scores.part}" if scores.part else name,
                settings_sha256=values.get("settings_sha256"),
                scores=scores,
            )
