"""Resolves interpolations that only name other keys (`${train.seed}`) in a typed config, without composing it anew."""

import re
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

Place = tuple[str, ...]  # a key, part by part
_KEY = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")  # the only resolver whose result no other key can change


class NotFollowedError(ValueError):
    """Raised for an interpolation that Hydra itself must resolve."""


def interpolated(plain: Any, typed: Any, place: Place = ()) -> dict[Place, str]:
    """The values that other keys decide, by their places.

    Args:
        plain: unresolved values of a config or a part of it.
        typed: the same, resolved and typed.
        place: of the part.

    Raises:
        NotFollowedError: one has a resolver, or stands in a list or a free-form mapping.
    """
    found: dict[Place, str] = {}
    if isinstance(plain, dict):
        for key, value in plain.items():
            part = getattr(typed, str(key), None) if is_dataclass(typed) else None
            found |= interpolated(value, part, (*place, str(key)))
    elif isinstance(plain, (list, tuple)):
        for value in plain:
            if interpolated(value, None):
                raise NotFollowedError(place)
    elif isinstance(plain, str) and "${" in plain and _ENVIRONMENT.fullmatch(plain) is None:
        if "${" in _KEY.sub("", plain):
            raise NotFollowedError(place)
        found[place] = plain
    return found


def with_interpolations(config: Any, texts: Mapping[Place, str]) -> Any:
    """The config with these values resolved anew, converted and checked as the schema has them.

    Raises:
        NotFollowedError: a key that isn't there, a whole group, or a circle; ValueError: a value that doesn't fit.
    """
    left = dict(texts)
    while left:
        ready = [place for place, text in left.items() if not any(key in left for key in _named(text))]
        if not ready:
            raise NotFollowedError(next(iter(left)))
        for place in ready:
            config = _replaced(config, place, left.pop(place))
    return config


def _named(text: str) -> list[Place]:
    return [tuple(key.split(".")) for key in _KEY.findall(text)]


def _replaced(config: Any, place: Place, text: str) -> Any:
    """The config with the resolved text at this place."""
    holder: dict[str, Any] = {}
    for named in _named(text):
        _put(holder, named, _value_at(config, named))
    result = OmegaConf.create(holder | {" text": text})[" text"]
    return with_values(config, {place: OmegaConf.to_container(result) if isinstance(result, ListConfig) else result})


def _value_at(config: Any, place: Place) -> Any:
    value = config
    for part in place:
        if not is_dataclass(value) or not hasattr(value, part):
            raise NotFollowedError(place)
        value = getattr(value, part)
    if value is not None and not isinstance(value, (str, int, float, list, Enum)):
        raise NotFollowedError(place)
    return value


def _put(holder: dict[str, Any], place: Place, value: Any) -> None:
    for part in place[:-1]:
        holder = holder.setdefault(part, {})
    holder[place[-1]] = value


def with_values(owner: Any, values: Mapping[Place, Any]) -> Any:
    """A config, or a part of it, with these values set in it, converted and checked as the schema has them.

    Raises:
        NotFollowedError: a place that is no field, or holds more than a value or a list; ValueError: one doesn't fit.
    """
    below: dict[str, dict[Place, Any]] = {}
    for (name, *rest), value in values.items():
        below.setdefault(name, {})[tuple(rest)] = value
    kind: Any = type(owner)
    if not is_dataclass(kind) or not below.keys() <= {field.name for field in fields(kind)}:
        raise NotFollowedError(next(iter(values)))
    changed = {name: _changed(owner, name, inner) for name, inner in below.items()}
    return replace(owner, **changed)


def _changed(owner: Any, name: str, inner: Mapping[Place, Any]) -> Any:
    if () not in inner:
        return with_values(getattr(owner, name), inner)
    kind: Any = type(owner)
    if len(inner) > 1 or name not in _plain_fields(kind):
        raise NotFollowedError((name,))
    blank = _blank(kind)
    OmegaConf.update(blank, name, inner[()], merge=True)
    typed = blank[name]
    return OmegaConf.to_container(typed) if isinstance(typed, ListConfig) else typed


@cache
def _plain_fields(kind: type) -> frozenset[str]:
    """Fields that hold one value or a list of them, and are no part of the config of their own."""
    hints = typing.get_type_hints(kind)
    return frozenset(
        field.name
        for field in fields(kind)
        if not is_dataclass(hints[field.name]) and typing.get_origin(hints[field.name]) is not dict
    )


@cache
def _blank(kind: type) -> DictConfig:
    """What values of a dataclass are converted in, one after the other; its making takes 20 ms."""
    blank: DictConfig = OmegaConf.structured(kind)
    OmegaConf.set_readonly(blank, False)
    return blank
