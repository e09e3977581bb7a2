"""Checks that a run folder is complete, so that one that was cut off is never taken for done."""

import json
import struct
from pathlib import Path
from typing import Any

import yaml

from harness.config.schema import WHOLE_METHODS, AdapterConfig, AdapterMethod, typed
from harness.files.atomic import sha256_files
from harness.methods.formats import digest
from harness.methods.keys import peft_values
from harness.runs.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_CONFIG,
    RESIDUAL_FILE,
    SIDE,
    saved_formats,
)
from harness.runs.compatibility import RESIDUAL_METHODS
from harness.runs.record import CONFIG_FILE, RECORD_FILE, RunRecord, load_record
from harness.runs.spec import RunSpec

_WHOLE = frozenset(method.value for method in WHOLE_METHODS)  # whose runs leave a whole checkpoint

GONE = "the run folder is gone"
CUT_OFF = "there is no record.json: it was cut off"


def folder_problem(folder: Path, needs_adapter: bool, run_id: str | None = None) -> str | None:
    """Why a run folder can't count as done, or None if it can. Reads headers only, so it is quick.

    Args:
        folder: `runs/<run_id>`.
        needs_adapter: False for an untouched base, which leaves no adapter.
        run_id: of the run that it is to be; None leaves that open.
    """
    try:
        return _problem(folder, needs_adapter, run_id)
    except OSError as error:  # a folder of another user, a damaged disk
        return f"it can't be read ({error.filename or folder}: {error.strerror or error})"


def _problem(folder: Path, needs_adapter: bool, run_id: str | None) -> str | None:
    if not folder.is_dir():
        return GONE
    try:
        record = load_record(folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # cut off, or JSON of something else
        return f"record.json can't be read ({type(error).__name__}: {error})"
    if record is None:
        return CUT_OFF
    if run_id is not None and record.run_id != run_id:
        return f"its record is that of another run, {record.run_id}"
    return adapter_problem(folder / "adapter", record) if needs_adapter else None


def stored_spec(folder: Path) -> RunSpec:
    """The spec in a run folder's config.yaml: data of other people perhaps, in which nothing is resolved.

    Raises:
        ValueError: it is no YAML, or not the spec of a run; file and place are named.
    """
    path = folder / CONFIG_FILE
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not YAML ({reason}); restore the file, or train the run again") from None
    return RunSpec.from_dict(values, str(path))


def adapter_problem(folder: Path, record: RunRecord) -> str | None:
    """Names a missing or truncated file, or None. A changed file is found when it is loaded (`changed_problem`).

    A finished run holds an adapter in PEFT's format, or, after full finetuning, a whole checkpoint.
    """
    full = _adapter(record).get("method") in _WHOLE
    config = MODEL_CONFIG if full else ADAPTER_CONFIG
    pattern = "model*.safetensors" if full else "adapter_*.safetensors"
    weights = sorted(folder.glob(pattern))
    if not weights or not (folder / config).is_file():
        return "the adapter's files are missing"
    return next((problem for file in weights if (problem := _weights_problem(file))), None)


def changed_problem(folder: Path, record: RunRecord) -> str | None:
    """Says which file of a run's adapter isn't the one that the run wrote, with the remedy; None if all are.

    Hashes the weights: of a LoRA adapter in milliseconds, of a whole checkpoint in as long as it takes to read it.
    """
    remedy = "the file was changed after training; restore it, or train the run again"
    full = _adapter(record).get("method") in _WHOLE
    weights = sorted(folder.glob("*.safetensors")) if full else [folder / ADAPTER_WEIGHTS]
    if missing := [path for path in weights if not path.is_file()]:
        return f"{missing[0]}: no such file; restore it, or train the run again"
    digest = sha256_files(weights)
    if digest != record.adapter_sha256:
        return f"{weights[0]}: sha256 {digest[:12]}, the run recorded {str(record.adapter_sha256)[:12]}: {remedy}"
    problem = None if full else _config_problem(folder, _adapter(record)) or _formats_problem(folder, record)
    return None if problem is None else f"{problem}; restore the file"


def _config_problem(folder: Path, adapter: dict[str, Any]) -> str | None:
    """What an adapter's config says otherwise than the run's record: its scale, or how it is computed."""
    method = adapter.get("method")
    if method is None:
        return None
    is_residual = method in {residual.value for residual in RESIDUAL_METHODS}
    if is_residual != (folder / RESIDUAL_FILE).is_file():
        return f"{folder / RESIDUAL_FILE}: {'missing' if is_residual else 'is not'} of a run of adapter={method}"
    times = 2 if is_residual else 1  # [A; A0] and [B, -B0]: twice the rank, the same scale
    sizes = {key: adapter.get(key) for key in ("lora_r", "lora_alpha")}
    if not all(isinstance(size, (int, float)) for size in sizes.values()):
        return f"{folder.parent / RECORD_FILE}: its adapter has {sizes}"
    if method == AdapterMethod.peft.value:
        return _peft_problem(folder, adapter)
    if method == AdapterMethod.qst.value:
        side = {key: adapter.get(key) for key in ("qst_reduction", "qst_down_rank")}
        return _differing(folder, {"peft_type": SIDE, **side})
    wanted: dict[str, Any] = {}
    if method != AdapterMethod.s2ft.value:  # whose ranks follow from the layers
        wanted = {"r": times * adapter["lora_r"], "lora_alpha": times * adapter["lora_alpha"]}
    wanted |= {"use_rslora": method == AdapterMethod.rslora.value, "use_dora": method == AdapterMethod.dora.value}
    saved = json.loads((folder / ADAPTER_CONFIG).read_text())
    if not isinstance(saved, dict):
        return f"{folder / ADAPTER_CONFIG}: not a JSON object"
    changed = {key: saved.get(key, False) for key, value in wanted.items() if saved.get(key, False) != value}
    if not changed:
        return None
    trained = {key: wanted[key] for key in changed}
    return f"{folder / ADAPTER_CONFIG}: says {changed}, the run was trained with {trained}"


def _formats_problem(folder: Path, record: RunRecord) -> str | None:
    """Says that the layers' formats, by which the base is rebuilt, aren't those that the run recorded."""
    recorded, formats = (record.storage or {}).get("sha256"), saved_formats(folder)
    if (digest(formats) if formats else None) == recorded:
        return None
    return f"{folder / RESIDUAL_FILE}: its layers' formats aren't those that the run was trained in"


def _peft_problem(folder: Path, adapter: dict[str, Any]) -> str | None:
    """As `_config_problem`, for a method of PEFT that isn't LoRA."""
    return _differing(folder, {"peft_type": adapter.get("peft_type"), **peft_values(typed(AdapterConfig, adapter))})


def _differing(folder: Path, wanted: dict[str, Any]) -> str | None:
    """What an adapter's config says otherwise than is wanted."""
    saved = json.loads((folder / ADAPTER_CONFIG).read_text())
    changed = {key: saved.get(key) for key, value in wanted.items() if saved.get(key) != value}
    if not changed:
        return None
    trained = {key: wanted[key] for key in changed}
    return f"{folder / ADAPTER_CONFIG}: says {changed}, the run was trained with {trained}"


def _adapter(record: RunRecord) -> dict[str, Any]:
    """The adapter's part of the run's spec, plain."""
    adapter = record.spec.get("adapter")
    return adapter if isinstance(adapter, dict) else {}


def _weights_problem(weights: Path) -> str | None:
    """Compares the file's size with the one that its own header states."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return "the adapter's weights are cut off"
        header_bytes = struct.unpack("<Q", start)[0]
        if 8 + header_bytes > size:
            return "the adapter's weights are cut off"
        try:
            header = json.loads(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            stated = 8 + header_bytes + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "the header of the adapter's weights is damaged"
    if stated != size:
        return "the adapter's weights are cut off"
    return None
