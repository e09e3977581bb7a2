"""Runs one command as a child process, and follows what it says.

Standard output of a child is its result, JSON under `--json`. On standard error it writes progress as events
(`harness.console.progress_bar`), notes and errors; all of it but the events goes to a log file too.

A child has a process group of its own, so that Ctrl-C in a terminal reaches it once: forwarded from here. On Linux
it ends with this process, even where that is killed, so that the same command can go on at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from harness.console import PROGRESS_EVENTS, PROGRESS_VARIABLE, progress_event
from harness.runs.steps import KEPT_BY_CALLER

PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that a child gets when its parent dies
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ERROR = "error: "
LAST_LINES = 3  # of what a child said, where it names no error
FRAME = "\u2500\u2502\u256d\u256e\u256f\u2570 "  # what the command-line library draws around its errors
FRAME_TITLE = "Error"

OnProgress = Callable[[str, int, int], None]  # what is counted, parts done, all parts


class Stopped(BaseException):
    """Raised after a signal that asked this command to stop; the child has ended then."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended."""

    status: int  # negative: the signal that killed it
    output: str  # standard output
    said: tuple[str, ...]  # lines of standard error, without events

    @property
    def error(self) -> str:
        """Why it failed, in its own words."""
        errors = [line.removeprefix(ERROR) for line in self.said if line.startswith(ERROR)]
        lines = [text for line in self.said if (text := line.strip(FRAME)) and text != FRAME_TITLE]
        words = "; ".join(errors) or " / ".join(lines[-LAST_LINES:])
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}" + (f"; it said: {words}" if words else "")
        return words or f"exit status {self.status}"


def run_child(
    command: Sequence[str], log: Path, on_progress: OnProgress, on_line: Callable[[str], None] = lambda _: None
) -> Ended:
    """Runs `python -m ...` to its end.

    Args:
        command: begins with `python`; the interpreter of this process takes its place.
        log: what it says on standard error is added to this file.
        on_progress: called with each event.
        on_line: called with every other line.

    Raises:
        Stopped: a signal asked this process to stop; it was forwarded, and the child has ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    with tempfile.TemporaryFile() as output, log.open("a", encoding="utf-8") as file:
        with _forwarded() as signals, _started(command, output) as process:
            signals.reach(process)
            for line in _lines(process):
                if (event := progress_event(line)) is not None:
                    on_progress(*event)
                elif line.strip():
                    said.append(line)
                    print(line, file=file, flush=True)
                    on_line(line)
            status = process.wait()
        if signals.received:
            raise Stopped(signals.received[0])
        output.seek(0)
        return Ended(status=status, output=output.read().decode("utf-8", "replace"), said=tuple(said))


def _started(command: Sequence[str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        env={**os.environ, PROGRESS_VARIABLE: PROGRESS_EVENTS, KEPT_BY_CALLER: "1", "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        preexec_fn=_die_with_parent(os.getpid()) if sys.platform == "linux" else None,
    )


def _die_with_parent(parent: int) -> Callable[[], None]:
    """What a child does before it starts: it asks the kernel to be killed when its parent is gone."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork little is safe

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """Lines of standard error as they come; a bar that is drawn over itself gives its last state."""
    assert process.stderr is not None
    for raw in process.stderr:
        yield raw.decode("utf-8", "replace").rstrip("\n").rpartition("\r")[2]


class _Signals:
    """Sends signals that ask this process to stop on to the child; the second one kills it."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def reach(self, process: "subprocess.Popen[bytes]") -> None:
        """The child has started; it gets what came before, too."""
        self._process = process
        if self.received:
            process.send_signal(self.received[0])

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if self.received else number)
        self.received.append(number)


@contextmanager
def _forwarded() -> Iterator[_Signals]:
    signals = _Signals()
    before = {number: signal.signal(number, signals.forward) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
