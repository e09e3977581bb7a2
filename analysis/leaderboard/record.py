"""The record of the steps that made a leaderboard, `steps.json`: by which command, of which files, which files.

It lies in the tournament's folder and beside the site. A step that is recorded as done, and whose files and command
have not changed since, is not done again; the site prints the commands. A step is recorded when it begins, so that a
call that was killed knows its own work. Commands are recorded without `--json` and `--yes`, which change no result.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from analysis.leaderboard.options import GENERATE, JUDGE, RATE, REPORT
from harness.files.atomic import sha256_file, write_json
from harness.files.typed import read_typed

STEPS_FILE = "steps.json"
SCHEMA_VERSION = 1
UNRECORDED = ("--json", "--yes")  # options that change no result
BENCHMARK = "a benchmark"
ORDER = (GENERATE, JUDGE, RATE, BENCHMARK, REPORT)  # of the kinds of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step: what it was called and given, and what it made."""

    key: str
    command: list[str]
    is_done: bool
    inputs: dict[str, str] = field(default_factory=dict)  # path -> sha256, when it was done
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsFile:
    """The content of `steps.json`."""

    schema_version: int
    steps: list[StepRecord]


def load_steps(*folders: Path) -> dict[str, StepRecord]:
    """The steps of the first of the folders that has a record, by key; none where none has.

    Raises:
        ValueError: a record that this code can't read.
    """
    path = next((folder / STEPS_FILE for folder in folders if (folder / STEPS_FILE).is_file()), None)
    if path is None:
        return {}
    found = read_typed(path, StepsFile, "move it away: the steps are looked at again then")
    if found.schema_version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {found.schema_version}, this code reads {SCHEMA_VERSION}")
    return {step.key: step for step in found.steps}


def save_steps(steps: Iterable[StepRecord], *folders: Path) -> None:
    """Writes the record into each folder in one step."""
    for folder in dict.fromkeys(folders):
        folder.mkdir(parents=True, exist_ok=True)
        content = StepsFile(schema_version=SCHEMA_VERSION, steps=list(steps := tuple(steps)))
        write_json(folder / STEPS_FILE, asdict(content))


def keep_step(record: StepRecord, *folders: Path) -> None:
    """Puts one step into the record of the folders, in its place, or in that of its former self."""
    steps = load_steps(*folders) | {record.key: record}
    save_steps(sorted(steps.values(), key=lambda step: _place(step.key)), *folders)


def _place(key: str) -> int:
    kind = key.partition(" ")[0]
    return ORDER.index(kind) if kind in ORDER else ORDER.index(BENCHMARK)


def typed_command(arguments: Sequence[str], name: str) -> list[str] | None:
    """This process's own command as it is recorded; None where it was not started as `python -m analysis NAME`."""
    if list(arguments[1:2]) != [name]:
        return None
    return ["python", "-m", "analysis", *(word for word in arguments[1:] if word not in UNRECORDED)]


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """-> {path: sha256} of those that exist."""
    return {str(path): sha256_file(path) for path in dict.fromkeys(paths) if path.is_file()}


def shown_commands(steps: Iterable[StepRecord]) -> list[str]:
    """The commands as one types them, in order."""
    return list(dict.fromkeys(shell_line(step.command) for step in steps))


def shell_line(command: Sequence[str]) -> str:
    """A command as one types it; blanks and other special characters are quoted."""
    return shlex.join(command)
