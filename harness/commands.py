"""Makes applications with several commands: they share the handling of errors, `--version` and `--json`.

Only entry points import this module, because it imports the command-line library.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.console import friendly_errors, version

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


class FriendlyGroup(TyperGroup):
    """A group of commands in which bad input ends in a line on standard error and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command within `friendly_errors`."""
        with friendly_errors():
            return super().invoke(ctx)


def new_app(help_text: str) -> typer.Typer:
    r"""An application without commands yet.

    Args:
        help_text: what `--help` says; lines after a `\b` keep their breaks.
    """
    app = typer.Typer(
        cls=FriendlyGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback(help=help_text)
    def options(
        shows_version: Annotated[
            bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=print_version)
        ] = False,
    ) -> None:
        """Takes the options that stand before a command's name."""

    return app


def print_version(wanted: bool) -> None:
    """Prints the version and ends, if the option `--version` was given."""
    if wanted:
        print(version())
        raise typer.Exit
