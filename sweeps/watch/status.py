"""Tells how far a sweep is: counts, throughput, remaining time, failures with their reasons, workers, memory.

A fixed number of aggregates and short lists: a hundred thousand recorded runs take no longer to read than to start
Python (benchmarks/status.py).
"""

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from harness.console import TextTable
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus
from sweeps.jobs.settings import is_alive, short_name, worker_pid

WINDOW_SECONDS = 600.0  # throughput is taken over the last ten minutes
SHOWN_FAILURES = 20
LATEST_RESULTS = 100  # whose largest memory is shown
LARGEST_BYTES = 2**60  # beyond it a number is no memory
STATUSES = tuple(JobStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A job that failed, and why."""

    kind: str
    run_id: str
    label: str
    attempts: int
    reason: str
    folder: str  # with config.yaml, metrics.jsonl and, where something broke, error.log


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker and the jobs that it works on now."""

    name: str
    num_jobs: int
    kind: str
    label: str  # of its first job
    seconds: float  # since it claimed them
    memory_bytes: int | None  # that the process takes up; None for another machine's
    is_alive: bool  # as its process says on this machine, elsewhere its lease


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStatus:
    """The state of a sweep at one moment, by the ledger."""

    sweep: str | None
    counts: dict[str, dict[str, int]]  # kind -> status -> jobs
    done_per_minute: dict[str, float]  # kind -> over the last ten minutes
    seconds_to_go: float | None  # at that rate; None where nothing was finished lately, or nobody works on it
    num_failures: int
    failures: list[Failure]  # the first of them
    workers: list[Worker]
    peak_memory_bytes: int | None  # the largest of the runs done last; of the GPU where there is one

    def to_json(self) -> dict[str, Any]:
        """The status as plain values."""
        return asdict(self)


def read_status(ledger: Ledger, sweep: str | None, runs: Path) -> SweepStatus:
    """Args: runs: the folder of the run folders. Raises ValueError for a sweep that the ledger doesn't know."""
    known = [row.name for row in ledger.sweeps()]
    if sweep is not None and sweep not in known:
        raise ValueError(f"--sweep {sweep}: no such sweep; known: {', '.join(known) or 'none'}")
    counts = {
        kind: {str(status): number for status, number in per.items()} for kind, per in ledger.counts(sweep).items()
    }
    lately = ledger.throughput(WINDOW_SECONDS, sweep)
    rates = {kind: 60 * lately[kind].num_done / WINDOW_SECONDS for kind in counts if kind in lately}
    num_failures = sum(per["failed"] for per in counts.values())
    failed = ledger.rows(sweep, status=JobStatus.failed) if num_failures else iter(())
    peaks = [result.get("peak_memory_bytes") for result in ledger.latest_results(LATEST_RESULTS, sweep)]
    num_claimed = sum(per["claimed"] for per in counts.values())
    workers = _workers(list(ledger.rows(sweep, status=JobStatus.claimed)), ledger.now()) if num_claimed else []
    return SweepStatus(
        sweep=sweep,
        counts=counts,
        done_per_minute=rates,
        seconds_to_go=_seconds_to_go(counts, rates) if any(worker.is_alive for worker in workers) else None,
        num_failures=num_failures,
        failures=[_failure(row, runs) for row in islice(failed, SHOWN_FAILURES)],
        workers=workers,
        peak_memory_bytes=max((peak for peak in peaks if isinstance(peak, int) and peak < LARGEST_BYTES), default=None),
    )


def status_table(status: SweepStatus) -> Group:
    """The status as a table with a row for each kind of job, the workers, and then the failures."""
    numbers = (*STATUSES, "a minute")
    table = TextTable(
        title=f"sweep {status.sweep}" if status.sweep else "all sweeps",
        columns=("jobs", *numbers),
        rows=[
            (kind, *(str(per.get(name, 0)) for name in STATUSES), f"{status.done_per_minute.get(kind, 0.0):.1f}")
            for kind, per in status.counts.items()
        ],
        numbers=numbers,
    )
    parts: list[TextTable | Text] = [table]
    if not any(worker.is_alive for worker in status.workers) and (num_open := _num_open(status.counts)):
        parts.append(Text(f"no worker is at work on {num_open} open jobs: the command that started them goes on"))
    if status.seconds_to_go:
        parts.append(Text(f"about {status.seconds_to_go / 60:.0f} minutes to go at the rate of the last ten"))
    if status.peak_memory_bytes is not None:
        parts.append(Text(f"peak memory of the runs done last: {status.peak_memory_bytes / 1e9:.1f} GB"))
    parts += [Text(_worker_line(worker)) for worker in status.workers]
    parts += [
        Text(f"{f.kind} {f.label} ({f.run_id}): failed after {f.attempts} attempts: {f.reason}; see {f.folder}")
        for f in status.failures
    ]
    if status.num_failures > len(status.failures):
        parts.append(Text(f"... and {status.num_failures - len(status.failures)} more failures"))
    return Group(*parts)


def _num_open(counts: dict[str, dict[str, int]]) -> int:
    return sum(per.get(status, 0) for per in counts.values() for status in (JobStatus.queued, JobStatus.claimed))


def _seconds_to_go(counts: dict[str, dict[str, int]], rates: dict[str, float]) -> float | None:
    """The remaining time at the rate of the last ten minutes; None if no job of an open kind finished in them."""
    to_go = 0.0
    for kind, per in counts.items():
        left = per.get("queued", 0) + per.get("claimed", 0)
        if left and not rates.get(kind):
            return None
        to_go += 60 * left / rates[kind] if left else 0.0
    return to_go


def _failure(row: JobRow, runs: Path) -> Failure:
    return Failure(
        kind=row.kind,
        run_id=row.run_id,
        label=row.label,
        attempts=row.attempts,
        reason=row.reason or "",
        folder=str(runs / row.run_id),
    )


def _workers(claimed: list[JobRow], now: float) -> list[Worker]:
    numbers = Counter(row.worker for row in claimed)
    first = {row.worker: row for row in reversed(claimed)}
    return [
        Worker(
            name=short_name(name),
            num_jobs=number,
            kind=first[name].kind,
            label=first[name].label,
            seconds=now - (first[name].started or now),
            memory_bytes=_memory_bytes(worker_pid(name)),
            is_alive=_is_at_work(first[name], now),
        )
        for name, number in sorted(numbers.items(), key=lambda item: item[0] or "")
    ]


def _is_at_work(claim: JobRow, now: float) -> bool:
    """Whether the holder of a claim lives; of a process that can't be seen from here its lease tells."""
    alive = is_alive(claim.worker)
    return (claim.lease_expires or 0.0) > now if alive is None else alive


def _memory_bytes(pid: int | None) -> int | None:
    """Resident memory of a process of this machine, from Linux' /proc; None where there is no such process."""
    if pid is None:
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)


def _worker_line(worker: Worker) -> str:
    if not worker.is_alive:
        return f"{worker.name}: died over {worker.kind} {worker.label}; the next start takes its jobs up"
    memory = "" if worker.memory_bytes is None else f", {worker.memory_bytes / 1e9:.1f} GB"
    more = f" and {worker.num_jobs - 1} more" if worker.num_jobs > 1 else ""
    return f"{worker.name}: {worker.kind} {worker.label}{more} for {worker.seconds:.0f} s{memory}"
