"""Makes a ledger anew from the run folders, where its file is damaged or gone.

python -m sweeps rebuild

What is finished is recorded as done, in a sweep called `rebuilt`; which sweeps asked for it is nowhere but in the
ledger. The commands that started them, given again, find what is done and go on with the rest; a race stands by what it
decided, which each of its runs keeps, and the runs that it stopped are stopped again, with the losses that they were
judged by. A merge of runs was never a job, so it gets none.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks.registry import BENCHMARKS
from harness.config.schema import AdapterMethod
from harness.files.atomic import read_jsonl
from harness.ledger.kept import kept_decisions
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, Job, Verdict
from harness.runs.folder import CUT_OFF, folder_problem, stored_spec
from harness.runs.record import METRICS_FILE, RunRecord, load_record
from harness.runs.scores import eval_file
from harness.runs.spec import RunSpec
from sweeps.plan.jobs import EVAL_BITS, EVAL_LOSS, EVAL_STEP, TRAIN, train_job, train_result

SWEEP = "rebuilt"
_BATCH = 1_000
_BESIDE = ("", "-wal", "-shm")  # the files of a SQLite database


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A job whose result lies in a run folder."""

    job: Job
    result: dict[str, Any]
    seconds: float
    stopped: str | None = None  # why it ended before its last step; None: it is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The outcome of a rebuild."""

    num_runs: int  # finished ones
    num_stopped: int  # runs that a race stopped, and can promote
    num_evaluations: int
    num_decisions: int  # of races
    moved: Path | None  # where the damaged file lies now
    left_out: list[tuple[str, str]]  # (folder, why)


def rebuild(runs: Path, url: str) -> Rebuilt:
    """Puts a new ledger in the place of a damaged or missing one.

    Args:
        runs: the folder of the run folders.
        url: of the ledger: a SQLite file.

    Raises:
        ValueError: the ledger is a server's, or a file that is whole; there is no folder of runs.
    """
    if "://" in url:
        raise ValueError("only a ledger that is a SQLite file can be rebuilt; restore the server's own backup")
    if not runs.is_dir():
        raise ValueError(f"{runs}: no such folder of runs")
    path = Path(url).expanduser()
    if path.is_file() and is_whole(path):
        raise ValueError(f"{path}: it is whole; to rebuild it all the same, move it away first")
    left_out: list[tuple[str, str]] = []
    finished = [item for folder in sorted(runs.iterdir()) for item in _finished(folder, left_out)]
    moved = _moved_away(path) if path.exists() else None
    decisions = [made for folder in sorted(runs.iterdir()) for made in _decisions(folder, left_out)]
    with closing(Ledger.open(path)) as ledger:
        _record(ledger, finished)
        ledger.record_decisions(decisions)
    num_stopped = sum(item.stopped is not None for item in finished)
    num_runs = sum(item.job.kind == TRAIN for item in finished) - num_stopped
    return Rebuilt(
        num_runs=num_runs,
        num_stopped=num_stopped,
        num_evaluations=len(finished) - num_runs - num_stopped,
        num_decisions=len(decisions),
        moved=moved,
        left_out=left_out,
    )


def is_whole(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file, and it holds jobs."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT count(*) FROM jobs").fetchone()
    except sqlite3.DatabaseError:
        return False
    return bool(verdict == "ok")


def _finished(folder: Path, left_out: list[tuple[str, str]]) -> Iterator[Finished]:
    """The jobs whose results a folder holds; none of what is no run folder."""
    if folder.is_symlink() or not (folder / "config.yaml").is_file():
        return
    try:
        record = load_record(folder)
        spec = None if record is None else RunSpec.from_dict(record.spec)
    except (ValueError, OSError) as error:
        left_out.append((folder.name, f"record.json can't be read ({error})"))
        return
    needs_adapter = spec is not None and spec.adapter.method is not AdapterMethod.none
    problem = folder_problem(folder, needs_adapter, folder.name)
    if problem is None and spec is not None and spec.run_id != folder.name:
        problem = f"its spec is that of another run, {spec.run_id}"
    if problem == CUT_OFF and (stopped := _stopped(folder)) is not None:
        yield stopped
        return
    if problem is None and spec is not None and spec.merged is not None:
        left_out.append((folder.name, "merged from other runs, which is no job of a ledger; commands find its folder"))
        return
    if problem is not None or record is None or spec is None:
        left_out.append((folder.name, problem or "it has no record"))
        return
    yield Finished(job=train_job(spec, record.label), result=train_result(record), seconds=record.train_seconds)
    yield from _evaluations(folder, spec, record)


def _stopped(folder: Path) -> Finished | None:
    """The job of a run that a race stopped, with what it was judged by; None where it was to go on, or says no loss."""
    try:
        made = kept_decisions(folder)
        last = made[-1] if made else None
        if last is None or last.verdict is not Verdict.stops:
            return None
        spec, steps = stored_spec(folder), list(read_jsonl(folder / METRICS_FILE))
        point = next(row for row in steps if row["step"] == last.step and EVAL_LOSS in row)
        seconds = sum(row["seconds"] / row["num_members"] for row in steps)
    except (ValueError, OSError, KeyError, TypeError, StopIteration):
        return None
    if spec.run_id != folder.name:
        return None
    result = {key: point.get(key) for key in (EVAL_LOSS, EVAL_BITS)} | {EVAL_STEP: last.step}
    result["num_steps"] = None if spec.train is None else spec.train.max_steps
    reason = f"stopped at step {last.step} by {last.sweep}, held-out loss {point[EVAL_LOSS]:.4f}"
    return Finished(job=train_job(spec, spec.label), result=result, seconds=seconds, stopped=reason)


def _decisions(folder: Path, left_out: list[tuple[str, str]]) -> list[Decision]:
    """What a race decided on the run of a folder."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        return kept_decisions(folder)
    except (ValueError, OSError) as error:
        left_out.append((folder.name, f"its decisions can't be read ({error})"))
        return []


def _evaluations(folder: Path, spec: RunSpec, record: RunRecord) -> Iterator[Finished]:
    train = train_job(spec, record.label)
    for name, benchmark in BENCHMARKS.items():
        try:
            values = json.loads(eval_file(folder, name).read_text(encoding="utf-8"))
            job, headline = values["job"], values.get("headline") or {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # not measured, or cut off: it is measured again when it is asked for
        value = headline.get("value")
        yield Finished(
            job=Job(
                kind=name,
                spec_hash=str(job),
                run_id=train.run_id,
                group=train.group,
                label=train.label,
                payload=train.payload,
                after=train.job_id,
            ),
            result={} if value is None else {benchmark.headline_key: value},
            seconds=0.0,
        )


def _record(ledger: Ledger, finished: list[Finished]) -> None:
    """Adds the jobs and ends them, by the ledger's own ways."""
    ledger.record_sweep(SWEEP, "python -m sweeps rebuild")
    ledger.add([item.job for item in finished], sweep=SWEEP)
    by_id = {item.job.job_id: item for item in finished}
    while claims := ledger.claim("rebuild", [TRAIN, *BENCHMARKS], _BATCH, 600.0, max_attempts=1, sweep=SWEEP):
        for claim in claims:
            item = by_id[claim.job_id]
            if item.stopped is None:
                ledger.finish(claim, item.result, item.seconds)
            else:
                ledger.stop(claim, item.result, item.seconds, item.stopped)


def _moved_away(path: Path) -> Path:
    """Moves a damaged file and what lies beside it to a name that is free. -> the file's new place"""
    number = next(n for n in range(1, 10_000) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    target = path.with_name(f"{path.name}.damaged-{number}")
    for ending in _BESIDE:
        file = path.with_name(path.name + ending)
        if file.exists():
            os.replace(file, target.with_name(target.name + ending))
    return target
