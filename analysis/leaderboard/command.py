"""The body of `python -m analysis leaderboard`: looks, plans, asks, does the steps, and sums up."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from analysis.leaderboard.child import run_child
from analysis.leaderboard.found import RATINGS_FILE, Found, look
from analysis.leaderboard.options import JUDGE, REPORT, LeaderboardOptions, option_of
from analysis.leaderboard.plan import PAGE, PYTHON, Plan, Step, make_plan
from analysis.leaderboard.run import Outcome, Runner, Steps, estimate_command, plain_outcomes, read_estimates
from analysis.leaderboard.show import StepsDisplay, print_plan
from analysis.report.leaderboard import LeaderboardRow, leaderboard_table
from eval.judging.flags import JudgeFlags, costs_money, replayed_file
from harness.config.choices import model_choice
from harness.console import EXIT_FAILED, EXIT_OK, STDERR, STDOUT, say
from harness.files.atomic import to_json
from harness.files.typed import fit
from harness.runs.steps import shell_line

LOCK_FILE = ".leaderboard.lock"
NOWHERE = Path(os.devnull)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Who says whether a judge may be paid."""

    yes: bool  # said already
    confirm: Callable[[str], bool] | None  # asks a person; None where nobody is at a terminal


def leaderboard(options: LeaderboardOptions, consent: Consent, only_plan: bool, as_json: bool) -> int:
    """Makes a leaderboard, or says how. -> exit status: 0, or 1 where a step failed.

    Raises:
        ValueError: whatever the user can mend before anything starts.
        Stopped: a signal ended it; what was made stays.
    """
    check_further(options.further)
    found = look(options)
    steps = Steps(options)
    plan = make_plan(options, found, steps.is_current)
    for step in plan.steps:
        if step.kind == JUDGE and step.to_make:
            check_judges(options)
    if only_plan:
        estimates = _estimates(plan)
        lines = [f"note: {estimate_line(one)}" for one in estimates]
        if as_json:
            print(to_json(plan_values(plan, estimates), where="standard output"))
        else:
            print_plan(plan, lines)
        return EXIT_OK
    _require_consent(plan, options, consent)
    with _alone(options.tournament):
        outcomes = _done(options, consent, plan, found, steps, as_json)
    return _summed_up(options, plan, outcomes, as_json)


def _done(
    options: LeaderboardOptions, consent: Consent, plan: Plan, found: Found, steps: Steps, as_json: bool
) -> list[Outcome]:
    if not as_json:
        print_plan(plan)

    def may_pay(estimates: Sequence[Mapping[str, Any]]) -> bool:
        for one in estimates:
            say(estimate_line(one), STDERR)
        return consent.yes or consent.confirm is None or consent.confirm("Go on?")

    with StepsDisplay(plan.steps, hidden=as_json) as display:
        return Runner(options=options, steps=steps, display=display, may_pay=may_pay).run(plan, found)


def _summed_up(options: LeaderboardOptions, plan: Plan, outcomes: Sequence[Outcome], as_json: bool) -> int:
    """Says what was made. -> exit status."""
    open_steps = [outcome for outcome in outcomes if not outcome.is_good]
    site = next(outcome for outcome in outcomes if outcome.key == REPORT)
    rows = json.loads(site.output) if site.is_good else []
    page = str(options.out / PAGE) if site.is_good else None
    if as_json:
        values = {"complete": not open_steps, "notes": list(plan.notes), "steps": plain_outcomes(outcomes)}
        print(to_json(values | {"leaderboard": rows, "page": page}, where="standard output"))
    else:
        if site.is_good:
            STDOUT.print(leaderboard_table(fit(rows, list[LeaderboardRow], "the site's rows", "a mistake of ours")))
            for sentence in _verdict(options.tournament / RATINGS_FILE):
                say(f"{sentence}.")
            say(f"page: {page}")
        for outcome in open_steps:
            say(f"{outcome.state}: {outcome.title}: {outcome.words}", STDERR)
        if open_steps:
            say("the same command goes on with what is not done, and with nothing else", STDERR)
    return EXIT_FAILED if open_steps else EXIT_OK


def _verdict(ratings: Path) -> list[str]:
    """The sentences that say which system is best; none where nothing was rated."""
    if not ratings.is_file():
        return []
    return [str(sentence) for sentence in json.loads(ratings.read_bytes()).get("verdict", [])]


def check_further(further: Mapping[str, Sequence[str]]) -> None:
    """Has each command read the options that `--with` gives it.

    Raises:
        ValueError: it doesn't know one of them.
    """
    problems = []
    for command, words in further.items():
        package = "analysis" if command == REPORT else "eval"
        ended = run_child((*PYTHON, package, command, *words, "--help"), NOWHERE, lambda *_: None)
        if ended.status:
            problems.append(f'--with "{shell_line((command, *words))}": {ended.error}')
    if problems:
        raise ValueError("\n".join(problems))


def check_judges(options: LeaderboardOptions) -> None:
    """Looks whether the judges can be asked at all, before hours of answering.

    Raises:
        ValueError: a file or a model that isn't there, or a key that isn't set.
    """
    for name in options.judges:
        kind, _, rest = name.partition(":")
        if costs_money(name):
            variable = option_of(options.further.get(JUDGE, ()), "--key-variable") or JudgeFlags().key_variable
            if not os.environ.get(variable, "").strip():
                raise ValueError(
                    f"--judge {name}: {variable} is not set: put the server's key into it (any text if it asks for "
                    f'none), or name another variable by --with "judge --key-variable NAME"'
                )
        elif kind == "replay" and not (file := replayed_file(name)[0]).is_file():
            raise ValueError(f"--judge {name}: {file}: no such file")
        elif kind == "local":
            model_choice(rest)


def estimate_line(estimate: Mapping[str, Any]) -> str:
    """What a paid judge takes from here on, in one line."""
    cost = "no price is known"
    if estimate["cost_usd"] is not None:
        batch = ", at the batch price" if estimate["batch"] else ""
        cost = f"about {estimate['cost_usd']:.4f} USD, at most {estimate['max_cost_usd']:.4f} without retries"
        cost += f" ({estimate['price_source']}{batch})"
    return f"judging takes {estimate['num_calls']} calls: {cost}"


def plan_values(plan: Plan, estimates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plan as JSON has it."""
    steps = [
        {"key": s.key, "title": s.title, "there": s.there, "to_make": s.to_make, "command": list(s.command)}
        for s in plan.steps
    ]
    return {"steps": steps, "notes": list(plan.notes), "estimates": list(estimates)}


def _estimates(plan: Plan) -> list[dict[str, Any]]:
    """What judging will cost, where all answers are there to be counted.

    Raises:
        ValueError: the judge can't be asked so.
    """
    judging: Step | None = next((step for step in plan.steps if step.pays and step.to_make), None)
    if judging is None or any(step.to_make for step in plan.steps if step.key in judging.needs):
        return []
    ended = run_child(estimate_command(judging), NOWHERE, lambda *_: None)
    if ended.status:
        raise ValueError(ended.error)
    return read_estimates(ended.output)


def _require_consent(plan: Plan, options: LeaderboardOptions, consent: Consent) -> None:
    """Raises ValueError where a judge is to be paid, and nobody allows it or can be asked."""
    pays = any(step.pays and step.to_make for step in plan.steps)
    if pays and not consent.yes and consent.confirm is None and options.budget_usd is None:
        raise ValueError(
            f"--judge {','.join(options.judges)}: it is paid, and nobody is at a terminal to be asked; say --yes, or "
            f"how much it may cost by --budget-usd; --plan says what is ahead"
        )


@contextmanager
def _alone(tournament: Path) -> Iterator[None]:
    """Keeps a second call out of the folder.

    Raises:
        ValueError: one is at work there.
    """
    tournament.mkdir(parents=True, exist_ok=True)
    lock = FileLock(tournament / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{tournament}: another call makes a leaderboard there; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()
