"""The launchers, which start the workers of a sweep: a module and an entry here for each.

A launcher gets the workers' settings, the ledger and a function to report to. It starts workers that claim jobs from
this ledger, and returns whether it has waited until no job was left. Ray and submitit are imported only when chosen.
"""

from collections.abc import Callable

from harness.config.schema import Launcher
from harness.ledger.ledger import Ledger
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch.local import run_local
from sweeps.launch.ray import run_ray
from sweeps.launch.slurm import run_slurm
from sweeps.launch.waiting import Watch

LAUNCHERS: dict[Launcher, Callable[[WorkerSettings, Ledger, Watch], bool]] = {
    Launcher.local: run_local,
    Launcher.slurm: run_slurm,
    Launcher.ray: run_ray,
}
