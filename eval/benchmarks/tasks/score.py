"""Scores models on lm-eval's likelihood tasks: HellaSwag, PiQA, ARC, Winogrande, LAMBADA, CrowS-Pairs and more.

    results = score_tasks(base, {"base": None, "tuned": run_id}, TasksSettings(names=["hellaswag", "piqa"]))

As `python -m eval tasks --tasks hellaswag,piqa --model NAME [--adapter DIR]`. Tasks, prompts and metrics are those of
lm-eval (0.4.13, the `tasks` extra), a library on our loaded base here: eval/benchmarks/tasks/lm_eval_model.py. A task
over local files is a YAML file in `--task-folder` that includes the published one; docs/benchmarks.md has an example.
Paper: the zero-shot accuracy behind QLoRA's figure on data types, and Table 8.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from eval.benchmarks.tasks.results import (
    TaskPrediction,
    TaskScore,
    TasksResult,
    crows_scores,
    metric_scores,
    missing_lm_eval,
)
from eval.benchmarks.tasks.settings import TasksSettings
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.partial import Partial
from harness.banks.load import LoadedBase
from harness.progress import Progress

_FEWSHOT_SEED = 1234
_SERVED = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")


def score_tasks(
    base: LoadedBase,
    members: Mapping[str, str | None],
    settings: TasksSettings,
    on_progress: Progress | None = None,
    partial_dir: Path | None = None,
) -> dict[str, TasksResult]:
    """Scores systems that share a base, one after another; tasks are read once.

    Args:
        base: with the members loaded in its bank.
        members: system's name -> its member of the bank, None for the untouched base.
        on_progress: (requests done, in all), over all systems.
        partial_dir: where finished requests are kept, tied to model, adapter and the request's own tokens.

    Raises:
        ValueError: lm-eval missing, unknown tasks, tasks that generate text, or data that can't be fetched.
    """
    if problem := missing_lm_eval():
        raise ValueError(problem)
    from lm_eval.evaluator import evaluate

    from eval.benchmarks.tasks.lm_eval_model import BankModel

    tasks = load_tasks(settings)
    results: dict[str, TasksResult] = {}
    for number, (name, member) in enumerate(members.items()):
        model = model_sha256(base, member)
        partial: Partial[str] = Partial.open(partial_dir, "tasks", model, read_by(base))
        progress = None if on_progress is None else _one_of(on_progress, number, len(members))
        asked = BankModel(base, member, partial, progress, settings.row_tokens)
        output = evaluate(asked, tasks, limit=settings.limit, bootstrap_iters=0, log_samples=True)
        results[name] = _result(name, model, output, settings)
    return results


def load_tasks(settings: TasksSettings) -> dict[str, Any]:
    """What lm-eval's `TaskManager.load` gives, `tasks` by name among it; their data are read.

    Raises:
        ValueError: unknown names, tasks that generate text, or data that can't be fetched.
    """
    from datasets import disable_progress_bars
    from lm_eval.tasks import TaskManager

    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = None
    if settings.folder is not None:  # the published tasks are thousands of files: read only where one is asked for
        if not Path(settings.folder).is_dir():
            raise ValueError(f"task folder {settings.folder}: no such folder")
        manager = TaskManager(include_path=settings.folder, include_defaults=False)
    if manager is None or any(name not in manager.task_index for name in settings.names):
        manager = TaskManager(include_path=settings.folder)
    for name in settings.names:
        if name not in manager.task_index:
            near = get_close_matches(name, list(manager.task_index), n=3)
            raise ValueError(
                f"task {name}: lm-eval has no such task"
                + (f"; near it: {', '.join(near)}" if near else "")
                + ("" if settings.folder is None else f", and {settings.folder} has none either")
            )
    try:
        loaded: dict[str, Any] = manager.load(list(settings.names))
    except OSError as error:  # no connection, offline, no such file
        raise ValueError(
            f"tasks {', '.join(settings.names)}: the data can't be had ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); run once where the hub can be reached (it is kept in HF_HOME), or give "
            f"--task-folder with tasks over local files (docs/benchmarks.md)"
        ) from error
    for task in loaded["tasks"].values():
        if task.OUTPUT_TYPE not in _SERVED:
            raise ValueError(
                f"task {task.config.task}: its output is {task.OUTPUT_TYPE}; only likelihoods are scored here "
                f"({', '.join(_SERVED)})"
            )
        _set_fewshot(task, settings.num_fewshot)
    return loaded


def _set_fewshot(task: Any, wanted: int | None) -> None:
    """Sets the number of examples as lm-eval's command does: a task that fixes 0 keeps it; the seed is the default."""
    fixed = task.get_config("num_fewshot")
    if fixed is None or (wanted is not None and fixed != 0):
        task.set_config(key="num_fewshot", value=wanted or 0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _one_of(on_progress: Progress, number: int, count: int) -> Progress:
    """Turns the progress of one system into that of all, which have as many requests each."""
    return lambda done, total: on_progress(number * total + done, count * total)


def _result(name: str, model: str, output: Any, settings: TasksSettings) -> TasksResult:
    import lm_eval

    scores: dict[str, TaskScore] = {}
    digest = hashlib.sha256(json.dumps([lm_eval.__version__, settings.num_fewshot]).encode())
    for task, samples in output["samples"].items():
        reported = output["results"][task]
        aggregated = {
            key.removesuffix(",none"): value
            for key, value in reported.items()
            if key.endswith(",none") and "_stderr" not in key and isinstance(value, (int, float))
        }
        version = str(output["versions"].get(task, ""))
        scores[task] = TaskScore(
            version=version,
            num_fewshot=int(output["n-shot"].get(task, 0)),
            metrics=metric_scores(aggregated, samples),
            crows_pairs=crows_scores(samples),
            predictions=tuple(_prediction(sample, tuple(aggregated)) for sample in samples),
        )
        digest.update(json.dumps([task, version, [sample["arguments"] for sample in samples]], default=str).encode())
    return TasksResult(
        system=name,
        tasks=scores,
        lm_eval_version=lm_eval.__version__,
        settings_sha256=digest.hexdigest(),
        model_sha256=model,
    )


def _prediction(sample: dict[str, Any], names: tuple[str, ...]) -> TaskPrediction:
    responses = [
        response[0] if isinstance(response, (list, tuple)) else response for response in sample["filtered_resps"]
    ]
    return TaskPrediction(
        doc_id=int(sample["doc_id"]),
        target=str(sample["target"]),
        logprobs=tuple(float(response) for response in responses),
        metrics={key: float(sample[key]) for key in names if isinstance(sample.get(key), (int, float))},
    )
