"""Decides how many worker processes this machine takes, and which device each gets.

One group of runs is on a GPU at a time; several where the largest predicted peak leaves room for more
(`harness.memory`, all of the optimizer's state included, so that nothing is paged for a neighbour's sake).
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.schema import Device, LaunchConfig, Launcher
from harness.devices.hardware import Accelerator, accelerators, cuda_hardware, driver_words, launch_device
from harness.memory.row_length import (
    COMFORTABLE_ROW_TOKENS,
    CONTEXT_BYTES,
    USABLE,
    group_bytes,
    row_tokens,
    usable_bytes,
)
from harness.memory.runs import memory_key
from sweeps.plan.jobs import PlannedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How much there is to train, for a launcher to know how many workers fit."""

    num_passes: int  # over a frozen base, each with as many runs as may share it
    peak_bytes: int | None  # predicted for the largest of them; None where the predictor doesn't reach


def work_of(runs: Sequence[PlannedRun], launch: LaunchConfig) -> Work:
    """What runs that are to be trained ask of a machine, each of their devices. Args: runs: those not done yet.

    A pass counts with rows of `COMFORTABLE_ROW_TOKENS`, or the longest that fits: a worker more on a GPU is worth
    less than long rows.
    """
    num_shards = launch.devices_per_run if launch.shard_base else 1
    sizes = Counter(run.spec.group for run in runs)
    device, usable = planned_room(launch)
    peaks: dict[tuple[str, int], int | None] = {}
    for run in runs:
        num_members = min(sizes[run.spec.group], launch.max_group_size)
        if (key := (memory_key(run.spec), num_members)) not in peaks:
            group = [run.spec] * num_members
            tokens = row_tokens(group, device, usable, num_shards, COMFORTABLE_ROW_TOKENS)
            peaks[key] = group_bytes(group, tokens, num_shards)
    known = [peak for peak in peaks.values() if peak is not None]
    return Work(
        num_passes=sum(math.ceil(size / launch.max_group_size) for size in sizes.values()),
        peak_bytes=max(known) if known and len(known) == len(peaks) else None,
    )


def planned_room(launch: LaunchConfig, num_workers: int = 1) -> tuple[Device, int | None]:
    """-> where a launch computes, and what a worker has for tensors on this machine's smallest GPU; None: not known."""
    device = launch_device(launch)
    here = cuda_hardware() if device is Device.cuda and launch.launcher is Launcher.local else ()
    return device, usable_bytes(min(gpu.total_bytes for gpu in here), num_workers) if here else None


def workers_on_device(launch: LaunchConfig, work: Work) -> int:
    """How many workers a plan for this machine puts on one GPU, where it puts several on any; else 1."""
    device, usable = planned_room(launch)
    if device is not Device.cuda or usable is None:
        return 1
    return max(Counter(local_slots(launch, work)).values())


def local_slots(launch: LaunchConfig, work: Work | None) -> list[str | None]:
    """A slot a worker: the names of its CUDA devices, None for the CPU. Raises ValueError for a missing device."""
    devices = [] if launch.device is Device.cpu else accelerators()
    if launch.device is Device.cuda and not devices:
        raise ValueError(
            f"launch.device=cuda: the CUDA driver shows no device here ({driver_words()}); use launch.device=cpu or "
            "auto"
        )
    if devices and launch.devices_per_run > len(devices):
        raise ValueError(
            f"launch.devices_per_run={launch.devices_per_run}: this machine shows {len(devices)} CUDA devices"
        )
    return worker_slots(launch, together(devices, launch.devices_per_run), os.cpu_count() or 1, work)


def together(devices: Sequence[Accelerator], num_devices: int) -> list[Accelerator]:
    """Groups devices by `num_devices`, each group as large as its smallest device; left-over devices stay idle."""
    starts = range(0, len(devices) - num_devices + 1, num_devices)
    groups = [devices[start : start + num_devices] for start in starts]
    return [
        Accelerator(
            visible_as=",".join(device.visible_as for device in group),
            total_bytes=min(device.total_bytes for device in group),
        )
        for group in groups
    ]


def worker_slots(
    launch: LaunchConfig, devices: Sequence[Accelerator], num_cores: int, work: Work | None
) -> list[str | None]:
    """Slots on these devices, one on each before a second on any; `launch.workers` is the most there are.

    Args:
        devices: empty for the CPU.
        num_cores: a worker without a core of its own only waits.
        work: None where nothing is known of it: one worker a device.
    """
    if not devices:
        return [None] * (launch.workers or 1)
    per_device = [_workers_on(device, launch, max(1, num_cores // len(devices)), work) for device in devices]
    rounds = range(max(per_device))
    slots: list[str | None] = [
        device.visible_as for turn in rounds for device, count in zip(devices, per_device, strict=True) if turn < count
    ]
    return slots[: min(launch.workers or len(slots), work.num_passes if work and work.num_passes else len(slots))]


def _workers_on(device: Accelerator, launch: LaunchConfig, num_cores: int, work: Work | None) -> int:
    if launch.workers_per_device is not None:
        return launch.workers_per_device
    if work is None or work.peak_bytes is None:
        return 1
    room = int(USABLE * device.total_bytes) // (work.peak_bytes + CONTEXT_BYTES)
    return max(1, min(room, num_cores))
