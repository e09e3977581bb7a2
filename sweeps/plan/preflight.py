"""Is all that a plan needs there, and is it what it was? Asked before anything starts, all at once. No torch."""

from collections.abc import Sequence
from pathlib import Path

from eval.benchmarks.dataset_rows import evaluation_rows
from eval.benchmarks.mmlu.questions import HUB, Question, Role, choose_shots, load_questions, select
from eval.benchmarks.task_scores import missing_lm_eval
from eval.benchmarks.texts import source_problem
from harness.config.schema import (
    Config,
    DatasetConfig,
    Device,
    DType,
    EmptyTargets,
    EvalConfig,
    LaunchConfig,
    Launcher,
    ModelConfig,
    ModelKind,
    PathsConfig,
    ShapeConfig,
    TrainConfig,
)
from harness.data.formats import Example
from harness.data.labels import label_value
from harness.data.rows import DataError
from harness.data.source import (
    DataSource,
    SourceRow,
    fingerprint,
    locate_dataset,
    read_rows,
    require_target,
    row_examples,
)
from harness.devices.hardware import (
    auto_compute_dtype,
    bfloat16_problem,
    cuda_hardware,
    cuda_problem,
    driver_words,
    launch_device,
    named_hardware,
    planned_device,
    torch_elsewhere,
)
from harness.files.hub import Missing
from harness.models.locate import ModelSource, checkpoint_shape, folder_fingerprint, locate_model, num_parameters
from harness.runs.record import load_record
from harness.runs.spec import RunSpec
from sweeps.plan.jobs import (
    ANSWERS,
    DATASET_EVALS,
    EVAL_NAMES,
    MMLU,
    MMLU_SETS,
    PERPLEXITY,
    TASKS,
    PlannedRun,
    data_file,
)

GPU_PARAMETERS = 1_000_000_000  # models from here on are not trained on a CPU unless asked for
CHECKED_ROWS = 100_000  # rows of a local file that are read before anything starts


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


def cuda_problems(to_do: Sequence[PlannedRun], launch: LaunchConfig) -> list[str]:
    """What keeps this machine's GPUs from these runs: the driver, torch's build, a data type that they don't have.

    torch is asked in a process of its own, and only where the driver shows a device that may be used.
    """
    if launch.launcher is not Launcher.local or launch.device is Device.cpu:
        return []
    found = [cuda_problem(torch_elsewhere)]
    if any(run.spec.train is not None and run.spec.quant.compute_dtype is DType.bfloat16 for run in to_do):
        found.append(bfloat16_problem(cuda_hardware()))
    return [problem for problem in found if problem is not None]


def device_notes(configs: Sequence[Config]) -> list[str]:
    """What `quant.compute_dtype=auto` means for these runs, unless it is bfloat16 on GPUs that are seen here."""
    launch = configs[0].launch
    if launch_device(launch) is Device.cpu or all(config.quant.compute_dtype is not DType.auto for config in configs):
        return []
    dtype, here = auto_compute_dtype(launch), cuda_hardware() if launch.launcher is Launcher.local else ()
    if not here:
        return [
            "quant.compute_dtype=auto is planned as bfloat16, as no GPU is seen from here; for cards below compute "
            "capability 8.0 (T4, V100) say quant.compute_dtype=float16"
        ]
    if dtype is DType.bfloat16:
        return []
    scaled = " with loss scaling" if dtype is DType.float16 else ""
    return [f"quant.compute_dtype=auto is {dtype.value}{scaled} here: {named_hardware(here)}, bfloat16 needs 8.0"]


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
    if ANSWERS in evals.after_training:
        from eval.answers.questions import (
            load_open_questions,  # knows tokenizers: half a second that others needn't wait
        )

        try:
            load_open_questions(evals.answers_questions, evals.answers_limit)
        except ValueError as error:
            problems.append(f"eval.answers_questions: {error}")
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
        if name in (MMLU, ANSWERS) and spec.model.kind is not ModelKind.causal:
            problems.append(f"eval.after_training: {name} scores model.kind=causal, not {spec.model.kind.value}")
        if kind is None:
            continue
        if spec.model.kind is not kind or spec.dataset is None:
            found = "adapter=none" if spec.dataset is None else f"model.kind={spec.model.kind.value}"
            problems.append(
                f"eval.after_training: {name} scores finetuned runs of model.kind={kind.value}, not {found}"
            )
            continue
        try:
            rows = evaluation_rows(spec.dataset, data_file(run.evals, name), None, paths)
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
        return []  # not finished: `harness.runs.folder` says what is wrong with it, and it is redone
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
            looked_in=(f"this machine: {driver_words()}",),
            remedy="run on a machine with one, plan for one elsewhere with launch.device=cuda launch.dry_run=true, "
            "or accept a CPU with launch.device=cpu",
        )
    )
