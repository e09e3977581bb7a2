"""Writes records so that a crash leaves the old file or the new one, never half of one.

`write_atomically` writes a hidden temporary file beside the target, syncs it and renames
it (the pattern of submitit's job folders). `append_jsonl` adds one line under a lock; a line torn by a
crash or a full disk is dropped by `read_jsonl`, which says so, and mended by the next append. New files
get the mode that the user's umask asks for (`tempfile`'s are private, which a shared folder can't use).
"""

import csv
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import stat
import uuid
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from harness.files.csv_cells import neutral_cell

TEMPORARY_SUFFIX = ".tmp"  # of hidden files that a killed writer may leave behind; free to delete

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_log = logging.getLogger(__name__)


def is_out_of_space(error: BaseException) -> bool:
    """Whether the disk is full or read-only, or a quota is used up: every write fails until somebody makes room."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def share_as_folder_says(folder: Path | str) -> None:
    """Lets the group write what this process makes from now on, if the group may write `folder`.

    A lab's shared folder is set up so (`chmod g+ws runs`), while its users' umasks differ.
    """
    if Path(folder).stat().st_mode & stat.S_IWGRP:
        umask = os.umask(0o077)
        os.umask(umask & ~stat.S_IRWXG)


def write_atomically(path: Path | str, data: str | bytes) -> None:
    """Replaces `path` by `data` (text as UTF-8) in one step; makes missing parent folders.

    Raises:
        OSError: the disk is full, the folder is read-only, ...: the old file is untouched and no
            temporary file stays behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A failed write names no file, a failed open the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. Dataclasses, enums and paths are written plainly.

    Raises:
        ValueError: a NaN or infinity (missing is not a number: leave the key out or write null), or a
            type that JSON doesn't have.
        OSError: as `write_atomically`.
    """
    write_atomically(path, to_json(value, where=str(path), indent=2) + "\n")


def append_jsonl(path: Path | str, row: Any) -> None:
    """Adds `row` as one line, in whole or not at all; makes missing parent folders.

    Several processes may append to one file (a lock orders them). The line survives a kill -9 of the
    writer once this returns; a power cut may take the last lines.

    Raises:
        ValueError: as `write_json`.
        OSError: the line could not be written; the file is as it was.
    """
    path = Path(path)
    line = to_json(row, where=str(path)).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            _mend_last_line(stream.fileno(), path)
            _write_whole(stream.fileno(), line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file of objects. A torn last line is left out, with a warning in the log.

    Raises:
        ValueError: a line before the last is not a JSON object; the message names it.
        FileNotFoundError: there is no such file.
    """
    rows: list[dict[str, Any]] = []
    for number, line, is_last in _numbered_lines(Path(path).read_bytes()):
        row = _object_or_none(line)
        if row is not None:
            rows.append(row)
        elif is_last:
            _log.warning("%s: line %d is torn (a writer was interrupted) and was left out", path, number)
        else:
            raise ValueError(f"{path}: line {number} is not a JSON object: {line[:80]!r}; mend or delete the line")
    return rows


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex. Reads in blocks, so a large file needs no more memory."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(paths: Sequence[Path], hash_file: Callable[[Path], str] = sha256_file) -> str:
    """The SHA-256, in hex, of one file's bytes; of several files that of their digests in the given order.

    Args:
        paths: the files.
        hash_file: gives the digest of one file.
    """
    digests = [hash_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def to_json(value: Any, *, where: str, indent: int | None = None) -> str:
    """JSON text of `value`; `where` names the destination in the error for a NaN or an unknown type."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        remedy = "leave what is missing out or write null; convert arrays and tensors to lists or numbers"
        raise ValueError(f"{where}: can't be written as JSON: {error}; {remedy}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _numbered_lines(data: bytes) -> list[tuple[int, bytes, bool]]:
    """The lines that aren't blank, each as (number from 1, line, whether it is the last and has no newline)."""
    lines = data.split(b"\n")  # splitlines would also cut at characters that JSON may hold unescaped
    return [(n, line, n == len(lines)) for n, line in enumerate(lines, start=1) if line.strip()]


def _object_or_none(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # JSON or UTF-8 cut in the middle
        return None
    return row if isinstance(row, dict) else None


def _mend_last_line(descriptor: int, path: Path) -> None:
    """Ends a last line that is whole but for its newline; cuts off one that is torn. Call under the lock."""
    size_bytes = os.fstat(descriptor).st_size
    if size_bytes == 0 or os.pread(descriptor, 1, size_bytes - 1) == b"\n":
        return
    tail = path.read_bytes()
    keep_bytes = tail.rfind(b"\n") + 1
    if _object_or_none(tail[keep_bytes:]) is not None:
        _write_whole(descriptor, b"\n")
        return
    os.ftruncate(descriptor, keep_bytes)
    _log.warning("%s: a torn last line of %d bytes was removed", path, size_bytes - keep_bytes)


def _write_whole(descriptor: int, data: bytes) -> None:
    """Appends all of `data` or nothing: a nearly full disk takes a part first and refuses the rest."""
    size_bytes = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, size_bytes)
        raise


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A CSV's text, its lines ended as Unix does, no cell a formula (`harness.files.csv_cells`)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[neutral_cell(cell) for cell in row] for row in rows])
    return stream.getvalue()
