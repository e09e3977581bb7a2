"""What `python -m eval mmlu`, `perplexity` and `tasks` do once their options are read: find the systems,
score, write, sum up.
"""

from pathlib import Path

from rich.table import Table

from eval.benchmarks.intervals import Interval
from eval.benchmarks.mmlu.checkpoints import CheckpointsResult, score_checkpoints
from eval.benchmarks.mmlu.results import MmluResult, save_result
from eval.benchmarks.mmlu.score import MmluSettings, score_mmlu
from eval.benchmarks.perplexity import PerplexityResult, PerplexitySettings, save_perplexity, score_perplexity
from eval.benchmarks.task_scores import TasksResult, missing_lm_eval, save_tasks
from eval.benchmarks.tasks import TasksSettings, score_tasks
from eval.benchmarks.texts import TextSource, load_documents
from eval.console import Advance
from eval.systems import Target, each_base
from harness.config.paths import paths_of_environment
from harness.devices.torch_device import quiet_libraries


def run_perplexity(
    target: Target, source: TextSource, settings: PerplexitySettings, out: Path, advance: Advance
) -> tuple[dict[str, PerplexityResult], Table]:
    """Scores the target and writes perplexity.json. -> results by system, and a table of them."""
    quiet_libraries()
    documents = load_documents(source, paths_of_environment(target.runs))
    results: dict[str, PerplexityResult] = {}
    for base, members in each_base(target):
        results |= score_perplexity(base, members, documents, settings, advance, out / "partial")
    for name, result in results.items():
        save_perplexity(result, out if len(results) == 1 else out / name)
    return results, _perplexity_table(results)


def run_tasks(
    target: Target, settings: TasksSettings, out: Path, advance: Advance
) -> tuple[dict[str, TasksResult], Table]:
    """Scores the target and writes tasks.json. -> results by system, and a table of them."""
    if problem := missing_lm_eval():
        raise ValueError(problem)
    quiet_libraries()
    results: dict[str, TasksResult] = {}
    for base, members in each_base(target):
        results |= score_tasks(base, members, settings, advance, out / "partial")
    for name, result in results.items():
        save_tasks(result, out if len(results) == 1 else out / name)
    return results, _tasks_table(results)


def run_checkpoints(
    target: Target, which: str, settings: MmluSettings, out: Path, advance: Advance
) -> tuple[CheckpointsResult, Table]:
    """MMLU of one run's kept adapters, by step. -> the result, and a table of it."""
    if len(target.run_ids) != 1 or target.model is not None or target.sweep is not None:
        raise ValueError("--checkpoints goes with exactly one --run, and no --model or --sweep")
    quiet_libraries()
    paths = paths_of_environment(target.runs)
    result = score_checkpoints(Path(paths.runs) / target.run_ids[0], which, settings, out, paths, advance)
    table = Table(title=f"MMLU of {result.system} by step", title_justify="left", caption="95 % intervals")
    for column in ("step", "mean over subjects", "mean over questions", "n"):
        table.add_column(column, justify="right")
    for score in result.steps:
        macro = _cell(score.accuracy_macro, score.accuracy_macro_ci95, 3)
        table.add_row(str(score.step), macro, _cell(score.accuracy_micro, score.accuracy_micro_ci95, 3), str(score.n))
    return result, table


def _perplexity_table(results: dict[str, PerplexityResult]) -> Table:
    first = next(iter(results.values()))
    table = Table(
        title=f"Perplexity of {first.text}: {first.num_documents} documents, {first.num_tokens} tokens",
        title_justify="left",
        caption=f"window {first.window}, stride {first.stride}; 95 % intervals over documents",
    )
    for column in ("system", "by token", "bits per byte", "by word"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, result in results.items():
        table.add_row(
            name,
            _cell(result.token_perplexity, result.token_perplexity_ci95, 3),
            _cell(result.bits_per_byte, result.bits_per_byte_ci95, 4),
            _cell(result.word_perplexity, None, 2),
        )
    return table


def _tasks_table(results: dict[str, TasksResult]) -> Table:
    table = Table(
        title="Tasks", title_justify="left", caption="95 % intervals; CrowS-Pairs rows in percent, as Table 8"
    )
    for column in ("system", "task", "metric", "value", "n"):
        table.add_column(column, justify="right" if column in ("value", "n") else "left")
    for system, result in results.items():
        for task, score in result.tasks.items():
            for metric, found in score.metrics.items():
                table.add_row(system, task, metric, _cell(found.value, found.ci95, 4), str(found.n))
            if score.crows_pairs is not None:
                crows = score.crows_pairs
                for row, found in crows.categories.items():
                    table.add_row(system, task, row, _cell(found.value, found.ci95, 1), str(found.n))
                table.add_row(system, task, "Average of categories", _cell(crows.average_of_categories, None, 1), "")
                pairs = crows.average_of_pairs
                table.add_row(system, task, "Average of pairs", _cell(pairs.value, pairs.ci95, 1), str(pairs.n))
    return table


def _cell(value: float | None, interval: Interval | None, digits: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text if interval is None else f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def run_mmlu(
    target: Target, settings: MmluSettings, out: Path, advance: Advance
) -> tuple[dict[str, MmluResult], Table]:
    """Scores the target and writes mmlu.json. -> results by system, and a table of them."""
    quiet_libraries()
    results: dict[str, MmluResult] = {}
    for base, members in each_base(target):
        results |= score_mmlu(base, members, settings, advance, out / "partial")
    for name, result in results.items():
        save_result(result, out if len(results) == 1 else out / name)
    return results, _mmlu_table(results)


def _mmlu_table(results: dict[str, MmluResult]) -> Table:
    table = Table(title="MMLU", title_justify="left", caption="95 % intervals")
    for column in ("system", "mean over subjects", "mean over questions", "n"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, result in results.items():
        cells = [
            f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            for value, (low, high) in (
                (result.accuracy_macro, result.accuracy_macro_ci95),
                (result.accuracy_micro, result.accuracy_micro_ci95),
            )
        ]
        table.add_row(name, *cells, str(result.n))
    return table
