"""GLUE, and any rows with labels, as a benchmark of classifiers. Paper: QLoRA, table 3 (RoBERTa-large)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.table import Table

from eval.benchmarks.benchmark import Benchmark, Contestant, Headline, Place, percent
from eval.benchmarks.dataset_rows import EvalRows, data_files, evaluation_rows
from eval.benchmarks.glue.settings import GlueSettings
from harness.config.schema import DatasetConfig, ModelKind, PathsConfig
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.glue.score import GlueResult
    from harness.banks.load import LoadedBase


class GlueBenchmark(Benchmark):
    name = command = "glue"
    title = "GLUE"
    about = "Classifiers on rows with labels: accuracy, F1, Matthews, or correlations, with intervals."
    parts = "rows"
    settings_type = GlueSettings
    kind = ModelKind.classifier
    scores_own_dataset = True
    headline_key = "score"

    def files(self, settings: GlueSettings) -> Mapping[str, Sequence[Path]]:
        return data_files(settings.data)

    def rows(self, settings: GlueSettings, dataset: DatasetConfig, paths: PathsConfig) -> EvalRows:
        return evaluation_rows(dataset, settings.data, None, paths)

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: GlueSettings, place: Place
    ) -> "dict[str, GlueResult]":
        from eval.benchmarks.glue.score import score_glue

        results = {}
        for one in contestants:
            assert one.rows is not None
            name, progress = one.name, place.on_progress
            results[name] = score_glue(base, name, one.member, one.rows, settings, progress, place.partial)
        return results

    def headline(self, result: "GlueResult") -> Headline:
        return Headline(metric=result.score_name, estimate=Estimate.of(result.score, result.score_ci95, result.n))

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
