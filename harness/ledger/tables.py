"""The records of jobs and sweeps, and their tables in SQL.

A part of `harness.ledger.ledger`, which callers import. The tables are made by the first process that
opens a ledger; `SCHEMA_VERSION` grows with each change of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 1


class LedgerError(ValueError):
    """Raised when the ledger can't do what was asked; the message says what to mend."""


class LedgerUnavailableError(LedgerError, OSError):
    """Raised when the ledger is locked, full, read-only or gone for too long. Nothing was changed."""


class JobStatus(StrEnum):
    """The states of a job."""

    queued = "queued"
    claimed = "claimed"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"
    stopped = "stopped"  # before its end, with a checkpoint, to be judged: a race may let it go on


class Verdict(StrEnum):
    """What becomes of a run that was judged."""

    goes_on = "goes on"
    stops = "stops"
    failed = "failed"
    promoted = "promoted"  # by hand, after it had stopped


class SweepState(StrEnum):
    """The states of a sweep."""

    active = "active"
    paused = "paused"
    cancelled = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of work: training a run, or one evaluation of it."""

    kind: str  # "train", "mmlu", "generate", ...
    spec_hash: str  # run_id for training; hash of run and evaluation settings for evaluations
    run_id: str  # whose folder the result goes into
    group: str  # jobs of equal group share a frozen base and are claimed together
    label: str  # for people
    payload: str  # JSON: all that a worker needs
    after: str | None = None  # the job_id that must be done first
    priority: int = 0  # higher is claimed first; then the order of adding

    @property
    def job_id(self) -> str:
        """Identifies the job: its kind and what it does."""
        return f"{self.kind}:{self.spec_hash}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow(Job):
    """A job and its state. One that `Ledger.claim` returned is a claim: (job_id, claim_token) proves who holds it.

    Times are seconds since 1970 by the database server's clock.
    """

    status: JobStatus
    attempts: int  # claims so far, clean releases not counted
    max_attempts: int | None  # the limit given with the last claim
    worker: str | None  # who holds it, or held it last
    claim_token: int  # grows with each claim and never falls: the fencing token
    lease_expires: float | None
    created: float
    started: float | None  # of the last claim
    finished: float | None
    seconds: float | None  # the work itself, as measured by the worker
    reason: str | None  # why it failed, was cancelled or is tried again
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided on a run of a race, and by which numbers."""

    sweep: str
    run_id: str
    rung: int  # counted from 0
    step: int | None  # at which the run was judged; None: it failed
    loss: float | None  # on its held-out rows, nats a token
    verdict: Verdict
    rank: int | None  # among those that were judged with it, 1: the lowest loss
    num_judged: int
    num_kept: int  # of them, those that go on
    limit: float | None  # the highest loss that goes on
    rule: str  # by which was decided


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """A sweep, and the command that started it."""

    name: str
    command: str
    created: float
    state: SweepState
    num_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddResult:
    """The outcome of `Ledger.add`: how many jobs were new, and how many known ones had which status."""

    num_new: int
    num_known: int
    known: Mapping[JobStatus, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Jobs of one kind that finished within a window."""

    num_done: int
    seconds: float  # summed over the jobs' own `seconds`


metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),  # order of adding
    sa.Column("job_id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec_hash", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("group", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("after", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    # 1 while `after` isn't done. Follows from `after`, and kept so that a claim need not look at every blocked job.
    sa.Column("waiting", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer),
    sa.Column("worker", sa.Text),
    sa.Column("claim_token", sa.BigInteger, nullable=False),
    sa.Column("lease_expires", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("result", sa.Text),
)
# A claim reads only this index up to the first match, in the order of claiming.
sa.Index("jobs_claimable", jobs.c.status, jobs.c.waiting, jobs.c.priority.desc(), jobs.c.seq, jobs.c.kind, jobs.c.group)
sa.Index("jobs_leased", jobs.c.status, jobs.c.lease_expires)
sa.Index("jobs_counted", jobs.c.kind, jobs.c.status, jobs.c.job_id)
sa.Index("jobs_finished", jobs.c.finished)
sa.Index("jobs_after", jobs.c.after, jobs.c.status)
sa.Index("jobs_run", jobs.c.run_id)

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)

sweep_jobs = sa.Table(
    "sweep_jobs",
    metadata,
    sa.Column("sweep", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, primary_key=True),
)
sa.Index("sweep_jobs_by_job", sweep_jobs.c.job_id, sweep_jobs.c.sweep)

decisions = sa.Table(  # made when it is first written to: older ledgers have none
    "decisions",
    metadata,
    sa.Column("sweep", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("rung", sa.Integer, primary_key=True),
    sa.Column("step", sa.Integer),
    sa.Column("loss", sa.Double),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("rank", sa.Integer),
    sa.Column("num_judged", sa.Integer, nullable=False),
    sa.Column("num_kept", sa.Integer, nullable=False),
    sa.Column("limit", sa.Double),
    sa.Column("rule", sa.Text, nullable=False),
)

JOB_FIELDS = tuple(f.name for f in fields(Job))
ROW_COLUMNS = tuple(jobs.c[f.name] for f in fields(JobRow))
