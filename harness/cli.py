"""The console script `qlora-harness`: every command of this project under one name, in any folder.

    qlora-harness run -m model=llama7b,13b dataset=oasst1,flan
    qlora-harness sweeps status
    qlora-harness eval rate verdicts.csv
    qlora-harness --install-completion        commands and options by the Tab key

`python -m eval` takes a user's own `eval/` or `analysis.py` where the folder has one; this takes what is installed.
Modules are named and not imported, since `harness` lies below them.
"""

import importlib
import os
import runpy
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.commands import print_version
from harness.config.choices import near
from harness.console import refuse

COMMANDS = {
    "run": ("harness.run", "Train a grid of runs, or one."),
    "sweeps": ("sweeps", "Plan, launch, watch and mend sweeps of many runs."),
    "eval": ("eval", "Measure finetuned runs and other models; compare and rate them."),
    "analysis": ("analysis", "Reports, and the paper's tables."),
    "data": ("harness.data", "Show a data file as the model will see it."),
    "memory": ("harness.memory", "What a model needs to be finetuned: predicted, or measured without a GPU."),
    "export": ("harness.export", "A finished run as a folder for the hub."),
}


class InstalledCommands(TyperGroup):
    """Runs the module of a command; opens its own commands and options where the shell completes a line."""

    def get_command(self, ctx: Any, name: str) -> Any:
        """The command of that name. Leaves the process with status 2 and the near matches where there is none."""
        if name not in COMMANDS:
            refuse([f"qlora-harness {name}: no such command.{near(name, list(COMMANDS))}"])
        if ctx.resilient_parsing and isinstance(app := _application(COMMANDS[name][0]), typer.Typer):
            return typer.main.get_command(app)
        return super().get_command(ctx, name)


app = typer.Typer(
    cls=InstalledCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finetune many language models with QLoRA and compare them honestly. Each command has its own --help.",
)


@app.callback()
def _options(
    shows_version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Takes the options that stand before a command's name."""


def _add(name: str, module: str, help_text: str) -> None:
    @app.command(name, help=help_text, add_help_option=False, context_settings={"ignore_unknown_options": True})
    def run(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        os.environ["PYTHONSAFEPATH"] = "1"  # the processes that it starts take what is installed, too
        sys.argv = [f"qlora-harness {name}", *sys.argv[2:]]  # as typed; parsed arguments lack a `--`
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _application(module: str) -> Any:
    """The Typer application of a package's `__main__`, or None."""
    try:
        return getattr(importlib.import_module(f"{module}.__main__"), "app", None)
    except ModuleNotFoundError:
        return None


for _name, (_module, _help) in COMMANDS.items():
    _add(_name, _module, _help)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="qlora-harness")
