"""Reads the rows of a data file, each with its line number, so that a broken row can be named.

Kinds: .jsonl, .json (an array, one object after another, or an object whose `data` is an array), .csv and .tsv, each
also as .gz, .parquet, and .arrow as `datasets` saves it. One row, or one batch of .parquet or .arrow, is in memory at
a time. Used through `harness.data.source`.
"""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*_TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES), ".parquet", ".arrow")
_REMEDIES = {  # for kinds of file that people have and that are not read
    **dict.fromkeys(
        (".zst", ".xz", ".bz2", ".zip", ".tar", ".tgz", ".7z", ".lz4"), "unpack it first, or pack it as .gz"
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV in UTF-8"),
    **dict.fromkeys((".ndjson", ".jsonlines", ".jl"), "rename it to .jsonl"),
    **dict.fromkeys((".txt", ".md"), 'write its documents as .jsonl, {"text": "..."} on each line'),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".npy"), "its loading may run code; write the rows as .jsonl"),
}
WRAPPERS = ("data", "rows", "examples", "train")  # the only field of a .json object that holds the rows
_CHUNK_CHARACTERS = 1 << 20
_MAX_DEPTH = 64  # of lists and objects in a row
_MAX_CELL_CHARACTERS = 1 << 30  # of a table; Python's own limit is 131,072
_MAX_INTEGER = 1 << 64
_MAX_INTEGER_CHARACTERS = 40
_GAP = re.compile(r"[ \t\r\n,]*")


class DataError(ValueError):
    """Raised for a row or file that can't be read; says where, which field, and what to do."""

    def __init__(self, problem: str, *, file: str, line: int | None = None, field: str | None = None) -> None:
        where = [file]
        if line is not None:
            where.append(f"line {line}")
        if field is not None:
            where.append(f"field {field!r}")
        super().__init__(f"{', '.join(where)}: {problem}")
        self.file, self.line, self.field, self.problem = file, line, field, problem


Rows = Iterator[tuple[int, dict[str, Any]]]
OnBadRow = Callable[[DataError], None]  # gets a row's error; raises it, or returns to have the row left out


def refuse(error: DataError) -> None:
    """The default for rows that can't be read."""
    raise error


def suffix_of(path: Path) -> str:
    """A file's suffix in lower case; of a .gz file with the suffix before it."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def require_known_kind(path: Path) -> None:
    """Raises DataError for a file whose suffix is none of `SUFFIXES`."""
    if suffix_of(path) not in SUFFIXES:
        remedy = _REMEDIES.get(path.suffix.lower())
        problem = f"unknown kind of file; there are: {', '.join(SUFFIXES)}"
        raise DataError(problem + ("" if remedy is None else f"; {remedy}"), file=str(path))


def read_file(path: Path, headerless: tuple[str, ...] | None = None, on_bad_row: OnBadRow = refuse) -> Rows:
    """Yields (line, row); the line is where the row begins, counted from 1. Blank lines are passed over.

    Args:
        path: a file whose suffix is one of `SUFFIXES`.
        headerless: the columns of a .tsv that has no header; such a file has no quoting either.
        on_bad_row: what to do with a row that can't be read, where reading can go on after it.

    Raises:
        DataError: another suffix, bytes that are not UTF-8, broken JSON, a row with too few or too many
            columns, a row that is not an object, a value that is no text that can be encoded.
    """
    for line, row in _read(path, headerless, on_bad_row):
        problem = _odd_value(row)
        if problem is None:
            yield line, row
        else:
            on_bad_row(DataError(problem[1], file=str(path), line=line, field=problem[0]))


def _read(path: Path, headerless: tuple[str, ...] | None, on_bad_row: OnBadRow) -> Rows:
    suffix = suffix_of(path).removesuffix(".gz")
    if suffix == ".jsonl":
        return _read_json_lines(path, on_bad_row)
    if suffix == ".json":
        return _read_json(path, on_bad_row)
    if suffix == ".csv":
        return _read_table(path, ",", on_bad_row)
    if suffix == ".tsv":
        columns = None if headerless and _has_header(path, headerless) else headerless
        return _read_table(path, "\t", on_bad_row, columns)
    require_known_kind(path)
    return _read_columns(path)


def _odd_value(value: object, field: str = "", depth: int = 0) -> tuple[str, str] | None:
    """Finds the first value that no tokenizer or table can take. -> its field, and what is wrong with it"""
    if depth > _MAX_DEPTH:
        return field[:80], f"nested more than {_MAX_DEPTH} levels deep"
    if isinstance(value, str):
        return _odd_text(value, field)
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        return field, "an integer of more than 64 bits; write it as text"
    if isinstance(value, Mapping):
        parts = ((f"{field}.{name}" if field else str(name), item) for name, item in value.items())
        odd_names = (problem for name in value if (problem := _odd_text(str(name), str(name))))
        if (problem := next(odd_names, None)) is not None:
            return field or ascii(problem[0]), f"a name {problem[1]}"
    elif isinstance(value, list):
        parts = ((f"{field}[{number}]", item) for number, item in enumerate(value))
    else:
        return None
    return next((problem for name, item in parts if (problem := _odd_value(item, name, depth + 1))), None)


def _odd_text(value: str, field: str) -> tuple[str, str] | None:
    if value.isascii():
        return (field, "holds a NUL character; delete it") if "\0" in value else None
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return field, f"holds half of a surrogate pair at character {error.start}, as a cut emoji leaves; delete it"
    return (field, "holds a NUL character; delete it") if "\0" in value else None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _byte_lines(path: Path) -> Iterator[bytes]:
    try:
        with _opened(path) as file:
            yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"broken gzip file ({error}): pack or download it again", file=str(path)) from error


def _decoded(line: bytes, number: int, path: Path) -> str:
    """Decodes one line, so that an error names the line of a wrong byte."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error, path, number) from error


def _not_utf8(error: UnicodeDecodeError, path: Path, line: int | None = None) -> DataError:
    with _opened(path) as file:
        is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    found = "UTF-16" if is_utf16 else f"{error.reason} at byte {error.start}"
    return DataError(f"not UTF-8 ({found}): save the file as UTF-8", file=str(path), line=line)


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_byte_lines(path), start=1):
        yield _decoded(line, number, path)


def _read_json_lines(path: Path, on_bad_row: OnBadRow) -> Rows:
    for number, line in enumerate(_byte_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = _json_row(_decoded(line, number, path), path, number)
        except DataError as error:
            on_bad_row(error)
        else:
            if row is not None:
                yield number, row


def _json_row(line: str, path: Path, number: int) -> dict[str, Any] | None:
    """The object of one line; None for a line of a byte-order mark alone."""
    if not line.strip():
        return None
    try:
        return _object(json.loads(line, parse_int=_integer, object_pairs_hook=_fields), path, number)
    except _NameTwiceError as error:
        raise DataError(
            "two fields have this name: delete one", file=str(path), line=number, field=str(error)
        ) from error
    except json.JSONDecodeError as error:
        problem = f"broken JSON ({error.msg} at column {error.colno}); a .jsonl file holds one object a line"
        raise DataError(problem, file=str(path), line=number) from error
    except RecursionError as error:
        raise DataError(f"nested more than {_MAX_DEPTH} levels deep", file=str(path), line=number) from error


class _NameTwiceError(Exception):
    """An object of JSON with two fields of one name, of which Python would keep the last."""


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _NameTwiceError(next(name for name in names if names.count(name) > 1))
    return fields


def _integer(text: str) -> int:
    """An integer of JSON; one with too many digits becomes a number that `_odd_value` refuses by its field."""
    return int(text) if len(text) <= _MAX_INTEGER_CHARACTERS else _MAX_INTEGER


def _object(value: object, path: Path, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        problem = f"expected an object with fields, found {type(value).__name__}"
        raise DataError(problem, file=str(path), line=line)
    return value


def _read_json(path: Path, on_bad_row: OnBadRow) -> Rows:
    """Reads a .json file value by value; the buffer grows only while a value is incomplete."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            for line, value in _json_values(file, path):
                yield from _json_items(line, value, path, on_bad_row)
        except UnicodeDecodeError as error:
            raise _not_utf8(error, path) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"broken gzip file ({error}): pack or download it again", file=str(path)) from error


def _json_items(line: int, value: object, path: Path, on_bad_row: OnBadRow) -> Rows:
    """One row, or those of a file like {"data": [...]} or {"input": [...], "output": [...]}; their line is its own."""
    items, name = [value], None
    if isinstance(value, dict) and _is_columns(value):
        items = [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    elif isinstance(value, dict):
        lists = [key for key in WRAPPERS if isinstance(value.get(key), list)]
        if len(lists) == 1 and all(isinstance(item, dict) for item in value[lists[0]]):
            name, items = lists[0], value[lists[0]]
            beside = [key for key in value if isinstance(value[key], list) and key != name]
            if beside:
                raise DataError(f"rows may be in {name!r} and in {beside[0]!r}: keep one", file=str(path), line=line)
    for item in items:
        try:
            row = _object(item, path, line)
        except DataError as error:
            on_bad_row(error)
        else:
            yield line, row


def _is_columns(value: dict[str, Any]) -> bool:
    """Whether an object holds columns, texts in lists of one length, as `datasets.Dataset.to_dict` writes them."""
    columns = list(value.values())
    if len(columns) < 2 or not all(isinstance(column, list) and column for column in columns):
        return False
    of_texts = all(cell is None or isinstance(cell, str | int | float) for column in columns for cell in column)
    return of_texts and len({len(column) for column in columns}) == 1


def _json_values(file: TextIO, path: Path) -> Iterator[tuple[int, object]]:
    decoder = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_fields)
    text, at, line, ended = "", 0, 1, False
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
        except RecursionError as error:
            raise DataError(f"nested more than {_MAX_DEPTH} levels deep", file=str(path), line=line) from error
        except _NameTwiceError as error:
            problem = "two fields have this name: delete one"
            raise DataError(problem, file=str(path), line=line, field=str(error)) from error
        yield line, value
        line += text.count("\n", at, end)
        at = end


def _has_header(path: Path, columns: tuple[str, ...]) -> bool:
    first = next(_lines(path), "").rstrip("\r\n").split("\t")
    return bool(set(first) & {*columns, "inputs", "input", "targets", "target", "output"})


def _read_table(path: Path, delimiter: str, on_bad_row: OnBadRow, columns: tuple[str, ...] | None = None) -> Rows:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL_CHARACTERS))
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
            names = _header(cells, path, line)
        elif cells and len(cells) != len(names):
            problem = f"{len(cells)} columns where there should be {len(names)} ({', '.join(names)})"
            on_bad_row(DataError(problem, file=str(path), line=line))
        elif cells:
            yield line, dict(zip(names, cells, strict=True))


def _header(cells: list[str], path: Path, line: int) -> tuple[str, ...]:
    """The names of the columns. Two equal names are refused, because one column would be lost."""
    is_tabbed = ".tsv" in path.name.lower()
    if len(cells) == 1 and any(mark in cells[0] for mark in (",;|" if is_tabbed else ";\t|")):
        kind, mark = (".tsv", "tabs") if is_tabbed else (".csv", "commas")
        problem = f"one column, {cells[0]!r}: a {kind} file's are set apart by {mark}; save it so, or as .jsonl"
        raise DataError(problem, file=str(path), line=line)
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise DataError("two columns have this name: rename one", file=str(path), line=line, field=twice)
    return tuple(cells)


def _read_columns(path: Path) -> Rows:
    """Rows of .parquet or .arrow; the line is the row's number."""
    import pyarrow as pa

    batches = _parquet_batches(path) if path.suffix.lower() == ".parquet" else _arrow_batches(path)
    line = 0
    try:
        for batch in batches:
            names = batch.schema.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError("two columns have this name: rename one", file=str(path), field=twice)
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                line += 1
                yield line, row
    except DataError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:  # or a value Python can't hold
        said = (str(error).splitlines() or [type(error).__name__])[0]
        problem = f"broken {path.suffix.lower()[1:]} file ({said}): write or download it again"
        raise DataError(problem, file=str(path), line=line + 1 if line else None) from error


def _parquet_batches(path: Path) -> "Iterator[pa.RecordBatch]":
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=1024)


def _arrow_batches(path: Path) -> "Iterator[pa.RecordBatch]":
    """A stream, as `datasets` writes it, or a file with a footer."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            file.seek(0)
            whole = pa.ipc.open_file(file)
            batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
        else:
            batches = iter(reader)
        for batch in batches:
            yield from (batch.slice(start, 1024) for start in range(0, batch.num_rows, 1024))
