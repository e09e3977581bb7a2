"""Where the ledger is, and how it is opened to look at it. No torch, no Hydra."""

import re
from pathlib import Path

from harness.config.schema import PathsConfig
from harness.ledger.ledger import Ledger

LEDGER_FILE = "ledger.sqlite"
_PASSWORD = re.compile(r"([\w+.-]+://[^\s:/@]*):\S*@|([?&]password=)[^&\s'\"]*")


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
