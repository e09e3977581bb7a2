"""Finds what keeps the evaluations of a plan from being made, before anything starts."""

from typing import Any

from eval.benchmarks.mmlu.benchmark import mmlu_problems, training_settings
from eval.benchmarks.registry import BENCHMARKS, settings_of
from harness.config.schema import DatasetConfig, EvalConfig, ModelKind, PathsConfig
from harness.runs.spec import RunSpec
from sweeps.plan.jobs import PlannedRun
from sweeps.plan.once import Once
from sweeps.plan.rows import check_rows


def evaluation_problems(run: PlannedRun, paths: PathsConfig, once: Once, no_template: str | None = None) -> list[str]:
    """Of all that measures a run, in training and after it. Args: no_template: a model that has no chat template."""
    spec = run.spec
    problems = list(once(_unknown, run.evals))
    for name in run.evals.after_training:
        if name not in BENCHMARKS:
            continue
        settings = settings_of(run.evals, name)
        problems += once(_settings_problems, name, settings, paths)
        if no_template is not None and BENCHMARKS[name].wants_template(settings):
            problems.append(f"eval.{name}: asks through a chat template, and the tokenizer of {no_template} has none")
        problems += once(_run_problems, name, settings, spec.model.kind, spec.dataset, paths)
    if spec.train is not None and spec.train.mmlu_every_steps is not None:
        problems += once(_training_problems, spec)
    return problems


def _unknown(evals: EvalConfig) -> list[str]:
    return [
        f"eval.after_training: {name!r} is no evaluation; there are: {', '.join(BENCHMARKS)}"
        for name in evals.after_training
        if name not in BENCHMARKS
    ]


def _settings_problems(name: str, settings: Any, paths: PathsConfig) -> list[str]:
    return BENCHMARKS[name].problems(settings, paths, f"eval.{name}.")


def _run_problems(
    name: str, settings: Any, kind: ModelKind, dataset: DatasetConfig | None, paths: PathsConfig
) -> list[str]:
    """Runs that a benchmark can't score, rows that are nowhere, labels that are no class."""
    benchmark = BENCHMARKS[name]
    if not benchmark.scores_own_dataset:
        if kind is benchmark.kind:
            return []
        return [f"eval.after_training: {name} scores model.kind={benchmark.kind.value}, not {kind.value}"]
    if kind is not benchmark.kind or dataset is None:
        found = "adapter=none" if dataset is None else f"model.kind={kind.value}"
        return [f"eval.after_training: {name} scores finetuned runs of model.kind={benchmark.kind.value}, not {found}"]
    try:
        rows = benchmark.rows(settings, dataset, paths)
        found_problems = () if rows is None else check_rows(kind, rows.dataset, rows.source).problems
    except ValueError as error:
        found_problems = (str(error),)
    return [f"eval {name}: {problem}" for problem in found_problems]


def _training_problems(spec: RunSpec) -> list[str]:
    """Problems of MMLU between the steps of training."""
    assert spec.train is not None
    if spec.model.kind is not ModelKind.causal:
        return [f"train.mmlu_every_steps: {spec.model.name} is model.kind={spec.model.kind.value}; MMLU wants causal"]
    return mmlu_problems(training_settings(spec.train), "train.mmlu_")
