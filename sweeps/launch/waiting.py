"""Waits for a sweep's jobs by looking into the ledger, where the workers run on other machines."""

import time
from collections.abc import Callable
from typing import Any

from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobStatus

POLL_SECONDS = 1.0
SETTLE_SECONDS = 5.0  # a worker's last word may be a moment behind its end
Watch = Callable[[dict[str, Any]], None]


class NoWorkersError(ValueError):
    """Raised when all workers have ended while jobs are open."""


def open_jobs(ledger: Ledger, sweep: str | None) -> int:
    """Jobs of the sweep that are queued or claimed."""
    counts = ledger.counts(sweep)
    return sum(per.get(status, 0) for per in counts.values() for status in (JobStatus.queued, JobStatus.claimed))


def wait_for_jobs(ledger: Ledger, sweep: str | None, watch: Watch, workers_left: Callable[[], bool]) -> None:
    """Returns when the sweep has no open job, and tells `watch` of every change in the counts.

    Args:
        workers_left: is there a worker that runs, or waits for its turn?

    Raises:
        NoWorkersError: nobody is left to do what is open.
    """
    gone_since: float | None = None
    while True:
        counts = ledger.counts(sweep)
        total = {status: sum(per.get(status, 0) for per in counts.values()) for status in JobStatus}
        watch({"phase": "counts", "label": sweep or "all sweeps", "counts": {str(k): v for k, v in total.items()}})
        num_open = total[JobStatus.queued] + total[JobStatus.claimed]
        if not num_open:
            return
        gone_since = None if workers_left() else gone_since or time.monotonic()
        if gone_since is not None and time.monotonic() - gone_since > SETTLE_SECONDS:
            raise NoWorkersError(f"all workers have ended, but {num_open} jobs are open")
        time.sleep(POLL_SECONDS)
