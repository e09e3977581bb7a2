"""Writes the files of a report, and removes those of an earlier one that it no longer has."""

import os
from pathlib import Path

from harness.files.atomic import TEMPORARY_SUFFIX, write_json
from harness.files.typed import read_typed

MANIFEST = "report-files.json"


class SiteFiles:
    """The files of one report in their folder. Call `finish` after the last `write`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: set[str] = set()

    def write(self, name: str, text: str) -> None:
        """Writes one file, named from the report's folder on; a lone surrogate becomes a question mark.

        A reader sees the old file or the new one. Unlike records, pages are not synced to the disk: there may be
        thousands, and the same command makes them again.
        """
        assert name not in self.written, f"{name} is written twice"
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
        temporary.write_bytes(text.encode("utf-8", "replace"))
        os.replace(temporary, path)
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
        remedy = "remove it: pages that an earlier report left are not removed then"
        return read_typed(path, list[str], remedy) if path.is_file() else []
