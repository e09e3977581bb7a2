"""Checks that a run folder is complete, so that one that was cut off is never taken for done."""

import json
import struct
from pathlib import Path

from harness.config.schema import AdapterMethod
from harness.runs.adapter_files import ADAPTER_CONFIG, MODEL_CONFIG
from harness.runs.record import RunRecord, load_record


def folder_problem(folder: Path, needs_adapter: bool, run_id: str | None = None) -> str | None:
    """Why a run folder can't count as done, or None if it can. Reads headers only, so it is quick.

    Args:
        folder: `runs/<run_id>`.
        needs_adapter: False for an untouched base, which leaves no adapter.
        run_id: of the run that it is to be; None leaves that open.
    """
    if not folder.is_dir():
        return "the run folder is gone"
    try:
        record = load_record(folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # cut off, or JSON of something else
        return f"record.json can't be read ({type(error).__name__}: {error})"
    if record is None:
        return "there is no record.json: it was cut off"
    if run_id is not None and record.run_id != run_id:
        return f"its record is that of another run, {record.run_id}"
    return adapter_problem(folder / "adapter", record) if needs_adapter else None


def adapter_problem(folder: Path, record: RunRecord) -> str | None:
    """Names a missing or truncated file, or None. A changed file is found by its sha256 when it is loaded.

    A finished run holds an adapter in PEFT's format, or, after full finetuning, a whole checkpoint.
    """
    full = record.spec.get("adapter", {}).get("method") == AdapterMethod.full.value
    config = MODEL_CONFIG if full else ADAPTER_CONFIG
    pattern = "model*.safetensors" if full else "adapter_*.safetensors"
    weights = sorted(folder.glob(pattern))
    if not weights or not (folder / config).is_file():
        return "the adapter's files are missing"
    return next((problem for file in weights if (problem := _weights_problem(file))), None)


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
        except (ValueError, LookupError, TypeError, AttributeError):
            return "the header of the adapter's weights is damaged"
    if stated != size:
        return "the adapter's weights are cut off"
    return None
