"""Scores a run's adapters of several steps on MMLU, over one loaded base.

    python -m eval mmlu --run RUN_ID --checkpoints all|last|100,200 --questions FILE --shots FILE --out DIR

Needs a run trained with `train.snapshot_steps=N`, which keeps `runs/<run_id>/adapters/step-...` beside the final
`adapter/`. As many adapters as fit into half the free memory are members of one bank at a time. Writes
`checkpoints.json` (accuracy by step) and an `mmlu.json` a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from eval.benchmarks.benchmark import cell
from eval.benchmarks.mmlu.results import MmluResult
from eval.benchmarks.mmlu.score import score_mmlu
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.systems import SNAPSHOTS, System, loaded, read_by_template, require_causal, serving_method
from harness.banks.load import LoadedBase
from harness.config.schema import SHARED_BASE_METHODS, AdapterMethod, Device, PathsConfig
from harness.devices.memory import free_bytes
from harness.devices.torch_device import resolve_device
from harness.files.atomic import write_json
from harness.progress import Progress, part_of
from harness.runs.estimate import Estimate, Interval
from harness.runs.folder import stored_spec
from harness.runs.record import CONFIG_FILE, load_record

SCHEMA_VERSION = 1
CHECKPOINTS_FILE = "checkpoints.json"
_NAME = "step-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The adapter of a run after some number of steps."""

    step: int
    folder: Path  # in PEFT's format


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScore:
    """The accuracies of a run's adapter at one step."""

    step: int
    accuracy_macro: float
    accuracy_macro_ci95: Interval
    accuracy_micro: float
    accuracy_micro_ci95: Interval
    n: int
    model_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsResult:
    """MMLU of one run by step."""

    run_id: str
    system: str
    protocol: str
    settings_sha256: str
    steps: tuple[StepScore, ...]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def snapshot_folder(run_folder: Path, step: int) -> Path:
    """Where a run keeps its adapter of a step."""
    return run_folder / SNAPSHOTS / f"{_NAME}{step:08d}"


def find_snapshots(run_folder: Path, which: str) -> list[Snapshot]:
    """The kept adapters of a run, and its final one, by step.

    Args:
        which: "all", "last", or steps with commas.

    Raises:
        ValueError: no such run, none kept, or a step that wasn't; says which there are.
    """
    if not (run_folder / CONFIG_FILE).is_file():
        raise ValueError(f"{run_folder}: no such run")
    folders = {int(path.name.removeprefix(_NAME)): path for path in (run_folder / SNAPSHOTS).glob(f"{_NAME}[0-9]*")}
    record = load_record(run_folder)
    if record is not None:
        folders[record.num_steps] = run_folder / "adapter"
    if not folders:
        raise ValueError(f"{run_folder}: it isn't done and keeps no adapter; train with train.snapshot_steps=N")
    if which == "all":
        wanted = sorted(folders)
    elif which == "last":
        wanted = [max(folders)]
    else:
        wanted = _steps(which)
        if missing := [step for step in wanted if step not in folders]:
            raise ValueError(
                f"--checkpoints {which}: {run_folder.name} keeps no adapter of step {', '.join(map(str, missing))}; "
                f"there are {', '.join(map(str, sorted(folders)))} (train.snapshot_steps=N keeps one every N steps)"
            )
    return [Snapshot(step=step, folder=folders[step]) for step in wanted]


def score_checkpoints(
    run_folder: Path, which: str, settings: MmluSettings, out: Path, paths: PathsConfig, on_progress: Progress
) -> CheckpointsResult:
    """Scores a run's adapters over one loaded base and writes `checkpoints.json`.

    Raises:
        ValueError: as `find_snapshots`, or a run that isn't a causal model with an adapter.
    """
    snapshots = find_snapshots(run_folder, which)
    spec = stored_spec(run_folder)
    if spec.adapter.method is AdapterMethod.none:
        raise ValueError(f"{run_folder.name}: an untouched base has no steps; leave --checkpoints out")
    record = load_record(run_folder)
    name = spec.label if record is None else record.label
    require_causal(name, spec.model.kind)
    base_only = System(name=name, run_id=run_folder.name, spec=spec, folder=run_folder)
    scores: list[StepScore] = []
    results: dict[int, MmluResult] = {}
    with loaded([base_only], paths, resolve_device(Device.auto), with_adapters=False) as loaded_base:
        base = read_by_template(loaded_base, spec.own_template if settings.chat else None)
        for together in _in_memory(base, snapshots, serving_method(base_only) in SHARED_BASE_METHODS):
            progress = part_of(on_progress, len(results), len(together), len(snapshots))
            results |= _score(base, together, settings, out, progress)
    for step, result in results.items():
        write_json(out / f"{_NAME}{step}" / "mmlu.json", result.to_json())
        scores.append(_step_score(step, result))
    first = next(iter(results.values()))
    checkpoints = CheckpointsResult(
        run_id=run_folder.name,
        system=name,
        protocol=first.protocol,
        settings_sha256=first.settings_sha256,
        steps=tuple(scores),
    )
    write_json(out / CHECKPOINTS_FILE, checkpoints.to_json())
    return checkpoints


def checkpoints_table(result: CheckpointsResult) -> Table:
    """A row a step, for a person."""
    table = Table(title=f"MMLU of {result.system} by step", title_justify="left", caption="95 % intervals")
    for column in ("step", "mean over subjects", "mean over questions", "n"):
        table.add_column(column, justify="right")
    for score in result.steps:
        macro = cell(Estimate.of(score.accuracy_macro, score.accuracy_macro_ci95), 3)
        micro = cell(Estimate.of(score.accuracy_micro, score.accuracy_micro_ci95), 3)
        table.add_row(str(score.step), macro, micro, str(score.n))
    return table


def _score(
    base: LoadedBase, together: Sequence[Snapshot], settings: MmluSettings, out: Path, on_progress: Progress
) -> dict[int, MmluResult]:
    names = {f"{_NAME}{snapshot.step}": snapshot for snapshot in together}
    try:
        for name, snapshot in names.items():
            base.bank.load_member(name, snapshot.folder)
        members: dict[str, str | None] = {name: name for name in names}
        results = score_mmlu(base, members, settings, on_progress, out / "partial")
    finally:
        for name in names:
            if name in base.bank.configs:
                base.bank.remove_member(name)
    return {snapshot.step: results[name] for name, snapshot in names.items()}


def _in_memory(base: LoadedBase, snapshots: Sequence[Snapshot], shares_base: bool) -> Iterator[Sequence[Snapshot]]:
    """Groups snapshots that fit into half the free memory together; single ones if each owns its base."""
    largest = max(sum(file.stat().st_size for file in s.folder.glob("*.safetensors")) for s in snapshots)
    size = max(1, min(len(snapshots), free_bytes(base.bank.device) // 2 // max(1, largest))) if shares_base else 1
    for start in range(0, len(snapshots), size):
        yield snapshots[start : start + size]


def _steps(which: str) -> list[int]:
    try:
        return sorted({int(part) for part in which.split(",")})
    except ValueError:
        raise ValueError(f"--checkpoints {which}: expected all, last, or steps with commas, as 100,200") from None


def _step_score(step: int, result: MmluResult) -> StepScore:
    return StepScore(
        step=step,
        accuracy_macro=result.accuracy_macro,
        accuracy_macro_ci95=result.accuracy_macro_ci95,
        accuracy_micro=result.accuracy_micro,
        accuracy_micro_ci95=result.accuracy_micro_ci95,
        n=result.n,
        model_sha256=result.model_sha256,
    )
