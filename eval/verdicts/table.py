"""Reads verdict files, and names every row that isn't a verdict.

The one reader of verdicts: ratings, agreement, replayed judges, people's imports and the report use it. A verdict
file is a CSV (also .csv.gz) with the columns `question_id, system_a, system_b, verdict` (1 or a = A better, 2 or b =
B better, or the better one's name; 3 or tie, -1 = unparsed; a word that is a code for one side and the other's name is
refused, while digits are codes wherever no winner is named) and optionally `judge`, `rater` (or `rater_slot`), `turn`
(of a dialogue, from 1; each is a match of its own) and `benchmark` (the set of questions that an id belongs to); or
one of others' files: Chatbot Arena's (`model_a, model_b`, and `winner`, or `winner_model_a`, `winner_model_b` and
`winner_tie`), FastChat's pairwise judgments, AlpacaEval's annotations (`eval.verdicts.foreign`). A byte order mark,
blanks and capitals in the header don't count, and 1.0 is 1. Further columns are not read. Nothing is guessed: what
doesn't fit is an error with its line.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv

from eval.answers.rows import delimiter_of, field_name, identifier_text, is_table, read_text
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from eval.verdicts.foreign import ForeignVerdict, read_foreign
from harness.files.arrow import concatenated
from harness.files.csv_cells import original_text

if TYPE_CHECKING:
    from _csv import Reader

VERDICT_CODES = {
    **dict.fromkeys(("1", "a", "model_a", "model_1", "system_a"), FIRST),
    **dict.fromkeys(("2", "b", "model_b", "model_2", "system_b"), SECOND),
    **dict.fromkeys(("3", "c", "tie", "draw", "tie (bothbad)", "tie(bothbad)", "bothbad"), TIE),
    **dict.fromkeys(("tie (both bad)", "both bad", "both_bad", "both good", "both_good", "tie (both good)"), TIE),
    **dict.fromkeys(("model a", "system a", "assistant a", "assistant_a", "answer a", "answer_a"), FIRST),
    **dict.fromkeys(("model b", "system b", "assistant b", "assistant_b", "answer b", "answer_b"), SECOND),
    **dict.fromkeys(("-1", "error"), UNPARSED),
}
HALF_POINTS = {FIRST: 2, SECOND: 0, TIE: 1}
REQUIRED = ("question_id", "system_a", "system_b", "verdict")
ALIASES = {"question_id": ("id",), "system_a": ("model_a",), "system_b": ("model_b",), "verdict": ("winner",)}
OPTIONAL = {"judge": ("judge",), "turn": ("turn",), "benchmark": ("benchmark", "bench")}  # and what they are called
WINNER_COLUMNS = {"winner_model_a": FIRST, "winner_model_b": SECOND, "winner_tie": TIE}  # Arena's other layout: 1 or 0
MEANS_BOTH = "is a code and the name of {}; write 1, 2 or 3 in all rows instead"
MAX_TURN = 999
SYSTEM_COLUMNS = ("system", "system_a", "system_b", "model_a", "model_b")
RATER_COLUMNS = ("rater", "rater_slot")
MAX_NAMED_ROWS = 5


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
    benchmark: Names
    turn: NDArray[np.int16]  # of the question's dialogue, from 1; 1 where a file has no such column

    @classmethod
    def of(
        cls,
        *,
        questions: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        verdicts: Sequence[int],
        judges: Sequence[str] = (),
        raters: Sequence[str] = (),
    ) -> "Verdicts":
        """Rows that are in memory already; `pairs` are (shown first, shown second). Of one benchmark and turn."""
        systems = sorted({name for pair in pairs for name in pair})
        place = {name: code for code, name in enumerate(systems)}
        nobody = [""] * len(verdicts)
        return cls(
            question=Names.of(questions),
            system_names=systems,
            first=np.array([place[first] for first, _ in pairs], dtype=np.int32),
            second=np.array([place[second] for _, second in pairs], dtype=np.int32),
            verdict=np.array(verdicts, dtype=np.int8),
            judge=Names.of(judges or nobody),
            rater=Names.of(raters or nobody),
            benchmark=Names.of(nobody),
            turn=np.ones(len(verdicts), dtype=np.int16),
        )

    def __len__(self) -> int:
        return len(self.verdict)

    @property
    def parsed(self) -> NDArray[np.bool_]:
        """(num_rows,) whether each row has a verdict."""
        return np.asarray(self.verdict != UNPARSED)

    def pick(self, kept: NDArray[np.bool_]) -> "Verdicts":
        """The rows that `kept` marks, at least one, and the names that are left in them."""
        left, codes = np.unique(np.concatenate([self.first[kept], self.second[kept]]), return_inverse=True)
        first, second = np.split(codes.astype(np.int32), 2)
        return Verdicts(
            question=self.question.pick(kept),
            system_names=[self.system_names[code] for code in left],
            first=first,
            second=second,
            verdict=self.verdict[kept],
            judge=self.judge.pick(kept),
            rater=self.rater.pick(kept),
            benchmark=self.benchmark.pick(kept),
            turn=self.turn[kept],
        )


def verdict_code(value: str) -> int | None:
    """The verdict that a word or number of a file stands for; None where it is none."""
    return VERDICT_CODES.get(" ".join(identifier_text(normalize("NFKC", value)).lower().split()))


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
    header, delimiter = _original_header(path)
    original = {field_name(name): name for name in reversed(header)}
    kind = pa.dictionary(pa.int32(), pa.string())
    wanted = [original[name] for name in names]
    try:
        table = arrow_csv.read_csv(
            path,
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
        columns[name] = _names([clean(original_text(value)) for value in chunks[0].dictionary.to_pylist()], codes)
    return columns


def load_verdicts(
    paths: Sequence[Path],
    may_be_empty: bool = False,
    benchmark: str | None = None,
    turn: int | None = None,
) -> Verdicts:
    """Reads the rows of verdict files.

    Args:
        paths: the files.
        may_be_empty: take a file that has a header and no rows.
        benchmark: only the rows of this set of questions.
        turn: only the rows on this turn of a dialogue.

    Raises:
        VerdictError: Wrong columns, an unknown verdict, an empty name, a system against itself, or two rows with the
            same judge, rater, order, question and turn, each named by file and line; one question_id in two
            benchmarks; or nothing is of this benchmark or turn.
    """
    parts = [_read_file(path, may_be_empty) for path in paths]
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
        benchmark=joined["benchmark"],
        turn=turn_numbers(joined["turn"]),
    )
    kept = chosen_rows(joined["question_id"], verdicts.benchmark, verdicts.turn, benchmark, turn, paths)
    _refuse_duplicates(verdicts, kept, paths, starts)
    return verdicts if kept.all() else verdicts.pick(kept)


def load_judged(paths: Sequence[Path], benchmark: str | None, may_be_empty: bool = False) -> Verdicts:
    """The rows of a tournament's files of verdicts; where they are of several benchmarks, those of the one.

    Raises:
        VerdictError: as `load_verdicts`.
    """
    chosen = benchmark if any("benchmark" in read_header(path) for path in paths) else None
    return load_verdicts(paths, may_be_empty, chosen)


def chosen_rows(
    question: Names,
    benchmarks: Names,
    turns: NDArray[np.int16],
    benchmark: str | None,
    turn: int | None,
    paths: Sequence[Path],
) -> NDArray[np.bool_]:
    """(num_rows,) the rows of a benchmark and a turn; all where None is asked for.

    Raises:
        VerdictError: there are none, or one question_id is in two of the benchmarks that are left.
    """
    files = ", ".join(map(str, paths))
    kept = np.ones(len(turns), dtype=bool)
    if benchmark is not None:
        known = sorted(name for name in benchmarks.values if name)
        if benchmark not in known:
            there = f"they are of {', '.join(known)}" if known else "no column `benchmark` says what they are of"
            raise VerdictError(f"--bench {benchmark}: {files} hold no such verdicts; {there}")
        kept &= benchmarks.codes == benchmarks.values.index(benchmark)
    if turn is not None:
        kept &= turns == turn
        if not kept.any():
            raise VerdictError(f"--turn {turn}: {files} hold no verdicts on that turn")
    where = np.unique(combined_key([question.codes[kept], benchmarks.codes[kept]]), return_index=True)[1]
    asked, times = np.unique(question.codes[kept][where], return_counts=True)
    if (times > 1).any():
        twice = question.values[asked[np.argmax(times > 1)]]
        names = sorted(name or "none named" for name in benchmarks.pick(kept).values)
        raise VerdictError(
            f"{files}: question {twice} is in several of the benchmarks {', '.join(names)}, which are different "
            "questions; --bench NAME takes one"
        )
    return kept


def refuse_other_benchmarks(one: Verdicts, other: Verdicts) -> None:
    """Does nothing where two files' questions of one id are of one benchmark, or of one that a file doesn't name.

    Raises:
        VerdictError: a question_id means different questions in the two.
    """
    of_one, of_other = (
        {
            verdicts.question.values[question]: verdicts.benchmark.values[benchmark]
            for question, benchmark in zip(verdicts.question.codes, verdicts.benchmark.codes, strict=True)
        }
        for verdicts in (one, other)
    )
    for question in of_one.keys() & of_other.keys():
        names = of_one[question], of_other[question]
        if all(names) and names[0] != names[1]:
            raise VerdictError(
                f"question {question} is of the benchmark {names[0]} in one file and of {names[1]} in the other, which "
                "are different questions; --bench NAME takes one"
            )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The matches that were played: who met whom on which prompt, and what the first side scored.

    All arrays have shape (num_matches,). `half_points` is 2 where the first side won, 1 for a tie, 0 for a loss. Turns
    of one question are matches of their own and one prompt.
    """

    question: NDArray[np.int32]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    half_points: NDArray[np.int8]
    turn: NDArray[np.int16] | None = None  # None: all are on the first

    def __len__(self) -> int:
        return len(self.question)

    def pick(self, index: NDArray[Any]) -> "Matches":
        """The matches at `index`: positions, which may repeat, or a mask."""
        return Matches(
            question=self.question[index],
            first=self.first[index],
            second=self.second[index],
            half_points=self.half_points[index],
            turn=None if self.turn is None else self.turn[index],
        )

    def items(self, num_systems: int) -> NDArray[np.int64]:
        """(num_matches,) a number for each question, turn and pair of systems, whichever of them is shown first."""
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        asked = self.question.astype(np.int64) * (MAX_TURN + 1) + (1 if self.turn is None else self.turn)
        return (asked * num_systems + low) * num_systems + high


def items_question(items: NDArray[np.int64], num_systems: int) -> NDArray[np.int64]:
    """(num_items,) the questions of numbers that `Matches.items` gives."""
    return items // (num_systems**2 * (MAX_TURN + 1))


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
        question=verdicts.question.codes,
        first=verdicts.first,
        second=verdicts.second,
        half_points=half_points,
        turn=verdicts.turn,
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
        turn=np.concatenate([part.turn for part in (single, many) if part.turn is not None]),
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


def _majority(votes: Matches, judge: NDArray[np.int32]) -> Matches:
    low, high = np.minimum(votes.first, votes.second), np.maximum(votes.first, votes.second)
    assert votes.turn is not None
    key = combined_key([judge, votes.question, votes.turn, low, high])
    _, where, item = np.unique(key, return_index=True, return_inverse=True)
    low_points = np.where(votes.first == low, votes.half_points, 2 - votes.half_points)
    total = np.bincount(item)
    wins, losses = (
        np.bincount(item[low_points == 2], minlength=len(total)),
        np.bincount(item[low_points == 0], minlength=len(total)),
    )
    result = 1 + (2 * wins > total).astype(np.int8) - (2 * losses > total).astype(np.int8)
    return Matches(
        question=votes.question[where],
        first=low[where],
        second=high[where],
        half_points=result,
        turn=votes.turn[where],
    )


def _read_file(path: Path, may_be_empty: bool) -> dict[str, Names]:
    if not is_table(path):
        columns = _by_name(path, _foreign_columns(_foreign(path)))
        _refuse_bad_rows(path, columns)
        return columns
    header = read_header(path)
    found = {
        name: next((other for other in (name, *ALIASES.get(name, ())) if other in header), None) for name in REQUIRED
    }
    winners = list(WINNER_COLUMNS) if found["verdict"] is None and set(WINNER_COLUMNS) <= set(header) else []
    missing = [name for name, column in found.items() if column is None and not (winners and name == "verdict")]
    if missing:
        raise VerdictError(f"{path}: no column {', '.join(missing)}; it has {', '.join(header)}")
    raters = [name for name in RATER_COLUMNS if name in header]
    if len(raters) > 1:
        raise VerdictError(f"{path}: has both {' and '.join(raters)}; keep the one that says who voted")
    named = {name: column for name, column in found.items() if column is not None}
    optional = optional_columns(path, header)
    several = [*named.values(), *optional.values(), *raters, *winners]
    repeated = sorted({name for name in header if header.count(name) > 1} & {*several})
    if repeated:
        raise VerdictError(f"{path}: column {', '.join(repeated)} appears twice")
    columns = read_columns(path, several, may_be_empty)
    none = Names(values=[""], codes=np.zeros(len(columns[named["question_id"]].codes), dtype=np.int32))
    rater = columns[raters[0]] if raters else none
    read = {name: columns[column] for name, column in named.items()}
    if winners:
        read["verdict"] = _one_winner(path, columns)
    read |= {name: columns[optional[name]] if name in optional else none for name in OPTIONAL}
    read = _by_name(path, read)
    _refuse_bad_rows(path, read)
    return {**read, "rater": rater}


def _by_name(path: Path, columns: dict[str, Names]) -> dict[str, Names]:
    """The columns, in which a verdict that is the name of one of the row's two systems says which of them it is.

    Raises:
        VerdictError: a verdict is a code for one side and the other's name.
    """
    verdict = columns["verdict"]
    is_word = np.array([verdict_code(value) is not None for value in verdict.values])
    names = {_folded(name) for column in ("system_a", "system_b") for name in columns[column].values}
    if is_word.all() and names.isdisjoint(map(_folded, verdict.values)):
        return columns
    said, one, two = (
        np.array(columns[name].values, dtype=object)[columns[name].codes]
        for name in ("verdict", "system_a", "system_b")
    )
    is_name = ~is_word[verdict.codes] & ((said == one) | (said == two))
    _refuse_ambiguous(path, columns, names_winners=bool(is_name.any()))
    said = np.where(is_name, np.where(said == one, "1", "2"), said)
    return {**columns, "verdict": Names.of(said.tolist())}


def _refuse_ambiguous(path: Path, columns: dict[str, Names], *, names_winners: bool) -> None:
    verdict, faults = columns["verdict"], []
    for code, value in enumerate(verdict.values):
        if value.lstrip("-").isdecimal() and not names_winners:
            continue
        for side, column in ((FIRST, "system_a"), (SECOND, "system_b")):
            named = [at for at, name in enumerate(columns[column].values) if means_both(value, name, side)]
            rows = (verdict.codes == code) & np.isin(columns[column].codes, named)
            faults.append((rows, f"verdict {value!r} {MEANS_BOTH.format(column)}"))
    refuse_rows(path, faults)


def means_both(value: str, name: str, side: int) -> bool:
    """Whether a verdict is the name of the system on one side, and a code for another outcome, as "a" may be."""
    return verdict_code(value) not in (None, side) and _folded(name) == _folded(value)


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _one_winner(path: Path, columns: Mapping[str, Names]) -> Names:
    """The verdicts of three columns, one of which says 1.

    Raises:
        VerdictError: in a row none says 1, or several, or one says something else than 1 or 0.
    """
    said = {name: np.array(columns[name].values)[columns[name].codes] for name in WINNER_COLUMNS}
    won = np.array([column == "1" for column in said.values()])
    known = np.logical_and.reduce([(column == "1") | (column == "0") for column in said.values()])
    bad = ~known | (won.sum(axis=0) != 1)
    refuse_rows(path, [(bad, f"of {', '.join(WINNER_COLUMNS)} one has to be 1 and the others 0")])
    return Names(values=[str(code) for code in WINNER_COLUMNS.values()], codes=won.argmax(axis=0).astype(np.int32))


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


def _foreign(path: Path) -> list[ForeignVerdict]:
    try:
        return read_foreign(path)
    except FileNotFoundError:
        raise VerdictError(f"{path}: no such file") from None
    except ValueError as error:
        raise VerdictError(str(error)) from None


def _foreign_columns(rows: Sequence[ForeignVerdict]) -> dict[str, Names]:
    everything = np.arange(len(rows), dtype=np.int32)
    columns = {name: _names([getattr(row, name) for row in rows], everything) for name in (*REQUIRED, *OPTIONAL)}
    return columns | {"rater": Names(values=[""], codes=np.zeros(len(rows), dtype=np.int32))}


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
        if verdict_code(value) is None:
            message = f"verdict {value!r}; expected 1, 2, 3, -1, a, b, tie, model_a, model_b or a system's name"
            faults.append((verdict.codes == code, message))
    refuse_rows(path, faults + turn_faults(columns["turn"]))


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
    if not is_table(path):
        return _foreign(path)[row].line
    reader = _csv_reader(path)
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
        VerdictError: it is missing, or no text in UTF-8.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise VerdictError(f"{path}: no such file") from None
    except (ValueError, IsADirectoryError) as error:
        raise VerdictError(f"{path}: not a CSV in UTF-8 ({error})") from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise VerdictError(f"{path}: line {line} holds a NUL character, as a file in UTF-16 does; save it as UTF-8")
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text.partition("\n")[0]))


def _names(values: list[str], codes: NDArray[Any]) -> Names:
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


def _verdict_codes(column: Names) -> NDArray[np.int8]:
    codes = np.array([verdict_code(value) for value in column.values], dtype=np.int8)
    return codes[column.codes]


def _refuse_duplicates(
    verdicts: Verdicts, kept: NDArray[np.bool_], paths: Sequence[Path], starts: NDArray[Any]
) -> None:
    columns = [verdicts.judge.codes, verdicts.rater.codes, verdicts.first, verdicts.second, verdicts.question.codes]
    key = combined_key([*columns, verdicts.turn])
    order = np.argsort(key, kind="stable")
    order = order[kept[order]]
    again = np.flatnonzero(key[order][1:] == key[order][:-1])
    if not len(again):
        return

    one, two = min((int(order[at]), int(order[at + 1])) for at in again)
    raise VerdictError(
        f"{row_name(two, paths, starts)} repeats {row_name(one, paths, starts)}: same judge, rater, order and question "
        f"(question {verdicts.question.values[verdicts.question.codes[one]]}, "
        f"{verdicts.system_names[verdicts.first[one]]} against {verdicts.system_names[verdicts.second[one]]}, "
        f"turn {verdicts.turn[one]}); "
        f"{len(again)} such repeats in all. Remove them, or add a column `judge`, `rater` or `turn` that tells them "
        "apart"
    )
