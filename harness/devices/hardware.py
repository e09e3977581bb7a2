"""What accelerators this machine has, and which of several processes this is, without importing torch.

The CUDA driver is asked by ctypes. Whether torch can use what the driver shows is for torch to say: `torch_elsewhere`
asks it in a process of its own, `harness.devices.torch_device.torch_cuda` in this one, and `cuda_problem` judges the
answer.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.config.schema import Device, DType, LaunchConfig, Launcher

NO_DEVICE = 100  # of CUresult, as cuInit returns it
STUB_LIBRARY = 34  # a toolkit's libcuda.so.1 that is there to link against
REMEDIES = {  # by CUresult; what else may be wrong is NVIDIA's to say
    802: "the node's fabric manager (nvidia-fabricmanager) has to run",
    803: "the driver's library is of another version than its kernel module: reboot",
    804: "take the cuda-compat package, which this GPU doesn't support, out of LD_LIBRARY_PATH",
    999: "reload the kernel module nvidia_uvm, or reboot",
}
BFLOAT16_CAPABILITY = (8, 0)  # Ampere; below it bfloat16 is emulated, and attention's fast kernels refuse it
FLOAT16_CAPABILITY = (7, 0)  # Volta's tensor cores; Pascal's float16 is slower than its float32 on most cards
USE_CPU = "to compute on the CPU say launch.device=cpu (for python -m eval: CUDA_VISIBLE_DEVICES= before the command)"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
_TORCH_SECONDS = 300.0  # for torch to be imported from a slow file system and to answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One CUDA device of this machine."""

    visible_as: str  # what CUDA_VISIBLE_DEVICES calls it
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """A GPU or CPU that runs are trained on."""

    name: str  # as in `RunRecord.device`
    total_bytes: int
    capability: tuple[int, int] | None = None  # CUDA's compute capability; None: a CPU, or not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What the CUDA driver of this machine says about itself and its devices."""

    status: int = 0  # what cuInit returned; 0: it runs
    status_name: str = "CUDA_SUCCESS"
    version: tuple[int, int] | None = None  # the newest CUDA that it serves
    devices: tuple[Hardware, ...] = ()  # in its own order, those that CUDA_VISIBLE_DEVICES leaves

    def __str__(self) -> str:
        serves = "" if self.version is None else f", for CUDA up to {_dotted(self.version)}"
        state = "" if self.status == 0 else f": cuInit returns {self.status} ({self.status_name})"
        return f"the CUDA driver (libcuda.so.1{serves}){state}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchCuda:
    """What torch says about CUDA."""

    version: str  # of torch
    cuda: str | None  # the CUDA that it was built for; None: a build for CPUs
    archs: tuple[str, ...] = ()  # what its kernels were compiled for: sm_80, compute_90
    num_devices: int = 0  # that it can use
    words: str = ""  # why it can use none, in its own words
    failure: str = ""  # why it couldn't be asked


@cache
def cuda_driver() -> Driver | None:
    """Asks the driver, once; None where there is none, or CUDA_VISIBLE_DEVICES is empty.

    From then on no process that is to use CUDA may be forked from this one.
    """
    library = _library()
    if library is None:
        return None
    status = library.cuInit(0)
    if status != 0:
        return Driver(status=status, status_name=_status_name(library, status), version=_driver_version(library))
    return Driver(version=_driver_version(library), devices=tuple(_devices(library)))


def num_cuda_devices() -> int:
    """CUDA devices that the driver shows to this process; 0 without a driver."""
    return len(cuda_hardware())


def cuda_hardware() -> tuple[Hardware, ...]:
    """Name, memory and compute capability of each CUDA device, in the driver's order."""
    driver = cuda_driver()
    return () if driver is None else driver.devices


def cuda_problem(ask_torch: Callable[[], TorchCuda]) -> str | None:
    """What keeps this machine's CUDA devices from being used, with the remedy; None if nothing does, or none is here.

    Args:
        ask_torch: tells what torch says about CUDA; called only where the driver shows a device.
    """
    if (problem := driver_problem()) is not None:
        return problem
    driver = cuda_driver()
    return None if driver is None or not driver.devices else torch_problem(ask_torch(), driver)


def driver_problem() -> str | None:
    """Says if the driver doesn't start, or shows fewer devices than CUDA_VISIBLE_DEVICES names; else None."""
    driver = cuda_driver()
    if driver is None:
        return None
    if driver.status not in (0, NO_DEVICE, STUB_LIBRARY):
        remedy = REMEDIES.get(driver.status)
        return f"{driver}; {remedy + ', or ' if remedy else ''}{USE_CPU}"
    names = _visible_names()
    if len(names) <= len(driver.devices):
        return None
    shown = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} names {len(names)} devices, of which "
    shown += f"{driver} shows {len(driver.devices)}"
    if any(name.startswith("MIG-") for name in names) and driver.devices:
        return f"{shown}: a process sees one MIG device at most; start a command for each, with its name alone"
    return f"{shown}; name those that nvidia-smi -L lists, each once, or {USE_CPU}"


def torch_problem(torch: TorchCuda, driver: Driver) -> str | None:
    """Why torch can't use devices that the driver shows, with the remedy; None: it can."""
    names = ", ".join(dict.fromkeys(device.name for device in driver.devices))
    if torch.failure:
        return f"{driver} shows {names}, but torch can't be asked about them: {torch.failure}"
    build = f"torch {torch.version}" + ("" if torch.cuda is None else f" (built for CUDA {torch.cuda})")
    if torch.num_devices == 0:
        said = f' (it says: "{torch.words}")' if torch.words else ""
        why, remedy = _unusable(torch.cuda, driver.version)
        return f"{driver} shows {names}, but {build} {why}{said}: {remedy}; {USE_CPU}"
    without = [one for one in driver.devices if one.capability and not _has_kernels(one.capability, torch.archs)]
    if not torch.archs or not without:
        return None
    return (
        f"{named_hardware(without)}: {build} has no kernels for it, only {' '.join(torch.archs)}; install a build that "
        f"has, hide the device by CUDA_VISIBLE_DEVICES, or {USE_CPU}"
    )


def _unusable(built_for: str | None, driver: tuple[int, int] | None) -> tuple[str, str]:
    """-> why torch can't use any device, and the remedy. A driver serves all builds of its major version of CUDA."""
    if built_for is None:
        return "is a build without CUDA", f"install one for CUDA {_builds(driver)}"
    if driver is not None and int(built_for.split(".")[0]) > driver[0]:
        return "is too new for it", f"update the driver, or install torch for CUDA {_builds(driver)}"
    return "can't use it", f"{sys.executable} -c 'import torch; torch.cuda.init()' tells why"


@cache
def torch_elsewhere() -> TorchCuda:
    """Asks torch in a process of its own: about as long as it takes to import it. This one stays free of CUDA."""
    project = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "harness.devices.torch_device"]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=_TORCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        return TorchCuda(version="", cuda=None, failure=f"no answer in {_TORCH_SECONDS:.0f} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return TorchCuda(version="", cuda=None, failure=last)
    values = json.loads(done.stdout.splitlines()[-1])
    return TorchCuda(**{**values, "archs": tuple(values["archs"])})


def dtype_for(capabilities: Iterable[tuple[int, int] | None]) -> DType:
    """The data type of `quant.compute_dtype=auto`: the best that all CUDA devices of these capabilities compute well.

    bfloat16 from Ampere on; float16, with loss scaling, where there are tensor cores for it; float32 before.
    """
    lowest = min((capability for capability in capabilities if capability is not None), default=BFLOAT16_CAPABILITY)
    if lowest >= BFLOAT16_CAPABILITY:
        return DType.bfloat16
    return DType.float16 if lowest >= FLOAT16_CAPABILITY else DType.float32


def auto_compute_dtype(launch: LaunchConfig) -> DType:
    """The data type of `quant.compute_dtype=auto` for a launch: on CUDA bfloat16, unless the devices here lack it."""
    if launch_device(launch) is Device.cpu:
        return DType.float32
    here = cuda_hardware() if launch.launcher is Launcher.local else ()
    return dtype_for(device.capability for device in here)


def bfloat16_problem(devices: Sequence[Hardware]) -> str | None:
    """Names the devices that have no bfloat16 arithmetic, and what to say instead."""
    without = [one for one in devices if one.capability is not None and one.capability < BFLOAT16_CAPABILITY]
    if not without:
        return None
    other = dtype_for(one.capability for one in without).value
    return (
        f"quant.compute_dtype=bfloat16: {named_hardware(without)} only emulates it, slower than float32; say "
        f"quant.compute_dtype={other}, or auto, which is {other} there"
    )


def hardware(device: Device) -> tuple[Hardware, ...]:
    """The hardware of this machine that a plan for `device` uses; empty where a login node plans for GPUs elsewhere."""
    if planned_device(device) is Device.cuda:
        return cuda_hardware()
    return (Hardware("cpu", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),)


def accelerators() -> list[Accelerator]:
    """The CUDA devices that this process may use, in the driver's order, by the names that it was given for them."""
    found = cuda_hardware()
    names = _visible_names() or [str(index) for index in range(len(found))]
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
    """The place that torchrun gave this process; None where it started no process, or only this one."""
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return None
    rank = int(environment["RANK"])
    return Place(rank=rank, size=size, local_rank=int(environment.get("LOCAL_RANK", str(rank))))


def launch_device(launch: LaunchConfig) -> Device:
    """The device of a launch's runs: on a cluster what its workers ask for, not what this login node has."""
    if launch.launcher is Launcher.local or launch.device is not Device.auto:
        return planned_device(launch.device)
    return Device.cuda if launch.gpus_per_worker else Device.cpu


def named_hardware(devices: Sequence[Hardware]) -> str:
    """-> Tesla T4 (compute capability 7.5), ..."""
    return ", ".join(
        dict.fromkeys(f"{d.name} (compute capability {_dotted(d.capability)})" for d in devices if d.capability)
    )


def driver_words() -> str:
    """The driver of this machine, for messages about a GPU that isn't there."""
    return str(cuda_driver() or "no CUDA driver (libcuda.so.1)")


def _library() -> Any | None:
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _devices(library: Any) -> Iterable[Hardware]:
    count = ctypes.c_int(0)
    library.cuDeviceGetCount(ctypes.byref(count))
    for ordinal in range(count.value):
        device, name, total = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
        if library.cuDeviceGet(ctypes.byref(device), ordinal) != 0:
            continue
        library.cuDeviceGetName(name, len(name), device)
        library.cuDeviceTotalMem_v2(ctypes.byref(total), device)
        major, minor = (_attribute(library, number, device) for number in (_MAJOR, _MINOR))
        yield Hardware(name.value.decode(), total.value, (major, minor) if major else None)


def _attribute(library: Any, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    library.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value


def _driver_version(library: Any) -> tuple[int, int] | None:
    version = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0 or not version.value:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _status_name(library: Any, status: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else "unknown error"


def _visible_names() -> list[str]:
    """The names in CUDA_VISIBLE_DEVICES, up to the first that can't be a device, such as -1; the driver stops there."""
    names: list[str] = []
    for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if not (name.strip().isdigit() or name.strip().startswith(("GPU-", "MIG-"))):
            break
        names.append(name.strip())
    return names


def _has_kernels(capability: tuple[int, int], archs: Sequence[str]) -> bool:
    """Machine code (sm_) runs on its own major version from its minor one on, PTX (compute_) on all that is newer."""
    for arch in archs:
        kind, _, number = arch.partition("_")
        built = divmod(int(number.rstrip("af")), 10)
        if number.endswith("a") and built != capability:
            continue
        if (built <= capability) if kind == "compute" else (built[0] == capability[0] and built <= capability):
            return True
    return False


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _builds(version: tuple[int, int] | None) -> str:
    """Says which builds of torch suit a driver, and where they are."""
    most = "" if version is None else f"{_dotted(version)} or older "
    return f"{most}(https://pytorch.org/get-started)"
