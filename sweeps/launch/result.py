"""Prints how a launch ended: the state of every job. Gives the exit status."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rich.console import Console

from harness.console import EXIT_FAILED, EXIT_OK, TextTable, say
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus

LISTED_JOBS = 40  # a larger sweep is summed up


def show_result(ledger: Ledger, num_jobs: int, sweep: str, console: Console) -> int:
    """Prints how a sweep ended: a row for each job (of a large sweep the numbers), and why jobs are not done.

    Returns:
        The exit status: 1 where a job is neither done nor stopped to be judged.
    """
    counts = job_counts(ledger, sweep)
    if num_jobs <= LISTED_JOBS:
        console.print(_result_table(list(ledger.rows(sweep))))
    else:
        numbers = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        say(f"{numbers}; more: python -m sweeps status --sweep {sweep}", console)
    good = (JobStatus.done, JobStatus.stopped)  # to stop and be judged is what was asked of it
    num_bad = num_jobs - sum(counts[status] for status in good)
    statuses = [status for status in JobStatus if status not in good and counts[status]]
    for row in islice((row for status in statuses for row in ledger.rows(sweep, status=status)), LISTED_JOBS):
        say(f"{row.kind} {row.label}: {row.status}: {row.reason}", console)
    if num_bad > LISTED_JOBS:
        say(f"... and {num_bad - LISTED_JOBS} more", console)
    return EXIT_FAILED if num_bad else EXIT_OK


def job_counts(ledger: Ledger, sweep: str) -> Counter[JobStatus]:
    """Jobs of the sweep by status, over all kinds."""
    total: Counter[JobStatus] = Counter()
    for per_status in ledger.counts(sweep).values():
        total.update(per_status)
    return total


def _result_table(rows: Sequence[JobRow]) -> TextTable:
    return TextTable(
        title="how the jobs ended",
        columns=("job", "run", "label", "status", "result", "seconds"),
        rows=[
            (
                row.kind,
                row.run_id,
                row.label,
                row.status,
                _result(row),
                "" if row.seconds is None else f"{row.seconds:.1f}",
            )
            for row in rows
        ],
        numbers=("seconds",),
        prose=("result",),
    )


def _result(row: JobRow) -> str:
    shown = {key: value for key, value in (row.result or {}).items() if key != "peak_memory_bytes"}
    return ", ".join(f"{key} {_short(value)}" for key, value in shown.items())


def _short(value: object) -> str:
    """A value in the text of a table's cell."""
    if isinstance(value, dict):
        return _short(value.get("value", value.get("mean", "")))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
