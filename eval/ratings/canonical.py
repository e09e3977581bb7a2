"""Puts equal verdicts into one order, whatever the order of their file, the names of their systems and the sides.

Random numbers are drawn by position. Systems and prompts are therefore numbered by what happened (who won against
whom, where), told apart by a few rounds of colour refinement (Weisfeiler & Leman 1968), before any number is drawn.
Prompts that can't be told apart are exchangeable; systems that can't be (perfect mirror images of one another) keep the
order of their names.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eval.verdicts.table import Matches

NUM_ROUNDS = 4
OTHER = 3  # added to the half points of a second judge
Codes = NDArray[np.uint64]


def canonical_order(matches: Matches, num_systems: int) -> tuple[list[int], list[int], Matches]:
    """-> (old number of each system, of each question that has a match; the matches so numbered and sorted)."""
    played, question = np.unique(matches.question, return_inverse=True)
    colors = _refined(replace(matches, question=question.astype(np.int32)), num_systems, len(played))
    questions, systems = (np.argsort(color, kind="stable") for color in colors)
    new_question, new_system = np.argsort(questions).astype(np.int32), np.argsort(systems).astype(np.int32)
    moved = Matches(
        question=new_question[question],
        first=new_system[matches.first],
        second=new_system[matches.second],
        half_points=matches.half_points,
        turn=matches.turn,
    )
    lower, upper = np.minimum(moved.first, moved.second), np.maximum(moved.first, moved.second)
    gained = np.where(moved.first <= moved.second, moved.half_points, _mirrored(moved.half_points))
    rows = np.lexsort((moved.first, gained, _turns(moved), upper, lower, moved.question))
    return systems.tolist(), played[questions].tolist(), moved.pick(rows)


def joined(one: Matches, other: Matches) -> Matches:
    """Two judges' matches in one table, in which half points tell them apart, so that both get one order."""
    return Matches(
        question=np.concatenate([one.question, other.question]),
        first=np.concatenate([one.first, other.first]),
        second=np.concatenate([one.second, other.second]),
        half_points=np.concatenate([one.half_points, other.half_points + OTHER]).astype(np.int8),
        turn=np.concatenate([_turns(one), _turns(other)]),
    )


def _turns(matches: Matches) -> NDArray[np.int16]:
    return np.ones(len(matches), dtype=np.int16) if matches.turn is None else matches.turn


def _mirrored(half_points: NDArray[np.int8]) -> NDArray[np.int8]:
    """The half points of the second system."""
    others = half_points >= OTHER
    return np.where(others, 2 * OTHER + 2, 2).astype(np.int8) - half_points


def parted(both: Matches) -> tuple[Matches, Matches]:
    """What `joined` put together, in whichever order."""
    others = both.half_points >= OTHER
    other = both.pick(others)
    return both.pick(~others), replace(other, half_points=(other.half_points - OTHER).astype(np.int8))


def _refined(matches: Matches, num_systems: int, num_questions: int) -> tuple[Codes, Codes]:
    """(colour of each question, colour of each system): sums of hashes, so that the order of the rows is nothing."""
    question = np.zeros(num_questions, dtype=np.uint64)
    system = np.zeros(num_systems, dtype=np.uint64)
    first, second = (_mixed(points.astype(np.uint64)) for points in _both_points(matches))
    for _ in range(NUM_ROUNDS):
        here, of_system = _mixed(question)[matches.question], _mixed(system)
        one, two = _mixed(of_system[matches.first] + first), _mixed(of_system[matches.second] + second)
        outcome = _mixed(here + one + two)  # a sum, so that neither side is the first
        question_sum, system_sum = np.zeros_like(question), np.zeros_like(system)
        np.add.at(question_sum, matches.question, outcome)
        np.add.at(system_sum, matches.first, _mixed(outcome + one))
        np.add.at(system_sum, matches.second, _mixed(outcome + two))
        question, system = _mixed(question + question_sum), _mixed(system + system_sum)
    return question, system


def _both_points(matches: Matches) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    return matches.half_points, _mirrored(matches.half_points)


def _mixed(values: Codes) -> Codes:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
