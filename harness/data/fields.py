"""The example that a row of a dataset becomes, and how a row's fields are read, with errors that name them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Row = Mapping[str, object]
Message = Mapping[str, Any]  # role, content and, where a template shows them, tool_calls and the like


class RowError(ValueError):
    """Raised for a row that its format's rule can't read; says which field is wrong, and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: the text that is read (`input`) and the text that is learned (`output`).

    `target_field` is the field of the row that holds the output.
    """

    input: str
    output: str
    target_field: str = "output"
    messages: tuple["Message", ...] = ()  # a dialogue; `harness.data.render` writes it by the chat template
    shorter: tuple[str, ...] = ()  # inputs with less shown, taken in turn where `input` doesn't fit
    pair: str | None = None  # the second text of a labelled pair
    label: int | float | str | None = None  # of a labelled row, as the file has it; see `harness.data.labels`
    tools: tuple[Mapping[str, Any], ...] = ()  # functions that the dialogue's template may show
    is_rationale: bool = False  # of a row that is learned twice: why its target is right, not the target itself


RowRule = Callable[[Row], list[Example]]


def text_field(row: Row, field: str, prefix: str = "") -> str:
    """The text in `row[field]`; `prefix` says in errors where a nested row lies.

    Raises:
        RowError: the field is missing (near names are listed) or not text.
    """
    value = present(row, field, prefix)
    if not isinstance(value, str):
        raise RowError(prefix + field, f"expected text, found {type(value).__name__} {str(value)[:60]!r}")
    return value


def listed(names: Iterable[object]) -> str:
    """Columns' names for a message of one line."""
    return ", ".join(str(name) if str(name).isprintable() else ascii(name) for name in names)


def present(row: Row, field: str, prefix: str = "") -> object:
    """The value of `row[field]`. Raises RowError, with near names, where the row has no such field."""
    if field not in row:
        near = get_close_matches(field, [str(name) for name in row], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RowError(prefix + field, f"missing (the row has: {listed(row) or 'nothing'}{hint})")
    return row[field]
