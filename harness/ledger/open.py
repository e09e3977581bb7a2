"""Finds the ledger, and opens it for commands that only read it."""

from pathlib import Path

from harness.config.schema import PathsConfig
from harness.ledger.database import Opening
from harness.ledger.ledger import Ledger
from harness.ledger.passwords import without_passwords

LEDGER_FILE = "ledger.sqlite"


def ledger_url(paths: PathsConfig) -> str:
    """The address of the ledger: the configured URL, or a SQLite file among the runs."""
    return paths.ledger_url or str(Path(paths.runs) / LEDGER_FILE)


def existing_ledger(url: str, opening: Opening = Opening.look) -> Ledger:
    """Opens a ledger that is there; makes none. To look at it nothing needs to be writable.

    Raises:
        ValueError: there is none (an empty one would say that nothing was ever done), or it can't be opened.
    """
    if "://" not in url and not Path(url).expanduser().is_file():
        raise ValueError(f"{without_passwords(url)}: no ledger there; name the folder by --runs or HARNESS_RUNS")
    return Ledger.open(url, opening=opening)
