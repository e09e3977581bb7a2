"""Finds the next jobs to claim, tells who holds a claim, and ends claims whose lease ran out.

A part of `harness.ledger.ledger`, called in its transactions. `with_for_update(skip_locked=True)` has no effect on
SQLite, where writers take turns.

Each summary (how many jobs have which status, how fast jobs get done) is one aggregate query that an index answers.
So a hundred thousand recorded runs are summed up in a fraction of a second: no row's payload is read.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from harness.ledger.dependents import settle_dependents
from harness.ledger.tables import JobRow, JobStatus, SweepState, jobs, sweep_jobs, sweeps

_died = sa.literal("worker ") + sa.func.coalesce(jobs.c.worker, "?")


def runnable(connection: sa.Connection, kinds: Sequence[str], sweep: str | None) -> sa.ColumnElement[bool] | None:
    """The condition for a job that may be claimed; None where the sweep is paused."""
    paused = connection.scalars(sa.select(sweeps.c.name).where(sweeps.c.state == SweepState.paused)).all()
    if sweep in paused:
        return None
    condition = sa.and_(jobs.c.status == JobStatus.queued, jobs.c.waiting == 0, jobs.c.kind.in_(list(kinds)))
    if sweep is not None:
        return sa.and_(condition, in_sweep(sweep))
    if paused:  # a job may also be wanted by a sweep that goes on, or by none at all
        condition = sa.and_(condition, ~linked(sweeps.c.name.in_(paused)) | linked(sweeps.c.name.not_in(paused)))
    return condition


def next_jobs(condition: sa.ColumnElement[bool], limit: int) -> sa.Select[int, str, str]:
    """The first jobs that meet the condition, by priority and then order of adding, locked for this transaction."""
    query = sa.select(jobs.c.seq, jobs.c.kind, jobs.c.group).where(condition)
    return query.order_by(jobs.c.priority.desc(), jobs.c.seq).limit(limit).with_for_update(skip_locked=True)


def in_sweep(sweep: str | None) -> sa.ColumnElement[bool]:
    """The condition that a job belongs to the sweep; for None there is no condition."""
    if sweep is None:
        return sa.true()
    return sa.exists().where(sweep_jobs.c.sweep == sweep, sweep_jobs.c.job_id == jobs.c.job_id)


def linked(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """The condition that the job belongs to a sweep which meets `condition`."""
    return sa.exists().where(sweep_jobs.c.job_id == jobs.c.job_id, sweep_jobs.c.sweep == sweeps.c.name, condition)


def end_expired(connection: sa.Connection, now: sa.ColumnElement[float]) -> None:
    """Queues jobs whose lease ran out again; those whose attempts are used up have failed."""
    expired = sa.and_(jobs.c.status == JobStatus.claimed, jobs.c.lease_expires < now)
    found = sa.select(jobs.c.seq, jobs.c.job_id, jobs.c.attempts, jobs.c.max_attempts).where(expired)
    rows = connection.execute(found.order_by(jobs.c.seq).with_for_update(skip_locked=True)).all()
    used_up = [row for row in rows if row.attempts >= row.max_attempts]
    again = [row.seq for row in rows if row.attempts < row.max_attempts]
    silent = sa.literal(" stopped answering and its lease ran out")
    reason = sa.literal("worker died ") + sa.cast(jobs.c.attempts, sa.Text) + " times; last: " + _died + silent
    _end_claims(connection, again, status=JobStatus.queued, reason=_died + silent)
    _end_claims(connection, [row.seq for row in used_up], status=JobStatus.failed, reason=reason, finished=now)
    settle_dependents(connection, [row.job_id for row in used_up], now)


def update_held(connection: sa.Connection, claim: JobRow, **values: Any) -> bool:
    """Changes the job if the claim still holds it, that is, nobody has claimed it since."""
    held = sa.and_(
        jobs.c.job_id == claim.job_id, jobs.c.claim_token == claim.claim_token, jobs.c.status == JobStatus.claimed
    )
    return connection.execute(sa.update(jobs).where(held).values(**values)).rowcount == 1


def finished_by(connection: sa.Connection, claim: JobRow) -> bool:
    """Whether this very claim finished the job before: then its finish was recorded, but the answer got lost."""
    query = sa.select(jobs.c.status, jobs.c.claim_token).where(jobs.c.job_id == claim.job_id)
    row = connection.execute(query).first()
    return row is not None and row.status == JobStatus.done and row.claim_token == claim.claim_token


def _end_claims(connection: sa.Connection, chosen: Sequence[int], **values: Any) -> None:
    if chosen:
        change = sa.update(jobs).where(jobs.c.seq.in_(chosen)).values(lease_expires=None, **values)
        connection.execute(change)


def counted_jobs(sweep: str | None) -> sa.Select[Any]:
    """-> a query of (kind, status, number of jobs)"""
    query = sa.select(jobs.c.kind, jobs.c.status, sa.func.count()).group_by(jobs.c.kind, jobs.c.status)
    if sweep is not None:
        query = query.join(sweep_jobs, sweep_jobs.c.job_id == jobs.c.job_id).where(sweep_jobs.c.sweep == sweep)
    return query.order_by(jobs.c.kind)


def counted_sweeps() -> sa.Select[Any]:
    """-> rows of a sweep's columns and its `num_jobs`, the oldest first."""
    number = sa.select(sa.func.count()).where(sweep_jobs.c.sweep == sweeps.c.name).scalar_subquery()
    return sa.select(sweeps, number.label("num_jobs")).order_by(sweeps.c.created, sweeps.c.name)


def done_since(moment: sa.ColumnElement[float], sweep: str | None) -> sa.Select[Any]:
    """-> a query of (kind, number of jobs, seconds of work)"""
    query = sa.select(jobs.c.kind, sa.func.count(), sa.func.coalesce(sa.func.sum(jobs.c.seconds), 0.0))
    query = query.where(jobs.c.finished >= moment, jobs.c.status == JobStatus.done, in_sweep(sweep))
    return query.group_by(jobs.c.kind)


def latest_done(number: int, sweep: str | None) -> sa.Select[Any]:
    """-> a query of `number` results, the latest first"""
    query = sa.select(jobs.c.result).where(jobs.c.finished.is_not(None), jobs.c.result.is_not(None))
    query = query.where(jobs.c.status == JobStatus.done, in_sweep(sweep))
    return query.order_by(jobs.c.finished.desc()).limit(number)
