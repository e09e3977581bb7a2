"""The body of the command `python -m harness.run`: a grid of finetuning runs, or one.

It checks the command line, composes every grid point and hands them to `sweeps.launch.launch`. Its usage stands in
`harness.run`, which is the path that users type.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Never

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from eval.benchmarks.registry import eval_config
from harness.config.compose import ConfigError, Point, check_command_line, first_cause, named_grids, register, to_config
from harness.config.schema import Config
from harness.ledger.tables import LedgerError
from sweeps.launch.launch import launch
from sweeps.launch.result import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from sweeps.workers.forkserver import stop_forkserver

FLAGS = {"--allow-sqlite": "launch.allow_sqlite=true"}
CONSOLE = Console(width=None if sys.stdout.isatty() else 140)


def main() -> None:
    """Entry point; leaves with status 0 (all done), 1 (a job failed), 2 (bad input) or 130 (stopped)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, so that all mistakes read and end alike
    typed = command_line()  # before named grids are spelled out in it
    sys.argv[1:] = [FLAGS.get(argument, argument) for argument in sys.argv[1:]]
    try:
        sys.argv[1:] = named_grids(sys.argv[1:])
        problems = check_command_line(sys.argv[1:], eval_config())
        if problems:
            refuse(problems)
        register(partial(run_points, typed), eval_config())
        _single()
    except ConfigError as error:
        refuse(list(error.problems))
    except (HydraException, OmegaConfBaseException) as error:
        refuse([first_cause(error, eval_config())])
    except KeyboardInterrupt:
        CONSOLE.print("stopped before anything was started")
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        stop_forkserver()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _single(config: DictConfig) -> None:
    """Without `-m`: Hydra has composed the one point."""
    run_points(command_line(), lambda: [_only_point(to_config(config, eval_config()))])


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


def command_line() -> list[str]:
    """As the user typed it, the module's path as `python -m` takes it."""
    return ["python", "-m", "harness.run", *sys.argv[1:]]
