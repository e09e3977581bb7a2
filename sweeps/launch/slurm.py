"""Starts workers as the tasks of a SLURM array, through submitit.

    python -m harness.run -m ... launch=slurm launch.workers=16 launch.slurm.partition=gpu \\
        paths.ledger_url=postgresql://user@host/db

A task is one worker: it claims jobs from the shared ledger until nothing is left, so it matters to nobody which task
does what, and one that is preempted or requeued claims again and goes on from the checkpoints. Signals: SIGTERM
(preemption, scancel) saves, gives the claims back and ends; SLURM requeues what it preempted. SIGUSR2 (the time
limit, or `preempt_send_user_signal`) does the same, and then lets submitit requeue the task.

What was submitted stands in `<runs>/slurm/<sweep>.jsonl`, the tasks' logs in `<runs>/slurm/<sweep>/`.
Source: submitit's documentation, "Checkpointing"; SLURM's sbatch(1), scancel(1), preempt.html.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.schema import Config, LaunchConfig, PathsConfig
from harness.files.atomic import append_jsonl, read_jsonl
from harness.ledger.ledger import Ledger
from harness.runs.record import now
from sweeps.jobs.settings import WorkerSettings, absolute_paths, absolute_url
from sweeps.launch.waiting import NoWorkersError, Watch, open_jobs, wait_for_jobs
from sweeps.workers.entry import start_cluster_worker
from sweeps.workers.signals import stopped_by_sigterm

LEDGER_VARIABLE = "HARNESS_LEDGER_URL"  # SLURM hands the environment on; a password never gets into a pickle
FOLDER = "slurm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One array, as it was submitted for a sweep."""

    job_id: str
    num_workers: int
    submitted: str
    log_folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmWorker:
    """The callable that submitit runs in each task; its `checkpoint` tells how a requeued task goes on."""

    settings: WorkerSettings
    threads: int

    def __call__(self) -> None:
        """Works until nothing is left, or a signal asks for an end."""
        import submitit

        url = os.environ.get(LEDGER_VARIABLE)
        if not url:
            raise ValueError(
                f"{LEDGER_VARIABLE} isn't set in this task: sbatch must hand on the environment (--export)"
            )
        again = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        settings = replace(self.settings, ledger_url=url)
        stopped_by = start_cluster_worker(settings, self.threads, (signal.SIGTERM, again))
        if stopped_by == again:
            signal.raise_signal(again)  # all is saved: submitit's own handler is back, counts time-outs and requeues
        elif stopped_by is not None:
            sys.exit(128 + stopped_by)  # without a result, so that nobody takes the task for finished

    def checkpoint(self) -> Any:
        """submitit's protocol: what the requeued task runs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_slurm(settings: WorkerSettings, ledger: Ledger, watch: Watch) -> bool:
    """Submits the workers. -> whether it has waited for the end, as `launch.wait` says.

    Raises:
        ValueError: sbatch refuses, or all workers have ended before the work was done.
        KeyboardInterrupt: Ctrl-C while it waits; the workers go on, and it says how to end them.
    """
    assert settings.sweep is not None
    runs = Path(settings.paths.runs)
    for earlier in still_there(submissions(runs, settings.sweep)):
        watch(_note(f"SLURM job {earlier.job_id} of this sweep is still there; these workers come beside it"))
    count = min(settings.launch.workers or 1, open_jobs(ledger, settings.sweep))
    submission = submit(settings, count)
    append_jsonl(submissions_file(runs, settings.sweep), asdict(submission))
    watch(_note(f"SLURM job {submission.job_id}: {count} workers; logs in {submission.log_folder}"))
    watch(
        _note(f"watch:  squeue --jobs {submission.job_id}    python -m sweeps status --sweep {settings.sweep} --watch")
    )
    watch(_note(f"cancel: python -m sweeps cancel --sweep {settings.sweep} --scancel"))
    if not settings.launch.wait:
        return False
    try:
        with stopped_by_sigterm():
            wait_for_jobs(ledger, settings.sweep, watch, _tasks_left(submission, watch))
    except KeyboardInterrupt:
        watch(_note(f"SLURM job {submission.job_id} goes on; end it by scancel {submission.job_id}"))
        raise
    except NoWorkersError as error:
        raise ValueError(f"SLURM job {submission.job_id}: {error}; why stands in {submission.log_folder}") from None
    return True


def submit(settings: WorkerSettings, num_workers: int) -> Submission:
    """Submits an array of workers. Raises ValueError with sbatch's own words where it refuses."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    assert settings.sweep is not None
    slurm = settings.launch.slurm
    paths = absolute_paths(settings.paths)
    logs = log_folder(settings.launch, paths, settings.sweep)
    logs.mkdir(parents=True, exist_ok=True)
    bare = replace(settings, ledger_url=f"${LEDGER_VARIABLE}", paths=replace(paths, ledger_url=None))
    worker = SlurmWorker(settings=bare, threads=settings.launch.threads or slurm.cpus_per_worker)
    try:
        executor = submitit.SlurmExecutor(folder=str(logs).replace("%", "%%"), max_num_timeout=slurm.max_timeouts)
        executor.update_parameters(**sbatch_parameters(settings.launch, settings.sweep, num_workers))
        with _environment(LEDGER_VARIABLE, absolute_url(settings.ledger_url)), executor.batch():
            jobs = [executor.submit(worker) for _ in range(num_workers)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ValueError(f"launch=slurm: sbatch refused: {error}") from None
    job_id = jobs[0].job_id.partition("_")[0]
    return Submission(job_id=job_id, num_workers=num_workers, submitted=now(), log_folder=str(logs))


def sbatch_parameters(launch: LaunchConfig, sweep: str, num_workers: int) -> dict[str, Any]:
    """The launch's settings under submitit's names of sbatch's options; unset ones are left to the cluster."""
    slurm = launch.slurm
    parameters: dict[str, Any] = {
        "job_name": f"harness-{sweep}",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": slurm.time_minutes,
        "gpus_per_node": int(launch.gpus_per_worker) or None,
        "cpus_per_task": slurm.cpus_per_worker,
        "mem": None if slurm.mem_gb is None else f"{int(slurm.mem_gb * 1024)}MB",
        "setup": list(slurm.setup) or None,
        "signal_delay_s": slurm.signal_seconds,
        "array_parallelism": num_workers,
        "additional_parameters": {"requeue": True, **slurm.extra},
    }
    return {key: value for key, value in parameters.items() if value is not None}


def sbatch_text(config: Config, sweep: str, num_workers: int) -> str:
    """The batch script of an array of `num_workers` workers, as submitit writes it; nothing is submitted.

    Raises:
        ValueError: submitit isn't installed.
    """
    try:
        from submitit.slurm.slurm import _make_sbatch_string
    except ModuleNotFoundError as error:
        raise ValueError(f"launch=slurm: {error}: pip install 'qlora-harness[slurm]'") from None
    logs = log_folder(config.launch, absolute_paths(config.paths), sweep)
    worker = f"{sys.executable} -u -m submitit.core._submit {logs}"
    asked = sbatch_parameters(config.launch, sweep, num_workers)
    text: str = _make_sbatch_string(command=worker, folder=logs, map_count=num_workers, **asked)
    return text


def log_folder(launch: LaunchConfig, paths: PathsConfig, sweep: str) -> Path:
    """Where the tasks of a sweep log. Args: paths: absolute ones."""
    return Path(launch.slurm.log_folder or Path(paths.runs) / FOLDER / _file_name(sweep)).absolute()


def submissions_file(runs: Path, sweep: str) -> Path:
    """Where the submissions of a sweep are listed. Args: runs: the folder of the runs."""
    return runs / FOLDER / f"{_file_name(sweep)}.jsonl"


def submissions(runs: Path, sweep: str) -> list[Submission]:
    """What was submitted for a sweep, the oldest first; empty where nothing was. Raises ValueError for other rows."""
    path = submissions_file(runs, sweep)
    try:
        return [_submission(row, path) for row in read_jsonl(path)]
    except FileNotFoundError:
        return []


def _submission(row: dict[str, Any], path: Path) -> Submission:
    """The file may be another person's: scancel would take `--user=me` in it for an option."""
    keys = ("job_id", "submitted", "log_folder")
    texts = {key: row[key] for key in keys if isinstance(row.get(key), str)}
    num_workers = row.get("num_workers")
    if len(texts) < len(keys) or not isinstance(num_workers, int) or not re.fullmatch(r"[0-9]+", texts["job_id"]):
        raise ValueError(f"{path}: a row is no submission to SLURM: {str(row)[:80]}")
    return Submission(**texts, num_workers=num_workers)


def still_there(candidates: Sequence[Submission]) -> list[Submission]:
    """The submissions with a task that runs or waits, as squeue says; empty on a machine without squeue."""
    if shutil.which("squeue") is None:
        return []
    return [one for one in candidates if task_states(one.job_id)]


def scancel(candidates: Sequence[Submission]) -> None:
    """Ends the tasks; each saves first. Raises ValueError where scancel is missing or refuses."""
    if shutil.which("scancel") is None:
        raise ValueError("--scancel: there is no scancel on this machine; run it on the cluster's login node")
    done = subprocess.run(["scancel", *(one.job_id for one in candidates)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"--scancel: {done.stderr.strip()}")


def task_states(job_id: str) -> list[str]:
    """The state of each task that runs or waits, with SLURM's reason for the wait: `PENDING (Resources)`."""
    command = ["squeue", "--noheader", "--array", "--jobs", job_id, "--format=%T (%r)"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:
        return ["UNKNOWN"]  # the controller didn't answer: nothing is known, so nobody is written off
    return [line.removesuffix(" (None)") for line in done.stdout.splitlines()]


def _tasks_left(submission: Submission, watch: Watch) -> Callable[[], bool]:
    """Whether a task is left. Reports every change of the tasks' states, so that the reason of a long wait shows."""
    last_text = ""

    def ask() -> bool:
        nonlocal last_text
        states = task_states(submission.job_id)
        text = ", ".join(f"{number} {state}" for state, number in sorted(Counter(states).items()))
        if text != last_text:
            watch(_note(f"SLURM job {submission.job_id}: {text or 'no task is left'}"))
            last_text = text
        return bool(states)

    return ask


def _file_name(sweep: str) -> str:
    return re.sub(r"[^\w.-]", "_", sweep)


def _note(text: str) -> dict[str, Any]:
    return {"phase": "note", "label": "", "note": text}


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
