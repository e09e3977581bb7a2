"""Chooses the name by which an exported adapter finds its base: a hub id, or a folder of this machine."""

from dataclasses import dataclass
from pathlib import Path

from harness.config.schema import ModelConfig, PathsConfig
from harness.export.checks import ExportRefusedError
from harness.files.hub import Missing
from harness.models.locate import folder_fingerprint, locate_model
from harness.runs.record import RunRecord

EMBEDDED = "embedded/"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseName:
    """The values of `base_model_name_or_path` and `revision` in adapter_config.json."""

    name: str
    revision: str | None
    note: str | None = None  # what whoever uploads the export has to know


def base_name(record: RunRecord, model: ModelConfig, paths: PathsConfig, given: str | None) -> BaseName:
    """The name that `AutoPeftModelForCausalLM` loads the base by.

    Args:
        record: of the run.
        model: of the run.
        paths: where bases are looked for.
        given: what the user says it is; taken as it stands.

    Raises:
        ExportRefusedError: the base's folder holds other weights than the run was trained on.
    """
    if given is not None:
        return BaseName(name=given, revision=None)
    if (hub_id := hub_base(model)) is not None:
        return BaseName(name=hub_id, revision=model.revision)
    source = locate_model(model, paths)
    if isinstance(source, Missing):
        name = Path(model.path or model.hub_id).name
        note = f"the base isn't here, so {name} stands for it in adapter_config.json; say where it is by --base"
        return BaseName(name=name, revision=None, note=note)
    folder = base_folder(record, model, paths).resolve()
    note = f"adapter_config.json names its base by a folder of this machine, {folder}; give --base before an upload"
    return BaseName(name=str(folder), revision=None, note=note)


def base_folder(record: RunRecord, model: ModelConfig, paths: PathsConfig) -> Path:
    """The checkpoint that a run was trained on.

    Raises:
        ExportRefusedError: the base isn't here, or isn't the one that the run was trained on.
    """
    from harness.models.convert import checkpoint_folder

    source = locate_model(model, paths)
    if isinstance(source, Missing):
        raise ExportRefusedError(str(source))
    folder = checkpoint_folder(source, Path(paths.cache))
    fingerprint = folder_fingerprint(folder)
    if fingerprint != record.base_fingerprint:
        raise ExportRefusedError(
            f"{folder}: its weights are {fingerprint[:12]}, the run was trained on {record.base_fingerprint[:12]}; "
            "restore the old ones, or set HARNESS_MODEL_STORE to where they are"
        )
    return folder


def hub_base(model: ModelConfig) -> str | None:
    """The base's hub id; None for a model that a package ships and for a local folder."""
    is_hub_id = model.hub_id.count("/") == 1 and not model.hub_id.startswith((EMBEDDED, "/", "."))
    return model.hub_id if is_hub_id and model.path is None else None
