"""A CUDA driver to plan by, where there is no GPU: a shared library of a few functions, compiled on the spot.

What it says stands in environment variables, so that one library serves all cases, in this process and in others.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness.devices.hardware

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) {
    const char *log = getenv("STAND_IN_LOG");
    if (log) { FILE *file = fopen(log, "a"); fputs("cuInit\n", file); fclose(file); }
    return number("STAND_IN_STATUS", 0);
}
int cuDriverGetVersion(int *version) { *version = number("STAND_IN_VERSION", 12040); return 0; }
int cuGetErrorName(int status, const char **name) {
    *name = status == 804 ? "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE" : status == 100 ? "CUDA_ERROR_NO_DEVICE" : 0;
    return *name ? 0 : 1;
}
int cuDeviceGetCount(int *count) { *count = number("STAND_IN_COUNT", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, device ? "Other GPU" : "Stand-in GPU");
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(16 << device) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number(device ? "STAND_IN_OTHER" : "STAND_IN_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
    return 0;
}
"""
Set = Callable[..., None]  # STAND_IN_... without the prefix: `drive(capability=75)`


def make_driver(folder: Path) -> Path:
    """Compiles it. -> the folder for LD_LIBRARY_PATH; skips the test where there is no compiler."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("the stand-in driver needs a C compiler (cc)")
    (folder / "driver.c").write_text(SOURCE)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-o", str(folder / "libcuda.so.1"), str(folder / "driver.c")], check=True
    )
    return folder


@pytest.fixture(scope="session")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def drive(driver_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the stand-in in the driver's place for one test; called, it says what the driver shows."""
    monkeypatch.setattr(harness.devices.hardware, "_library", lambda: ctypes.CDLL(str(driver_folder / "libcuda.so.1")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def shows(**values: int) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"STAND_IN_{name.upper()}", str(value))
        harness.devices.hardware.cuda_driver.cache_clear()

    yield shows
    harness.devices.hardware.cuda_driver.cache_clear()


def environment(driver_folder: Path, **values: int | str) -> dict[str, str]:
    """Of another process that finds the stand-in by itself."""
    plain = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    said = {f"STAND_IN_{name.upper()}": str(value) for name, value in values.items()}
    return {**plain, "LD_LIBRARY_PATH": str(driver_folder), "HF_HUB_OFFLINE": "1", **said}
