"""How does a trained adapter leave this machine? As a folder that is ready for a hub upload.

    python -m harness.export RUN_ID --out DIR [--license apache-2.0]
    python -m harness.export RUN_ID --out DIR --merge          # a whole checkpoint, of unquantized bases

The folder holds PEFT's two files and a model card (README.md). The weights are checked against the sha256 that
the run recorded: a changed file is refused. `--merge` adds the adapter to its base and writes a whole model; for
a quantized base it is refused, because the merged model is not the one that was trained and scored, unless
`--force-merge` says so: then the adapter is added to the dequantized weights, which are the ones it learned on.
Source: QLoRA (arXiv 2305.14314) section 3; PEFT's file format.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.config.schema import PathsConfig
from harness.export.card import UNKNOWN_LICENSE, model_card
from harness.export.checks import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, ExportRefusedError, check_adapter, whole_record
from harness.export.merge import check_merge, write_merged
from harness.files.atomic import write_atomically
from harness.runs.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    files: tuple[str, ...]
    merged: bool


def export(
    run_folder: Path,
    out: Path,
    merge: bool = False,
    *,
    force_merge: bool = False,
    license_id: str = UNKNOWN_LICENSE,
    paths: PathsConfig | None = None,
) -> Exported:
    """Writes a finished run's adapter, or the model it makes of its base, to `out`.

    Args:
        run_folder: `runs/<run_id>`.
        out: a folder that doesn't exist, or is empty.
        merge: write a whole checkpoint instead of the adapter.
        force_merge: merge into a quantized base's dequantized weights, which `merge` refuses.
        license_id: a licence's identifier on the hub.
        paths: where bases are looked for; needed to merge only.

    Raises:
        ExportRefusedError: an unfinished run, an untouched base, a changed adapter, a merge that drifts, another
            base than the run's, or an `out` with something in it.
    """
    record = whole_record(run_folder)
    spec = RunSpec.from_dict(record.spec)
    check_adapter(run_folder / "adapter", record, spec)
    merges = merge or force_merge
    if merges:
        check_merge(spec, force_merge)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportRefusedError(f"{out}: there is something already; name a folder that is new or empty")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.partial-") as partial:
        folder = Path(partial) / "export"
        folder.mkdir()
        if merges:
            write_merged(run_folder / "adapter", folder, record, spec, paths or PathsConfig())
        else:
            shutil.copyfile(run_folder / "adapter" / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
            write_atomically(folder / ADAPTER_CONFIG, public_config(run_folder / "adapter" / ADAPTER_CONFIG))
        write_atomically(folder / CARD, model_card(record, run_folder, license_id, merged=merges))
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    return Exported(folder=out, files=tuple(sorted(path.name for path in out.iterdir())), merged=merges)


def public_config(path: Path) -> str:
    """`adapter_config.json` as it is, but a base that was a local path goes by its folder's name."""
    text = path.read_text()
    saved = json.loads(text)
    base = Path(str(saved.get("base_model_name_or_path")))
    return json.dumps(saved | {"base_model_name_or_path": base.name}, indent=2) if base.is_absolute() else text
