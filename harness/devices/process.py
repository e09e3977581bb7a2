"""A process that behaves on a shared machine and keeps its terminal clean. Call before torch is imported.

OpenMP's threads spin at the end of each parallel region, waiting for the slowest. Where another process wants
the same cores, spinning for long costs far more than it saves, and not spinning at all costs a third of the speed
where none does. A short spin has most of both: benchmarks/results/threads-cpu-2026-11-22.md.
"""

import logging
import os

SPIN_COUNT = "10000"  # libgomp's own default is 300,000


def prepare_process() -> None:
    """Lets OpenMP threads spin shortly before they sleep, unless the environment has its own rule; mutes chatter."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # It advertises optional kernels at import, and warns at every int8 product that bfloat16 inputs become float16: so
    # LLM.int8() is. Its outliers cost two waits for the device a layer (their columns, and how many there are, are read
    # back), which no setting avoids: a threshold of 0 is faster and another method, with other numbers.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
