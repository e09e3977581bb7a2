"""What the forkserver imports for every worker: torch, transformers and all that a job needs."""

from harness.devices.process import heavy_imports

with heavy_imports():
    import sweeps.workers.entry
    import sweeps.workers.worker  # noqa: F401
