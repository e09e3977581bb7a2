"""Scores what becomes of a run's adapter when it is served otherwise than it was trained.

    python -m eval perplexity --text book.txt --run ID --serving-gap --out gap/

An adapter of a quantized base learned to correct the quantized weights. Three rows: unmerged on its quantized base, as
it was trained; merged into the base's 16-bit weights (added in float32, stored in bfloat16); and that merged model
quantized again as the base was. `changes.json` has the paired changes from the first. Background: QLoRA (arXiv
2305.14314) section 3 trains on the quantized weights; LoftQ (arXiv 2310.08659) and QA-LoRA (arXiv 2309.14717) start
from this gap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM

from eval.benchmarks.benchmark import Contestant
from eval.commands.beside import SCALED_METHODS
from eval.systems import System, loaded
from harness.banks.adapters.loading import load_adapter
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import DType, PathsConfig, QuantConfig, QuantMethod
from harness.models.convert import checkpoint_folder
from harness.models.locate import ModelSource

UNMERGED, MERGED, AGAIN = "unmerged", "merged in 16 bits", "merged and quantized again"


def row_names(system: System) -> tuple[str, str, str]:
    """The names of a run's three rows."""
    quant = system.spec.quant.name
    return f"{system.name} {UNMERGED} on {quant}", f"{system.name} {MERGED}", f"{system.name} {AGAIN} ({quant})"


def require_gap(systems: Sequence[System]) -> None:
    """Raises ValueError for a run that has no such gap, or whose adapter isn't merged here."""
    for system in systems:
        spec = system.spec
        if spec.quant.method is QuantMethod.none:
            raise ValueError(
                f"--serving-gap: {system.name} was trained on an unquantized base ({spec.quant.label}), into which it "
                "is merged without a gap; name runs of a quantized base"
            )
        if spec.adapter.method not in SCALED_METHODS:
            raise ValueError(
                f"--serving-gap: {system.name} is adapter.method={spec.adapter.method.value}; only "
                f"{', '.join(sorted(m.value for m in SCALED_METHODS))} are merged and scored here"
            )


def each_serving(
    systems: Sequence[System], paths: PathsConfig, device: torch.device
) -> Iterator[tuple[LoadedBase, list[Contestant]]]:
    """Loads each run in the three ways, one after another."""
    for system in systems:
        unmerged, merged, again = row_names(system)
        with loaded([system], paths, device) as base:
            place = base.source
            yield base, [Contestant(name=unmerged, member=system.member, system=system)]
        with TemporaryDirectory(prefix="merged-") as folder:
            checkpoint = checkpoint_folder(place, Path(paths.cache))
            write_16_bit(checkpoint, system.folder / "adapter", Path(folder))
            base.tokenizer.save_pretrained(folder)
            source = replace(place, kind="folder", location=folder)
            for name, quant in ((merged, unquantized(system.spec.quant)), (again, system.spec.quant)):
                yield (
                    _loaded_merged(source, quant, device, paths, base),
                    [Contestant(name=name, member=None, system=system)],
                )


def unquantized(quant: QuantConfig) -> QuantConfig:
    """The same compute dtype without quantization."""
    return replace(quant, method=QuantMethod.none)


def write_16_bit(checkpoint: Path, adapter: Path, folder: Path) -> None:
    """Adds an adapter, in PEFT's format, to the stored weights of a checkpoint and writes the sum in bfloat16."""
    cpu = torch.device("cpu")
    plain = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    merged = load_adapter(model, adapter, plain, cpu, "CAUSAL_LM").model.merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(folder)


def _loaded_merged(
    source: ModelSource, quant: QuantConfig, device: torch.device, paths: PathsConfig, trained: LoadedBase
) -> LoadedBase:
    """The merged model, read by the tokenizer of the base that it was trained on."""
    found = load_base(source, quant, device, Path(paths.cache))
    return replace(found, tokenizer=trained.tokenizer, tokenizer_fingerprint=trained.tokenizer_fingerprint)
