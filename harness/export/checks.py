"""Checks that a run can be exported: its record is whole, and its weights are the ones that it wrote."""

from pathlib import Path

from harness.config.schema import AdapterMethod
from harness.runs.folder import changed_problem, folder_problem
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
    method = RunSpec.from_dict(record.spec, str(run_folder)).adapter.method
    if method is AdapterMethod.none:
        raise ExportRefusedError(f"{run_folder}: {record.label} is an untouched base: there is no adapter to export")
    if method is AdapterMethod.qst:
        raise ExportRefusedError(
            f"{run_folder}: {record.label} is a side network beside its base (adapter=qst): it can't be merged into "
            "it, and no other program reads it. Score it and answer with it here (python -m eval ... --run), or train "
            "with adapter=lora or dora"
        )
    problem = folder_problem(run_folder, needs_adapter=True)
    if problem is not None:
        raise ExportRefusedError(f"{run_folder}: {problem}; train the run again, or restore its files")
    return record


def check_weights(folder: Path, record: RunRecord) -> None:
    """Raises ExportRefusedError where the files aren't those that the run wrote."""
    if problem := changed_problem(folder, record):
        raise ExportRefusedError(problem)
