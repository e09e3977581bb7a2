"""What accelerators this machine has, and which of several processes this is; no torch, so that planning needs none."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from harness.schema import Device, LaunchConfig, Launcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One CUDA device of this machine."""

    visible_as: str  # what CUDA_VISIBLE_DEVICES calls it
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """Something that a run is trained on."""

    name: str  # as in `RunRecord.device`
    total_bytes: int


@cache
def num_cuda_devices() -> int:
    """CUDA devices that the driver shows to this process; 0 without a driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def cuda_hardware() -> tuple[Hardware, ...]:
    """Name and memory of each CUDA device, in the driver's order."""
    driver = _driver()
    found: list[Hardware] = []
    for ordinal in range(num_cuda_devices()):
        device, name, total = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
        assert driver is not None
        if driver.cuDeviceGet(ctypes.byref(device), ordinal) != 0:
            continue
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
        found.append(Hardware(name.value.decode(), total.value))
    return tuple(found)


def hardware(device: Device) -> tuple[Hardware, ...]:
    """What a plan for this device runs on here; nothing when a login node plans for GPUs that it doesn't have."""
    if planned_device(device) is Device.cuda:
        return cuda_hardware()
    return (Hardware("cpu", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),)


def accelerators() -> list[Accelerator]:
    """The CUDA devices that this process may use, in the driver's order, by the names that it was given for them."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    found = cuda_hardware()
    names = names or [str(index) for index in range(len(found))]
    return [Accelerator(visible_as=name, total_bytes=one.total_bytes) for name, one in zip(names, found, strict=False)]


def planned_device(wanted: Device) -> Device:
    """auto -> cuda where there is one; cpu and cuda stay (a login node may plan for a GPU node)."""
    if wanted is not Device.auto:
        return wanted
    return Device.cuda if num_cuda_devices() else Device.cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of the processes that train one group together this is."""

    rank: int
    size: int
    local_rank: int  # among those of this machine


def place_of_environment(environment: Mapping[str, str] = os.environ) -> Place | None:
    """What torchrun says; None where it started nothing, or one process only."""
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return None
    rank = int(environment["RANK"])
    return Place(rank=rank, size=size, local_rank=int(environment.get("LOCAL_RANK", str(rank))))


def launch_device(launch: LaunchConfig) -> Device:
    """Where a launch's runs are computed: on a cluster what its workers ask for, not what this login node has."""
    if launch.launcher is Launcher.local or launch.device is not Device.auto:
        return planned_device(launch.device)
    return Device.cuda if launch.gpus_per_worker else Device.cpu


@cache
def _driver() -> ctypes.CDLL | None:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None
