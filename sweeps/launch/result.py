"""What a launch prints at its end: the state of every job, and the exit status."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.table import Table

from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus

LISTED_JOBS = 40  # a larger sweep is summed up
EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def show_result(ledger: Ledger, num_jobs: int, sweep: str, console: Console) -> int:
    """A row a job, or of a large sweep the numbers; what is not done, with its reason."""
    counts = job_counts(ledger, sweep)
    if num_jobs <= LISTED_JOBS:
        console.print(_result_table(list(ledger.rows(sweep))))
    else:
        numbers = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        console.print(f"{numbers}; more: python -m sweeps status --sweep {sweep}", highlight=False, markup=False)
    num_bad = num_jobs - counts[JobStatus.done]
    statuses = [status for status in JobStatus if status is not JobStatus.done and counts[status]]
    for row in islice((row for status in statuses for row in ledger.rows(sweep, status=status)), LISTED_JOBS):
        console.print(
            f"{row.kind} {row.label}: {row.status}: {row.reason}", markup=False, highlight=False, soft_wrap=True
        )
    if num_bad > LISTED_JOBS:
        console.print(f"... and {num_bad - LISTED_JOBS} more")
    return EXIT_FAILED if num_bad else EXIT_OK


def job_counts(ledger: Ledger, sweep: str) -> Counter[JobStatus]:
    """Jobs of the sweep by status, over all kinds."""
    total: Counter[JobStatus] = Counter()
    for per_status in ledger.counts(sweep).values():
        total.update(per_status)
    return total


def _result_table(rows: Sequence[JobRow]) -> Table:
    table = Table(title="what came of it", title_justify="left")
    for column in ("job", "run", "label", "status", "result", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for row in rows:
        shown = {key: value for key, value in (row.result or {}).items() if key != "peak_memory_bytes"}
        result = ", ".join(f"{key} {_short(value)}" for key, value in shown.items())
        table.add_row(
            row.kind, row.run_id, row.label, row.status, result, f"{row.seconds:.1f}" if row.seconds is not None else ""
        )
    return table


def _short(value: object) -> str:
    """For a table's cell."""
    if isinstance(value, dict):
        return _short(value.get("value", value.get("mean", "")))
    return f"{value:.3f}" if isinstance(value, float) else str(value)
