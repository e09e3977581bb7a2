"""From planned runs to "all done": check, enqueue what is missing, run workers, say what came of it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.config.schema import Config
from harness.devices.hardware import Place, launch_device, place_of_environment
from harness.devices.process import prepare_process
from harness.files.atomic import share_as_folder_says
from harness.ledger.ledger import Ledger
from harness.ledger.open import ledger_url
from harness.ledger.tables import Job, JobStatus
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch.launchers import LAUNCHERS
from sweeps.launch.progress import SweepProgress
from sweeps.launch.result import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_OK, job_counts, show_result
from sweeps.launch.waiting import Watch
from sweeps.plan.enqueue import enqueue
from sweeps.plan.planned import planned, print_notes, print_plan
from sweeps.plan.slots import Work, work_of


def launch(configs: Sequence[Config], command: Sequence[str], console: Console) -> int:
    """Plans and runs a grid. -> the process's exit status.

    Args:
        configs: one a grid point; launch, paths and tracking are taken from the first.
        command: as the user typed it; kept with the sweep.
    """
    first = configs[0]
    place = place_of_environment()
    if place is not None and place.rank > 0:
        return EXIT_OK if first.launch.dry_run else _follow(first, place)
    plan = planned(configs)
    if first.launch.dry_run:
        print_plan(plan, first, console)
        return EXIT_OK
    if plan.problems:
        console.print(f"[red]{len(plan.problems)} thing(s) to mend before anything starts:[/]")
        for number, problem in enumerate(plan.problems, 1):
            console.print(f"{number:3}. {problem}", highlight=False, markup=False, soft_wrap=True)
        return EXIT_BAD_INPUT
    print_notes(plan, console)
    sweep = first.sweep_name or _sweep_name(plan.jobs)
    ledger = _open_ledger(first)
    enqueue(ledger, Path(first.paths.runs), plan.runs, plan.jobs, sweep, command)
    num_jobs = len(plan.jobs)
    work = work_of([run for run in plan.runs if run.run_id not in plan.finished], first.launch)
    del plan  # the parent of a long sweep holds no more than it needs
    return _run(ledger, first, num_jobs, sweep, work, console)


def _run(ledger: Ledger, config: Config, num_jobs: int, sweep: str, work: Work, console: Console) -> int:
    num_done = job_counts(ledger, sweep)[JobStatus.done]
    console.print(f"sweep {sweep}: {num_jobs} jobs, {num_done} done before, runs in {config.paths.runs}", markup=False)
    settings, place = _settings(config, sweep, work), place_of_environment()
    try:
        if num_done < num_jobs:
            with SweepProgress(console, num_jobs, num_done) as progress:
                if place is not None:
                    _run_here(settings, place, progress)
                elif not LAUNCHERS[config.launch.launcher](settings, ledger, progress):
                    return EXIT_OK
        elif place is not None:
            _run_here(settings, place, lambda _: None)  # lets the other ranks go
    except KeyboardInterrupt:
        console.print("stopped; state is saved. The same command goes on where this one ended.")
        return EXIT_INTERRUPTED
    return show_result(ledger, num_jobs, sweep, console)


def _follow(config: Config, place: Place) -> int:
    """This process is one of torchrun's, and not the first, which plans, records and talks."""
    try:
        _run_here(_settings(config, None, None), place, lambda _: None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


def _run_here(settings: WorkerSettings, place: Place, watch: Watch) -> None:
    from sweeps.workers.serve import run_here  # torch

    prepare_process()
    run_here(settings, place, watch)


def _settings(config: Config, sweep: str | None, work: Work | None) -> WorkerSettings:
    return WorkerSettings(
        ledger_url=ledger_url(config.paths),
        paths=config.paths,
        launch=replace(config.launch, device=launch_device(config.launch)),
        tracking=config.tracking,
        sweep=sweep,
        work=work,
    )


def _open_ledger(config: Config) -> Ledger:
    Path(config.paths.runs).mkdir(parents=True, exist_ok=True)
    share_as_folder_says(config.paths.runs)
    return Ledger.open(ledger_url(config.paths))


def _sweep_name(jobs: Sequence[Job]) -> str:
    """Equal grids have equal names, so that the same command finds its sweep again."""
    digest = hashlib.sha256(json.dumps(sorted(job.job_id for job in jobs)).encode()).hexdigest()
    return f"sweep-{digest[:8]}"
