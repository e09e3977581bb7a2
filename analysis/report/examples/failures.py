"""Sorts answers by how they fail, for a reader who picks examples as QLoRA's section 6 does ("lemon-picking").

What a program sees of an answer is here: cut off, empty, saying one thing over and over, refusing, losing every match.
The paper's own kinds (facts, suggestibility, refusal, secrets, arithmetic, other minds) need a reader, who sets them in
the page's notes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.examples.items import CUT, Item
from eval.answers.files import Answer
from eval.verdicts.codes import FIRST, SECOND, TIE

KINDS = ("cut", "empty", "repeats", "refuses", "lost all")  # an answer's kinds are bits in this order
READERS_KINDS = (
    "wrong fact", "believes a false premise", "refuses without need", "gives a secret away", "wrong arithmetic",
    "misreads other minds", "does not follow the instruction", "other",
)  # fmt: skip
MIN_REPEATS = 4
MIN_REPEATED = 12  # characters of a line or sentence whose repetition counts
_PARTS = re.compile(r"[\n.!?]+")
_REFUSAL = re.compile(
    r"\s*(i['\u2019]?m sorry|i am sorry|sorry, but|as an ai\b|i can(no|['\u2019])t\b|i['\u2019]m (not able|unable)|"
    r"i am (not able|unable))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An answer with the kinds of failure that a program sees; it may have none."""

    question_id: str
    system: str
    answer: Answer
    kinds: frozenset[str]


def failures(answers: dict[str, dict[str, Answer]], items: Sequence[Item], questions: Sequence[str]) -> list[Failure]:
    """Every answer to `questions`, in the order of questions, then systems."""
    points = _points(items)
    return [
        Failure(
            question_id=question,
            system=system,
            answer=by_question[question],
            kinds=_kinds(by_question[question], points.get((question, system))),
        )
        for question in questions
        for system, by_question in answers.items()
        if question in by_question
    ]


def repeats_itself(text: str) -> bool:
    """Whether one line or sentence of the text stands there MIN_REPEATS times or more, and is most of it."""
    parts = [part.strip().lower() for part in _PARTS.split(text)]
    long = Counter(part for part in parts if len(part) >= MIN_REPEATED)
    if not long:
        return False
    part, count = long.most_common(1)[0]
    return count >= MIN_REPEATS and 2 * count * len(part) > len(text.strip())


def _kinds(answer: Answer, outcome: tuple[int, int] | None) -> frozenset[str]:
    is_empty = not answer.answer.strip()
    found = {
        "cut": answer.finish_reason == CUT,
        "empty": is_empty,
        "repeats": repeats_itself(answer.answer),
        "refuses": _REFUSAL.match(answer.answer) is not None,
        "lost all": outcome is not None and outcome[0] == 0 and outcome[1] > 1,
    }
    return frozenset(kind for kind in KINDS if found[kind])


def _points(items: Sequence[Item]) -> dict[tuple[str, str], tuple[int, int]]:
    """(question, system) -> half points won, matches played."""
    points: Counter[tuple[str, str]] = Counter()
    matches: Counter[tuple[str, str]] = Counter()
    for item in items:
        outcomes = [*item.forward, *item.backward]
        wins, losses, ties = (outcomes.count(code) for code in (FIRST, SECOND, TIE))
        for system, gained in ((item.one, 2 * wins + ties), (item.two, 2 * losses + ties)):
            points[item.question_id, system] += gained
            matches[item.question_id, system] += wins + losses + ties
    return {key: (points[key], matches[key]) for key in matches}
