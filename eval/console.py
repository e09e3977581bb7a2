"""How commands speak: results on standard output, progress and errors on standard error. Shared by all of `eval`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

STDOUT = Console(width=None if sys.stdout.isatty() else 140)
STDERR = Console(stderr=True)
USER_ERROR = 2  # exit status


def show(values: Any, shown: RenderableType, as_json: bool) -> None:
    """Prints the result for a person or a program, never both."""
    if as_json:
        print(json.dumps(values, allow_nan=False))
    else:
        STDOUT.print(shown)


@contextmanager
def progress_bar(what: str, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; in a log a line now and then."""
    bar = Progress(
        TextColumn(what),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=STDERR,
        disable=hidden or not STDERR.is_terminal,
    )
    task = bar.add_task(what, total=None)
    shown_tenth = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown_tenth
        bar.update(task, completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if not hidden and not STDERR.is_terminal and tenth != shown_tenth:  # it falls where the next base begins
            shown_tenth = tenth
            STDERR.print(f"{what}: {done} of {total}", highlight=False)

    with bar:
        yield advance


@contextmanager
def friendly_errors() -> Iterator[None]:
    """What a user can mend is one red sentence and exit status 2, never a stack trace."""
    try:
        yield
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError":  # torch's, not imported here
            raise
        STDERR.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(USER_ERROR) from None
