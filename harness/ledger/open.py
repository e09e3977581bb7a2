"""Finds the ledger, and opens it for commands that only read it."""

import re
from pathlib import Path

from harness.config.schema import PathsConfig
from harness.ledger.ledger import Ledger

LEDGER_FILE = "ledger.sqlite"
_PASSWORD = re.compile(r"([\w+.-]+://[^\s:/@]*):\S*@|([?&]password=)[^&\s'\"]*")


def ledger_url(paths: PathsConfig) -> str:
    """The address of the ledger: the configured URL, or a SQLite file among the runs."""
    return paths.ledger_url or str(Path(paths.runs) / LEDGER_FILE)


def existing_ledger(url: str) -> Ledger:
    """Opens a ledger that exists.

    Raises:
        ValueError: there is none (an empty one would say that nothing was ever done), or it can't be opened.
    """
    if "://" not in url and not Path(url).expanduser().is_file():
        raise ValueError(f"{url}: no ledger there; name the folder by --runs or HARNESS_RUNS")
    return Ledger.open(url)


def without_passwords(text: str) -> str:
    """Replaces the password of every URL in the text by `***`, also within quotes or a list."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] else f"{found[2]}***", text)
