"""Hydra's part: from a command line to typed configs. With `harness.run` the only importer of Hydra.

`python -m harness.run -m ...` is served by `GridSweeper`, a Hydra Sweeper that composes each point once
and hands all of them to one function; Hydra's own would compose twice and run job by job.
Command lines are checked before Hydra sees them, all mistakes together, with the near matches.
"""

import importlib
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.choices import CONF_FOLDER, load_choice, near
from harness.config.evaluations import Evals, blank_config, nested_key, nested_settings, refuse_values
from harness.config.grids import Skip, Variant, choice_texts, expand, with_named_grids
from harness.config.prototypes import Prototypes, parsed
from harness.config.schema import (
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
LOCAL = "local"  # the hub id of model=local and dataset=local, which are on no hub
MAX_WRONG_POINTS = 50  # of a grid are looked at; each costs a composition by Hydra
_EVAL_KEY = re.compile(r"\beval\.\w+")
_PLUGIN_MODULE = "hydra_plugins.harness"  # Hydra accepts plugins by this module prefix only


class ConfigError(ValueError):
    """One or more mistakes in a command line or a config file, each with its place and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Point:
    """One grid point: what was asked for, and what it composed to."""

    overrides: tuple[str, ...]
    config: Config


RunPoints = Callable[[Callable[[], list[Point]]], None]


def register(run_points: RunPoints, evals: Evals = EvalConfig) -> None:
    """Makes the schema and the sweeper known to Hydra.

    Args:
        run_points: gets what composes all points at once.
        evals: the schema of the group `eval`; EvalConfig itself knows no benchmark.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=blank_config(evals))
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema if group != "eval" else blank_config(evals).eval)
    GridSweeper.run_points = run_points
    GridSweeper.evals = evals
    _install_plugin(GridSweeper)
    store.store(group="hydra/sweeper", name="grid", node={"_target_": f"{_PLUGIN_MODULE}.GridSweeper"})


def _install_plugin(plugin: type[Sweeper]) -> None:
    """Hydra locates plugins by the module prefix `hydra_plugins` only; this gives ours that address in memory."""
    try:
        parent = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        parent = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        parent.__path__ = []
    module = sys.modules[_PLUGIN_MODULE] = types.ModuleType(_PLUGIN_MODULE)
    setattr(parent, _PLUGIN_MODULE.rpartition(".")[2], module)
    setattr(module, plugin.__name__, plugin)
    plugin.__module__ = _PLUGIN_MODULE
    Plugins.instance().register(plugin)


class GridSweeper(Sweeper):
    """Hydra's `-m`: expands the overrides, composes each point once, runs them all together."""

    run_points: RunPoints
    evals: Evals

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> None:
        type(self).run_points(lambda: compose_points(self.loader, arguments, type(self).evals))


def compose_grid(overrides: Sequence[str], evals: Evals = EvalConfig) -> list[Point]:
    """As `python -m harness.run -m OVERRIDES` composes it, for callers that aren't Hydra's main.

    Args:
        overrides: `key=value` each.
        evals: the schema of the group `eval`, as for `register`.

    Raises:
        ConfigError: all mistakes together.
    """
    spelled = named_grids(overrides)
    if problems := check_overrides(spelled, evals=evals):
        raise ConfigError(problems)
    register(lambda compose: None, evals)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        try:
            return compose_points(GlobalHydra.instance().config_loader(), spelled, evals)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([first_cause(error, evals)]) from None


def named_grids(arguments: Sequence[str]) -> list[str]:
    """A command line with `+grid=table5` spelled out. Raises ConfigError for a grid that isn't there."""
    try:
        return with_named_grids(arguments)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from None


def compose_points(loader: ConfigLoader, arguments: Sequence[str], evals: Evals = EvalConfig) -> list[Point]:
    """Every point of the grid that the overrides and `grid`, the experiment's or a named one, span.

    Raises:
        ConfigError: all mistakes of all points together.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    axes = {o.get_key_element(): [_value_of(c) for c in _choices(o)] for o in parsed if o.is_sweep_override()}
    grid: list[dict[str, Any]] = OmegaConf.to_container(_load(loader, fixed).grid)  # type: ignore[assignment]
    named = frozenset(str(override.key_or_group) for override in parsed)
    prototypes = Prototypes(loader, fixed, partial(_load, loader), partial(to_config, evals=evals))
    points: dict[tuple[str, ...], Point] = {}
    tried: dict[tuple[str, ...], str | None] = {}  # overrides -> what is wrong with them
    num_wrong = 0
    for variant in _variants(grid, axes, named):
        own = tuple(f"{key}={value}" for key, value in variant.choices.items())
        overrides = (*fixed, *own)
        if overrides in tried or num_wrong == MAX_WRONG_POINTS:
            continue
        tried[overrides] = None
        try:
            config = prototypes.config(own)
            if not any(is_left_out(config, skip) for skip in variant.skips):
                points[overrides] = Point(overrides, config)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            tried[overrides] = first_cause(error, evals)
            num_wrong += 1
    if not points or num_wrong:
        raise ConfigError(_point_problems(tried, set(fixed)) or [f"{' '.join(arguments)}: no grid point"])
    return list(points.values())


def _variants(grid: list[dict[str, Any]], axes: dict[str, list[str]], named: frozenset[str]) -> list[Variant]:
    try:
        return list(expand(grid, axes, named))
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def is_left_out(config: Config, skip: Skip) -> bool:
    """Whether a point is one that a block's `skip` names, by what it resolves to: `65b` leaves out `llama65b` too.

    Raises:
        ValueError: a key that no config has, or a choice that no group has.
    """
    return all(_is_one_of(config, key, value) for key, value in skip.items())


def _is_one_of(config: Config, key: str, value: Any) -> bool:
    if (CONF_FOLDER / key).is_dir():
        names = [load_choice(key, name).get("name", name) for name in choice_texts(value)]
        return getattr(getattr(config, key, None), "name", None) in names
    found: Any = config
    for part in key.split("."):
        if not hasattr(found, part):
            raise ValueError(f"skip: {key}: no such key in {type(found).__name__}")
        found = getattr(found, part)
    listed = value if isinstance(value, list) else [value]
    return (found.value if isinstance(found, Enum) else found) in listed


def _point_problems(tried: dict[tuple[str, ...], str | None], shared: set[str]) -> list[str]:
    """Each mistake once, with the first of the points that make it (unless all of them do)."""
    by_cause: dict[str, list[str]] = {}
    for overrides, cause in tried.items():
        if cause is not None:
            by_cause.setdefault(cause, []).append(" ".join(o for o in overrides if o not in shared))
    lines: list[str] = []
    for cause, where in by_cause.items():
        more = f" and {len(where) - 1} more points" if len(where) > 1 else ""
        lines.append(cause if len(where) == len(tried) else f"{where[0]}{more}: {cause}")
    return lines


def to_config(composed: DictConfig, evals: Evals = EvalConfig) -> Config:
    """A composed Hydra config -> the typed one, every value checked and resolved.

    Raises:
        ConfigError: a choice leaves a key open that only the user can fill.
        ValueError: a value that its dataclass refuses.
    """
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    plain = OmegaConf.to_container(ours, resolve=True, throw_on_missing=False)
    merged = OmegaConf.merge(blank_config(evals), plain)
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ConfigError([f"{key}: nothing chosen gives it a value; add {key}=..." for key in missing])
    for name in nested_settings(evals):
        refuse_values(f"eval.{name}", merged.eval[name])
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    for group, choice in (("model", config.model), ("dataset", config.dataset)):
        if choice.hub_id == LOCAL and choice.path is None:  # `path: ???` can't say so: OmegaConf keeps the default
            raise ConfigError([f"{group}={choice.name}: say where it lies by {group}.path=..."])
    return config


def check_command_line(arguments: Sequence[str], evals: Evals = EvalConfig) -> list[str]:
    """Mistakes among `sys.argv[1:]`, all of them; Hydra's own options (`-m`, `--cfg job`) are passed over."""
    options = get_args_parser().parse_args(list(arguments))
    return check_overrides(options.overrides, several=options.multirun, evals=evals)


def check_overrides(arguments: Sequence[str], several: bool = True, evals: Evals = EvalConfig) -> list[str]:
    """Mistakes in overrides, with their near matches: unknown choices, unknown keys, values of another type.

    Args:
        arguments: `key=value` each.
        several: is it a grid (`-m`), where a key may have several values?
        evals: the schema of the group `eval`, as for `register`.
    """
    problems: list[str] = []
    blank = blank_config(evals)  # to try values on, one after the other: each is judged by its own type alone
    for text in arguments:
        try:
            override = parsed(text)
        except HydraException as error:
            problems.append(f"{text}: not an override of the form key=value ({str(error).splitlines()[0]})")
            continue
        if override.key_or_group.startswith("hydra"):
            continue
        if override.is_sweep_override() and not several:
            problems.append(f"{text}: several values are a grid: add -m; one value that is a list is [a,b]")
        elif override.is_sweep_override() and not override.is_discrete_sweep():
            problems.append(f"{text}: a grid needs single values: a,b or choice(a,b) or range(first,end)")
        else:
            problems += _check_override(override, evals, blank)
    return problems


def choices(group: str) -> list[str]:
    """The files of a config group."""
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


def _check_override(override: Override, evals: Evals, blank: DictConfig) -> Iterator[str]:
    key = override.key_or_group
    if (CONF_FOLDER / key).is_dir():
        known = choices(key)
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


def _type_problem(key: str, text: str, blank: DictConfig) -> Iterator[str]:
    """What OmegaConf says of `key=text` when it doesn't fit the schema; interpolations are not judged."""
    value = parsed(f"{key}={text}").value()
    if isinstance(value, str) and "${" in value:
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
    return [_value_of(text) for text in _choices(override)]


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _value_of(override: str) -> str:
    return override.partition("=")[2]


def _load(loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)


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
