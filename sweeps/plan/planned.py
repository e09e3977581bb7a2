"""Makes a checked plan: what would be trained, what is there already, and what is missing. Starts nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from eval.benchmarks.registry import BENCHMARKS
from harness.config.schema import Config, Device, LaunchConfig, Launcher, PathsConfig
from harness.console import say
from harness.data.selection.rows import asks_base
from harness.devices.hardware import Hardware, hardware, launch_device, place_of_environment
from harness.ledger.open import ledger_url
from harness.ledger.tables import Job
from harness.runs.compatibility import shard_problem
from harness.runs.folder import CUT_OFF, GONE
from sweeps.plan.cluster import launch_problems
from sweeps.plan.enqueue import run_problem
from sweeps.plan.estimate import Estimate, estimate_all, free_disk_bytes
from sweeps.plan.evaluations import evaluation_times, idle_notes
from sweeps.plan.jobs import PlannedRun, fixed_group_note, make_jobs, plan_runs, whole_base_problem
from sweeps.plan.preflight import (
    architecture_notes,
    cuda_problems,
    device_notes,
    preflight,
    storage_notes,
    unkept_notes,
)
from sweeps.plan.slots import work_of, workers_on_device
from sweeps.plan.table import disk_warning, show_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A checked plan and what is there already."""

    runs: list[PlannedRun]
    jobs: list[Job]
    finished: set[str]  # run ids whose folders are whole
    problems: list[str]  # what is missing; empty: it can start
    num_examples: dict[str, int]  # run id -> the examples that it trains on, where its rows could be counted
    notes: list[str]  # what was decided for the user, and is no matter of course


def planned(configs: Sequence[Config]) -> Planned:
    """Plans a grid and looks at everything that it needs; starts nothing.

    Raises:
        ValueError: points that can't be resolved.
    """
    first = configs[0]
    runs = plan_runs(configs)
    num_examples: dict[str, int] = {}
    state = {run.run_id: run_problem(Path(first.paths.runs), run) for run in runs}
    finished = {run_id for run_id, problem in state.items() if problem is None}
    return Planned(
        runs=runs,
        jobs=make_jobs(runs, first.paths),
        finished=finished,
        problems=[
            *launch_problems(first),
            *_place_problems(first.paths),
            *preflight(runs, first.paths, _asked_device(first.launch), num_examples),
            *cuda_problems([run for run in runs if run.run_id not in finished], first.launch),
            *device_problems(runs, first.launch),
        ],
        num_examples=num_examples,
        notes=[
            *device_notes(configs),
            *architecture_notes(runs, first.paths),
            *storage_notes(runs),
            *idle_notes(configs),
            *_broken_notes(runs, state),
            *unkept_notes([run for run in runs if run.run_id in finished], Path(first.paths.runs)),
            *group_notes([run for run in runs if run.run_id not in finished], first.launch),
        ],
    )


def _broken_notes(runs: Sequence[PlannedRun], state: Mapping[str, str | None]) -> list[str]:
    """What is said of runs whose folders are there, but can't count as done."""
    return [
        f"run {run.run_id} ({run.label}) is made again: {problem}"
        for run in runs
        if (problem := state[run.run_id]) not in (None, GONE, CUT_OFF)
    ]


def _place_problems(paths: PathsConfig) -> list[str]:
    """Folders of the config that are files, or lie below one."""
    named = (("paths.runs", Path(paths.runs)), ("paths.cache", Path(paths.cache)))
    problems: list[str] = []
    for key, folder in named:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            problems.append(f"{key}={folder}: {there} is a file; name a folder")
    return problems


def device_problems(runs: Sequence[PlannedRun], launch: LaunchConfig) -> list[str]:
    """The reasons why each of these runs can't have as many devices as the launch says."""
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
        for run in runs:
            if run.spec.dataset is not None and asks_base(run.spec.dataset):
                problems[
                    f"launch.shard_base=true: dataset.select={run.spec.dataset.select.value} asks a whole base; choose "
                    "random or length"
                ] = None
        asked = {name for run in runs for name in run.evals.after_training}
        whole = [name for name, benchmark in BENCHMARKS.items() if not benchmark.scores_sharded_base]
        problems.update((whole_base_problem(name), None) for name in whole if name in asked)
    return list(problems)


def group_notes(left: Sequence[PlannedRun], launch: LaunchConfig) -> list[str]:
    """What the runs that are left are told about their groups' places. Args: left: runs that are not done."""
    sizes = Counter(run.spec.group for run in left if run.spec.train is not None)
    largest = min(max(sizes.values(), default=0), launch.max_group_size)
    note = fixed_group_note(largest, num_devices(launch), launch.shard_base)
    return [] if note is None else [note]


def num_devices(launch: LaunchConfig) -> int:
    """The number of devices that share every run."""
    place = place_of_environment()
    return launch.devices_per_run if place is None else place.size


def print_plan(
    plan: Planned, first: Config, console: Console, every_run: bool = False, others: Sequence[Hardware] = ()
) -> None:
    """The plan for a person, with what each run needs. Args: others: devices to plan for instead of this machine's."""
    estimates, problems = estimated(plan, first, others)
    show_plan(console, plan.runs, plan.finished, problems, estimates, every_run, first.launch.price_per_gpu_hour)
    print_notes(plan, console)


def print_notes(plan: Planned, console: Console) -> None:
    """Prints what was decided for the user."""
    for note in plan.notes:
        say(f"note: {note}", console)


def estimated(plan: Planned, first: Config, others: Sequence[Hardware] = ()) -> tuple[dict[str, Estimate], list[str]]:
    """-> what each run needs, and the plan's problems with that of the disk."""
    folder = Path(first.paths.runs)
    to_do = [run for run in plan.runs if run.run_id not in plan.finished]
    devices = {target.name for target in others or hardware(_asked_device(first.launch))}
    device = devices.pop() if len(devices) == 1 else None
    found = estimate_all(
        [run.spec for run in plan.runs],
        folder,
        _asked_device(first.launch),
        others,
        _num_shards(first.launch),
        first.launch.max_group_size,
        1 if others else workers_on_device(first.launch, work_of(to_do, first.launch)),
        plan.num_examples,
        num_devices(first.launch),
        evaluation_times(plan.runs, plan.jobs, first.paths, ledger_url(first.paths), device),
    )
    return found, [*plan.problems, *disk_warning(to_do, found, free_disk_bytes(folder))]


def _asked_device(launch: LaunchConfig) -> Device:
    """The device to plan for: `auto` stays for this machine; on a cluster it is what the workers ask for."""
    return launch.device if launch.launcher is Launcher.local else launch_device(launch)


def _num_shards(launch: LaunchConfig) -> int:
    return num_devices(launch) if launch.shard_base else 1
