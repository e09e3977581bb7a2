"""Computes scores relative to a reference system from ten-point judgments, as in the paper's Table 6.

A relative score is a system's percentage of the reference's (ChatGPT's) score. Used by `python -m eval rate`.

`low` and `high` are Student's t on the ratio of the two means, linearised, a prompt's two scores kept together.

Source: QLoRA (arXiv 2305.14314), Table 6, recomputed from its released judgments: this reproduces every printed
decimal of the rows that were released. A file has the columns `question_id, system, order, score_candidate,
score_chatgpt` (or `score_reference`); `order` is candidate_first or candidate_second; -1 is an unparsed score. It may
have a `turn` and a `benchmark`, as verdict files do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.ratings.intervals import ratio_interval
from eval.verdicts.columns import (
    Names,
    VerdictError,
    combined_key,
    join_names,
    optional_columns,
    read_columns,
    read_header,
    refuse_rows,
    row_name,
    turn_faults,
    turn_numbers,
)
from eval.verdicts.table import chosen_rows

ORDERS = ("candidate_first", "candidate_second")
REFERENCE_COLUMNS = ("score_chatgpt", "score_reference")
REQUIRED = ("question_id", "system", "order", "score_candidate")
MAX_SCORE = 10.0
UNPARSED = -1.0
Z95 = 1.96  # as the paper's authors have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Rows of ten-point files; arrays have shape (num_rows,)."""

    question: Names
    system: Names
    candidate_first: NDArray[np.bool_]
    candidate: NDArray[np.float64]
    reference: NDArray[np.float64]
    turn: NDArray[np.int16]  # of the question's dialogue; a question's score is the mean of its turns

    @property
    def parsed(self) -> NDArray[np.bool_]:
        """A row counts only where both scores were read."""
        return np.asarray((self.candidate != UNPARSED) & (self.reference != UNPARSED))


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeScore:
    """Percentages of the reference's score. None where no row has that order."""

    first: float | None  # the system's answer shown first (the paper's "Sys vs. ChatGPT")
    second: float | None
    mean: float
    ci95: float | None  # the paper's half width, from the two means' errors as if independent; None without spread
    low: float | None  # 95 % over prompts, the two scores of a prompt kept together
    high: float | None
    num_prompts: int


def is_score_file(header: Sequence[str]) -> bool:
    """Whether a CSV with these columns holds ten-point scores."""
    return set(REQUIRED) <= set(header) and any(name in header for name in REFERENCE_COLUMNS)


def load_scores(paths: Sequence[Path], benchmark: str | None = None, turn: int | None = None) -> Scores:
    """Reads the rows of ten-point files.

    Args:
        paths: the files.
        benchmark: only the rows of this set of questions.
        turn: only the rows on this turn of a dialogue.

    Raises:
        VerdictError: Wrong columns, an unknown order, a score that is no number from 0 to 10 or -1, or two rows for
            the same system, order, question and turn, named by file and line; one question_id in two benchmarks; or
            nothing is of this benchmark or turn.
    """
    parts = [_read_file(path) for path in paths]
    joined = {name: join_names([part[name] for part in parts]) for name in parts[0]}
    first = np.array([value == ORDERS[0] for value in joined["order"].values])[joined["order"].codes]
    turns = turn_numbers(joined["turn"])
    kept = chosen_rows(joined["question_id"], joined["benchmark"], turns, benchmark, turn, paths)
    key = combined_key([joined["system"].codes, first.astype(np.int32), joined["question_id"].codes, turns])
    order = np.argsort(key, kind="stable")
    order = order[kept[order]]
    again = np.flatnonzero(key[order][1:] == key[order][:-1])
    if len(again):
        rows = sorted((int(order[again[0]]), int(order[again[0] + 1])))
        starts = np.cumsum([0, *(len(part["order"].codes) for part in parts)])
        names = [row_name(row, paths, starts) for row in rows]
        raise VerdictError(f"{names[1]} repeats {names[0]}: same system, order and question (and turn); remove one")
    return Scores(
        question=joined["question_id"].pick(kept),
        system=joined["system"].pick(kept),
        candidate_first=first[kept],
        candidate=_numbers(joined["score_candidate"])[kept],
        reference=_numbers(joined["score_reference"])[kept],
        turn=turns[kept],
    )


def relative_scores(scores: Scores) -> dict[str, RelativeScore]:
    """Each system's relative score, best first; a system without a parsed row is left out."""
    scores_by_system = {}
    for code, name in enumerate(scores.system.values):
        mine = (scores.system.codes == code) & scores.parsed
        if mine.any() and scores.reference[mine].sum() > 0:
            scores_by_system[name] = _relative_score(scores, mine)
    return dict(sorted(scores_by_system.items(), key=lambda item: -item[1].mean))


def _relative_score(scores: Scores, mine: NDArray[np.bool_]) -> RelativeScore:
    by_order = [_ratio(scores, mine & shown) for shown in (scores.candidate_first, ~scores.candidate_first)]
    candidate, reference = _question_means(scores, mine)
    num, ratio = len(candidate), candidate.mean() / reference.mean()
    worst = candidate.mean() - Z95 * candidate.std() / sqrt(num)
    best = reference.mean() + Z95 * reference.std() / sqrt(num)
    low, high = ratio_interval(candidate, reference) or (None, None)
    return RelativeScore(
        first=by_order[0],
        second=by_order[1],
        mean=100.0 * float(ratio),
        ci95=100.0 * float(ratio - worst / best) if candidate.std() + reference.std() > 0 else None,
        low=None if low is None else 100.0 * float(low),
        high=None if high is None else 100.0 * float(high),
        num_prompts=num,
    )


def _ratio(scores: Scores, rows: NDArray[np.bool_]) -> float | None:
    total = float(scores.reference[rows].sum())
    return 100.0 * float(scores.candidate[rows].sum()) / total if total else None


def _question_means(scores: Scores, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each question's two scores, averaged over the orders present (pooling the rows instead misses the paper)."""
    _, question = np.unique(scores.question.codes[rows], return_inverse=True)
    num = np.bincount(question)
    candidate, reference = (np.bincount(question, weights=s[rows]) / num for s in (scores.candidate, scores.reference))
    order = np.lexsort((reference, candidate))  # sums are the same to the last digit in any order of the rows
    return candidate[order], reference[order]


def _read_file(path: Path) -> dict[str, Names]:
    header = read_header(path)
    reference = next((name for name in REFERENCE_COLUMNS if name in header), None)
    missing = [*(n for n in REQUIRED if n not in header), *([] if reference else ["score_chatgpt"])]
    if missing or reference is None:
        raise VerdictError(f"{path}: no column {', '.join(missing)}; it has {', '.join(header)}")
    optional = {name: column for name, column in optional_columns(path, header).items() if name != "judge"}
    read = read_columns(path, [*REQUIRED, reference, *optional.values()])
    none = Names(values=[""], codes=np.zeros(len(read[reference].codes), dtype=np.int32))
    columns = {name: read[name] for name in REQUIRED} | {"score_reference": read[reference]}
    columns |= {name: read[optional[name]] if name in optional else none for name in ("turn", "benchmark")}
    faults = turn_faults(columns["turn"])
    for name in ("question_id", "system"):
        faults.append((np.array([not v for v in columns[name].values])[columns[name].codes], f"{name} is empty"))
    for code, value in enumerate(columns["order"].values):
        if value not in ORDERS:
            faults.append((columns["order"].codes == code, f"order {value!r}; expected {' or '.join(ORDERS)}"))
    for name in ("score_candidate", "score_reference"):
        for code, value in enumerate(columns[name].values):
            if not _is_score(value):
                message = f"{name} {value!r}; expected a number from 0 to {MAX_SCORE:g}, or -1 for unparsed"
                faults.append((columns[name].codes == code, message))
    refuse_rows(path, faults)
    return columns


def _is_score(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return number == UNPARSED or 0.0 <= number <= MAX_SCORE


def _numbers(column: Names) -> NDArray[np.float64]:
    return np.array([float(value) for value in column.values])[column.codes]
