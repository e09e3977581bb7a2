"""The record of the commands that made results, `steps.json`, in the folder of what they made.

It lies in a tournament's folder, in a run's, beside a site, or in the folder of a command's own results. The site
prints the commands ("make it again"); a step of a leaderboard that is recorded as done, and whose files and command
have not changed since, is not done again. Commands are recorded without options that change no result.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.files.atomic import sha256_file, write_json
from harness.files.typed import read_typed

STEPS_FILE = "steps.json"
SCHEMA_VERSION = 1
UNRECORDED = ("--json", "--yes")  # options that change no result
KEPT_BY_CALLER = "HARNESS_STEPS_KEPT"  # set for a child process whose command is recorded by the one that starts it


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step: what it was called and given, and what it made."""

    key: str  # begins with what kind of step it is: generate, judge, rate, report, or a benchmark
    command: list[str]
    is_done: bool
    inputs: dict[str, str] = field(default_factory=dict)  # path -> sha256, when it was done
    outputs: dict[str, str] = field(default_factory=dict)
    version: str | None = None  # of this distribution; None: not kept then
    started: str | None = None  # ISO 8601, UTC
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsFile:
    """The content of `steps.json`."""

    schema_version: int
    steps: list[StepRecord]


def load_steps(*folders: Path) -> dict[str, StepRecord]:
    """The steps that the folders' records hold, by key; of one key that of the first folder. None where none has.

    Raises:
        ValueError: a record that this code can't read.
    """
    steps: dict[str, StepRecord] = {}
    for folder in dict.fromkeys(folders):
        path = folder / STEPS_FILE
        if not path.is_file():
            continue
        found = read_typed(path, StepsFile, "move it away: the steps are looked at again then")
        if found.schema_version != SCHEMA_VERSION:
            raise ValueError(f"{path}: schema version {found.schema_version}, this code reads {SCHEMA_VERSION}")
        steps = {step.key: step for step in found.steps} | steps
    return steps


def save_steps(steps: Iterable[StepRecord], *folders: Path) -> None:
    """Writes the record into each folder in one step."""
    content = asdict(StepsFile(schema_version=SCHEMA_VERSION, steps=list(steps)))
    for folder in dict.fromkeys(folders):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / STEPS_FILE, content)


def keep_step(record: StepRecord, *folders: Path) -> None:
    """Puts one step into the record of the folders, after the others, or in the place of its former self."""
    save_steps((load_steps(*folders) | {record.key: record}).values(), *folders)


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """-> {path: sha256} of those that exist."""
    return {str(path): sha256_file(path) for path in dict.fromkeys(paths) if path.is_file()}


def shell_line(command: Sequence[str]) -> str:
    """A command as one types it; blanks and other special characters are quoted."""
    return shlex.join(command)
