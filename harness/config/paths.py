"""Reads the paths of this machine from the environment, for every command.

`conf/paths/default.yaml` reads the same variables for `harness.run` and `sweeps run`.
"""

import os
from pathlib import Path

from harness.config.schema import PathsConfig


def paths_of_environment(runs: Path | None = None) -> PathsConfig:
    """Reads HARNESS_RUNS, HARNESS_MODEL_STORE, HARNESS_DATA_STORE, HARNESS_CACHE and HARNESS_LEDGER_URL.

    Args:
        runs: the folder of the runs, where the command line names it.
    """
    return PathsConfig(
        runs=str(runs or os.environ.get("HARNESS_RUNS", "runs")),
        model_store=os.environ.get("HARNESS_MODEL_STORE"),
        data_store=os.environ.get("HARNESS_DATA_STORE"),
        cache=os.environ.get("HARNESS_CACHE", ".cache"),
        ledger_url=os.environ.get("HARNESS_LEDGER_URL"),
    )
