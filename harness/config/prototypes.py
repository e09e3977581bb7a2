"""The points of a grid as Hydra composes them, each choice composed once. Why this is right: docs/decisions/0008.

A group's choice fills its own part of the config and no other, as long as its file says so: no `@package`, and
in its defaults list nothing but files of its own folder. So the first point that brings a new choice is composed
by Hydra whole and taken apart; later points are put together from such parts, with their own values set
in them, and interpolations that name other keys are resolved last. Whatever is not understood here (other groups,
additions, deletions, resolvers, keys of free-form mappings, a defaults list that depends on a choice, a value that its
field refuses) goes through Hydra itself, for that point.
"""

import re
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from functools import lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.interpolations import NotFollowedError, Place, interpolated, with_interpolations, with_values
from harness.config.schema import Config

PRIMARY = "config"
_OWN_SCHEMA = "schema"  # of each group, from Hydra's ConfigStore
_WHOLE_NUMBER = re.compile(r"([A-Za-z_][A-Za-z_.]*)=(0|-?[1-9][0-9]*)")
_WORD = re.compile(r"\w+")
_GROUPS: dict[str, type] = {
    name: kind for name, kind in typing.get_type_hints(Config).items() if isinstance(kind, type) and is_dataclass(kind)
}


@dataclass(frozen=True, slots=True)
class _Part:
    """What one override does: chooses a group's file, sets a group's field, or (no group) something else."""

    key: str
    group: str | None = None
    choice: str | None = None
    place: Place = ()  # of the value within the group
    value: Any = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A point's own overrides, sorted by what they do."""

    rest: tuple[str, ...]  # goes into every composition
    choices: dict[str, str]
    values: dict[str, dict[Place, str]]  # group -> place within it -> the override


@dataclass(frozen=True, slots=True)
class _Prototype:
    """A group of a composed point. It serves all points that have values of their own wherever that one had."""

    value: Any
    interpolations: dict[Place, str]
    own: frozenset[Place]  # what the composed point set in the group


@lru_cache(maxsize=100_000)
def parsed(text: str) -> Override:
    """One override, read once: the grammar takes its time, 0.3 ms. Raises HydraException."""
    whole = _WHOLE_NUMBER.fullmatch(text)
    if whole is None or whole[2] == "0":
        return OverridesParser.create().parse_override(text)
    return replace(parsed(f"{whole[1]}=0"), _value=int(whole[2]), input_line=text)  # a sweep over thousands of seeds


class Prototypes:
    """Composes points that share their first overrides.

    Args:
        loader: Hydra's.
        fixed: the overrides that all points begin with.
        load: Hydra's own composition of a list of overrides.
        convert: a composed config -> the typed one.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        fixed: Sequence[str],
        load: Callable[[Sequence[str]], DictConfig],
        convert: Callable[[DictConfig], Config],
    ) -> None:
        assert isinstance(loader, ConfigLoaderImpl)
        self.num_composed = 0  # by Hydra
        self._loader = loader
        self._fixed = tuple(fixed)
        self._load = load
        self._convert = convert
        self._whole: list[tuple[_Asked, DictConfig, Config]] = []  # not taken apart yet
        self._parts: dict[str, _Part] = {}
        self._tops: dict[tuple[str, ...], Config] = {}  # by `rest`
        self._interpolated: dict[tuple[str, ...], dict[Place, str]] = {}  # outside the groups, by `rest`
        self._prototypes: dict[tuple[Any, ...], list[_Prototype]] = {}  # by `rest`, group and its choice
        self._typed: dict[tuple[Any, ...], Any] = {}  # a group with values set in it, by all that made it
        self._independent: dict[tuple[str, ...], bool] = {}
        self._simple: dict[tuple[str, str], bool] = {}

    def config(self, own: Sequence[str]) -> Config:
        """The typed config of one point: the fixed overrides and these.

        Raises:
            HydraException, OmegaConfBaseException, ValueError: what Hydra, or the schema, says of the point.
        """
        overrides = built = None
        self._take_apart_whole()
        try:
            overrides = self._asked(own)
            built = None if overrides is None else self._built(overrides)
        except (HydraException, OmegaConfBaseException, ValueError):
            pass  # Hydra finds the same mistake, and says it in its own words
        if built is not None:
            return built
        self.num_composed += 1
        composed = self._load([*self._fixed, *own])
        config = self._convert(composed)
        if overrides is not None:
            self._whole.append((overrides, composed, config))
        return config

    def _take_apart_whole(self) -> None:
        """Takes apart what Hydra composed; only when another point comes, as many commands have one."""
        for overrides, composed, config in self._whole:
            if self._choices_are_independent(overrides.rest):
                self._take_apart(overrides, composed, config)
        self._whole.clear()

    def _built(self, overrides: _Asked) -> Config | None:
        """The point from parts that are known; None where one is not."""
        if overrides.rest not in self._tops:
            return None
        texts = dict(self._interpolated[overrides.rest])
        groups: dict[str, Any] = {}
        for group in _GROUPS:
            values = overrides.values.get(group, {})
            prototype = self._prototype(overrides, group, values.keys())
            if prototype is None:
                return None
            groups[group] = self._with_values(overrides, group, prototype, values) if values else prototype.value
            texts |= {place: text for place, text in prototype.interpolations.items() if place[1:] not in values}
        config = replace(self._tops[overrides.rest], **groups)
        return with_interpolations(config, texts) if texts else config

    def _prototype(self, overrides: _Asked, group: str, own: Set[Place]) -> _Prototype | None:
        known = self._prototypes.get((overrides.rest, group, overrides.choices.get(group)), ())
        return next((prototype for prototype in known if prototype.own <= own), None)

    def _with_values(self, overrides: _Asked, group: str, prototype: _Prototype, values: Mapping[Place, str]) -> Any:
        key = (overrides.rest, group, overrides.choices.get(group), tuple(sorted(values.values())))
        if key not in self._typed:
            read = {place: self._parts[text].value for place, text in values.items()}
            self._typed[key] = with_values(prototype.value, read)
        return self._typed[key]

    def _take_apart(self, overrides: _Asked, composed: DictConfig, config: Config) -> None:
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        outside = {key: value for key, value in plain.items() if key not in (*_GROUPS, "hydra")}
        try:
            texts = interpolated(outside, config)
        except NotFollowedError:
            return
        self._tops[overrides.rest] = config
        self._interpolated[overrides.rest] = texts
        for group in _GROUPS:
            part = getattr(config, group)
            key = overrides.rest, group, overrides.choices.get(group)
            with suppress(NotFollowedError):
                found = interpolated(plain[group], part, (group,))
                own = frozenset(overrides.values.get(group, ()))
                self._prototypes.setdefault(key, []).append(_Prototype(part, found, own))

    def _asked(self, own: Sequence[str]) -> _Asked | None:
        """None where the order of the overrides matters: keys twice, or one above another."""
        rest: list[str] = []
        keys: dict[str, None] = {}
        choices: dict[str, str] = {}
        values: dict[str, dict[Place, str]] = {}
        for text in own:
            part = self._part(text)
            if part.key in keys:
                return None
            keys[part.key] = None
            if part.group is None:
                rest.append(text)
            elif part.choice is not None:
                choices[part.group] = part.choice
            else:
                values.setdefault(part.group, {})[part.place] = text
        for text in rest:
            key = self._part(text).key
            if any(other.startswith(f"{key}.") or key.startswith(f"{other}.") for other in keys):
                return None
        return _Asked(tuple(rest), choices, values)

    def _part(self, text: str) -> _Part:
        if text not in self._parts:
            self._parts[text] = self._read(text)
        return self._parts[text]

    def _read(self, text: str) -> _Part:
        override = parsed(text)
        key = override.key_or_group
        something_else = _Part(key)
        if override.type is not OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
            return something_else
        value = override.value()
        group, *place = key.split(".")
        if group not in _GROUPS or "${" in str(value) or "???" in str(value):  # a sweep escapes them in its text
            return something_else
        if not place:
            if isinstance(value, str) and self._is_simple(group, value):
                return _Part(key, group, choice=value)
            return something_else
        return _Part(key, group, place=tuple(place), value=value) if _is_plain(value) else something_else

    def _is_simple(self, group: str, choice: str) -> bool:
        """Whether a choice's file, with those that it builds on, fills its own part of the config only."""
        key = group, choice
        if key not in self._simple:
            self._simple[key] = False  # for files that name each other
            file = self._loader.repository.load_config(f"{group}/{choice}") if _WORD.fullmatch(choice) else None
            if file is None or file.header.get("package") is not None:
                return False
            defaults = file.defaults_list or []
            names = [default.path for default in defaults if isinstance(default, ConfigDefault)]
            plain = len(names) == len(defaults) and all(default.package is None for default in defaults)
            below = [str(name) for name in names if name not in (_OWN_SCHEMA, "_self_")]
            self._simple[key] = plain and all(self._is_simple(group, name) for name in below)
        return self._simple[key]

    def _choices_are_independent(self, rest: tuple[str, ...]) -> bool:
        """Whether each group fills its own part, and no defaults list depends on what another group chose."""
        if rest not in self._independent:
            self._independent[rest] = self._look_at_defaults(rest)
        return self._independent[rest]

    def _look_at_defaults(self, rest: tuple[str, ...]) -> bool:
        overrides = [*self._fixed, *rest]
        try:
            composed = self._loader.compute_defaults_list(PRIMARY, overrides, RunMode.RUN)
        except (HydraException, OmegaConfBaseException):  # it composes only together with a point's own overrides
            return False
        for default in composed.defaults:
            path = default.config_path or ""
            group = path.partition("/")[0]
            if group == "hydra" or default.package == "hydra":
                continue
            if group in _GROUPS and default.package != group:
                return False
            loaded = self._loader.repository.load_config(path)
            if loaded is None or any(_is_interpolated(entry) for entry in loaded.defaults_list or []):
                return False
        return True


def _is_plain(value: Any) -> bool:
    flat = value if isinstance(value, list) else [value]
    return all(item is None or type(item) in (str, int, float, bool) for item in flat)


def _is_interpolated(default: InputDefault) -> bool:
    if isinstance(default, GroupDefault):
        return "${" in f"{default.group} {default.value}"
    return "${" in str(default.path) if isinstance(default, ConfigDefault) else True
