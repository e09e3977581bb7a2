"""Composed grid points -> the jobs that are to be done, equal points once, all mistakes together.

No torch. Whether all that the plan needs is there asks `sweeps.plan.preflight`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.benchmarks.dataset_rows import evaluation_rows
from eval.benchmarks.mmlu.questions import Role, question_files
from eval.benchmarks.texts import text_files
from harness.config.schema import Config, EvalConfig, ModelKind, PathsConfig
from harness.devices.hardware import auto_compute_dtype
from harness.files.atomic import sha256_file
from harness.ledger.tables import Job
from harness.runs.spec import RunSpec, make_spec

TRAIN, MMLU, PERPLEXITY, TASKS, ANSWERS = "train", "mmlu", "perplexity", "tasks", "answers"
DATASET_EVALS = {"glue": ModelKind.classifier, "super_ni": ModelKind.seq2seq}  # of a run's own dataset; what they score
EVAL_NAMES = (
    MMLU,
    PERPLEXITY,
    TASKS,
    ANSWERS,
    *DATASET_EVALS,
)  # the keys of `sweeps.jobs.evals.EVALS`, which needs torch
MMLU_SETS = {"mmlu_questions": Role.questions, "mmlu_shots_file": Role.shots}  # settings that name questions


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One distinct run of the sweep."""

    spec: RunSpec
    label: str  # unique within the sweep
    evals: EvalConfig

    @property
    def run_id(self) -> str:
        return self.spec.run_id


def plan_runs(configs: Sequence[Config]) -> list[PlannedRun]:
    """Distinct runs in the order of the grid, each with a label of its own.

    Raises:
        ValueError: points that can't be resolved, or one run measured in two ways; all in one message.
    """
    problems: list[str] = []
    specs: dict[str, tuple[RunSpec, EvalConfig]] = {}
    for config in configs:
        try:
            spec = make_spec(config, auto_compute_dtype(config.launch), sha256_file)
        except ValueError as error:
            problems.append(str(error))
            continue
        known, evals = specs.setdefault(spec.run_id, (spec, config.eval))
        if evals is not config.eval:
            problems += _two_measurements(spec, evals, config.eval)
            specs[spec.run_id] = known, _both(evals, config.eval)
        if known.model.path != spec.model.path:
            problems.append(
                f"model.path={known.model.path} and model.path={spec.model.path} would be one run, because both "
                f"are called model.hub_id={spec.model.hub_id}; give each its own model.hub_id=..."
            )
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    labels = unique_labels([spec for spec, _ in specs.values()])
    return [PlannedRun(spec=spec, evals=evals, label=labels[run_id]) for run_id, (spec, evals) in specs.items()]


def _two_measurements(spec: RunSpec, first: EvalConfig, second: EvalConfig) -> list[str]:
    """A run keeps one result of each evaluation, so that one sweep can't ask for two."""
    before, after = _asked(first), _asked(second)
    differing = [key for name in before.keys() & after for key in before[name] if before[name][key] != after[name][key]]
    if not differing:
        return []
    one, other = (
        ", ".join(f"eval.{key}={getattr(evals, key)}" for key in sorted(differing)) for evals in (first, second)
    )
    return [
        f"run {spec.run_id} ({spec.label}) would be measured with {one} and with {other}, but keeps one result of "
        f"each evaluation: give two commands, one after the other"
    ]


def _both(first: EvalConfig, second: EvalConfig) -> EvalConfig:
    """One run that two points ask for is measured as both of them say."""
    added = [name for name in second.after_training if name not in first.after_training]
    settings = {key: value for name in added for key, value in _settings_of(second, name).items()}
    return replace(first, after_training=[*first.after_training, *added], **settings) if added else first


def _asked(evals: EvalConfig) -> dict[str, dict[str, Any]]:
    return {name: _settings_of(evals, name) for name in evals.after_training}


def make_jobs(runs: Sequence[PlannedRun], paths: PathsConfig | None = None) -> list[Job]:
    """A training job for each run, and its evaluations behind it.

    Args:
        runs: planned.
        paths: where rows that evaluations score are looked for, so that changed ones are scored anew.
    """
    jobs: list[Job] = []
    own_rows: dict[str, dict[str, str]] = {}
    settings: dict[str, dict[str, Any]] = {}  # so that the files of a grid's settings are hashed once
    for run in runs:
        payload = {"spec": run.spec.to_dict(), "label": run.label}
        train = Job(
            kind=TRAIN,
            spec_hash=run.run_id,
            run_id=run.run_id,
            group=run.spec.group,
            label=run.label,
            payload=json.dumps(payload),
            priority=1,
        )
        jobs.append(train)
        for name in run.evals.after_training:
            key = json.dumps([name, asdict(run.evals)])
            if key not in settings:
                settings[key] = eval_settings(run.evals, name)
            own = repr([name, run.spec.dataset, data_file(run.evals, name) if name in DATASET_EVALS else None])
            if own not in own_rows:
                own_rows[own] = _own_rows(run, name, paths)
            asked = settings[key] | own_rows[own]
            jobs.append(_eval_job(run, name, asked, payload, train.job_id))
    return jobs


def _own_rows(run: PlannedRun, name: str, paths: PathsConfig | None) -> dict[str, str]:
    """The content of the rows in the data store that an evaluation of the run's own dataset scores."""
    if name not in DATASET_EVALS or run.spec.dataset is None or paths is None or data_file(run.evals, name):
        return {}
    try:
        rows = evaluation_rows(run.spec.dataset, None, None, paths)
    except ValueError:
        return {}  # `preflight` says what is wrong
    return {f"{name}_data_sha256": rows.sha256} if rows.source.files else {}


def data_file(evals: EvalConfig, name: str) -> str | None:
    """The local file that an evaluation of the run's own dataset scores instead of the dataset's split."""
    where: str | None = getattr(evals, f"{name}_data")
    return where


def eval_settings(evals: EvalConfig, name: str) -> dict[str, Any]:
    """The plain settings of one evaluation, with the content hash of the local files they name.

    Embedded questions and folders count by their content too; what isn't there, or is a named text, has no hash.
    """
    settings = _settings_of(evals, name)
    files = {key: question_files(settings[key], role) for key, role in MMLU_SETS.items() if key in settings}
    if name == PERPLEXITY:
        files["perplexity_text"] = text_files(settings["perplexity_text"], None)
    if name == TASKS and settings["tasks_folder"] is not None:
        files["tasks_folder"] = sorted(path for path in Path(settings["tasks_folder"]).glob("*") if path.is_file())
    if name == ANSWERS:
        files["answers_questions"] = [Path(evals.answers_questions)] * Path(evals.answers_questions).is_file()
    if (data := settings.get(f"{name}_data")) is not None:
        files[f"{name}_data"] = [Path(data)] * Path(data).is_file()
    return settings | {f"{key}_sha256": _content_sha256(found) for key, found in files.items() if found}


def _settings_of(evals: EvalConfig, name: str) -> dict[str, Any]:
    return {key: value for key, value in asdict(evals).items() if key.startswith(f"{name}_")}


def _content_sha256(files: Sequence[Path]) -> str:
    """Of one file its own digest, of several that of their names (which name subjects) and digests."""
    if len(files) == 1 and files[0].suffix != ".csv":
        return sha256_file(files[0])
    return hashlib.sha256("".join(f"{file.name}:{sha256_file(file)}\n" for file in files).encode()).hexdigest()


def _eval_job(run: PlannedRun, name: str, settings: dict[str, Any], payload: dict[str, Any], after: str) -> Job:
    key = json.dumps([run.run_id, name, settings], sort_keys=True)
    return Job(
        kind=name,
        spec_hash=hashlib.sha256(key.encode()).hexdigest()[:16],
        run_id=run.run_id,
        group=run.spec.group,
        label=run.label,
        payload=json.dumps(payload | {"settings": settings}),
        after=after,
    )


def unique_labels(specs: Sequence[RunSpec]) -> dict[str, str]:
    """run_id -> a label that no other run of the sweep has; equal ones get what they differ in."""
    by_label: dict[str, list[RunSpec]] = {}
    for spec in specs:
        by_label.setdefault(spec.label, []).append(spec)
    labels: dict[str, str] = {}
    for label, same in by_label.items():
        details = {spec.run_id: spec.details for spec in same}
        varying = [key for key in same[0].details if len({found[key] for found in details.values()}) > 1]
        longer = {
            run_id: "-".join([label, *(found[key] for key in varying if found[key])])
            for run_id, found in details.items()
        }
        how_many = Counter(longer.values())
        begins = Counter((text, run_id[:4]) for run_id, text in longer.items())
        for run_id, text in longer.items():
            short = run_id[:4] if begins[text, run_id[:4]] == 1 else run_id
            labels[run_id] = text if how_many[text] == 1 else f"{text}-{short}"
    return labels


def whole_base_problem(name: str) -> str:
    """Why an evaluation is not made where the base is sharded over devices."""
    command = "generate" if name == ANSWERS else name
    return (
        f"launch.shard_base=true with eval.after_training={name}: it is scored over a whole base only; leave it out, "
        f"and score the run afterwards with python -m eval {command}"
    )
