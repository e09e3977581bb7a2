"""RougeL of a run's answers to the rows that were held out of its training. Paper: QLoRA, figures 2 and 4."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from eval.benchmarks.benchmark import Benchmark, Contestant, Headline, Place, QuestionScores, percent
from eval.benchmarks.rouge.settings import RougeSettings
from harness.config.schema import TrainConfig
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.rouge.score import RougeResult
    from harness.banks.load import LoadedBase


class RougeBenchmark(Benchmark):
    """Answers held-out rows."""

    name = command = "rouge"
    title = "RougeL on held-out rows"
    about = "RougeL and exact match of greedy answers to a run's held-out rows (train.eval_rows), with intervals."
    parts = "answers"
    settings_type = RougeSettings
    headline_key = "rouge_l"

    def run_problem(self, train: TrainConfig | None) -> str | None:
        if train is not None and train.eval_rows:
            return None
        what = "an untouched base has none" if train is None else "the run has none; add train.eval_rows=N"
        return f"answers held-out rows, and {what}"

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: RougeSettings, place: Place
    ) -> "dict[str, RougeResult]":
        from eval.benchmarks.rouge.score import score_rouge

        return score_rouge(base, contestants, settings, place)

    def headline(self, result: "RougeResult") -> Headline:
        return Headline(metric="rouge_l", estimate=Estimate.of(result.rouge_l, result.rouge_l_ci95, result.n))

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        rows = values["predictions"]
        for metric in ("rouge_l", "exact_match"):
            yield QuestionScores(
                metric=metric,
                unit="share",
                higher_is_better=True,
                names=[row["name"] for row in rows],
                values=[float(row[metric]) for row in rows],
                given=[row["answer"] for row in rows],
                expected=[[row["reference"]] for row in rows],
            )

    def table(self, results: "Mapping[str, RougeResult]") -> Table:
        table = Table(title=self.title, title_justify="left", caption="95 % intervals over rows")
        for column in ("system", "dataset", "RougeL", "exact match", "cut", "n"):
            table.add_column(column, justify="left" if column in ("system", "dataset") else "right")
        for name, result in results.items():
            score = percent(Estimate.of(result.rouge_l, result.rouge_l_ci95))
            exact = f"{100 * result.exact_match:.1f}"
            table.add_row(name, result.dataset, score, exact, str(result.num_cut), str(result.n))
        return table
