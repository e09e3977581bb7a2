"""The ledger: a table of all jobs, who works on each, and how it ended.

Training, evaluating and judging share it. A worker claims jobs with a lease, renews it while it works,
and ends them; a worker that dies lets its lease run out, and another takes over. `claim_token` fences: once a job was
claimed again, whatever its former holder reports is refused.

    ledger = Ledger.open("runs/ledger.sqlite")            # or postgresql://user@host/database
    ledger.add([job, ...], sweep="table5")
    claims = ledger.claim("host:123", ["train"], max_jobs=8, lease_seconds=120, max_attempts=2)
    held = ledger.heartbeat(claims, lease_seconds=120)    # stop work on what is no longer held
    ledger.finish(claims[0], {"loss": 1.2}, seconds=34.5)

SQLite is for one machine's local disk (WAL doesn't work on network file systems), PostgreSQL for many machines.
An empty claim doesn't mean that all is done: ask `counts`. Every method is one transaction, is repeated
while the database is gone for up to a minute, and raises `LedgerError` with the remedy. Source: leases and fencing
tokens as in Kleppmann, "How to do distributed locking" (2016); queues by SKIP LOCKED as in PostgreSQL's SELECT manual.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import sqlalchemy as sa

from harness.files.atomic import to_json
from harness.ledger.adding import (
    check_predecessors,
    insert_jobs,
    known_statuses,
    link_jobs,
    other_dependents,
    refresh_jobs,
    require_sweep,
    set_sweep_state,
    touch_sweep,
    unlink_jobs,
    wanted_elsewhere,
)
from harness.ledger.claiming import (
    counted_jobs,
    counted_sweeps,
    done_since,
    end_expired,
    finished_by,
    in_sweep,
    latest_done,
    linked,
    next_jobs,
    runnable,
    update_held,
)
from harness.ledger.database import WAIT_SECONDS, Access, Clock, Database, Opening
from harness.ledger.dependents import chunks, refresh_waiting, settle_dependents, with_relatives
from harness.ledger.tables import (
    ROW_COLUMNS,
    AddResult,
    Job,
    JobRow,
    JobStatus,
    LedgerError,
    SweepRow,
    SweepState,
    Throughput,
    jobs,
    sweeps,
)

T = TypeVar("T")
_BLOCK = 1_000  # rows a query
_OPEN = (JobStatus.queued, JobStatus.claimed)
_NOT_BEGUN = (JobStatus.queued, JobStatus.failed, JobStatus.cancelled)
_AFRESH: dict[str, Any] = {
    "status": JobStatus.queued,
    "attempts": 0,
    "lease_expires": None,
    "finished": None,
    "seconds": None,
    "result": None,
}


class Ledger:
    """The jobs in a database. All threads of a process may share one object, which survives a fork.

    Args:
        url_or_path: a SQLite file (made when missing, its folder must exist) or a PostgreSQL URL.
        clock: replaces the server's clock; for tests.
        wait_seconds: how long to wait for a database that is locked or gone.
        opening: whether a file that is missing is made, and whether anything may be written.
    """

    def __init__(
        self,
        url_or_path: str | Path,
        clock: Clock | None = None,
        wait_seconds: float = WAIT_SECONDS,
        opening: Opening = Opening.make,
    ):
        self._database = Database(url_or_path, clock, wait_seconds, opening)

    @classmethod
    def open(
        cls,
        url_or_path: str | Path,
        clock: Clock | None = None,
        wait_seconds: float = WAIT_SECONDS,
        opening: Opening = Opening.make,
    ) -> Ledger:
        """Connects at once, so that a wrong address or an unwritable file shows before anything starts."""
        ledger = cls(url_or_path, clock, wait_seconds, opening)
        ledger.now()
        return ledger

    def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        self._database.close()

    def now(self) -> float:
        """The server's clock, in seconds since 1970: what leases are measured by."""
        return self._database.transact(Access.read, lambda c: float(c.scalar(sa.select(self._database.now())) or 0))

    # Adding and steering: what a planner or a person does.

    def add(self, new_jobs: Sequence[Job], sweep: str | None = None, renewed: Collection[str] = ()) -> AddResult:
        """Adds the jobs that are not yet known, and links all of them to the sweep.

        A known job keeps its state. Unless it is claimed or done it takes over the new payload, label, group and
        priority, so that a mended setting reaches the next attempt. One that is queued for another sweep keeps what
        it was planned with there.

        Args:
            new_jobs: of the plan.
            sweep: that wants them.
            renewed: job_ids that the same plan has queued once more; they take over what is new whoever wants them.

        Raises:
            LedgerError: a job's `after` is neither known nor among the new ones.
        """
        unique = {job.job_id: job for job in reversed(new_jobs)}
        unique = dict(reversed(unique.items()))  # the first of equal jobs, in the given order

        def work(connection: sa.Connection) -> AddResult:
            known = known_statuses(connection, unique)
            outside = check_predecessors(connection, unique)
            created = [job for job in unique.values() if job.job_id not in known]
            now = self._database.now()
            insert_jobs(connection, created, now)
            queued = [job_id for job_id, status in known.items() if status is JobStatus.queued]
            kept = wanted_elsewhere(connection, set(queued) - set(renewed), sweep)
            open_jobs = (job for job in unique.values() if known.get(job.job_id) in _NOT_BEGUN)
            refresh_jobs(connection, [job for job in open_jobs if job.job_id not in kept])
            if sweep is not None:
                touch_sweep(connection, sweep, now)
                link_jobs(connection, sweep, list(unique))
            earlier = outside | known.keys()
            settle_dependents(connection, {job.after for job in created if job.after in earlier}, now)
            return AddResult(num_new=len(created), num_known=len(known), known=Counter(known.values()))

        return self._database.transact(Access.rearrange, work)

    def record_sweep(self, name: str, command: str) -> None:
        """Notes what a sweep was started with; starting it again makes a cancelled one active."""

        def work(connection: sa.Connection) -> None:
            touch_sweep(connection, name, self._database.now())
            connection.execute(sa.update(sweeps).where(sweeps.c.name == name).values(command=command))

        self._database.transact(Access.rearrange, work)

    def keep_only(self, sweep: str, job_ids: Collection[str]) -> int:
        """Makes these the only jobs of the sweep; returns how many queued jobs were cancelled by it.

        Jobs that the sweep was started with earlier, under the same name, leave it. A queued one that belongs to no
        other sweep would never be claimed, so it is cancelled, with that as its reason.
        """

        def work(connection: sa.Connection) -> int:
            now = self._database.now()
            reason = f"sweep {sweep} was started again without it"
            values = {"status": JobStatus.cancelled, "reason": reason, "finished": now}
            ended: list[str] = []
            forgotten = unlink_jobs(connection, sweep, job_ids)
            for part in chunks(forgotten + other_dependents(connection, job_ids)):
                mine = jobs.c.job_id.in_(part) & ~linked(sweeps.c.state != SweepState.cancelled)
                change = sa.update(jobs).where(jobs.c.status == JobStatus.queued, mine).values(values)
                ended += connection.scalars(change.returning(jobs.c.job_id)).all()
            return len(ended) + settle_dependents(connection, ended, now)

        return self._database.transact(Access.rearrange, work)

    def pause(self, sweep: str) -> None:
        """Stops the claiming of the sweep's jobs until `resume`, except through another sweep; running jobs go on."""
        self._steer(sweep, SweepState.paused)

    def resume(self, sweep: str) -> None:
        """Lets the sweep's jobs be claimed again."""
        self._steer(sweep, SweepState.active)

    def cancel(self, sweep: str | None = None) -> int:
        """Cancels what is queued or claimed (its worker learns from the next heartbeat); returns how many.

        Jobs that another sweep, not itself cancelled, also wants are left alone.
        """

        def work(connection: sa.Connection) -> int:
            mine: sa.ColumnElement[bool] = sa.true()
            which: sa.ColumnElement[bool] = sa.true()
            if sweep is not None:
                require_sweep(connection, sweep)
                which = sweeps.c.name == sweep
                mine = in_sweep(sweep) & ~linked(sweeps.c.state != SweepState.cancelled)
            connection.execute(sa.update(sweeps).where(which).values(state=SweepState.cancelled))
            now = self._database.now()
            reason = "cancelled" if sweep is None else f"cancelled with sweep {sweep}"
            values = {"status": JobStatus.cancelled, "reason": reason, "lease_expires": None, "finished": now}
            change = sa.update(jobs).where(jobs.c.status.in_(_OPEN), mine).values(values)
            ended = connection.scalars(change.returning(jobs.c.job_id)).all()
            return len(ended) + settle_dependents(connection, ended, now)

        return self._database.transact(Access.rearrange, work)

    def requeue(
        self, statuses: Collection[JobStatus], sweep: str | None = None, job_ids: Collection[str] | None = None
    ) -> int:
        """Queues jobs of these statuses again, with no attempts counted; returns how many.

        Also queues a predecessor of theirs that failed or was cancelled, and jobs of the
        same statuses that never began because of them. A cancelled sweep becomes active again.
        """

        def work(connection: sa.Connection) -> int:
            if sweep is not None:
                require_sweep(connection, sweep)
                touch_sweep(connection, sweep, self._database.now())
            wanted = sa.select(jobs.c.job_id).where(jobs.c.status.in_(list(statuses)), in_sweep(sweep))
            if job_ids is None:
                queued = set(connection.scalars(wanted))
            else:
                parts = (wanted.where(jobs.c.job_id.in_(part)) for part in chunks(job_ids))
                queued = {job_id for query in parts for job_id in connection.scalars(query)}
            queued = with_relatives(connection, queued, statuses)
            for part in chunks(queued):
                connection.execute(sa.update(jobs).where(jobs.c.job_id.in_(part)).values(_AFRESH))
                refresh_waiting(connection, jobs.c.after, part)
            for part in chunks(queued):
                refresh_waiting(connection, jobs.c.job_id, part)
            return len(queued)

        return self._database.transact(Access.rearrange, work)

    # Working: what a worker does.

    def claim(
        self,
        worker: str,
        kinds: Sequence[str],
        max_jobs: int,
        lease_seconds: float,
        max_attempts: int,
        sweep: str | None = None,
    ) -> list[JobRow]:
        """Claims up to `max_jobs` runnable jobs of one kind and one group, the most urgent first.

        Leases that ran out are ended first: back to the queue, or failed once the attempts they were claimed
        with are used up. No job is ever given to two holders of a valid lease.
        """

        def work(connection: sa.Connection) -> list[JobRow]:
            now = self._database.now()
            end_expired(connection, now)
            condition = runnable(connection, kinds, sweep)
            first = None if condition is None else connection.execute(next_jobs(condition, 1)).first()
            if condition is None or first is None:
                return []
            alike = sa.and_(condition, jobs.c.kind == first.kind, jobs.c.group == first.group)
            order = [row.seq for row in connection.execute(next_jobs(alike, max_jobs))]
            change = (
                sa.update(jobs)
                .where(jobs.c.seq.in_(order))
                .values(
                    status=JobStatus.claimed,
                    worker=worker,
                    attempts=jobs.c.attempts + 1,
                    max_attempts=max_attempts,
                    claim_token=jobs.c.claim_token + 1,
                    lease_expires=now + lease_seconds,
                    started=now,
                )
            )
            rows = connection.execute(change.returning(jobs.c.seq, *ROW_COLUMNS)).all()
            return [_job_row(row) for row in sorted(rows, key=lambda row: order.index(row.seq))]

        return self._database.transact(Access.write, work)

    def heartbeat(self, claims: Iterable[JobRow], lease_seconds: float) -> set[str]:
        """Renews the leases; returns the job_ids still held. Work on the others must stop, and write nothing."""
        ordered = sorted(claims, key=lambda claim: claim.job_id)  # one order for all: no deadlocks

        def work(connection: sa.Connection) -> set[str]:
            expires = self._database.now() + lease_seconds
            return {claim.job_id for claim in ordered if update_held(connection, claim, lease_expires=expires)}

        return self._database.transact(Access.write, work)

    def finish(self, claim: JobRow, result: dict[str, Any], seconds: float) -> bool:
        """Records the result; what waited for the job may run. False, and nothing changes, if the claim was lost.

        Repeating a finish that was recorded returns True. Raises ValueError for a NaN in `result`.
        """
        text = to_json(result, where=f"result of {claim.job_id}")

        def work(connection: sa.Connection) -> bool:
            now = self._database.now()
            done = {"status": JobStatus.done, "result": text, "seconds": seconds, "finished": now}
            if not update_held(connection, claim, reason=None, lease_expires=None, **done):
                return finished_by(connection, claim)
            settle_dependents(connection, [claim.job_id], now)
            return True

        return self._database.transact(Access.write, work)

    def fail(self, claim: JobRow, reason: str, retry: bool) -> bool:
        """Queues the job again if `retry` and attempts are left; else fails it and the jobs that wait for it.

        False, and nothing changes, if the claim was lost.
        """
        again = retry and claim.max_attempts is not None and claim.attempts < claim.max_attempts

        def work(connection: sa.Connection) -> bool:
            now = self._database.now()
            status, finished = (JobStatus.queued, None) if again else (JobStatus.failed, now)
            held = update_held(connection, claim, status=status, reason=reason, lease_expires=None, finished=finished)
            if held and not again:
                settle_dependents(connection, [claim.job_id], now)
            return held

        return self._database.transact(Access.write, work)

    def release(self, claims: Iterable[JobRow]) -> None:
        """Gives claims back unfinished (a clean shutdown, a preemption); the attempt is not counted."""
        ordered = sorted(claims, key=lambda claim: claim.job_id)
        values = {"status": JobStatus.queued, "lease_expires": None, "attempts": jobs.c.attempts - 1}

        def work(connection: sa.Connection) -> None:
            for claim in ordered:
                update_held(connection, claim, **values)

        self._database.transact(Access.write, work)

    # Looking.

    def get(self, job_id: str) -> JobRow | None:
        """One job; None for an unknown id."""
        return next(iter(self.find([job_id])), None)

    def find(self, job_ids: Iterable[str]) -> list[JobRow]:
        """The jobs of these ids that the ledger holds, in no order. Reads a thousand by each query."""
        queries = (sa.select(*ROW_COLUMNS).where(jobs.c.job_id.in_(part)) for part in chunks(job_ids))
        return [_job_row(row) for query in queries for row in self._fetch(query)]

    def latest_results(self, number: int, sweep: str | None = None) -> list[dict[str, Any]]:
        """The results of the last `number` finished jobs, the latest first."""
        return [_result(row.result) for row in self._fetch(latest_done(number, sweep))]

    def rows(
        self,
        sweep: str | None = None,
        status: JobStatus | None = None,
        kinds: Collection[str] | None = None,
        run_id: str | None = None,
    ) -> Iterator[JobRow]:
        """Yields jobs in the order of adding. It reads in blocks: memory stays flat, and no lock is held in between."""
        query = sa.select(jobs.c.seq, *ROW_COLUMNS).where(in_sweep(sweep)).order_by(jobs.c.seq).limit(_BLOCK)
        if status is not None:
            query = query.where(jobs.c.status == status)
        if kinds is not None:
            query = query.where(jobs.c.kind.in_(list(kinds)))
        if run_id is not None:
            query = query.where(jobs.c.run_id == run_id)
        last = -1
        while block := self._fetch(query.where(jobs.c.seq > last)):
            yield from map(_job_row, block)
            last = block[-1].seq

    def counts(self, sweep: str | None = None) -> dict[str, dict[JobStatus, int]]:
        """Number of jobs by kind and status; every status of a kind that occurs is there, if only as 0."""
        table: dict[str, dict[JobStatus, int]] = {}
        for kind, status, number in self._fetch(counted_jobs(sweep)):
            table.setdefault(kind, dict.fromkeys(JobStatus, 0))[JobStatus(status)] = number
        return table

    def throughput(self, window_seconds: float, sweep: str | None = None) -> dict[str, Throughput]:
        """The jobs done within the last `window_seconds`, by kind, from which the remaining time is estimated."""
        rows = self._fetch(done_since(self._database.now() - window_seconds, sweep))
        return {kind: Throughput(num_done=number, seconds=seconds) for kind, number, seconds in rows}

    def sweeps(self) -> list[SweepRow]:
        """All sweeps, the oldest first."""
        rows = self._fetch(counted_sweeps())
        return [SweepRow(**{**row._mapping, "state": SweepState(row.state)}) for row in rows]

    def _steer(self, sweep: str, state: SweepState) -> None:
        def work(connection: sa.Connection) -> None:
            require_sweep(connection, sweep)
            set_sweep_state(connection, sweep, state)

        self._database.transact(Access.rearrange, work)

    def _fetch(self, query: sa.Select[*tuple[Any, ...]]) -> Sequence[Any]:
        return self._database.transact(Access.read, lambda connection: connection.execute(query).all())


def _job_row(row: sa.Row[Any]) -> JobRow:
    """Raises LedgerError for a value that no ledger of ours holds: SQLite keeps text in a column of numbers, too."""
    values = {column.name: row._mapping[column] for column in ROW_COLUMNS}
    for name, value in values.items():
        if not isinstance(value, _TYPES[name]):
            raise LedgerError(
                f"the ledger is damaged: {name} of a job of run {values['run_id']!r:.40} is {value!r:.80}"
            )
    result = values.pop("result")
    status = JobStatus(values.pop("status"))
    return JobRow(**values, status=status, result=None if result is None else _result(result))


_TYPES: dict[str, tuple[type, ...]] = {
    column.name: (
        *((str,) if column.type.python_type is str else (int, float)),
        *((NoneType,) if column.nullable else ()),
    )
    for column in ROW_COLUMNS
}


def _result(text: str) -> dict[str, Any]:
    """A job's result. Raises LedgerError for anything but a JSON object."""
    try:
        result = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise LedgerError(f"the ledger is damaged: the result {text!r:.80} is no JSON object")
    return result
