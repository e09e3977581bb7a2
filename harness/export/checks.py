"""Whether a run can be exported: its record is whole, and its adapter is the one that it wrote."""

import json
from pathlib import Path

from harness.config.schema import AdapterMethod
from harness.files.atomic import sha256_file
from harness.runs.folder import folder_problem
from harness.runs.record import RunRecord, load_record
from harness.runs.spec import RunSpec

ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


class ExportRefusedError(ValueError):
    """The run can't be exported as asked; the message says why and what to do."""


def whole_record(run_folder: Path) -> RunRecord:
    """The record of a finished run that has an adapter. Raises ExportRefusedError for any other folder."""
    problem = folder_problem(run_folder, needs_adapter=False)
    if problem is not None:
        raise ExportRefusedError(f"{run_folder}: {problem}; a finished run is needed")
    record = load_record(run_folder)
    assert record is not None
    method = RunSpec.from_dict(record.spec).adapter.method
    if method is AdapterMethod.full:
        raise ExportRefusedError(
            f"{run_folder}: {record.label} trained every weight, so it has no adapter: {run_folder / 'adapter'} is a "
            "whole checkpoint with its tokenizer already; copy that folder"
        )
    if method is AdapterMethod.none:
        raise ExportRefusedError(f"{run_folder}: {record.label} is an untouched base: there is no adapter to export")
    problem = folder_problem(run_folder, needs_adapter=True)
    if problem is not None:
        raise ExportRefusedError(f"{run_folder}: {problem}; train the run again, or restore its files")
    return record


def check_adapter(folder: Path, record: RunRecord, spec: RunSpec) -> None:
    """Raises ExportRefusedError where the files aren't those that the run wrote."""
    found = sha256_file(folder / ADAPTER_WEIGHTS)
    if found != record.adapter_sha256:
        raise ExportRefusedError(
            f"{folder / ADAPTER_WEIGHTS}: sha256 {found[:12]}, the run recorded {str(record.adapter_sha256)[:12]}: "
            "the file was changed after training; restore it, or train the run again"
        )
    saved = json.loads((folder / ADAPTER_CONFIG).read_text())
    wanted = {"r": spec.adapter.lora_r, "lora_alpha": spec.adapter.lora_alpha}
    changed = {key: saved.get(key) for key, value in wanted.items() if saved.get(key) != value}
    if changed:
        raise ExportRefusedError(
            f"{folder / ADAPTER_CONFIG}: says {changed}, the run was trained with {wanted}; restore the file"
        )
