"""Turns the points of a grid into jobs; equal points become one run, and all mistakes are reported together.

Whether all that the plan needs is there is checked by `sweeps.plan.preflight`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from eval.benchmarks.registry import BENCHMARKS, other_settings, planned_settings, settings_of
from eval.benchmarks.settings import plain
from harness.config.schema import Config, EvalConfig, PathsConfig
from harness.devices.hardware import auto_compute_dtype
from harness.files.atomic import sha256_file
from harness.ledger.tables import Job
from harness.models.locate import folder_fingerprint, tokenizer_fingerprint
from harness.runs.record import RunRecord
from harness.runs.spec import RunSpec, make_spec
from sweeps.plan.inputs import INPUTS, planned_inputs
from sweeps.plan.labels import unique_labels
from sweeps.plan.once import Once

TRAIN = "train"
UNTIL = "until"  # in a training job: the step after which it stops to be judged
EVAL_LOSS = "eval_loss"  # the held-out loss, in a job's result and a record
EVAL_BITS = "eval_bits_per_byte"  # the same by bytes, which compares models of several tokenizers
EVAL_STEP = "eval_step"  # the step of the weights that were measured


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One distinct run of the sweep."""

    spec: RunSpec
    label: str  # unique within the sweep
    evals: EvalConfig

    @property
    def run_id(self) -> str:
        """The run's id, by its spec."""
        return self.spec.run_id


def plan_runs(configs: Sequence[Config]) -> list[PlannedRun]:
    """Distinct runs in the order of the grid, each with a label of its own.

    Raises:
        ValueError: points that can't be resolved, or one run measured in two ways; all in one message.
    """
    problems: list[str] = []
    specs: dict[str, tuple[RunSpec, EvalConfig]] = {}
    unasked = unasked_evaluations(configs)
    hash_checkpoint = cache(checkpoint_sha256)
    for config in configs:
        try:
            spec = make_spec(config, auto_compute_dtype(config.launch), sha256_file, hash_checkpoint)
        except ValueError as error:
            problems.append(str(error))
            continue
        known, evals = specs.setdefault(spec.run_id, (spec, config.eval))
        if evals is not config.eval:
            problems += _two_measurements(spec, evals, config.eval)
            problems += _idle_values(evals, config.eval, unasked)
            specs[spec.run_id] = known, _both(evals, config.eval)
        if known.model.path != spec.model.path and spec.base_sha256 is None:
            problems.append(f"model.path={spec.model.path}: no such folder")
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    labels = unique_labels([spec for spec, _ in specs.values()])
    return [PlannedRun(spec=spec, evals=evals, label=labels[run_id]) for run_id, (spec, evals) in specs.items()]


def checkpoint_sha256(folder: Path) -> str:
    """sha256 of all that decides in a checkpoint's folder: its weights, config, tokenizer and chat template."""
    return hashlib.sha256(f"{folder_fingerprint(folder)}\n{tokenizer_fingerprint(folder)}".encode()).hexdigest()


def _two_measurements(spec: RunSpec, first: EvalConfig, second: EvalConfig) -> list[str]:
    """The message for a run that is to be measured in two ways: it keeps one result of each evaluation."""
    differing = {
        f"eval.{name}.{key}": (value, after[key])
        for name, before, after in _both_asked(first, second)
        for key, value in before.items()
        if value != after[key]
    }
    if not differing:
        return []
    one, other = (", ".join(f"{key}={values[i]}" for key, values in sorted(differing.items())) for i in (0, 1))
    return [
        f"run {spec.run_id} ({spec.label}) would be measured with {one} and with {other}, but keeps one result of "
        f"each evaluation: give two commands, one after the other"
    ]


def unasked_evaluations(configs: Sequence[Config]) -> tuple[str, ...]:
    """The evaluations with settings of their own that no point of a grid asks for."""
    asked = {name for config in configs for name in config.eval.after_training}
    return tuple(name for name in BENCHMARKS if name not in asked and hasattr(configs[0].eval, name))


def idle_remedy(name: str) -> str:
    """What to do about settings of an evaluation that no run of a plan asks for."""
    between = "; MMLU between the steps of training reads train.mmlu_*" if name == "mmlu" else ""
    return f"add eval={name} (or {name} to eval.after_training), or leave it out{between}"


def _idle_values(first: EvalConfig, second: EvalConfig, unasked: Sequence[str]) -> list[str]:
    """The messages for settings that differ between two points of one run, and that nothing uses."""
    problems: list[str] = []
    for name in unasked:
        before, after = (_plain_fields(settings_of(evals, name)) for evals in (first, second))
        problems += [
            f"eval.{name}.{key}: several values, and no run of the plan is measured by {name}: all of them would be "
            f"one run; {idle_remedy(name)}"
            for key, value in before.items()
            if value != after[key]
        ]
    return problems


def _both_asked(first: EvalConfig, second: EvalConfig) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The evaluations that both ask for, with the plain settings of each."""
    for name in first.after_training:
        if name in second.after_training and name in BENCHMARKS:
            one, other = (settings_of(evals, name) for evals in (first, second))
            yield name, _plain_fields(one), _plain_fields(other)


def _plain_fields(settings: Any) -> dict[str, Any]:
    return {field.name: plain(getattr(settings, field.name)) for field in fields(settings)}


def _both(first: EvalConfig, second: EvalConfig) -> EvalConfig:
    """Joins the evaluations of two points that are the same run."""
    added = [name for name in second.after_training if name not in first.after_training]
    nested = {field.name for field in fields(first)}
    settings = {name: settings_of(second, name) for name in added if name in nested}
    return replace(first, after_training=[*first.after_training, *added], **settings) if added else first


def make_jobs(runs: Sequence[PlannedRun], paths: PathsConfig | None = None) -> list[Job]:
    """A training job for each run, followed by jobs for its evaluations.

    Args:
        runs: planned.
        paths: where models and rows are looked for: each job keeps signs of what it reads, and changed rows are
            scored anew.
    """
    once = Once()
    jobs: list[Job] = []
    own_rows: dict[str, dict[str, str]] = {}
    settings: dict[str, dict[str, Any]] = {}  # so that the files of a grid's settings are hashed once
    for run in runs:
        inputs = None if paths is None else planned_inputs(run.spec, paths, once)
        train = train_job(run.spec, run.label, inputs)
        payload = json.loads(train.payload)
        jobs.append(train)
        for name in run.evals.after_training:
            if name not in BENCHMARKS:
                continue  # `preflight` refuses it
            asked = settings_of(run.evals, name)
            key = repr([name, asked])
            if key not in settings:
                settings[key] = eval_settings(run.evals, name)
            own = repr([name, run.spec.dataset, asked])
            if own not in own_rows:
                own_rows[own] = _own_rows(run, name, paths)
            decisive = settings[key] | own_rows[own]
            jobs.append(_eval_job(run, name, decisive, other_settings(name, asked), payload, train.job_id))
    return jobs


def train_job(spec: RunSpec, label: str, inputs: dict[str, str] | None = None) -> Job:
    """The training job of a run. The longest run is claimed first, so that places stay full to the end.

    Args:
        spec: the run's.
        label: its name for people.
        inputs: the digests that it was planned with; None where nobody looked.
    """
    payload = {"spec": spec.to_dict(), "label": label} | ({} if inputs is None else {INPUTS: inputs})
    return Job(
        kind=TRAIN,
        spec_hash=spec.run_id,
        run_id=spec.run_id,
        group=spec.group,
        label=label,
        payload=json.dumps(payload),
        priority=1 + ((spec.train.max_steps or 0) if spec.train is not None else 0),
    )


def stopping_at(job: Job, step: int | None) -> Job:
    """The training job, to stop after this step and be judged; None: it trains to its end."""
    if step is None or job.kind != TRAIN:
        return job
    return replace(job, payload=json.dumps(json.loads(job.payload) | {UNTIL: step}))


def train_result(record: RunRecord) -> dict[str, Any]:
    """What the ledger keeps of a finished training."""
    result = {
        "final_loss": record.final_loss,
        "num_steps": record.num_steps,
        "peak_memory_bytes": record.peak_memory_bytes,
    }
    if record.num_eval_examples is None:
        return result
    return result | {name: getattr(record, name) for name in (EVAL_LOSS, EVAL_BITS, EVAL_STEP)}


def _own_rows(run: PlannedRun, name: str, paths: PathsConfig | None) -> dict[str, str]:
    """The content of the rows in the data store that an evaluation of the run's own dataset scores."""
    if not BENCHMARKS[name].scores_own_dataset or run.spec.dataset is None or paths is None:
        return {}
    try:
        rows = BENCHMARKS[name].rows(settings_of(run.evals, name), run.spec.dataset, paths)
    except ValueError:
        return {}  # `preflight` says what is wrong
    if rows is None or rows.dataset.path is not None or not rows.source.files:
        return {}  # a file that the settings name has its content in `eval_settings`
    return {f"{name}_data_sha256": rows.sha256}


def eval_settings(evals: EvalConfig, name: str) -> dict[str, Any]:
    """The plain settings of one evaluation, with the content hash of the local files they name.

    Embedded questions and folders count by their content too; what isn't there, or is a named text, has no hash.
    """
    settings = settings_of(evals, name)
    return planned_settings(name, settings) | file_hashes(name, settings)


def file_hashes(name: str, settings: Any) -> dict[str, str]:
    """The content hash of each local file that an evaluation's settings name, by the key that a job keeps it under."""
    files = BENCHMARKS[name].files(settings).items()
    return {f"{name}_{key}_sha256": _content_sha256(found) for key, found in files if found}


def _content_sha256(files: Sequence[Path]) -> str:
    """Of one file its own digest, of several that of their names (which name subjects) and digests."""
    if len(files) == 1 and files[0].suffix != ".csv":
        return sha256_file(files[0])
    return hashlib.sha256("".join(f"{file.name}:{sha256_file(file)}\n" for file in files).encode()).hexdigest()


def _eval_job(
    run: PlannedRun, name: str, decisive: dict[str, Any], others: dict[str, Any], payload: dict[str, Any], after: str
) -> Job:
    """Args: decisive: the settings that decide the result, and with it which job this is; others: those that don't."""
    key = json.dumps([run.run_id, name, decisive], sort_keys=True)
    return Job(
        kind=name,
        spec_hash=hashlib.sha256(key.encode()).hexdigest()[:16],
        run_id=run.run_id,
        group=run.spec.group,
        label=run.label,
        payload=json.dumps(payload | {"settings": decisive | others}),
        after=after,
    )


def whole_base_problem(name: str) -> str:
    """Why an evaluation is not made where the base is sharded over devices."""
    return (
        f"launch.shard_base=true with eval.after_training={name}: it is scored over a whole base only; leave it out, "
        f"and score the run afterwards with python -m eval {BENCHMARKS[name].command}"
    )


def fixed_group_note(num_runs: int, num_devices: int, sharded: bool) -> str | None:
    """Why the groups of a launch stay as they start, and what to set instead; None where their places are refilled.

    Args:
        num_runs: of the largest group that trains together.
        num_devices: that share every run (`launch.devices_per_run`, or torchrun's processes).
        sharded: whether they share the base, too (`launch.shard_base`).
    """
    if num_devices == 1 or num_runs < 2:
        return None
    where = f"a run is shared by {num_devices} devices" + (", and so is its base" if sharded else "")
    instead = "launch.devices_per_run=1" + (" launch.shard_base=false" if sharded else "")
    needs = ", if the base fits one device" if sharded else ""
    return (
        f"groups of up to {num_runs} runs stay as they start, as {where}: the place of a run that ends stays empty, "
        f"and where a device has no room for all, the group fails instead of letting some go; {instead} (without "
        f"torchrun) refills and shrinks them{needs}"
    )
