"""Finds the adapter that a run starts from (`train.start_from`), so that recipes of two stages are grids too.

Every method that saves an adapter can, if its start is a function of base, config and seed alone.

    folder = start_folder("0a1b2c3d4e5f", Path("runs"), adapter)     # runs/0a1b2c3d4e5f/adapter
    digest = start_digest(folder)                                    # what the run's identity has of it

Stages of one recipe are two commands: the first one's runs have to be finished when the second is planned.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.schema import (
    SHARED_BASE_METHODS,
    WHOLE_METHODS,
    AdapterConfig,
    AdapterMethod,
    ModelConfig,
    QuantConfig,
)
from harness.files.atomic import sha256_files
from harness.runs.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DEFAULT_ALPHA,
    DEFAULT_RANK,
    LORA,
    RESIDUAL_FILE,
    SIDE,
    bank_method,
    read_peft_config,
    saved_method,
)
from harness.runs.compatibility import RESIDUAL_METHODS, is_calibrated
from harness.runs.record import RECORD_FILE, RunRecord, load_record

_ADAPTER = "adapter"  # within a run's folder
_OF_METHODS = ("s2ft_share", "lq_rounds", "bits", "qst_reduction", "qst_down_rank")
_SAME = ("method", "peft_type", "peft", "lora_r", "lora_alpha", "targets", "layers", *_OF_METHODS)
_OF_ONE_METHOD = RESIDUAL_METHODS | {AdapterMethod.dora, AdapterMethod.s2ft}  # whose LoRA files are no plain LoRA's
_LEFT_OUT = {"r": DEFAULT_RANK, "lora_alpha": DEFAULT_ALPHA, "use_rslora": False}  # what PEFT takes then


def start_folder(
    start_from: str, runs: Path, adapter: AdapterConfig, model: ModelConfig, quant: QuantConfig, seed: int
) -> Path:
    """The folder of the adapter that is named, checked against the run that starts from it.

    Args:
        start_from: a run's id, a run's folder, or the folder of an adapter in PEFT's format.
        runs: the folder of runs.
        adapter: of the run that starts, resolved.
        model: likewise.
        quant: likewise.
        seed: likewise, by which S2FT chooses what learns.

    Raises:
        ValueError: the parent isn't finished, isn't there, or has another kind of adapter or model.
    """
    key = f"train.start_from={start_from}"
    if problem := _method_problem(adapter, runs / start_from / _ADAPTER):
        raise ValueError(f"{key}: adapter.method={adapter.method.value} {problem}")
    folder = next((place for place in (runs / start_from, Path(start_from)) if place.is_dir()), None)
    if folder is None:
        raise ValueError(f"{key}: no run of that id in {runs}, and no such folder; train it first, or name its folder")
    if (folder / ADAPTER_CONFIG).is_file():
        of_run = next((of for of in (folder.parent, folder.parent.parent) if (of / RECORD_FILE).is_file()), None)
        record = None if of_run is None else load_record(of_run)
        problem = _other_kind(folder, adapter) if record is None else _misfit(record, adapter, model, quant, seed)
        if problem:
            raise ValueError(f"{key}: {problem}")
        return _with_weights(folder, key)
    record = load_record(folder)
    if record is None:
        raise ValueError(f"{key}: {folder} isn't finished; train it to its end, then give this command again")
    if problem := _misfit(record, adapter, model, quant, seed):
        raise ValueError(f"{key}: {problem}")
    return _with_weights(folder / _ADAPTER, key)


def start_digest(folder: Path) -> str:
    """sha256 of the adapter's weights, as a record has it."""
    return sha256_files([folder / ADAPTER_WEIGHTS])


def _with_weights(folder: Path, key: str) -> Path:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{key}: {folder / ADAPTER_WEIGHTS}: no such file; train that run again")
    return folder


def _method_problem(adapter: AdapterConfig, parent: Path) -> str | None:
    """Why no run of a method starts from another one's adapter; None if one can. Args: parent: the other's folder."""
    if adapter.method in WHOLE_METHODS:
        return f"leaves a checkpoint, not an adapter: start from it by model=local model.path={parent}"
    if is_calibrated(adapter):
        return (
            "begins with what its first examples say of the base, so that another run's adapter doesn't fit; use lora, "
            "dora, pissa or another method that needs no examples"
        )
    return None


def _other_kind(folder: Path, adapter: AdapterConfig) -> str | None:
    """Why an adapter of no run isn't of the method's kind and sizes; None if it is. Raises ValueError for a broken one.

    What its tensors are of (`adapter.targets`) is compared when they are read.
    """
    saved = read_peft_config(folder)
    theirs = "dora" if saved.get("use_dora") else str(saved["peft_type"])
    if (folder / RESIDUAL_FILE).is_file():
        theirs = saved_method(folder).value
    mine = adapter.method.value if adapter.method in _OF_ONE_METHOD else adapter.peft_type or LORA
    mine = SIDE if adapter.method is AdapterMethod.qst else mine
    is_plain = adapter.method not in SHARED_BASE_METHODS or bank_method(folder) is AdapterMethod.lora
    if theirs == mine and not is_plain:
        theirs = "LoRA that isn't plain"
    if theirs != mine:
        return f"{folder} is an adapter of {theirs}, not of {mine}: take the same adapter.method, or name a run of it"
    wanted = _saved_sizes(adapter)
    found = {key: saved.get(key, _LEFT_OUT.get(key)) for key in wanted}
    return None if found == wanted else f"{folder} has {_listed(found)}, and this run {_listed(wanted)}: take the same"


def _saved_sizes(adapter: AdapterConfig) -> dict[str, Any]:
    """What an adapter's config says of its sizes and its scale, in the words of its file."""
    if adapter.method is AdapterMethod.qst:
        return {"qst_reduction": adapter.qst_reduction, "qst_down_rank": adapter.qst_down_rank}
    if adapter.method is AdapterMethod.peft:
        return {}
    times = 2 if adapter.method in RESIDUAL_METHODS else 1  # with what it began from beside it
    is_rslora = adapter.method is AdapterMethod.rslora
    return {"r": times * adapter.lora_r, "lora_alpha": times * adapter.lora_alpha, "use_rslora": is_rslora}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _misfit(record: RunRecord, adapter: AdapterConfig, model: ModelConfig, quant: QuantConfig, seed: int) -> str | None:
    """What the parent has otherwise: its tensors can't be taken over, or mean another function."""
    theirs: dict[str, Any] = record.spec.get("adapter") or {}
    mine = {key: getattr(adapter, key) for key in _SAME} | {"method": adapter.method.value}
    other = [
        f"adapter.{key}={mine[key]} here, {theirs.get(key)} there"
        for key in _SAME
        if (mine[key] or None) != (theirs.get(key) or None)
    ]
    hub_id = (record.spec.get("model") or {}).get("hub_id")
    if hub_id != model.hub_id:
        other.append(f"model.hub_id={model.hub_id} here, {hub_id} there")
    stored = record.spec.get("quant") or {}
    if adapter.method in RESIDUAL_METHODS and stored.get("method") != quant.method.value:
        other.append(f"quant.method={quant.method.value} here, {stored.get('method')} there, whose base it changed")
    their_seed = (record.spec.get("train") or {}).get("seed")
    if adapter.method is AdapterMethod.s2ft and their_seed != seed:
        other.append(f"train.seed={seed} here, {their_seed} there, which chose what learns")
    return f"{'; '.join(other)}: take the same" if other else None
