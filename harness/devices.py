"""What accelerators this machine has, asked of the driver itself, so that planning needs no torch."""

import ctypes
import os
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
