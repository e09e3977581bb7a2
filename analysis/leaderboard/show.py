"""Shows the plan of a leaderboard as a table, and the progress of all its steps as one display on standard error."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from analysis.leaderboard.plan import Plan, Step
from harness.console import STDERR, STDOUT, TextTable, say
from harness.runs.steps import shell_line

PLAIN_LINE_SECONDS = 5.0  # at least, between two lines on the progress of one step
TITLE_WIDTH = 34
MARKS = {"open": " ", "runs": ">", "there": "=", "done": "+", "partly": "~", "failed": "x", "skipped": "-"}


def print_plan(plan: Plan, further: Sequence[str] = ()) -> None:
    """Prints what is there and what will be made, with `further` lines, then the commands, each on a line."""
    table = TextTable(
        columns=("step", "there", "to make"),
        rows=[(step.title, step.there, step.to_make or "nothing") for step in plan.steps],
        title="Plan",
        prose=("step", "there", "to make"),
    )
    STDOUT.print(table)
    for line in (*(f"note: {note}" for note in plan.notes), *further):
        say(line)
    say("by these commands:")
    for step in plan.steps:
        if step.to_make:
            say(f"  {shell_line(step.command)}")


class StepsDisplay:
    """One line for each step: state, count, time left. Where the output is no terminal, plain lines; a context manager.

    Marks: `=` there before, `>` under way, `+` done, `~` done in part, `x` failed, `-` not done as one before failed.
    """

    def __init__(self, steps: Sequence[Step], hidden: bool) -> None:
        self._hidden, self._live = hidden, STDERR.is_terminal and not hidden
        self._bars = Progress(
            TextColumn("{task.fields[mark]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=STDERR,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._numbers = {step.key: number for number, step in enumerate(steps, start=1)}
        self._last_line = 0.0
        for step in steps:
            self._tasks[step.key] = self._bars.add_task(_short(step.title), total=None, start=False, mark=MARKS["open"])

    def __enter__(self) -> "StepsDisplay":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, step: Step) -> None:
        """A step's child starts."""
        self._bars.update(self._tasks[step.key], mark=MARKS["runs"])
        self._bars.start_task(self._tasks[step.key])
        self._line(step, f"{step.title}: {step.to_make}")

    def advance(self, step: Step, what: str, done: int, total: int) -> None:
        """A step got on."""
        self._bars.update(self._tasks[step.key], completed=done, total=total)
        if time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._line(step, f"{step.title}: {done} of {total} {what}")

    def end(self, step: Step, state: str, words: str) -> None:
        """A step is over, or needs nothing."""
        task = self._bars.tasks[self._tasks[step.key]]
        total = task.total or 1
        completed = total if state in ("there", "done") else task.completed
        self._bars.update(self._tasks[step.key], mark=MARKS[state], total=total, completed=completed)
        self._line(step, f"{step.title}: {words}")

    def say(self, text: str) -> None:
        """A line that stays, above the steps."""
        if not self._hidden:
            say(text, self._bars.console if self._live else STDERR)

    def pause(self) -> None:
        """Nothing moves from here on, as a person is asked something."""
        self._bars.stop()

    def go_on(self) -> None:
        """The person has answered."""
        self._bars.start()

    def _line(self, step: Step, text: str) -> None:
        if not (self._live or self._hidden):
            self._last_line = time.monotonic()
            say(f"[{self._numbers[step.key]}/{len(self._numbers)}] {text}", STDERR)


def _short(title: str) -> str:
    return title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
