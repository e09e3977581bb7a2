"""The records of a tournament: who meets whom on which question, and what a judge said.

`python -m eval judge` runs `eval.judges.tournament`, and `eval.judging.store` keeps what is judged.

A contestant is a name with an answer to each question. Every pair of contestants meets on every question
that both answered, in both orders, because judges favour a position (in the verdicts that QLoRA, arXiv
2305.14314, released for the Vicuna benchmark, the first answer wins 65 % of the decisive ones). Verdicts
are those of `eval.verdicts.table`: 1 = the answer shown first is better, 2 = the second, 3 = tie, -1 = none could
be read. `NULL_ANSWER` makes the control of arXiv 2410.07137: a contestant with one constant answer,
which no trustworthy judge ranks high.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np

from eval.answers.files import Answers
from eval.answers.questions import Question, join_turns
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED

NOBODY = ""  # the other side of an answer that is graded by itself
TURN_MARK = "#turn"  # "81#turn2" is the grade of question 81 up to its second turn
VERDICTS = (FIRST, SECOND, TIE, UNPARSED)
NULL_ANSWER = "Thank you for your question. I hope that this answer is helpful, and I am happy to say more about it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two answers to one question, in the order in which the judge sees them; or one, graded by itself."""

    question: Question
    system_a: str  # shown first
    system_b: str  # NOBODY where one answer is graded by itself
    answer_a: str
    answer_b: str

    @property
    def key(self) -> tuple[str, str, str]:
        """(question_id, system_a, system_b)."""
        return self.question.question_id, self.system_a, self.system_b


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """A judge's verdict on one match. An unknown value is None, never a number."""

    question_id: str
    system_a: str
    system_b: str
    prompt_sha256: str
    verdict: int  # one of VERDICTS; of ten-point scores: who has the higher one; of one answer's grade: a tie
    score_a: float | None = None  # 1 to 10, where the judge gives scores
    score_b: float | None = None
    raw_text: str | None = None  # what the judge wrote
    logprobs: tuple[float, ...] | None = None  # of the verdict tokens in the order of `settings`, nats
    reason: str | None = None  # why no verdict could be read
    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None
    cost_usd: float | None = None
    latency_seconds: float | None = None
    flags_a: tuple[str, ...] | None = None  # what answer A holds that may steer the judge (`eval.judging.injection`)
    flags_b: tuple[str, ...] | None = None  # None: of a time before this was looked at

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, f"verdict {self.verdict}"
        assert (self.verdict == UNPARSED) == (self.reason is not None), "an unparsed judgment says why"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A match that brought no judgment; it is left for the next run."""

    question_id: str
    system_a: str
    system_b: str
    reason: str


@runtime_checkable
class HasVerdicts(Protocol):
    """A judge whose verdicts are there already, also on matches that nobody asks for."""

    def unmatched(self, matches: Sequence["Match"]) -> list[str]:
        """Notes on verdicts that are on none of the matches."""
        ...


@runtime_checkable
class HasNotes(Protocol):
    """A judge that has something to say about how it judged."""

    @property
    def notes(self) -> list[str]:
        """What a reader of its verdicts must know."""
        ...


class Judge(Protocol):
    """The protocol of judges, which decide matches."""

    @property
    def name(self) -> str:
        """Its name in verdict files."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that can change a verdict, as JSON. They are recorded, and part of every judgment's key."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Whether judgments of earlier runs are to be collected, even where nothing is left to ask."""
        ...

    @property
    def stopped(self) -> str | None:
        """Why the last `judge` ended before its last match; None where it did not."""
        ...

    def prompt_sha256(self, match: Match) -> str:
        """Identifies what the judge will see of a match; matches of equal hash are judged once."""
        ...

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Decides matches in any order, and calls `on_judgment` with each judgment at once. -> matches without one"""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionBias:
    """How verdicts change when the same two answers are shown in the other order, without unparsed matches."""

    first_wins: int  # matches
    second_wins: int
    ties: int
    num_pairs: int  # (question, two systems) judged in both orders
    num_consistent: int  # the same winner, or a tie, in both orders
    num_reversed: int  # the winner changed: the same position won both times
    num_tie_and_win: int  # a tie in one order only


def make_matches(answers: Answers, questions: Sequence[Question], rng: np.random.Generator) -> list[Match]:
    """Makes matches of every pair of systems, on every question that both answered, in both orders.

    The items are shuffled, and an item's two orders stay neighbours, so that a tournament that is stopped
    early is a fair sample of the whole.
    """
    return _both_orders(answers, questions, list(combinations(sorted(answers), 2)), rng)


def make_reference_matches(
    answers: Answers, questions: Sequence[Question], reference: str, rng: np.random.Generator
) -> list[Match]:
    """Makes matches of every system with one reference, as for the paper's ten-point scores (Table 6).

    Raises:
        ValueError: the reference has no answers.
    """
    if reference not in answers:
        raise ValueError(f"reference={reference!r}: no such contestant; there are {', '.join(sorted(answers))}")
    pairs = [(system, reference) for system in sorted(answers) if system != reference]
    return _both_orders(answers, questions, pairs, rng)


def make_single_matches(
    dialogues: Mapping[str, Mapping[str, Sequence[str]]], questions: Sequence[Question], rng: np.random.Generator
) -> list[Match]:
    """Every answer by itself, in shuffled order; one of several turns once for each turn, with those before it.

    Args:
        dialogues: system -> question -> what it answered, turn after turn.
        questions: what is asked.
        rng: shuffles.
    """
    matches = [
        Match(
            question=_up_to(question, turn) if len(question.turns) > 1 else question,
            system_a=system,
            system_b=NOBODY,
            answer_a=join_turns(turns[:turn]),
            answer_b="",
        )
        for question in questions
        for system in sorted(dialogues)
        if (turns := dialogues[system].get(question.question_id)) is not None
        for turn in range(1, len(turns) + 1)
    ]
    return [matches[index] for index in rng.permutation(len(matches))]


def _up_to(question: Question, turn: int) -> Question:
    """The question as it stood when its turn of that number, from 1, was asked."""
    turns = question.turns[:turn]
    of_turns = len(question.references) == len(question.turns)  # else one for all
    references = question.references[:turn] if of_turns else question.references
    name = f"{question.question_id}{TURN_MARK}{turn}"
    return replace(question, question_id=name, text=join_turns(turns), turns=turns, references=references)


def unmatched_systems(systems: Collection[str], matches: Iterable[Match]) -> list[str]:
    """-> the contestants that meet nobody, sorted: they can't be rated."""
    met = {name for match in matches for name in (match.system_a, match.system_b)} - {NOBODY}
    return sorted(set(systems) - met)


def position_bias(judgments: Iterable[Judgment]) -> PositionBias:
    """Counts wins by position, and verdicts that change when the order is swapped."""
    verdicts = {(j.question_id, j.system_a, j.system_b): j.verdict for j in judgments if j.verdict != UNPARSED}
    pairs = [
        (verdict, verdicts[question, second, first])
        for (question, first, second), verdict in verdicts.items()
        if first < second and (question, second, first) in verdicts
    ]
    consistent = sum(pair in ((FIRST, SECOND), (SECOND, FIRST), (TIE, TIE)) for pair in pairs)
    flipped = sum(one == two != TIE for one, two in pairs)
    values = list(verdicts.values())
    return PositionBias(
        first_wins=values.count(FIRST),
        second_wins=values.count(SECOND),
        ties=values.count(TIE),
        num_pairs=len(pairs),
        num_consistent=consistent,
        num_reversed=flipped,
        num_tie_and_win=len(pairs) - consistent - flipped,
    )


def _both_orders(
    answers: Answers, questions: Sequence[Question], pairs: Sequence[tuple[str, str]], rng: np.random.Generator
) -> list[Match]:
    items = [
        (question, one, two)
        for question in questions
        for one, two in pairs
        if question.question_id in answers[one] and question.question_id in answers[two]
    ]
    matches = []
    for index in rng.permutation(len(items)):
        question, one, two = items[index]
        for first, second in ((one, two), (two, one)):
            match = Match(
                question=question,
                system_a=first,
                system_b=second,
                answer_a=answers[first][question.question_id],
                answer_b=answers[second][question.question_id],
            )
            matches.append(match)
    return matches
