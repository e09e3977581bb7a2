"""Turns a resolved config into a `RunSpec` with its `run_id`, its group and its label.

`run_id` is a hash of the resolved fields that can change a result: not paths, names, logging or the
launcher. A field added later is marked with the value that reproduces the old behaviour
(`metadata={"identity_since": value}`) and left out of the hash at that value, so finished runs stay finished.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from harness.config.schema import (
    SHARED_BASE_METHODS,
    UNSCALED_METHODS,
    WHOLE_METHODS,
    AdapterConfig,
    AdapterMethod,
    Config,
    DatasetConfig,
    DType,
    EvalSource,
    LossMean,
    MasterWeights,
    Mode,
    ModelConfig,
    ModelKind,
    QuantConfig,
    QuantMethod,
    RecipeRow,
    TrainConfig,
    since,
    typed,
)
from harness.data.examples import resolved
from harness.data.formats import DIALOGUES, STEP_BY_STEP
from harness.data.selection.knowledge import KEEP_EMBEDDED, knowledge_file
from harness.data.selection.rows import resolved_rule, select_problem
from harness.data.source import data_files, streams
from harness.files.atomic import sha256_files
from harness.methods.keys import schedule_problem, uses_dropout
from harness.runs.compatibility import method_problem, optimizer_problem, task_problem
from harness.runs.merged import MergeRecipe
from harness.runs.start import start_digest, start_folder

DEFAULT_RECIPE = RecipeRow(max_steps=1000, batch_size=16, learning_rate=2e-4, lora_dropout=0.1, max_epochs=4.0)
TRAIN_RECIPE = ("batch_size", "learning_rate")  # what a recipe fills in `train` where it is open
TRAIN_LENGTH = ("max_steps", "max_epochs")  # what it fills where both are open: a length that the user gave binds
RUN_ID_LENGTH = 12
_PLAIN = (str, int, float, type(None))  # bool is an int


@dataclass(frozen=True, kw_only=True)  # no slots: what is derived is kept, as plans of 10,000 runs ask for it often
class RunSpec:
    """Everything that determines one finetuned or merged adapter, or an untouched base (these have no `dataset`)."""

    model: ModelConfig
    quant: QuantConfig
    adapter: AdapterConfig
    dataset: DatasetConfig | None
    train: TrainConfig | None
    data_sha256: str | None = None  # content of `dataset.path`; None where the hub id is the identity
    base_sha256: str | None = since(None)  # of the checkpoint in `model.path`, likewise
    start_sha256: str | None = since(None)  # of the adapter that training starts from (`train.start_from`)
    merged: MergeRecipe | None = since(None)  # of what was merged from finished runs and has no training of its own

    @cached_property
    def run_id(self) -> str:
        """Names the run and its folder: a hash, in hex, of all that can change its result."""
        return _digest(identity(self))[:RUN_ID_LENGTH]

    @cached_property
    def group(self) -> str:
        """Equal for runs that can share a frozen base: same model, revision, quantization, compute dtype. A hash."""
        shared = [identity(self.model), identity(self.quant)]
        if self.base_sha256 is not None:
            shared.append(self.base_sha256)
        if self.adapter.method not in SHARED_BASE_METHODS or self.model.kind is not ModelKind.causal:
            shared.append(self.run_id)  # it changes its base, or owns it: a group of one
        return _digest(shared)[:RUN_ID_LENGTH]

    @property
    def label(self) -> str:
        """A short name for people: `smollm2-concise-nf4`, `smollm2-base`. Not unique by itself."""
        parts = [self.model.name]
        if self.merged is not None:
            return "-".join([*parts, self.merged.method.value, self.quant.label])
        if self.dataset is None:
            parts.append("base")
            return "-".join(parts if self.quant.method is QuantMethod.none else [*parts, self.quant.name])
        parts += [self.dataset.name, self.quant.label]
        if self.adapter.method_name != AdapterMethod.lora.value:
            parts.append(self.adapter.method_name)
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON; `from_dict` reads them back."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @property
    def own_template(self) -> str | None:
        """The chat template that its dialogues are written by, where the dataset gives one for the base's."""
        if self.merged is not None:
            return self.merged.chat_template
        dataset = self.dataset
        return None if dataset is None or dataset.format not in DIALOGUES else dataset.chat_template

    @classmethod
    def from_dict(cls, values: Any, where: str = "spec") -> "RunSpec":
        """Reads what `to_dict` wrote.

        Specs may share their parts: change none of them in place.

        Args:
            values: plain values, perhaps of other people.
            where: the file that they are from, for the message.

        Raises:
            ValueError: they aren't the spec of a run; what doesn't fit is named.
        """
        values = _section(values, where)
        classes: dict[str, type] = {"model": ModelConfig, "quant": QuantConfig, "adapter": AdapterConfig}
        optional: dict[str, type] = {"dataset": DatasetConfig, "train": TrainConfig, "merged": MergeRecipe}
        read = {key: _read_part(kind, values.get(key), f"{where}: {key}") for key, kind in classes.items()}
        for key, kind in optional.items():
            read[key] = None if values.get(key) is None else _read_part(kind, values[key], f"{where}: {key}")
        trains = read["adapter"].method is not AdapterMethod.none and read["merged"] is None
        if trains and None in (read["dataset"], read["train"]):
            raise ValueError(f"{where}: a trained adapter without dataset or train: not the spec of a run")
        digests = {key: values.get(key) for key in ("data_sha256", "base_sha256", "start_sha256")}
        for key, digest in digests.items():
            if digest is not None and (
                not isinstance(digest, str) or (key == "data_sha256" and read["dataset"] is None)
            ):
                raise ValueError(f"{where}: {key}={digest!r:.80}: not the spec of a run")
        return cls(**read, **digests)


def make_spec(
    config: Config,
    auto_dtype: DType,
    hash_file: Callable[[Path], str],
    hash_checkpoint: Callable[[Path], str] | None = None,
) -> RunSpec:
    """Resolves what a config leaves open: the recipe's values, `auto`, the content of a local data file.

    Args:
        config: one composed grid point.
        auto_dtype: what `compute_dtype=auto` is where the run will be computed.
        hash_file: sha256 of a file.
        hash_checkpoint: sha256 of what decides in a model's folder; None leaves `model.path` out of the identity.

    Raises:
        ValueError: a dataset without an adapter's training, or a local data file that isn't there.
    """
    dtype = config.quant.compute_dtype
    quant = dataclasses.replace(config.quant, compute_dtype=auto_dtype if dtype is DType.auto else dtype)
    if config.adapter.method is AdapterMethod.none:
        base = _base_sha256(config.model, hash_checkpoint)
        return RunSpec(
            model=config.model, quant=quant, adapter=config.adapter, dataset=None, train=None, base_sha256=base
        )
    dataset = resolved(resolved_rule(config.dataset))
    dataset = dataclasses.replace(dataset, stream=streams(config.dataset, config.paths))
    config = dataclasses.replace(config, dataset=dataset)
    if config.dataset.format == "none":
        raise ValueError("dataset=none goes with adapter=none only: an adapter needs something to learn from")
    if problem := (
        method_problem(config.adapter, quant, config.model)
        or task_problem(config.model, config.dataset)
        or select_problem(config.model, config.dataset)
        or optimizer_problem(config.adapter, config.train.optimizer)
    ):
        raise ValueError(problem)
    if problem := rationale_problem(config.dataset, config.train):
        raise ValueError(problem)
    row = recipe_row(config.dataset, config.model)
    adapter, start = config.adapter, None
    if adapter.corda_keep is not None:
        kept = knowledge_file(adapter.corda_keep)
        where = adapter.corda_keep if adapter.corda_keep == KEEP_EMBEDDED else str(kept.absolute())
        adapter = dataclasses.replace(adapter, corda_keep=where, corda_keep_sha256=hash_file(kept))
    if adapter.method in UNSCALED_METHODS:
        adapter = dataclasses.replace(adapter, lora_alpha=adapter.lora_r)
    if adapter.lora_dropout is None:
        dropout = row.lora_dropout if uses_dropout(adapter) else 0.0
        adapter = dataclasses.replace(adapter, lora_dropout=dropout)
    if config.train.start_from is not None:
        runs, seed = Path(config.paths.runs), config.train.seed
        start = start_folder(config.train.start_from, runs, adapter, config.model, quant, seed)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, start_from=str(start)))
    train = _resolved_train(config.train, row, adapter.method, quant.compute_dtype)
    if problem := schedule_problem(adapter, train.max_steps):
        raise ValueError(problem)
    return RunSpec(
        model=config.model,
        quant=quant,
        adapter=adapter,
        dataset=config.dataset,
        train=train,
        data_sha256=_data_sha256(config.dataset, hash_file),
        base_sha256=_base_sha256(config.model, hash_checkpoint),
        start_sha256=None if start is None else start_digest(start),
    )


def _resolved_train(train: TrainConfig, row: RecipeRow, method: AdapterMethod, dtype: DType) -> TrainConfig:
    """Fills in the recipe's values, and those that the mode and the method decide."""
    train = with_recipe(train, row)
    if problem := eval_problem(train):
        raise ValueError(problem)
    if train.mode is Mode.faithful:  # the original: batches of one example, accumulated; grouped by length
        train = dataclasses.replace(train, loss_mean=LossMean.example, group_by_length=True, max_microbatch_tokens=1)
    return dataclasses.replace(train, master_weights=_master_weights(train, method, dtype))


def _data_sha256(dataset: DatasetConfig, hash_file: Callable[[Path], str]) -> str | None:
    """The content of `dataset.path`; None without one. Raises ValueError where no file is there."""
    if dataset.path is None:
        return None
    looked_in: list[str] = []
    files = data_files(Path(dataset.path), dataset.split, looked_in, "")
    if not files:
        raise ValueError(f"dataset.path={looked_in[0]}")
    return sha256_files(files, hash_file)


def _base_sha256(model: ModelConfig, hash_checkpoint: Callable[[Path], str] | None) -> str | None:
    """The content of `model.path`; None without one, and for a missing folder, which the plan's checks name."""
    if model.path is None or hash_checkpoint is None or not Path(model.path).is_dir():
        return None
    return hash_checkpoint(Path(model.path))


def with_recipe(train: TrainConfig, row: RecipeRow) -> TrainConfig:
    """Fills what the user left open. Where `max_steps` or `max_epochs` is given, the recipe adds no other limit.

    Raises:
        ValueError: a warm-up given twice, or one that is longer than the run.
    """
    open_keys = [key for key in TRAIN_RECIPE if getattr(train, key) is None]
    if all(getattr(train, key) is None for key in TRAIN_LENGTH):
        open_keys += TRAIN_LENGTH
    if train.warmup_ratio and train.warmup_steps:
        raise ValueError(
            f"train.warmup_ratio={train.warmup_ratio} and train.warmup_steps={train.warmup_steps}: give one of them"
        )
    filled = dataclasses.replace(train, **{key: getattr(row, key) for key in open_keys})
    if filled.max_steps is not None and filled.warmup_steps > filled.max_steps:
        raise ValueError(
            f"train.warmup_steps={filled.warmup_steps}: the run has at most {filled.max_steps} steps, so the rate "
            "would never reach train.learning_rate; lower it, or say train.warmup_ratio=0.03"
        )
    return filled


def rationale_problem(dataset: DatasetConfig, train: TrainConfig) -> str | None:
    """Why the loss can't be a label's and a rationale's; None if it can, or isn't to be."""
    if dataset.format != STEP_BY_STEP:
        if dataset.rationale_weight == 1.0:
            return None
        return (
            f"dataset.rationale_weight={dataset.rationale_weight} with dataset.format={dataset.format}: its rows have "
            f"no rationales; it goes with dataset.format={STEP_BY_STEP}"
        )
    if train.loss_mean is LossMean.example or train.mode is Mode.faithful:
        return None
    return (
        f"dataset.format={STEP_BY_STEP} with train.loss_mean={train.loss_mean.value}: a rationale's many tokens would "
        "outweigh its label; say train.loss_mean=example, so that the loss is a mean of the two losses"
    )


def eval_problem(train: TrainConfig) -> str | None:
    """Why the settings of the held-out loss don't go together; None if they do."""
    asked = {
        f"train.eval_every_steps={train.eval_every_steps}": train.eval_every_steps is not None,
        f"train.eval_source={train.eval_source.value}": train.eval_source is not EvalSource.holdout,
        "train.keep_best=true": train.keep_best,
    }
    idle = [key for key, is_set in asked.items() if is_set]
    if idle and not train.eval_rows:
        return f"{', '.join(idle)}: no rows are held out to measure the loss on; say how many by train.eval_rows=N"
    if train.keep_best and train.eval_every_steps is None:
        return "train.keep_best=true: the loss is measured at the end only; say train.eval_every_steps=N"
    return None


def _master_weights(train: TrainConfig, method: AdapterMethod, dtype: DType) -> MasterWeights:
    """Resolves the choice; where it makes no difference, it is `compute`, because equal results need equal ids."""
    if dtype is DType.float32 or method not in WHOLE_METHODS:
        return MasterWeights.compute
    return MasterWeights.float32 if train.master_weights is MasterWeights.auto else train.master_weights


def recipe_row(dataset: DatasetConfig, model: ModelConfig) -> RecipeRow:
    """The paper's values for this dataset at this model's size, the general default where it is silent."""
    merged = dataclasses.replace(DEFAULT_RECIPE)
    for key in ("default", model.recipe_size):
        row = dataset.recipe.get(key)
        if row is not None:
            known = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
            merged = dataclasses.replace(merged, **{k: v for k, v in known.items() if v is not None})
    return merged


def identity(value: Any) -> Any:
    """The plain values of a config object that can change a result."""
    if isinstance(value, _PLAIN) or not dataclasses.is_dataclass(value) or isinstance(value, type):
        return _plain(value)
    kept: dict[str, Any] = {}
    for field in _fields(type(value)):
        item = getattr(value, field.name)
        if field.metadata.get("identity", True) is False:
            continue
        if "identity_since" in field.metadata and item == field.metadata["identity_since"]:
            continue
        kept[field.name] = identity(item)
    if isinstance(value, TrainConfig) and value.original_eval_carve:
        kept["original_eval_carve"] = [value.original_eval_carve, "as datasets' train_test_split"]  # other rows before
    if isinstance(value, TrainConfig) and value.keep_best:
        kept["eval_every_steps"] = value.eval_every_steps  # only then it decides which weights a run ends with
    if isinstance(value, RunSpec) and value.train is not None and value.train.eval_source is EvalSource.split:
        kept["dataset"]["eval_split"] = value.dataset and value.dataset.eval_split
    if isinstance(value, QuantConfig):
        _drop_idle_quant_fields(value, kept)
    if isinstance(value, AdapterConfig) and value.method is AdapterMethod.none:
        kept = {"method": "none"}
    if isinstance(value, RunSpec) and value.data_sha256 is not None:
        kept["dataset"].pop("hub_id")
        kept["dataset"].pop("revision")
    if isinstance(value, RunSpec) and value.base_sha256 is not None:
        kept["model"].pop("hub_id")
        kept["model"].pop("revision")
    return kept


def _section(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {values!r:.80}: not the spec of a run")
    return values


def _read_part(kind: type, values: Any, where: str) -> Any:
    """A part of a stored spec as its class. Raises ValueError for whatever doesn't fit."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _typed_once(kind, json.dumps(_section(values, where)))
    except (OmegaConfBaseException, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: not the spec of a run ({reason[:200]})") from None


@lru_cache(maxsize=256)
def _typed_once(kind: type, text: str) -> Any:
    """`typed` takes 3 ms, five times a run, and the runs of a sweep differ in little."""
    return typed(kind, json.loads(text))


def _drop_idle_quant_fields(value: QuantConfig, kept: dict[str, Any]) -> None:
    """Block size and double quantization mean nothing to int8 and none: equal results, equal ids."""
    if value.method in (QuantMethod.none, QuantMethod.int8):
        kept.pop("double_quant")
        kept.pop("block_size")


@cache
def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in _fields(type(value))}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value]  # a list or tuple: a config holds nothing else


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
