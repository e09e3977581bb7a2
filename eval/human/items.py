"""Draws up what people vote on: questions with two systems' answers, and checks whose better answer is known.

    contest = draw_contest(ContestOptions(answers=(Path("runs/1a2b"), Path("gpt4.jsonl")), tournament=Path("t")))

An item is a question and a pair of systems; which of the two stands left is drawn for each vote
(`eval.human.votes`). Items are ordered so that every pair of systems comes equally often in any first part of them. An
attention check shows an answer beside the same words in random order: who prefers the jumble did not read.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from eval.answers.files import Dialogues, contest_dialogues, missing_notes, named
from eval.answers.questions import (
    EMBEDDED_QUESTIONS,
    Question,
    join_turns,
    load_open_questions,
    shown_question,
    text_field,
)
from eval.answers.rows import TABLE_SUFFIXES, read_rows
from eval.ratings.bradley_terry import ANCHOR, POINTS_PER_NAT, count_cells, fit
from eval.ratings.people import informative_order
from eval.verdicts.codes import FIRST, SECOND
from eval.verdicts.table import load_judged, to_matches
from harness.runs.record import RECORD_FILE

JUDGED_FILE = "verdicts.csv"  # what `python -m eval judge` leaves in a tournament
ANSWER_SUFFIXES = (".jsonl", ".json", *TABLE_SUFFIXES)
CHECK_SYSTEMS = ("attention-better", "attention-worse")
NUM_CHECKS = 20  # drawn up from the contest's own answers; a rater sees each at most once
CHECK_WORDS = (12, 150)  # fewer can't be told from a jumble, more tire


@dataclass(frozen=True, slots=True, kw_only=True)
class ContestOptions:
    """The files that items come from, and how items are chosen."""

    answers: tuple[Path, ...]  # answer files, run folders, or folders of either
    tournament: Path  # keeps the votes
    questions: Path | None = None  # None: the embedded open prompts
    benchmark: str = "open"  # which answers of a run folder
    max_questions: int | None = None  # only the first N; None takes all
    only_judged: bool = False  # only what stands in the tournament's verdicts.csv
    allow_empty: bool = False  # take empty answers as answers
    checks: Path | None = None  # attention checks of one's own; None: drawn from the answers
    order: str = "even"  # of the items: pairs in turn, or `informative`: those first that make ratings surer soonest
    seed: int = 0  # of the order of items, the checks, and with rater and item of the sides

    def __post_init__(self) -> None:
        if self.max_questions is not None and self.max_questions < 1:
            raise ValueError(f"max_questions={self.max_questions}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be 0 or more")
        if self.order not in ("even", "informative"):
            raise ValueError(f"order={self.order!r}: expected even or informative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question and two answers. Which of them a page shows first is drawn for each vote."""

    question_id: str
    category: str
    question: str
    system_one: str
    system_two: str
    answer_one: str
    answer_two: str
    better: int | None = None  # of an attention check: FIRST (answer_one) or SECOND
    turns: tuple[tuple[str, str, str], ...] = ()  # the three texts by turn, where a dialogue has several

    @property
    def shown_turns(self) -> tuple[tuple[str, str, str], ...]:
        """(question, answer_one, answer_two) of every turn, also of a single one."""
        return self.turns or ((self.question, self.answer_one, self.answer_two),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """All items and checks of a vote, in the order in which they are handed out."""

    items: tuple[Item, ...]
    checks: tuple[Item, ...]
    seed: int
    notes: tuple[str, ...] = ()  # answers that match no question

    @property
    def sha256(self) -> str:
        """Identifies the contest: equal texts, names, order and seed. Turns are in the texts already."""
        items = [asdict(item) for item in (*self.items, *self.checks)]
        values = [self.seed, [{key: item[key] for key in item if key != "turns"} for item in items]]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def draw_contest(options: ContestOptions) -> Contest:
    """Reads questions and answers and draws up items and checks.

    Raises:
        ValueError: a file or row can't serve, an answer is empty, or no two systems answered one question.
    """
    asked = load_open_questions(str(options.questions or EMBEDDED_QUESTIONS))
    paths = [file for path in options.answers for file in answer_sources(path, options.benchmark)]
    answers, notes = contest_dialogues(paths, asked, options.benchmark, may_be_empty=options.allow_empty)
    questions = [shown_question(question) for question in asked[: options.max_questions]]
    notes += missing_notes(answers, [question.question_id for question in questions])
    if len(answers) < 2:
        who = f"only {', '.join(answers)}" if answers else "no system"
        raise ValueError(f"answers of {who}: people compare two; give answers of at least two systems")
    order_rng, check_rng = np.random.default_rng(options.seed).spawn(2)
    judged = _judged_pairs(options.tournament / JUDGED_FILE, options.benchmark) if options.only_judged else None
    notes += _strange_pairs(judged or set(), answers, {question.question_id for question in asked})
    informative = options.order == "informative"
    strengths = _judged_strengths(options.tournament / JUDGED_FILE, options.benchmark) if informative else None
    items = _items(answers, questions, judged, order_rng, strengths)
    if not items:
        where = options.questions or "the embedded open prompts"
        raise ValueError(
            f"no two of {', '.join(sorted(answers))} answered one of the {len(questions)} questions of {where}"
            + "".join(f"; {note}" for note in notes)
        )
    checks = list(_jumbled_checks(items, check_rng)) if options.checks is None else read_checks(options.checks)
    return Contest(items=tuple(items), checks=tuple(checks), seed=options.seed, notes=tuple(notes))


def answer_sources(path: Path, benchmark: str) -> list[Path]:
    """The answer files and run folders that a path means: itself, or those in a folder of them.

    Raises:
        ValueError: a folder that holds neither.
    """
    if not path.is_dir() or (path / "answers").is_dir() or (path / RECORD_FILE).is_file():
        return [path]
    runs = sorted(file.parent.parent for file in path.glob(f"*/answers/{benchmark}.jsonl"))
    found = runs or sorted(file for file in path.iterdir() if _may_hold_answers(file))
    if not found:
        raise ValueError(
            f"{path}: neither a run folder, nor a folder of runs with answers/{benchmark}.jsonl, nor of answer files "
            f"({', '.join(ANSWER_SUFFIXES)}, each also .gz)"
        )
    return found


def _may_hold_answers(file: Path) -> bool:
    name = file.name.lower().removesuffix(".gz")
    return file.is_file() and name.endswith(ANSWER_SUFFIXES) and not name.endswith(".settings.json")


def read_checks(path: Path) -> list[Item]:
    """Attention checks: jsonl with `question`, `better`, `worse`.

    Raises:
        ValueError: a row lacks one of them, or there is none.
    """
    checks = [
        _check(number, *(text_field(row, key) for key in ("question", "better", "worse")))
        for number, row in enumerate(read_rows(path), start=1)
    ]
    if not checks:
        raise ValueError(f"{path}: no attention checks; expected one JSON object a line with question, better, worse")
    return checks


def _items(
    answers: Dialogues,
    questions: Sequence[Question],
    judged: set[tuple[str, str, str]] | None,
    rng: np.random.Generator,
    strengths: Mapping[str, float] | None = None,
) -> list[Item]:
    by_pair: list[list[Item]] = []
    for one, two in combinations(sorted(answers), 2):
        both = [
            question
            for question in questions
            if question.question_id in answers[one]
            and question.question_id in answers[two]
            and (judged is None or (question.question_id, one, two) in judged)
        ]
        by_pair.append([_item(both[index], one, two, answers) for index in rng.permutation(len(both))])
    if strengths is not None:
        pairs = np.array(list(combinations(range(len(answers)), 2)))
        counts = np.array([len(items) for items in by_pair])
        known = np.array([strengths.get(name, 0.0) for name in sorted(answers)])
        dealt = [iter(items) for items in by_pair]
        return [next(dealt[pair]) for pair in informative_order(known, pairs, counts)]
    rounds = max(len(items) for items in by_pair)
    return [
        by_pair[pair][at] for at in range(rounds) for pair in rng.permutation(len(by_pair)) if at < len(by_pair[pair])
    ]


def _item(question: Question, one: str, two: str, answers: Dialogues) -> Item:
    turns_one, turns_two = (answers[name][question.question_id] for name in (one, two))
    turns = tuple(zip(question.turns, turns_one, turns_two, strict=True))
    return Item(
        question_id=question.question_id,
        category=question.category,
        question=question.text,
        system_one=one,
        system_two=two,
        answer_one=join_turns(turns_one),
        answer_two=join_turns(turns_two),
        turns=turns if len(turns) > 1 else (),
    )


def _judged_strengths(path: Path, benchmark: str) -> dict[str, float]:
    """What the judge's verdicts, where there are any, say of each system's strength, in nats."""
    if not path.is_file():
        return {}
    rows = load_judged([path], benchmark, may_be_empty=True)
    cells = count_cells(to_matches(rows), len(rows.system_names))
    points = np.nan_to_num((fit(cells, cells.totals()).points - ANCHOR) / POINTS_PER_NAT)
    return dict(zip(rows.system_names, points.tolist(), strict=True))


def _judged_pairs(path: Path, benchmark: str) -> set[tuple[str, str, str]]:
    """The pairs of a verdict file as (question_id, system, system), the systems sorted."""
    rows = load_judged([path], benchmark)
    questions = [rows.question.values[code] for code in rows.question.codes]
    pairs = zip(questions, rows.first, rows.second, strict=True)
    names = rows.system_names  # sorted, so that codes are ordered as names are
    return {(question, names[min(a, b)], names[max(a, b)]) for question, a, b in pairs}


def _strange_pairs(
    judged: set[tuple[str, str, str]], answers: Collection[str], questions: Collection[str]
) -> list[str]:
    """A note on judged pairs whose question or system is in none of these files; empty where there are none."""
    strange = sorted(
        f"question {question}, {one} against {two}"
        for question, one, two in judged
        if question not in questions or one not in answers or two not in answers
    )
    what = f"{len(strange)} judged pairs of {JUDGED_FILE} are of no question or no system here and are left out"
    return [f"{what}: {named(strange)}"] if strange else []


def _jumbled_checks(items: Sequence[Item], rng: np.random.Generator) -> Iterator[Item]:
    """Up to NUM_CHECKS answers beside their own words in random order; none where all answers are too short."""
    begins = [item.shown_turns[0] for item in items]
    texts = dict.fromkeys((question, text) for question, one, two in begins for text in (one, two))
    low, high = CHECK_WORDS
    fitting = [(question, text) for question, text in texts if low <= len(set(text.split())) <= high]
    for number, at in enumerate(rng.permutation(len(fitting))[:NUM_CHECKS], start=1):
        question, text = fitting[at]
        yield _check(number, question, text, " ".join(rng.permutation(text.split())))


def _check(number: int, question: str, better: str, worse: str) -> Item:
    """Half of the checks have the better answer first, so that no column of the file gives them away."""
    texts = [(CHECK_SYSTEMS[0], better), (CHECK_SYSTEMS[1], worse)][:: -1 if number % 2 else 1]
    return Item(
        question_id=f"attention-{number}",
        category="attention",
        question=question,
        system_one=texts[0][0],
        system_two=texts[1][0],
        answer_one=texts[0][1],
        answer_two=texts[1][1],
        better=SECOND if number % 2 else FIRST,
    )
