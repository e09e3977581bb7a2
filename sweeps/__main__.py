"""The commands `python -m sweeps ...`: plan a grid, launch it, watch it, try failed jobs again, tidy up.

python -m sweeps plan --list
python -m sweeps plan +grid=table5
python -m sweeps run model=llama7b,13b dataset=oasst1,flan
python -m sweeps search --study rates model=smollm2 "train.learning_rate=float(1e-5,1e-3,log)"
python -m sweeps race model=smollm2 train.eval_rows=64 train.learning_rate=1e-4,3e-4,1e-3
python -m sweeps status --sweep demo --watch
python -m sweeps results demo --sort mmlu
python -m sweeps show 1f8a
python -m sweeps retry --failed --sweep demo
python -m sweeps cancel --sweep demo
python -m sweeps quality-rule --sweep subsets --out rule.json
python -m sweeps gc --remove
python -m sweeps rebuild
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from harness.commands import Json, new_app
from harness.config.paths import paths_of_environment
from harness.console import EXIT_FAILED, EXIT_OK, STDERR, STDOUT, say, show
from harness.ledger.database import Opening
from harness.ledger.ledger import Ledger
from harness.ledger.open import existing_ledger, ledger_url
from harness.ledger.tables import JobStatus

if TYPE_CHECKING:
    from harness.devices.hardware import Hardware

app = new_app("Plan, launch, watch and mend sweeps of many runs.")

Runs = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; default: HARNESS_RUNS, else runs/.")]
Sweep = Annotated[str | None, typer.Option("--sweep", help="This sweep only; default: all.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="As for harness.run: +grid=table5, +experiment=demo, model=7b,13b ...")
]
ConfigDir = Annotated[
    Path | None,
    typer.Option("--config-dir", help="A folder of your own choices and grids, laid out as conf/: model/mine.yaml."),
]

Eta = Annotated[int, typer.Option("--eta", help="Of so many runs one goes on; steps grow by it from rung to rung.")]
MinSteps = Annotated[
    int | None,
    typer.Option("--min-steps", help="Steps to the first rung; default: three rungs below train.max_steps."),
]


@app.command()
def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    every_run: Annotated[bool, typer.Option("--all", help="A row for each run, however many there are.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="The named grids: +grid=...")] = False,
    device_gb: Annotated[
        list[float] | None,
        typer.Option("--device-gb", help="Plan for a GPU of this size in GB (10^9), not this machine."),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Plan for a GPU of this name, not this machine: H100, A100 ...")
    ] = None,
    detect: Annotated[
        float | None,
        typer.Option("--detect", help="Say whether seeds and questions can tell a difference of so many points."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every run of a grid: its group, memory, tokens, time, disk; what is done, missing or too large."""
    from eval.benchmarks.registry import eval_config
    from harness.config.compose import all_folders, compose_grid
    from harness.devices.gpus import named_gpu
    from sweeps.plan.planned import estimated, planned, print_plan
    from sweeps.plan.table import describe, grids_table, listed_grids
    from sweeps.search.detect import detect as detectable_differences
    from sweeps.search.detect import plain

    if listed:
        folders = all_folders(overrides or [], config_dir)
        show(listed_grids(folders), grids_table(folders), as_json)
        return
    others = [*(named_gpu(name) for name in device or ()), *_gpus_of(device_gb or ())]
    elsewhere = ["launch.device=cuda"] if others else []  # so that `auto` means what it means there
    configs = [point.config for point in compose_grid([*_required(overrides), *elsewhere], eval_config(), config_dir)]
    checked = planned(configs)
    found = [] if detect is None else detectable_differences(checked.runs, configs[0].paths, detect)
    if not as_json:
        print_plan(checked, configs[0], STDOUT, every_run, others)
        for one in found:
            say(one.sentence())
        return
    estimates, problems = estimated(checked, configs[0], others)
    values = describe(checked.runs, checked.finished, problems, estimates) | {"notes": checked.notes}
    print(json.dumps(values if detect is None else values | {"detect": plain(found)}))


@app.command()
def run(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    allow_sqlite: Annotated[
        bool, typer.Option("--allow-sqlite", help="A SQLite ledger on a cluster, where all workers run on one machine.")
    ] = False,
) -> None:
    """Plan and launch a grid; the same as `python -m harness.run -m`. On a cluster: launch=slurm or launch=ray."""
    from eval.benchmarks.registry import eval_config
    from harness.config.compose import compose_grid
    from sweeps.launch.launch import launch

    arguments = [*_required(overrides), *(["launch.allow_sqlite=true"] if allow_sqlite else [])]
    configs = [point.config for point in compose_grid(arguments, eval_config(), config_dir)]
    raise typer.Exit(launch(configs, ["python", "-m", "sweeps", *sys.argv[1:]], STDOUT))


@app.command()
def search(
    overrides: Annotated[
        list[str],
        typer.Argument(help='model=smollm2 "train.learning_rate=float(1e-5,1e-3,log)" "adapter.lora_r=int(8,64,log)"'),
    ],
    study: Annotated[str, typer.Option("--study", help="Its name; the same name and command go on with it.")],
    trials: Annotated[int, typer.Option("--trials", help="The number of trials when the search ends.")] = 20,
    parallel: Annotated[int, typer.Option("--parallel", help="Trials that are drawn, and trained, together.")] = 4,
    objective: Annotated[
        str,
        typer.Option(
            "--objective", help="final_loss, eval_loss (train.eval_rows=N), or the benchmark that eval=... measures."
        ),
    ] = "final_loss",
    seed: Annotated[int, typer.Option("--seed", help="Of the values that are drawn.")] = 0,
    pruner: Annotated[
        str | None,
        typer.Option(
            "--pruner",
            help="hyperband or median (once five trials are complete): stop the worse trials by their held-out loss.",
        ),
    ] = None,
    eta: Eta = 3,
    min_steps: MinSteps = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Look for the best values of a space: key=int(a,b[,log]), float(a,b[,log]) or choice(a,b,...). Needs optuna."""
    try:
        from sweeps.search.command import search_and_show
        from sweeps.search.pruning import Pruner
        from sweeps.search.study import parse_search
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}: pip install 'qlora-harness[search]'") from None

    command = ["python", "-m", "sweeps", "search", *sys.argv[2:]]
    if pruner is not None and pruner not in list(Pruner):
        raise ValueError(f"--pruner {pruner}: there are {', '.join(Pruner)}")
    wanted = parse_search(
        overrides,
        study=study,
        objective=objective,
        num_trials=trials,
        num_parallel=parallel,
        seed=seed,
        pruner=None if pruner is None else Pruner(pruner),
        eta=eta,
        min_steps=min_steps,
    )
    exit_status, values = search_and_show(wanted, command, STDERR if as_json else STDOUT, as_json, config_dir)
    if as_json:
        print(json.dumps(values))
    raise typer.Exit(exit_status)


@app.command()
def race(
    overrides: Overrides = None,
    objective: Annotated[
        str, typer.Option("--objective", help="eval_loss, or eval_bits_per_byte where models differ.")
    ] = "eval_loss",
    eta: Eta = 2,  # 3 lost the best run of a grid in one of four seeds: benchmarks/results/groups-cpu-2026-11-29.md
    min_steps: MinSteps = None,
    promote: Annotated[
        list[str] | None, typer.Option("--promote", help="A stopped run that is trained to its end afterwards.")
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Race the runs of a grid: at each rung the worse ones stop by their held-out loss, the best trains to its end."""
    from sweeps.search.race_command import race_and_show

    command = ["python", "-m", "sweeps", *sys.argv[1:]]
    console = STDERR if as_json else STDOUT
    exit_status, values = race_and_show(
        _required(overrides), objective, eta, min_steps, promote or (), command, console, as_json, config_dir
    )
    if as_json:
        print(json.dumps(values))
    raise typer.Exit(exit_status)


@app.command()
def status(
    sweep: Sweep = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds, until Ctrl-C.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Show jobs by kind and state, throughput, remaining time, workers, memory, and what failed and why."""
    from sweeps.watch.status import read_status, status_table

    if watch and as_json:
        raise ValueError("--watch is for people, --json for scripts: give one of them")
    folder = Path(paths_of_environment(runs).runs)
    with _ledger(runs) as ledger:
        values = read_status(ledger, sweep, folder)
        if not watch:
            show(values.to_json(), status_table(values), as_json)
            return
        with Live(status_table(values), console=STDOUT) as live, suppress(KeyboardInterrupt):
            while True:
                time.sleep(2)
                live.update(status_table(read_status(ledger, sweep, folder)))


@app.command()
def results(
    sweep: Annotated[str, typer.Argument(help="A sweep's name, as in `status`.")],
    sort: Annotated[str | None, typer.Option("--sort", help="The best first, by a column: loss, mmlu ...")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else on standard output.")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Every run of a sweep with its state, loss, time and scores."""
    from sweeps.watch.results import read_results, results_csv, results_json, results_table

    if as_csv and as_json:
        raise ValueError("--csv and --json: give one of them")
    with _ledger(runs) as ledger:
        found = read_results(ledger, sweep, sort)
    if as_csv:
        print(results_csv(found), end="")
    else:
        show(results_json(sweep, found), results_table(sweep, found), as_json)


@app.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(help="As in `status` and `plan`; its beginning is enough.")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Show one run: its jobs, and where its config, logs, metrics, adapter and results are."""
    from sweeps.watch.show import read_run, run_text

    with _ledger(runs) as ledger:
        values = read_run(ledger, Path(paths_of_environment(runs).runs), run_id)
    if as_json:
        print(json.dumps(values))
    else:
        say(run_text(values))


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
        raise ValueError("say which jobs to try again: --failed, --cancelled or both")
    with _ledger(runs, Opening.use) as ledger:
        if sweep is not None:
            _require_sweep(ledger, sweep)
        say(f"{ledger.requeue(statuses, sweep=sweep)} jobs are queued again")


@app.command()
def cancel(
    sweep: Annotated[str, typer.Option("--sweep", help="The sweep whose open jobs are cancelled.")],
    end_slurm: Annotated[bool, typer.Option("--scancel", help="End the sweep's SLURM workers at once, too.")] = False,
    runs: Runs = None,
) -> None:
    """Cancels a sweep's open jobs, but those that another sweep wants too. `retry --cancelled` brings them back."""
    from sweeps.launch.slurm import scancel, still_there, submissions

    with _ledger(runs, Opening.use) as ledger:
        _require_sweep(ledger, sweep)
        say(f"{ledger.cancel(sweep)} jobs cancelled")
    left = still_there(submissions(Path(paths_of_environment(runs).runs), sweep))
    names = " ".join(submission.job_id for submission in left)
    if left and end_slurm:
        scancel(left)
        say(f"SLURM jobs ended: {names}")
    elif left:
        say(f"the sweep's SLURM workers find nothing to do and end by themselves; to end them at once: scancel {names}")


@app.command()
def pause(
    sweep: Annotated[str, typer.Option("--sweep", help="The sweep whose jobs are not to be claimed for now.")],
    resume: Annotated[bool, typer.Option("--resume", help="Let them be claimed again.")] = False,
    runs: Runs = None,
) -> None:
    """Keeps a sweep's queued jobs from being claimed; those under way go on."""
    with _ledger(runs, Opening.use) as ledger:
        _require_sweep(ledger, sweep)
        if resume:
            ledger.resume(sweep)
        else:
            ledger.pause(sweep)
    say(f"{sweep} is {'active' if resume else 'paused'}")


@app.command("quality-rule")
def quality_rule(
    out: Annotated[Path, typer.Option("--out", help="The rule's file, for dataset.quality_rule.")],
    sweep: Annotated[str | None, typer.Option("--sweep", help="The sweep whose finished runs are taken.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="A finished run's id; repeat it.")] = None,
    indicators: Annotated[
        str, typer.Option("--indicators", help="Of a row: input_tokens, target_tokens, perplexity, knn.")
    ] = "target_tokens,perplexity,knn",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Fit which rows are worth training on, from runs that trained on other rows of one dataset (InstructMining).

    python -m harness.run -m dataset=oasst1 train.eval_rows=256 dataset.fraction=0.1,0.2 dataset.select=random,length

    python -m sweeps quality-rule --sweep NAME --out rule.json

    python -m harness.run dataset=oasst1 dataset.fraction=0.1 dataset.select=quality dataset.quality_rule=rule.json
    """
    from sweeps.jobs.quality_rule import fit_quality_rule, rule_table

    values = fit_quality_rule(sweep, run or [], runs, indicators.split(","), out)
    show(values, rule_table(values, out), as_json)


@app.command()
def gc(
    remove: Annotated[bool, typer.Option("--remove", help="Really remove; default: only show.")] = False,
    runs: Runs = None,
) -> None:
    """Show or remove checkpoints and half-written files that no run needs any more."""
    from sweeps.watch.garbage import find_garbage, remove_garbage

    with _ledger(runs) as ledger:
        garbage, unreadable = find_garbage(Path(paths_of_environment(runs).runs), ledger)
    for folder in unreadable:
        say(f"not looked at: {folder}: not readable for this user")
    for item in garbage:
        say(f"{item.num_bytes / 2**20:9.1f} MiB  {item.path}  ({item.why})")
    total = sum(item.num_bytes for item in garbage) / 2**20
    if remove:
        left = remove_garbage(garbage)
        for path, why in left.items():
            say(f"not removed: {path}: {why}")
        gone = sum(item.num_bytes for item in garbage if item.path not in left) / 2**20
        say(f"removed {gone:.1f} MiB")
        raise typer.Exit(EXIT_FAILED if left else EXIT_OK)
    say(f"{total:.1f} MiB could go; say --remove")


@app.command("rebuild")
def rebuild_ledger(runs: Runs = None) -> None:
    """Makes a damaged or deleted ledger anew from the run folders; the old file is kept beside it."""
    from sweeps.watch.rebuild import SWEEP, rebuild

    paths = paths_of_environment(runs)
    made = rebuild(Path(paths.runs), ledger_url(paths))
    if made.moved is not None:
        say(f"the damaged file is {made.moved} now")
    for name, why in made.left_out:
        say(f"left out {name}: {why}")
    say(
        f"sweep {SWEEP}: {made.num_runs} finished runs and {made.num_evaluations} evaluations are recorded"
        + (f", {made.num_stopped} runs that a race stopped" if made.num_stopped else "")
        + (f", and {made.num_decisions} decisions of races" if made.num_decisions else "")
        + "; give your commands again for what was not finished"
    )


def _gpus_of(sizes: Iterable[float]) -> "Iterator[Hardware]":
    """GPUs of so many GB, whatever they are called."""
    from harness.devices.hardware import Hardware

    return (Hardware(f"a GPU of {size:g} GB", int(size * 1e9)) for size in sizes)


def _required(overrides: list[str] | None) -> list[str]:
    if not overrides:
        raise ValueError(
            "no grid was given: give overrides, e.g. model=7b,13b dataset=flan, or a name of: "
            "python -m sweeps plan --list"
        )
    return overrides


def _ledger(runs: Path | None, opening: Opening = Opening.look) -> AbstractContextManager[Ledger]:
    """Opens the ledger, which has to exist, and closes it at the end of a `with`."""
    return closing(existing_ledger(ledger_url(paths_of_environment(runs)), opening))


def _require_sweep(ledger: Ledger, sweep: str) -> None:
    known = [row.name for row in ledger.sweeps()]
    if sweep not in known:
        raise ValueError(f"--sweep {sweep}: no such sweep; known: {', '.join(known) or 'none'}")


if __name__ == "__main__":
    app(prog_name="python -m sweeps")
