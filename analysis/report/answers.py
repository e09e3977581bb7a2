"""Prepares the report's answers, side by side, with the judge's verdict on each pair.

The template answers.html.j2 shows these records. Questions come in the order in which
the first system answered them; a system without an answer to one is listed as such.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.report.records import Run, Tournament, Verdict
from eval.answers.files import Answer
from eval.verdicts.codes import FIRST, SECOND, TIE


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One system's answer to one question; `answer` None: it has none on disk."""

    system: str
    index: int  # the system's place in the leaderboard, for the page's filters
    answer: Answer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """One verdict, by the systems' places in the leaderboard."""

    first: str
    second: str
    first_index: int
    second_index: int
    winner: str | None  # None: a tie or unparsed
    is_tie: bool
    judge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionView:
    """One question with everybody's answers and every verdict on them."""

    question_id: str
    text: str
    answers: tuple[Shown, ...]
    rulings: tuple[Ruling, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersView:
    """The questions of one bench; `num_questions` of them exist, of which the first ones are in `questions`."""

    bench: str
    other_benches: tuple[str, ...]
    num_questions: int
    systems: tuple[str, ...]
    questions: tuple[QuestionView, ...]


def answers_view(
    runs: Sequence[Run],
    order: Sequence[str],
    tournament: Tournament | None,
    bench: str | None = None,
    max_questions: int = 100,
) -> AnswersView | None:
    """Side-by-side answers; None where no run has any.

    Args:
        runs: whose answers.
        order: systems as the leaderboard has them.
        tournament: whose verdicts stand beside the answers.
        bench: which answer files; None takes the one that covers most of the tournament's questions.
        max_questions: more are left out, to keep the page's size.

    Raises:
        ValueError: no run has answers to `bench`.
    """
    benches = sorted({name for run in runs for name in run.answers})
    if not benches:
        return None
    if bench is not None and bench not in benches:
        raise ValueError(f"--bench {bench}: no run has answers/{bench}.jsonl; there are {', '.join(benches)}")
    verdicts = tournament.verdicts if tournament else ()
    chosen = bench or _best_covered(runs, benches, {verdict.question_id for verdict in verdicts})
    answers_by_system = {run.record.label: {a.question_id: a for a in run.answers.get(chosen, ())} for run in runs}
    texts = {key: answer.question for answers in answers_by_system.values() for key, answer in answers.items()}
    systems = tuple(name for name in order if answers_by_system.get(name))
    by_question = _by_question(verdicts)
    questions = tuple(
        QuestionView(
            question_id=question_id,
            text=text,
            answers=tuple(
                Shown(system=name, index=index, answer=answers_by_system[name].get(question_id))
                for index, name in enumerate(systems)
            ),
            rulings=tuple(_rulings(by_question.get(question_id, ()), systems)),
        )
        for question_id, text in list(texts.items())[:max_questions]
    )
    others = tuple(name for name in benches if name != chosen)
    return AnswersView(
        bench=chosen, other_benches=others, num_questions=len(texts), systems=systems, questions=questions
    )


def _best_covered(runs: Sequence[Run], benches: Sequence[str], judged: set[str]) -> str:
    def covered(bench: str) -> int:
        return len(judged & {answer.question_id for run in runs for answer in run.answers.get(bench, ())})

    return max(benches, key=covered)  # the first of equals


def _by_question(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    grouped: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        grouped.setdefault(verdict.question_id, []).append(verdict)
    return grouped


def _rulings(verdicts: Iterable[Verdict], systems: Sequence[str]) -> list[Ruling]:
    place = {name: index for index, name in enumerate(systems)}
    rulings = [
        Ruling(
            first=verdict.first,
            second=verdict.second,
            first_index=place[verdict.first],
            second_index=place[verdict.second],
            winner={FIRST: verdict.first, SECOND: verdict.second}.get(verdict.verdict),
            is_tie=verdict.verdict == TIE,
            judge=verdict.judge,
        )
        for verdict in verdicts
        if verdict.first in place and verdict.second in place
    ]
    pair = {id(r): tuple(sorted((r.first_index, r.second_index))) for r in rulings}
    return sorted(rulings, key=lambda ruling: (pair[id(ruling)], ruling.first_index))
