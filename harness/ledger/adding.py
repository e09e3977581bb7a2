"""Adds thousands of jobs to the ledger at once, each only once.

A part of `harness.ledger.ledger`, called in its transactions of `Access.rearrange`, in which no other process writes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from harness.ledger.dependents import chunks
from harness.ledger.tables import JOB_FIELDS, Job, JobStatus, LedgerError, SweepState, jobs, sweep_jobs, sweeps

_REFRESHED = ("group", "label", "payload", "priority")


def known_statuses(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, JobStatus]:
    """The status of those jobs that the ledger holds."""
    query = sa.select(jobs.c.job_id, jobs.c.status)
    rows = (row for part in chunks(job_ids) for row in connection.execute(query.where(jobs.c.job_id.in_(part))))
    return {job_id: JobStatus(status) for job_id, status in rows}


def check_predecessors(connection: sa.Connection, batch: Mapping[str, Job]) -> set[str]:
    """Checks the predecessors that aren't in the batch.

    Raises:
        LedgerError: one of them isn't in the ledger either.
    """
    outside = {job.after: job for job in batch.values() if job.after is not None and job.after not in batch}
    known = known_statuses(connection, outside)
    for after, job in outside.items():
        if after not in known:
            raise LedgerError(f"{job.job_id}: waits for {after}, which the ledger doesn't know; add that job too")
    return set(known)


def insert_jobs(connection: sa.Connection, new: Sequence[Job], now: sa.ColumnElement[float]) -> None:
    """Writes new jobs, queued; those with a predecessor wait until `settle_dependents` says otherwise."""
    if not new:
        return
    fixed = {"status": JobStatus.queued, "attempts": 0, "claim_token": 0, "created": connection.scalar(sa.select(now))}
    rows = [_fields(job) | fixed | {"job_id": job.job_id, "waiting": int(job.after is not None)} for job in new]
    connection.execute(sa.insert(jobs), rows)


def refresh_jobs(connection: sa.Connection, again: Sequence[Job]) -> None:
    """Gives known jobs the new values of the settings that aren't part of their identity."""
    if not again:
        return
    same_job = jobs.c.job_id == sa.bindparam("known_id")
    differs = sa.or_(*(jobs.c[name] != sa.bindparam(f"new_{name}") for name in _REFRESHED))
    change = sa.update(jobs).where(same_job, differs)
    change = change.values({jobs.c[name]: sa.bindparam(f"new_{name}") for name in _REFRESHED})
    rows = [{"known_id": job.job_id} | {f"new_{name}": getattr(job, name) for name in _REFRESHED} for job in again]
    connection.execute(change, rows)


def wanted_elsewhere(connection: sa.Connection, job_ids: Collection[str], sweep: str | None) -> set[str]:
    """Those of the jobs that another sweep wants, one that is not cancelled."""
    query = sa.select(sweep_jobs.c.job_id).join(sweeps, sweeps.c.name == sweep_jobs.c.sweep)
    query = query.where(sweeps.c.state != SweepState.cancelled, sweeps.c.name != (sweep or ""))
    parts = (connection.scalars(query.where(sweep_jobs.c.job_id.in_(part))) for part in chunks(job_ids))
    return {job_id for part in parts for job_id in part}


def touch_sweep(connection: sa.Connection, name: str, now: sa.ColumnElement[float]) -> None:
    """Adds the sweep if it is new, and makes a cancelled one active again."""
    state = connection.scalar(sa.select(sweeps.c.state).where(sweeps.c.name == name))
    if state is None:
        connection.execute(sa.insert(sweeps).values(name=name, command="", created=now, state=SweepState.active))
    elif state == SweepState.cancelled:
        set_sweep_state(connection, name, SweepState.active)


def set_sweep_state(connection: sa.Connection, name: str, state: SweepState) -> None:
    """Sets the state of a sweep."""
    connection.execute(sa.update(sweeps).where(sweeps.c.name == name).values(state=state))


def require_sweep(connection: sa.Connection, name: str) -> None:
    """Raises LedgerError, with the known names, unless the sweep is recorded."""
    names = connection.scalars(sa.select(sweeps.c.name).order_by(sweeps.c.created.desc())).all()
    if name not in names:
        known = ", ".join(names[:10]) or "none"
        raise LedgerError(f"sweep {name!r}: not in the ledger; known (newest first): {known}")


def link_jobs(connection: sa.Connection, sweep: str, job_ids: Sequence[str]) -> None:
    """Notes that these jobs belong to the sweep."""
    linked: set[str] = set()
    query = sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep == sweep)
    for part in chunks(job_ids):
        linked.update(connection.scalars(query.where(sweep_jobs.c.job_id.in_(part))))
    new = [{"sweep": sweep, "job_id": job_id} for job_id in job_ids if job_id not in linked]
    if new:
        connection.execute(sa.insert(sweep_jobs), new)


def unlink_jobs(connection: sa.Connection, sweep: str, keep: Collection[str]) -> list[str]:
    """Removes all but the jobs to keep from the sweep. -> the removed jobs"""
    linked = connection.scalars(sa.select(sweep_jobs.c.job_id).where(sweep_jobs.c.sweep == sweep))
    forgotten = sorted(set(linked) - set(keep))
    for part in chunks(forgotten):
        connection.execute(sa.delete(sweep_jobs).where(sweep_jobs.c.sweep == sweep, sweep_jobs.c.job_id.in_(part)))
    return forgotten


def other_dependents(connection: sa.Connection, job_ids: Collection[str]) -> list[str]:
    """Jobs outside of `job_ids` that wait for one of them: a retry queued them, perhaps for no sweep at all."""
    query = sa.select(jobs.c.job_id).where(jobs.c.status == JobStatus.queued)
    parts = (connection.scalars(query.where(jobs.c.after.in_(part))) for part in chunks(job_ids))
    return sorted({job_id for part in parts for job_id in part} - set(job_ids))


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in JOB_FIELDS}
