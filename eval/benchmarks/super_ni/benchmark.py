"""Super-NaturalInstructions as a benchmark of encoder-decoders. Paper: QLoRA, table 3 (T5)."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from eval.benchmarks.benchmark import Contestant, Headline, Place, QuestionScores, percent
from eval.benchmarks.dataset_rows import EvalRows
from eval.benchmarks.own_rows import OwnRowsBenchmark
from eval.benchmarks.super_ni.settings import SuperNiSettings
from harness.config.schema import ModelKind
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.super_ni.score import SuperNiResult
    from harness.banks.load import LoadedBase


class SuperNiBenchmark(OwnRowsBenchmark):
    """Scores encoder-decoders on instructions."""

    name = command = "super_ni"
    title = "Super-NaturalInstructions"
    about = "T5 on Super-NaturalInstructions: RougeL and exact match of greedy answers, by task, with intervals."
    parts = "instances"
    settings_type = SuperNiSettings
    kind = ModelKind.seq2seq
    headline_key = "rouge_l"

    def written_tokens(self, settings: SuperNiSettings) -> int:
        return settings.max_new_tokens

    def score_rows(
        self, base: "LoadedBase", contestant: Contestant, rows: EvalRows, settings: SuperNiSettings, place: Place
    ) -> "SuperNiResult":
        from eval.benchmarks.super_ni.score import score_super_ni

        name, member = contestant.name, contestant.member
        return score_super_ni(base, name, member, rows, settings, place.on_progress, place.partial)

    def headline(self, result: "SuperNiResult") -> Headline:
        return Headline(metric="rouge_l", estimate=Estimate.of(result.rouge_l, result.rouge_l_ci95, result.n))

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        rows = values["predictions"]
        for metric in ("rouge_l", "exact_match"):
            yield QuestionScores(
                metric=metric,
                unit="share",
                higher_is_better=True,
                names=[f"{row['task']} {row['instance_id']}" for row in rows],
                values=[float(row[metric]) for row in rows],
                categories=[row["task"] for row in rows],
                given=[row["answer"] for row in rows],
            )

    def table(self, results: "Mapping[str, SuperNiResult]") -> Table:
        table = Table(title=self.title, title_justify="left", caption="95 % intervals over tasks")
        for column in ("system", "split", "RougeL", "mean over tasks", "exact match", "tasks", "n"):
            table.add_column(column, justify="left" if column in ("system", "split") else "right")
        for name, result in results.items():
            score = percent(Estimate.of(result.rouge_l, result.rouge_l_ci95))
            means = [f"{100 * value:.1f}" for value in (result.rouge_l_macro, result.exact_match)]
            table.add_row(name, result.split_name, score, *means, str(result.num_tasks), str(result.n))
        return table

    def settings_of_options(self, values: Mapping[str, Any]) -> SuperNiSettings:
        """--limit-per-task 0 takes all instances."""
        return SuperNiSettings(**{**values, "limit_per_task": values["limit_per_task"] or None})
