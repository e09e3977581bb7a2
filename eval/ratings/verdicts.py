"""What was judged: reads verdict files, and names every row that can't be one.

Used by `python -m eval rate|agree`. A verdict file is a CSV with the columns `question_id, system_a, system_b,
verdict` (1 or a = A better, 2 or b = B better, 3 or tie, -1 = unparsed) and optionally `judge` and `rater` (or
`rater_slot`). Further columns are not read. Nothing is guessed: what does not fit is an error with its line.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from eval.ratings.codes import FIRST, SECOND, TIE, UNPARSED
from harness.files.arrow import concatenated

VERDICT_CODES = {"1": FIRST, "2": SECOND, "3": TIE, "-1": UNPARSED, "a": FIRST, "b": SECOND, "tie": TIE}
HALF_POINTS = {FIRST: 2, SECOND: 0, TIE: 1}
REQUIRED = ("question_id", "system_a", "system_b", "verdict")
RATER_COLUMNS = ("rater", "rater_slot")
MAX_NAMED_ROWS = 5


class VerdictError(ValueError):
    """A verdict or score file holds something that is not one; the message names the file, the line and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A column of names: `values[codes[i]]` is row i's."""

    values: list[str]
    codes: NDArray[np.int32]  # (num_rows,)

    def pick(self, kept: NDArray[np.bool_]) -> "Names":
        """The rows that `kept` marks, and the values that are left in them."""
        left, codes = np.unique(self.codes[kept], return_inverse=True)
        return Names(values=[self.values[code] for code in left], codes=codes.astype(np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Every row of the files, in order. Arrays have shape (num_rows,)."""

    question: Names
    system_names: list[str]  # sorted
    first: NDArray[np.int32]  # `system_a`: shown first; a position in `system_names`
    second: NDArray[np.int32]
    verdict: NDArray[np.int8]  # FIRST, SECOND, TIE or UNPARSED
    judge: Names  # "" where a file has no such column
    rater: Names

    def __len__(self) -> int:
        return len(self.verdict)

    @property
    def parsed(self) -> NDArray[np.bool_]:
        return np.asarray(self.verdict != UNPARSED)


def read_header(path: Path) -> list[str]:
    """The column names of a CSV.

    Raises:
        VerdictError: The file is missing, is not text, or has no header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except FileNotFoundError:
        raise VerdictError(f"{path}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise VerdictError(f"{path}: not a CSV in UTF-8 ({error})") from None
    if not header:
        raise VerdictError(f"{path}: empty; expected a header line with {', '.join(REQUIRED)}")
    return header


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Names]:
    """The named columns of a CSV, each as text.

    Raises:
        VerdictError: A line has too few or too many fields, or there is no line below the header.
    """
    kind = pa.dictionary(pa.int32(), pa.string())
    try:
        table = arrow_csv.read_csv(
            path,
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(names), column_types=dict.fromkeys(names, kind), strings_can_be_null=False
            ),
        ).unify_dictionaries()
    except pa.ArrowInvalid as error:
        raise VerdictError(_misshapen(path) or f"{path}: not a CSV in UTF-8 ({error})") from None
    if not table.num_rows:
        raise VerdictError(f"{path}: no rows below the header")
    columns = {}
    for name in names:
        chunks = table.column(name).chunks
        codes = concatenated(chunk.indices for chunk in chunks)
        columns[name] = _names([value.strip() for value in chunks[0].dictionary.to_pylist()], codes)
    return columns


def load_verdicts(paths: Sequence[Path]) -> Verdicts:
    """All rows of verdict files.

    Raises:
        VerdictError: Wrong columns, an unknown verdict, an empty name, a system against itself, or two rows with the
            same judge, rater, order and question; each is named by file and line.
    """
    parts = [_read_file(path) for path in paths]
    starts = np.cumsum([0, *(len(part["verdict"].codes) for part in parts)])
    joined = {name: join_names([part[name] for part in parts]) for name in parts[0]}
    first, second = joined["system_a"], joined["system_b"]
    systems = join_names([first, second])
    order = np.argsort(np.argsort(np.array(systems.values)))
    codes = order[systems.codes].astype(np.int32)
    verdicts = Verdicts(
        question=joined["question_id"],
        system_names=sorted(systems.values),
        first=codes[: len(first.codes)],
        second=codes[len(first.codes) :],
        verdict=_verdict_codes(joined["verdict"]),
        judge=joined["judge"],
        rater=joined["rater"],
    )
    _refuse_duplicates(verdicts, paths, starts)
    return verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """Played matches: who met whom on which prompt, and what the first side scored.

    All arrays have shape (num_matches,). `half_points` is 2 where the first side won, 1 for a tie, 0 for a loss.
    """

    question: NDArray[np.int32]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    half_points: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.question)

    def pick(self, index: NDArray[Any]) -> "Matches":
        """The matches at `index`: positions, which may repeat, or a mask."""
        return Matches(
            question=self.question[index],
            first=self.first[index],
            second=self.second[index],
            half_points=self.half_points[index],
        )


def to_matches(verdicts: Verdicts, aggregate: str = "majority") -> Matches:
    """The matches that ratings are made from; unparsed rows are left out.

    Args:
        verdicts: Rows as loaded.
        aggregate: What to do where several raters judged one item (judge, question and pair, in whichever order).
            "majority": one match an item, won by who has more than half of the votes, else a tie (QLoRA, section
            5.3). "each": each vote is a match. Rows without a rater are always matches of their own.

    Raises:
        ValueError: `aggregate` is neither.
    """
    if aggregate not in ("majority", "each"):
        raise ValueError(f"aggregate={aggregate!r}: expected majority or each")
    half_points = np.zeros(len(verdicts), dtype=np.int8)
    for code, points in HALF_POINTS.items():
        half_points[verdicts.verdict == code] = points
    rows = Matches(
        question=verdicts.question.codes, first=verdicts.first, second=verdicts.second, half_points=half_points
    )
    has_rater = np.array([bool(name) for name in verdicts.rater.values])[verdicts.rater.codes]
    voted = has_rater & verdicts.parsed
    if aggregate == "each" or not voted.any():
        return rows.pick(verdicts.parsed)
    single, many = rows.pick(verdicts.parsed & ~has_rater), _majority(rows.pick(voted), verdicts.judge.codes[voted])
    return Matches(
        question=np.concatenate([single.question, many.question]),
        first=np.concatenate([single.first, many.first]),
        second=np.concatenate([single.second, many.second]),
        half_points=np.concatenate([single.half_points, many.half_points]),
    )


def combined_key(columns: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """One number a row, equal where all columns (codes from 0 up) are equal."""
    key, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        width = int(column.max(initial=0)) + 1
        if size * width >= 2**62:  # pragma: no cover - needs billions of distinct names
            key = np.unique(key, return_inverse=True)[1].astype(np.int64)
            size = int(key.max(initial=0)) + 1
        key, size = key * width + column, size * width
    return key


def _majority(votes: Matches, judge: NDArray[np.int32]) -> Matches:
    low, high = np.minimum(votes.first, votes.second), np.maximum(votes.first, votes.second)
    key = combined_key([judge, votes.question, low, high])
    _, where, item = np.unique(key, return_index=True, return_inverse=True)
    low_points = np.where(votes.first == low, votes.half_points, 2 - votes.half_points)
    total = np.bincount(item)
    wins, losses = (
        np.bincount(item[low_points == 2], minlength=len(total)),
        np.bincount(item[low_points == 0], minlength=len(total)),
    )
    result = 1 + (2 * wins > total).astype(np.int8) - (2 * losses > total).astype(np.int8)
    return Matches(question=votes.question[where], first=low[where], second=high[where], half_points=result)


def _read_file(path: Path) -> dict[str, Names]:
    header = read_header(path)
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise VerdictError(f"{path}: no column {', '.join(missing)}; it has {', '.join(header)}")
    raters = [name for name in RATER_COLUMNS if name in header]
    if len(raters) > 1:
        raise VerdictError(f"{path}: has both {' and '.join(raters)}; keep the one that says who voted")
    repeated = sorted({name for name in header if header.count(name) > 1} & {*REQUIRED, "judge", *raters})
    if repeated:
        raise VerdictError(f"{path}: column {', '.join(repeated)} appears twice")
    optional = [*(["judge"] if "judge" in header else []), *raters]
    columns = read_columns(path, [*REQUIRED, *optional])
    _refuse_bad_rows(path, columns)
    none = Names(values=[""], codes=np.zeros(len(columns["verdict"].codes), dtype=np.int32))
    rater = columns[raters[0]] if raters else none
    return {**{name: columns[name] for name in REQUIRED}, "judge": columns.get("judge", none), "rater": rater}


def _refuse_bad_rows(path: Path, columns: dict[str, Names]) -> None:
    first, second = columns["system_a"], columns["system_b"]
    both = join_names([first, second]).codes
    faults: list[tuple[NDArray[np.bool_], str]] = [
        (both[: len(both) // 2] == both[len(both) // 2 :], "system_a and system_b are the same")
    ]
    for name in ("question_id", "system_a", "system_b"):
        faults.append((np.array([not v for v in columns[name].values])[columns[name].codes], f"{name} is empty"))
    verdict = columns["verdict"]
    for code, value in enumerate(verdict.values):
        if value.lower() not in VERDICT_CODES:
            faults.append((verdict.codes == code, f"verdict {value!r}; expected 1, 2, 3, -1, a, b or tie"))
    refuse_rows(path, faults)


def refuse_rows(path: Path, faults: Sequence[tuple[NDArray[np.bool_], str]]) -> None:
    """Raise for the rows that a mask marks, with the first few by line; do nothing where there are none."""
    bad = sorted((int(row), message) for mask, message in faults for row in np.flatnonzero(mask)[:MAX_NAMED_ROWS])
    if not bad:
        return
    total = int(np.logical_or.reduce([mask for mask, _ in faults]).sum())
    named = "; ".join(f"line {line_number(path, row)}: {message}" for row, message in bad[:MAX_NAMED_ROWS])
    raise VerdictError(f"{path}: {total} bad row{'s' * (total > 1)}: {named}. Correct or remove them")


def line_number(path: Path, row: int) -> int:
    """The line on which data row `row` (0 is the first below the header) ends; only errors pay for this second read."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        for index, _ in enumerate(record for record in reader if record):
            if index == row + 1:
                return reader.line_num
    raise IndexError(f"{path} has no data row {row}")


def row_name(row: int, paths: Sequence[Path], starts: NDArray[Any]) -> str:
    """File and line of row `row` of files read one after another, the n-th from row `starts[n]` on."""
    file = int(np.searchsorted(starts, row, side="right")) - 1
    return f"{paths[file]} line {line_number(paths[file], row - int(starts[file]))}"


def _misshapen(path: Path) -> str | None:
    """What is wrong with the first line whose number of fields is not the header's."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            width = len(next(reader))
            for record in reader:
                if record and len(record) != width:
                    return f"{path}: line {reader.line_num}: {len(record)} fields, the header has {width}"
    except UnicodeDecodeError:
        pass
    return None


def _names(values: list[str], codes: NDArray[Any]) -> Names:
    """Equal values (after stripping) under one code."""
    index: dict[str, int] = {}
    mapped = np.array([index.setdefault(value, len(index)) for value in values], dtype=np.int32)
    return Names(values=list(index), codes=mapped[codes])


def join_names(parts: Sequence[Names]) -> Names:
    """One column under another."""
    index: dict[str, int] = {}
    maps = [np.array([index.setdefault(v, len(index)) for v in part.values], dtype=np.int32) for part in parts]
    return Names(
        values=list(index),
        codes=np.concatenate([mapped[part.codes] for mapped, part in zip(maps, parts, strict=True)]),
    )


def _verdict_codes(column: Names) -> NDArray[np.int8]:
    codes = np.array([VERDICT_CODES[value.lower()] for value in column.values], dtype=np.int8)
    return codes[column.codes]


def _refuse_duplicates(verdicts: Verdicts, paths: Sequence[Path], starts: NDArray[Any]) -> None:
    columns = [verdicts.judge.codes, verdicts.rater.codes, verdicts.first, verdicts.second, verdicts.question.codes]
    key = combined_key(columns)
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(key[order][1:] == key[order][:-1])
    if not len(again):
        return

    one, two = min((int(order[at]), int(order[at + 1])) for at in again)
    raise VerdictError(
        f"{row_name(two, paths, starts)} repeats {row_name(one, paths, starts)}: same judge, rater, order and question "
        f"(question {verdicts.question.values[verdicts.question.codes[one]]}, "
        f"{verdicts.system_names[verdicts.first[one]]} against {verdicts.system_names[verdicts.second[one]]}); "
        f"{len(again)} such repeats in all. Remove them, or add a `judge` or `rater` column that tells them apart"
    )
