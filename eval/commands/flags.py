"""Turns the fields of a dataclass into options of a command, so that neither is written down twice.

    @with_flags(JudgeFlags, {"batch": "By the server's Batch API."})
    def judge(tournament: Tournament, *, flags: JudgeFlags) -> None: ...

The command line shows `--batch` and all other fields; the command is called with one `JudgeFlags`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from harness.console import friendly_errors

Command = Callable[..., None]
FLAGS = "flags"  # the command's parameter that takes the object


def with_flags(
    kind: type[Any], helps: Mapping[str, str | OptionInfo]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds fields of `kind`, a dataclass whose fields all have a default, to a command as options.

    Args:
        kind: the dataclass.
        helps: a sentence for each field that is an option, or the whole option where it goes by another name.
    """
    hints = get_type_hints(kind)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[hints[field.name], _option(helps[field.name])],
        )
        for field in fields(kind)
        if field.name in helps
    ]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [parameter for name, parameter in own.parameters.items() if name != FLAGS]
        signature = own.replace(parameters=[*kept, *options])

        @wraps(command)
        def called(**values: Any) -> None:
            chosen = {option.name: values.pop(option.name) for option in options}
            with friendly_errors():
                flags = kind(**chosen)
            command(**values, **{FLAGS: flags})

        called.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
        called.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return called

    return decorate


def _option(told: str | OptionInfo) -> OptionInfo:
    option: OptionInfo = typer.Option(help=told) if isinstance(told, str) else told
    return option
