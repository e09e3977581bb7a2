"""Reads the rows of a file that anyone may have written: JSON lines, a JSON array or a CSV, also under gzip; Parquet.

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
from typing import TYPE_CHECKING, Any

from harness.data.rows import read_file
from harness.files.csv_cells import original_text

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = (",", ";", "\t")
TABLE_SUFFIXES = (".csv", ".tsv")
PARQUET = ".parquet"
STARTS = {  # the first bytes of files that are no text, and what to do with them
    b"PK\x03\x04": "a spreadsheet or a zip file: save it as CSV in UTF-8, or unpack it",
    b"PAR1": "a Parquet file: name it .parquet",
    b"\x1f\x8b": "a gzip file: name it .gz",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    b"SQLite format 3": "a database: export its rows as CSV",
}
MAX_FIELD_CHARACTERS = 2**31 - 1  # of a CSV's field: an answer may be long
_WHOLE = re.compile(r"(-?\d+)\.0+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row and its place."""

    where: str  # "answers.jsonl: line 3", the line that it ends on; "entry 3" of a JSON array, "row 3" of Parquet
    values: Mapping[str, Any]  # by `field_name`

    @property
    def place(self) -> str:
        """Where it stands in its file: "line 3"."""
        return self.where.rpartition(": ")[2]


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
        path: .csv or .tsv, with .gz after it compressed; .parquet; or JSON of any other name.
        may_end_torn: leave out a last line that a killed writer left half written.

    Raises:
        ValueError: the file is no text in UTF-8, or a line is no row; names file and line.
        FileNotFoundError: there is no such file.
    """
    path.stat()  # whatever its kind, a file that is missing is told by the same error
    if path.name.lower().endswith(PARQUET):
        return [_row(values, f"{path}: row {number}") for number, values in read_file(path)]
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
        ValueError: it is no text in UTF-8, or no whole gzip file; says what it is, and what to do.
        FileNotFoundError: there is no such file.
    """
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file ({error}); copy it again") from None
    kind = next((kind for start, kind in STARTS.items() if data.startswith(start)), None)
    if kind is not None:
        raise ValueError(f"{path}: {kind}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line} is not text in UTF-8 ({error.reason}); convert the file") from None


def table_reader(text: str) -> "Reader":
    """The lines of a CSV's text, each as a list of its fields, the header first."""
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text.partition("\n")[0]))


def delimiter_of(header: str) -> str:
    """What stands between the fields of a CSV whose first line is `header`: a comma where there is one."""
    return next((mark for mark in DELIMITERS if mark in header), DELIMITERS[0])


def _table_rows(path: Path, text: str) -> Iterator[Row]:
    reader = table_reader(text)
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
            yield Row(where=where, values=dict(zip(header, cells, strict=True)))


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
            remedy = "expected one object a line, mend or delete it"
            if number == 1:
                remedy += "; a table is known by its name, .csv or .tsv"
            raise ValueError(f"{where}: not JSON ({error}); {remedy}") from None
        yield _row(value, where)


def _array_rows(path: Path, text: str) -> list[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    return [_row(value, f"{path}: entry {number}") for number, value in enumerate(values, start=1)]


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: holds half of a surrogate pair (such as \\ud83d), which is no character; remove it"
        ) from None
    values: dict[str, Any] = {}
    for name, item in value.items():
        if field_name(name) in values:
            raise ValueError(f"{where}: field {field_name(name)} appears twice; keep one of them")
        values[field_name(name)] = item
    return Row(where=where, values=values)
