"""Checks before anything starts that all that a plan needs is there and unchanged; reports all problems at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.dataset_rows import split_problem
from harness.config.schema import (
    Config,
    Device,
    DType,
    EvalSource,
    LaunchConfig,
    Launcher,
    ModelConfig,
    ModelKind,
    PathsConfig,
    ShapeConfig,
    TrainConfig,
)
from harness.data.render import folder_has_template, no_template_problem
from harness.data.selection.holdout import holdout_problem, num_training_rows
from harness.data.selection.rows import num_kept
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
from harness.models.architectures import architecture_note, architecture_problem
from harness.models.locate import (
    ModelSource,
    checkpoint_head_size,
    checkpoint_shape,
    folder_fingerprint,
    locate_model,
    num_parameters,
    tokenizer_fingerprint,
)
from harness.runs.compatibility import shape_problem
from harness.runs.record import load_record
from harness.runs.spec import RunSpec
from harness.training.schedule import num_steps
from sweeps.plan.evaluations import evaluation_problems
from sweeps.plan.jobs import PlannedRun
from sweeps.plan.once import Once
from sweeps.plan.rows import CheckedRows, checked_rows, local_fingerprint

GPU_PARAMETERS = 1_000_000_000  # models from here on are not trained on a CPU unless asked for

_MMLU, _EVAL_LOSS = "mmlu_every_steps", "eval_every_steps"
_BETWEEN_STEPS = ("snapshot_steps", _EVAL_LOSS, _MMLU)  # keys of train that leave something, and are no identity
_MMLU_KEYS = ("mmlu_questions", "mmlu_shots_file", "mmlu_num_shots", "mmlu_limit")


def preflight(
    runs: Sequence[PlannedRun], paths: PathsConfig, device: Device, num_examples: dict[str, int] | None = None
) -> list[str]:
    """One message for each thing that is missing or broken, before any work. Empty: all is there.

    Args:
        runs: planned.
        paths: where things are looked for.
        device: that was asked for.
        num_examples: takes run id -> the examples that a run trains on, where the rows could be counted.
    """
    once = Once()
    problems: dict[str, None] = {}
    too_large: dict[str, int] = {}
    for run in runs:
        model = run.spec.model
        source, shape_or_problem = once(_located, model, paths)
        if isinstance(source, Missing):
            problems[str(source)] = None
        if isinstance(shape_or_problem, str):
            problems[shape_or_problem] = None
            continue
        if isinstance(source, ModelSource) and source.kind == "folder":
            unfit = architecture_problem(Path(source.location), model.kind, run.spec.quant, run.spec.adapter)
            head_size = once(checkpoint_head_size, source)
            too_small = shape_problem(run.spec.adapter, model.kind, shape_or_problem, head_size)
            problems.update(dict.fromkeys(problem for problem in (unfit, too_small) if problem is not None))
        count = num_parameters(shape_or_problem)
        if device is Device.auto and count >= GPU_PARAMETERS:
            too_large[model.name] = count
        try:
            no_template = once(_without_template, source, model)
        except ValueError as error:
            problems[str(error)] = None
            continue
        if run.spec.dataset is not None:
            rows = once(checked_rows, model.kind, run.spec.dataset, paths)
            problems.update(dict.fromkeys([*rows.problems, *_rows_problems(run.spec, rows, no_template)]))
            if rows.num_examples is not None and num_examples is not None:
                num_examples[run.run_id] = rows.num_examples
        problems.update(dict.fromkeys(evaluation_problems(run, paths, once, no_template)))
        problems.update(dict.fromkeys(_changed_inputs(run, source, paths, once)))
    if too_large and planned_device(device) is Device.cpu:
        problems[_no_gpu(too_large)] = None
    return list(problems)


def _without_template(source: ModelSource | Missing, model: ModelConfig) -> str | None:
    """-> the model's name if it has no chat template; None if it has one, or its files are not on this machine yet."""
    if not isinstance(source, ModelSource) or source.kind != "folder":
        return None
    return None if folder_has_template(Path(source.location)) else model.name


def _rows_problems(spec: RunSpec, rows: CheckedRows, no_template: str | None) -> list[str]:
    """What of a run doesn't go with its rows: dialogues without a template, a warm-up beyond the last step."""
    assert spec.dataset is not None
    found: list[str | None] = []
    if rows.has_dialogues and no_template is not None and spec.dataset.chat_template is None:
        found.append(no_template_problem(no_template, spec.dataset.format))
    if spec.train is not None and spec.train.eval_source is EvalSource.split:
        found.append(split_problem(spec.dataset))
    if rows.num_examples and spec.train is not None:
        left = max(0, rows.num_examples - spec.train.original_eval_carve)
        found.append(holdout_problem(spec.train, left))
        try:
            num_steps(spec.train, num_kept(spec.dataset, max(1, num_training_rows(spec.train, rows.num_examples))))
        except ValueError as error:
            found.append(f"{spec.dataset.name}: {error}")
    return [problem for problem in found if problem is not None]


def cuda_problems(to_do: Sequence[PlannedRun], launch: LaunchConfig) -> list[str]:
    """What keeps this machine's GPUs from these runs: the driver, torch's build, a data type that they don't have.

    torch is asked in a process of its own, and only where the driver shows a device that may be used.
    """
    if launch.launcher is not Launcher.local or launch.device is Device.cpu:
        return []
    problems = [cuda_problem(torch_elsewhere)]
    if any(run.spec.train is not None and run.spec.quant.compute_dtype is DType.bfloat16 for run in to_do):
        problems.append(bfloat16_problem(cuda_hardware()))
    return [problem for problem in problems if problem is not None]


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


def architecture_notes(runs: Sequence[PlannedRun], paths: PathsConfig) -> list[str]:
    """What is said of architectures that nobody has tested here."""
    notes: dict[str, None] = {}
    for model in {repr(run.spec.model): run.spec.model for run in runs}.values():
        source = locate_model(model, paths)
        if model.kind is ModelKind.causal and isinstance(source, ModelSource) and source.kind == "folder":
            note = architecture_note(Path(source.location))
            notes.update({} if note is None else {f"{model.name}: {note}": None})
    return list(notes)


def storage_notes(runs: Sequence[PlannedRun]) -> list[str]:
    """What is said of runs whose layers take more memory than the bits that they count."""
    counted = sorted({run.spec.adapter.bits for run in runs if run.spec.adapter.bits is not None})
    if not counted:
        return []
    named = ", ".join(f"{bits:g}" for bits in counted)
    return [
        f"adapter.bits={named}: simulated; the adapted layers are rounded to their formats' numbers, and held in "
        "quant.compute_dtype, whose memory they take"
    ]


def unkept_notes(finished: Sequence[PlannedRun], folder: Path) -> list[str]:
    """What is said of finished runs that are asked for what only training leaves: a note for each key and value.

    Args:
        finished: runs that count as done, as these keys are no part of what makes a run.
        folder: of the run folders.
    """
    lacking: dict[str, list[PlannedRun]] = {}
    for run in finished:
        for asked in _unkept(run.spec.train, folder / run.run_id):
            lacking.setdefault(asked, []).append(run)
    return [
        f"{asked}: finished runs that trained without it are not trained again: {runs[0].run_id} ({runs[0].label})"
        f"{f' and {len(runs) - 1} more' if len(runs) > 1 else ''}; to have it, move their folders out of {folder} and "
        "give the command again"
        for asked, runs in lacking.items()
    ]


def _unkept(train: TrainConfig | None, run_folder: Path) -> Iterator[str]:
    """`key=value` of what is asked for between the steps of training, and wasn't when the run was trained."""
    if train is None or all(getattr(train, key) is None for key in _BETWEEN_STEPS):
        return
    record = load_record(run_folder)
    before: dict[str, Any] = {} if record is None else record.spec.get("train") or {}
    last = 0 if record is None else record.num_steps
    for key in _BETWEEN_STEPS:
        every, of = getattr(train, key), before.get(key)
        if every is None or not _leaves_more(key, every, last):
            continue
        changed = [name for name in _MMLU_KEYS if key == _MMLU and before.get(name) != getattr(train, name)]
        if not of or every % of or changed:
            yield " ".join(f"train.{name}={getattr(train, name)}" for name in (key, *changed))


def _leaves_more(key: str, every: int, last: int) -> bool:
    """Whether a key leaves anything that a run of `last` steps doesn't leave anyway. MMLU is scored at its end, too."""
    return key == _MMLU or (every < last if key == _EVAL_LOSS else every <= last)


def _located(model: ModelConfig, paths: PathsConfig) -> tuple[ModelSource | Missing, ShapeConfig | str]:
    """-> where a model's weights are, and its shape (by the checkpoint if it says so) or what is wrong with it"""
    source = locate_model(model, paths)
    try:
        shape = checkpoint_shape(source) if isinstance(source, ModelSource) else None
    except ValueError as error:
        return source, str(error)
    return source, shape or model.shape


def _changed_inputs(run: PlannedRun, model: ModelSource | Missing, paths: PathsConfig, once: Once) -> list[str]:
    """Refuses a finished run whose base or data have changed since, because to skip it would be wrong."""
    try:
        record = load_record(Path(paths.runs) / run.run_id)
    except (ValueError, OSError):
        return []  # not finished: `harness.runs.folder` says what is wrong with it, and it is redone
    if record is None or record.run_id != run.run_id:
        return []
    problems: list[str] = []
    remedy = "to train runs of its own beside it, or restore the old files"
    if isinstance(model, ModelSource) and model.kind == "folder":
        beside = f"say model.path={model.location} {remedy}"
        now = folder_fingerprint(Path(model.location))
        if now != record.base_fingerprint:
            problems.append(
                f"run {run.run_id} ({run.label}) was trained on other weights of {run.spec.model.name}: "
                f"then {record.base_fingerprint[:12]}, now {now[:12]} in {model.location}; {beside}"
            )
        tokenizer = None if record.tokenizer_fingerprint is None else tokenizer_fingerprint(Path(model.location))
        if tokenizer != record.tokenizer_fingerprint and not problems:
            problems.append(
                f"run {run.run_id} ({run.label}) was trained with another tokenizer or chat template than "
                f"{model.location} has now; {beside}"
            )
    if run.spec.dataset is not None and record.data_fingerprint is not None:
        local = once(local_fingerprint, run.spec.dataset, paths)
        if local is not None and local[0] != record.data_fingerprint:
            problems.append(
                f"run {run.run_id} ({run.label}) was trained on other rows of {run.spec.dataset.name}: "
                f"{', '.join(str(file) for file in local[1].files)} has changed; say dataset.path=... {remedy}"
            )
    return problems


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
