"""What follows from the grades of single answers: each system's mean, and who is better on a question.

Used by `eval.judges.tournament` and `eval.judges.ensemble`. A dialogue has a grade for each turn (MT-Bench, arXiv
2306.05685); its turns belong to one question, so that intervals and ratings count it once.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np

from eval.judging.matches import TURN_MARK, Judgment
from eval.judging.options import Grade
from eval.ratings.intervals import ratio_interval
from eval.verdicts.codes import FIRST, SECOND, TIE

Item = tuple[str, str, str]  # question, and two systems in the order of their names


def mean_grades(judgments: Iterable[Judgment]) -> tuple[Grade, ...]:
    """Each system's mean grade over all its graded turns, the best first; intervals are clustered by question."""
    by_system: dict[str, dict[str, list[float]]] = {}
    for judgment in judgments:
        if judgment.score_a is not None:
            question = judgment.question_id.partition(TURN_MARK)[0]
            by_system.setdefault(judgment.system_a, {}).setdefault(question, []).append(judgment.score_a)
    found = []
    for system, questions in by_system.items():
        sums = np.array([sum(grades) for grades in questions.values()])
        counts = np.array([len(grades) for grades in questions.values()], dtype=np.float64)
        mean, num = float(sums.sum() / counts.sum()), int(counts.sum())
        found.append(Grade(system=system, mean=mean, ci95=ratio_interval(sums, counts), num_answers=num))
    return tuple(sorted(found, key=lambda grade: (-grade.mean, grade.system)))


def graded_verdicts(judgments: Iterable[Judgment]) -> dict[Item, int]:
    """Which of two systems one judge grades higher on a question, over the turns that both have a grade for."""
    grades: dict[str, dict[str, dict[str, float]]] = {}  # question -> system -> turn -> grade
    for judgment in judgments:
        if judgment.score_a is not None:
            question, _, turn = judgment.question_id.partition(TURN_MARK)
            grades.setdefault(question, {}).setdefault(judgment.system_a, {})[turn] = judgment.score_a
    found = {}
    for question, by_system in grades.items():
        for one, two in combinations(sorted(by_system), 2):
            turns = by_system[one].keys() & by_system[two].keys()
            if turns:
                difference = sum(by_system[one][turn] - by_system[two][turn] for turn in turns)
                found[question, one, two] = TIE if difference == 0 else FIRST if difference > 0 else SECOND
    return found
