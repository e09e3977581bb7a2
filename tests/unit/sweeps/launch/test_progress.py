"""What a sweep prints while it runs: plain lines with a scripted clock, and bars."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobStatus
from sweeps.launch import progress
from sweeps.launch.progress import PLAIN_LINE_SECONDS, SHOWN_FAILURES, SMALL_SWEEP, SweepProgress
from sweeps.launch.result import LISTED_JOBS, show_result


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)
    return made


def shown(num_jobs: int, num_done: int, *messages: dict[str, Any]) -> list[str]:
    out = StringIO()
    with SweepProgress(Console(file=out, width=200), num_jobs, num_done) as bars:
        for message in messages:
            bars({"kind": "train", "label": "a"} | message)
    return out.getvalue().splitlines()


DONE = {"phase": "done", "seconds": 12.34}


def test_a_small_sweep_has_a_line_for_each_phase_and_end(clock: Clock) -> None:
    lines = shown(2, 0, {"phase": "loading"}, {"phase": "loading", "label": "b"}, DONE, DONE | {"label": "b"})
    assert lines == [
        "[0/2] train a loading",
        "[0/2] train b loading",
        "[1/2] train a done in 12.3 s",
        "[2/2] train b done in 12.3 s",
    ]


def test_steps_are_told_every_few_seconds(clock: Clock) -> None:
    out, step = StringIO(), {"phase": "training", "label": "a", "kind": "train", "total": 9, "loss": 1.23456}
    with SweepProgress(Console(file=out, width=200), 2, 0) as bars:
        for seconds in (0.0, PLAIN_LINE_SECONDS, 1.0, PLAIN_LINE_SECONDS + 1):
            clock.now += seconds
            bars(step | {"step": round(clock.now - 1000)})
    assert out.getvalue().splitlines() == [
        "[0/2] train a 0/9 loss 1.235",
        "[0/2] train a 6/9 loss 1.235",
        "[0/2] train a 12/9 loss 1.235",
    ]


def test_a_large_sweep_tells_its_pace(clock: Clock) -> None:
    out, num_jobs = StringIO(), SMALL_SWEEP + 1
    with SweepProgress(Console(file=out, width=200), num_jobs, 1) as bars:
        for _ in range(4):
            clock.now += 30
            bars({"phase": "done", "label": "a", "kind": "train", "seconds": 1.0})
        bars({"phase": "done", "label": "a", "kind": "train", "seconds": 1.0})  # at once: no line of its own
        bars({"phase": "loading", "label": "a", "kind": "train"})
    assert out.getvalue().splitlines() == [
        "[2/21] 2.0 a minute, about 10 min to go",
        "[3/21] 2.0 a minute, about 9 min to go",
        "[4/21] 2.0 a minute, about 8 min to go",
        "[5/21] 2.0 a minute, about 8 min to go",
    ]


def test_the_first_failures_are_lines_and_the_rest_are_counted(clock: Clock) -> None:
    failed = {"phase": "failed", "reason": "[red]broke[/]"}
    lines = shown(100, 0, *[failed] * (SHOWN_FAILURES + 3))
    assert lines[:-1] == ["[0/100] train a failed: [red]broke[/]"] * SHOWN_FAILURES
    assert lines[-1] == "[0/100] more failures are counted, not shown: python -m sweeps status"
    clock.now += 60
    (*_, pace) = shown(100, 0, *[failed] * 2, DONE)
    assert pace.startswith("[0/100]"), "a good end has no line right after another"
    clock.now += 2 * PLAIN_LINE_SECONDS


def test_failures_are_part_of_the_pace(clock: Clock) -> None:
    out = StringIO()
    with SweepProgress(Console(file=out, width=200), 100, 0) as bars:
        bars({"phase": "died", "label": "worker 7", "reason": "signal 9"})
        clock.now += 60
        bars({"phase": "done", "label": "a", "seconds": 1.0})
    assert out.getvalue().splitlines() == [
        "[0/100] worker 7 died: signal 9",
        "[1/100] 1.0 a minute, about 99 min to go, 1 failures",
    ]


def test_a_note_is_said_once_and_markup_in_it_is_text() -> None:
    assert shown(3, 0, *[{"phase": "note", "note": "[bold]rows[/]"}] * 2, {"phase": "note", "note": "other"}) == [
        "[bold]rows[/]",
        "other",
    ]


def test_a_terminal_has_bars_and_no_lines_of_steps(clock: Clock) -> None:
    out = StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    with SweepProgress(console, 3, 1) as bars:
        bars({"phase": "training", "label": "a", "kind": "train", "step": 4, "total": 9, "loss": 0.5})
        (sweep, job) = bars._bars.tasks
        assert (sweep.completed, sweep.total) == (1, 3)
        assert (job.description, job.completed, job.total, job.fields["note"]) == ("  train a", 4, 9, "loss 0.500")
        bars({"phase": "training", "label": "a", "kind": "train", "step": 5, "total": 8, "loss": 0.25})
        assert (job.completed, job.total, job.fields["note"]) == (5, 8, "loss 0.250")
        assert bars._bars.live.is_started
        clock.now += 60
        bars({"phase": "done", "label": "a", "kind": "train", "seconds": 1.0})
        assert [task.completed for task in bars._bars.tasks] == [2], "the job's bar is gone"
        assert bars._bars.tasks[0].fields["note"] == "1.0 a minute, about 1 min to go"
        counts = {"queued": 0, "claimed": 1, "done": 2, "failed": 1, "cancelled": 0}
        bars({"phase": "counts", "label": "s", "counts": counts})
        assert bars._bars.tasks[0].fields["note"] == "1 claimed, 1 failed"
    assert "[2/3] train a done in 1.0 s" in out.getvalue()


def test_names_in_bars_are_text() -> None:
    out = StringIO()
    with SweepProgress(Console(file=out, width=120, force_terminal=True, color_system=None), 3, 0) as bars:
        bars({"phase": "[i]loading[/]", "label": "[b]a[/]", "kind": "train"})
        assert bars._bars.tasks[1].completed == 0
    assert not bars._bars.live.is_started
    assert "train [b]a[/]" in out.getvalue()
    assert "[i]loading[/]" in out.getvalue()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three jobs: one is done, one failed, one is queued."""
    made = Ledger.open(tmp_path / "ledger.sqlite")
    made.add([Job(kind="train", spec_hash=n, run_id=n, group="g", label=f"run {n}", payload="{}") for n in "abc"], "s")
    good, bad = made.claim("w", ["train"], 2, 60, max_attempts=1)
    made.finish(good, {"final_loss": 1.25, "mmlu": {"mean": 0.5}, "peak_memory_bytes": 10**9}, 2.04)
    made.fail(bad, "[out] of memory", retry=False)
    return made


def ended(ledger: Ledger, num_jobs: int) -> tuple[int, str]:
    out = StringIO()
    status = show_result(ledger, num_jobs, "s", Console(file=out, width=160))
    return status, out.getvalue()


def test_how_the_jobs_ended_is_a_row_each_and_the_reasons(ledger: Ledger) -> None:
    status, text = ended(ledger, 3)
    assert status == 1
    assert "final_loss 1.250, mmlu 0.500" in text
    assert "peak_memory" not in text
    assert " 2.0" in text
    assert "train run b: failed: [out] of memory" in text
    assert "train run c: queued" in text
    assert "more" not in text


def test_a_large_sweep_ends_with_numbers(ledger: Ledger) -> None:
    status, text = ended(ledger, LISTED_JOBS + 2)
    assert status == 1
    assert text.startswith("1 queued, 1 done, 1 failed; more: python -m sweeps status --sweep s")
    assert text.rstrip().endswith("... and 1 more")


def test_a_sweep_that_is_done_ends_well(ledger: Ledger) -> None:
    ledger.requeue([JobStatus.failed], sweep="s")
    for claim in ledger.claim("w", ["train"], 2, 60, max_attempts=1):
        ledger.finish(claim, {}, 1.0)
    assert ended(ledger, 3)[0] == 0
