"""Names the columns that say how a run was made, from the model to the seed, and reads them from a run's config.

A column's name is the config's key without its group (`lora_r`, `learning_rate`); the names of choices are called by
their group (`model`, `dataset`), and `data_type` is what Table 2 of the paper calls so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd

from harness.config.schema import WHOLE_METHODS, AdapterMethod, DType, QuantMethod, method_name, quant_label
from harness.methods.table import METHODS

UNTOUCHED = AdapterMethod.none.value  # in `method`: the base without an adapter


class Kind(Enum):
    """What the values of a column are; each kind has one type of pandas."""

    choice = "category"
    whole = "Int64"
    number = "Float64"
    flag = "boolean"
    text = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A column that says how a run was made. It is missing where the run has no such thing."""

    name: str
    key: str  # of the config, with dots
    kind: Kind
    title: str  # in tables and figures
    about: str  # one sentence, with the unit
    unit: str | None = None
    is_seed: bool = False  # whether its values are exchangeable
    follows: str | None = None  # the axis of which it is a part, so that it is none of its own
    adapters_only: bool = False  # of runs with low-rank factors


def _axis(name: str, key: str, kind: Kind, title: str, about: str, **more: Any) -> Axis:
    return Axis(name=name, key=key, kind=kind, title=title, about=about, **more)


AXES: tuple[Axis, ...] = (
    _axis("model", "model.name", Kind.choice, "model", "The base model, by its name in conf/model."),
    _axis("dataset", "dataset.name", Kind.choice, "dataset", "The training rows, by their name in conf/dataset."),
    _axis("method", "adapter.method", Kind.choice, "method", "What is trained: lora, dora, full ...; none: nothing."),
    _axis(
        "data_type",
        "quant.name",
        Kind.choice,
        "data type",
        "How the base's weights are stored: nf4, fp4 (with `_single` without double quantization, and `_b128` with "
        "other blocks than 64), int8, or the unquantized bf16, fp16 and fp32.",
    ),
    _axis(
        "double_quant",
        "quant.double_quant",
        Kind.flag,
        "double quantization",
        "Whether absmax constants are quantized too; missing where weights have no 4 bits.",
        follows="data_type",
    ),
    _axis(
        "block_size",
        "quant.block_size",
        Kind.whole,
        "block size",
        "Weights that share one absmax constant; missing where weights have no 4 bits.",
        unit="weights",
        follows="data_type",
    ),
    _axis("compute_dtype", "quant.compute_dtype", Kind.choice, "compute dtype", "Data type of matrix products."),
    _axis("lora_r", "adapter.lora_r", Kind.whole, "r", "Rank of the low-rank factors.", adapters_only=True),
    _axis("lora_alpha", "adapter.lora_alpha", Kind.whole, "alpha", "LoRA's alpha.", adapters_only=True),
    _axis(
        "lora_dropout",
        "adapter.lora_dropout",
        Kind.number,
        "dropout",
        "Dropout before the low-rank factors.",
        unit="probability",
        adapters_only=True,
    ),
    _axis(
        "targets",
        "adapter.targets",
        Kind.choice,
        "layers",
        "Linear layers with an adapter, joined by +.",
        adapters_only=True,
    ),
    _axis("mode", "train.mode", Kind.choice, "mode", "How batches are laid out: fast, or faithful to the original."),
    _axis("optimizer", "train.optimizer", Kind.choice, "optimizer", "The optimizer that the config names."),
    _axis("schedule", "train.schedule", Kind.choice, "schedule", "How the learning rate goes on after the warm-up."),
    _axis("max_rows", "dataset.max_rows", Kind.whole, "rows", "A sample of the dataset; missing: all.", unit="rows"),
    _axis("train_on_source", "dataset.train_on_source", Kind.flag, "on source", "Whether inputs carry loss too."),
    _axis("batch_size", "train.batch_size", Kind.whole, "batch", "Examples of an optimizer step.", unit="examples"),
    _axis("learning_rate", "train.learning_rate", Kind.number, "learning rate", "The rate after the warm-up."),
    _axis("max_steps", "train.max_steps", Kind.whole, "steps", "Optimizer steps at most.", unit="steps"),
    _axis("max_epochs", "train.max_epochs", Kind.number, "epochs", "Passes over the data at most.", unit="epochs"),
    _axis("seed", "train.seed", Kind.whole, "seed", "Seed of the adapter's weights and dropout.", is_seed=True),
    _axis("data_seed", "train.data_seed", Kind.whole, "data seed", "Seed of the order of examples.", is_seed=True),
)
BY_NAME: Mapping[str, Axis] = {axis.name: axis for axis in AXES}
_DIGITS = re.compile(r"(\d+)")
_GROUPS = ("model", "quant", "adapter", "dataset", "train")
_KEYS = frozenset(axis.key for axis in AXES)
# Keys that are parts of an axis, or that change nothing in a result.
_NO_AXES = (
    *(
        "model.hub_id",
        "model.aliases",
        "model.path",
        "model.recipe_size",
        "model.shape",
        "model.kind",
        "model.max_length",
    ),
    *("quant.method", "adapter.name", "dataset.hub_id", "dataset.format", "dataset.path", "dataset.recipe"),
    *("dataset.subset", "dataset.eval_split", "dataset.label_names", "dataset.num_labels"),
    *("train.max_microbatch_tokens", "train.gradient_checkpointing", "train.checkpoint_steps"),
    *(
        "train.keep_checkpoints",
        "train.snapshot_steps",
        "train.mmlu_",
        "train.eval_every_steps",
        "data_sha256",
        "base_sha256",
        "adapter.peft_type",  # the method's name has it
    ),
)


_BY_ENTRY = frozenset(  # methods whose row says which of rank, alpha and dropout they have
    method.value for method in (AdapterMethod.peft, AdapterMethod.allora, AdapterMethod.s2ft, AdapterMethod.qst)
)


def axis_values(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each axis in the config of a run (`RunSpec.to_dict`); None where the run has no such thing."""
    flat = _flat(spec)
    method = flat.get("adapter.method")
    has_factors = method not in {UNTOUCHED, *(whole.value for whole in WHOLE_METHODS)}
    values = {axis.name: _plain(flat.get(axis.key)) if has_factors or not axis.adapters_only else None for axis in AXES}
    if method is not None:
        values["method"] = method_name(spec["adapter"])
    if method in _BY_ENTRY:
        values |= _numbers_of_method(spec["adapter"], values)
    if values["double_quant"] is not None and flat.get("quant.method") not in ("nf4", "fp4"):
        values["double_quant"] = values["block_size"] = None
    return values | {"data_type": data_type(flat)}


def _numbers_of_method(adapter: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Rank, alpha and dropout of a method, where it has them."""
    entry = METHODS.get(method_name(adapter))
    fields = {} if entry is None else {"lora_r": entry.rank, "lora_alpha": entry.alpha, "lora_dropout": entry.dropout}
    return {key: None if field is None else values[key] for key, field in fields.items()}


def other_values(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All other values of a run's config that can change a result, by their dotted keys."""
    return {
        key: _plain(value) for key, value in _flat(spec).items() if key not in _KEYS and not key.startswith(_NO_AXES)
    }


def data_type(flat: Mapping[str, Any]) -> str | None:
    """The name of how weights are stored, of a config's flat values; None where it doesn't say."""
    method = flat.get("quant.method")
    if method is None:
        return None
    if method in (QuantMethod.none.value, QuantMethod.int8.value):
        dtype = DType(flat.get("quant.compute_dtype", DType.auto.value))
        return quant_label(method, QuantMethod(method), dtype)
    single = "" if flat.get("quant.double_quant", True) else "_single"
    blocks = flat.get("quant.block_size", 64)
    return f"{method}{single}" + ("" if blocks == 64 else f"_b{blocks}")


def column(values: Sequence[Any], kind: Kind) -> "pd.Series[Any]":
    """Values as a column of the kind's type; None is missing. Categories are sorted, 7b before 13b."""
    if kind is Kind.choice:
        texts = {value: str(value) for value in set(values) if value is not None}
        known = {text: place for place, text in enumerate(sorted(set(texts.values()), key=_natural))}
        places = {None: -1} | {value: known[text] for value, text in texts.items()}
        codes = np.fromiter((places[value] for value in values), dtype=np.int64, count=len(values))
        return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(list(known), dtype="str")))
    return pd.Series(list(values), dtype=kind.value)  # type: ignore[no-any-return]


def kind_of(values: Sequence[Any]) -> Kind:
    """The narrowest kind that holds all values."""
    known = [value for value in values if value is not None]
    tests: tuple[tuple[Kind, Callable[[Any], bool]], ...] = (
        (Kind.flag, lambda value: isinstance(value, bool)),
        (Kind.whole, lambda value: isinstance(value, int) and not isinstance(value, bool)),
        (Kind.number, lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)),
    )
    return next((kind for kind, fits in tests if known and all(map(fits, known))), Kind.choice)


def varying_axes(frame: pd.DataFrame) -> list[str]:
    """The axes on which a frame's trained runs differ, seeds and parts of other axes left out, in the order of `AXES`.

    A further column counts by its dotted name, as `train.weight_decay`, which only a frame with different values has.
    A missing value counts as one (all rows, no limit), but for what only low-rank adapters have.
    """
    trained = trained_runs(frame)
    own = [axis.name for axis in AXES if not axis.is_seed and axis.follows is None and axis.name in frame]
    others = [name for name in map(str, frame) if "." in name and name.partition(".")[0] in _GROUPS]
    return [name for name in (*own, *others) if trained[name].nunique(dropna=_is_of_adapters(name)) > 1]


def seed_columns(frame: pd.DataFrame) -> list[str]:
    """The seeds in which a frame's trained runs differ."""
    trained = trained_runs(frame)
    return [axis.name for axis in AXES if axis.is_seed and axis.name in frame and trained[axis.name].nunique() > 1]


def trained_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that are no untouched base."""
    return frame[frame["method"].ne(UNTOUCHED).fillna(True)] if "method" in frame else frame


def _is_of_adapters(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].adapters_only


def title_of(name: str) -> str:
    """What a table calls an axis: its title, or its key."""
    return BY_NAME[name].title if name in BY_NAME else name


def _plain(value: Any) -> Any:
    return "+".join(str(part) for part in value) if isinstance(value, list) else value


def _natural(text: str) -> tuple[Any, ...]:
    """Sorts numbers in words by size."""
    return tuple((False, int(part)) if part.isdecimal() else (True, part) for part in _DIGITS.split(text) if part)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
