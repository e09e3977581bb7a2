"""Does the steps of a plan, one child process after the other, and records each when it is done.

A step that fails is said and leaves what was made before; what doesn't depend on it goes on, the site always. Where
the answers of one base fail, its runs stay out of the tournament of this call, and the others meet without them.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from analysis.leaderboard.child import Ended, run_child
from analysis.leaderboard.found import Found
from analysis.leaderboard.options import GENERATE, JUDGE, RATE, REPORT, LeaderboardOptions
from analysis.leaderboard.plan import Plan, Step, make_plan
from analysis.leaderboard.show import StepsDisplay
from eval.answers.rows import is_table, read_text, table_reader
from eval.judging.flags import costs_money
from harness.console import EXIT_FAILED, version
from harness.runs.steps import StepRecord, digests, keep_step, load_steps

LOGS_FOLDER = "logs"
NOTE = "note: "

MayPay = Callable[[Sequence[Mapping[str, Any]]], bool]  # asked with the estimate of each paid judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a step."""

    key: str
    title: str
    state: str  # there | done | partly | failed | skipped
    words: str  # what is there, what was made, or why not
    command: tuple[str, ...]
    seconds: float = 0.0
    output: str = ""  # what the site's command printed

    @property
    def is_good(self) -> bool:
        """Whether nothing of it is missing."""
        return self.state in ("there", "done")


class Steps:
    """The record of a leaderboard's steps."""

    def __init__(self, options: LeaderboardOptions) -> None:
        self._folders = (options.tournament, options.out)

    def is_current(self, step: Step) -> bool:
        """Whether the same command made the step's outputs of its inputs, all as they are now."""
        known = load_steps(*self._folders).get(step.key)
        if known is None or not known.is_done or known.command != list(step.command):
            return False
        now = digests(step.outputs)
        return known.inputs == digests(step.inputs) and known.outputs == now and len(now) == len(set(step.outputs))

    def begin(self, step: Step) -> None:
        """Records that a step's command is run."""
        keep_step(StepRecord(key=step.key, command=list(step.command), is_done=False), *self._folders)

    def finish(self, step: Step) -> None:
        """Records that a step is done, with the files that it read and wrote."""
        record = StepRecord(
            key=step.key,
            command=list(step.command),
            is_done=True,
            inputs=digests(step.inputs),
            outputs=digests(step.outputs),
            version=version(),
        )
        keep_step(record, *self._folders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """What the steps of one call share."""

    options: LeaderboardOptions
    steps: Steps
    display: StepsDisplay
    may_pay: MayPay

    def run(self, plan: Plan, found: Found) -> list[Outcome]:
        """Does every step. -> what became of each, in order."""
        outcomes: dict[str, Outcome] = {}
        for step in plan.steps:
            if step.kind == JUDGE:  # all answers were tried
                plan = self._without_failed(plan, found, outcomes)
            current = next((one for one in plan.steps if one.key == step.key), None)
            outcomes[step.key] = self._skipped(step) if current is None else self._one(current, outcomes)
        return list(outcomes.values())

    def _without_failed(self, plan: Plan, found: Found, outcomes: Mapping[str, Outcome]) -> Plan:
        """The plan for the runs whose answers are there; the same plan where they all are."""
        failed = {run_id for step in plan.steps if _failed(outcomes, step.key) for run_id in step.run_ids}
        if not failed:
            return plan
        runs = tuple(replace(run, plays=run.plays and run.run_id not in failed) for run in found.runs)
        self.display.say(f"{NOTE}{len(failed)} runs stay out of the tournament, as their answers failed")
        return make_plan(self.options, replace(found, runs=runs), self.steps.is_current)

    def _one(self, step: Step, outcomes: Mapping[str, Outcome]) -> Outcome:
        if not step.to_make or (step.kind == RATE and self.steps.is_current(step)):
            return self._ended(step, "there", step.there or "there")
        if step.kind == RATE and not all(path.is_file() for path in step.inputs):
            return self._skipped(step)
        if step.kind == RATE and all(map(_has_no_rows, step.inputs)):
            return self._ended(step, "skipped", "not done, as there are no verdicts yet")
        if step.pays and (problem := self._refusal(step)) is not None:
            return self._ended(step, "failed", problem)
        began = time.monotonic()
        self.display.begin(step)
        self.steps.begin(step)
        ended = self._child(step, (*step.command, *(("--yes",) if step.kind == JUDGE else ()), "--json"))
        state, words = _state(step, ended)
        if state == "done":
            self.steps.finish(step)
        ended_so = self._ended(step, state, words, time.monotonic() - began)
        return replace(ended_so, output=ended.output) if step.kind == REPORT else ended_so

    def _refusal(self, step: Step) -> str | None:
        """Why a paid step is not done: no estimate can be made, or nobody allows it. None: it may."""
        ended = self._child(step, estimate_command(step))
        if ended.status:
            return self._with_log(step, ended.error)
        estimates = read_estimates(ended.output)
        self.display.pause()
        try:
            is_allowed = not any(one["num_calls"] for one in estimates) or self.may_pay(estimates)
        finally:
            self.display.go_on()
        return None if is_allowed else "nothing was asked and nothing paid, as you said"

    def _child(self, step: Step, command: Sequence[str]) -> Ended:
        def on_line(line: str) -> None:
            if line.startswith(NOTE):
                self.display.say(f"{step.title}: {line}")

        return run_child(
            command, self._log(step), lambda what, done, all_: self.display.advance(step, what, done, all_), on_line
        )

    def _log(self, step: Step) -> Path:
        return self.options.tournament / LOGS_FOLDER / f"{step.kind}.log"

    def _with_log(self, step: Step, words: str) -> str:
        return f"{words} (all that it said: {self._log(step)})"

    def _skipped(self, step: Step) -> Outcome:
        return self._ended(step, "skipped", "not done, as a step before it failed")

    def _ended(self, step: Step, state: str, words: str, seconds: float = 0.0) -> Outcome:
        shown = self._with_log(step, words) if state == "failed" and seconds else words
        self.display.end(step, state, f"{state}: {shown}" if state in ("failed", "partly") else shown)
        return Outcome(
            key=step.key, title=step.title, state=state, words=shown, command=step.command, seconds=round(seconds, 1)
        )


def estimate_command(step: Step) -> tuple[str, ...]:
    """The command that says what the paid judges of a step would cost, and asks nobody."""
    words = list(step.command)
    for place in reversed([place for place, word in enumerate(words) if word == "--judge"]):
        if not costs_money(words[place + 1]):
            del words[place : place + 2]
    return (*words, "--estimate", "--json")


def read_estimates(output: str) -> list[dict[str, Any]]:
    """The estimates that `eval judge --estimate --json` prints: one, or a list of several judges'."""
    values = json.loads(output)
    return values if isinstance(values, list) else [values]


def _state(step: Step, ended: Ended) -> tuple[str, str]:
    """What became of a step, in one word and in more."""
    if ended.status == 0:
        return "done", "done"
    if step.kind == JUDGE and ended.status == EXIT_FAILED:
        return _judged(ended)
    return "failed", ended.error


def _judged(ended: Ended) -> tuple[str, str]:
    """Of a judge that left something open. Replies that could not be read are verdicts, counted as such."""
    try:
        values = json.loads(ended.output)
        judges = values.get("judges", [values])
        num_open = sum(one["num_failed"] + one["num_unasked"] for one in judges)
        num_unparsed = sum(one["num_unparsed"] for one in judges)
        stopped = [str(one["stopped"]) for one in judges if one["stopped"]]
        failures = [f"{reason} ({count} matches)" for one in judges for reason, count in one["failures"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "failed", ended.error
    if num_open:
        reasons = "; ".join([*stopped, *failures])
        return "partly", f"{num_open} matches have no verdict yet: {reasons}; the same command goes on with them"
    return "done", f'done; {num_unparsed} replies could not be read (--with "judge --retry-unparsed" asks again)'


def _has_no_rows(path: Path) -> bool:
    """Whether a CSV of verdicts has a header at most, as a tournament's may; another file without any is refused."""
    return is_table(path) and next(islice(filter(None, table_reader(read_text(path))), 1, None), None) is None


def _failed(outcomes: Mapping[str, Outcome], key: str) -> bool:
    return key in outcomes and outcomes[key].state == "failed" and key.startswith(GENERATE)


def plain_outcomes(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The outcomes as JSON has them."""
    return [{name: value for name, value in asdict(one).items() if name != "output"} for one in outcomes]
