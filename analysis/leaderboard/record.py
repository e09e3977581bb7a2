"""The commands that a site prints: those of the records (`harness.runs.steps`), in the order in which they are done."""

from collections.abc import Iterable, Sequence

from analysis.leaderboard.options import GENERATE, JUDGE, RATE, REPORT
from harness.runs.steps import UNRECORDED, StepRecord, shell_line

BENCHMARK = "a benchmark"
HUMAN = "human"
ORDER = (GENERATE, JUDGE, HUMAN, RATE, BENCHMARK, REPORT)  # of the kinds of steps


def typed_command(arguments: Sequence[str], name: str) -> list[str] | None:
    """This process's own command as it is recorded; None where it was not started as `python -m analysis NAME`."""
    if list(arguments[1:2]) != [name]:
        return None
    return ["python", "-m", "analysis", *(word for word in arguments[1:] if word not in UNRECORDED)]


def shown_commands(steps: Iterable[StepRecord]) -> list[str]:
    """The commands as one types them, each once, in order."""
    ordered = sorted(steps, key=lambda step: _place(step.key))
    return list(dict.fromkeys(shell_line(step.command) for step in ordered))


def _place(key: str) -> int:
    kind = key.partition(" ")[0]
    return ORDER.index(kind) if kind in ORDER else ORDER.index(BENCHMARK)
