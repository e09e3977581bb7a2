"""Runs a grid: plans it, checks it, enqueues what is missing, runs workers, and says how each job ended."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness.config.schema import Config, Launcher
from harness.console import EXIT_INTERRUPTED, EXIT_OK, say
from harness.devices.hardware import Place, launch_device, place_of_environment
from harness.devices.process import heavy_imports
from harness.files.atomic import share_as_folder_says
from harness.ledger.ledger import Ledger
from harness.ledger.open import ledger_url
from harness.ledger.tables import Job, JobStatus
from sweeps.jobs.settings import WorkerSettings
from sweeps.launch.launchers import LAUNCHERS
from sweeps.launch.progress import SweepProgress
from sweeps.launch.result import job_counts, show_result
from sweeps.launch.slurm import sbatch_text
from sweeps.launch.waiting import Watch
from sweeps.plan.enqueue import Stops, enqueue
from sweeps.plan.planned import Planned, planned, print_notes, print_plan
from sweeps.plan.slots import Work, work_of
from sweeps.plan.table import WHERE_LOOKED, condensed


def launch(configs: Sequence[Config], command: Sequence[str], console: Console, stops: Stops | None = None) -> int:
    """Plans and runs a grid. -> the process's exit status.

    Args:
        configs: one a grid point; launch, paths and tracking are taken from the first.
        command: as the user typed it; kept with the sweep.
        stops: where the runs of a race stop.

    Raises:
        ValueError: something is missing, a line for each; nothing was started.
    """
    first = configs[0]
    place = place_of_environment()
    if place is not None and place.rank > 0:
        return EXIT_OK if first.launch.dry_run else _follow(first, place)
    plan = planned(configs)
    if first.launch.dry_run:
        print_plan(plan, first, console)
        if first.launch.launcher is Launcher.slurm:
            _print_submission(plan, first, console)
        return EXIT_OK
    if plan.problems:
        raise ValueError("\n".join(_shown_problems(plan.problems)))
    print_notes(plan, console)
    sweep = _enqueued(plan, first, command, stops)
    del plan  # the parent of a long sweep holds no more than it needs
    return _run(sweep, first, console)


def _print_submission(plan: Planned, config: Config, console: Console) -> None:
    """Prints what a launch would hand to sbatch, and the node-hours that it may take."""
    num_open = sum(job.run_id not in plan.finished for job in plan.jobs)
    workers = max(1, min(config.launch.workers or 1, num_open))
    say(f"sbatch would get:\n{sbatch_text(config, config.sweep_name or _sweep_name(plan.jobs), workers)}", console)
    hours = config.launch.slurm.time_minutes / 60
    say(
        f"{workers} workers of up to {hours:g} h each: at most {workers * hours:g} node-hours until they are requeued",
        console,
    )


def _shown_problems(problems: Sequence[str]) -> list[str]:
    shown = condensed(problems)
    return [*shown, f"{len(problems)} things are missing; {WHERE_LOOKED}"] if len(shown) < len(problems) else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweep:
    """The sweep as it was put into the ledger."""

    name: str
    ledger: Ledger
    num_jobs: int
    work: Work


def _enqueued(plan: Planned, config: Config, command: Sequence[str], stops: Stops | None) -> _Sweep:
    """Puts the plan's open jobs into the ledger."""
    name = config.sweep_name or _sweep_name(plan.jobs)
    ledger = _open_ledger(config)
    enqueue(ledger, Path(config.paths.runs), plan.runs, plan.jobs, name, command, stops)
    work = work_of([run for run in plan.runs if run.run_id not in plan.finished], config.launch)
    return _Sweep(name=name, ledger=ledger, num_jobs=len(plan.jobs), work=work)


def _run(sweep: _Sweep, config: Config, console: Console) -> int:
    """Runs workers until the sweep is done, and says how its jobs ended. -> exit status."""
    num_done = job_counts(sweep.ledger, sweep.name)[JobStatus.done]
    say(f"sweep {sweep.name}: {sweep.num_jobs} jobs, {num_done} done before, runs in {config.paths.runs}", console)
    try:
        has_waited = _work(sweep, config, num_done, console)
    except KeyboardInterrupt:
        say("stopped; state is saved. The same command goes on where this one ended.", console)
        return EXIT_INTERRUPTED
    return show_result(sweep.ledger, sweep.num_jobs, sweep.name, console) if has_waited else EXIT_OK


def _work(sweep: _Sweep, config: Config, num_done: int, console: Console) -> bool:
    """Does the open jobs, by a launcher's workers or as one of torchrun's processes.

    Returns:
        Whether it has waited for the end.
    """
    settings, place = _settings(config, sweep.name, sweep.work), place_of_environment()
    if num_done == sweep.num_jobs:
        if place is not None:
            _run_here(settings, place, lambda _: None)  # lets the other ranks go
        return True
    with SweepProgress(console, sweep.num_jobs, num_done) as progress:
        if place is None:
            return LAUNCHERS[config.launch.launcher](settings, sweep.ledger, progress)
        _run_here(settings, place, progress)
        return True


def _follow(config: Config, place: Place) -> int:
    """Works as one of torchrun's processes but the first, which plans, records and prints."""
    try:
        _run_here(_settings(config, None, None), place, lambda _: None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


def _run_here(settings: WorkerSettings, place: Place, watch: Watch) -> None:
    with heavy_imports():
        from sweeps.workers.serve import run_here

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
    """A name that is equal for equal grids, so that the same command finds its sweep again."""
    digest = hashlib.sha256(json.dumps(sorted(job.job_id for job in jobs)).encode()).hexdigest()
    return f"sweep-{digest[:8]}"
