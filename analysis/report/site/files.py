"""Writes the files of a report, and removes those of an earlier one that it no longer has."""

import json
from pathlib import Path

from harness.files.atomic import write_atomically, write_json

MANIFEST = "report-files.json"


class SiteFiles:
    """The files of one report in their folder. Call `finish` after the last `write`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: set[str] = set()

    def write(self, name: str, text: str) -> None:
        """Writes one file, named from the report's folder on; a lone surrogate becomes a question mark."""
        assert name not in self.written, f"{name} is written twice"
        write_atomically(self.out / name, text.encode("utf-8", "replace"))
        self.written.add(name)

    def finish(self) -> None:
        """Lists what was written in report-files.json and removes what only an earlier list names."""
        for name in sorted(set(self._earlier()) - self.written):
            path = self.out / name
            if path.resolve().is_relative_to(self.out.resolve()):
                path.unlink(missing_ok=True)
        write_json(self.out / MANIFEST, sorted(self.written))

    def _earlier(self) -> list[str]:
        path = self.out / MANIFEST
        if not path.is_file():
            return []
        names = json.loads(path.read_text(encoding="utf-8"))
        return [str(name) for name in names]
