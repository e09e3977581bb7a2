"""Reads JSON whose shape is a dataclass or another type: what doesn't fit is named by its place in the file."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Shape = TypeVar("Shape")


def read_typed(path: Path, shape: type[Shape], remedy: str) -> Shape:
    """Reads a JSON file. Keys that the shape doesn't know are left alone.

    Args:
        path: an existing file.
        shape: a dataclass, or any other type that pydantic knows.
        remedy: what to do where the file can't be read, as "make it again".

    Raises:
        ValueError: no JSON, a number that is none, or a value of another kind; file, place and remedy are named.
    """
    from pydantic import ValidationError  # imported where it is used: most commands read no such file
    from pydantic_core import from_json

    content = path.read_bytes()
    try:
        from_json(content, allow_inf_nan=False)
        return cast(Shape, _adapter(cast(Any, shape)).validate_json(content, strict=True))
    except ValidationError as error:
        raise ValueError(f"{path}: {_misfit(error.errors(include_url=False))}; {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); {remedy}") from None


def fit(value: Any, shape: type[Shape], where: str, remedy: str) -> Shape:
    """As `read_typed`, of a value that was read before. Args: where: the file."""
    from pydantic import ValidationError

    try:
        return cast(Shape, _adapter(cast(Any, shape)).validate_json(json.dumps(value), strict=True))
    except ValidationError as error:
        raise ValueError(f"{where}: {_misfit(error.errors(include_url=False))}; {remedy}") from None


@cache
def _adapter(shape: type[Any]) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def _misfit(errors: list[Any]) -> str:
    first: Mapping[str, Any] = errors[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
