"""Rows as publishers write them: their shapes in every clone, and the whole files where these are on the machine."""

import json
from pathlib import Path
from typing import Any

from tests.lab import REPOSITORY

WHOLE = REPOSITORY.parent / "shared" / "data" / "datasets"
EXTRACT: dict[str, list[Any]] = json.loads(Path(__file__).with_name("extract.json").read_text(encoding="utf-8"))


def real_lines(name: str) -> list[str]:
    """The lines of a file: those of the extract, then all that are on the machine."""
    kept = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in EXTRACT[name]]
    whole = (WHOLE / name).read_text(encoding="utf-8").splitlines() if (WHOLE / name).is_file() else []
    return [*kept, *filter(None, whole)]


def real_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file: those of the extract, then all that are on the machine."""
    return [json.loads(line) for line in real_lines(name)]


def real_file(name: str, folder: Path) -> Path:
    """The same as a file in `folder`."""
    (folder / name).write_text("".join(f"{line}\n" for line in real_lines(name)), encoding="utf-8")
    return folder / name
