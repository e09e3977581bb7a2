"""Prints what commands say: results on standard output, progress and errors on standard error.

A command runs within `friendly_errors`, prints its result by `show`, its tables as `TextTable` and its progress by
`progress_bar`. Text from elsewhere (labels, reasons, a server's messages) is printed as it is: rich's markup is off.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Never

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from harness.progress import Progress

DISTRIBUTION = "qlora-harness"
EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130
WIDTH_OF_FILES = 140  # columns of what goes into a file or a pipe
GAP = 2  # columns between two cells
LEAST_PROSE = 16  # columns below which sentences don't read
PROGRESS_VARIABLE, PROGRESS_EVENTS = "HARNESS_PROGRESS", "events"  # set so by a command that shows its children's
EVENT_SECONDS = 0.1  # at least, between two events of progress


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no emoji codes, no colours for numbers."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_OF_FILES
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


STDOUT = plain_console()
STDERR = plain_console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table whose cells are plain text and are never cut, however narrow the terminal is.

    Sentences are wrapped, and headings where there is no room for them on one line. Where names and numbers alone need
    more room than there is, each row becomes a block of lines under its first cell.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    numbers: Collection[str] = ()  # columns aligned to the right
    prose: Collection[str] = ()  # columns whose cells may be wrapped

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self._widths(options.max_width - GAP * len(self.columns))
        if widths is None:
            yield from self._blocks()
            return
        table = Table(
            box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left"
        )
        table.title, table.caption = Text(self.title), Text(self.caption)
        for name, width in zip(self.columns, widths, strict=True):
            table.add_column(Text(name), justify="right" if name in self.numbers else "left", width=width)
        for row in self.rows:
            table.add_row(*(Text(cell, overflow="fold") for cell in row))
        yield table

    def _widths(self, room: int) -> list[int] | None:
        """The width of every column; None where names and numbers don't fit."""
        needs = [self._natural_width(index) for index in range(len(self.columns))]
        prose = [index for index, name in enumerate(self.columns) if name in self.prose]
        left = room - sum(need for index, need in enumerate(needs) if index not in prose)
        for number, index in enumerate(sorted(prose, key=lambda index: needs[index])):
            needs[index] = min(needs[index], max(LEAST_PROSE, left // (len(prose) - number)))
            left -= needs[index]
        if left < 0:
            return None
        for index, name in enumerate(self.columns):  # room that is left goes to headings of several words
            more = min(left, max(0, Text(name).cell_len - needs[index]))
            needs[index] += more
            left -= more
        return needs

    def _natural_width(self, index: int) -> int:
        cells = [line for row in self.rows for line in row[index].splitlines()]
        return max((Text(text).cell_len for text in (*cells, *self.columns[index].split())), default=1)

    def _blocks(self) -> Iterator[Text]:
        if self.title:
            yield Text(self.title)
        for row in self.rows:
            rest = (f"{name} {cell}" for name, cell in zip(self.columns[1:], row[1:], strict=True) if cell)
            yield Text(row[0], overflow="fold")
            yield Text("  " + " | ".join(rest), overflow="fold")
        if self.caption:
            yield Text(self.caption)


def show(values: Any, shown: RenderableType, as_json: bool) -> None:
    """Prints the result for a person or a program, never both."""
    if as_json:
        print(json.dumps(values, allow_nan=False))
    else:
        STDOUT.print(shown)


def say(text: str, console: Console = STDOUT) -> None:
    """Prints a line as it is, and leaves the wrapping to the terminal, so that paths and links can be copied."""
    console.print(Text(text), soft_wrap=True)


@contextmanager
def progress_bar(what: str, hidden: bool) -> Iterator[Progress]:
    """A progress bar on standard error; where that is a log file, a line for each tenth of the work.

    Under `HARNESS_PROGRESS=events` it writes events instead, hidden or not: lines that `progress_event` reads.
    """
    if os.environ.get(PROGRESS_VARIABLE) == PROGRESS_EVENTS:
        yield _event_writer(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn(what, markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=STDERR,
        disable=hidden or not STDERR.is_terminal,
    )
    task = bars.add_task(what, total=None)
    shown_tenth = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown_tenth
        bars.update(task, completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if not hidden and not STDERR.is_terminal and tenth != shown_tenth:  # lower than before at a next base
            shown_tenth = tenth
            say(f"{what}: {done} of {total}", STDERR)

    with bars:
        yield advance


def progress_event(line: str) -> tuple[str, int, int] | None:
    """Reads a line of a child's standard error. -> what is counted, parts done, all parts; None for another line."""
    if not line.startswith('{"progress"'):
        return None
    try:
        event = json.loads(line)
        return str(event["progress"]), int(event["done"]), int(event["total"])
    except (ValueError, KeyError, TypeError):
        return None


def _event_writer(what: str) -> Progress:
    last = -EVENT_SECONDS

    def advance(done: int, total: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= EVENT_SECONDS or done == total:
            last = now
            event = json.dumps({"progress": what, "done": done, "total": total})
            print(event, file=sys.stderr, flush=True)

    return advance


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Wraps a command, so that bad input ends in a red line and exit status 2, never in a stack trace.

    Raises:
        SystemExit: 2 for what the user can mend, 130 after Ctrl-C, 1 where nobody reads standard output any more.
    """
    try:
        yield
    except KeyboardInterrupt:
        say("stopped", STDERR)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:  # `... | head`: Python would complain of it once more at its own end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_FAILED) from None
    except (ValueError, OSError) as error:
        refuse(problems_of(error))
    except RecursionError:
        refuse(["the input is nested too deeply to be read"])
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        refuse([str(error)])


def problems_of(error: Exception) -> list[str]:
    """The lines of an error's message; for an error about a file, its name and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return [f"{os.fsdecode(error.filename)}: {error.strerror}"]
    return str(error).splitlines() or [type(error).__name__]


def refuse(problems: Iterable[str]) -> Never:
    """Says what is wrong with the input and leaves with status 2. An indented line goes on with the one before."""
    for problem in problems:
        STDERR.print(Text(problem if problem.startswith("  ") else f"error: {problem}", style="red"), soft_wrap=True)
    raise SystemExit(EXIT_BAD_INPUT)


def new_parser(prog: str, text: str) -> argparse.ArgumentParser:
    """The parser of an application of one command. Args: text: what `--help` says, examples included."""
    parser = argparse.ArgumentParser(prog=prog, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=version(), help="print the version and end")
    return parser


def version() -> str:
    """The version of this distribution, as it is installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown: the code runs from a folder and is not installed"
