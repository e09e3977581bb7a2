"""Keeps the finished parts of an evaluation, so that a killed call goes on where it ended.

There is a file for each (system, data, protocol): its name holds a digest of the model's hash and of all that decides
a result, so that a stale part is never reused. A line holds the parts of one forward pass, which are on disk before
they count as done.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.files.atomic import append_jsonl, read_jsonl

Key = TypeVar("Key", int, str)


@dataclass(slots=True)
class Partial(Generic[Key]):
    """Finished parts by key, also in a file unless `path` is None."""

    path: Path | None
    done: dict[Key, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | None, name: str, *tied_to: str) -> "Partial[Key]":
        """Reads what an earlier call left.

        Args:
            folder: where parts are kept; None keeps nothing.
            name: of the evaluation, the file name's beginning.
            tied_to: digests of the model and of everything else that decides a part.
        """
        if folder is None:
            return cls(None)
        digest = hashlib.sha256(json.dumps(tied_to).encode()).hexdigest()[:16]
        partial: Partial[Key] = cls(folder / f"{name}-{digest}.partial.jsonl")
        assert partial.path is not None
        if partial.path.is_file():
            for line in read_jsonl(partial.path):
                partial.done.update(zip(line["at"], line["values"], strict=True))
        return partial

    def add(self, parts: Mapping[Key, Any]) -> None:
        """Keeps finished parts, on disk first."""
        if self.path is not None and parts:
            append_jsonl(self.path, {"at": list(parts), "values": list(parts.values())})
        self.done.update(parts)
