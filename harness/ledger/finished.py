"""Finds the finished runs of a sweep, and those that are left out because they are not done."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from harness.ledger.open import existing_ledger
from harness.ledger.passwords import without_passwords
from harness.ledger.tables import Decision, JobStatus, Verdict

SHOWN_LABELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRuns:
    """The runs of a sweep that are done, and why others are left out."""

    run_ids: tuple[str, ...]
    unfinished: tuple[tuple[str, str], ...] = ()  # (label, why)
    command: str | None = None  # as the ledger recorded it
    decisions: tuple[tuple[str, Decision], ...] = ()  # of a race: (label, what was decided), by rung and rank

    @property
    def stopped(self) -> tuple[str, ...]:
        """The labels of unfinished runs that a race stopped: they ended as they were meant to."""
        last = {label: made.verdict for label, made in self.decisions}
        return tuple(label for label, _ in self.unfinished if last.get(label) is Verdict.stops)

    @property
    def not_done(self) -> tuple[tuple[str, str], ...]:
        """The unfinished runs that no race has stopped, with the reason."""
        return tuple((label, why) for label, why in self.unfinished if label not in self.stopped)


def sweep_runs(sweep: str, ledger_url: str) -> SweepRuns:
    """The sweep's training jobs, from the ledger.

    Raises:
        ValueError: the ledger knows no such sweep, or can't be opened.
    """
    with closing(existing_ledger(ledger_url)) as ledger:
        known = {row.name: row for row in ledger.sweeps()}
        if sweep not in known:
            where = without_passwords(ledger_url)
            raise ValueError(f"--sweep {sweep}: no such sweep in {where}; known: {', '.join(known) or 'none'}")
        jobs = list(ledger.rows(sweep=sweep, kinds=["train"]))
        decisions = ledger.decisions(sweep)
    labels = {job.run_id: job.label for job in jobs}
    done = [job.status is JobStatus.done for job in jobs]
    return SweepRuns(
        run_ids=tuple(job.run_id for job, is_done in zip(jobs, done, strict=True) if is_done),
        unfinished=tuple(
            (job.label, job.reason or str(job.status)) for job, is_done in zip(jobs, done, strict=True) if not is_done
        ),
        command=known[sweep].command or None,
        decisions=tuple((labels.get(made.run_id, made.run_id), made) for made in decisions),
    )


def left_out(sweep: str, unfinished: Sequence[tuple[str, str]]) -> str | None:
    """The sentence that says which runs of a sweep are left out; None where all are there."""
    if not unfinished:
        return None
    named = ", ".join(f"{label} ({why})" for label, why in unfinished[:SHOWN_LABELS])
    more = f" and {len(unfinished) - SHOWN_LABELS} more" if len(unfinished) > SHOWN_LABELS else ""
    return f"--sweep {sweep}: left out {len(unfinished)} runs that are not done: {named}{more}"
