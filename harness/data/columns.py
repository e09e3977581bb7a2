"""Tells from a dataset's columns which format reads it, and which filled column that format would drop."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.data.fields import Row
from harness.data.trees import is_message, is_tree

# Columns that carry a part of the question, by their lower-case name, and what each format reads of them.
MEANINGFUL = (
    "instruction",
    "input",
    "context",
    "history",
    "system",
    "system_prompt",
    "tools",
    "functions",
    "documents",
)
_READ: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input"),
    "input_output": ("input",),
    "step_by_step": ("input",),
    "longform": ("input",),
    "flan": ("input",),
    "chat": ("system", "system_prompt", "tools"),
    "sharegpt": ("system", "system_prompt", "tools"),
    "prompt_completion": ("system", "system_prompt", "tools"),
}
# Columns beside those that change what the rows of one format mean, so that leaving them out changes the task.
_ALSO_MEANINGFUL: dict[str, tuple[str, ...]] = {
    "hh_rlhf": ("prompt",),
    "flan": ("definition",),
    "prompt_completion": ("label",),
    "text": ("label",),
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
        if plain in (*MEANINGFUL, *_ALSO_MEANINGFUL.get(format, ())) and name not in read:
            return UnusedColumn(str(name), f" to {plain!r}" if plain in read else "")
    if format == "prompt_completion" and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return next((UnusedColumn(name, "") for name in ("system", "system_prompt", "tools") if row.get(name)), None)
    return None


def other_training(row: Row) -> str | None:
    """The other kind of training that a row was written for, by TRL's dataset types; None if it is ours."""
    names = {name for name, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= names and ("prompt" in names or not isinstance(row["chosen"], str)):
        return (
            "preference rows (chosen, rejected), which are for DPO and reward models; to finetune on the preferred "
            "answers, keep them under 'completion' beside 'prompt', or under 'messages'"
        )
    if {"prompt", "completion", "label"} <= names and isinstance(row["label"], bool):
        return (
            "unpaired preference rows (label says whether a completion is wanted), which are for KTO; to finetune on "
            "the wanted ones, keep the rows whose label is true and delete the column"
        )
    if {"prompt", "completions", "labels"} <= names:
        return "rows of stepwise supervision (completions, labels), which are for process reward models"
    if names == {"prompt"}:
        return "rows of prompts alone, which are for training online; each needs a 'completion' to learn"
    return None


def detect_format(row: Row) -> str | None:
    """The format that a row's columns name, or None where no format does or several could."""
    names = {name for name, value in row.items() if value is not None}
    text = row.get("text")
    choices = (
        ("oasst1", is_tree(row) or is_message(row)),
        (None, other_training(row) is not None),
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
