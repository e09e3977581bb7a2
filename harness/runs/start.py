"""Finds the adapter that a run starts from (`train.start_from`), so that recipes of two stages are grids too.

    folder = start_folder("0a1b2c3d4e5f", Path("runs"), adapter)     # runs/0a1b2c3d4e5f/adapter
    digest = start_digest(folder)                                    # what the run's identity has of it

Stages of one recipe are two commands: the first one's runs have to be finished when the second is planned.
"""

from pathlib import Path
from typing import Any

from harness.config.schema import SHARED_BASE_METHODS, AdapterConfig, ModelConfig
from harness.files.atomic import sha256_files
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, bank_method
from harness.runs.record import RunRecord, load_record

_ADAPTER = "adapter"  # within a run's folder


def start_folder(start_from: str, runs: Path, adapter: AdapterConfig, model: ModelConfig) -> Path:
    """The folder of the adapter that is named, checked against the run that starts from it.

    Args:
        start_from: a run's id, a run's folder, or the folder of an adapter in PEFT's format.
        runs: the folder of runs.
        adapter: of the run that starts.
        model: likewise.

    Raises:
        ValueError: the parent isn't finished, isn't there, or has another kind of adapter or model.
    """
    key = f"train.start_from={start_from}"
    if adapter.method not in SHARED_BASE_METHODS:
        raise ValueError(
            f"{key}: adapter.method={adapter.method.value} can't start from an adapter; use lora, rslora or allora"
        )
    folder = next((place for place in (runs / start_from, Path(start_from)) if place.is_dir()), None)
    if folder is None:
        raise ValueError(f"{key}: no run of that id in {runs}, and no such folder; train it first, or name its folder")
    if (folder / ADAPTER_CONFIG).is_file():
        if (method := bank_method(folder)) not in SHARED_BASE_METHODS:
            raise ValueError(f"{key}: it isn't plain LoRA, but like adapter={method.value}; name one of lora or rslora")
        return _with_weights(folder, key)
    record = load_record(folder)
    if record is None:
        raise ValueError(f"{key}: {folder} isn't finished; train it to its end, then give this command again")
    if problem := _misfit(record, adapter, model):
        raise ValueError(f"{key}: {problem}")
    return _with_weights(folder / _ADAPTER, key)


def start_digest(folder: Path) -> str:
    """sha256 of the adapter's weights, as a record has it."""
    return sha256_files([folder / ADAPTER_WEIGHTS])


def _with_weights(folder: Path, key: str) -> Path:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{key}: {folder / ADAPTER_WEIGHTS}: no such file; train that run again")
    return folder


def _misfit(record: RunRecord, adapter: AdapterConfig, model: ModelConfig) -> str | None:
    """What the parent has otherwise: its factors can't be taken over."""
    theirs: dict[str, Any] = record.spec.get("adapter") or {}
    mine: dict[str, Any] = {
        "method": adapter.method.value,
        "lora_r": adapter.lora_r,
        "lora_alpha": adapter.lora_alpha,
        "targets": adapter.targets,
        "layers": adapter.layers,
    }
    other = [
        f"adapter.{key}={value} here, {theirs.get(key)} there"
        for key, value in mine.items()
        if theirs.get(key) != value
    ]
    hub_id = (record.spec.get("model") or {}).get("hub_id")
    if hub_id != model.hub_id:
        other.append(f"model.hub_id={model.hub_id} here, {hub_id} there")
    return f"{'; '.join(other)}: take the same" if other else None
