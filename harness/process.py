"""A process that behaves on a shared machine and keeps its terminal clean. Call before torch is imported.

OpenMP's threads spin at the end of each parallel region, waiting for the slowest. Where another process wants
the same cores, that costs far more than it saves: measured on 2 shared cores, a training step of 512 tokens took 17 to
48 s with spinning and 4 to 12 s without, side by side (benchmarks/results/threads-cpu-2026-11-22.md).
"""

import logging
import os


def prepare_process() -> None:
    """Makes OpenMP threads sleep while they wait, unless the environment says otherwise; mutes import chatter."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # advertises optional kernels at import
