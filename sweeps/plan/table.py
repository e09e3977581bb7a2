"""Shows a plan to people and scripts: every run with what it needs, totals by model, what doesn't fit.

python -m sweeps plan +grid=table5 [--all] [--json] [--device-gb 24]
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from eval.benchmarks.benchmark import BYTES_A_TOKEN
from harness.config.choices import OURS, Folders
from harness.config.grids import grid_names, load_grid
from harness.config.schema import SHORTEST_ROW_TOKENS, TrainConfig
from harness.console import TextTable, say
from sweeps.plan.estimate import ARITHMETIC, NO_DEVICE, UTILISATION, Estimate
from sweeps.plan.jobs import PlannedRun

FEW_PROBLEMS = 10  # are told in full; more are condensed to a line a kind
SCREEN_LINES = 20  # of condensed problems at most
WHERE_LOOKED = "`python -m sweeps plan ... --all` says where each was looked for"
SHOWN_NAMES = 12
_HEADLINE = re.compile(r"(?P<what>[\w ]+? (?:of|for) )(?P<name>[^:]+?)(?P<end>: .*)")  # "weights of x: not found"
SHOWN_RUNS = 40  # a longer plan shows its totals; `--all` shows the rest
UNKNOWN = "?"


def describe(
    runs: Sequence[PlannedRun], finished: set[str], problems: Sequence[str], estimates: Mapping[str, Estimate]
) -> dict[str, Any]:
    """The plan as plain values; what is unknown is null."""
    return {
        "runs": [
            {
                "run_id": run.run_id,
                "label": run.label,
                "group": run.spec.group,
                "status": "done" if run.run_id in finished else "to do",
                "evals": run.evals.after_training,
                **_plain(estimates[run.run_id]),
                "spec": run.spec.to_dict(),
            }
            for run in runs
        ],
        "totals": {
            "num_runs": len(runs),
            "num_done": sum(run.run_id in finished for run in runs),
            "num_groups": len({run.spec.group for run in runs}),
            "to_do": _totals(_open(runs, finished), estimates),
            "to_do_by_model": {
                model: _totals(_open(same, finished), estimates) for model, same in _by_model(runs).items()
            },
        },
        "problems": list(problems),
    }


def show_plan(
    console: Console,
    runs: Sequence[PlannedRun],
    finished: set[str],
    problems: Sequence[str],
    estimates: Mapping[str, Estimate],
    every_run: bool = False,
    price: float | None = None,
) -> None:
    """Prints a row a run, or of a long plan the totals by model only; then what is missing or doesn't fit."""
    if every_run or len(runs) <= SHOWN_RUNS:
        console.print(runs_table(runs, finished, estimates))
    if len({run.spec.model.name for run in runs}) > 1 or len(runs) > SHOWN_RUNS:
        console.print(totals_table(runs, finished, estimates))
    for line in money_and_time(_open(runs, finished), estimates, price):
        say(line, console)
    if not every_run and len(runs) > SHOWN_RUNS:
        say(f"{len(runs)} runs; `python -m sweeps plan ... --all` or --json lists them", console)
    missing = problems if every_run else condensed(problems)
    for line in [*warnings(runs, finished, estimates), *(f"missing: {problem}" for problem in missing)]:
        say(line, console)
    if len(missing) < len(problems):
        say(
            f"{len(problems)} things are missing; `python -m sweeps plan ... --all` says where each was looked for",
            console,
        )


def condensed(problems: Sequence[str]) -> list[str]:
    """Problems of one kind on a line, where there are many."""
    if len(problems) <= FEW_PROBLEMS:
        return list(problems)
    kinds: dict[tuple[str, str], list[str]] = {}
    remedies: dict[tuple[str, str], str] = {}
    for problem in problems:
        headline, *details = problem.splitlines()
        found = _HEADLINE.fullmatch(headline)
        key, name = ((found["what"], found["end"]), found["name"]) if found else ((headline, ""), "")
        kinds.setdefault(key, []).append(name)
        remedies.setdefault(key, next((f"\n{line}" for line in details if "remedy:" in line), ""))
    shown = [f"{key[0]}{_named(names)}{key[1]}{remedies[key]}" for key, names in kinds.items()]
    more = [f"... and {len(shown) - SCREEN_LINES} more kinds of problems"] if len(shown) > SCREEN_LINES else []
    return [*shown[:SCREEN_LINES], *more]


def _named(names: Sequence[str]) -> str:
    listed = list(dict.fromkeys(names))
    rest = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
    return ", ".join(listed[:SHOWN_NAMES]) + rest


def money_and_time(left: Sequence[PlannedRun], estimates: Mapping[str, Estimate], price: float | None) -> list[str]:
    """What is left in GPU-hours, with its price; what that number comes from, and what is not in it."""
    found = [estimates[run.run_id] for run in left]
    hours = [needs.gpu_hours for needs in found if needs.gpu_hours is not None]
    if not hours:
        return []
    by_arithmetic = sum(needs.seconds_from == ARITHMETIC for needs in found)
    evals_by_arithmetic = sum(needs.eval_seconds_from == ARITHMETIC for needs in found)
    bound = "about " if evals_by_arithmetic else "at most " if by_arithmetic else ""
    cost = "" if price is None else f", {bound}{price * sum(hours):,.2f} at {price:g} an hour"
    lines = [f"what is left: {bound}{sum(hours):,.1f} GPU-hours{cost}"]
    if by_arithmetic:
        lines.append(
            f"the time of {by_arithmetic} runs is arithmetic ({UTILISATION:.0%} of the GPU's peak, every example as "
            "long as it may be), until runs like them are recorded on this device"
        )
    if evals_by_arithmetic:
        lines.append(
            f"the time of the evaluations of {evals_by_arithmetic} runs is arithmetic ({UTILISATION:.0%} of the GPU's "
            f"peak, {BYTES_A_TOKEN} bytes a token), until some like them are recorded"
        )
    unknown = len(found) - len(hours)
    not_measured = sum(needs.gpu_hours is not None and needs.eval_seconds is None for needs in found)
    lines += [f"not in it: {unknown} runs of unknown time"] if unknown else []
    if not_measured:
        lines.append(
            f"not in it: the evaluations of {not_measured} runs, as none like them were recorded, and how many tokens "
            "they read isn't known here"
        )
    return lines


def runs_table(runs: Sequence[PlannedRun], finished: set[str], estimates: Mapping[str, Estimate]) -> TextTable:
    """One row a run."""
    numbers = ("steps", "batch", "lr", "memory", "tokens", "time", "disk")
    return TextTable(
        title=f"{len(runs)} runs in {len({run.spec.group for run in runs})} groups",
        columns=("run", "label", "group", *numbers, "status"),
        rows=[_run_row(run, estimates[run.run_id], run.run_id in finished) for run in runs],
        numbers=numbers,
    )


def _run_row(run: PlannedRun, needs: Estimate, is_finished: bool) -> tuple[str, ...]:
    train = run.spec.train
    return (
        run.run_id,
        run.label,
        run.spec.group[:6],
        _steps(train, needs.num_steps),
        str(train.batch_size) if train else "-",
        f"{train.learning_rate:g}" if train else "-",
        _peak(needs) + (" !" if needs.too_large_for else ""),
        _tokens(needs),
        _bounded_time(needs),
        _size(needs.disk_bytes),
        "done" if is_finished else "to do",
    )


def _steps(train: TrainConfig | None, resolved: int | None) -> str:
    """How many steps a run has; what limits it where that isn't known before its rows are."""
    if train is None:
        return "0"
    if train.max_steps is None:
        return f"{train.max_epochs:g} epochs" + ("" if resolved is None else f" = {resolved}")
    if train.max_epochs is None or (resolved is not None and resolved < train.max_steps):
        return str(resolved)
    return f"<= {train.max_steps}"


def totals_table(runs: Sequence[PlannedRun], finished: set[str], estimates: Mapping[str, Estimate]) -> TextTable:
    """One row a model, over what is left; a sum with something unknown in it says so."""
    numbers = ("runs", "left", "groups", "largest", "tokens", "time", "disk")
    by_model = list(_by_model(runs).items())
    shown = [*by_model, ("all", list(runs))] if len(by_model) > 1 else by_model
    return TextTable(
        title="what is left, by model",
        columns=("model", *numbers),
        rows=[_total_row(model, same, finished, estimates) for model, same in shown],
        numbers=numbers,
    )


def _total_row(
    model: str, runs: Sequence[PlannedRun], finished: set[str], estimates: Mapping[str, Estimate]
) -> tuple[str, ...]:
    left = _open(runs, finished)
    total = _totals(left, estimates)
    unknown = total["num_runs_of_unknown_time"]
    bound = "<= " if total["num_runs_of_arithmetic_time"] else ""
    return (
        model,
        str(len(runs)),
        str(len(left)),
        str(len({run.spec.group for run in left})),
        _size(total["largest_memory_bytes"]),
        _bounded_count(total["max_tokens"]) + (", more" if total["num_runs_of_unknown_tokens"] else ""),
        bound + (f"{_time(total['seconds'] or None)}, {unknown} runs unknown" if unknown else _time(total["seconds"])),
        _size(total["disk_bytes"]),
    )


def warnings(runs: Sequence[PlannedRun], finished: set[str], estimates: Mapping[str, Estimate]) -> list[str]:
    """What will not fit, before anything starts."""
    left = _open(runs, finished)
    lines: list[str] = []
    for device, found in _by_device(left, {run.run_id: estimates[run.run_id].too_large_for for run in left}).items():
        need = min(estimates[run.run_id].least_memory_bytes or 0 for run in found)
        lines.append(f"does not fit {device}: {_which(found, left)}; they need {_size(need)} or more")
    for device, found in _by_device(left, {run.run_id: estimates[run.run_id].tight_on for run in left}).items():
        lines.append(
            f"tight on {device}: {_which(found, left)}; rows will be shorter there, or say "
            "train.gradient_checkpointing=true"
        )
    lines += _paging(left, estimates) + _rows(left, estimates) + _held_out(left, estimates)
    reasons = {estimates[run.run_id].seconds_unknown for run in left} - {None}
    lines += [f"time unknown: {reason}" for reason in sorted(str(reason) for reason in reasons)]
    if NO_DEVICE in reasons and not any(estimates[run.run_id].too_large_for for run in left):
        lines.append(
            "(--device H100 tells what fits that GPU and how long it takes, --device-gb 24 what fits one of that size)"
        )
    return lines


def _paging(left: Sequence[PlannedRun], estimates: Mapping[str, Estimate]) -> list[str]:
    paging = {run.run_id: tuple(estimates[run.run_id].paged_bytes) for run in left}
    return [
        f"pages on {device}: {_which(found, left)}; each moves up to "
        f"{_size(max(estimates[run.run_id].paged_bytes[device] for run in found))} of optimizer state to the host"
        for device, found in _by_device(left, paging).items()
    ]


def _rows(left: Sequence[PlannedRun], estimates: Mapping[str, Estimate]) -> list[str]:
    """The row lengths that were chosen by a GPU's memory; nothing where all have the shortest."""
    chosen: dict[int, list[PlannedRun]] = {}
    for run in left:
        tokens = estimates[run.run_id].row_tokens
        if tokens is not None and run.spec.train is not None and run.spec.train.max_microbatch_tokens is None:
            chosen.setdefault(tokens, []).append(run)
    if set(chosen) <= {SHORTEST_ROW_TOKENS}:
        return []
    return [f"rows of {tokens:,} tokens: {_which(found, left)}" for tokens, found in sorted(chosen.items())]


def _held_out(left: Sequence[PlannedRun], estimates: Mapping[str, Estimate]) -> list[str]:
    """What measuring the loss on held-out rows takes; nothing where no run does."""
    found = [estimates[run.run_id] for run in left if estimates[run.run_id].eval_tokens]
    if not found:
        return []
    known = [needs.held_out_seconds for needs in found if needs.held_out_seconds is not None]
    time = f"{_time(sum(known))} beside the training" if len(known) == len(found) else "in a time that isn't known"
    tokens = _count(sum(needs.eval_tokens for needs in found))
    return [f"held-out loss of {len(found)} runs: at most {tokens} tokens forward, {time}"]


def _by_device(runs: Sequence[PlannedRun], devices: Mapping[str, Sequence[str]]) -> dict[str, list[PlannedRun]]:
    found: dict[str, list[PlannedRun]] = {}
    for run in runs:
        for device in devices[run.run_id]:
            found.setdefault(device, []).append(run)
    return found


def _which(found: Sequence[PlannedRun], left: Sequence[PlannedRun]) -> str:
    names = dict.fromkeys(f"{run.spec.model.name} {run.spec.quant.label}" for run in found)
    return f"{len(found)} of {len(left)} runs ({', '.join(names)})"


def disk_warning(runs: Sequence[PlannedRun], estimates: Mapping[str, Estimate], free_bytes: int) -> list[str]:
    """Whether what is left fits the disk. Args: runs: those to do."""
    known = sum(estimates[run.run_id].disk_bytes or 0 for run in runs)
    if known <= free_bytes:
        return []
    return [f"does not fit the disk of paths.runs: {_size(known)} of adapters, {_size(free_bytes)} are free"]


def _totals(runs: Sequence[PlannedRun], estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Sums over what is known, and how many runs are unknown in each."""
    found = [estimates[run.run_id] for run in runs]
    seconds = [needs.seconds for needs in found if needs.seconds is not None]
    hours = [needs.gpu_hours for needs in found if needs.gpu_hours is not None]
    memory = [needs.memory_bytes for needs in found if needs.memory_bytes is not None]
    disk = [needs.disk_bytes for needs in found if needs.disk_bytes is not None]
    return {
        "num_runs": len(runs),
        "max_tokens": sum(needs.max_tokens or 0 for needs in found),
        "num_runs_of_unknown_tokens": sum(needs.max_tokens is None for needs in found),
        "seconds": sum(seconds) if seconds or not found else None,
        "num_runs_of_unknown_time": len(found) - len(seconds),
        "num_runs_of_arithmetic_time": sum(needs.seconds_from == ARITHMETIC for needs in found),
        "gpu_hours": sum(hours) if hours else None,
        "num_runs_of_arithmetic_evaluation": sum(needs.eval_seconds_from == ARITHMETIC for needs in found),
        "num_runs_of_unknown_evaluation": sum(needs.eval_seconds is None for needs in found),
        "largest_memory_bytes": max(memory, default=None),
        "num_runs_of_unknown_memory": len(found) - len(memory),
        "disk_bytes": sum(disk) if disk or not found else None,
        "num_runs_that_do_not_fit": sum(bool(needs.too_large_for) for needs in found),
    }


def _open(runs: Sequence[PlannedRun], finished: set[str]) -> list[PlannedRun]:
    return [run for run in runs if run.run_id not in finished]


def _by_model(runs: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    found: dict[str, list[PlannedRun]] = {}
    for run in runs:
        found.setdefault(run.spec.model.name, []).append(run)
    return found


def _plain(needs: Estimate) -> dict[str, Any]:
    return asdict(needs) | {"too_large_for": list(needs.too_large_for), "tight_on": list(needs.tight_on)}


def _tokens(needs: Estimate) -> str:
    if needs.max_tokens is None:
        return UNKNOWN
    return _bounded_count(needs.max_tokens)


def _bounded_count(number: int) -> str:
    """Tokens at most."""
    return f"<= {_count(number)}" if number else "0"


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _peak(needs: Estimate) -> str:
    """The peak as text; where only a bound is known, the bound."""
    if needs.memory_bytes is None and needs.least_memory_bytes is not None:
        return f">= {_size(needs.least_memory_bytes)}"
    return _size(needs.memory_bytes)


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return UNKNOWN
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _bounded_time(needs: Estimate) -> str:
    return f"<= {_time(needs.seconds)}" if needs.seconds_from == ARITHMETIC else _time(needs.seconds)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def grids_table(folders: Folders = OURS) -> TextTable:
    """The named grids."""
    return TextTable(
        title="named grids: python -m sweeps plan +grid=NAME",
        columns=("name", "runs", "what it is"),
        rows=[(grid["name"], str(grid["num_runs"]), grid["title"]) for grid in listed_grids(folders)],
        numbers=("runs",),
        prose=("what it is",),
    )


def listed_grids(folders: Folders = OURS) -> list[dict[str, Any]]:
    """The named grids as plain values."""
    grids = [load_grid(name, folders) for name in grid_names(folders)]
    return [{"name": g.name, "num_runs": g.num_runs, "title": g.title, "command": g.command} for g in grids]
