"""Constants and rules that all processes of a sweep share: time limits, exit statuses, and who holds which claims."""

from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus

STOP_SECONDS = 8.0  # a worker looks up at every layer, and saves; whoever waits sees all settled within ten
POLL_SECONDS = 0.2
ALIVE = "alive"  # phase of a message that says nothing else: something long got on

PEER_SECONDS = 3.0  # for rank 0 to record by itself what another rank has reported
ERRORS = "errors"  # prefix in the store: what a rank died of, in its own words


def how_ended(code: int) -> str:
    """A process's exit code in words."""
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def held_by(name: str, ledger: Ledger, sweep: str | None) -> list[JobRow]:
    """The jobs that the worker of this name has claimed and not settled."""
    return [row for row in ledger.rows(sweep=sweep, status=JobStatus.claimed) if row.worker == name]
