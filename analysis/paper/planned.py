"""Asks `python -m sweeps plan` what a table's grid holds and what of it is left to run.

A process of its own: a plan composes with Hydra, which nothing else in analysis/ needs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.paper.own import GridPlan

DEVICE = "H100"  # whose hours are said, where no finished run tells of this machine's own


def plan_grid(grid: str, runs: Path, device: str = DEVICE, overrides: Sequence[str] = ()) -> GridPlan:
    """Plans a named grid; starts nothing.

    Args:
        grid: of sweeps/grid/.
        runs: folder of the runs, in which finished ones are found.
        device: the GPU whose hours are estimated.
        overrides: what the grid was told beside its own choices, as on the command line.

    Raises:
        ValueError: the grid can't be planned; says why.
    """
    arguments = [f"+grid={grid}", *overrides]
    command = [sys.executable, "-m", "sweeps", "plan", *arguments, "--device", device, "--json"]
    environment = os.environ | {"HARNESS_RUNS": str(runs)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or f"ended with status {done.returncode}"
        raise ValueError(f"python -m sweeps plan {' '.join(arguments)}: {said}")
    planned: dict[str, Any] = json.loads(done.stdout)
    left = planned["totals"]["to_do"]
    return GridPlan(
        command=f"python -m sweeps run {' '.join(arguments)}",
        points=tuple(run["spec"] for run in planned["runs"]),
        num_to_do=left["num_runs"],
        gpu_hours=left["gpu_hours"],
        device=device,
    )
