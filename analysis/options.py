"""Options that several commands of `python -m analysis` have."""

from pathlib import Path
from typing import Annotated

import typer

RunsFolder = Annotated[Path, typer.Option(help="Folder of the run folders.", envvar="HARNESS_RUNS")]
LedgerUrl = Annotated[
    str | None,
    typer.Option(help="Job table; default: ledger.sqlite in the runs folder.", envvar="HARNESS_LEDGER_URL"),
]
