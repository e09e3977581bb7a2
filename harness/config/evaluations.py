"""The config group `eval`, in which the settings of each benchmark are nested. Its schema comes from the entry points.

docs/decisions/0012-benchmarks.md says why.
"""

import typing
from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.schema import Config, EvalConfig

Evals = type[EvalConfig]  # the schema of the group, with the settings of each benchmark
_BLANKS: dict[Evals, DictConfig] = {}


def blank_config(evals: Evals) -> DictConfig:
    """A whole config with its defaults, as OmegaConf's schema. Settings of frozen classes can be overridden too.

    It is made once: merge it or copy it, never change it.
    """
    if evals not in _BLANKS:
        blank: DictConfig = OmegaConf.structured(Config(eval=evals()))
        for name in nested_settings(evals):
            OmegaConf.set_readonly(blank.eval[name], False)
        _BLANKS[evals] = blank
    return _BLANKS[evals]


def nested_settings(evals: Evals) -> dict[str, type]:
    """The dataclasses of settings in the group `eval`, by their names."""
    hints = typing.get_type_hints(evals)
    return {f.name: hints[f.name] for f in fields(evals) if is_dataclass(hints[f.name])}


def nested_key(key: str, evals: Evals) -> str | None:
    """The new name of a flat key (`eval.mmlu.num_shots` for `eval.mmlu_num_shots`), or None for any other key."""
    group, _, flat = key.partition(".")
    for name, kind in nested_settings(evals).items() if group == "eval" else ():
        field = flat.removeprefix(f"{name}_")
        if field != flat and field in {f.name for f in fields(kind)}:
            return f"eval.{name}.{field}"
    return None


def refuse_values(key: str, settings: DictConfig) -> None:
    """Raises ValueError for values that a benchmark's settings refuse, with their key."""
    try:
        OmegaConf.to_object(settings)
    except ValueError as error:
        if isinstance(error, OmegaConfBaseException):
            raise
        raise ValueError(f"{key}.{error}") from None
