"""Composed grid points -> the jobs that are to be done, equal points once, all mistakes together.

No torch. `preflight` asks whether all that the plan needs is there, before anything starts.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.dataset_rows import evaluation_rows
from eval.questions import HUB, Question, Role, choose_shots, load_questions, question_files, select
from eval.task_scores import missing_lm_eval
from eval.texts import source_problem, text_files
from harness.data import (
    DataError,
    DataSource,
    SourceRow,
    fingerprint,
    locate_dataset,
    read_rows,
    require_target,
    row_examples,
)
from harness.devices import planned_device
from harness.files import sha256_file
from harness.formats import Example
from harness.labels import label_value
from harness.ledger import Job
from harness.locate import ModelSource, checkpoint_shape, folder_fingerprint, locate_model, num_parameters
from harness.plan import RunSpec, make_spec
from harness.provenance import load_record
from harness.schema import (
    Config,
    DatasetConfig,
    Device,
    EmptyTargets,
    EvalConfig,
    ModelConfig,
    ModelKind,
    PathsConfig,
    ShapeConfig,
    TrainConfig,
)
from harness.stores import Missing

GPU_PARAMETERS = 1_000_000_000  # models from here on are not trained on a CPU unless asked for
CHECKED_ROWS = 100_000  # rows of a local file that are read before anything starts
TRAIN, MMLU, PERPLEXITY, TASKS = "train", "mmlu", "perplexity", "tasks"
DATASET_EVALS = {"glue": ModelKind.classifier, "super_ni": ModelKind.seq2seq}  # of a run's own dataset; what they score
EVAL_NAMES = (MMLU, PERPLEXITY, TASKS, *DATASET_EVALS)  # the keys of `sweeps.evals.EVALS`, which needs torch
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
            spec = make_spec(config, planned_device(config.launch.device), sha256_file)
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
            asked = settings[key] | _own_rows(run, name, paths)
            jobs.append(_eval_job(run, name, asked, payload, train.job_id))
    return jobs


def _own_rows(run: PlannedRun, name: str, paths: PathsConfig | None) -> dict[str, str]:
    """The content of the rows in the data store that an evaluation of the run's own dataset scores."""
    if name not in DATASET_EVALS or run.spec.dataset is None or paths is None or _data_file(run.evals, name):
        return {}
    try:
        rows = evaluation_rows(run.spec.dataset, None, None, paths)
    except ValueError:
        return {}  # `preflight` says what is wrong
    return {f"{name}_data_sha256": rows.sha256} if rows.source.files else {}


def _data_file(evals: EvalConfig, name: str) -> str | None:
    where: str | None = getattr(evals, f"{name}_data")
    return where


def preflight(runs: Sequence[PlannedRun], paths: PathsConfig, device: Device) -> list[str]:
    """One message for each thing that is missing or broken, before any work. Empty: all is there."""
    inputs = Inputs(paths)
    problems: dict[str, None] = {}
    too_large: dict[str, int] = {}
    evals: list[EvalConfig] = []
    for run in runs:
        model = run.spec.model
        source, shape_or_problem = inputs.model(model)
        if isinstance(source, Missing):
            problems[str(source)] = None
        if isinstance(shape_or_problem, str):
            problems[shape_or_problem] = None
            continue
        count = num_parameters(shape_or_problem)
        if device is Device.auto and count >= GPU_PARAMETERS:
            too_large[model.name] = count
        if run.spec.dataset is not None:
            problems.update(dict.fromkeys(inputs.data_problems(model, run.spec.dataset)))
        if run.spec.train is not None and run.spec.train.mmlu_every_steps is not None:
            problems.update(dict.fromkeys(inputs.look_problems(run.spec, run.spec.train)))
        if run.evals not in evals:
            evals.append(run.evals)
            problems.update(dict.fromkeys(_eval_problems(run.evals, paths)))
        problems.update(dict.fromkeys(inputs.dataset_eval_problems(run)))
        problems.update(dict.fromkeys(_changed_inputs(run, source, inputs)))
    if too_large and planned_device(device) is Device.cpu:
        problems[_no_gpu(too_large)] = None
    return list(problems)


class Inputs:
    """What runs need, each thing looked at once however many runs need it."""

    def __init__(self, paths: PathsConfig) -> None:
        self.paths = paths
        self._models: dict[tuple[str, str, str | None], tuple[ModelSource | Missing, ShapeConfig | str]] = {}
        self._data_problems: dict[str, list[str]] = {}
        self._eval_problems: dict[str, list[str]] = {}
        self._look_problems: dict[str, list[str]] = {}
        self._fingerprints: dict[str, tuple[str, DataSource] | None] = {}

    def model(self, model: ModelConfig) -> tuple[ModelSource | Missing, ShapeConfig | str]:
        """-> where its weights are, and its shape (the checkpoint's own wins) or what is wrong with the checkpoint."""
        place = model.hub_id, model.revision, model.path
        if place not in self._models:
            source = locate_model(model, self.paths)
            try:
                found = checkpoint_shape(source) if isinstance(source, ModelSource) else None
            except ValueError as error:
                self._models[place] = source, str(error)
            else:
                self._models[place] = source, found or model.shape
        return self._models[place]

    def data_problems(self, model: ModelConfig, dataset: DatasetConfig) -> list[str]:
        """What is wrong with a dataset for this kind of model; local rows are read through."""
        key = repr([model.kind, dataset])
        if key not in self._data_problems:
            self._data_problems[key] = _data_problems(model, dataset, self.paths)
        return self._data_problems[key]

    def dataset_eval_problems(self, run: PlannedRun) -> list[str]:
        """What keeps an evaluation from scoring a run."""
        key = repr([run.spec.model.kind, run.spec.dataset, run.evals])
        if key not in self._eval_problems:
            self._eval_problems[key] = _dataset_eval_problems(run, self.paths)
        return self._eval_problems[key]

    def look_problems(self, spec: RunSpec, train: TrainConfig) -> list[str]:
        """What is wrong with the questions of MMLU in training."""
        settings = [getattr(train, key) for key in (*MMLU_SETS, "mmlu_num_shots", "mmlu_limit")]
        key = repr([spec.model.name, spec.model.kind, settings])
        if key not in self._look_problems:
            self._look_problems[key] = _look_problems(spec, train)
        return self._look_problems[key]

    def fingerprint(self, dataset: DatasetConfig) -> tuple[str, DataSource] | None:
        """Of local rows, and where they lie; None for a hub's, and for those that `data_problems` reports."""
        key = repr(dataset)
        if key not in self._fingerprints:
            self._fingerprints[key] = _local_fingerprint(dataset, self.paths)
        return self._fingerprints[key]


def _data_problems(model: ModelConfig, dataset: DatasetConfig, paths: PathsConfig) -> list[str]:
    try:
        source = locate_dataset(dataset, paths)
        if isinstance(source, Missing):
            return [str(source)]
        return _row_problems(model, dataset, source)
    except ValueError as error:
        return [str(error)]


def _local_fingerprint(dataset: DatasetConfig, paths: PathsConfig) -> tuple[str, DataSource] | None:
    try:
        source = locate_dataset(dataset, paths)
    except ValueError:
        return None
    return (fingerprint(source), source) if isinstance(source, DataSource) and source.files else None


def _eval_problems(evals: EvalConfig, paths: PathsConfig) -> list[str]:
    """Evaluations that don't exist, questions that are nowhere or broken: known before the first step is trained."""
    problems = [
        f"eval.after_training: {name!r} is no evaluation; there are: {', '.join(EVAL_NAMES)}"
        for name in evals.after_training
        if name not in EVAL_NAMES
    ]
    if MMLU in evals.after_training:
        problems += _mmlu_problems(evals)
    if PERPLEXITY in evals.after_training:
        problem = source_problem(evals.perplexity_text, paths.data_store)
        problems += [] if problem is None else [f"eval.perplexity_text: {problem}"]
    if TASKS in evals.after_training:
        problem = missing_lm_eval()
        problems += [] if problem is None else [f"eval.after_training: tasks: {problem}"]
        if not evals.tasks_names:
            problems.append("eval.tasks_names=[]: name at least one of lm-eval's tasks")
        if evals.tasks_folder is not None and not Path(evals.tasks_folder).is_dir():
            problems.append(f"eval.tasks_folder={evals.tasks_folder}: no such folder")
    return problems


def _dataset_eval_problems(run: PlannedRun, paths: PathsConfig) -> list[str]:
    """Runs that an evaluation can't score, rows that are nowhere, labels that are no class."""
    problems: list[str] = []
    for name in run.evals.after_training:
        kind, spec = DATASET_EVALS.get(name), run.spec
        if name == MMLU and spec.model.kind is not ModelKind.causal:
            problems.append(f"eval.after_training: mmlu scores model.kind=causal, not {spec.model.kind.value}")
        if kind is None:
            continue
        if spec.model.kind is not kind or spec.dataset is None:
            found = "adapter=none" if spec.dataset is None else f"model.kind={spec.model.kind.value}"
            problems.append(
                f"eval.after_training: {name} scores finetuned runs of model.kind={kind.value}, not {found}"
            )
            continue
        try:
            rows = evaluation_rows(spec.dataset, _data_file(run.evals, name), None, paths)
            problems += [f"eval {name}: {p}" for p in _row_problems(spec.model, rows.dataset, rows.source)]
        except ValueError as error:
            problems.append(f"eval {name}: {error}")
    return problems


def _look_problems(spec: RunSpec, train: TrainConfig) -> list[str]:
    """Of MMLU in training."""
    if spec.model.kind is not ModelKind.causal:
        return [f"train.mmlu_every_steps: {spec.model.name} is model.kind={spec.model.kind.value}; MMLU wants causal"]
    return _mmlu_problems(train)


def _mmlu_problems(asked: EvalConfig | TrainConfig) -> list[str]:
    """Of MMLU after training or in it. What the hub serves is left to the job."""
    group = "eval" if isinstance(asked, EvalConfig) else "train"
    problems: list[str] = []
    found: dict[str, list[Question]] = {}
    for key, role in MMLU_SETS.items():
        where: str = getattr(asked, key)
        if where.startswith(HUB) or (role is Role.shots and asked.mmlu_num_shots == 0):
            continue
        try:
            found[key] = load_questions(where, role)
        except ValueError as error:
            problems.append(f"{group}.{key}: {error}")
    if len(found) < len(MMLU_SETS):
        return problems
    questions, pool = found.values()
    limits = (None, asked.mmlu_limit_per_subject) if isinstance(asked, EvalConfig) else (asked.mmlu_limit, None)
    chosen = [questions[place] for place in select(questions, *limits)]
    try:
        choose_shots(chosen, pool, asked.mmlu_num_shots, asked.mmlu_questions, asked.mmlu_shots_file)
    except ValueError as error:
        problems.append(f"{group}.mmlu_num_shots: {error}")
    return problems


def _row_problems(model: ModelConfig, dataset: DatasetConfig, source: DataSource) -> list[str]:
    if not source.files:
        return []
    try:
        for number, row in enumerate(read_rows(source)):
            if number == CHECKED_ROWS:
                break
            for example in row_examples(row, dataset.format):
                _check_example(model, dataset, example, row)
    except DataError as error:
        return [str(error)]
    return []


def _check_example(model: ModelConfig, dataset: DatasetConfig, example: Example, row: SourceRow) -> None:
    """Raises DataError for a label that is no class, an empty target, or nothing for an encoder to read."""
    if example.label is not None:
        label_value(example, row, dataset)
    elif dataset.empty_targets is EmptyTargets.refuse:
        require_target(example, row)
    if model.kind is ModelKind.seq2seq and not example.input:
        problem = f"dataset.format={dataset.format} has no input here, and model.kind=seq2seq has to read one"
        raise DataError(problem, file=row.file, line=row.line)


def _changed_inputs(run: PlannedRun, model: ModelSource | Missing, inputs: Inputs) -> list[str]:
    """A finished run whose base or data are not what they were: refused, not skipped."""
    try:
        record = load_record(Path(inputs.paths.runs) / run.run_id)
    except ValueError:
        return []  # not finished: `harness.run_folder` says what is wrong with it, and it is redone
    if record is None:
        return []
    found: list[str] = []
    remedy = f"remove {Path(inputs.paths.runs) / run.run_id} to train it anew, or restore the old files"
    if isinstance(model, ModelSource) and model.kind == "folder":
        now = folder_fingerprint(Path(model.location))
        if now != record.base_fingerprint:
            found.append(
                f"run {run.run_id} ({run.label}) was trained on other weights of {run.spec.model.name}: "
                f"then {record.base_fingerprint[:12]}, now {now[:12]} in {model.location}; {remedy}"
            )
    if run.spec.dataset is not None and record.data_fingerprint is not None:
        local = inputs.fingerprint(run.spec.dataset)
        if local is not None and local[0] != record.data_fingerprint:
            found.append(
                f"run {run.run_id} ({run.label}) was trained on other rows of {run.spec.dataset.name}: "
                f"{', '.join(str(file) for file in local[1].files)} has changed; {remedy}"
            )
    return found


def _no_gpu(too_large: dict[str, int]) -> str:
    names = ", ".join(f"{name} ({count / 1e9:.1f}B parameters)" for name, count in too_large.items())
    return str(
        Missing(
            what=f"a CUDA GPU for {names}",
            looked_in=("the CUDA driver (libcuda.so.1) on this machine",),
            remedy="run on a machine with one, plan for one elsewhere with launch.device=cuda launch.dry_run=true, "
            "or accept a CPU with launch.device=cpu",
        )
    )


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
        longer = {run_id: "-".join([label, *(found[key] for key in varying)]) for run_id, found in details.items()}
        how_many = Counter(longer.values())
        begins = Counter((text, run_id[:4]) for run_id, text in longer.items())
        for run_id, text in longer.items():
            short = run_id[:4] if begins[text, run_id[:4]] == 1 else run_id
            labels[run_id] = text if how_many[text] == 1 else f"{text}-{short}"
    return labels
