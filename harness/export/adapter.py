"""Writes what a run trained as a folder that is ready for a hub upload.

    python -m harness.export RUN_ID --out DIR [--license apache-2.0]
    python -m harness.export RUN_ID --out DIR --merge          # a whole checkpoint, of unquantized bases

The folder holds PEFT's two files (after full finetuning the whole model) and a model card, README.md. The weights
are checked against the sha256 that the run recorded: a changed file is refused. `--merge` adds the adapter to its base
and writes a whole model; for a quantized base it is refused, because the merged model is not the one that was trained
and scored, unless `--force-merge` says so: then the adapter is added to the dequantized weights, which are the ones it
learned on. What the files can't say exactly (`inexact`) is written into the card and given back to be shown.
Source: QLoRA (arXiv 2305.14314) section 3; PEFT's file format.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.config.schema import WHOLE_METHODS, PathsConfig
from harness.export.base import BaseName, base_name
from harness.export.card import UNKNOWN_LICENSE, inexact, model_card
from harness.export.checks import CARD, ExportRefusedError, check_weights, whole_record
from harness.export.merge import check_merge, write_merged
from harness.files.atomic import write_atomically
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CHAT_TEMPLATE, MODEL_CONFIG, RESIDUAL_FILE
from harness.runs.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote."""

    folder: Path
    files: tuple[str, ...]
    merged: bool
    notes: tuple[str, ...] = ()  # what whoever uses the files has to know


def export(
    run_folder: Path,
    out: Path,
    merge: bool = False,
    *,
    force_merge: bool = False,
    license_id: str = UNKNOWN_LICENSE,
    paths: PathsConfig | None = None,
    base: str | None = None,
) -> Exported:
    """Writes a finished run's adapter, or the model it makes of its base, to `out`.

    Args:
        run_folder: `runs/<run_id>`.
        out: a folder that doesn't exist, or is empty.
        merge: write a whole checkpoint instead of the adapter.
        force_merge: merge into a quantized base's dequantized weights, which `merge` refuses.
        license_id: a licence's identifier on the hub.
        paths: where bases are looked for; needed to merge, and for the name of a base that no hub has.
        base: `base_model_name_or_path` of the adapter, instead of the hub id or the base's folder.

    Raises:
        ExportRefusedError: an unfinished run, an untouched base, a changed adapter, a merge that drifts, another
            base than the run's, or an `out` with something in it.
    """
    record, paths = whole_record(run_folder), paths or PathsConfig()
    spec = RunSpec.from_dict(record.spec, str(run_folder))
    weights = run_folder / "adapter"
    check_weights(weights, record)
    merges = merge or force_merge
    full = spec.adapter.method in WHOLE_METHODS
    if merges and not full:
        check_merge(spec, force_merge)
    notes = [note] if (note := inexact(spec, merged=merges)) is not None else []
    with _new_folder(out) as folder:
        if full:
            _copy_model(weights, folder)
        elif merges:
            write_merged(weights, folder, record, spec, paths)
        else:
            named = base_name(record, spec.model, paths, base)
            _copy_adapter(weights, folder, named)
            notes += [named.note] if named.note is not None else []
        if spec.own_template is not None:
            write_atomically(folder / CHAT_TEMPLATE, spec.own_template)
        write_atomically(folder / CARD, model_card(record, run_folder, license_id, merged=merges))
    files = tuple(sorted(path.name for path in out.iterdir()))
    return Exported(folder=out, files=files, merged=merges, notes=tuple(notes))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Makes a folder to write into, which becomes `out` when this context ends well; after an error nothing is left.

    Raises:
        ExportRefusedError: `out` is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportRefusedError(f"{out}: there is something already; name a folder that is new or empty")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.partial-") as partial:
        folder = Path(partial) / "export"
        folder.mkdir()
        yield folder
        if out.exists():
            out.rmdir()
        os.replace(folder, out)


def _copy_adapter(adapter: Path, folder: Path, base: BaseName) -> None:
    """PEFT's two files, and the mark of a residual adapter, by which this project rebuilds its base."""
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    if (adapter / RESIDUAL_FILE).is_file():
        shutil.copyfile(adapter / RESIDUAL_FILE, folder / RESIDUAL_FILE)
    saved = json.loads((adapter / ADAPTER_CONFIG).read_text())
    saved |= {"base_model_name_or_path": base.name, "revision": base.revision}
    write_atomically(folder / ADAPTER_CONFIG, json.dumps(saved, indent=2))


def _copy_model(model: Path, folder: Path) -> None:
    """A whole checkpoint with its tokenizer, without what names this machine."""
    for path in model.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
    config = folder / MODEL_CONFIG
    described = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    write_atomically(config, json.dumps(described, indent=2, sort_keys=True) + "\n")
