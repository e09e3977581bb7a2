"""Hydra's part: from a command line to typed configs. With `harness.run` the only importer of Hydra.

`python -m harness.run -m ...` is served by `GridSweeper`, a Hydra Sweeper that composes each point once
and hands all of them to one function; Hydra's own would compose twice and run job by job.
Command lines are checked before Hydra sees them, all mistakes together, with the near matches.
"""

import difflib
import importlib
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.schema import (
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

CONF_FOLDER = Path(__file__).resolve().parent.parent / "conf"
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


def register(run_points: RunPoints) -> None:
    """Makes the schema and the sweeper known to Hydra. `run_points` gets what composes all points at once."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema)
    GridSweeper.run_points = run_points
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

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> None:
        type(self).run_points(lambda: compose_points(self.loader, arguments))


def compose_points(loader: ConfigLoader, arguments: Sequence[str]) -> list[Point]:
    """Every point of the grid that the overrides and the experiment's `grid` span.

    Raises:
        ConfigError: all mistakes of all points together.
    """
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    axes = [_choices(o) for o in parsed if o.is_sweep_override()]
    grid: list[dict[str, Any]] = OmegaConf.to_container(_load(loader, fixed).grid)  # type: ignore[assignment]
    points: dict[tuple[str, ...], Point] = {}
    problems: list[str] = []
    for part in grid or [{}]:
        part_axes = [[f"{key}={choice.strip()}" for choice in _split(value)] for key, value in part.items()]
        for chosen in itertools.product(*part_axes, *axes):
            overrides = (*fixed, *_last_wins(chosen))
            if overrides in points:
                continue
            try:
                points[overrides] = Point(overrides, to_config(_load(loader, overrides)))
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                problems.append(f"{' '.join(chosen)}: {_first_cause(error)}")
    if problems:
        raise ConfigError(problems)
    return list(points.values())


def to_config(composed: DictConfig) -> Config:
    """A composed Hydra config -> the typed one, every value checked and resolved."""
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    plain = OmegaConf.to_container(ours, resolve=True, throw_on_missing=False)
    merged = OmegaConf.merge(OmegaConf.structured(Config), plain)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


def check_overrides(arguments: Sequence[str]) -> list[str]:
    """Mistakes in a command line, each with its near matches: unknown choices, unknown keys."""
    problems: list[str] = []
    for text in arguments:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            problems.append(f"{text}: not an override of the form key=value ({str(error).splitlines()[0]})")
            continue
        if override.key_or_group.startswith("hydra"):
            continue
        problems += _check_override(override)
    return problems


def choices(group: str) -> list[str]:
    """The files of a config group."""
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


def _check_override(override: Override) -> Iterator[str]:
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
            yield f"{key}: no such key{f' in {where}' if where else ''}.{near(part, known)}"
            return
        schema = _field_type(schema, part)
        where = f"{where}.{part}".strip(".")


def near(word: str, known: Sequence[str]) -> str:
    """' Did you mean a or b?', or all that is known where nothing is near."""
    found = difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(found)}?" if found else f" Known: {', '.join(known)}"


def _field_type(schema: Any, name: str) -> Any:
    hint = typing.get_type_hints(schema).get(name)
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(value).partition("=")[2] for value in _choices(override)]
    value = override.value()
    return [str(value)] if isinstance(value, str | int | float) and not isinstance(value, bool) else []


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _split(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else str(value).split(",")


def _last_wins(overrides: Sequence[str]) -> list[str]:
    """A choice on the command line replaces the experiment's for the same key."""
    by_key = {override.partition("=")[0]: override for override in overrides}
    return list(by_key.values())


def _load(loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)


def _first_cause(error: BaseException) -> str:
    """The sentence that says what is wrong, without OmegaConf's trailing object dump."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), None)
    return f"{key}: {lines[0]}" if key else lines[0]
