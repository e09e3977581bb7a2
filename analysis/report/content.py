"""Puts together what all pages of a report show: the leaderboard's rows, runs, answers of one bench, judged matches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.report.answers import BenchAnswers, bench_answers
from analysis.report.examples.items import Item, judged_items
from analysis.report.grid import MeasureView, grid_views
from analysis.report.leaderboard import LeaderboardRow, leaderboard_rows
from analysis.report.records import Run, Tournament, load_answer_files
from eval.answers.files import named, question_places
from eval.answers.questions import EMBEDDED_QUESTIONS, join_turns, load_open_questions
from harness.ledger.finished import SweepRuns


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What a report is called and how much it shows."""

    title: str  # the sweep's name
    bench: str | None = None  # which answers are shown; None: those that were judged
    max_questions: int | None = None  # whose answers are shown; None: a hundred on one page, all in a folder
    commands: tuple[str, ...] = ()  # how to make the same again, in order
    answers: tuple[Path, ...] = ()  # answer files of systems that have no run
    questions: Path | None = None  # a question file, for its categories; None: those of the project's own questions


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that pages are made of, in the order of the leaderboard."""

    options: ReportOptions
    sweep: SweepRuns
    rows: tuple[LeaderboardRow, ...]
    runs: tuple[Run, ...]
    tournament: Tournament | None
    answers: BenchAnswers | None
    categories: Mapping[str, str] = field(default_factory=dict)  # question_id -> category
    texts: Mapping[str, str] = field(default_factory=dict)  # question_id -> text, of a question file

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The systems, best first."""
        return tuple(row.system for row in self.rows)

    @property
    def ratings(self) -> dict[str, Any]:
        """ratings.json; empty where nothing was rated."""
        return (self.tournament.ratings if self.tournament else None) or {}

    @cached_property
    def questions(self) -> dict[str, str]:
        """question_id -> text: those answered, then those only judged, whose text may not be known."""
        texts = dict(self.answers.texts) if self.answers else {}
        judged = (*self.tournament.verdicts, *self.tournament.votes) if self.tournament else ()
        return texts | {v.question_id: self.texts.get(v.question_id, "") for v in judged if v.question_id not in texts}

    def asked(self, most: int | None) -> tuple[str, ...]:
        """The questions that pages show: the first `most` of those answered, and all that were only judged."""
        answered = list(self.answers.texts) if self.answers else []
        kept = dict.fromkeys(answered[:most])
        return tuple(
            name for name in self.questions if name in kept or not (self.answers and name in self.answers.texts)
        )

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Every pair of answers that was judged, by each judge."""
        if self.tournament is None:
            return ()
        return judged_items(self.tournament, self.order, self.answers.by_system if self.answers else {})

    @cached_property
    def grid(self) -> list[MeasureView]:
        """What each measure says of the axes in which the runs differ."""
        return grid_views(self.runs, self.tournament)

    @cached_property
    def judges(self) -> tuple[str, ...]:
        """Those of the items, people too."""
        return tuple(dict.fromkeys(item.judge for item in self.items))


def gather(sweep: SweepRuns, runs: Sequence[Run], tournament: Tournament | None, options: ReportOptions) -> Content:
    """Puts records in the order of the leaderboard.

    Raises:
        ValueError: the records can't be told apart, or `options.bench` has no answers.
    """
    others = load_answer_files(options.answers, known_questions(tournament, options))
    texts = _texts(options.questions)
    answers = _with_texts(bench_answers(runs, tournament, options.bench, others), texts)
    rows = leaderboard_rows(runs, tournament, answers)
    place = {row.system: index for index, row in enumerate(rows)}
    return Content(
        options=options,
        sweep=sweep,
        rows=tuple(rows),
        runs=tuple(sorted(runs, key=lambda run: place[run.record.label])),
        tournament=tournament,
        answers=answers,
        categories=_categories(options.questions, answers),
        texts=texts,
    )


def known_questions(tournament: Tournament | None, options: ReportOptions) -> dict[str, str]:
    """{identifier: question} by which answers of other systems find their question: those asked, and those judged."""
    asked = load_open_questions(str(options.questions)) if options.questions is not None else []
    judged = {verdict.question_id for verdict in tournament.verdicts} if tournament else set()
    return question_places(asked) | {name: name for name in judged}


def unmatched_answers(tournament: Tournament, options: ReportOptions) -> list[str]:
    """Notes on answers of other systems, whose system or question was not judged."""
    found = load_answer_files(options.answers, known_questions(tournament, options))
    systems = {name for verdict in tournament.verdicts for name in (verdict.first, verdict.second)}
    judged = {verdict.question_id for verdict in tournament.verdicts}
    notes = []
    if strangers := sorted(set(found) - systems):
        notes.append(f"{len(strangers)} systems of the answers are in no verdict: {named(strangers)}")
    for system, answers in found.items():
        if unknown := [answer.question_id for answer in answers if answer.question_id not in judged]:
            share = f"{len(unknown)} of {len(answers)}"
            notes.append(f"{system}: {share} answers are to questions in no verdict: {named(unknown)}")
    return notes


def _with_texts(answers: BenchAnswers | None, texts: Mapping[str, str]) -> BenchAnswers | None:
    """The answers, and the question file's texts of questions that come without one."""
    if answers is None:
        return None
    return replace(answers, texts={name: text or texts.get(name, "") for name, text in answers.texts.items()})


def _categories(path: Path | None, answers: BenchAnswers | None) -> dict[str, str]:
    """question_id -> category. Without a file only of questions whose text is that of the project's own ones."""
    questions = load_open_questions(str(path or EMBEDDED_QUESTIONS))
    texts = answers.texts if answers else {}
    return {
        question.question_id: question.category
        for question in questions
        if question.category and (path is not None or texts.get(question.question_id) == join_turns(question.turns))
    }


def _texts(path: Path | None) -> dict[str, str]:
    questions = load_open_questions(str(path)) if path is not None else []
    return {question.question_id: join_turns(question.turns) for question in questions}
