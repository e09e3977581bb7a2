"""Checks the overrides of a command line before Hydra sees them, all mistakes together, with the near matches."""

import copy
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.choices import OURS, Folders, choices, is_group, near
from harness.config.evaluations import Evals, blank_config, nested_key
from harness.config.grids import ONE_TO_A_SWEEP
from harness.config.prototypes import parsed
from harness.config.remedies import (
    comma_problem,
    deletion_problem,
    empty_sweep_problem,
    home_problem,
    idle_problem,
    quoted,
    several_problem,
    unreadable,
    varying_problem,
)
from harness.config.schema import (
    MISSING,
    AdapterConfig,
    Config,
    DatasetConfig,
    EvalConfig,
    LaunchConfig,
    ModelConfig,
    PathsConfig,
    QuantConfig,
    TrackingConfig,
    TrainConfig,
)

GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "dataset": DatasetConfig,
    "quant": QuantConfig,
    "adapter": AdapterConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "launch": LaunchConfig,
    "paths": PathsConfig,
    "tracking": TrackingConfig,
}
DECIDING = ("model.path", "dataset.path", "model.recipe_size")  # by what they lead to, though no part of an identity
_EVAL_KEY = re.compile(r"\beval\.\w+")


def check_command_line(arguments: Sequence[str], evals: Evals = EvalConfig, folders: Folders = OURS) -> list[str]:
    """Mistakes among `sys.argv[1:]`, all of them; Hydra's own options (`-m`, `--cfg job`) are passed over."""
    options = get_args_parser().parse_args(list(arguments))
    return check_overrides(options.overrides, several=options.multirun, evals=evals, folders=folders)


def check_overrides(
    arguments: Sequence[str], several: bool = True, evals: Evals = EvalConfig, folders: Folders = OURS
) -> list[str]:
    """Mistakes in overrides, with their near matches: unknown choices, unknown keys, values of another type.

    Args:
        arguments: `key=value` each.
        several: is it a grid (`-m`), where a key may have several values?
        evals: the schema of the group `eval`, as for `register`.
        folders: where choices are looked for.
    """
    problems: list[str] = []
    blank = copy.deepcopy(blank_config(evals))  # to try values on in turn: each is judged by its own type alone
    for text in arguments:
        try:
            override = parsed(text)
        except HydraException as error:
            problems.append(unreadable(text, error))
            continue
        if not override.key_or_group:
            problems.append(f"{text}: there is no key before the =; expected key=value")
        elif override.is_sweep_override() and (problem := _sweep_problem(override, several, folders, blank)):
            problems.append(problem)
        elif not override.key_or_group.startswith("hydra"):
            problems += _check_override(override, evals, blank, folders)
    return problems


def _sweep_problem(override: Override, several: bool, folders: Folders, blank: DictConfig) -> str | None:
    """Why a key can't have these several values."""
    text, key = override.input_line, override.key_or_group
    if key.partition(".")[0] in ONE_TO_A_SWEEP:
        return varying_problem(str(text), _as_one_text(override, blank, folders))
    if not several:
        return several_problem(str(text), _as_one_text(override, blank, folders))
    if _is_one_path(str(text)) and (one_text := _as_one_text(override, blank, folders)) is not None:
        return comma_problem(str(text), one_text)
    if not override.is_discrete_sweep():
        return f"{text}: a grid needs single values: a,b or choice(a,b) or range(first,end)"
    known = choices(key, folders) if is_group(key, folders) else None
    return empty_sweep_problem(override, known) or (idle_problem(str(text)) if _is_idle(key) else None)


def _is_one_path(text: str) -> bool:
    """Whether the value is a path that is there, and its parts between commas aren't."""
    value = text.partition("=")[2]
    try:
        return "," in value and Path(value).exists() and not any(Path(part).exists() for part in value.split(","))
    except (OSError, ValueError):
        return False


def _as_one_text(override: Override, blank: DictConfig, folders: Folders) -> str | None:
    """`key="a,b"`, where `key=a,b` may be meant as one text with a comma in it, as the path of a folder is."""
    key = override.key_or_group
    text = None if is_group(key, folders) else quoted(str(override.input_line))
    return None if text is None or list(_type_problem(key, text.partition("=")[2], blank)) else text


def _is_idle(key: str) -> bool:
    """Whether a key decides nothing of what a run comes to, so that runs of all its values are one."""
    group, _, name = key.partition(".")
    known = {field.name: field for field in fields(GROUPS[group])} if group in GROUPS else {}
    return name in known and known[name].metadata.get("identity") is False and key not in DECIDING


def _check_override(override: Override, evals: Evals, blank: DictConfig, folders: Folders) -> Iterator[str]:
    key = override.key_or_group
    if override.is_delete() and (problem := deletion_problem(override, _owner(key, evals), is_group(key, folders))):
        yield problem
        return
    if is_group(key, folders):
        known = choices(key, folders)
        for value in _values(override):
            if value not in known:
                yield f"{key}={value}: no such {key}.{near(value, known)}"
        return
    where = ""
    schema: Any = Config
    for part in key.split("."):
        if isinstance(schema, dict) or not is_dataclass(schema):
            return  # below a free-form mapping: Hydra's own check
        known = [f.name for f in fields(schema)] + ([] if where else ["experiment"])
        if part not in known:
            now = nested_key(key, evals)
            yield (
                f"{key}: this key is {now} now"
                if now
                else f"{key}: no such key{f' in {where}' if where else ''}.{near(part, known)}"
            )
            return
        schema = evals if where == "" and part == "eval" else _field_type(schema, part)
        where = f"{where}.{part}".strip(".")
    for text in [] if is_dataclass(schema) else _values(override):
        yield from _type_problem(key, text, blank)


def _owner(key: str, evals: Evals) -> type | None:
    """The dataclass that has this key as a field; None below a free-form mapping."""
    schema: Any = Config
    *above, last = key.split(".")
    for part in above:
        schema = evals if part == "eval" and schema is Config else _field_type(schema, part)
        if not is_dataclass(schema):
            return None
    assert isinstance(schema, type)
    return schema if last in {f.name for f in fields(schema)} else None


def _type_problem(key: str, text: str, blank: DictConfig) -> Iterator[str]:
    """What OmegaConf says of `key=text` when it doesn't fit the schema; interpolations are not judged."""
    value = parsed(f"{key}={text}").value()
    if isinstance(value, str) and "${" in value:
        return
    if isinstance(value, str) and value.startswith("~/"):
        yield home_problem(f"{key}={text}")
        return
    if value == MISSING:
        yield f"{key}={text}: {MISSING} stands for a value that is still to be given; give one"
        return
    try:
        OmegaConf.update(blank, key, value)
    except OmegaConfBaseException as error:
        yield f"{key}={text}: {str(error).splitlines()[0]}"


def _field_type(schema: Any, name: str) -> Any:
    hint = typing.get_type_hints(schema).get(name)
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _values(override: Override) -> list[str]:
    """Each value as it was typed. A glob has none until the choices that it matches are looked up."""
    if not override.is_sweep_override():
        return [] if override.is_delete() else [override.get_value_string()]
    if isinstance(override.value(), Glob):
        return []
    return swept_values(override)


def swept_values(override: Override) -> list[str]:
    """The values of a key that has several, each as Hydra writes it."""
    return list(override.sweep_string_iterator())


def first_cause(error: BaseException, evals: Evals = EvalConfig) -> str:
    """The sentences that say what is wrong, without OmegaConf's trailing object dump."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), None)
    for old in [key or "", *_EVAL_KEY.findall(str(error))]:
        if (now := nested_key(old, evals)) is not None:
            return f"{old}: this key is {now} now"
    said = [line for line in lines if not line.startswith(("full_key:", "reference_type=", "object_type="))]
    text = "; ".join(said) or type(error).__name__
    return f"{key}: {text}" if key and key not in text else text
