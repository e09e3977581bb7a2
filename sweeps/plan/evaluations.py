"""Finds what keeps the evaluations of a plan from being made, before anything starts, and how long they take."""

import json
import statistics
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import fields
from typing import Any

from eval.benchmarks.mmlu.benchmark import mmlu_problems, training_settings
from eval.benchmarks.registry import BENCHMARKS, settings_of
from eval.benchmarks.settings import plain
from harness.config.schema import Config, DatasetConfig, EvalConfig, ModelKind, PathsConfig
from harness.ledger.open import existing_ledger
from harness.ledger.tables import Job, JobStatus
from harness.runs.spec import RunSpec
from sweeps.plan.estimate import ARITHMETIC, RECORDS, EvaluationTime, forward_seconds
from sweeps.plan.jobs import TRAIN, PlannedRun, idle_remedy, unasked_evaluations
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
        benchmark = BENCHMARKS[name]
        has_own = benchmark.reads_own_template() and spec.own_template is not None
        if no_template is not None and not has_own and benchmark.wants_template(settings):
            problems.append(f"eval.{name}: asks through a chat template, and the tokenizer of {no_template} has none")
        problems += once(_run_problems, name, settings, spec.model.kind, spec.dataset, paths)
        if (problem := benchmark.run_problem(spec.train)) is not None:
            problems.append(f"eval.after_training: {name} {problem}")
    if spec.train is not None and spec.train.mmlu_every_steps is not None:
        problems += once(_training_problems, spec)
    return problems


def idle_notes(configs: Sequence[Config]) -> list[str]:
    """What is said of settings of evaluations that no run of the plan asks for: a value that nothing uses."""
    notes: dict[str, None] = {}
    for name in unasked_evaluations(configs):
        defaults = BENCHMARKS[name].settings_type()
        for settings in {id(found): found for found in (settings_of(config.eval, name) for config in configs)}.values():
            for declared in fields(settings):
                value = plain(getattr(settings, declared.name))
                if value != plain(getattr(defaults, declared.name)):
                    key = f"eval.{name}.{declared.name}={value}"
                    notes[
                        f"{key}: no run of the plan is measured by {name}, so nothing uses it; {idle_remedy(name)}"
                    ] = None
    return list(notes)


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


def evaluation_times(
    runs: Sequence[PlannedRun], jobs: Sequence[Job], paths: PathsConfig, url: str, device: str | None
) -> dict[str, EvaluationTime]:
    """run_id -> the time of its evaluations: at the median of earlier ones, else by arithmetic.

    Args:
        runs: of the plan, with the jobs that they come to.
        url: of the ledger, whose finished evaluations of equal settings, model and quantization tell.
        device: that arithmetic is for; None: there are several, or it isn't known.
    """
    asked = [job for job in jobs if job.kind != TRAIN]
    known = _recorded_seconds(url, {job.kind for job in asked}) if asked else {}
    by_id, once = {run.run_id: run for run in runs}, Once()
    found: dict[str, EvaluationTime] = {}
    for job in asked:
        own, run = known.get(_likeness(job)), by_id[job.run_id]
        if own:
            time = EvaluationTime(seconds=statistics.median(own), source=RECORDS)
        else:
            tokens = _num_tokens(run, job.kind, paths, once)
            seconds = None if tokens is None or device is None else forward_seconds(run.spec.model, tokens, device)
            time = EvaluationTime(seconds=seconds, source=None if seconds is None else ARITHMETIC)
        found[job.run_id] = time if job.run_id not in found else found[job.run_id].with_another(time)
    return found


def _num_tokens(run: PlannedRun, name: str, paths: PathsConfig, once: Once) -> int | None:
    settings, spec = settings_of(run.evals, name), run.spec
    num_rows = evaluation_rows_count(name, settings, spec, paths, once)
    return once(BENCHMARKS[name].num_tokens, settings, paths, spec.dataset, num_rows)


def evaluation_rows_count(name: str, settings: Any, spec: RunSpec, paths: PathsConfig, once: Once) -> int | None:
    """The evaluation rows of a run's own dataset that a benchmark scores; None where it scores others, or none."""
    if not BENCHMARKS[name].scores_own_dataset or spec.dataset is None:
        return None
    return once(_num_rows, name, settings, spec.model.kind, spec.dataset, paths)


def _num_rows(name: str, settings: Any, kind: ModelKind, dataset: DatasetConfig, paths: PathsConfig) -> int | None:
    try:
        rows = BENCHMARKS[name].rows(settings, dataset, paths)
    except ValueError:
        return None  # `evaluation_problems` says so
    return None if rows is None else check_rows(kind, rows.dataset, rows.source).num_examples


def _recorded_seconds(url: str, kinds: Collection[str]) -> dict[str, list[float]]:
    recorded: dict[str, list[float]] = {}
    try:
        ledger = existing_ledger(url)
    except ValueError:
        return recorded  # nothing was done yet, or a launch says what is wrong with it
    with closing(ledger):
        for row in ledger.rows(status=JobStatus.done, kinds=kinds):
            if row.seconds:
                recorded.setdefault(_likeness(row), []).append(row.seconds)
    return recorded


def _likeness(job: Job) -> str:
    """A key of what decides how long an evaluation takes."""
    payload = json.loads(job.payload)
    model, quant = payload["spec"]["model"], payload["spec"]["quant"]
    precision = [quant["method"], quant["compute_dtype"]]
    return json.dumps([job.kind, payload.get("settings"), model["hub_id"], model["shape"], precision], sort_keys=True)
