"""The command `python -m sweeps race`: where a grid, its race and the sweep engine meet."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.benchmarks.registry import eval_config
from harness.config.compose import compose_grid
from harness.console import EXIT_FAILED, EXIT_OK
from harness.ledger.ledger import Ledger
from harness.ledger.open import ledger_url
from sweeps.launch.launch import launch
from sweeps.search.race import describe_race, make_race, race_table, run_race
from sweeps.search.rungs import make_rungs


def race_and_show(
    overrides: Sequence[str],
    objective: str,
    eta: int,
    min_steps: int | None,
    promoted: Sequence[str],
    command: Sequence[str],
    console: Console,
    as_json: bool,
    config_dir: Path | None = None,
) -> tuple[int, Any]:
    """Runs a race to its end. -> exit status, and the race as plain values.

    Args:
        overrides: the grid.
        objective: what the runs are judged by.
        eta: of so many runs one goes on.
        min_steps: of the first rung; None: by `train.max_steps`.
        promoted: stopped runs that are trained to their end afterwards.
        command: as it was typed.
        console: where progress and the table go.
        as_json: whether the table is left out.
        config_dir: a folder of the user's own choices.

    Raises:
        ValueError: runs that don't compare, a race of this name over others, or an override that can't be.
    """
    configs = [point.config for point in compose_grid(overrides, eval_config(), config_dir)]
    first = configs[0]
    if not first.launch.wait:
        raise ValueError("launch.wait=false: a race needs the results of each rung; add launch.wait=true")
    race = make_race(configs, make_rungs(first.train, eta, min_steps), objective)
    race = replace(race, configs=tuple(replace(config, sweep_name=race.sweep) for config in configs))
    Path(first.paths.runs).mkdir(parents=True, exist_ok=True)
    url = ledger_url(first.paths)
    if first.launch.dry_run:
        return launch(race.configs, command, console), None
    status = run_race(
        race, lambda configs, stops: launch(configs, command, console, stops), lambda: Ledger.open(url), promoted
    )
    with closing(Ledger.open(url)) as ledger:
        values = describe_race(race, ledger)
    if not as_json:
        console.print(race_table(values))
    return status or (EXIT_FAILED if values["best"] is None else EXIT_OK), values
