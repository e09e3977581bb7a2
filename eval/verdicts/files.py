"""Reads one file of verdicts, of whatever project, into columns that `eval.verdicts.table` joins."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.verdicts.codes import FIRST, MEANS_BOTH, SECOND, TIE, folded_name, is_marked, means_both, verdict_code
from eval.verdicts.columns import (
    OPTIONAL,
    REQUIRED,
    Names,
    VerdictError,
    coded_names,
    foreign_verdicts,
    is_foreign,
    join_names,
    optional_columns,
    read_columns,
    read_header,
    refuse_rows,
    turn_faults,
)
from eval.verdicts.foreign import RATERS, ForeignVerdict

ALIASES = {"question_id": ("id",), "system_a": ("model_a",), "system_b": ("model_b",), "verdict": ("winner",)}
GRADED_VERDICTS_FILE = "graded_verdicts.csv"  # of a tournament: who has the higher grade
ENSEMBLE_FILE = (
    "ensemble.csv"  # of a tournament: whom each of several judges prefers, in whatever order they were shown
)
WINNER_COLUMNS = {"winner_model_a": FIRST, "winner_model_b": SECOND, "winner_tie": TIE}  # Arena's other layout: 1 or 0


def has_places(path: Path) -> bool:
    """Whether `system_a` of a file's rows was shown first; in what follows from grades it is the first by name."""
    return path.name.removesuffix(".gz") not in (GRADED_VERDICTS_FILE, ENSEMBLE_FILE)


def read_verdict_file(path: Path, may_be_empty: bool) -> dict[str, Names]:
    """The columns of a file: those of `REQUIRED` and `OPTIONAL`, and `rater`; empty texts where it has no such column.

    Raises:
        VerdictError: as `eval.verdicts.table.load_verdicts`, of what one file shows.
    """
    header = read_header(path)
    if is_foreign(path, header):
        columns = _by_name(path, _foreign_columns(foreign_verdicts(path)))
        _refuse_bad_rows(path, columns)
        return columns
    found = {
        name: next((other for other in (name, *ALIASES.get(name, ())) if other in header), None) for name in REQUIRED
    }
    winners = list(WINNER_COLUMNS) if found["verdict"] is None and set(WINNER_COLUMNS) <= set(header) else []
    missing = [name for name, column in found.items() if column is None and not (winners and name == "verdict")]
    if missing:
        if {"system", "grade"} <= set(header):
            raise VerdictError(
                f"{path}: grades of single answers, which compare no two; take graded_verdicts.csv beside it"
            )
        remedy = "; where each row is on a prompt of its own, number the rows" if missing == ["question_id"] else ""
        raise VerdictError(f"{path}: no column {', '.join(missing)}; it has {', '.join(header)}{remedy}")
    raters = [name for name in RATERS if name in header]
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
    names = {folded_name(name) for column in ("system_a", "system_b") for name in columns[column].values}
    if is_word.all() and names.isdisjoint(map(folded_name, verdict.values)):
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


def _one_winner(path: Path, columns: Mapping[str, Names]) -> Names:
    """The verdicts of three columns, one of which says 1.

    Raises:
        VerdictError: in a row none says 1, or several, or one says something else than 1 or 0.
    """
    marks = [(columns[name].codes, [is_marked(value) for value in columns[name].values]) for name in WINNER_COLUMNS]
    won = np.array([np.array([mark is True for mark in found])[codes] for codes, found in marks])
    known = np.array([np.array([mark is not None for mark in found])[codes] for codes, found in marks])
    bad = ~known.all(axis=0) | (won.sum(axis=0) != 1)
    refuse_rows(path, [(bad, f"of {', '.join(WINNER_COLUMNS)} one has to be 1 and the others 0")])
    return Names(values=[str(code) for code in WINNER_COLUMNS.values()], codes=won.argmax(axis=0).astype(np.int32))


def _foreign_columns(rows: Sequence[ForeignVerdict]) -> dict[str, Names]:
    everything = np.arange(len(rows), dtype=np.int32)
    names = (*REQUIRED, *OPTIONAL, "rater")
    return {name: coded_names([getattr(row, name) for row in rows], everything) for name in names}


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
            words = "1, 2, 3, -1, a, b, tie, model_a, model_b or a system's name; -1 where nobody decided"
            message = f"verdict {value!r}; expected {words}"
            faults.append((verdict.codes == code, message))
    refuse_rows(path, faults + turn_faults(columns["turn"]))
