"""Which rows does a data file hold, and where in it does each stand?

Streams .jsonl, .json (an array, or one object after another), .csv and .tsv: one row in memory at a time,
each with its line number, so that a broken row can be named. Used through `harness.data.source`.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
_CHUNK_CHARACTERS = 1 << 20
_GAP = re.compile(r"[ \t\r\n,]*")


class DataError(ValueError):
    """A row or file that can't be read: where, which field, and what to do."""

    def __init__(self, problem: str, *, file: str, line: int | None = None, field: str | None = None) -> None:
        where = [file]
        if line is not None:
            where.append(f"line {line}")
        if field is not None:
            where.append(f"field {field!r}")
        super().__init__(f"{', '.join(where)}: {problem}")
        self.file, self.line, self.field, self.problem = file, line, field, problem


def read_file(path: Path, headerless: tuple[str, ...] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, row); the line is where the row begins, counted from 1. Blank lines are passed over.

    Args:
        path: a file whose suffix is one of `SUFFIXES`.
        headerless: the columns of a .tsv that has no header; such a file has no quoting either.

    Raises:
        DataError: another suffix, bytes that are not UTF-8, broken JSON, a row with too few or too many
            columns, a row that is not an object.
    """
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _read_json_lines(path)
    if suffix == ".json":
        return _read_json(path)
    if suffix == ".csv":
        return _read_table(path, ",")
    if suffix == ".tsv":
        return _read_table(path, "\t", None if headerless and _has_header(path, headerless) else headerless)
    raise DataError(f"unknown kind of file; there are: {', '.join(SUFFIXES)}", file=str(path))


def _lines(path: Path) -> Iterator[str]:
    """Decodes line by line, so that a wrong byte is found in its own line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 ({error.reason} at byte {error.start}): save the file as UTF-8"
                raise DataError(problem, file=str(path), line=number) from error


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"broken JSON ({error.msg} at column {error.colno}); a .jsonl file holds one object a line"
                raise DataError(problem, file=str(path), line=number) from error
            yield number, _object(row, path, number)


def _object(value: object, path: Path, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        problem = f"expected an object with fields, found {type(value).__name__}"
        raise DataError(problem, file=str(path), line=line)
    return value


def _read_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Decodes one value at a time out of a buffer that grows only while a value is incomplete."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _json_values(file, path)
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 ({error.reason}): save the file as UTF-8", file=str(path)) from error


def _json_values(file: TextIO, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder, text, at, line, ended = json.JSONDecoder(), "", 0, 1, False
    in_array: bool | None = None  # None until the first character is seen
    while True:
        gap = _GAP.match(text, at)
        assert gap is not None, "the pattern matches the empty gap too"
        start = gap.end()
        line += text.count("\n", at, start)
        at = start
        if in_array is None and at < len(text):
            in_array = text[at] == "["
            at += in_array
            continue
        if in_array and text.startswith("]", at):
            if (text[at + 1 :] + file.read()).strip():
                raise DataError("text after the array's end; a file holds one array", file=str(path), line=line)
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            more = "" if ended else file.read(max(_CHUNK_CHARACTERS, len(text) - at))
            ended = not more
            if ended and at == len(text) and not in_array:
                return
            if ended:
                raise DataError(
                    f"broken JSON ({error.msg})", file=str(path), line=line + text.count("\n", at, error.pos)
                ) from error
            text, at = text[at:] + more, 0  # at least doubled, so that a long value costs linear time
            continue
        yield line, _object(value, path, line)
        line += text.count("\n", at, end)
        at = end


def _has_header(path: Path, columns: tuple[str, ...]) -> bool:
    first = next(_lines(path), "").rstrip("\r\n").split("\t")
    return bool(set(first) & {*columns, "inputs", "input", "targets", "target", "output"})


def _read_table(
    path: Path, delimiter: str, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    unquoted = columns is not None
    reader = csv.reader(
        _lines(path), delimiter=delimiter, quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL, strict=True
    )
    names = columns
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"broken table ({error}); .jsonl takes any text", file=str(path), line=line) from error
        if cells is None:
            return
        if names is None:
            names = tuple(cells)
        elif cells:
            if len(cells) != len(names):
                problem = f"{len(cells)} columns where there should be {len(names)} ({', '.join(names)})"
                raise DataError(problem, file=str(path), line=line)
            yield line, dict(zip(names, cells, strict=True))
