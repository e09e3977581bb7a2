"""Reads the verdict files of other projects into rows like our own.

A part of `eval.verdicts.table`. There are three kinds, as JSON (lines or an array) or as Parquet; the last two also as
a CSV:

  this project, Chatbot Arena  question_id, system_a or model_a, system_b or model_b, verdict or winner, judge; Arena's
                               other layout has winner_model_a, winner_model_b and winner_tie, one of which is 1
  FastChat, pairwise           model_1, model_2, g1_winner and g2_winner: one row for each order of the two answers
  AlpacaEval                   generator_1, generator_2, preference (1 to 2, 1.5 a tie), annotator; a question is known
                               by its text

A `turn` (MT-Bench), a `benchmark` and a `rater` (or `rater_slot`) are read wherever a row has them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answers.questions import identities
from eval.answers.rows import Row, identifier_text, read_rows
from eval.verdicts.codes import is_marked

TABLES = ({"model_1", "model_2", "g1_winner", "g2_winner"}, {"generator_1", "generator_2", "preference"})
MISSING = ("", "nan", "none", "null")  # what programs write where there is no preference
RATERS = ("rater", "rater_slot")
WINNERS = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}
SWAPPED = {"model_1": "model_2", "model_2": "model_1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignVerdict:
    """One verdict; `verdict` is a word or number that `eval.verdicts.table` knows."""

    place: str  # in its file: "line 3" or "entry 3"
    question_id: str
    system_a: str
    system_b: str
    verdict: str
    judge: str
    turn: str  # of the dialogue that was judged; "" where the file doesn't say it
    benchmark: str
    rater: str


def is_foreign_table(header: Collection[str]) -> bool:
    """Whether a CSV with these columns is one of FastChat's or AlpacaEval's."""
    return any(columns <= set(header) for columns in TABLES)


def read_foreign(path: Path) -> list[ForeignVerdict]:
    """Reads all verdicts of a file.

    Raises:
        ValueError: a row is no verdict of a known kind; names file and line.
        FileNotFoundError: there is no such file.
    """
    verdicts = [verdict for row in read_rows(path) for verdict in _verdicts(row)]
    if not verdicts:
        raise ValueError(f"{path}: no verdicts in it")
    for verdict in verdicts:
        if verdict.system_a == verdict.system_b:
            raise ValueError(f"{path}: {verdict.place}: system_a and system_b are the same")
    return verdicts


def _verdicts(row: Row) -> Iterator[ForeignVerdict]:
    values = row.values
    names = identities(values, row.where)
    if not names:
        raise ValueError(
            f"{row.where}: no question_id, nor an instruction to know the question by; where each row is on a prompt "
            "of its own, number the rows"
        )
    if "g1_winner" in values:
        one, two = _name(row, "model_1"), _name(row, "model_2")
        judge = _judge(values)
        first, second = _name(row, "g1_winner"), _name(row, "g2_winner")
        yield _made(row, names[0], one, two, first, judge)
        yield _made(row, names[0], two, one, SWAPPED.get(second, second), judge)
    elif "preference" in values:
        one, two = _name(row, "generator_1"), _name(row, "generator_2")
        yield _made(row, names[0], one, two, _preferred(row), str(values.get("annotator") or ""))
    elif "score_candidate" in values:
        raise ValueError(f"{row.where}: a ten-point score, which is read from a CSV with the same columns")
    elif "score" in values and not values.keys() & {"system_a", "model_a"}:
        raise ValueError(
            f"{row.where}: a grade of a single answer, which compares no two; take the file of pairwise judgments, or "
            "grade the answers here: python -m eval judge --mode single"
        )
    else:
        one, two = _name(row, "system_a", "model_a"), _name(row, "system_b", "model_b")
        verdict = next((values[key] for key in ("verdict", "winner") if values.get(key) is not None), None)
        if verdict is None and values.keys() >= WINNERS.keys():
            won = [word for key, word in WINNERS.items() if is_marked(values[key])]
            said = all(is_marked(values[key]) is not None for key in WINNERS)
            verdict = won[0] if said and len(won) == 1 else None
        if isinstance(verdict, bool) or not isinstance(verdict, (int, float, str)):
            raise ValueError(
                f"{row.where}: verdict is {verdict!r}; expected 1, 2, 3, -1 or who won; -1 where nobody decided"
            )
        yield _made(row, names[0], one, two, str(verdict), _judge(values))


def _made(row: Row, question_id: str, system_a: str, system_b: str, verdict: str, judge: str) -> ForeignVerdict:
    return ForeignVerdict(
        place=row.place,
        question_id=question_id,
        system_a=system_a,
        system_b=system_b,
        verdict=verdict,
        judge=judge,
        turn=_said(row.values.get("turn")),
        benchmark=_said(row.values.get("benchmark", row.values.get("bench"))),
        rater=_rater(row),
    )


def _said(value: Any) -> str:
    return "" if value is None else identifier_text(str(value))


def _rater(row: Row) -> str:
    said = [_said(row.values[key]) for key in RATERS if key in row.values]
    if len(said) > 1:
        raise ValueError(f"{row.where}: has both {' and '.join(RATERS)}; keep the one that says who voted")
    return said[0] if said else ""


def _judge(values: Any) -> str:
    judge = values.get("judge") or ""
    return " ".join(str(part) for part in judge) if isinstance(judge, list) else str(judge)


def _preferred(row: Row) -> str:
    """AlpacaEval's preference: 1 the first output, 2 the second, 1.5 (in old files 0) neither; none is unparsed."""
    value = row.values["preference"]
    if value is None or str(value).strip().lower() in MISSING:
        return "-1"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if number == 0.0 or number == 1.5:
        return "3"
    if not 1.0 <= number <= 2.0:
        raise ValueError(f"{row.where}: preference is {value!r}; expected a number from 1 to 2")
    return "1" if number < 1.5 else "2"


def _name(row: Row, *keys: str) -> str:
    value = next((row.values[key] for key in keys if row.values.get(key) is not None), None)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{row.where}: {' or '.join(keys)} is {value!r}; expected text")
    return value.strip()
