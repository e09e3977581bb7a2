"""Declares a benchmark's settings: each field has a default and a sentence, which config and commands read.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ReversalSettings:
        num_words: int = setting(3, "Words of each question.")

Such a field is the key `eval.reversal.num_words` and the option `--num-words` of `python -m eval reversal`.
"""

from dataclasses import MISSING, Field, field, fields
from typing import Any


def setting(
    default: Any,
    sentence: str,
    *,
    option: str | None = None,
    option_default: Any = None,
    is_required: bool = False,
    since: bool = False,
    identity: bool = True,
) -> Any:
    """Makes a field of a benchmark's settings.

    Args:
        default: of the config's key; a list is copied.
        sentence: what the setting is, with its unit.
        option: the command's option where it isn't called like the field.
        option_default: of the option, where it isn't the field's.
        is_required: the command takes no default.
        since: added after runs were measured: at its default it stays out of the hash of an evaluation's job.
        identity: whether it can change a result.
    """
    metadata: dict[str, Any] = {"sentence": sentence, "option": option, "is_required": is_required}
    metadata |= {"option_default": option_default}
    metadata |= {"identity": identity} | ({"identity_since": default} if since else {})
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def row_tokens() -> Any:
    """The setting `row_tokens`, which all benchmarks have that read a text in rows."""
    return setting(None, "Tokens of one pass; default: what fits the device. Changes no result.", identity=False)


def require_at_least(settings: Any, least: int, *keys: str) -> None:
    """Raises ValueError for the first of the keys whose number is below `least`; unset ones pass."""
    for key in keys:
        value = getattr(settings, key)
        if value is not None and value < least:
            raise ValueError(f"{key}={value}: expected {least} or more, or leave it out")


def default_of(declared: "Field[Any]") -> Any:
    """The default of a field."""
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def identity_of(settings: Any) -> dict[str, Any]:
    """The plain values that decide a result, those of later settings only where they aren't at their default."""
    return {
        declared.name: plain(getattr(settings, declared.name))
        for declared in fields(settings)
        if declared.metadata.get("identity", True)
        and not (
            "identity_since" in declared.metadata
            and getattr(settings, declared.name) == declared.metadata["identity_since"]
        )
    }


def plain(value: Any) -> Any:
    """An enum's value; anything else as it is."""
    return getattr(value, "value", value)
