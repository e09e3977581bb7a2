"""Reads the training steps of a run: its metrics.jsonl, each step once."""

from pathlib import Path
from typing import Any

from pydantic import FiniteFloat
from pydantic_core import from_json
from typing_extensions import TypedDict

from harness.files.atomic import read_jsonl
from harness.files.typed import fit


class StepRow(TypedDict):
    """What every line has; further numbers are kept as they are."""

    step: int
    loss: FiniteFloat | None


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a file in the order of the steps; of a step that a resumed run made again, the last one.

    Raises:
        ValueError: a line that can't be read, or has no step or loss.
    """
    if not path.is_file():
        return []
    rows = _parsed(path)
    if rows is None or not all(type(row.get("step")) is int and _is_loss(row.get("loss", "")) for row in rows):
        rows = read_jsonl(path)  # names a bad line, and leaves a torn one out
        fit(rows, list[StepRow], str(path), "mend that row, counted from 0, or remove the file")
    by_step = {row["step"]: row for row in rows}
    return [by_step[step] for step in sorted(by_step)]


def _is_loss(value: Any) -> bool:
    return value is None or isinstance(value, float)


def _parsed(path: Path) -> list[dict[str, Any]] | None:
    """All lines at once, three times as fast as one by one; None where they are not all objects, or hold NaN."""
    lines = path.read_bytes().splitlines()
    try:
        rows = from_json(b"[" + b",".join(lines) + b"]", allow_inf_nan=False)
    except ValueError:
        return None
    return rows if len(rows) == len(lines) and all(isinstance(row, dict) for row in rows) else None
