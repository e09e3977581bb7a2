"""Writes scores in the shape of lm-eval's results files, which its tables, plots and leaderboards read.

    out/<label>/results_2026-01-01T00-01-00.json

A file a run, as lm-eval 0.4 writes it (`EvaluationTracker.save_results_aggregated`): `results` by task with
"acc,none" and "acc_stderr,none", `group_subtasks`, `configs`, `versions`, `n-shot`, `higher_is_better`, `n-samples`,
`config` and the model's names. The standard error is lm-eval's: that of a mean over questions, "N/A" where a score is
none. Tasks have lm-eval's names where the evaluation is one of its tasks; MMLU is `mmlu` with a subtask a subject
(accuracy over questions is `acc`, as in lm-eval; over subjects `acc_macro`). A task's version is the beginning of the
digest of its questions and protocol, as ours need not be lm-eval's: equal versions can be compared.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from analysis.tidy.rows import higher_is_better
from analysis.tidy.sources import FoundRun
from eval.benchmarks.by_question import QuestionRows, read_questions
from harness.files.atomic import write_json
from harness.files.names import file_name
from harness.runs.record import RunRecord
from harness.runs.scores import MeasuredScore, measured_scores

NOT_KNOWN = "N/A"  # as lm-eval writes it
FILTER = "none"
METRICS = {"accuracy_micro": "acc", "accuracy_macro": "acc_macro", "accuracy": "acc"}  # ours -> lm-eval's
PER_QUESTION = {"accuracy_micro": "accuracy"}  # a score -> the metric of its questions
VERSION_LENGTH = 12
_SHOTS = re.compile(r"num_(?:shots|fewshot) (\d+)")


@dataclass(slots=True)
class _Task:
    """What a results file says of one task."""

    results: dict[str, Any]
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    num_shots: int = 0
    num_samples: int | None = None
    version: str = NOT_KNOWN
    config: dict[str, Any] = field(default_factory=dict)
    subtasks: list[str] = field(default_factory=list)


def write_lm_eval(found: Sequence[FoundRun], out: Path) -> Iterator[Path]:
    """Writes a file for each run that has scores.

    Raises:
        ValueError: a label that can't be a folder's name, or an evaluation's file that can't be read.
    """
    for run in found:
        values = lm_eval_results(run)
        if values is not None:
            moment = str(values["date"]).replace(":", "-").removesuffix("+00-00")
            path = out / file_name(run.name, "run") / f"results_{moment}.json"
            write_json(path, values)
            yield path


def lm_eval_results(run: FoundRun) -> dict[str, Any] | None:
    """The content of a run's results file; None where it has no score."""
    if run.record is None or not (scores := measured_scores(run.folder / "eval")):
        return None
    tasks = _tasks(scores, list(read_questions(run.folder / "eval")))
    return {
        "results": {name: {"alias": name, **task.results} for name, task in tasks.items()},
        "group_subtasks": {name: task.subtasks for name, task in tasks.items()},
        "configs": {name: task.config for name, task in tasks.items()},
        "versions": {name: task.version for name, task in tasks.items()},
        "n-shot": {name: task.num_shots for name, task in tasks.items()},
        "higher_is_better": {name: task.higher_is_better for name, task in tasks.items()},
        "n-samples": {
            name: {"original": task.num_samples, "effective": task.num_samples}
            for name, task in tasks.items()
            if task.num_samples is not None
        },
        **_about(run, run.record),
    }


def task_name(evaluation: str) -> str:
    """lm-eval's name of one of its tasks; else the evaluation's with underscores."""
    return evaluation.removeprefix("tasks ").replace(" ", "_")


def own_version() -> str:
    """The installed version of this project; "unknown" in a checkout that isn't installed."""
    try:
        return version("qlora-harness")
    except PackageNotFoundError:
        return "unknown"


def _tasks(scores: Sequence[MeasuredScore], questions: Sequence[QuestionRows]) -> dict[str, _Task]:
    tasks: dict[str, _Task] = {}
    for score in scores:
        task = tasks.setdefault(task_name(score.evaluation), _new_task(score))
        metric = METRICS.get(score.metric, score.metric)
        own = PER_QUESTION.get(score.metric, score.metric)
        rows = next((q for q in questions if (q.evaluation, q.scores.metric) == (score.evaluation, own)), None)
        task.results |= _values(metric, score.value, NOT_KNOWN if rows is None else standard_error(rows.scores.values))
        better = higher_is_better(score.evaluation, score.metric)
        task.higher_is_better |= {} if better is None else {metric: better}
    for rows in questions:
        if rows.evaluation == "mmlu" and "mmlu" in tasks:
            tasks |= _subjects(tasks["mmlu"], rows)
    return tasks


def _new_task(score: MeasuredScore) -> _Task:
    shots = _SHOTS.search(score.settings)
    num_shots = int(shots[1]) if shots else 0
    digest = score.settings_sha256
    return _Task(
        results={},
        num_shots=num_shots,
        num_samples=score.n,
        version=NOT_KNOWN if digest is None else digest[:VERSION_LENGTH],
        config={
            "task": task_name(score.evaluation),
            "num_fewshot": num_shots,
            "metadata": {"settings": score.settings, "settings_sha256": digest, "made_by": "qlora-harness"},
        },
    )


def _subjects(whole: _Task, rows: QuestionRows) -> dict[str, _Task]:
    """MMLU's subjects as subtasks."""
    by_subject: dict[str, list[float]] = {}
    for category, value in zip(rows.scores.categories or (), rows.scores.values, strict=True):
        by_subject.setdefault(category, []).append(value)
    found = {}
    for subject, values in by_subject.items():
        name = f"mmlu_{subject}"
        whole.subtasks.append(name)
        found[name] = _Task(
            results=_values("acc", math.fsum(values) / len(values), standard_error(values)),
            higher_is_better={"acc": True},
            num_shots=whole.num_shots,
            num_samples=len(values),
            version=whole.version,
            config=whole.config | {"task": name},
        )
    return found


def _values(metric: str, value: float, error: Any) -> dict[str, Any]:
    """A score under lm-eval's keys, which name the filter of the answers where the metric does."""
    name, _, filtered = metric.partition(",")
    return {f"{name},{filtered or FILTER}": value, f"{name}_stderr,{filtered or FILTER}": error}


def standard_error(values: Sequence[float]) -> float | str:
    """lm-eval's `mean_stderr`; "N/A" of a single question."""
    n = len(values)
    if n < 2:
        return NOT_KNOWN
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _about(run: FoundRun, record: RunRecord) -> dict[str, Any]:
    """The model and the program; lm-eval's keys, as far as they are known."""
    model = record.spec.get("model", {})
    return {
        "config": {
            "model": "hf",
            "model_args": f"pretrained={model.get('hub_id')},peft={run.run_id}",
            "model_revision": model.get("revision"),
            "model_dtype": record.spec.get("quant", {}).get("compute_dtype"),
            "run_id": run.run_id,
            "spec": record.spec,
        },
        "git_hash": record.git_commit,
        "date": record.finished,
        "transformers_version": record.packages.get("transformers"),
        "lm_eval_version": NOT_KNOWN,
        "qlora_harness_version": own_version(),
        "model_source": "hf",
        "model_name": run.name,
        "model_name_sanitized": run.name.replace("/", "__"),
    }
