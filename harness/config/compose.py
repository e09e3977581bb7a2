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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.choices import CONF_FOLDER, OURS, Folders, choices, is_group, load_choice, near
from harness.config.evaluations import Evals, blank_config, nested_key, nested_settings, refuse_values
from harness.config.folders import user_folders, without_search_path
from harness.config.grids import ONE_TO_A_SWEEP, Skip, Variant, choice_texts, expand, with_named_grids
from harness.config.prototypes import Prototypes, parsed
from harness.config.remedies import (
    deletion_problem,
    empty_sweep_problem,
    idle_problem,
    unreadable,
    varying_problem,
)
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
DECIDING = ("model.path", "dataset.path", "model.recipe_size")  # by what they lead to, though no part of an identity
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


def register(run_points: RunPoints, evals: Evals = EvalConfig, folders: Folders = OURS) -> None:
    """Makes the schema and the sweeper known to Hydra.

    Args:
        run_points: gets what composes all points at once.
        evals: the schema of the group `eval`; EvalConfig itself knows no benchmark.
        folders: where choices and grids are looked for.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=blank_config(evals))
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema if group != "eval" else blank_config(evals).eval)
    GridSweeper.run_points = run_points
    GridSweeper.evals = evals
    GridSweeper.folders = folders
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
    grid: list[dict[str, Any]] = OmegaConf.to_container(_load(loader, fixed).grid)  # type: ignore[assignment]
    named = frozenset(str(override.key_or_group) for override in overrides)
    prototypes = Prototypes(loader, fixed, partial(_load, loader), partial(to_config, evals=evals))
    points: dict[tuple[str, ...], Point] = {}
    tried: dict[tuple[str, ...], str | None] = {}  # overrides -> what is wrong with them
    num_wrong = 0
    for variant in _variants(grid, axes, named, folders):
        own = tuple(f"{key}={value}" for key, value in variant.choices.items())
        all_overrides = (*fixed, *own)
        if all_overrides in tried or num_wrong == MAX_WRONG_POINTS:
            continue
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
            axes[key] = [_value_of(choice) for choice in _choices(override)]
        elif not override.is_delete() and any(_overlap(key, axis, folders) for axis in axes):
            axes[key] = [_value_of(str(override.input_line))]  # in its turn: after what varies
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
    blank = blank_config(evals)  # to try values on, one after the other: each is judged by its own type alone
    for text in arguments:
        try:
            override = parsed(text)
        except HydraException as error:
            problems.append(unreadable(text, error))
            continue
        if not override.key_or_group:
            problems.append(f"{text}: there is no key before the =; expected key=value")
        elif override.is_sweep_override() and (problem := _sweep_problem(override, several, folders)):
            problems.append(problem)
        elif not override.key_or_group.startswith("hydra"):
            problems += _check_override(override, evals, blank, folders)
    return problems


def _sweep_problem(override: Override, several: bool, folders: Folders) -> str | None:
    """Why a key can't have these several values."""
    text, key = override.input_line, override.key_or_group
    if key.partition(".")[0] in ONE_TO_A_SWEEP:
        return varying_problem(str(text))
    if not several:
        return f"{text}: several values are a grid: add -m; one value that is a list is [a,b]"
    if not override.is_discrete_sweep():
        return f"{text}: a grid needs single values: a,b or choice(a,b) or range(first,end)"
    known = choices(key, folders) if is_group(key, folders) else None
    return empty_sweep_problem(override, known) or (idle_problem(str(text)) if _is_idle(key) else None)


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
