"""Finds what no run needs: checkpoints of finished runs, and files that were cut off while they were written."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.files.atomic import TEMPORARY_SUFFIX
from harness.files.names import file_name
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobStatus
from harness.runs.record import CHECKPOINT_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A file or folder that can be removed, and why."""

    path: Path
    num_bytes: int
    why: str


def find_garbage(runs: Path, ledger: Ledger) -> tuple[list[Garbage], list[Path]]:
    """Looks through the folders of runs that are done; those that may still be under way are left alone.

    Returns:
        What can go, and the folders that this user may not read.
    """
    found: list[Garbage] = []
    unreadable: list[Path] = []
    for row in ledger.rows(status=JobStatus.done, kinds=["train"]):
        folder = _own_folder(runs, row.run_id)
        if folder is None:
            continue
        if not os.access(folder, os.R_OK | os.X_OK):
            unreadable.append(folder)
            continue
        checkpoint = folder / CHECKPOINT_FOLDER
        if checkpoint.is_dir() and not checkpoint.is_symlink():
            found.append(_garbage(checkpoint, "the run is done"))
        for partial in (*folder.glob(".adapter.partial-*"), *folder.rglob(f"*{TEMPORARY_SUFFIX}")):
            if not partial.is_symlink():
                found.append(_garbage(partial, "cut off while it was written"))
    return found, unreadable


def _own_folder(runs: Path, run_id: str) -> Path | None:
    """The folder of a run, if it lies in the folder of runs and is no link to another place."""
    try:
        folder = runs / file_name(run_id, "run")
    except ValueError:
        return None
    return folder if folder.is_dir() and not folder.is_symlink() else None


def remove_garbage(garbage: Sequence[Garbage]) -> dict[Path, str]:
    """Removes what `find_garbage` showed. -> what is still there, and why: of another user, or a link by now"""
    left: dict[Path, str] = {}
    for item in garbage:
        try:
            _remove(item.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            left[item.path] = error.strerror or str(error)
    return left


def _remove(path: Path) -> None:
    if path.is_symlink():
        raise OSError("it has become a link")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _garbage(path: Path, why: str) -> Garbage:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return Garbage(path=path, num_bytes=sum(file.stat().st_size for file in files), why=why)
