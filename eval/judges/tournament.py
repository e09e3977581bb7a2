"""Who wins? `python -m eval judge`: contestants' answers x benchmark x judge -> verdicts.

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

from eval.answers.files import Answers, read_contestants
from eval.answers.questions import EMBEDDED_QUESTIONS, Question, read_questions
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
from eval.judging.options import ApiOptions, Estimate, JudgeOptions, JudgeSummary, LocalOptions, ReplayOptions
from eval.judging.prompts import Mode, PromptSet, load_prompts, own_prompts
from eval.judging.store import JudgmentStore, settings_sha256
from eval.ratings.codes import NULL_SYSTEM

LOCK_FILE = ".judging.lock"

Progress = Callable[[int, int], None]  # matches decided (stored ones included), matches in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """Who plays whom."""

    answers: Answers
    questions: list[Question]
    matches: list[Match]


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
            todo = _todo(tournament.matches, hashes, store.judged(judge))
            if on_estimate is not None and isinstance(options.judge, ApiOptions):
                on_estimate(_estimate(options, todo))
            failures = _judge(judge, store, tournament, hashes, todo, on_progress)
            return _summary(options, store, judge, tournament, hashes, todo, failures, time.monotonic() - started)
    except Timeout:
        raise ValueError(
            f"tournament={options.tournament}: another judge is at work there; wait for it or name another folder"
        ) from None


def estimate(options: JudgeOptions) -> Estimate:
    """What an API judge would cost from here on; asks nobody."""
    tournament = open_tournament(options)
    with JudgmentStore(options.tournament) as store:
        judge = build_judge(options, store)
        hashes = [judge.prompt_sha256(match) for match in tournament.matches]
        return _estimate(options, _todo(tournament.matches, hashes, store.judged(judge)))


def open_tournament(options: JudgeOptions) -> Tournament:
    """Reads questions and answers, and draws up the matches.

    Raises:
        ValueError: a file can't be read, or nobody meets anybody.
    """
    questions = read_questions(options.questions or EMBEDDED_QUESTIONS)[: options.max_questions]
    answers = read_contestants(options.answers, options.benchmark)
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
        )
    return Tournament(answers=answers, questions=questions, matches=matches)


def build_judge(options: JudgeOptions, store: JudgmentStore, say: Callable[[str], None] | None = None) -> Judge:
    """Makes the judge that the options name.

    Raises:
        ValueError: its model or files are not there, it can't serve the mode, or a batch of it is under way.
    """
    chosen = options.judge
    if isinstance(chosen, ApiOptions):
        return _build_api_judge(chosen, prompt_set(options), store, say)
    if options.mode is Mode.relative:
        raise ValueError("mode=relative: only an API judge gives scores; take mode=pairwise for this judge")
    if isinstance(chosen, ReplayOptions):
        from eval.judges.replay import ReplayJudge

        return ReplayJudge(chosen.files, chosen.judge)
    assert isinstance(chosen, LocalOptions)
    if options.prompts is not None:
        raise ValueError(f"prompts={options.prompts}: only an API judge takes a prompt file")
    from eval.judges.local import load_judge

    return load_judge(chosen)


def _build_api_judge(
    chosen: ApiOptions, prompts: PromptSet, store: JudgmentStore, say: Callable[[str], None] | None
) -> Judge:
    from eval.judges.batch import BatchJudge
    from eval.judges.batch_store import BatchStore
    from eval.judges.calls import ApiJudge

    if chosen.batch:
        return BatchJudge(chosen, prompts, store, say)
    judge = ApiJudge(chosen, prompts, store)
    waiting = [booking.batch_id or booking.name for booking in BatchStore(store).unsettled(settings_sha256(judge))]
    if waiting:
        raise ValueError(
            f"batch {', '.join(waiting)} of {chosen.model} is under way, and its matches would be paid twice: collect "
            f"it with --batch (after cancelling it at the server, if you don't want to wait)"
        )
    return judge


def prompt_set(options: JudgeOptions) -> PromptSet:
    """The prompts that the options name."""
    return own_prompts(options.mode) if options.prompts is None else load_prompts(options.prompts, options.mode)


def _todo(matches: list[Match], hashes: list[str], judged: set[str]) -> dict[str, Match]:
    """One match for each prompt that isn't judged yet, in order."""
    todo: dict[str, Match] = {}
    for match, digest in zip(matches, hashes, strict=True):
        if digest not in judged:
            todo.setdefault(digest, match)
    return todo


def _estimate(options: JudgeOptions, todo: dict[str, Match]) -> Estimate:
    from eval.judges.request import estimate_calls

    assert isinstance(options.judge, ApiOptions)
    return estimate_calls(options.judge, prompt_set(options), list(todo.values()))


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

    is_waiting = getattr(judge, "is_waiting", False)  # a batch that was judged and not settled before a kill
    return judge.judge(list(todo.values()), keep) if todo or is_waiting else []


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
        failures=dict(Counter(failure.reason for failure in failures)),
        unmatched_systems=tuple(unmatched_systems(tournament.answers, tournament.matches)),
        position_bias=position_bias(judgments),
        cost_usd=None if None in costs.values() or not costs else sum(cost or 0.0 for cost in costs.values()),
        spent_usd=store.spent_usd(),
        seconds=seconds,
        output=output,
        stopped=getattr(judge, "stopped", None),
    )
