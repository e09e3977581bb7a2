"""Keeps the results of look-ups, so that each is made once however many runs of a plan need it."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Once:
    """Calls a function once for equal arguments; arguments are equal if their `repr` is."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def __call__(self, find: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        key = repr([find, args, kwargs])
        if key not in self._known:
            self._known[key] = find(*args, **kwargs)
        known: T = self._known[key]
        return known
