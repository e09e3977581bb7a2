"""Serves the site of a sweep on this machine while the sweep runs, made anew whenever something has changed.

    python -m analysis watch --sweep demo

Only loopback is listened to, and only requests for one of its names are answered, so that no web page can point a name
of its own here. A browser loads the page again by itself. Nothing is written but the site, into a folder of its own
that is removed at the end.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from analysis.report.content import ReportOptions
from analysis.report.page import write_report
from analysis.report.records import load_tournament, readable_runs
from harness.config.paths import paths_of_environment
from harness.ledger.finished import SweepRuns, sweep_runs
from harness.ledger.open import ledger_url
from harness.runs.record import RECORD_FILE

LOOPBACK = "127.0.0.1"
NAMES = frozenset({LOOPBACK, "localhost"})
SHOWN_IN_RUNS = (RECORD_FILE, "eval/**/*.json", "answers/*.jsonl")
SHOWN_IN_TOURNAMENTS = ("verdicts.csv", "ratings.json")

State = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """Which sweep is shown, and how often it is looked at."""

    sweep: str
    runs: Path | None = None  # folder of the run folders; None: as the environment says, else runs/
    tournament: Path | None = None
    port: int = 0  # 0: any free one
    every_seconds: float = 10.0  # between two looks, and between two loads of the page

    def __post_init__(self) -> None:
        if self.every_seconds < 1:
            raise ValueError(f"--every {self.every_seconds:g}: expected 1 second or more")


class Watched:
    """The site of a sweep in a folder, made anew by `update` where something has changed."""

    def __init__(self, options: WatchOptions, out: Path) -> None:
        self._options, self._out = options, out
        self._state: State | None = None
        self._paths = paths_of_environment(options.runs)

    def update(self) -> bool:
        """Makes the site where something has changed since the last time. -> whether it has.

        Raises:
            ValueError: no such sweep, or a file that can't be read, as one that is being written.
        """
        chosen = sweep_runs(self._options.sweep, ledger_url(self._paths))
        state = self._seen(chosen)
        if state == self._state:
            return False
        folder = self._options.tournament
        played = load_tournament(folder) if folder is not None and folder.is_dir() else None
        runs, shown = readable_runs(Path(self._paths.runs), chosen)
        write_report(self._out, shown, runs, played, ReportOptions(title=self._options.sweep))
        self._state = state
        return True

    def _seen(self, chosen: SweepRuns) -> State:
        """All that the site depends on: the states of the runs, and the times of their files."""
        places: list[tuple[Path, Sequence[str]]]
        places = [(Path(self._paths.runs) / run_id, SHOWN_IN_RUNS) for run_id in chosen.run_ids]
        if self._options.tournament is not None:
            places.append((self._options.tournament, SHOWN_IN_TOURNAMENTS))
        files = (file for folder, patterns in places for pattern in patterns for file in folder.glob(pattern))
        return chosen, tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(files))


@contextmanager
def serving(options: WatchOptions, say: Callable[[str], None]) -> Iterator[ThreadingHTTPServer]:
    """Serves the site within the context, and looks at the sweep again and again.

    Args:
        options: what is served.
        say: told, once for each, why the site could not be made anew; the last one stays.

    Raises:
        ValueError: no such sweep.
        OSError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="watch-") as folder:
        watched = Watched(options, Path(folder))
        watched.update()
        handler = partial(SiteHandler, directory=folder, every_seconds=options.every_seconds)
        over = threading.Event()
        with ThreadingHTTPServer((LOOPBACK, options.port), handler) as server:
            looks = threading.Thread(target=_look_again, args=(watched, options.every_seconds, over, say), daemon=True)
            serves = threading.Thread(target=server.serve_forever, daemon=True)
            looks.start()
            serves.start()
            try:
                yield server
            finally:
                over.set()
                server.shutdown()
                looks.join()


def _look_again(watched: Watched, every_seconds: float, over: threading.Event, say: Callable[[str], None]) -> None:
    said = ""
    while not over.wait(every_seconds):
        try:
            watched.update()
            said = ""
        except (ValueError, OSError) as error:  # half written, most likely: the next look finds it whole
            if str(error) != said:
                said = str(error)
                say(f"note: the site stays as it was: {said}")


class SiteHandler(SimpleHTTPRequestHandler):
    """Answers requests for files of one folder under a loopback name, and has pages loaded again."""

    def __init__(self, *arguments: Any, every_seconds: float, **options: Any) -> None:
        self._every_seconds = every_seconds
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        """A file of the site."""
        if self._is_for_us():
            super().do_GET()

    def do_HEAD(self) -> None:
        """The headers of a file."""
        if self._is_for_us():
            super().do_HEAD()

    def list_directory(self, path: Any) -> None:
        """Refuses: a folder without a page shows nothing."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """Adds what keeps other sites out, and what has the page loaded again."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-cache")
        if self.path.partition("?")[0].endswith(("/", ".html")):
            self.send_header("Refresh", f"{self._every_seconds:g}")
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a page that is loaded every few seconds would fill the terminal."""

    def _is_for_us(self) -> bool:
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            name = None
        if name in NAMES:
            return True
        self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "this page is served under 127.0.0.1 and localhost only")
        return False
