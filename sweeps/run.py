"""The body of the command `python -m harness.run`: a grid of finetuning runs, or one.

It checks the command line, composes every grid point and hands them to `sweeps.launch.launch`. Its usage stands in
`harness.run`, which is the path that users type.
"""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from eval.benchmarks.registry import eval_config
from harness.config.compose import Point, all_folders, named_grids, register, to_config
from harness.config.overrides import check_command_line, first_cause
from harness.config.schema import Config
from harness.console import STDOUT, friendly_errors, refuse, version
from harness.ledger.passwords import without_passwords
from sweeps.launch.launch import launch
from sweeps.workers.forkserver import stop_forkserver

SHOWS = ("--cfg", "-c", "--info", "-i", "--help", "-h")  # Hydra's options that print a config and run nothing
FLAGS = {"--allow-sqlite": "launch.allow_sqlite=true"}


def main() -> None:
    """Entry point; leaves with status 0 (all done), 1 (a job failed), 2 (bad input) or 130 (stopped)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, so that all mistakes read and end alike
    if sys.argv[1:] == ["--version"]:
        print(version())
        return
    try:
        with friendly_errors():
            _compose_and_run(sys.argv[1:] or ["--help"])
    finally:
        stop_forkserver()


def _compose_and_run(arguments: Sequence[str]) -> None:
    """Lets Hydra compose what the arguments ask for; Hydra itself reads `sys.argv`."""
    typed = command_line()  # before named grids are spelled out in it
    try:
        folders = all_folders(arguments)
        sys.argv[1:] = named_grids([FLAGS.get(argument, argument) for argument in arguments], folders)
        if problems := check_command_line(sys.argv[1:], eval_config(), folders):
            refuse(problems)
        register(partial(run_points, typed), eval_config(), folders)
        with _passwords_masked(sys.argv[1:]):
            _single()
    except (HydraException, OmegaConfBaseException) as error:
        refuse([first_cause(error, eval_config())])


@contextmanager
def _passwords_masked(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra prints configs for `--cfg` and its like; the ledger's password is not to be among them."""
    if not any(argument.partition("=")[0] in SHOWS for argument in arguments):
        yield
        return
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        print(without_passwords(text.getvalue()), end="")


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _single(config: DictConfig) -> None:
    """Launches the one point that Hydra composed, without `-m`."""
    chosen = HydraConfig.get().runtime.choices
    with friendly_errors():  # within the job, because Hydra prints a line of its own about an error that leaves it
        run_points(command_line(), lambda: [_only_point(to_config(config, eval_config(), chosen))])


def _only_point(config: Config) -> Point:
    if config.grid:
        raise ValueError("this experiment is a grid of several runs: add -m")
    return Point((), config)


def run_points(command: Sequence[str], compose: Callable[[], list[Point]]) -> None:
    """Launches one run or many, and leaves the process with the launch's exit status.

    Args:
        command: as it was typed.
    """
    raise SystemExit(launch([point.config for point in compose()], command, STDOUT))


def command_line() -> list[str]:
    """The command as the user typed it, with the module's path as `python -m` takes it."""
    return ["python", "-m", "harness.run", *sys.argv[1:]]
