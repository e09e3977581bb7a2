"""What the forkserver imports on a machine with CUDA: also torch's compiler, nearly all of what bitsandbytes takes.

bitsandbytes itself, and so peft, ask CUDA while they are imported, and CUDA bears no fork.
"""

from harness.devices.process import heavy_imports

with heavy_imports():
    import sweeps.workers.preload  # noqa: F401
