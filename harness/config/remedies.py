"""Writes the messages for overrides that can't be read or have no effect: the mistake, and what to write instead."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep, Sweep
from hydra.errors import HydraException

from harness.config.choices import near

MAX_POINTS = 100_000  # of a grid: 50 times all runs of the paper
_GRAMMAR = ("'", '"', "[", "{", "choice(", "range(", "glob(")  # what begins so is meant as Hydra's grammar
_WHY_ONE = {
    "launch": "all runs of a sweep are started by one launcher with one set of options",
    "paths": "a sweep lies in one folder of runs, with one ledger",
    "tracking": "a sweep is tracked in one way",
    "hydra": "Hydra composes all points in one way",
    "grid": "a grid is one union of blocks",
    "sweep_name": "a sweep has one name",
}


def unreadable(text: str, error: HydraException) -> str:
    """The message for an override that Hydra's grammar refuses."""
    key, has_value, value = text.partition("=")
    if not text.strip():
        return "an empty argument: expected key=value"
    if has_value and key != key.strip():
        return f"{text}: no spaces around the =; write {key.strip()}={value.strip()}"
    if has_value and any(not item.strip() for item in value.split(",")[value.startswith(",") :]) and "," in value:
        return f"{text}: a value is empty between commas; leave the comma out, or write '' for an empty text"
    if value.count("${") > value.count("}"):
        return f"{text}: an interpolation ${{...}} is not closed"
    if value.startswith("choice()"):
        return f"{text}: choice() needs at least one value"
    if value.startswith("~/"):
        return home_problem(text)
    if has_value and (one_text := quoted(text)) is not None:
        return f"{text}: the value has characters that must be quoted; write {shlex.quote(one_text)}"
    return f"{text}: not an override of the form key=value ({str(error).splitlines()[0]})"


def home_problem(text: str) -> str:
    """The message for `key=~/folder`, which no shell expands and which would be a folder called ~."""
    key, _, value = text.partition("=")
    return f"{text}: ~ is not read as your home here; write {key}={os.path.expanduser(value.strip(chr(34) + chr(39)))}"


def quoted(text: str) -> str | None:
    """`key=value` with its value as one quoted text; None where it is written in Hydra's grammar, or can't be read."""
    key, _, value = text.partition("=")
    one_text = f'{key}="{value}"'
    return one_text if value and not value.startswith(_GRAMMAR) and _is_read(one_text) else None


def several_problem(text: str, one_text: str | None) -> str:
    """Why several values are refused without `-m`. Args: one_text: as for `varying_problem`."""
    if one_text is not None and "/" in text:
        return comma_problem(text, one_text)
    return f"{text}: several values are a grid: add -m; one value that is a list is [a,b]{_or_quote(one_text)}"


def comma_problem(text: str, one_text: str) -> str:
    """The message for a path with a comma in it, which would be read as several values."""
    return (
        f"{text}: a comma separates values; one path with a comma in it is quoted: {shlex.quote(one_text)}; "
        "several paths are a grid: add -m"
    )


def _or_quote(one_text: str | None) -> str:
    return f"; one value with a comma in it is quoted: {shlex.quote(one_text)}" if one_text else ""


def _is_read(text: str) -> bool:
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def varying_problem(text: str, one_text: str | None = None) -> str:
    """Why a key has one value in a sweep.

    Args:
        text: the key, or the override that gives it several.
        one_text: the override as `quoted` has it, if its value may be one text with a comma in it.
    """
    group = text.lstrip("+~").partition("=")[0].partition(".")[0]
    return f"{text}: can't vary within a sweep: {_WHY_ONE[group]}; give a command for each value{_or_quote(one_text)}"


def idle_problem(text: str) -> str:
    """The message for several values of a key that is no part of what makes a run."""
    return (
        f"{text}: can't vary within a sweep: all values would be one run, as the key decides no result; give one value"
    )


def empty_sweep_problem(override: Override, known: Sequence[str] | None) -> str | None:
    """The message for a range or pattern that holds no value, or far too many.

    Args:
        override: with several values.
        known: the choices of a group; None: it is a plain key.
    """
    value = override.value()
    text = override.input_line
    if isinstance(value, ChoiceSweep) and any(isinstance(item, Sweep) for item in value.list):
        return f"{text}: several values within several values; write them in one list: choice(1,2,3)"
    if isinstance(value, Glob):
        if known is None:
            return f"{text}: glob(...) looks through the choices of a group; {override.key_or_group} is none"
        if not value.filter(list(known)):
            return f"{text}: matches no {override.key_or_group}.{near('', known)}"
    elif isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        if not value.step:
            return f"{text}: the step of a range can't be 0"
        if next(iter(value.range()), None) is None:
            return f"{text}: the range is empty; its end is left out: range(0,3) is 0, 1, 2"
        if (num_values := math.ceil((value.stop - value.start) / value.step)) > MAX_POINTS:
            return too_many_problem(f"{text}: {num_values:,} values")
    return None


def too_many_problem(what: str) -> str:
    """The message for a grid that is larger than any that is trained. Args: what: is too many."""
    return f"{what}: a sweep has at most {MAX_POINTS:,} points; give several commands for more"


def deletion_problem(override: Override, owner: type | None, is_group: bool) -> str | None:
    """Why `~key` is refused; None below a free-form mapping. Args: owner: the dataclass whose field it is."""
    key = override.key_or_group
    if is_group:
        return f"{override.input_line}: a group always has a choice; write {key}=..."
    if owner is None:
        return None
    optional = "None" in str(next(f.type for f in fields(owner) if f.name == key.rpartition(".")[2]))
    remedy = f"write {key}=null" if optional else "leave it out to keep its default"
    return f"{override.input_line}: a key can't be taken away; {remedy}"
