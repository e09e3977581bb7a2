"""The command `python -m harness.run`: a grid of finetuning runs, or one.

    python -m harness.run model=smollm2 dataset=concise                 one run
    python -m harness.run -m model=llama7b,13b dataset=oasst1,flan       four runs
    python -m harness.run -m +experiment=demo                            a named experiment
    python -m harness.run -m +grid=table5                                a table of the paper (sweeps/grid/)
    python -m harness.run -m model=7b dataset=flan launch.dry_run=true   the plan only
    python -m harness.run -m +experiment=demo launch=slurm launch.slurm.partition=gpu    on a cluster (or launch=ray)
    python -m harness.run --help                                         groups and keys

What it does, in order: checks the command line, composes every grid point, plans, checks that all that is
needed is there, trains what is not done yet, evaluates, says what came of it. Running it again goes on.
"""

import sys

from sweeps.forkserver import may_train_here, start_forkserver, stop_forkserver

if __name__ == "__main__" and may_train_here(sys.argv[1:]):
    start_forkserver()  # it imports torch while the rest here is imported, composed and checked

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Never

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness.compose import ConfigError, Point, check_command_line, first_cause, named_grids, register, to_config
from harness.ledger import LedgerError
from harness.schema import Config
from sweeps.launch import EXIT_BAD_INPUT, EXIT_INTERRUPTED, command_line, launch

FLAGS = {"--allow-sqlite": "launch.allow_sqlite=true"}
CONSOLE = Console(width=None if sys.stdout.isatty() else 140)


def main() -> None:
    """Entry point; leaves with status 0 (all done), 1 (a job failed), 2 (bad input) or 130 (stopped)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, so that all mistakes read and end alike
    typed = command_line()  # before named grids are spelled out in it
    sys.argv[1:] = [FLAGS.get(argument, argument) for argument in sys.argv[1:]]
    try:
        sys.argv[1:] = named_grids(sys.argv[1:])
        problems = check_command_line(sys.argv[1:])
        if problems:
            refuse(problems)
        register(partial(run_points, typed))
        _single()
    except ConfigError as error:
        refuse(list(error.problems))
    except (HydraException, OmegaConfBaseException) as error:
        refuse([first_cause(error)])
    except KeyboardInterrupt:
        CONSOLE.print("stopped before anything was started")
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        stop_forkserver()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _single(config: DictConfig) -> None:
    """Without `-m`: Hydra has composed the one point."""
    run_points(command_line(), lambda: [_only_point(to_config(config))])


def _only_point(config: Config) -> Point:
    if config.grid:
        raise ValueError("this experiment is a grid of several runs: add -m")
    return Point((), config)


def run_points(command: Sequence[str], compose: Callable[[], list[Point]]) -> None:
    """Both ways end here; leaves the process with the launch's exit status. Args: command: as it was typed."""
    try:
        status = launch([point.config for point in compose()], command, CONSOLE)
    except (ConfigError, LedgerError, ValueError) as error:
        refuse(str(error).splitlines())
    raise SystemExit(status)


def refuse(problems: list[str]) -> Never:
    """Says what is wrong with the input and leaves with status 2."""
    for problem in problems:
        CONSOLE.print(f"error: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
