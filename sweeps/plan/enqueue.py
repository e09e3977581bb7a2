"""Puts the jobs of a plan into the ledger, unless they are done and their files are whole.

Done again are jobs that failed, runs whose folder is broken, and evaluations whose file in the run folder is
gone or belongs to other settings: a run keeps one result of each evaluation, that of the settings last asked for.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.config.schema import AdapterMethod
from harness.ledger.ledger import Ledger
from harness.ledger.passwords import command_without_passwords
from harness.ledger.tables import Job, JobRow, JobStatus
from harness.runs.folder import folder_problem
from harness.runs.record import load_record, save_record
from harness.runs.scores import eval_file
from sweeps.plan.jobs import TRAIN, PlannedRun, stopping_at

_ENDED = (JobStatus.failed, JobStatus.cancelled, JobStatus.done, JobStatus.stopped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """How far runs train now; without arguments all train to their end."""

    until: Mapping[str, int] = field(default_factory=dict)  # run_id -> the step after which it stops to be judged
    at_rest: Collection[str] = ()  # runs that stay as they are: stopped or failed


def enqueue(
    ledger: Ledger,
    folder: Path,
    runs: Sequence[PlannedRun],
    jobs: Sequence[Job],
    sweep: str,
    command: Sequence[str],
    stops: Stops | None = None,
) -> None:
    """Puts into the ledger what is not done; these jobs are then the sweep's only ones.

    Args:
        folder: of the run folders. Finished runs in it take the labels that they have in this plan.
        command: as the user typed it; kept with the sweep, without passwords.
        stops: where the runs of a race stop. None: stopped ones are queued again, too, and train to their end.
    """
    stops = stops or Stops()
    jobs = [stopping_at(job, stops.until.get(job.run_id)) for job in jobs]
    ledger.record_sweep(sweep, command_without_passwords(command))
    known = ledger.find(job.job_id for job in jobs)
    broken = {run.run_id for run in runs if run_problem(folder, run) is not None}
    wanted = [row for row in known if row.status is JobStatus.done or row.run_id not in stops.at_rest]
    again = [row.job_id for row in wanted if _to_do_again(row, folder / row.run_id, row.run_id in broken)]
    if again:
        ledger.requeue(_ENDED, job_ids=again)
    gone = set(stops.at_rest) - {row.run_id for row in known}  # stopped, by a ledger that is lost
    ledger.add(
        [job for job in jobs if job.run_id not in gone], sweep=sweep, renewed=again
    )  # after that, so that what is queued again takes over this plan's label
    ledger.keep_only(sweep, [job.job_id for job in jobs])
    for run in runs:
        if run.run_id not in broken:
            _relabel(folder / run.run_id, run.label)


def run_problem(folder: Path, run: PlannedRun) -> str | None:
    """Why a run is not done, or None if it is. Args: folder: of the run folders."""
    return folder_problem(folder / run.run_id, run.spec.adapter.method is not AdapterMethod.none, run.run_id)


def _to_do_again(row: JobRow, run_folder: Path, is_broken: bool) -> bool:
    if row.status is not JobStatus.done:
        return row.status in _ENDED
    return is_broken or (row.kind != TRAIN and _job_of(eval_file(run_folder, row.kind)) != row.spec_hash)


def _job_of(path: Path) -> str | None:
    """The job (`Job.spec_hash`) whose result a file holds; None if the file can't be read or doesn't say."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    job = values.get("job") if isinstance(values, dict) else None
    return job if isinstance(job, str) else None


def _relabel(run_folder: Path, label: str) -> None:
    """Gives a finished run the label that it has in this sweep, where labels are unique."""
    record = load_record(run_folder)
    if record is not None and record.label != label:
        with suppress(OSError):  # a colleague's runs, a read-only folder: a name is no reason to stop
            save_record(run_folder, replace(record, label=label))
