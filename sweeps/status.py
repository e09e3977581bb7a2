"""How far is a sweep? Counts, throughput, time to go, failures with their reasons. No torch."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.ledger import JobStatus, Ledger

WINDOW_SECONDS = 600.0  # throughput is taken over the last ten minutes
SHOWN_FAILURES = 20
STATUSES = tuple(JobStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    kind: str
    run_id: str
    label: str
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """What the ledger says at one moment."""

    sweep: str | None
    counts: dict[str, dict[str, int]]  # kind -> status -> jobs
    done_per_minute: dict[str, float]  # kind -> over the last ten minutes
    seconds_to_go: float | None  # at that rate; None where nothing was finished lately
    failures: list[Failure]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_status(ledger: Ledger, sweep: str | None) -> SweepStatus:
    """Raises ValueError for a sweep that the ledger doesn't know."""
    known = [row.name for row in ledger.sweeps()]
    if sweep is not None and sweep not in known:
        raise ValueError(f"--sweep {sweep}: no such sweep; known: {', '.join(known) or 'none'}")
    counts = {
        kind: {str(status): number for status, number in per.items()} for kind, per in ledger.counts(sweep).items()
    }
    lately = ledger.throughput(WINDOW_SECONDS, sweep)
    rates = {kind: 60 * lately[kind].num_done / WINDOW_SECONDS for kind in counts if kind in lately}
    to_go = 0.0
    for kind, per in counts.items():
        left = per.get("queued", 0) + per.get("claimed", 0)
        if left and not rates.get(kind):
            return _status(ledger, sweep, counts, rates, None)
        to_go += 60 * left / rates[kind] if left else 0.0
    return _status(ledger, sweep, counts, rates, to_go)


def status_table(status: SweepStatus) -> Group:
    """For a person: a row a kind of job, then the failures."""
    table = Table(title=f"sweep {status.sweep}" if status.sweep else "all sweeps", title_justify="left")
    table.add_column("jobs")
    for name in (*STATUSES, "a minute"):
        table.add_column(name, justify="right")
    for kind, per in status.counts.items():
        cells = [str(per.get(name, 0)) for name in STATUSES]
        table.add_row(kind, *cells, f"{status.done_per_minute.get(kind, 0.0):.1f}")
    parts: list[Table | Text] = [table]
    if status.seconds_to_go:
        parts.append(Text(f"about {status.seconds_to_go / 60:.0f} minutes to go at the rate of the last ten"))
    parts += [
        Text(f"{f.kind} {f.label} ({f.run_id}): failed after {f.attempts} attempts: {f.reason}")
        for f in status.failures
    ]
    return Group(*parts)


def _status(
    ledger: Ledger,
    sweep: str | None,
    counts: dict[str, dict[str, int]],
    rates: dict[str, float],
    seconds_to_go: float | None,
) -> SweepStatus:
    failures: list[Failure] = []
    for row in ledger.rows(sweep=sweep, status=JobStatus.failed):
        failures.append(
            Failure(kind=row.kind, run_id=row.run_id, label=row.label, attempts=row.attempts, reason=row.reason or "")
        )
        if len(failures) == SHOWN_FAILURES:
            break
    return SweepStatus(
        sweep=sweep, counts=counts, done_per_minute=rates, seconds_to_go=seconds_to_go, failures=failures
    )
