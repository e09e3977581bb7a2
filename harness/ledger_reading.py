"""How many jobs are where, and how fast do they get done? The queries behind `Ledger`'s summaries.

Each is one aggregate that an index answers, so that a hundred thousand recorded runs are summed up in a fraction of a
second: no row's payload is read.
"""

from typing import Any

import sqlalchemy as sa

from harness.ledger_queue import in_sweep
from harness.ledger_schema import JobStatus, jobs, sweep_jobs, sweeps


def counted_jobs(sweep: str | None) -> sa.Select[Any]:
    """-> rows of kind, status, number."""
    query = sa.select(jobs.c.kind, jobs.c.status, sa.func.count()).group_by(jobs.c.kind, jobs.c.status)
    if sweep is not None:
        query = query.join(sweep_jobs, sweep_jobs.c.job_id == jobs.c.job_id).where(sweep_jobs.c.sweep == sweep)
    return query.order_by(jobs.c.kind)


def counted_sweeps() -> sa.Select[Any]:
    """-> rows of a sweep's columns and its `num_jobs`, the oldest first."""
    number = sa.select(sa.func.count()).where(sweep_jobs.c.sweep == sweeps.c.name).scalar_subquery()
    return sa.select(sweeps, number.label("num_jobs")).order_by(sweeps.c.created, sweeps.c.name)


def done_since(moment: sa.ColumnElement[float], sweep: str | None) -> sa.Select[Any]:
    """-> rows of kind, number, seconds of work."""
    query = sa.select(jobs.c.kind, sa.func.count(), sa.func.coalesce(sa.func.sum(jobs.c.seconds), 0.0))
    query = query.where(jobs.c.finished >= moment, jobs.c.status == JobStatus.done, in_sweep(sweep))
    return query.group_by(jobs.c.kind)


def latest_done(number: int, sweep: str | None) -> sa.Select[Any]:
    """-> so many rows of `result`, the latest first."""
    query = sa.select(jobs.c.result).where(jobs.c.finished.is_not(None), jobs.c.result.is_not(None))
    query = query.where(jobs.c.status == JobStatus.done, in_sweep(sweep))
    return query.order_by(jobs.c.finished.desc()).limit(number)
