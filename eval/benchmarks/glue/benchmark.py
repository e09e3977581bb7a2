"""GLUE, and any rows with labels, as a benchmark of classifiers. Paper: QLoRA, table 3 (RoBERTa-large)."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.table import Table

from eval.benchmarks.benchmark import Contestant, Headline, Place, QuestionScores, percent
from eval.benchmarks.dataset_rows import EvalRows
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.own_rows import OwnRowsBenchmark
from harness.config.schema import ModelKind
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.glue.score import GlueResult
    from harness.banks.load import LoadedBase


class GlueBenchmark(OwnRowsBenchmark):
    """Scores classifiers on rows with labels."""

    name = command = "glue"
    title = "GLUE"
    about = "Classifiers on rows with labels: accuracy, F1, Matthews, or correlations, with intervals."
    parts = "rows"
    settings_type = GlueSettings
    kind = ModelKind.classifier
    headline_key = "score"

    def score_rows(
        self, base: "LoadedBase", contestant: Contestant, rows: EvalRows, settings: GlueSettings, place: Place
    ) -> "GlueResult":
        from eval.benchmarks.glue.score import score_glue

        name, member = contestant.name, contestant.member
        return score_glue(base, name, member, rows, settings, place.on_progress, place.partial)

    def headline(self, result: "GlueResult") -> Headline:
        return Headline(metric=result.score_name, estimate=Estimate.of(result.score, result.score_ci95, result.n))

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        """Right or wrong; where a number is predicted, the square of what it is off."""
        rows, is_number = values["predictions"], values["num_labels"] == 1
        off = [row["choice"] - row["answer"] for row in rows]
        yield QuestionScores(
            metric="squared_error" if is_number else "accuracy",
            unit="" if is_number else "share",
            higher_is_better=not is_number,
            names=[f"row {row['line']}" for row in rows],
            values=[float(error**2) if is_number else float(error == 0) for error in off],
            given=[f"{row['choice']:g}" for row in rows],
            expected=[[f"{row['answer']:g}"] for row in rows],
        )

    def table(self, results: "Mapping[str, GlueResult]") -> Table:
        table = Table(title="GLUE and other rows with labels", title_justify="left", caption="95 % intervals")
        for column in ("system", "task", "split", "score", "other", "n"):
            table.add_column(column, justify="right" if column in ("score", "n") else "left")
        for name, result in results.items():
            first, *others = result.official
            score, *rest = (f"{metric} {percent(result.metrics[metric])}" for metric in (first, *others))
            table.add_row(name, result.task, result.split_name, score, ", ".join(rest), str(result.n))
        values = [result.score for result in results.values() if result.score is not None]
        tasks = {result.task for result in results.values()}
        if 1 < len(results) == len(tasks) == len(values):  # the mean that papers print has one system a task
            table.add_section()
            table.add_row(f"mean over {len(tasks)} tasks", "", "", f"{100 * fmean(values):.1f}", "", "")
        return table
