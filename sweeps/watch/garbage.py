"""Finds what no run needs: checkpoints of finished runs, and files that were cut off while they were written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.files.atomic import TEMPORARY_SUFFIX
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobStatus
from harness.runs.record import CHECKPOINT_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A file or folder that can be removed, and why."""

    path: Path
    num_bytes: int
    why: str


def find_garbage(runs: Path, ledger: Ledger) -> list[Garbage]:
    """Looks through the folders of runs that are done; those that may still be under way are left alone."""
    garbage: list[Garbage] = []
    for row in ledger.rows(status=JobStatus.done, kinds=["train"]):
        folder = runs / row.run_id
        checkpoint = folder / CHECKPOINT_FOLDER
        if checkpoint.is_dir():
            garbage.append(_garbage(checkpoint, "the run is done"))
        for partial in (*folder.glob(".adapter.partial-*"), *folder.rglob(f"*{TEMPORARY_SUFFIX}")):
            garbage.append(_garbage(partial, "cut off while it was written"))
    return garbage


def remove_garbage(garbage: Sequence[Garbage]) -> None:
    """Removes what `find_garbage` showed."""
    for item in garbage:
        if item.path.is_dir():
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            item.path.unlink(missing_ok=True)


def _garbage(path: Path, why: str) -> Garbage:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Garbage(path=path, num_bytes=sum(file.stat().st_size for file in files), why=why)
