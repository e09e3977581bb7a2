"""Where do things lie on this machine, and where is its ledger? One answer for every command. No torch, no Hydra.

`conf/paths/default.yaml` reads the same variables for `harness.run` and `sweeps run`.
"""

import os
import re
from pathlib import Path

from harness.ledger import Ledger
from harness.schema import PathsConfig

LEDGER_FILE = "ledger.sqlite"
_PASSWORD = re.compile(r"([\w+.-]+://[^\s:/@]*):\S*@|([?&]password=)[^&\s'\"]*")


def paths_of_environment(runs: Path | None = None) -> PathsConfig:
    """As HARNESS_RUNS, HARNESS_MODEL_STORE, HARNESS_DATA_STORE, HARNESS_CACHE, HARNESS_LEDGER_URL say.

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


def ledger_url(paths: PathsConfig) -> str:
    """Where the job table is: the configured URL, or SQLite among the runs."""
    return paths.ledger_url or str(Path(paths.runs) / LEDGER_FILE)


def existing_ledger(url: str) -> Ledger:
    """Opens a ledger to look at it; makes none.

    Raises:
        ValueError: there is none (an empty one would say that nothing was ever done), or it can't be opened.
    """
    if "://" not in url and not Path(url).expanduser().is_file():
        raise ValueError(f"{url}: no ledger there; name the folder by --runs or HARNESS_RUNS")
    return Ledger.open(url)


def without_passwords(text: str) -> str:
    """The text with `***` for the passwords of URLs in it, wherever they stand: in quotes, in a list."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] else f"{found[2]}***", text)
