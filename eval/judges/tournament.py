"""Runs a tournament, as `python -m eval judge` does: a judge compares contestants' answers to a set of questions.

    summary = run(JudgeOptions(answers=(Path("runs/1a2b"), Path("gpt4.jsonl")), tournament=Path("t"), judge=...))

Every match is judged in both orders, every judgment is stored the moment it arrives, and what is stored is not
asked again: a run that was killed goes on where it was. Source: QLoRA (arXiv 2305.14314), section 5.2.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from eval.answers.files import Answers, contest_dialogues, missing_notes
from eval.answers.questions import (
    EMBEDDED_QUESTIONS,
    OpenQuestion,
    Question,
    join_turns,
    load_open_questions,
    shown_question,
)
from eval.judges.registry import JUDGES, build_judge, estimate_matches, prompt_set
from eval.judging.grades import mean_grades
from eval.judging.injection import flagged_wins
from eval.judging.matches import (
    NULL_ANSWER,
    Failure,
    HasNotes,
    HasVerdicts,
    Judge,
    Judgment,
    Match,
    make_matches,
    make_reference_matches,
    make_single_matches,
    position_bias,
    unmatched_systems,
)
from eval.judging.options import Estimate, JudgeOptions, JudgeSummary
from eval.judging.prompts import Mode, answer_flags
from eval.judging.store import DATABASE, JudgmentStore
from eval.verdicts.codes import NULL_SYSTEM

MEASURED_AFTER = 50  # judgments, after which the plan rests on measured replies
LOCK_FILE = ".judging.lock"

Progress = Callable[[int, int], None]  # matches decided (stored ones included), matches in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """The matches of a tournament."""

    answers: Answers
    questions: list[Question]
    matches: list[Match]
    notes: tuple[str, ...] = ()  # answers that match no question


def run(
    options: JudgeOptions,
    on_progress: Progress | None = None,
    judge: Judge | None = None,
    on_estimate: Callable[[Estimate], None] | None = None,
    say: Callable[[str], None] | None = None,
    may_pay: Callable[[Estimate], bool] | None = None,
) -> JudgeSummary:
    """Judges what isn't judged yet and writes the verdicts.

    Args:
        options: what to judge, and how.
        on_progress: called after each judgment.
        judge: a judge that exists already, such as one over a loaded base; default: made from `options.judge`.
        on_estimate: told what is ahead, before the first call to a paid judge, and again once replies are measured.
        say: told what a batch waits for.
        may_pay: asked before the first call to a paid judge; None: it may.

    Raises:
        ValueError: a file, a setting or the folder can't serve; another judge is at work in the folder; it may not pay;
            the database can't be written to.
    """
    started = time.monotonic()
    tournament = open_tournament(options)
    options.tournament.mkdir(parents=True, exist_ok=True)
    lock = FileLock(options.tournament / LOCK_FILE)
    try:
        with lock.acquire(timeout=0), JudgmentStore(options.tournament) as store:
            judge = judge or build_judge(options, store, say)
            strange = judge.unmatched(tournament.matches) if isinstance(judge, HasVerdicts) else []
            leaving = _leaving(options, store, judge, tournament)
            tournament = replace(tournament, notes=(*tournament.notes, *strange, *leaving))
            hashes = store.register(judge, options.mode.value, tournament.matches, options.benchmark)
            num_changed = store.reparse(judge, options.mode) if options.reparse else None
            todo = _todo(tournament.matches, hashes, store.judged(judge, but_unparsed=options.retry_unparsed))
            if options.reparse:
                found = _summary(options, store, judge, tournament, hashes, todo, [], time.monotonic() - started)
                return replace(found, num_changed=num_changed)
            plan = _Plan(options, store, judge, tournament, hashes, on_estimate)
            ahead = plan.tell(todo)
            if ahead is not None and may_pay is not None and not may_pay(ahead):
                raise ValueError("nothing was asked and nothing paid; --yes goes on without asking")
            failures = _judge(judge, store, tournament, hashes, todo, on_progress, plan)
            return _summary(options, store, judge, tournament, hashes, todo, failures, time.monotonic() - started)
    except Timeout:
        raise ValueError(
            f"tournament={options.tournament}: another judge is at work there; wait for it or name another folder"
        ) from None
    except sqlite3.OperationalError as error:
        raise ValueError(
            f"{options.tournament / DATABASE}: {error}; is the disk full, or the folder not to be written to? What was "
            f"stored stays, and the same command goes on"
        ) from error


def estimate(options: JudgeOptions) -> Estimate:
    """What a paid judge would cost from here on; asks nobody.

    Raises:
        ValueError: the judge costs nothing.
    """
    if JUDGES[options.judge.kind].estimate is None:
        raise ValueError("--estimate: only an API judge costs money")
    tournament = open_tournament(options)
    with JudgmentStore(options.tournament) as store:
        judge = build_judge(options, store)
        hashes = [judge.prompt_sha256(match) for match in tournament.matches]
        todo = _todo(tournament.matches, hashes, store.judged(judge, but_unparsed=options.retry_unparsed))
        ahead = _Plan(options, store, judge, tournament, hashes).tell(todo)
    assert ahead is not None
    return ahead


def open_tournament(options: JudgeOptions) -> Tournament:
    """Reads questions and answers, and draws up the matches.

    Raises:
        ValueError: a file can't be read, or nobody meets anybody.
    """
    asked = load_open_questions(str(options.questions or EMBEDDED_QUESTIONS))
    dialogues, notes = contest_dialogues(options.answers, asked, options.benchmark)
    questions = [_shown(question, options.reference_answers) for question in asked[: options.max_questions]]
    notes += missing_notes(dialogues, [question.question_id for question in questions])
    if options.null_control:
        if NULL_SYSTEM in dialogues:
            raise ValueError(f"{NULL_SYSTEM} is among the answer files already; leave one of the two out")
        dialogues[NULL_SYSTEM] = {q.question_id: (NULL_ANSWER,) * max(1, len(q.turns)) for q in questions}
    answers: Answers = {name: {q: join_turns(turns) for q, turns in by.items()} for name, by in dialogues.items()}
    rng = np.random.default_rng(options.seed)
    if options.mode is Mode.single:
        matches = make_single_matches(dialogues, questions, rng)
    elif options.reference is not None:
        matches = make_reference_matches(answers, questions, options.reference, rng)
    else:
        matches = make_matches(answers, questions, rng)
    if not matches:
        raise ValueError(
            f"no two of {', '.join(sorted(answers)) or 'no systems'} answered one of these {len(questions)} questions; "
            f"give answers of at least two systems to {options.questions or 'the embedded open prompts'}"
            + "".join(f"; {note}" for note in notes)
        )
    return Tournament(answers=answers, questions=questions, matches=matches, notes=tuple(notes))


@dataclass(slots=True)
class _Plan:
    """What is ahead of a paid judge: told before the first call, and once more when its replies are measured."""

    options: JudgeOptions
    store: JudgmentStore
    judge: Judge
    tournament: Tournament
    hashes: list[str]  # of the matches' prompts, in order
    on_estimate: Callable[[Estimate], None] | None = None
    num_kept: int = 0  # judgments of this run
    paid_usd: float = 0.0  # for them
    is_measured: bool = False

    def tell(self, todo: Mapping[str, Match]) -> Estimate | None:
        """Says what asking about `todo` takes; None for a judge that costs nothing."""
        if JUDGES[self.options.judge.kind].estimate is None:
            return None
        found = self.store.by_prompt(self.judge)
        pairs = zip(self.tournament.matches, self.hashes, strict=True)
        judged = [(match, found[digest]) for match, digest in pairs if digest in found]
        ahead = estimate_matches(self.options, list(todo.values()), judged)
        assert ahead is not None
        ahead = replace(ahead, paid_usd=self.paid_usd)
        self.is_measured = ahead.num_measured >= MEASURED_AFTER
        if self.on_estimate is not None:
            self.on_estimate(ahead)
        return ahead

    def count(self, judgment: Judgment, left: Mapping[str, Match]) -> None:
        """One more judgment is stored; `left` is not judged yet."""
        self.num_kept += 1
        self.paid_usd += judgment.cost_usd or 0.0
        if not self.is_measured and self.num_kept == MEASURED_AFTER:
            self.tell(left)


def _shown(question: OpenQuestion, with_reference: bool) -> Question:
    shown = shown_question(question)
    return shown if with_reference else replace(shown, references=())


def _leaving(options: JudgeOptions, store: JudgmentStore, judge: Judge, tournament: Tournament) -> list[str]:
    """A note on matches of earlier runs that this one does not ask for; empty where there are none."""
    num = store.num_leaving(judge.name, options.mode.value, tournament.matches, options.benchmark)
    told = "they leave the tournament's files, and their judgments are kept; --bench tells sets of questions apart"
    return [f"{num} matches of earlier runs are of other systems or questions: {told}"] if num else []


def _todo(matches: list[Match], hashes: list[str], judged: set[str]) -> dict[str, Match]:
    """One match for each prompt that isn't judged yet, in order."""
    todo: dict[str, Match] = {}
    for match, digest in zip(matches, hashes, strict=True):
        if digest not in judged:
            todo.setdefault(digest, match)
    return todo


def _judge(
    judge: Judge,
    store: JudgmentStore,
    tournament: Tournament,
    hashes: list[str],
    todo: dict[str, Match],
    on_progress: Progress | None,
    plan: _Plan,
) -> list[Failure]:
    num_matches_of = Counter(hashes)
    done = sum(count for digest, count in num_matches_of.items() if digest not in todo)
    left = dict(todo)

    match_of = dict(zip(hashes, tournament.matches, strict=True))
    prompts = prompt_set(plan.options) if JUDGES[plan.options.judge.kind].takes_prompts else None

    def keep(judgment: Judgment) -> None:
        nonlocal done
        if (match := match_of.get(judgment.prompt_sha256)) is not None:
            flags_a, flags_b = answer_flags(prompts, match)
            judgment = replace(judgment, flags_a=flags_a, flags_b=flags_b)
        store.add(judge, judgment)
        done += num_matches_of[judgment.prompt_sha256] if judgment.prompt_sha256 in todo else 0
        left.pop(judgment.prompt_sha256, None)
        plan.count(judgment, left)
        if on_progress is not None:
            on_progress(done, len(tournament.matches))

    return judge.judge(list(todo.values()), keep) if todo or judge.is_waiting else []


def _summary(
    options: JudgeOptions,
    store: JudgmentStore,
    judge: Judge,
    tournament: Tournament,
    hashes: list[str],
    todo: dict[str, Match],
    failures: list[Failure],
    seconds: float,
) -> JudgeSummary:
    keys = {match.key for match in tournament.matches}
    found = [j for _, j in store.judgments(judge.name, options.mode.value, options.benchmark)]
    judgments = [j for j in found if (j.question_id, j.system_a, j.system_b) in keys]
    num_reused = sum(digest not in todo for digest in hashes)
    num_unasked = _num_unasked(tournament, hashes, judgments, failures)
    costs = {j.prompt_sha256: j.cost_usd for j in judgments}
    is_single = options.mode is Mode.single
    return JudgeSummary(
        judge=judge.name,
        mode=options.mode,
        num_systems=len(tournament.answers),
        num_questions=len({match.question.question_id for match in tournament.matches}),
        num_matches=len(tournament.matches),
        num_judged=len(judgments) - num_reused,
        num_reused=num_reused,
        num_failed=len(tournament.matches) - len(judgments) - num_unasked,
        num_unasked=num_unasked,
        num_unparsed=sum(j.reason is not None for j in judgments),
        unparsed=dict(Counter(j.reason for j in judgments if j.reason is not None)),
        failures=dict(Counter(failure.reason for failure in failures)),
        unmatched_systems=tuple(unmatched_systems(tournament.answers, tournament.matches)),
        position_bias=position_bias([] if is_single else judgments),
        flagged=flagged_wins(judgments),
        cost_usd=None if None in costs.values() or not costs else sum(cost or 0.0 for cost in costs.values()),
        spent_usd=store.spent_usd(),
        unknown_usd=store.unknown_usd(),
        seconds=seconds,
        output=_export(options, store, judge.name),
        grades=mean_grades(judgments) if is_single else (),
        stopped=judge.stopped,
        notes=(*tournament.notes, *(judge.notes if isinstance(judge, HasNotes) else ())),
    )


def _num_unasked(
    tournament: Tournament,
    hashes: Sequence[str],
    judgments: Sequence[Judgment],
    failures: Sequence[Failure],
) -> int:
    """Matches with neither a judgment nor a failure, as those behind a stop. A prompt that serves two is asked once."""
    met = {(j.question_id, j.system_a, j.system_b) for j in judgments}
    met |= {(failure.question_id, failure.system_a, failure.system_b) for failure in failures}
    asked = {digest for match, digest in zip(tournament.matches, hashes, strict=True) if match.key in met}
    return sum(digest not in asked for digest in hashes)


def _export(options: JudgeOptions, store: JudgmentStore, judge_name: str) -> Path:
    """Writes what was judged so far as the mode has it. -> the file"""
    if options.mode is Mode.single:
        store.export_graded_verdicts()
        return store.export_grades()
    if options.reference is None:
        return store.export_verdicts()
    return store.export_scores(judge_name, options.reference)
