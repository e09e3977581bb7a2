"""lm-eval's tasks as a benchmark: by likelihood, or by answers. Paper: QLoRA's figure on data types, and table 8."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.table import Table

from eval.benchmarks.benchmark import Benchmark, Contestant, Headline, Place, QuestionScores, cell
from eval.benchmarks.tasks.settings import TasksSettings
from harness.config.schema import PathsConfig
from harness.progress import part_of
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.tasks.results import TasksResult
    from harness.banks.load import LoadedBase


# lm-eval aggregates log-likelihoods in these: what each question adds -> its name, its unit, nats in the unit
_OF_LOG_LIKELIHOOD = {
    "perplexity": ("log perplexity", "nats", 1.0),
    "word_perplexity": ("log word_perplexity", "nats a word", 1.0),
    "byte_perplexity": ("log byte_perplexity", "nats a byte", 1.0),
    "bits_per_byte": ("bits_per_byte", "bits a byte", math.log(2)),
}


class TasksBenchmark(Benchmark):
    """Scores causal models on lm-eval's tasks."""

    name = command = "tasks"
    title = "Tasks"
    about = "lm-eval's tasks, by likelihood (HellaSwag, ARC, CrowS-Pairs) or by answers (GSM8K, IFEval, MATH, NQ)."
    parts = "requests"
    settings_type = TasksSettings
    scores_sharded_base = True
    headline_key = "mean_over_tasks"

    def problems(self, settings: TasksSettings, paths: PathsConfig, key: str) -> list[str]:
        from eval.benchmarks.tasks.results import missing_lm_eval  # reads numpy: others needn't wait

        problem = missing_lm_eval()
        problems = [] if problem is None else [f"tasks: {problem}"]
        if settings.folder is not None and not Path(settings.folder).is_dir():
            problems.append(f"{key}folder={settings.folder}: no such folder")
        return problems

    def files(self, settings: TasksSettings) -> Mapping[str, Sequence[Path]]:
        if settings.folder is None:
            return {}
        return {"folder": sorted(path for path in Path(settings.folder).glob("*") if path.is_file())}

    def wants_template(self, settings: TasksSettings) -> bool:
        return settings.chat

    def reads_own_template(self) -> bool:
        return True

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: TasksSettings, place: Place
    ) -> "dict[str, TasksResult]":
        from eval.benchmarks.tasks.score import score_tasks
        from eval.benchmarks.templates import members_by_template

        results: dict[str, TasksResult] = {}
        for read, members in members_by_template(base, contestants, settings.chat):
            progress = part_of(place.on_progress, len(results), len(members), len(contestants))
            results |= score_tasks(read, members, settings, progress, place.partial)
        return results

    def headline(self, result: "TasksResult") -> Headline | None:
        """The mean over tasks of each one's first metric, as the paper's figure has it; it has no interval.

        Metrics of which less is better (LAMBADA's perplexity) are no part of it, but where no task has another.
        """
        of_higher = _first_metrics(result, of_higher=True)
        first = of_higher or _first_metrics(result)
        if not first:
            return None
        estimate = Estimate(value=fmean(first.values()), n=len(first))
        return Headline(metric="mean_over_tasks", estimate=estimate, lower_is_better=not of_higher)

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        """Each task is a part of its own; lm-eval doesn't say in which unit most of its metrics are."""
        for task, found in values["tasks"].items():
            rows = found["predictions"]
            for metric in dict.fromkeys(metric for row in rows for metric in row["metrics"]):
                known = [row for row in rows if metric in row["metrics"]]
                weights = [float(row.get("weights", {}).get(metric, 1)) for row in known]
                texts = [row["responses"][0] for row in known if row.get("responses")]
                name, unit, nats = _OF_LOG_LIKELIHOOD.get(metric, (metric, "", None))
                factor = 1.0 if nats is None else -1 / nats
                yield QuestionScores(
                    metric=name,
                    unit=unit,
                    higher_is_better=nats is None and bool(found.get("higher_is_better", {}).get(metric, True)),
                    names=[f"document {row['doc_id']}" for row in known],
                    values=[factor * float(row["metrics"][metric]) for row in known],
                    weights=weights if set(weights) != {1.0} else None,
                    part=task,
                    given=texts if len(texts) == len(known) else None,
                    expected=[[row["target"]] for row in known] if len(texts) == len(known) else None,
                )

    def summary(self, result: "TasksResult") -> dict[str, Any]:
        """Each task's first metric, and their mean."""
        return _first_metrics(result) | super().summary(result)

    def table(self, results: "Mapping[str, TasksResult]") -> Table:
        caption = "95 % intervals; CrowS-Pairs rows in percent, as Table 8"
        table = Table(title=self.title, title_justify="left", caption=caption)
        for column in ("system", "task", "metric", "value", "n"):
            table.add_column(column, justify="right" if column in ("value", "n") else "left")
        for system, result in results.items():
            for task, metric, estimate, digits in _rows(result):
                table.add_row(system, task, metric, cell(estimate, digits), str(estimate.n or ""))
        return table


def _first_metrics(result: "TasksResult", of_higher: bool = False) -> dict[str, float]:
    """Each task's first metric. Args: of_higher: the first of which more is better."""
    metrics: dict[str, float] = {}
    for task, score in result.tasks.items():
        better = score.higher_is_better
        value = next(
            (metric.value for n, metric in score.metrics.items() if not of_higher or better.get(n, True)), None
        )
        if value is not None:
            metrics[task] = value
    return metrics


def _rows(result: "TasksResult") -> list[tuple[str, str, Estimate, int]]:
    """-> task, metric, value and its digits."""
    rows: list[tuple[str, str, Estimate, int]] = []
    for task, score in result.tasks.items():
        rows += [(task, metric, estimate, 4) for metric, estimate in score.metrics.items()]
        crows = score.crows_pairs
        if crows is not None:
            rows += [(task, category, estimate, 1) for category, estimate in crows.categories.items()]
            rows.append((task, "Average of categories", Estimate(value=crows.average_of_categories), 1))
            rows.append((task, "Average of pairs", crows.average_of_pairs, 1))
    return rows
