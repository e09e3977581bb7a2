"""The command `python -m sweeps search`: where optuna, Hydra and the sweep engine meet."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.benchmarks.registry import eval_config
from harness.config.compose import compose_grid
from harness.config.schema import Config
from harness.ledger.database import database_url
from harness.ledger.ledger import Ledger
from harness.ledger.open import ledger_url
from sweeps.launch.launch import launch
from sweeps.search.study import Search, describe_study, open_study, run_search, study_table


def search_and_show(
    search: Search, command: Sequence[str], console: Console, as_json: bool, config_dir: Path | None = None
) -> tuple[int, Any]:
    """Runs a search to its end. -> exit status, and the study as plain values.

    Args:
        search: what is looked for, and where.
        command: as it was typed.
        console: where progress and the table go.
        as_json: whether the table is left out.
        config_dir: a folder of the user's own choices.

    Raises:
        ValueError: as `run_search`, or an override that can't be.
    """

    def compose(overrides: Sequence[str]) -> Config:
        (point,) = compose_grid(overrides, eval_config(), config_dir)
        return replace(point.config, sweep_name=point.config.sweep_name or search.study)

    first = compose_grid(list(search.fixed), eval_config(), config_dir)[0].config
    if not first.launch.wait:
        raise ValueError("launch.wait=false: a search needs the result of each trial; add launch.wait=true")
    paths = first.paths
    Path(paths.runs).mkdir(parents=True, exist_ok=True)
    url = ledger_url(paths)
    Ledger.open(url).close()  # first, so that a SQLite file is set up as the ledger wants it
    storage_url = database_url(url).render_as_string(hide_password=False)
    status = run_search(
        search,
        storage_url,
        compose,
        lambda configs, stops: launch(configs, command, console, stops),
        lambda: Ledger.open(url),
    )
    study = open_study(search, storage_url)
    if not as_json:
        console.print(study_table(study))
    return status, describe_study(study)
