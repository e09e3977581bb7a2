"""CPU threads that behave on a shared machine. Call before torch or numba is imported.

OpenMP's threads spin at the end of each parallel region, waiting for the slowest. Where another process wants
the same cores, that costs far more than it saves: measured on 2 shared cores, a training step of 512 tokens took 17 to
48 s with spinning and 4 to 12 s without, side by side (benchmarks/results/threads-cpu-2026-11-22.md).
"""

import os


def prepare_cpu_threads() -> None:
    """Makes OpenMP threads sleep while they wait, unless the user's environment says otherwise."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
