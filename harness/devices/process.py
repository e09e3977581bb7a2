"""Makes this process a good neighbour on a shared machine. Call `prepare_process` before torch is imported.

OpenMP's threads spin at the end of each parallel region, waiting for the slowest. Where another process wants
the same cores, spinning for long costs far more than it saves, and not spinning at all costs a third of the speed
where none does. A short spin has most of both: benchmarks/results/threads-cpu-2026-11-22.md.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SPIN_COUNT = "10000"  # libgomp's own default is 300,000


def prepare_process() -> None:
    """Lets OpenMP threads spin shortly before they sleep, unless the environment says otherwise; mutes loggers."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # bitsandbytes advertises optional kernels at import, and warns at every int8 product that bfloat16 inputs become
    # float16, which is how LLM.int8() works. Its outliers make the host wait twice a layer (for their columns and their
    # number). No setting avoids that: a threshold of 0 is faster, but another method with other numbers.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Prepares the process, and keeps the garbage collector out of the imports in the block.

    torch and transformers bring millions of objects, nearly all of which stay. The collector would walk them again and
    again as they come, a fifth of the imports' time, and once more in each full collection later: it never looks
    at them again, and so a forked worker shares their memory too.
    """
    prepare_process()
    num_before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_before:
            gc.freeze()  # also what else is alive: not again in a process that has imported all of it
        gc.enable()
