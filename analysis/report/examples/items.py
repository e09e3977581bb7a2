"""Groups verdicts by the two answers that they compare, and says what is worth a look about each.

An item is one judge's verdicts on two systems' answers to one question, in both orders. What it is found by:
reversed (the winner changed with the order), unparsed, tied, cut (an answer ended at the token limit), empty, and
disagree (another judge, or people, prefer the other answer).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.report.records import Tournament, Verdict
from eval.answers.files import Answer
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED

PEOPLE = "people"  # votes whose file names no judge
CUT = "length"  # the finish reason of an answer that ended at the token limit
FLAGS = ("reversed", "unparsed", "tied", "cut", "empty", "disagree")  # an item's flags are bits in this order
_SWAPPED = {FIRST: SECOND, SECOND: FIRST}

AnswersBySystem = Mapping[str, Mapping[str, Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One judge's verdicts on two answers to one question. `one` is the higher system of the leaderboard."""

    question_id: str
    one: str
    two: str
    judge: str
    forward: tuple[int, ...]  # verdicts where `one` was shown first: FIRST, SECOND, TIE or UNPARSED
    backward: tuple[int, ...]  # verdicts where `two` was shown first, told of `one` too: FIRST is a win of `one`
    flags: frozenset[str]
    length_difference: int | None  # characters of `one`'s answer less those of `two`'s


def judged_items(tournament: Tournament, order: Sequence[str], answers: AnswersBySystem) -> tuple[Item, ...]:
    """Every item of the verdicts and votes, by question, systems and judge, as they first came."""
    place = {system: index for index, system in enumerate(order)}
    grouped: dict[tuple[str, str, str, str], tuple[list[int], list[int]]] = {}
    for verdict, judge in _named(tournament):
        if verdict.first not in place or verdict.second not in place:
            continue
        swapped = place[verdict.first] > place[verdict.second]
        one, two = (verdict.second, verdict.first) if swapped else (verdict.first, verdict.second)
        outcome = _SWAPPED.get(verdict.verdict, verdict.verdict) if swapped else verdict.verdict
        grouped.setdefault((verdict.question_id, one, two, judge), ([], []))[swapped].append(outcome)
    disputed = _disputed(grouped)
    return tuple(
        Item(
            question_id=question,
            one=one,
            two=two,
            judge=judge,
            forward=tuple(forward),
            backward=tuple(backward),
            flags=_flags(forward, backward, _pair(answers, question, one, two), (question, one, two) in disputed),
            length_difference=_difference(*_pair(answers, question, one, two)),
        )
        for (question, one, two, judge), (forward, backward) in grouped.items()
    )


def _named(tournament: Tournament) -> Iterable[tuple[Verdict, str]]:
    yield from ((verdict, verdict.judge) for verdict in tournament.verdicts)
    yield from ((vote, vote.judge or PEOPLE) for vote in tournament.votes)


def _pair(answers: AnswersBySystem, question: str, one: str, two: str) -> tuple[Answer | None, Answer | None]:
    return answers.get(one, {}).get(question), answers.get(two, {}).get(question)


def _difference(one: Answer | None, two: Answer | None) -> int | None:
    return None if one is None or two is None else len(one.answer) - len(two.answer)


def _flags(
    forward: Sequence[int], backward: Sequence[int], answers: Sequence[Answer | None], is_disputed: bool
) -> frozenset[str]:
    outcomes = [*forward, *backward]
    known = [answer for answer in answers if answer is not None]
    found = {
        "reversed": _winner(forward) * _winner(backward) < 0,
        "unparsed": UNPARSED in outcomes,
        "tied": TIE in outcomes,
        "cut": any(answer.finish_reason == CUT for answer in known),
        "empty": any(not answer.answer.strip() for answer in known),
        "disagree": is_disputed,
    }
    return frozenset(name for name in FLAGS if found[name])


def _winner(outcomes: Sequence[int]) -> int:
    """1: `one` won more often, -1: `two` did, 0: neither."""
    margin = outcomes.count(FIRST) - outcomes.count(SECOND)
    return (margin > 0) - (margin < 0)


def _disputed(
    grouped: Mapping[tuple[str, str, str, str], tuple[list[int], list[int]]],
) -> set[tuple[str, str, str]]:
    """(question, one, two) on which two judges, or a judge and people, prefer different answers."""
    winners: dict[tuple[str, str, str], set[int]] = {}
    for (question, one, two, _), (forward, backward) in grouped.items():
        winners.setdefault((question, one, two), set()).add(_winner([*forward, *backward]))
    return {item for item, found in winners.items() if {1, -1} <= found}
