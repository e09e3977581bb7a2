"""Who starts the workers of a sweep, and what must be there before? One module and one entry each.

A launcher gets what a worker must know, the ledger and a place to report to, starts workers that claim from this
ledger, and says whether it has waited until nothing was left. Ray and submitit are imported only when chosen.
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
