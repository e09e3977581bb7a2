"""From planned runs to "all done": check, enqueue what is missing, run workers, say what came of it."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.devices import Hardware, Place, launch_device, place_of_environment
from harness.files import share_as_folder_says
from harness.ledger import Job, JobRow, JobStatus, Ledger
from harness.methods import shard_problem
from harness.places import ledger_url
from harness.process import prepare_process
from harness.schema import Config, Device, LaunchConfig, Launcher
from sweeps.enqueue import enqueue, run_problem
from sweeps.estimate import Estimate, estimate_all, free_disk_bytes
from sweeps.launchers import LAUNCHERS, launch_problems
from sweeps.plan import ANSWERS, DATASET_EVALS, PlannedRun, make_jobs, plan_runs
from sweeps.plan_view import disk_warning, show_plan
from sweeps.preflight import cuda_problems, device_notes, preflight
from sweeps.progress import SweepProgress
from sweeps.settings import Work, WorkerSettings
from sweeps.slots import work_of, workers_on_device
from sweeps.waiting import Watch

LISTED_JOBS = 40  # a larger sweep is summed up
EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A checked plan and what is there already."""

    runs: list[PlannedRun]
    jobs: list[Job]
    finished: set[str]  # run ids whose folders are whole
    problems: list[str]  # what is missing; empty: it can start
    notes: list[str]  # what was decided for the user, and is no matter of course


def planned(configs: Sequence[Config]) -> Planned:
    """Plans a grid and looks at everything that it needs; starts nothing.

    Raises:
        ValueError: points that can't be resolved.
    """
    first = configs[0]
    runs = plan_runs(configs)
    finished = {run.run_id for run in runs if run_problem(Path(first.paths.runs), run) is None}
    return Planned(
        runs=runs,
        jobs=make_jobs(runs, first.paths),
        finished=finished,
        problems=[
            *launch_problems(first),
            *preflight(runs, first.paths, _asked_device(first.launch)),
            *cuda_problems([run for run in runs if run.run_id not in finished], first.launch),
            *device_problems(runs, first.launch),
        ],
        notes=device_notes(configs),
    )


def device_problems(runs: Sequence[PlannedRun], launch: LaunchConfig) -> list[str]:
    """What keeps these runs from several devices each, as asked for."""
    place, problems = place_of_environment(), dict[str, None]()
    if place is not None and launch.devices_per_run not in (1, place.size):
        problems[
            f"launch.devices_per_run={launch.devices_per_run}: torchrun started {place.size} processes, and they are "
            "the devices of every run; leave the key out"
        ] = None
    if launch.shard_base and num_devices(launch) == 1:
        problems["launch.shard_base=true: there is one device to a run; say launch.devices_per_run=2 or more"] = None
    if place is not None and launch.launcher is not Launcher.local:
        problems[
            f"launch={launch.launcher.value}: torchrun has started these processes; give the command without it and "
            "say launch.devices_per_run, or leave the launcher out"
        ] = None
    if launch.shard_base:
        found = (shard_problem(run.spec.model.kind, run.spec.adapter.method) for run in runs)
        problems.update((problem, None) for problem in found if problem)
        asked = {name for run in runs for name in run.evals.after_training}
        problems.update((whole_base_problem(name), None) for name in (*DATASET_EVALS, ANSWERS) if name in asked)
    return list(problems)


def whole_base_problem(name: str) -> str:
    """Why an evaluation is not made where the base is sharded over devices."""
    command = "generate" if name == ANSWERS else name
    return (
        f"launch.shard_base=true with eval.after_training={name}: it is scored over a whole base only; leave it out, "
        f"and score the run afterwards with python -m eval {command}"
    )


def num_devices(launch: LaunchConfig) -> int:
    """That share every run."""
    place = place_of_environment()
    return launch.devices_per_run if place is None else place.size


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
    _print_notes(plan, console)
    sweep = first.sweep_name or _sweep_name(plan.jobs)
    ledger = _open_ledger(first)
    enqueue(ledger, Path(first.paths.runs), plan.runs, plan.jobs, sweep, command)
    num_jobs = len(plan.jobs)
    work = work_of([run for run in plan.runs if run.run_id not in plan.finished], first.launch)
    del plan  # the parent of a long sweep holds no more than it needs
    return _run(ledger, first, num_jobs, sweep, work, console)


def print_plan(
    plan: Planned, first: Config, console: Console, every_run: bool = False, others: Sequence[Hardware] = ()
) -> None:
    """The plan for a person, with what each run needs. Args: others: devices to plan for instead of this machine's."""
    estimates, problems = estimated(plan, first, others)
    show_plan(console, plan.runs, plan.finished, problems, estimates, every_run)
    _print_notes(plan, console)


def _print_notes(plan: Planned, console: Console) -> None:
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def estimated(plan: Planned, first: Config, others: Sequence[Hardware] = ()) -> tuple[dict[str, Estimate], list[str]]:
    """-> what each run needs, and the plan's problems with that of the disk."""
    folder = Path(first.paths.runs)
    to_do = [run for run in plan.runs if run.run_id not in plan.finished]
    found = estimate_all(
        [run.spec for run in plan.runs],
        folder,
        _asked_device(first.launch),
        others,
        _num_shards(first.launch),
        first.launch.max_group_size,
        1 if others else workers_on_device(first.launch, work_of(to_do, first.launch)),
    )
    return found, [*plan.problems, *disk_warning(to_do, found, free_disk_bytes(folder))]


def _run(ledger: Ledger, config: Config, num_jobs: int, sweep: str, work: Work, console: Console) -> int:
    num_done = _counts(ledger, sweep)[JobStatus.done]
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
    return _say_what_came_of_it(ledger, num_jobs, sweep, console)


def _say_what_came_of_it(ledger: Ledger, num_jobs: int, sweep: str, console: Console) -> int:
    """A row a job, or of a large sweep the numbers; what is not done, with its reason."""
    counts = _counts(ledger, sweep)
    if num_jobs <= LISTED_JOBS:
        console.print(_result_table(list(ledger.rows(sweep))))
    else:
        numbers = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        console.print(f"{numbers}; more: python -m sweeps status --sweep {sweep}", highlight=False, markup=False)
    num_bad = num_jobs - counts[JobStatus.done]
    statuses = [status for status in JobStatus if status is not JobStatus.done and counts[status]]
    for row in islice((row for status in statuses for row in ledger.rows(sweep, status=status)), LISTED_JOBS):
        console.print(
            f"{row.kind} {row.label}: {row.status}: {row.reason}", markup=False, highlight=False, soft_wrap=True
        )
    if num_bad > LISTED_JOBS:
        console.print(f"... and {num_bad - LISTED_JOBS} more")
    return EXIT_FAILED if num_bad else EXIT_OK


def _follow(config: Config, place: Place) -> int:
    """This process is one of torchrun's, and not the first, which plans, records and talks."""
    try:
        _run_here(_settings(config, None, None), place, lambda _: None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


def _run_here(settings: WorkerSettings, place: Place, watch: Watch) -> None:
    from sweeps.worker import run_here  # torch

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


def _asked_device(launch: LaunchConfig) -> Device:
    """auto stays auto for this machine; on a cluster it is what the workers ask for."""
    return launch.device if launch.launcher is Launcher.local else launch_device(launch)


def _num_shards(launch: LaunchConfig) -> int:
    return num_devices(launch) if launch.shard_base else 1


def _counts(ledger: Ledger, sweep: str) -> Counter[JobStatus]:
    """Jobs of the sweep by status, over all kinds."""
    total: Counter[JobStatus] = Counter()
    for per_status in ledger.counts(sweep).values():
        total.update(per_status)
    return total


def _result_table(rows: Sequence[JobRow]) -> Table:
    table = Table(title="what came of it", title_justify="left")
    for column in ("job", "run", "label", "status", "result", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for row in rows:
        shown = {key: value for key, value in (row.result or {}).items() if key != "peak_memory_bytes"}
        result = ", ".join(f"{key} {_short(value)}" for key, value in shown.items())
        table.add_row(
            row.kind, row.run_id, row.label, row.status, result, f"{row.seconds:.1f}" if row.seconds is not None else ""
        )
    return table


def _short(value: object) -> str:
    """For a table's cell."""
    if isinstance(value, dict):
        return _short(value.get("value", value.get("mean", "")))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _open_ledger(config: Config) -> Ledger:
    Path(config.paths.runs).mkdir(parents=True, exist_ok=True)
    share_as_folder_says(config.paths.runs)
    return Ledger.open(ledger_url(config.paths))


def _sweep_name(jobs: Sequence[Job]) -> str:
    """Equal grids have equal names, so that the same command finds its sweep again."""
    digest = hashlib.sha256(json.dumps(sorted(job.job_id for job in jobs)).encode()).hexdigest()
    return f"sweep-{digest[:8]}"


def command_line() -> list[str]:
    """As the user typed it, the module's path as `python -m` takes it."""
    return ["python", "-m", "harness.run", *sys.argv[1:]]
