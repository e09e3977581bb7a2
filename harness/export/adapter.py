"""How does a trained adapter leave this machine? As a folder that is ready for a hub upload.

    python -m harness.export RUN_ID --out DIR [--license apache-2.0]
    python -m harness.export RUN_ID --out DIR --merge          # a whole checkpoint, of unquantized bases

The folder holds PEFT's two files and a model card (README.md). The weights are checked against the sha256 that
the run recorded: a changed file is refused. `--merge` adds the adapter to its base and writes a whole model; for
a quantized base it is refused, because the merged model is not the one that was trained and scored, unless
`--force-merge` says so: then the adapter is added to the dequantized weights, which are the ones it learned on.
Source: QLoRA (arXiv 2305.14314) section 3; PEFT's file format.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files import sha256_file, write_atomically
from harness.locate import folder_fingerprint, locate_model
from harness.model_card import UNKNOWN_LICENSE, model_card
from harness.plan import RunSpec
from harness.provenance import RunRecord, load_record
from harness.run_folder import folder_problem
from harness.schema import AdapterMethod, ModelKind, PathsConfig, QuantConfig, QuantMethod
from harness.stores import Missing

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
EXIT_BAD_INPUT = 2


class ExportRefusedError(ValueError):
    """The run can't be exported as asked; the message says why and what to do."""


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


def whole_record(run_folder: Path) -> RunRecord:
    """The record of a finished run that has an adapter. Raises ExportRefusedError for any other folder."""
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


def public_config(path: Path) -> str:
    """`adapter_config.json` as it is, but a base that was a local path goes by its folder's name."""
    text = path.read_text()
    saved = json.loads(text)
    base = Path(str(saved.get("base_model_name_or_path")))
    return json.dumps(saved | {"base_model_name_or_path": base.name}, indent=2) if base.is_absolute() else text


def check_merge(spec: RunSpec, force: bool) -> None:
    """Raises ExportRefusedError for merges that make another model than the one that was trained."""
    if spec.model.kind is not ModelKind.causal:
        raise ExportRefusedError(
            f"model.kind={spec.model.kind.value}: only causal models are merged; leave --merge out"
        )
    if spec.quant.method is QuantMethod.none or force:
        return
    raise ExportRefusedError(
        f"--merge of an adapter that was trained on a {spec.quant.method.value} base: the adapter learned to correct "
        "the quantized weights, and was scored on them. Merged into 16-bit weights, or merged and quantized again, "
        "it is another model whose scores drift. Export the adapter (leave --merge out), or give --force-merge to "
        "add it to the dequantized weights, and measure the result"
    )


def write_merged(adapter: Path, folder: Path, record: RunRecord, spec: RunSpec, paths: PathsConfig) -> None:
    """Saves base + adapter as one checkpoint with its tokenizer, in the run's compute dtype.

    Raises:
        ExportRefusedError: the base isn't here, or isn't the one that the run was trained on.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.models import checkpoint_folder
    from harness.quant import TORCH_DTYPES

    source = locate_model(spec.model, paths)
    if isinstance(source, Missing):
        raise ExportRefusedError(str(source))
    base_folder = checkpoint_folder(source, Path(paths.cache))
    found = folder_fingerprint(base_folder)
    if found != record.base_fingerprint:
        raise ExportRefusedError(
            f"{base_folder}: its weights are {found[:12]}, the run was trained on {record.base_fingerprint[:12]}; "
            "restore the old ones, or set HARNESS_MODEL_STORE to where they are"
        )
    dtype = TORCH_DTYPES[spec.quant.compute_dtype]
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype)
    if spec.quant.method is not QuantMethod.none:
        round_to_quantized(model, spec.quant)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(folder)


def round_to_quantized(model: "nn.Module", quant: QuantConfig) -> None:
    """Gives every quantizable linear layer, in place, the values that it has once quantized."""
    import torch

    from harness.adapters import linear_layers
    from harness.quant import quantize_linear

    for _, linear in linear_layers(model):
        weight: Tensor = linear.weight  # type: ignore[assignment]
        copy = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        copy.weight = torch.nn.Parameter(weight.data.clone(), requires_grad=False)
        weight.data.copy_(dequantized(quantize_linear(copy, quant, torch.device("cpu"))))


def dequantized(layer: "nn.Module") -> "Tensor":
    """[out, in]: the weights that a bitsandbytes layer multiplies with (LLM.int8's outliers apart)."""
    import bitsandbytes as bnb

    weight: Any = layer.weight
    if isinstance(layer, bnb.nn.Linear8bitLt):
        values: Tensor = weight.CB.float() * weight.SCB[:, None] / 127
        return values
    values = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    return values


def main(command_line: Sequence[str] | None = None) -> int:
    """The command. -> exit status: 0, or 2 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.export", description="Export a finished run's adapter, ready for a hub upload."
    )
    parser.add_argument("run", help="a run id, or a run's folder")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: HARNESS_RUNS, else runs/")
    parser.add_argument("--license", default=UNKNOWN_LICENSE, help="a licence's identifier on the hub")
    parser.add_argument("--merge", action="store_true", help="write base + adapter as one model (unquantized bases)")
    parser.add_argument("--force-merge", action="store_true", help="likewise for a quantized base; its scores drift")
    given = parser.parse_args(command_line)
    runs = given.runs or Path(os.environ.get("HARNESS_RUNS", "runs"))
    folder = Path(given.run) if Path(given.run).is_dir() else runs / given.run
    paths = PathsConfig(
        runs=str(runs),
        model_store=os.environ.get("HARNESS_MODEL_STORE"),
        cache=os.environ.get("HARNESS_CACHE", ".cache"),
    )
    try:
        done = export(
            folder, given.out, given.merge, force_merge=given.force_merge, license_id=given.license, paths=paths
        )
    except ExportRefusedError as error:
        print(f"export: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"{done.folder}: {', '.join(done.files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
