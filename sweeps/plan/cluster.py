"""Checks what the chosen launcher needs: its package, its commands, and a ledger that all machines reach."""

import importlib.util
import shutil

from harness.config.schema import Config, LaunchConfig, Launcher
from harness.ledger.open import ledger_url

PACKAGES = {Launcher.slurm: "submitit", Launcher.ray: "ray"}


def launch_problems(config: Config) -> list[str]:
    """The reasons why the chosen launcher can't start, each with its remedy."""
    launch = config.launch
    name = launch.launcher.value
    problems: list[str] = []
    package = PACKAGES.get(launch.launcher)
    if package is not None and importlib.util.find_spec(package) is None:
        problems.append(f"launch={name}: {package} isn't installed; pip install 'qlora-harness[{name}]'")
    if launch.launcher is Launcher.slurm and shutil.which("sbatch") is None:
        problems.append(
            "launch=slurm: there is no sbatch on this machine; run the command on a login node of the cluster, "
            "or on this machine alone by launch=local"
        )
    url = ledger_url(config.paths)
    if _many_machines(launch) and _is_sqlite(url) and not launch.allow_sqlite:
        problems.append(
            f"launch={name}: the ledger would be SQLite ({url}), whose WAL doesn't work on network file systems; "
            "give all machines one PostgreSQL by paths.ledger_url=postgresql://user@host/database or "
            "HARNESS_LEDGER_URL, or, where all workers run on this very machine, add --allow-sqlite"
        )
    return problems


def _many_machines(launch: LaunchConfig) -> bool:
    """Whether workers run on several machines; a Ray cluster without an address is this machine alone."""
    return launch.launcher is Launcher.slurm or (launch.launcher is Launcher.ray and launch.ray.address is not None)


def _is_sqlite(url: str) -> bool:
    return "://" not in url or url.startswith("sqlite")
