"""GPUs that a plan knows by name: their memory, and what they can do, as the makers' data sheets say."""

import re
from dataclasses import dataclass

from harness.devices.hardware import Hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU's data sheet."""

    gigabytes: int
    teraflops: float  # dense, 16 bits


GPUS = {
    "B200": Gpu(gigabytes=180, teraflops=2250),
    "H200": Gpu(gigabytes=141, teraflops=989),
    "H100": Gpu(gigabytes=80, teraflops=989),
    "A100": Gpu(gigabytes=80, teraflops=312),
    "L40S": Gpu(gigabytes=48, teraflops=362),
    "A40": Gpu(gigabytes=48, teraflops=150),
    "RTX A6000": Gpu(gigabytes=48, teraflops=155),
    "RTX 5090": Gpu(gigabytes=32, teraflops=210),
    "RTX 4090": Gpu(gigabytes=24, teraflops=165),
    "RTX 3090": Gpu(gigabytes=24, teraflops=71),
    "A10G": Gpu(gigabytes=24, teraflops=70),
    "A10": Gpu(gigabytes=24, teraflops=125),
    "L4": Gpu(gigabytes=24, teraflops=121),
    "V100": Gpu(gigabytes=32, teraflops=125),
    "T4": Gpu(gigabytes=16, teraflops=65),
}


def named_gpu(name: str) -> Hardware:
    """A GPU to plan for, by its name. Raises ValueError, with the known names, for another."""
    found = next((key for key in GPUS if key.lower() == name.lower()), None)
    if found is None:
        raise ValueError(f"--device {name}: not in the list of GPUs; known: {', '.join(GPUS)}; or say --device-gb 24")
    return Hardware(found, GPUS[found].gigabytes * 10**9)


def peak_flops(device: str) -> float | None:
    """Operations a second of a device, as its data sheet says; None for one that is not in the list."""
    found = [gpu.teraflops for key, gpu in GPUS.items() if re.search(rf"\b{key}\b", device, re.IGNORECASE)]
    return found[0] * 1e12 if found else None
