"""Child processes of a leaderboard: what they say, how they end, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from analysis.leaderboard.child import Ended, Stopped, run_child
from harness.console import PROGRESS_EVENTS, PROGRESS_VARIABLE, progress_bar, progress_event
from tests.lab import REPOSITORY, wait_until

TALKER = r"""
import json, sys
print('{"progress": "answers", "done": 1, "total": 3}', file=sys.stderr)
print("old\rnote: a word", file=sys.stderr)
print("error: no weights", file=sys.stderr)
print("error: no rows", file=sys.stderr)
print(json.dumps(sys.argv[1:]))
sys.exit(2)
"""
PARENT = """
from pathlib import Path
from analysis.leaderboard.child import run_child
run_child(("python", "-c", "import os, time; print('pid', os.getpid(), flush=True, file=__import__('sys').stderr); "
           "time.sleep(600)"), Path({log!r}), lambda *_: None)
"""


def test_a_child_is_listened_to(tmp_path: Path) -> None:
    events: list[tuple[str, int, int]] = []
    lines: list[str] = []
    ended = run_child(
        ("python", "-c", TALKER, "a b"), tmp_path / "l" / "x.log", lambda *event: events.append(event), lines.append
    )
    assert events == [("answers", 1, 3)]
    assert lines == ["note: a word", "error: no weights", "error: no rows"]
    assert (ended.status, ended.output, ended.error) == (2, '["a b"]\n', "no weights; no rows")
    assert (tmp_path / "l" / "x.log").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(status=1, output="", said=("Traceback", "  in x", "  y", "KeyError: 'z'")), "in x / y / KeyError: 'z'"),
        (Ended(status=-9, output="", said=()), "killed by SIGKILL"),
        (
            Ended(
                status=2,
                output="",
                said=("\u256d\u2500 Error \u2500\u256e", "\u2502 No such option \u2502", "\u2570\u256f"),
            ),
            "No such option",
        ),
        (Ended(status=-15, output="", said=("note",)), "killed by SIGTERM; it said: note"),
        (Ended(status=3, output="", said=()), "exit status 3"),
    ],
)
def test_why_a_child_failed(ended: Ended, words: str) -> None:
    assert ended.error == words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_child_which_ends_first(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (print('saved', file=sys.stderr), sys.exit(0)))\n"
        "print('ready', file=sys.stderr, flush=True)\ntime.sleep(600)"
    )

    def on_line(line: str) -> None:
        if line == "ready":
            threading.Timer(0, os.kill, (os.getpid(), number)).start()

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=number.name):
        run_child(("python", "-c", script), tmp_path / "x.log", lambda *_: None, on_line)
    assert (tmp_path / "x.log").read_text().split() == ["ready", "saved"]
    assert signal.getsignal(number) is before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child can't ask for its parent's death")
def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(log=str(log))], cwd=REPOSITORY)
    wait_until(lambda: log.is_file() and log.read_text().startswith("pid"), "a child", parent)
    child = int(log.read_text().split()[1])
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child), "end of the child")


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_progress_is_written_as_events_where_a_parent_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROGRESS_VARIABLE, PROGRESS_EVENTS)
    with progress_bar("answers", hidden=True) as advance:
        for done in range(1, 1001):
            advance(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert progress_event(lines[0]) == ("answers", 1, 1000)
    assert progress_event(lines[-1]) == ("answers", 1000, 1000)
    assert len(lines) < 1000


@pytest.mark.parametrize("line", ["", "note: x", '{"progress"', '{"progress": "x", "done": null, "total": 2}'])
def test_other_lines_are_no_events(line: str) -> None:
    assert progress_event(line) is None
