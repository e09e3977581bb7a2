"""Measures what moves a judge besides quality: an answer's place, its length, and whose answer it is.

Intervals are over questions, exact at 0 and 100 % (Korn & Graubard 1998).
Used by `python -m eval rate` (position, length) and `python -m eval agree` (all three, for each of two judges).
QLoRA (arXiv 2305.14314, section 6.2) reports that GPT-4 favours the answer shown first and its own answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.ratings.intervals import clustered_interval
from eval.verdicts.codes import FIRST, SECOND, TIE
from eval.verdicts.columns import combined_key
from eval.verdicts.table import Verdicts

LengthByAnswer = Mapping[tuple[str, str], float]  # (system, question_id) -> length


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The share wins / num with its 95 % interval over prompts; None without anything to divide or resample."""

    wins: float
    num: float
    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionBias:
    """How often the answer shown first wins, over all parsed verdicts of all raters."""

    first_wins: int
    second_wins: int
    ties: int
    first_win_rate: float | None  # of the decisive verdicts; 0.5 is no bias where both orders were judged
    low: float | None
    high: float | None
    swapped_reversals: int  # of `swapped_pairs`, those where both orders name a winner, and not the same one
    swapped_pairs: int  # pairs of verdicts on one item in both orders, by one judge and rater, both parsed


def share(won: NDArray[np.bool_], question: NDArray[np.int32]) -> Share:
    """The share of `won`, with Korn & Graubard's interval over questions (`eval.ratings.intervals`).

    Args:
        won: (num_rows,).
        question: (num_rows,) code of each row's question.
    """
    if not len(won):
        return Share(wins=0, num=0, rate=None, low=None, high=None)
    _, codes = np.unique(question, return_inverse=True)
    num, wins = np.bincount(codes).astype(np.float64), np.bincount(codes, weights=won).astype(np.float64)
    low, high = clustered_interval(wins, num) or (None, None)
    return Share(wins=float(wins.sum()), num=float(num.sum()), rate=float(won.mean()), low=low, high=high)


def position_bias(verdicts: Verdicts) -> PositionBias:
    """Measures how much the place of an answer decides."""
    decisive = (verdicts.verdict == FIRST) | (verdicts.verdict == SECOND)
    first = share(verdicts.verdict[decisive] == FIRST, verdicts.question.codes[decisive])
    reversals, pairs = _swapped(verdicts)
    return PositionBias(
        first_wins=int(first.wins),
        second_wins=int(first.num - first.wins),
        ties=int((verdicts.verdict == TIE).sum()),
        first_win_rate=first.rate,
        low=first.low,
        high=first.high,
        swapped_reversals=reversals,
        swapped_pairs=pairs,
    )


def unplaced_notes(files: Sequence[str]) -> list[str]:
    """Says that in files without places (`eval.verdicts.files.has_places`) none is measured."""
    told = "pairs stand in the order of their names, not as a judge saw them: what the place does is not measured"
    return [f"{', '.join(files)}: {told}"] if files else []


def length_bias(verdicts: Verdicts, lengths: LengthByAnswer) -> Share:
    """How often the longer answer wins, of the decisive verdicts whose two answers' lengths are known and differ."""
    table = length_table(verdicts, lengths)
    gap = table[verdicts.first, verdicts.question.codes] - table[verdicts.second, verdicts.question.codes]
    used = ((verdicts.verdict == FIRST) | (verdicts.verdict == SECOND)) & np.isfinite(gap) & (gap != 0)
    longer_won = (gap[used] > 0) == (verdicts.verdict[used] == FIRST)
    return share(longer_won, verdicts.question.codes[used])


def own_wins(verdicts: Verdicts, own_system: str) -> Share:
    """How often a judge prefers `own_system`, of the decisive verdicts in which it plays.

    Raises:
        ValueError: `own_system` is not among the systems.
    """
    if own_system not in verdicts.system_names:
        raise ValueError(f"own system {own_system!r} is not judged here; there are {', '.join(verdicts.system_names)}")
    own = verdicts.system_names.index(own_system)
    decisive = (verdicts.verdict == FIRST) | (verdicts.verdict == SECOND)
    used = decisive & ((verdicts.first == own) | (verdicts.second == own))
    won = (verdicts.first[used] == own) == (verdicts.verdict[used] == FIRST)
    return share(won, verdicts.question.codes[used])


def length_table(verdicts: Verdicts, lengths: LengthByAnswer) -> NDArray[np.float64]:
    """(num_systems, num_questions) lengths, NaN where unknown."""
    table = np.full((len(verdicts.system_names), len(verdicts.question.values)), np.nan)
    systems = {name: code for code, name in enumerate(verdicts.system_names)}
    questions = {name: code for code, name in enumerate(verdicts.question.values)}
    for (system, question), length in lengths.items():
        if system in systems and question in questions:
            table[systems[system], questions[question]] = length
    return table


def _swapped(verdicts: Verdicts) -> tuple[int, int]:
    """(reversals, pairs): rows of one judge, rater, question, turn and pair, in one order and in the other."""
    rows = np.flatnonzero(verdicts.parsed)
    low, high = np.minimum(verdicts.first, verdicts.second), np.maximum(verdicts.first, verdicts.second)
    said = (verdicts.judge.codes, verdicts.rater.codes, verdicts.question.codes, verdicts.turn, low, high)
    key = combined_key([column[rows] for column in said])
    order = np.argsort(key, kind="stable")
    twin = np.flatnonzero(key[order][1:] == key[order][:-1])  # orders differ, as duplicates were refused
    one, two = verdicts.verdict[rows[order[twin]]], verdicts.verdict[rows[order[twin + 1]]]
    return int(((one == two) & (one != TIE)).sum()), len(twin)
