"""Follows up on jobs that wait for another job (`after`) when that one ends, fails or is tried again.

A part of `harness.ledger.ledger`, called in its transactions. A job is queued from the start, with `waiting` = 1
until its predecessor is done. If the predecessor fails, is cancelled or stops, so does the job, with the same reason.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

import sqlalchemy as sa

from harness.ledger.tables import JobStatus, jobs

CHUNK = 1_000  # values a statement

_before = jobs.alias("before")
_UNSUCCESSFUL = (JobStatus.failed, JobStatus.cancelled, JobStatus.stopped)


def settle_dependents(connection: sa.Connection, changed: Iterable[str], now: sa.ColumnElement[float]) -> int:
    """Follows up on jobs whose status changed; returns how many dependents failed or stopped with them."""
    num_ended = 0
    while changed := list(changed):
        ended: list[str] = []
        for part in chunks(changed):
            refresh_waiting(connection, jobs.c.after, part)
            ended += connection.scalars(_end_dependents(part, now)).all()
        num_ended += len(ended)
        changed = ended
    return num_ended


def refresh_waiting(connection: sa.Connection, column: sa.Column[str], values: Sequence[str]) -> None:
    """Sets `waiting` anew for the queued jobs whose `column` is among `values`."""
    is_free = sa.or_(jobs.c.after.is_(None), _of_predecessor(_before.c.status) == JobStatus.done)
    change = sa.update(jobs).where(column.in_(values), jobs.c.status == JobStatus.queued)
    connection.execute(change.values(waiting=sa.case((is_free, 0), else_=1)))


def with_relatives(connection: sa.Connection, job_ids: set[str], statuses: Collection[JobStatus]) -> set[str]:
    """The jobs that must be queued together with these.

    Their predecessors that failed, stopped or were cancelled, and dependents of the given statuses that never began.
    """
    relatives, frontier = set(job_ids), job_ids
    while frontier:
        near: set[str] = set()
        for part in chunks(frontier):
            dependents = sa.select(jobs.c.job_id).where(
                jobs.c.after.in_(part), jobs.c.attempts == 0, jobs.c.status.in_(list(statuses))
            )
            predecessors = (
                sa.select(_before.c.job_id)
                .join(jobs, jobs.c.after == _before.c.job_id)
                .where(jobs.c.job_id.in_(part), _before.c.status.in_(_UNSUCCESSFUL))
            )
            near.update(connection.scalars(dependents), connection.scalars(predecessors))
        frontier = near - relatives
        relatives |= frontier
    return relatives


def chunks(values: Iterable[str]) -> Iterator[list[str]]:
    """Lists short enough for one statement's parameters."""
    iterator = iter(values)
    while part := list(islice(iterator, CHUNK)):
        yield part


def _of_predecessor(column: sa.ColumnElement[str]) -> sa.ScalarSelect[str]:
    return sa.select(column).where(_before.c.job_id == jobs.c.after).correlate(jobs).scalar_subquery()


def _end_dependents(job_ids: Sequence[str], now: sa.ColumnElement[float]) -> sa.sql.dml.ReturningUpdate[str]:
    cause = _before.c.status + sa.func.coalesce(sa.literal(": ") + _before.c.reason, "")
    change = sa.update(jobs).where(
        jobs.c.after.in_(job_ids),
        jobs.c.status == JobStatus.queued,
        _of_predecessor(_before.c.status).in_(_UNSUCCESSFUL),
    )
    values = {
        "status": _of_predecessor(_before.c.status),
        "reason": sa.literal("waited for ") + jobs.c.after + ", which " + _of_predecessor(_was(cause)),
        "finished": now,
    }
    return change.values(values).returning(jobs.c.job_id)


def _was(cause: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    return sa.case((_before.c.status == JobStatus.cancelled, sa.literal("was ") + cause), else_=cause)
