"""Composes the points of a command line to typed configs, by Hydra.

`python -m harness.run -m ...` is served by `GridSweeper`, a Hydra Sweeper that composes each point once
and hands all of them to one function; Hydra's own would compose twice and run job by job.
`harness.config.overrides` checks the command line before.
"""

import importlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.choices import CONF_FOLDER, OURS, Folders, is_group, load_choice
from harness.config.evaluations import Evals, blank_config, nested_settings, refuse_values
from harness.config.folders import user_folders, without_search_path
from harness.config.grids import Skip, Variant, choice_texts, expand, with_named_grids
from harness.config.overrides import GROUPS, check_overrides, first_cause, swept_values
from harness.config.prototypes import Prototypes
from harness.config.remedies import MAX_POINTS, too_many_problem, varying_problem
from harness.config.schema import Config, EvalConfig

LOCAL = "local"  # the hub id of model=local and dataset=local, which are on no hub
MAX_WRONG_POINTS = 50  # of a grid are looked at; each costs a composition by Hydra
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


def register(run_points: RunPoints, evals: Evals = EvalConfig, folders: Folders = OURS) -> None:
    """Makes the schema and the sweeper known to Hydra.

    Args:
        run_points: gets what composes all points at once.
        evals: the schema of the group `eval`; EvalConfig itself knows no benchmark.
        folders: where choices and grids are looked for.
    """
    if getattr(GridSweeper, "evals", None) is not evals:
        _store_schema(evals)
    GridSweeper.run_points = run_points
    GridSweeper.evals = evals
    GridSweeper.folders = folders


def _store_schema(evals: Evals) -> None:
    """Puts the schema and the sweeper into Hydra's store, of which a process has one."""
    store = ConfigStore.instance()
    store.store(name="schema", node=blank_config(evals))
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema if group != "eval" else blank_config(evals).eval)
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
    folders: Folders

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing of Hydra's own context is needed: `sweep` composes by itself."""

    def sweep(self, arguments: list[str]) -> None:
        cls = type(self)
        cls.run_points(lambda: _compose(without_search_path(arguments), cls.evals, cls.folders))


def compose_grid(
    overrides: Sequence[str], evals: Evals = EvalConfig, config_dir: str | Path | None = None
) -> list[Point]:
    """As `python -m harness.run -m OVERRIDES` composes it, for callers that aren't Hydra's main.

    Args:
        overrides: `key=value` each.
        evals: the schema of the group `eval`, as for `register`.
        config_dir: a folder of the user's own choices and grids, as `hydra.searchpath` names more.

    Raises:
        ConfigError: all mistakes together.
    """
    folders = all_folders(overrides, config_dir)
    spelled = named_grids(without_search_path(overrides), folders)
    if problems := check_overrides(spelled, evals=evals, folders=folders):
        raise ConfigError(problems)
    register(lambda compose: None, evals, folders)
    try:
        return _compose(spelled, evals, folders)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([first_cause(error, evals)]) from None


def _compose(overrides: Sequence[str], evals: Evals, folders: Folders) -> list[Point]:
    """Composes by a loader of our own, which looks into the user's folders too."""
    version.setbase("1.3")
    before = get_gh_backup()
    search_path = create_config_search_path(str(folders[0]))
    for folder in folders[1:]:
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    try:
        GlobalHydra.instance().clear()
        loader = Hydra.create_main_hydra2("app", search_path).config_loader
        return compose_points(loader, overrides, evals, folders)
    finally:
        restore_gh_from_backup(before)


def all_folders(arguments: Sequence[str], config_dir: str | Path | None = None) -> Folders:
    """This project's folder of choices, then those that the command line names. Raises ConfigError for a bad one."""
    try:
        return (CONF_FOLDER, *user_folders(arguments, config_dir))
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from None


def named_grids(arguments: Sequence[str], folders: Folders = OURS) -> list[str]:
    """A command line with `+grid=table5` spelled out. Raises ConfigError for a grid that isn't there."""
    try:
        return with_named_grids(arguments, folders)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from None


def compose_points(
    loader: ConfigLoader, arguments: Sequence[str], evals: Evals = EvalConfig, folders: Folders = OURS
) -> list[Point]:
    """Every point of the grid that the overrides and `grid`, the experiment's or a named one, span.

    Raises:
        ConfigError: all mistakes of all points together.
    """
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    fixed, axes = _fixed_and_axes(overrides, folders)
    bare = _load(loader, fixed)
    grid: list[dict[str, Any]] = OmegaConf.to_container(bare.grid)  # type: ignore[assignment]

    def load(point: Sequence[str]) -> DictConfig:
        return bare if list(point) == fixed else _load(loader, point)

    named = frozenset(str(override.key_or_group) for override in overrides)
    prototypes = Prototypes(loader, fixed, load, partial(to_config, evals=evals))
    points: dict[tuple[str, ...], Point] = {}
    tried: dict[tuple[str, ...], str | None] = {}  # overrides -> what is wrong with them
    num_wrong = 0
    for variant in _variants(grid, axes, named, folders):
        own = tuple(f"{key}={value}" for key, value in variant.choices.items())
        all_overrides = (*fixed, *own)
        if all_overrides in tried or num_wrong == MAX_WRONG_POINTS:
            continue
        if len(tried) == MAX_POINTS:
            raise ConfigError([too_many_problem(" ".join(arguments))])
        tried[all_overrides] = None
        try:
            config = prototypes.config(own)
            _require_same_grid(config, grid)
            if not any(is_left_out(config, skip, folders) for skip in variant.skips):
                points[all_overrides] = Point(all_overrides, config)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            tried[all_overrides] = first_cause(error, evals)
            num_wrong += 1
    if not points or num_wrong:
        raise ConfigError(_point_problems(tried, set(fixed)) or [f"{' '.join(arguments)}: no grid point"])
    if problems := one_to_a_sweep_problems([point.config for point in points.values()]):
        raise ConfigError(problems)
    return list(points.values())


def _fixed_and_axes(overrides: Sequence[Override], folders: Folders) -> tuple[list[str], dict[str, list[str]]]:
    """What all points share, and what varies; of a key that is given twice the later counts, as Hydra has it."""
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.type is OverrideType.CHANGE:
            axes.pop(key, None)
        if override.is_sweep_override():
            axes[key] = swept_values(override)
        elif not override.is_delete() and any(_overlap(key, axis, folders) for axis in axes):
            axes[key] = [str(override.input_line).partition("=")[2]]  # in its turn: after what varies
        else:
            fixed.append(str(override.input_line))
    return fixed, axes


def _overlap(key: str, other: str, folders: Folders) -> bool:
    """Whether one key is the other, or a part of it. Choices of groups come first, wherever they stand."""
    one, two = key.lstrip("+~"), other.lstrip("+~")
    if is_group(one, folders) or is_group(two, folders):
        return one == two
    return one == two or one.startswith(f"{two}.") or two.startswith(f"{one}.")


def _variants(
    grid: list[dict[str, Any]], axes: dict[str, list[str]], named: frozenset[str], folders: Folders
) -> list[Variant]:
    try:
        return list(expand(grid, axes, named, folders))
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def _require_same_grid(config: Config, grid: list[dict[str, Any]]) -> None:
    """Raises ValueError for a point whose own choice brings another grid, which nobody would expand."""
    if config.grid and config.grid != grid:
        raise ValueError("an experiment with a grid of its own can't be one of several; give a command for each")


def one_to_a_sweep_problems(configs: Sequence[Config]) -> list[str]:
    """A problem for each key of launch, paths or tracking, or the name, that differs: a sweep has one value of it."""
    first = configs[0]
    differing: dict[str, None] = {}
    for config in configs:
        for name in ("launch", "paths", "tracking", "sweep_name"):
            one, other = getattr(first, name), getattr(config, name)
            if one is not other and one != other:
                differing.update(dict.fromkeys(_differing_keys(name, one, other)))
    return [varying_problem(key) for key in differing]


def _differing_keys(name: str, one: Any, other: Any) -> list[str]:
    if not is_dataclass(one):
        return [name]
    return [f"{name}.{f.name}" for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]


def is_left_out(config: Config, skip: Skip, folders: Folders = OURS) -> bool:
    """Whether a point is one that a block's `skip` names, by what it resolves to: `65b` leaves out `llama65b` too.

    Raises:
        ValueError: a key that no config has, or a choice that no group has.
    """
    return all(_is_one_of(config, key, value, folders) for key, value in skip.items())


def _is_one_of(config: Config, key: str, value: Any, folders: Folders) -> bool:
    if is_group(key, folders):
        names = [load_choice(key, name, folders).get("name", name) for name in choice_texts(value)]
        return getattr(getattr(config, key, None), "name", None) in names
    setting: Any = config
    for part in key.split("."):
        if not hasattr(setting, part):
            raise ValueError(f"skip: {key}: no such key in {type(setting).__name__}")
        setting = getattr(setting, part)
    listed = value if isinstance(value, list) else [value]
    return (setting.value if isinstance(setting, Enum) else setting) in listed


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


def to_config(composed: DictConfig, evals: Evals = EvalConfig, chosen: Mapping[str, str] | None = None) -> Config:
    """A composed Hydra config -> the typed one, every value checked and resolved.

    Args:
        composed: with or without Hydra's own part.
        evals: the schema of the group `eval`.
        chosen: group -> its choice; None: as Hydra's own part says.

    Raises:
        ConfigError: a choice leaves a key open that only the user can fill.
        ValueError: a value that its dataclass refuses.
    """
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    plain = OmegaConf.to_container(ours, resolve=True, throw_on_missing=False)
    merged = OmegaConf.merge(blank_config(evals), plain)
    _fill_local(merged, OmegaConf.select(composed, "hydra.runtime.choices") if chosen is None else chosen)
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


def _fill_local(config: Any, chosen: Mapping[str, str] | None) -> None:
    """Fills what a file of the user's own that only has a `path` leaves open."""
    for group in ("model", "dataset"):
        part = config[group]
        if part.path is None:
            continue
        name = (chosen or {}).get(group) or Path(part.path).stem
        for key, value in {"name": name, "hub_id": LOCAL, "format": "auto"}.items():
            if OmegaConf.is_missing(part, key):  # a model has no format
                part[key] = value


def _load(loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
