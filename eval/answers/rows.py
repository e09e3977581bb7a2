"""Reads the rows of a file that anyone may have written: JSON lines, a JSON array or a CSV, each also under gzip.

Answers, questions and verdicts are read through it. Names of fields are told apart by their letters
alone: a byte order mark, blanks at the ends and capitals do not count. Every row knows where it stands, so that
whoever refuses it can name file and line. A line that is no JSON, or that holds half of a surrogate pair (which can be
neither hashed, stored nor sent), is refused.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files.csv_cells import original_text

DELIMITERS = (",", ";", "\t")
TABLE_SUFFIXES = (".csv", ".tsv")
MAX_FIELD_CHARACTERS = 2**31 - 1  # of a CSV's field: an answer may be long
_WHOLE = re.compile(r"(-?\d+)\.0+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row and its place."""

    where: str  # "answers.jsonl: line 3"
    line: int  # the line that it ends on; of a JSON array, the number of the entry
    values: Mapping[str, Any]  # by `field_name`


def field_name(name: str) -> str:
    """A field's name as it is looked up: " Question_ID" and "question id" are `question_id`."""
    return "_".join(name.replace("\ufeff", "").strip().lower().split())


def identifier_text(value: str) -> str:
    """An identifier without blanks at its ends; a spreadsheet's "1.0" is "1"."""
    value = value.strip()
    whole = _WHOLE.fullmatch(value)
    return whole[1] if whole else value


def read_rows(path: Path, may_end_torn: bool = False) -> list[Row]:
    """Reads all rows of a file.

    Args:
        path: .csv or .tsv, or JSON of any other name; with .gz after it, compressed.
        may_end_torn: leave out a last line that a killed writer left half written.

    Raises:
        ValueError: the file is no text in UTF-8, or a line is no row; names file and line.
        FileNotFoundError: there is no such file.
    """
    text = read_text(path)
    if is_table(path):
        return list(_table_rows(path, text))
    if text.lstrip().startswith("["):
        return _array_rows(path, text)
    return list(_line_rows(path, text, may_end_torn))


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a CSV."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(TABLE_SUFFIXES)


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        ValueError: it is no text in UTF-8, or no whole gzip file.
        FileNotFoundError: there is no such file.
    """
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file ({error}); copy it again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line} is not text in UTF-8 ({error.reason}); convert the file") from None


def delimiter_of(header: str) -> str:
    """What stands between the fields of a CSV whose first line is `header`: a comma where there is one."""
    return next((mark for mark in DELIMITERS if mark in header), DELIMITERS[0])


def _table_rows(path: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text.partition("\n")[0]))
    header = [field_name(name) for name in next(reader, [])]
    for name in header:
        if name and header.count(name) > 1:
            raise ValueError(f"{path}: column {name} appears twice; keep one of them")
    for record in reader:
        where = f"{path}: line {reader.line_num}"
        if record and len(record) != len(header):
            raise ValueError(f"{where}: {len(record)} fields, the header has {len(header)}")
        if record:
            cells = map(original_text, record)
            yield Row(where=where, line=reader.line_num, values=dict(zip(header, cells, strict=True)))


def _line_rows(path: Path, text: str, may_end_torn: bool) -> Iterator[Row]:
    lines = text.split("\n")  # splitlines would also cut at characters that JSON may hold unescaped
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if may_end_torn and number == len(lines):
                return
            raise ValueError(f"{where}: not JSON ({error}); expected one object a line, mend or delete it") from None
        yield _row(value, where, number)


def _array_rows(path: Path, text: str) -> list[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    return [_row(value, f"{path}: entry {number}", number) for number, value in enumerate(values, start=1)]


def _row(value: Any, where: str, line: int) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: holds half of a surrogate pair (such as \\ud83d), which is no character; remove it"
        ) from None
    values: dict[str, Any] = {}
    for name, item in value.items():
        if field_name(name) in values:
            raise ValueError(f"{where}: field {field_name(name)} appears twice; keep one of them")
        values[field_name(name)] = item
    return Row(where=where, line=line, values=values)
