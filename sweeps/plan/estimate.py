"""Estimates what a planned run needs: memory, tokens, time and disk; and whether it fits.

Memory is arithmetic (`harness.memory`), and so is disk. Time and target tokens come from the records of runs of the
same model, data type, method and dataset on the same kind of device; without one time is that of arithmetic for a GPU
of the list in `harness.devices.gpus`, else unknown, and says why. `sweeps.plan.evaluations` times evaluations so, too.
"""

import json
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.config.schema import (
    SHORTEST_ROW_TOKENS,
    WHOLE_METHODS,
    AdapterMethod,
    Device,
    ModelConfig,
    TrainConfig,
)
from harness.data.selection.holdout import num_training_rows
from harness.data.selection.rows import num_kept
from harness.devices.gpus import peak_flops
from harness.devices.hardware import Hardware, hardware
from harness.memory.floor import floor_run
from harness.memory.predict import MemoryPrediction
from harness.memory.row_length import row_tokens, usable_bytes
from harness.memory.runs import longest_sequence, memory_key, predict_run
from harness.models.locate import num_parameters
from harness.runs.compatibility import RESIDUAL_METHODS
from harness.runs.record import RECORD_FILE, SCHEMA_VERSION
from harness.runs.spec import RunSpec
from harness.training.schedule import num_steps

NO_SPEED = "no finished run of this model, data type, method and dataset on this device"
CPU = "cpu"  # as `harness.devices.hardware.hardware` calls it
NO_ROWS = "its length is given in epochs, and its rows are neither on this machine nor in a finished run's record"
NO_DEVICE = "the device isn't known here"
RECORDS, ARITHMETIC = "records", "arithmetic"  # what a time comes from
UTILISATION = 0.3  # of a GPU's peak, in arithmetic: four bits are unpacked before every product
Plain = Mapping[str, Any]  # of `RunSpec.to_dict()`
_DATA_KEYS = (
    *("hub_id", "subset", "split", "revision", "format", "max_rows"),
    *("source_max_tokens", "target_max_tokens", "train_on_source", "empty_targets"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The needs of one run. None means unknown, never zero."""

    num_steps: int | None  # of the optimizer; where rows aren't counted, at most
    row_tokens: int | None  # of a forward pass, on the smallest device; None where nothing is trained
    memory_bytes: int | None  # the peak with such rows, all of the optimizer's state included
    least_memory_bytes: int | None  # one example a row, activations recomputed (T5: none), state paged out
    max_tokens: int | None  # seen in training, inputs and outputs, if every example is as long as it may be
    eval_tokens: int = 0  # of held-out rows, forward alone, if each is as long as it may be; in no other number
    held_out_seconds: float | None = 0.0  # of these passes, at a third of a training example's time; None: unknown
    target_tokens: int | None  # that carry loss, at the mean of recorded runs on this dataset
    seconds: float | None  # of training, at the median of recorded runs, else by arithmetic
    seconds_from: str | None  # "records", or "arithmetic", which is an upper bound
    seconds_unknown: str | None  # why `seconds` is None
    eval_seconds: float | None  # of its evaluations, at the median of earlier ones, else by arithmetic
    eval_seconds_from: str | None  # as `seconds_from`; "arithmetic" where one is; None: one of them is unknown
    gpu_hours: float | None  # of training and evaluations that are known; None: nothing is, or no GPU is used
    disk_bytes: int | None  # what stays: the adapter, or the whole model after full finetuning
    checkpoint_bytes: int | None  # beside that while it trains
    too_large_for: tuple[str, ...]  # devices whose memory is below even that
    tight_on: tuple[str, ...]  # devices where rows have to be shorter, or activations recomputed
    paged_bytes: dict[str, int]  # device -> optimizer state that it pages to the host; those that page nothing left out


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTime:
    """The time of a run's evaluations."""

    seconds: float | None  # None: that of one of them is not known
    source: str | None  # RECORDS or ARITHMETIC; None where `seconds` is

    def with_another(self, other: "EvaluationTime") -> "EvaluationTime":
        """The time of both."""
        if self.seconds is None or other.seconds is None:
            return EvaluationTime(seconds=None, source=None)
        source = ARITHMETIC if ARITHMETIC in (self.source, other.source) else RECORDS
        return EvaluationTime(seconds=self.seconds + other.seconds, source=source)


NO_EVALUATION = EvaluationTime(seconds=0.0, source=RECORDS)


@dataclass(slots=True)
class Speeds:
    """Speeds and lengths of finished runs, by which runs like them are estimated."""

    seconds_per_example: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by device and likeness
    targets_per_example: dict[str, list[float]] = field(default_factory=dict)  # by dataset and vocabulary
    num_examples: dict[str, int] = field(default_factory=dict)  # by dataset and vocabulary
    devices: set[str] = field(default_factory=set)


def read_speeds(runs: Path) -> Speeds:
    """Reads every record in the folder of runs; skips damaged ones."""
    found = Speeds()
    for record in _records(runs):
        spec, steps = record["spec"], record["num_steps"]
        if not spec.get("train") or not spec.get("dataset") or not steps:
            continue
        examples = steps * spec["train"]["batch_size"]
        data, device = _data_key(spec), str(record["device"])
        found.devices.add(device)
        found.seconds_per_example.setdefault((device, _likeness(spec)), []).append(record["train_seconds"] / examples)
        found.targets_per_example.setdefault(data, []).append(record["target_tokens"] / examples)
        found.num_examples[data] = record["num_examples"]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """The predicted memory of a run; None where it can't be predicted."""

    row_tokens: int | None  # on the smallest device
    with_row: MemoryPrediction | None
    shortest: MemoryPrediction | None  # with the shortest automatic row, or the one that the run names
    least: MemoryPrediction | None  # one example a row, activations recomputed


def estimate_all(
    specs: Sequence[RunSpec],
    runs: Path,
    device: Device,
    others: Sequence[Hardware] = (),
    num_shards: int = 1,
    max_group_size: int = 1,
    num_workers: int = 1,
    num_examples: Mapping[str, int] | None = None,
    num_devices: int = 1,
    evaluations: Mapping[str, EvaluationTime] = MappingProxyType({}),
) -> dict[str, Estimate]:
    """run_id -> its estimate.

    Args:
        runs: the folder of runs, whose records tell speeds.
        others: devices to plan for instead of this machine's.
        num_shards: devices that share a base, each of which needs as much.
        max_group_size: runs that share a pass, whose adapters leave less room for its rows.
        num_workers: that share a device.
        num_examples: run_id -> examples of its dataset, where the plan has counted them.
        num_devices: that share every run.
        evaluations: run_id -> the time of its evaluations; without an entry it has none.
    """
    speeds = read_speeds(runs)
    targets = tuple(others) or hardware(device)
    sizes = Counter(spec.group for spec in specs)
    memo: dict[tuple[str, int], _Memory] = {}
    found: dict[str, Estimate] = {}
    for spec in specs:
        num_members = min(sizes[spec.group], max_group_size)
        if (key := (memory_key(spec), num_members)) not in memo:
            memo[key] = _memory(spec, num_members, num_shards, targets, num_workers)
        rows = (num_examples or {}).get(spec.run_id)
        evaluation = evaluations.get(spec.run_id, NO_EVALUATION)
        found[spec.run_id] = _estimate(spec, memo[key], speeds, targets, rows, evaluation, num_devices)
    return found


def _memory(spec: RunSpec, num_members: int, num_shards: int, targets: Sequence[Hardware], num_workers: int) -> _Memory:
    least = predict_run(_frugal(spec), num_shards) or floor_run(spec)
    if spec.train is None:
        alone = predict_run(spec, num_shards)
        return _Memory(row_tokens=None, with_row=alone, shortest=alone, least=least)
    gpus = [target.total_bytes for target in targets if target.name != CPU]
    usable = usable_bytes(min(gpus), num_workers) if gpus else None
    tokens = row_tokens([spec] * num_members, Device.cuda if gpus else Device.cpu, usable, num_shards)
    with_row = replace(spec, train=replace(spec.train, max_microbatch_tokens=tokens))
    return _Memory(
        row_tokens=tokens,
        with_row=predict_run(with_row, num_shards),
        shortest=predict_run(spec, num_shards),
        least=least,
    )


def free_disk_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be on."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(there).free


def _estimate(
    spec: RunSpec,
    memory: _Memory,
    speeds: Speeds,
    targets: Sequence[Hardware],
    rows: int | None,
    evaluation: EvaluationTime,
    num_devices: int,
) -> Estimate:
    least, shortest = memory.least, memory.shortest
    disk, checkpoints = _disk_bytes(spec, least)
    plain = spec.to_dict()
    steps = _num_steps(spec, speeds.num_examples.get(_data_key(plain)) if rows is None else rows)
    examples = steps if not steps or spec.train is None else steps * (spec.train.batch_size or 0)
    per_example = speeds.targets_per_example.get(_data_key(plain))
    max_tokens = None if examples is None else examples * longest_sequence(spec)
    seconds, why = (0.0, None) if spec.train is None else _seconds(_likeness(plain), examples, speeds, targets)
    source = None if seconds is None else RECORDS
    names = {target.name for target in targets}
    if seconds is None and why == NO_SPEED and max_tokens is not None and len(names) == 1:
        seconds = _training_seconds(spec, max_tokens, targets[0].name)
        why, source = (why, None) if seconds is None else (None, ARITHMETIC)
    measured = 0 if spec.train is None else spec.train.eval_rows * num_measurements(spec.train, steps)
    too_large = [target.name for target in targets if least is not None and not _fits(least, target)]
    tight = [target.name for target in targets if shortest is not None and not _fits(shortest, target)]
    paged = {} if shortest is None else {target.name: _paged_bytes(shortest, target) for target in targets}
    return Estimate(
        num_steps=steps,
        row_tokens=memory.row_tokens,
        memory_bytes=None if memory.with_row is None else memory.with_row.total_bytes,
        least_memory_bytes=None if least is None else least.resident_bytes,
        max_tokens=max_tokens,
        eval_tokens=measured * longest_sequence(spec),
        held_out_seconds=_held_out_seconds(measured, examples, seconds),
        target_tokens=_target_tokens(examples, per_example),
        seconds=seconds,
        seconds_from=source,
        seconds_unknown=why,
        eval_seconds=evaluation.seconds,
        eval_seconds_from=evaluation.source,
        gpu_hours=_gpu_hours(seconds, evaluation.seconds, num_devices, targets),
        disk_bytes=disk,
        checkpoint_bytes=checkpoints,
        too_large_for=tuple(dict.fromkeys(too_large)),
        tight_on=tuple(dict.fromkeys(name for name in tight if name not in too_large)),
        paged_bytes={name: size for name, size in paged.items() if size and name not in too_large},
    )


def _disk_bytes(spec: RunSpec, least: MemoryPrediction | None) -> tuple[int | None, int | None]:
    """-> bytes of what stays, and of what is beside it while the run trains: checkpoints, and a start that is kept"""
    saves_more = spec.adapter.method in (AdapterMethod.hft, AdapterMethod.s2ft)  # than it trains
    if least is None or saves_more:
        return None, None
    trained = least.gradient_bytes  # a gradient for each number
    start = trained if spec.adapter.method in RESIDUAL_METHODS else 0  # is saved beside what is trained
    moments = least.optimizer_bytes + least.paged_optimizer_bytes
    keep = spec.train.keep_checkpoints if spec.train is not None else 0
    return trained + start, keep * (trained + moments) + 2 * start


def _training_seconds(spec: RunSpec, tokens: int, device: str) -> float | None:
    """Seconds of training on so many tokens by arithmetic; None where the device or the model's shape is not known.

    Two operations a weight and token forward, as many backward, and as many again for the weights' own gradients and
    for activations that are recomputed (Kaplan et al., arXiv 2001.08361, section 2.1).
    """
    forward = forward_seconds(spec.model, tokens, device)
    if forward is None or spec.train is None:
        return None
    if spec.adapter.method is AdapterMethod.qst:
        return forward  # what comes beside the base is a small part of it
    return forward * (2 + (spec.adapter.method in WHOLE_METHODS) + spec.train.gradient_checkpointing)


def forward_seconds(model: ModelConfig, tokens: int, device: str) -> float | None:
    """Seconds of a forward pass over so many tokens by arithmetic, two operations a weight and token."""
    peak, weights = peak_flops(device), num_parameters(model.shape)
    return None if peak is None or not weights else 2 * weights * tokens / (peak * UTILISATION)


def num_measurements(train: TrainConfig, num_steps: int | None) -> int:
    """How often a run's held-out loss is measured; once where its steps aren't known."""
    if not train.eval_rows:
        return 0
    if not num_steps or train.eval_every_steps is None:
        return 1
    return math.ceil(num_steps / train.eval_every_steps)


def _held_out_seconds(measured: int, examples: int | None, seconds: float | None) -> float | None:
    """Seconds of measuring the loss of so many rows in all: forward passes are a third of a training example's work."""
    if not measured:
        return 0.0
    return seconds / examples * measured / 3 if seconds and examples else None


def _gpu_hours(
    seconds: float | None, eval_seconds: float | None, num_devices: int, targets: Sequence[Hardware]
) -> float | None:
    if seconds is None or any(target.name == CPU for target in targets):
        return None
    return (seconds + (eval_seconds or 0.0)) * num_devices / 3600


def _target_tokens(examples: int | None, per_example: Sequence[float] | None) -> int | None:
    if not examples:
        return examples
    return round(examples * statistics.fmean(per_example)) if per_example else None


def _frugal(spec: RunSpec) -> RunSpec:
    """The spec as it trains when memory is short: gradient checkpointing, and one example in a row."""
    if spec.train is None:
        return spec
    return replace(spec, train=replace(spec.train, gradient_checkpointing=True, max_microbatch_tokens=1))


def _fits(memory: MemoryPrediction, target: Hardware) -> bool:
    """Whether a run fits the memory. Paged optimizer state may leave a GPU, but not a CPU's memory."""
    return memory.total_bytes <= target.total_bytes if target.name == CPU else memory.fits(target.total_bytes)


def _paged_bytes(memory: MemoryPrediction, target: Hardware) -> int:
    return 0 if target.name == CPU else memory.paged_bytes(max(0, usable_bytes(target.total_bytes)))


def _seconds(
    likeness: str, examples: int | None, speeds: Speeds, targets: Sequence[Hardware]
) -> tuple[float | None, str | None]:
    if examples is None:
        return None, NO_ROWS
    names = {target.name for target in targets} or speeds.devices - {"cpu"}
    if len(names) != 1:
        return None, NO_DEVICE
    recorded = speeds.seconds_per_example.get((names.pop(), likeness))
    return (examples * statistics.median(recorded), None) if recorded else (None, NO_SPEED)


def _num_steps(spec: RunSpec, rows: int | None) -> int | None:
    """Steps of a run, at most those of `max_steps` where the rows are unknown; None where only rows limit it."""
    if spec.train is None:
        return 0
    if not rows:
        return spec.train.max_steps
    left = max(1, num_training_rows(spec.train, rows))
    left = left if spec.dataset is None else num_kept(spec.dataset, left)
    return num_steps(replace(spec.train, warmup_steps=0), left)  # `preflight` reports a warm-up that is too long


def _likeness(spec: Plain) -> str:
    """A key of what decides the time for an example: shape, data type, method, layout of batches, data."""
    model, train = spec["model"], spec.get("train") or {}
    shape = model["shape"] if model["shape"]["num_layers"] else [model["hub_id"], model["revision"]]
    row = train.get("max_microbatch_tokens") or SHORTEST_ROW_TOKENS  # what runs without the key were recorded with
    layout = [train.get("mode"), row, train.get("gradient_checkpointing")]
    quant = [spec["quant"].get(key) for key in ("method", "double_quant", "block_size", "compute_dtype")]
    return json.dumps([shape, model["kind"], quant, spec["adapter"]["method"], layout, _data_key(spec)])


def _data_key(spec: Plain) -> str:
    data = spec.get("dataset") or {}
    return json.dumps([*(data.get(key) for key in _DATA_KEYS), spec.get("data_sha256"), spec["model"]["shape"]])


def _records(runs: Path) -> Iterator[Mapping[str, Any]]:
    for path in runs.glob(f"*/{RECORD_FILE}"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # `harness.runs.folder` says so where that run is planned
        if isinstance(values, dict) and values.get("schema_version") == SCHEMA_VERSION:
            yield values  # of our own schema: its keys are there
