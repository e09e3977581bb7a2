"""Scores models on lm-eval's tasks: by likelihood (HellaSwag, ARC, LAMBADA, CrowS-Pairs) or by answers (GSM8K, IFEval).

    results = score_tasks(base, {"base": None, "tuned": run_id}, TasksSettings(names=["hellaswag", "piqa"]))

As `python -m eval tasks --tasks hellaswag,piqa --model NAME [--adapter DIR]`. Tasks, prompts and metrics are those of
lm-eval (0.4.13, the `tasks` extra), a library on our loaded base here: eval/benchmarks/tasks/lm_eval_model.py. Answers
of all systems are generated in the same batches before any is scored; likelihoods are computed system by system. A task
over local files is a YAML file in `--task-folder` that includes the published one; docs/benchmarks.md has an example.
Paper: the zero-shot accuracy behind QLoRA's figure on data types, and Table 8.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.benchmarks.settings import identity_of
from eval.benchmarks.tasks.results import (
    TaskScore,
    TasksResult,
    crows_scores,
    filtered_metrics,
    missing_lm_eval,
    predictions_of,
)
from eval.benchmarks.tasks.settings import TasksSettings
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.partial import Partial
from eval.systems import say_note
from harness.banks.load import LoadedBase
from harness.progress import Progress, part_of

if TYPE_CHECKING:
    from eval.benchmarks.tasks.lm_eval_model import BankModel

_FEWSHOT_SEED = 1234
GENERATING = "generate_until"
_SERVED = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", GENERATING)
_ALWAYS_IN_DIGEST = ("names", "num_fewshot", "limit", "folder")  # settings that the digest holds in its own form


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
        ValueError: lm-eval missing, unknown tasks, tasks that need what isn't here, or data that can't be fetched.
    """
    if problem := missing_lm_eval():
        raise ValueError(problem)
    from lm_eval.evaluator import evaluate

    from eval.benchmarks.tasks.lm_eval_model import BankModel

    loaded = load_tasks(settings)
    hashes = {name: model_sha256(base, member) for name, member in members.items()}
    models = {
        name: BankModel(
            base,
            member,
            partial=Partial.open(partial_dir, "tasks", hashes[name], read_by(base)),
            on_progress=None if on_progress is None else part_of(on_progress, number, 1, len(members)),
            row_tokens=settings.row_tokens,
            seed=settings.seed,
            max_new_tokens=settings.max_gen_toks,
        )
        for number, (name, member) in enumerate(members.items())
    }
    _generate_all(list(models.values()), loaded, settings, on_progress)
    results: dict[str, TasksResult] = {}
    for name, model in models.items():
        _seed_examples(loaded)
        output = evaluate(model, loaded, bootstrap_iters=0, log_samples=True, **_asked_how(settings))
        results[name] = _result(name, hashes[name], loaded["tasks"], output, settings)
    return results


def _generate_all(
    models: "Sequence[BankModel]", loaded: dict[str, Any], settings: TasksSettings, on_progress: Progress | None
) -> None:
    """Generates the answers of every system to all tasks that ask for text, together."""
    from eval.benchmarks.tasks.generation import left_out_settings
    from eval.benchmarks.tasks.lm_eval_model import generate_missing

    generating = [task for task in loaded["tasks"].values() if task.OUTPUT_TYPE == GENERATING]
    if not generating:
        return
    first = models[0]
    if first.base.bank.shards is not None:
        raise ValueError(
            f"task {generating[0].config.task}: generates text, which needs the whole base on each device; leave "
            "launch.shard_base out, or take tasks that score likelihoods"
        )
    if left_out := left_out_settings(first.base):
        say_note(f"{first.base.source.location}: of its generation_config {', '.join(left_out)} is not followed")
    _seed_examples(loaded)
    how = _asked_how(settings)
    template = {"chat_template": first.apply_chat_template, "tokenizer_name": first.tokenizer_name}
    for task in generating:
        task.build_all_requests(**how, **(template if settings.chat else {}))
    requests = [instance for task in generating for instance in task.instances for _ in range(instance.repeats)]
    generate_missing(models, first.generations(requests), on_progress)


def _asked_how(settings: TasksSettings) -> dict[str, Any]:
    """What decides a task's prompts beside the task."""
    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True} if settings.chat else {}
    return {"limit": settings.limit, **chat}


def _seed_examples(loaded: dict[str, Any]) -> None:
    """Lets every system see the same examples: a task draws them anew each time it writes its prompts."""
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def load_tasks(settings: TasksSettings) -> dict[str, Any]:
    """What lm-eval's `TaskManager.load` gives, `tasks` by name among it; their data are read.

    Raises:
        ValueError: unknown names, tasks that need what isn't here, or data that can't be fetched.
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
            near = get_close_matches(name, list(manager.task_index))
            raise ValueError(
                f"task {name}: lm-eval has no such task"
                + (f"; near it: {', '.join(near)}" if near else "")
                + ("" if settings.folder is None else f", and {settings.folder} has none either")
            )
        _require_safe(name, manager.task_index[name])
    try:
        loaded: dict[str, Any] = manager.load(list(settings.names))
    except OSError as error:  # no connection, offline, no such file
        raise ValueError(
            f"tasks {', '.join(settings.names)}: the data can't be had ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); run once where the hub can be reached (it is kept in HF_HOME), or give "
            f"--task-folder with tasks over local files (docs/benchmarks.md)"
        ) from error
    except ImportError as error:
        raise ValueError(
            f"tasks {', '.join(settings.names)}: their code needs a package that isn't installed ({error}); "
            "install it (lm-eval's extras name them: pip install 'lm-eval[ifeval,math]'), or leave the task out"
        ) from error
    for task in loaded["tasks"].values():
        _require_served(task)
        _set_fewshot(task, settings.num_fewshot)
    return loaded


def _require_safe(name: str, entry: Any) -> None:
    """Refuses a task that would run what a model writes, by its file, before its code is imported."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if entry.yaml_path is not None and load_yaml(entry.yaml_path, resolve_func=False).get("unsafe_code"):
        raise ValueError(_unsafe(name))


def _unsafe(name: str) -> str:
    return (
        f"task {name}: it scores by running the code that the model writes (unsafe_code), which is not done here; "
        "copy the task without unsafe_code and with a metric over texts (--task-folder): its answers are then kept"
    )


def _require_served(task: Any) -> None:
    name = task.config.task
    if getattr(task, "UNSAFE_CODE", False):
        raise ValueError(_unsafe(name))
    if getattr(task, "MULTIMODAL", False):
        raise ValueError(f"task {name}: it shows images or plays sounds; only text goes to a model here")
    if task.OUTPUT_TYPE not in _SERVED:
        raise ValueError(f"task {name}: its output is {task.OUTPUT_TYPE}; served are {', '.join(_SERVED)}")


def _set_fewshot(task: Any, wanted: int | None) -> None:
    """Sets the number of examples as lm-eval's command does: a task that fixes 0 keeps it; the seed is the default."""
    fixed = task.get_config("num_fewshot")
    if fixed is None or (wanted is not None and fixed != 0):
        task.set_config(key="num_fewshot", value=wanted or 0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _result(name: str, model: str, tasks: Mapping[str, Any], output: Any, settings: TasksSettings) -> TasksResult:
    import lm_eval

    from eval.benchmarks.tasks.classes import class_metrics

    scores: dict[str, TaskScore] = {}
    later = {key: value for key, value in identity_of(settings).items() if key not in _ALWAYS_IN_DIGEST}
    digest = hashlib.sha256(json.dumps([lm_eval.__version__, settings.num_fewshot, *([later] * bool(later))]).encode())
    for task, samples in output["samples"].items():
        version = str(output["versions"].get(task, ""))
        better = output["higher_is_better"].get(task, {})
        metrics = filtered_metrics(output["results"][task], samples)
        scores[task] = TaskScore(
            version=version,
            num_fewshot=int(output["n-shot"].get(task, 0)),
            metrics=metrics | class_metrics(tasks[task], samples),
            higher_is_better={key: bool(better.get(key.partition(",")[0], True)) for key in metrics},
            crows_pairs=crows_scores(samples),
            predictions=predictions_of(samples, list(metrics)),
        )
        asked = [sample["arguments"] for sample in samples]
        digest.update(json.dumps([task, version, asked], default=str).encode())
    return TasksResult(
        system=name,
        tasks=scores,
        lm_eval_version=lm_eval.__version__,
        settings_sha256=digest.hexdigest(),
        model_sha256=model,
    )
