"""Reads the columns of verdict and score files as codes of names, and names a bad row by its line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from eval.answers.rows import field_name, identifier_text, is_table, read_text, table_reader
from eval.verdicts.foreign import ForeignVerdict, is_foreign_table, read_foreign
from harness.files.arrow import concatenated
from harness.files.csv_cells import original_text

if TYPE_CHECKING:
    from _csv import Reader

REQUIRED = ("question_id", "system_a", "system_b", "verdict")
OPTIONAL = {"judge": ("judge",), "turn": ("turn",), "benchmark": ("benchmark", "bench")}  # and what they are called
MAX_TURN = 999
SYSTEM_COLUMNS = ("system", "system_a", "system_b", "model_a", "model_b")
MAX_NAMED_ROWS = 5
BLOCK_BYTES = 1 << 26  # that Arrow takes at a time; the longest line that it reads


class VerdictError(ValueError):
    """Raised for a wrong row of a verdict or score file; names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A column of names; row i has the name `values[codes[i]]`."""

    values: list[str]
    codes: NDArray[np.int32]  # (num_rows,)

    @classmethod
    def of(cls, names: Sequence[str]) -> "Names":
        """The column of these names, a row each."""
        places: dict[str, int] = {}
        codes = np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int32)
        return cls(values=list(places), codes=codes)

    def pick(self, kept: NDArray[np.bool_]) -> "Names":
        """The rows that `kept` marks, and the values that are left in them."""
        left, codes = np.unique(self.codes[kept], return_inverse=True)
        return Names(values=[self.values[code] for code in left], codes=codes.astype(np.int32))


def read_header(path: Path) -> list[str]:
    """The column names of a CSV, as `field_name` writes them; none for a file of another kind.

    Raises:
        VerdictError: The file is missing, is not text, or has no header.
    """
    return [field_name(name) for name in _original_header(path)[0]] if is_table(path) else []


def read_columns(path: Path, names: Sequence[str], may_be_empty: bool = False) -> dict[str, Names]:
    """The named columns of a CSV, each as text.

    Raises:
        VerdictError: A line has too few or too many fields, or there is no line below the header.
    """
    text = _table_text(path)
    header, delimiter = _original_header(path)
    original = {field_name(name): name for name in reversed(header)}
    kind = pa.dictionary(pa.int32(), pa.string())
    wanted = [original[name] for name in names]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(text.encode()),  # not the path, whose kind Arrow would guess otherwise
            read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, kind), strings_can_be_null=False
            ),
        ).unify_dictionaries()
    except (pa.ArrowInvalid, OSError) as error:
        raise VerdictError(_misshapen(path) or f"{path}: not a CSV in UTF-8 ({error})") from None
    if not table.num_rows and may_be_empty:
        return {name: Names(values=[], codes=np.zeros(0, dtype=np.int32)) for name in names}
    if not table.num_rows:
        raise VerdictError(f"{path}: no rows below the header")
    columns = {}
    for name in names:
        chunks = table.column(original[name]).chunks
        codes = concatenated(chunk.indices for chunk in chunks)
        clean = str.strip if name in SYSTEM_COLUMNS else identifier_text  # a system may be called 1.0
        columns[name] = coded_names([clean(original_text(value)) for value in chunks[0].dictionary.to_pylist()], codes)
    return columns


def optional_columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """-> {name: what the header calls it} of the optional columns that a file has.

    Raises:
        VerdictError: it has one of them under two names.
    """
    found = {name: [other for other in names if other in header] for name, names in OPTIONAL.items()}
    for columns in found.values():
        if len(columns) > 1:
            raise VerdictError(f"{path}: has both {' and '.join(columns)}; keep one of them")
    return {name: columns[0] for name, columns in found.items() if columns}


def is_foreign(path: Path, header: Sequence[str]) -> bool:
    """Whether the rows of a file with this header are read one by one, by `eval.verdicts.foreign`, not by column."""
    return not is_table(path) or is_foreign_table(header)


def foreign_verdicts(path: Path) -> list[ForeignVerdict]:
    """The rows of a file that is read by rows, see `is_foreign`.

    Raises:
        VerdictError: as `read_foreign`.
    """
    try:
        return read_foreign(path)
    except FileNotFoundError:
        raise VerdictError(f"{path}: no such file") from None
    except ValueError as error:
        raise VerdictError(str(error)) from None


def turn_numbers(column: Names) -> NDArray[np.int16]:
    """(num_rows,) the turns that a column names; 1 where it is empty. They were checked as the file was read."""
    return np.array([int(value or 1) for value in column.values], dtype=np.int16)[column.codes]


def turn_faults(column: Names) -> list[tuple[NDArray[np.bool_], str]]:
    """The rows whose turn is no whole number from 1 on, as `refuse_rows` takes them."""
    message = f"turn {{!r}}; expected a whole number from 1 to {MAX_TURN}"
    wrong = {code: value for code, value in enumerate(column.values) if value and not _is_turn(value)}
    return [(column.codes == code, message.format(value)) for code, value in wrong.items()]


def _is_turn(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) < 9 and 1 <= int(value) <= MAX_TURN


def refuse_rows(path: Path, faults: Sequence[tuple[NDArray[np.bool_], str]]) -> None:
    """Raise for the rows that a mask marks, with the first few by line; do nothing where there are none."""
    bad: dict[int, list[str]] = {}
    for mask, message in faults:
        for row in np.flatnonzero(mask)[:MAX_NAMED_ROWS]:
            bad.setdefault(int(row), []).append(message)
    if not bad:
        return
    total = int(np.logical_or.reduce([mask for mask, _ in faults]).sum())
    shown = sorted(bad.items())[:MAX_NAMED_ROWS]
    named = "; ".join(f"{place_of(path, row)}: {', '.join(messages)}" for row, messages in shown)
    raise VerdictError(f"{path}: {total} bad row{'s' * (total > 1)}: {named}. Correct or remove them")


def place_of(path: Path, row: int) -> str:
    """Where verdict `row` (from 0) of a file stands: "line 3", on which it ends, or "entry 3" of a JSON array.

    Only errors pay for this second read.
    """
    if is_foreign(path, read_header(path)):
        return foreign_verdicts(path)[row].place
    reader = _csv_reader(path)
    for index, _ in enumerate(record for record in reader if record):
        if index == row + 1:
            return f"line {reader.line_num}"
    raise IndexError(f"{path} has no data row {row}")


def row_name(row: int, paths: Sequence[Path], starts: NDArray[Any]) -> str:
    """File and place of row `row` of files read one after another, the n-th from row `starts[n]` on."""
    file = int(np.searchsorted(starts, row, side="right")) - 1
    return f"{paths[file]} {place_of(paths[file], row - int(starts[file]))}"


def _misshapen(path: Path) -> str | None:
    """What is wrong with the first line whose number of fields is not the header's."""
    reader = _csv_reader(path)
    width = len(next(reader))
    for record in reader:
        if record and len(record) != width:
            return f"{path}: line {reader.line_num}: {len(record)} fields, the header has {width}"
    return None


def _original_header(path: Path) -> tuple[list[str], str]:
    """The column names of a CSV as it has them, and what stands between its fields."""
    reader = _csv_reader(path)
    header = next(reader, [])
    if not header:
        raise VerdictError(f"{path}: empty; expected a header line with {', '.join(REQUIRED)}")
    return header, reader.dialect.delimiter


def _csv_reader(path: Path) -> "Reader":
    """The lines of a CSV, its header first.

    Raises:
        VerdictError: as `_table_text`.
    """
    return table_reader(_table_text(path))


def _table_text(path: Path) -> str:
    """The text of a CSV.

    Raises:
        VerdictError: it is missing, or no text in UTF-8.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise VerdictError(f"{path}: no such file") from None
    except ValueError as error:
        raise VerdictError(str(error)) from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise VerdictError(f"{path}: line {line} holds a NUL character, as a file in UTF-16 does; save it as UTF-8")
    return text


def coded_names(values: list[str], codes: NDArray[Any]) -> Names:
    """Equal values (after stripping) under one code."""
    index: dict[str, int] = {}
    mapped = np.array([index.setdefault(value, len(index)) for value in values], dtype=np.int32)
    return Names(values=list(index), codes=mapped[codes])


def join_names(parts: Sequence[Names]) -> Names:
    """Joins columns of names, one after the other, to one."""
    index: dict[str, int] = {}
    maps = [np.array([index.setdefault(v, len(index)) for v in part.values], dtype=np.int32) for part in parts]
    return Names(
        values=list(index),
        codes=np.concatenate([mapped[part.codes] for mapped, part in zip(maps, parts, strict=True)]),
    )


def combined_key(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """A number for each row, equal for rows that are equal in all columns (codes from 0 up)."""
    key, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        width = int(column.max(initial=0)) + 1
        if size * width >= 2**62:  # pragma: no cover - needs billions of distinct names
            key = np.unique(key, return_inverse=True)[1].astype(np.int64)
            size = int(key.max(initial=0)) + 1
        key, size = key * width + column, size * width
    return key
