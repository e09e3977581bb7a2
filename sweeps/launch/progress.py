"""Shows the progress of a sweep: a line for the sweep and one for the job that runs.

On a terminal these are live bars; elsewhere (a log, CI) a plain line every few seconds. A small sweep has a line for
each job's end too; of a large one only the first failures have, and the rest are counted.
"""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.console import say

PLAIN_LINE_SECONDS = 5.0
SMALL_SWEEP = 20  # jobs; in a larger sweep a job's good end is no line of its own
SHOWN_FAILURES = 20


class SweepProgress:
    """Shows workers' messages; a context manager."""

    def __init__(self, console: Console, num_jobs: int, num_done: int) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not self._live,
        )
        self._total = num_jobs
        self._done = num_done
        self._failed = 0
        self._began, self._done_before = time.monotonic(), num_done
        self._sweep = self._bars.add_task("sweep", total=num_jobs, completed=num_done, note="")
        self._jobs: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._notes: set[str] = set()
        self._last_counts: dict[str, int] = {}

    def __enter__(self) -> "SweepProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, message: dict[str, Any]) -> None:
        """Takes one message of a worker: phase, label and what goes with the phase."""
        phase, label = message["phase"], message["label"]
        if phase == "counts":
            self._count(message["counts"])
            return
        if phase == "note":
            self._say_once(message["note"])
            return
        name = f"{message.get('kind', '')} {label}".strip()
        if phase in ("done", "failed", "died", "stopped"):
            self._end(name, message)
            return
        if phase == "judged":
            self._rest(name, message)
            return
        note = f"loss {message['loss']:.3f}" if "loss" in message else phase
        step, total = message.get("step"), message.get("total")
        if self._live:
            task = self._jobs.get(name)
            if task is None:
                task = self._jobs[name] = self._bars.add_task(f"  {name}", total=total, note=note)
            self._bars.update(task, completed=step or 0, total=total, note=note)
        elif time.monotonic() - self._last_line > PLAIN_LINE_SECONDS or (step is None and self._total <= SMALL_SWEEP):
            where = f" {step}/{total}" if total else ""
            self._line(f"{name}{where} {note}" if self._total <= SMALL_SWEEP else self._pace())

    def _say_once(self, note: str) -> None:
        """Prints a note once: runs of one dataset or base have the same notes."""
        if note not in self._notes:
            self._notes.add(note)
            say(note, self._console)

    def _count(self, counts: dict[str, int]) -> None:
        """Updates the sweep's line by the counts of the ledger, where the workers are on other machines."""
        shown = ("claimed", "queued", "failed", "cancelled", "stopped")
        note = ", ".join(f"{counts[key]} {key}" for key in shown if counts.get(key))
        if counts == self._last_counts:
            return
        self._last_counts = counts
        self._done = counts["done"]
        self._bars.update(self._sweep, completed=self._done, note=note)
        if not self._live:
            say(f"[{self._done}/{self._total}] {note}".rstrip(), self._console)

    def _rest(self, name: str, message: dict[str, Any]) -> None:
        """Takes a run from the display that has stopped to be judged."""
        task = self._jobs.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)
        if self._total <= SMALL_SWEEP:
            self._line(f"{name} {message['reason']}")

    def _end(self, name: str, message: dict[str, Any]) -> None:
        task = self._jobs.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)
        if message["phase"] == "done":
            self._done += 1
            self._bars.update(self._sweep, completed=self._done, note=self._pace())
            if self._total <= SMALL_SWEEP:
                self._line(f"{name} done in {message['seconds']:.1f} s")
            elif not self._live and time.monotonic() - self._last_line > PLAIN_LINE_SECONDS:
                self._line(self._pace())
            return
        self._failed += 1
        if self._failed <= SHOWN_FAILURES:
            self._line(f"{name} {message['phase']}: {message['reason']}")
        elif self._failed == SHOWN_FAILURES + 1:
            self._line("more failures are counted, not shown: python -m sweeps status")

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        say(f"[{self._done}/{self._total}] {text}", self._console)

    def _pace(self) -> str:
        """Jobs a minute since the start, the remaining time at that rate, and the number of failures."""
        num_done, minutes = self._done - self._done_before, (time.monotonic() - self._began) / 60
        parts = [f"{self._failed} failures"] if self._failed else []
        if num_done and minutes:
            to_go = (self._total - self._done) * minutes / num_done
            parts = [f"{num_done / minutes:.1f} a minute", f"about {to_go:.0f} min to go", *parts]
        return ", ".join(parts)
