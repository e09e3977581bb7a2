"""Prepares the report's answers, side by side, with the judge's verdict on each pair.

The template answers.html.j2 shows these records. Questions come in the order in which
the first system answered them; a system without an answer to one is listed as such.
"""

from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchAnswers:
    """All answers of one bench."""

    bench: str
    other_benches: tuple[str, ...]
    by_system: dict[str, dict[str, Answer]]  # system -> question_id -> answer; systems that have any
    texts: dict[str, str]  # question_id -> its text, in the order in which the first system answered


def bench_answers(
    runs: Sequence[Run],
    tournament: Tournament | None,
    bench: str | None = None,
    others: Mapping[str, Sequence[Answer]] | None = None,
) -> BenchAnswers | None:
    """The answers of one bench; None where there are none.

    Args:
        runs: whose answers.
        tournament: whose verdicts say which bench was judged.
        bench: which answer files; None takes the one that covers most of the tournament's questions.
        others: answers of systems that have no run, whatever their bench.

    Raises:
        ValueError: no run has answers to `bench`, and there are no others, or runs have answers to another one.
    """
    benches = sorted({name for run in runs for name in run.answers})
    if bench is not None and bench not in benches and (benches or not others):
        known = ", ".join(benches) or "none"
        raise ValueError(f"--bench {bench}: no run has answers/{bench}.jsonl; there are {known}")
    judged = {verdict.question_id for verdict in tournament.verdicts} if tournament else set()
    chosen = bench or (_best_covered(runs, benches, judged) if benches else "")
    answered = {run.record.label: run.answers.get(chosen, ()) for run in runs}
    found = {name: answers for name, answers in {**(others or {}), **answered}.items() if answers}
    if not found:
        return None
    return BenchAnswers(
        bench=chosen,
        other_benches=tuple(name for name in benches if name != chosen),
        by_system={name: {answer.question_id: answer for answer in answers} for name, answers in found.items()},
        texts=_texts(answer for answers in found.values() for answer in answers),
    )


def _texts(answers: Iterable[Answer]) -> dict[str, str]:
    """question_id -> its text, of the first answer that has it; empty where none has."""
    texts: dict[str, str] = {}
    for answer in answers:
        texts[answer.question_id] = texts.get(answer.question_id) or answer.question
    return texts


def answers_view(
    answers: BenchAnswers | None,
    order: Sequence[str],
    tournament: Tournament | None,
    max_questions: int | None = None,
) -> AnswersView | None:
    """Side-by-side answers; None where there are none.

    Args:
        answers: of one bench.
        order: systems as the leaderboard has them.
        tournament: whose verdicts stand beside the answers.
        max_questions: more are left out, to keep the page's size.
    """
    if answers is None:
        return None
    systems = tuple(name for name in order if name in answers.by_system)
    by_question = _by_question(tournament.verdicts if tournament else ())
    return AnswersView(
        bench=answers.bench,
        other_benches=answers.other_benches,
        num_questions=len(answers.texts),
        systems=systems,
        questions=tuple(
            _question_view(answers, question_id, systems, by_question.get(question_id, ()))
            for question_id in list(answers.texts)[:max_questions]
        ),
    )


def judged_only(questions: Mapping[str, str], order: Sequence[str], tournament: Tournament) -> list[QuestionView]:
    """Questions that were judged and have no answers on disk.

    Args:
        questions: question_id -> text, empty where it is not known.
        order: systems as the leaderboard has them.
        tournament: whose verdicts.
    """
    by_question = _by_question(tournament.verdicts)
    return [
        QuestionView(question_id=name, text=text, answers=(), rulings=tuple(_rulings(by_question.get(name, ()), order)))
        for name, text in questions.items()
    ]


def _question_view(
    answers: BenchAnswers, question_id: str, systems: Sequence[str], verdicts: Iterable[Verdict]
) -> QuestionView:
    return QuestionView(
        question_id=question_id,
        text=answers.texts[question_id],
        answers=tuple(
            Shown(system=name, index=index, answer=answers.by_system[name].get(question_id))
            for index, name in enumerate(systems)
        ),
        rulings=tuple(_rulings(verdicts, systems)),
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
