"""The commands `python -m sweeps ...`: what a grid would cost, launch it, how far it is, try again, tidy up.

python -m sweeps plan --list
python -m sweeps plan +grid=table5
python -m sweeps run model=llama7b,13b dataset=oasst1,flan
python -m sweeps search --study rates model=smollm2 "train.learning_rate=float(1e-5,1e-3,log)"
python -m sweeps status --sweep demo --watch
python -m sweeps show 1f8a
python -m sweeps retry --failed --sweep demo
python -m sweeps cancel --sweep demo
python -m sweeps gc --remove
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from harness.config.paths import paths_of_environment
from harness.ledger.ledger import Ledger
from harness.ledger.open import existing_ledger, ledger_url
from harness.ledger.tables import JobStatus

app = typer.Typer(
    help="Plan, launch, watch and mend sweeps of many runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
STDOUT = Console(width=None if sys.stdout.isatty() else 140)
STDERR = Console(stderr=True)

Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: HARNESS_RUNS, else runs/.")]
Sweep = Annotated[str | None, typer.Option("--sweep", help="This sweep only; default: all.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="As for harness.run: +grid=table5, +experiment=demo, model=7b,13b ...")
]


@app.command()
def plan(
    overrides: Overrides = None,
    every_run: Annotated[bool, typer.Option("--all", help="A row for each run, however many there are.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="The named grids: +grid=...")] = False,
    device_gb: Annotated[
        list[float] | None, typer.Option("--device-gb", help="Plan for a GPU with so many GB (10^9), not this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every run of a grid: its group, memory, tokens, time, disk, what is done, what is missing or too large."""
    from eval.benchmarks.registry import eval_config
    from harness.config.compose import compose_grid
    from harness.devices.hardware import Hardware
    from sweeps.plan.planned import estimated, planned, print_plan
    from sweeps.plan.table import describe, grids_table, listed_grids

    try:
        if listed:
            print(json.dumps(listed_grids())) if as_json else STDOUT.print(grids_table())
            return
        _require_overrides(overrides)
        elsewhere = ["launch.device=cuda"] if device_gb else []  # so that `auto` means what it means there
        configs = [point.config for point in compose_grid([*(overrides or []), *elsewhere], eval_config())]
        found = planned(configs)
    except ValueError as error:
        raise _refused(error) from None
    others = [Hardware(f"a GPU of {size:g} GB", int(size * 1e9)) for size in device_gb or []]
    if as_json:
        estimates, problems = estimated(found, configs[0], others)
        values = describe(found.runs, found.finished, problems, estimates)
        print(json.dumps(values | {"notes": found.notes}))
        return
    print_plan(found, configs[0], STDOUT, every_run, others)


@app.command()
def run(
    overrides: Overrides = None,
    allow_sqlite: Annotated[
        bool, typer.Option("--allow-sqlite", help="A SQLite ledger on a cluster, where all workers run on one machine.")
    ] = False,
) -> None:
    """Plan and launch a grid; the same as `python -m harness.run -m`. On a cluster: launch=slurm or launch=ray."""
    from eval.benchmarks.registry import eval_config
    from harness.config.compose import compose_grid
    from sweeps.launch.launch import launch

    try:
        _require_overrides(overrides)
        asked = [*(overrides or []), *(["launch.allow_sqlite=true"] if allow_sqlite else [])]
        configs = [point.config for point in compose_grid(asked, eval_config())]
        status = launch(configs, ["python", "-m", "sweeps", "run", *asked], STDOUT)
    except ValueError as error:
        raise _refused(error) from None
    raise typer.Exit(status)


@app.command()
def search(
    overrides: Annotated[
        list[str],
        typer.Argument(help='model=smollm2 "train.learning_rate=float(1e-5,1e-3,log)" "adapter.lora_r=int(8,64,log)"'),
    ],
    study: Annotated[str, typer.Option("--study", help="Its name; the same name and command go on with it.")],
    trials: Annotated[int, typer.Option("--trials", help="How many trials in all.")] = 20,
    parallel: Annotated[int, typer.Option("--parallel", help="Trials asked for, and trained, at once.")] = 4,
    objective: Annotated[
        str, typer.Option("--objective", help="final_loss, or the benchmark that eval=... measures.")
    ] = "final_loss",
    seed: Annotated[int, typer.Option("--seed", help="Of what is asked for.")] = 0,
    as_json: Json = False,
) -> None:
    """Look for the best values of a space: key=int(a,b[,log]), float(a,b[,log]) or choice(a,b,...). Needs optuna."""
    try:
        from sweeps.search.command import search_and_show
        from sweeps.search.study import parse_search
    except ModuleNotFoundError as error:
        raise _refused(ValueError(f"{error}: pip install 'qlora-harness[search]'")) from None

    command = ["python", "-m", "sweeps", "search", *sys.argv[2:]]
    try:
        wanted = parse_search(
            overrides, study=study, objective=objective, num_trials=trials, num_parallel=parallel, seed=seed
        )
        exit_status, found = search_and_show(wanted, command, STDERR if as_json else STDOUT, as_json)
    except ValueError as error:
        raise _refused(error) from None
    if as_json:
        print(json.dumps(found))
    raise typer.Exit(exit_status)


@app.command()
def status(
    sweep: Sweep = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds, until Ctrl-C.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Jobs by kind and state, throughput, time to go, who works on what, memory, what failed and why."""
    from sweeps.watch.status import SweepStatus, read_status, status_table

    ledger, folder = _ledger(runs), Path(paths_of_environment(runs).runs)

    def read() -> SweepStatus:
        return read_status(ledger, sweep, folder)

    try:
        if watch and as_json:
            raise ValueError("--watch is for people, --json for scripts: give one of them")
        if as_json:
            print(json.dumps(read().to_json()))
        elif watch:
            with Live(status_table(read()), console=STDOUT) as live:
                while True:
                    time.sleep(2)
                    live.update(status_table(read()))
        else:
            STDOUT.print(status_table(read()))
    except KeyboardInterrupt:
        return
    except ValueError as error:
        raise _refused(error) from None
    finally:
        ledger.close()


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="As in `status` and `plan`; its beginning is enough.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """One run: its jobs, and where its config, logs, metrics, adapter and results lie."""
    from sweeps.watch.show import read_run, run_text

    ledger = _ledger(runs)
    try:
        found = read_run(ledger, Path(paths_of_environment(runs).runs), run_id)
    except ValueError as error:
        raise _refused(error) from None
    finally:
        ledger.close()
    if as_json:
        print(json.dumps(found))
    else:
        STDOUT.print(run_text(found), highlight=False, markup=False, soft_wrap=True)


@app.command()
def retry(
    failed: Annotated[bool, typer.Option("--failed", help="Jobs that failed.")] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Jobs that were cancelled.")] = False,
    sweep: Sweep = None,
    runs: Runs = None,
) -> None:
    """Puts jobs back into the queue, their attempts counted afresh. Start workers with `run` again."""
    statuses = [s for s, wanted in ((JobStatus.failed, failed), (JobStatus.cancelled, cancelled)) if wanted]
    if not statuses:
        raise _refused(ValueError("retry what? say --failed, --cancelled or both"))
    ledger = _ledger(runs)
    try:
        if sweep is not None:
            _require_sweep(ledger, sweep)
        STDOUT.print(f"{ledger.requeue(statuses, sweep=sweep)} jobs are queued again")
    except ValueError as error:
        raise _refused(error) from None
    finally:
        ledger.close()


@app.command()
def cancel(
    sweep: Annotated[str, typer.Option("--sweep", help="The sweep whose open jobs are cancelled.")],
    end_slurm: Annotated[bool, typer.Option("--scancel", help="End the sweep's SLURM workers at once, too.")] = False,
    runs: Runs = None,
) -> None:
    """Cancels a sweep's open jobs, but those that another sweep wants too. `retry --cancelled` brings them back."""
    from sweeps.launch.slurm import scancel, still_there, submissions

    ledger = _ledger(runs)
    try:
        _require_sweep(ledger, sweep)
        STDOUT.print(f"{ledger.cancel(sweep)} jobs cancelled")
        left = still_there(submissions(Path(paths_of_environment(runs).runs), sweep))
        names = " ".join(one.job_id for one in left)
        if left and end_slurm:
            scancel(left)
            STDOUT.print(f"SLURM jobs ended: {names}")
        elif left:
            STDOUT.print(f"its SLURM workers find nothing to do and end by themselves; at once: scancel {names}")
    except ValueError as error:
        raise _refused(error) from None
    finally:
        ledger.close()


@app.command()
def pause(
    sweep: Annotated[str, typer.Option("--sweep", help="The sweep whose jobs are not to be claimed for now.")],
    resume: Annotated[bool, typer.Option("--resume", help="Let them be claimed again.")] = False,
    runs: Runs = None,
) -> None:
    """Keeps a sweep's queued jobs from being claimed; those under way go on."""
    ledger = _ledger(runs)
    try:
        _require_sweep(ledger, sweep)
        if resume:
            ledger.resume(sweep)
        else:
            ledger.pause(sweep)
    except ValueError as error:
        raise _refused(error) from None
    finally:
        ledger.close()
    STDOUT.print(f"{sweep} is {'active' if resume else 'paused'}")


@app.command()
def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Really remove; default: only show.")] = False,
    runs: Runs = None,
) -> None:
    """Checkpoints and half-written files that no run needs any more."""
    from sweeps.watch.garbage import find_garbage, remove_garbage

    folder = Path(paths_of_environment(runs).runs)
    ledger = _ledger(runs)
    garbage = find_garbage(folder, ledger)
    ledger.close()
    for item in garbage:
        STDOUT.print(f"{item.num_bytes / 2**20:9.1f} MiB  {item.path}  ({item.why})", highlight=False, markup=False)
    total = sum(item.num_bytes for item in garbage) / 2**20
    if remove:
        remove_garbage(garbage)
        STDOUT.print(f"removed {total:.1f} MiB")
    else:
        STDOUT.print(f"{total:.1f} MiB could go; say --remove")


def _require_overrides(overrides: list[str] | None) -> None:
    if not overrides:
        raise ValueError(
            "which grid? give overrides, e.g. model=7b,13b dataset=flan, or one of: python -m sweeps plan --list"
        )


def _ledger(runs: Path | None) -> Ledger:
    try:
        return existing_ledger(ledger_url(paths_of_environment(runs)))
    except ValueError as error:
        raise _refused(error) from None


def _require_sweep(ledger: Ledger, sweep: str) -> None:
    known = [row.name for row in ledger.sweeps()]
    if sweep not in known:
        raise ValueError(f"--sweep {sweep}: no such sweep; known: {', '.join(known) or 'none'}")


def _refused(error: ValueError) -> typer.Exit:
    for line in str(error).splitlines():
        STDERR.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m sweeps")
