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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED, verdict_code
from eval.verdicts.columns import (
    MAX_TURN,
    Names,
    VerdictError,
    combined_key,
    join_names,
    row_name,
    turn_numbers,
)
from eval.verdicts.files import read_verdict_file

HALF_POINTS = {FIRST: 2, SECOND: 0, TIE: 1}


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
    return _joined([read_verdict_file(path, may_be_empty) for path in paths], paths, benchmark, turn)


def load_judged(paths: Sequence[Path], benchmark: str | None, may_be_empty: bool = False) -> Verdicts:
    """The rows of a tournament's files of verdicts; where they name benchmarks, those of the one.

    Raises:
        VerdictError: as `load_verdicts`.
    """
    parts = [read_verdict_file(path, may_be_empty) for path in paths]
    chosen = benchmark if any(any(part["benchmark"].values) for part in parts) else None
    return _joined(parts, paths, chosen, None)


def _joined(
    parts: Sequence[dict[str, Names]], paths: Sequence[Path], benchmark: str | None, turn: int | None
) -> Verdicts:
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
        VerdictError: there are none; rows beside them don't say of which benchmark they are; or one question_id is in
            two of the benchmarks that are left.
    """
    files = ", ".join(map(str, paths))
    kept = np.ones(len(turns), dtype=bool)
    if benchmark is not None:
        known = sorted(name for name in benchmarks.values if name)
        if benchmark not in known:
            there = f"they are of {', '.join(known)}" if known else "no column `benchmark` says what they are of"
            raise VerdictError(f"--bench {benchmark}: {files} hold no such verdicts; {there}")
        if "" in benchmarks.values:
            silent = int((benchmarks.codes == benchmarks.values.index("")).sum())
            raise VerdictError(
                f"--bench {benchmark}: {silent} rows of {files} don't say what they are of; fill their column "
                "`benchmark`, or leave that file out"
            )
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
