"""Which device torch computes on, and in what data type it can.

    python -m harness.devices.torch_device        # what torch says about CUDA, as JSON

`harness.devices.hardware.torch_elsewhere` runs that in a process of its own.

`resolve_device` is the one place where a device is chosen, for training, evaluation and judges alike: a GPU that is
there and can't be used is an error with its remedy, never a silent run on the CPU.
"""

import json
import warnings
from dataclasses import asdict, replace

import torch
from transformers import logging as transformers_logging

from harness.config.schema import Device, DType, QuantConfig
from harness.devices.hardware import Hardware, TorchCuda, bfloat16_problem, cuda_problem, driver_words, dtype_for


def torch_cuda() -> TorchCuda:
    """What torch says about CUDA, asked in this process."""
    with warnings.catch_warnings(record=True) as torch_warnings:
        warnings.simplefilter("always")
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchCuda(
        version=torch.__version__,
        cuda=torch.version.cuda,
        archs=tuple(torch.cuda.get_arch_list()),
        num_devices=num_devices,
        words=""
        if num_devices
        else " ".join(str(warning.message).split(" (Triggered")[0] for warning in torch_warnings),
    )


def resolve_device(device: Device, number: int | None = None) -> torch.device:
    """The torch device to compute on; `auto` is CUDA where there is a CUDA device, else the CPU.

    Args:
        device: the user's choice.
        number: which of several CUDA devices; None: torch's current one.

    Raises:
        ValueError: a device that isn't there, or a GPU that is there and can't be used.
    """
    if device is Device.cpu:
        return torch.device("cpu")
    if (problem := cuda_problem(torch_cuda)) is not None:
        raise ValueError(problem)
    if not torch.cuda.is_available():
        if device is Device.auto:
            return torch.device("cpu")
        raise ValueError(
            f"launch.device=cuda: torch sees no CUDA device here ({driver_words()}); use launch.device=cpu or auto"
        )
    if number is None:
        return torch.device("cuda")
    if number >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"CUDA device {number} is needed, this machine shows {count}: launch.devices_per_run (times "
            "launch.workers), or torchrun's --nproc-per-node, can be at most that"
        )
    return torch.device("cuda", number)


def resolved_quant(quant: QuantConfig, device: torch.device) -> QuantConfig:
    """`quant` with the compute dtype that `auto` means on the device that is really used."""
    if quant.compute_dtype is not DType.auto:
        return quant
    on_cpu = device.type == "cpu"
    return replace(quant, compute_dtype=DType.float32 if on_cpu else dtype_for([_hardware(device).capability]))


def require_bfloat16(dtype: DType, device: torch.device) -> None:
    """Raises ValueError, naming the key, where a run would compute in bfloat16 on a GPU that only emulates it."""
    if dtype is DType.bfloat16 and device.type == "cuda" and (problem := bfloat16_problem([_hardware(device)])):
        raise ValueError(problem)


def slow_dtype(dtype: DType, device: torch.device) -> str | None:
    """A warning where a run's data type is slow on this device; None where it isn't.

    The run is computed in that type all the same, because its numbers depend on it.
    """
    if device.type == "cuda":
        is_slow = dtype is DType.bfloat16 and bfloat16_problem([_hardware(device)]) is not None
        name = torch.cuda.get_device_name(device)
    else:
        is_slow, name = dtype is not DType.float32, "the CPU"
    if not is_slow:
        return None
    return (
        f"it was made with quant.compute_dtype={dtype.value} and is computed so, which {name} does many times slower "
        "than in float32; a GPU of compute capability 8.0 or above has all data types"
    )


def _hardware(device: torch.device) -> Hardware:
    properties = torch.cuda.get_device_properties(device)
    return Hardware(properties.name, properties.total_memory, torch.cuda.get_device_capability(device))


def quiet_libraries() -> None:
    """Turns off progress bars and start-up warnings of the libraries, which would tear our own progress bars."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # PEFT asks for it


if __name__ == "__main__":
    print(json.dumps(asdict(torch_cuda())))
