"""Tells from a dataset's columns which format reads it, and which filled column that format would drop."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.fields import Row
from harness.data.trees import is_message, is_tree

# Columns that carry a part of the question, by their lower-case name, and what each format reads of them.
MEANINGFUL = ("instruction", "input", "context", "history", "system", "system_prompt", "tools", "functions")
_READ: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input"),
    "input_output": ("input",),
    "longform": ("input",),
    "flan": ("input",),
    "chat": ("system", "system_prompt", "tools"),
    "sharegpt": ("system", "system_prompt", "tools"),
    "prompt_completion": ("system", "system_prompt", "tools"),
}
# Published datasets whose rows repeat or replace such a column on purpose: the instances hold the instruction.
_BESIDE: dict[str, tuple[str, ...]] = {
    "unnatural": ("instruction",),
    "unnatural_reformulations": ("instruction",),
}


@dataclass(frozen=True, slots=True)
class UnusedColumn:
    """A filled column that the format drops."""

    name: str
    hint: str  # " to 'input'", where only the spelling differs


def unused_column(row: Row, format: str, ignored: Sequence[str] = ()) -> UnusedColumn | None:
    """The first filled column that holds a part of the question and is not read by `format`, or None."""
    read = (*_READ.get(format, ()), *_BESIDE.get(format, ()))
    for name, value in row.items():
        if value in (None, "", [], {}) or name in ignored or (isinstance(value, str) and not value.strip()):
            continue
        plain = str(name).strip().lower().lstrip("\ufeff")
        if plain in MEANINGFUL and name not in read:
            return UnusedColumn(str(name), f" to {plain!r}" if plain in read else "")
    if format == "prompt_completion" and isinstance(row.get("prompt"), str):
        return next((UnusedColumn(name, "") for name in ("system", "system_prompt", "tools") if row.get(name)), None)
    return None


def detect_format(row: Row) -> str | None:
    """The format that a row's columns name, or None where no format does or several could."""
    names = {name for name, value in row.items() if value is not None}
    text = row.get("text")
    choices = (
        ("oasst1", is_tree(row) or is_message(row)),
        ("chat", isinstance(row.get("messages"), list)),
        ("sharegpt", isinstance(row.get("conversations"), list)),
        ("alpaca", {"instruction", "output"} <= names),
        ("unnatural", "instances" in names),
        ("prompt_completion", {"prompt", "completion"} <= names),
        ("input_output", {"input", "output"} <= names),
        ("super_ni", {"definition", "inputs", "targets"} <= names),
        ("flan", {"inputs", "targets"} <= names),
        ("hh_rlhf", {"chosen", "rejected"} <= names and isinstance(row.get("chosen"), str)),
        ("classification", {"text", "label"} <= names),
        ("chip2", isinstance(text, str) and "\n<bot>: " in text),
        ("text", isinstance(text, str)),
    )
    return next((name for name, fits in choices if fits), None)
