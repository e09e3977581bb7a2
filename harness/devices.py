"""What accelerators this machine has, and which of several processes this is; no torch, so that planning needs none."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from harness.schema import Device


@cache
def num_cuda_devices() -> int:
    """CUDA devices that the driver shows to this process; 0 without a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


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
