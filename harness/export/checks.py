"""Checks that a run can be exported: its record is whole, and its weights are the ones that it wrote."""

import json
from pathlib import Path

from harness.config.schema import AdapterMethod
from harness.files.atomic import sha256_files
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RESIDUAL_FILE
from harness.runs.folder import folder_problem
from harness.runs.record import RunRecord, load_record
from harness.runs.spec import RunSpec

CARD = "README.md"


class ExportRefusedError(ValueError):
    """Raised when a run can't be exported as asked; says why and what to do."""


def whole_record(run_folder: Path) -> RunRecord:
    """The record of a finished run that trained something. Raises ExportRefusedError for any other folder."""
    problem = folder_problem(run_folder, needs_adapter=False)
    if problem is not None:
        raise ExportRefusedError(f"{run_folder}: {problem}; a finished run is needed")
    record = load_record(run_folder)
    assert record is not None
    if RunSpec.from_dict(record.spec).adapter.method is AdapterMethod.none:
        raise ExportRefusedError(f"{run_folder}: {record.label} is an untouched base: there is no adapter to export")
    problem = folder_problem(run_folder, needs_adapter=True)
    if problem is not None:
        raise ExportRefusedError(f"{run_folder}: {problem}; train the run again, or restore its files")
    return record


def check_weights(folder: Path, record: RunRecord, spec: RunSpec) -> None:
    """Raises ExportRefusedError where the files aren't those that the run wrote."""
    full = spec.adapter.method is AdapterMethod.full
    weights = sorted(folder.glob("*.safetensors")) if full else [folder / ADAPTER_WEIGHTS]
    digest = sha256_files(weights)
    if digest != record.adapter_sha256:
        raise ExportRefusedError(
            f"{weights[0]}: sha256 {digest[:12]}, the run recorded {str(record.adapter_sha256)[:12]}: "
            "the file was changed after training; restore it, or train the run again"
        )
    if not full:
        _check_scale(folder, spec)


def _check_scale(folder: Path, spec: RunSpec) -> None:
    saved = json.loads((folder / ADAPTER_CONFIG).read_text())
    times = 2 if (folder / RESIDUAL_FILE).is_file() else 1  # [A; A0] and [B, -B0]: twice the rank, the same scale
    wanted = {"r": times * spec.adapter.lora_r, "lora_alpha": times * spec.adapter.lora_alpha}
    changed = {key: saved.get(key) for key, value in wanted.items() if saved.get(key) != value}
    if changed:
        raise ExportRefusedError(
            f"{folder / ADAPTER_CONFIG}: says {changed}, the run was trained with {wanted}; restore the file"
        )
