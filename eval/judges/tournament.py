"""Runs a tournament, as `python -m eval judge` does: a judge compares contestants' answers to a set of questions.

    summary = run(JudgeOptions(answers=(Path("runs/1a2b"), Path("gpt4.jsonl")), tournament=Path("t"), judge=...))

Every match is judged in both orders, every judgment is stored the moment it arrives, and what is stored is not
asked again: a run that was killed goes on where it was. Source: QLoRA (arXiv 2305.14314), section 5.2.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from filelock import FileLock, Timeout

from eval.answers.files import Answers, contest_answers
from eval.answers.questions import EMBEDDED_QUESTIONS, Question, load_open_questions, shown_question
from eval.judges.registry import JUDGES, build_judge, estimate_matches
from eval.judging.matches import (
    Failure,
    Judge,
    Judgment,
    Match,
    make_matches,
    make_reference_matches,
    null_answers,
    position_bias,
    unmatched_systems,
)
from eval.judging.options import Estimate, JudgeOptions, JudgeSummary
from eval.judging.store import JudgmentStore
from eval.verdicts.codes import NULL_SYSTEM

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
) -> JudgeSummary:
    """Judges what isn't judged yet and writes the verdicts.

    Args:
        options: what to judge, and how.
        on_progress: called after each judgment.
        judge: a judge that exists already, such as one over a loaded base; default: made from `options.judge`.
        on_estimate: told before the first call to a paid judge what is ahead.
        say: told what a batch waits for.

    Raises:
        ValueError: a file, a setting or the folder can't serve; another judge is at work in the folder.
    """
    started = time.monotonic()
    tournament = open_tournament(options)
    options.tournament.mkdir(parents=True, exist_ok=True)
    lock = FileLock(options.tournament / LOCK_FILE)
    try:
        with lock.acquire(timeout=0), JudgmentStore(options.tournament) as store:
            judge = judge or build_judge(options, store, say)
            hashes = store.register(judge, options.mode.value, tournament.matches)
            if options.reparse:
                store.reparse(judge, options.mode)
            todo = _todo(tournament.matches, hashes, store.judged(judge, but_unparsed=options.retry_unparsed))
            if options.reparse:
                return _summary(options, store, judge, tournament, hashes, todo, [], time.monotonic() - started)
            if on_estimate is not None and (ahead := estimate_matches(options, list(todo.values()))) is not None:
                on_estimate(ahead)
            failures = _judge(judge, store, tournament, hashes, todo, on_progress)
            return _summary(options, store, judge, tournament, hashes, todo, failures, time.monotonic() - started)
    except Timeout:
        raise ValueError(
            f"tournament={options.tournament}: another judge is at work there; wait for it or name another folder"
        ) from None


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
        ahead = estimate_matches(options, list(_todo(tournament.matches, hashes, store.judged(judge)).values()))
    assert ahead is not None
    return ahead


def open_tournament(options: JudgeOptions) -> Tournament:
    """Reads questions and answers, and draws up the matches.

    Raises:
        ValueError: a file can't be read, or nobody meets anybody.
    """
    asked = load_open_questions(str(options.questions or EMBEDDED_QUESTIONS))
    answers, notes = contest_answers(options.answers, asked, options.benchmark)
    questions = [shown_question(question) for question in asked[: options.max_questions]]
    if options.null_control:
        if NULL_SYSTEM in answers:
            raise ValueError(f"{NULL_SYSTEM} is among the answer files already; leave one of the two out")
        answers[NULL_SYSTEM] = null_answers(questions)
    rng = np.random.default_rng(options.seed)
    if options.reference is not None:
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
) -> list[Failure]:
    num_matches_of = Counter(hashes)
    done = sum(count for digest, count in num_matches_of.items() if digest not in todo)

    def keep(judgment: Judgment) -> None:
        nonlocal done
        store.add(judge, judgment)
        done += num_matches_of[judgment.prompt_sha256] if judgment.prompt_sha256 in todo else 0
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
    found = [j for _, j in store.judgments(judge.name, options.mode.value)]
    judgments = [j for j in found if (j.question_id, j.system_a, j.system_b) in keys]
    num_reused = sum(digest not in todo for digest in hashes)
    costs = {j.prompt_sha256: j.cost_usd for j in judgments}
    if options.reference is None:
        output = store.export_verdicts()
    else:
        output = store.export_scores(judge.name, options.reference)
    return JudgeSummary(
        judge=judge.name,
        mode=options.mode,
        num_systems=len(tournament.answers),
        num_questions=len(tournament.questions),
        num_matches=len(tournament.matches),
        num_judged=len(judgments) - num_reused,
        num_reused=num_reused,
        num_failed=len(tournament.matches) - len(judgments),
        num_unparsed=sum(j.reason is not None for j in judgments),
        unparsed=dict(Counter(j.reason for j in judgments if j.reason is not None)),
        failures=dict(Counter(failure.reason for failure in failures)),
        unmatched_systems=tuple(unmatched_systems(tournament.answers, tournament.matches)),
        position_bias=position_bias(judgments),
        cost_usd=None if None in costs.values() or not costs else sum(cost or 0.0 for cost in costs.values()),
        spent_usd=store.spent_usd(),
        seconds=seconds,
        output=output,
        stopped=judge.stopped,
        notes=tournament.notes,
    )
