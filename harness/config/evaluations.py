"""The group `eval` of the config: its schema comes from the entry points, each benchmark's settings nested in it.

Why so: docs/decisions/0012-benchmarks.md.
"""

import typing
from dataclasses import fields, is_dataclass

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.schema import Config, EvalConfig

Evals = type[EvalConfig]  # the schema of the group, with the settings of each benchmark


def blank_config(evals: Evals) -> DictConfig:
    """The schema of a whole config, its defaults in it. Frozen settings are open to overrides like all others."""
    blank: DictConfig = OmegaConf.structured(Config(eval=evals()))
    for name in nested_settings(evals):
        OmegaConf.set_readonly(blank.eval[name], False)
    return blank


def nested_settings(evals: Evals) -> dict[str, type]:
    """The dataclasses of settings in the group `eval`, by their names."""
    hints = typing.get_type_hints(evals)
    return {f.name: hints[f.name] for f in fields(evals) if is_dataclass(hints[f.name])}


def nested_key(key: str, evals: Evals) -> str | None:
    """`eval.mmlu.num_shots` for `eval.mmlu_num_shots`, as it was called before settings were nested."""
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
