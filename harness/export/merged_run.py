"""Merges the adapters of finished runs into a run of its own, which every command scores as the others.

    python -m harness.export merge RUN RUN --method dare_linear --density 0.5 --seed 0 --name both

The new run has a folder, a record and an adapter like any other. Its spec has no dataset and no training, but the
recipe (`merged`): the parents with the sha256 of their adapters, their weights, method, density and seed. Parents have
to be plain low-rank adapters of one base, as it was quantized; all else is refused by name.
Source: `harness.export.combine` has the methods and their papers.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from harness.config.schema import WHOLE_METHODS, AdapterConfig, AdapterMethod, ModelKind
from harness.export.checks import ExportRefusedError, check_weights, whole_record
from harness.files.atomic import write_atomically
from harness.files.names import file_name
from harness.runs.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DEFAULT_ALPHA,
    PEFT_PREFIX,
    bank_method,
    listed,
    peft_config,
    peft_only,
    read_peft_config,
    require_finite,
)
from harness.runs.folder import folder_problem
from harness.runs.merged import MergeMethod, MergeParent, MergeRecipe
from harness.runs.record import (
    CONFIG_FILE,
    RunRecord,
    git_state,
    load_record,
    now,
    package_versions,
    python_version,
    save_record,
)
from harness.runs.spec import RunSpec, identity

if TYPE_CHECKING:
    from torch import Tensor

    from harness.export.combine import Factors


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """What the command asks for; what is None follows from the method and the parents."""

    method: MergeMethod
    weights: tuple[float, ...] | None = None  # one for each run; None: 1 for ties, whose values are averaged, else 1/n
    density: float | None = None
    seed: int | None = None
    rank: int | None = None  # of the result, where products are merged; None: the largest of the parents'
    name: str | None = None  # in tables; None: after model and method


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parent:
    folder: Path
    record: RunRecord
    spec: RunSpec
    targets: Sequence[str]  # in adapter_config.json
    factors: "Mapping[str, Factors]"  # of each layer

    @property
    def rank(self) -> int:
        return next(iter(self.factors.values())).a_rI.shape[0]


def merge_runs(folders: Sequence[Path], request: MergeRequest, runs: Path) -> RunRecord:
    """Merges runs' adapters and writes the result to `<runs>/<run_id>`.

    Args:
        folders: of the finished runs.
        request: how they are merged.
        runs: the folder of runs.

    Returns:
        The record of the new run; of the run that is there already where it is the same merge under the same name.

    Raises:
        ExportRefusedError: a parent that can't be merged, or one that doesn't fit the others; options that don't fit
            the method; the same merge under another name.
    """
    started = now()
    parents = [_open_parent(folder) for folder in folders]
    run_ids = [parent.record.run_id for parent in parents]
    if repeated := {run_id for run_id in run_ids if run_ids.count(run_id) > 1}:
        raise ExportRefusedError(f"{listed(repeated)}: given twice; name it once, and weigh it by --weights")
    _require_fit(parents, request.method)
    spec = _merged_spec(parents, request)
    label = spec.label if request.name is None else file_name(request.name, "--name")
    folder = runs / spec.run_id
    if (before := _before(folder)) is not None:
        if request.name is not None and before.label != label:
            raise ExportRefusedError(f"{folder}: this merge is there already, under the name {before.label}; use it")
        return before
    digest = _write_adapter(folder / "adapter", parents, spec)
    record = _record(parents, spec, label, digest, started)
    write_atomically(folder / CONFIG_FILE, yaml.safe_dump(spec.to_dict(), sort_keys=False))
    save_record(folder, record)
    return record


def _before(folder: Path) -> RunRecord | None:
    """The record of the same merge, where it is there whole."""
    return None if folder_problem(folder, needs_adapter=True) is not None else load_record(folder)


def _open_parent(folder: Path) -> _Parent:
    record = whole_record(folder)
    spec, adapter = RunSpec.from_dict(record.spec, str(folder)), folder / "adapter"
    where = f"{folder} ({record.label})"
    method = spec.adapter.method_name
    if spec.model.kind is not ModelKind.causal:
        raise ExportRefusedError(f"{where}: model.kind={spec.model.kind.value}; only causal models' runs are merged")
    if bank_method(adapter) is not AdapterMethod.lora:
        whole = spec.adapter.method in WHOLE_METHODS
        why = (
            "the base's own weights"
            if whole
            else listed(peft_only(adapter, read_peft_config(adapter))) or "a changed base"
        )
        raise ExportRefusedError(
            f"{where}: adapter.method={method} trains {why}, which is no plain low-rank adapter; "
            "runs of lora and rslora are merged"
        )
    check_weights(adapter, record)
    saved = read_peft_config(adapter)
    if not isinstance(saved["target_modules"], list) or saved.get("exclude_modules"):
        raise ExportRefusedError(f"{where}: its {ADAPTER_CONFIG} names layers by a pattern, not by a list of them")
    factors = _factors(adapter, saved)
    return _Parent(folder=folder, record=record, spec=spec, targets=saved["target_modules"], factors=factors)


def _factors(adapter: Path, saved: Mapping[str, object]) -> "dict[str, Factors]":
    """The factors of each layer, by its name in the base."""
    from safetensors.torch import load_file

    from harness.export.combine import Factors

    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    require_finite(adapter / ADAPTER_WEIGHTS, tensors)
    found = {}
    for key in sorted(tensors):
        layer, _, factor = key.removesuffix(".weight").rpartition(".")
        if factor == "lora_B":
            continue
        a_rI, b_Or = tensors[key].float(), tensors[f"{layer}.lora_B.weight"].float()
        rank = math.sqrt(len(a_rI)) if saved.get("use_rslora") else len(a_rI)
        alpha = float(str(saved.get("lora_alpha", DEFAULT_ALPHA)))
        found[layer.removeprefix(PEFT_PREFIX)] = Factors(a_rI=a_rI, b_Or=b_Or, scale=alpha / rank)
    return found


def _require_fit(parents: Sequence[_Parent], method: MergeMethod) -> None:
    """Raises ExportRefusedError where a parent was trained on another base than the first, or has another rank."""
    first = parents[0]
    for other in parents[1:]:
        pair = f"{first.folder.name} ({first.record.label}) and {other.folder.name} ({other.record.label})"
        here, there = (_base_facts(parent) for parent in (first, other))
        if unlike := [key for key in here if here[key] != there[key]]:
            told = "; ".join(f"{key} {here[key]} and {there[key]}" for key in unlike)
            raise ExportRefusedError(f"{pair}: not of one base, so their changes can't be added: {told}")
        if method.needs_equal_ranks and first.rank != other.rank:
            of_products = "svd" if method is MergeMethod.linear else f"{method.value}_svd"
            raise ExportRefusedError(
                f"{pair}: --method {method.value} adds factors of equal ranks, and theirs are {first.rank} and "
                f"{other.rank}; take --method {of_products}, which adds their products, or cat"
            )


def _base_facts(parent: _Parent) -> dict[str, str]:
    """What has to be equal of all parents."""
    template = parent.spec.own_template
    return {
        "model": parent.spec.model.hub_id,
        "its weights": parent.record.base_fingerprint[:12],
        "quantization": json.dumps(identity(parent.spec.quant)),
        "tokenizer": str(parent.record.tokenizer_fingerprint)[:12],
        "chat template": "the base's" if template is None else hashlib.sha256(template.encode()).hexdigest()[:12],
    }


def _merged_spec(parents: Sequence[_Parent], request: MergeRequest) -> RunSpec:
    """The spec of the new run: its base is the parents', its adapter has scale 1."""
    rank = _rank(parents, request)
    targets = sorted({str(name) for parent in parents for name in parent.targets})
    adapter = AdapterConfig(
        name="lora", method=AdapterMethod.lora, lora_r=rank, lora_alpha=rank, lora_dropout=0.0, targets=targets
    )
    first = parents[0].spec
    return RunSpec(
        model=first.model,
        quant=first.quant,
        adapter=adapter,
        dataset=None,
        train=None,
        base_sha256=first.base_sha256,
        merged=_recipe(parents, request, rank),
    )


def _rank(parents: Sequence[_Parent], request: MergeRequest) -> int:
    """Of the result: a sum where factors stand beside each other, chosen where products are cut, else the parents'."""
    if request.rank is not None and not request.method.of_products:
        raise ExportRefusedError(
            f"--rank with --method {request.method.value}: only products (svd, *_svd) are cut to one"
        )
    if request.method is MergeMethod.cat:
        return sum(parent.rank for parent in parents)
    return request.rank or max(parent.rank for parent in parents)


def _recipe(parents: Sequence[_Parent], request: MergeRequest, rank: int) -> MergeRecipe:
    """What was asked for, with what follows from the method.

    Raises:
        ExportRefusedError: options that the method needs and lacks, or has no use for.
    """
    method = request.method
    for option, value, is_used in (
        ("--density", request.density, method.prunes),
        ("--seed", request.seed, method.drops_by_chance),
    ):
        if value is not None and not is_used:
            raise ExportRefusedError(f"{option} with --method {method.value}: it has no use for it; leave it out")
    if method.prunes and request.density is None:
        raise ExportRefusedError(f"--method {method.value}: say which share of the values is kept, as --density 0.5")
    weights = request.weights or (1.0 if method.elects_signs else 1 / len(parents),) * len(parents)
    if len(weights) != len(parents):
        raise ExportRefusedError(f"--weights: {len(weights)} for {len(parents)} runs; give one for each")
    return MergeRecipe(
        method=method,
        parents=[
            MergeParent(run_id=parent.record.run_id, adapter_sha256=str(parent.record.adapter_sha256), weight=weight)
            for parent, weight in zip(parents, weights, strict=True)
        ],
        rank=rank,
        density=request.density,
        seed=(request.seed or 0) if method.drops_by_chance else None,
        chat_template=parents[0].spec.own_template,
    )


def merged_tensors(factors: "Sequence[Mapping[str, Factors]]", recipe: MergeRecipe) -> "dict[str, Tensor]":
    """The tensors of a merged adapter by their names in PEFT's file.

    Args:
        factors: of each parent, of each of its layers; a layer is merged from those parents that have it.
        recipe: of the merge.
    """
    import torch

    from harness.export.combine import combine, with_rank

    tensors = {}
    for layer in sorted(set().union(*factors)):
        having = [number for number, of in enumerate(factors) if layer in of]
        weights = [recipe.parents[number].weight for number in having]
        generator = torch.Generator().manual_seed(layer_seed(recipe.seed, layer))
        merged = combine([factors[number][layer] for number in having], weights, recipe, generator)
        merged = with_rank(merged, recipe.rank)
        tensors[f"{PEFT_PREFIX}{layer}.lora_A.weight"] = merged.a_rI.contiguous()
        tensors[f"{PEFT_PREFIX}{layer}.lora_B.weight"] = merged.b_Or.contiguous()
    return tensors


def layer_seed(seed: int | None, layer: str) -> int:
    """From which the values to be dropped in a layer are drawn, whatever other layers there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {layer}".encode()).digest()[:7], "big")


def _write_adapter(folder: Path, parents: Sequence[_Parent], spec: RunSpec) -> str:
    """Writes PEFT's two files, the weights last. -> sha256 of the weights."""
    from safetensors.torch import save

    assert spec.merged is not None
    tensors = merged_tensors([parent.factors for parent in parents], spec.merged)
    if not any(tensor.any() for key, tensor in tensors.items() if key.endswith("lora_B.weight")):
        raise ExportRefusedError("nothing is left of the runs' changes: raise --density, or change --weights")
    data = save(tensors, metadata={"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    config = peft_config(spec.adapter, spec.adapter.targets, spec.model.hub_id, spec.model.revision)
    write_atomically(folder / ADAPTER_CONFIG, json.dumps(config, indent=2))
    write_atomically(folder / ADAPTER_WEIGHTS, data)
    return hashlib.sha256(data).hexdigest()


def _record(parents: Sequence[_Parent], spec: RunSpec, label: str, digest: str, started: str) -> RunRecord:
    first, (commit, dirty) = parents[0].record, git_state()
    assert spec.merged is not None
    return RunRecord(
        run_id=spec.run_id,
        label=label,
        group=spec.group,
        spec=spec.to_dict(),
        status="done",
        num_steps=0,
        num_examples=0,
        num_truncated_sources=0,
        num_truncated_targets=0,
        target_tokens=0,
        final_loss=None,
        train_seconds=0.0,
        peak_memory_bytes=0,
        base_fingerprint=first.base_fingerprint,
        data_fingerprint=None,
        tokenizer_fingerprint=first.tokenizer_fingerprint,
        quantized_share=first.quantized_share,
        adapter_sha256=digest,
        optimizer_used=None,
        device="cpu",
        notes=(described(spec.merged, [parent.record.label for parent in parents]),),
        started=started,
        finished=now(),
        git_commit=commit,
        git_dirty=dirty,
        packages=package_versions(),
        python=python_version(),
    )


def described(recipe: MergeRecipe, labels: Sequence[str]) -> str:
    """The recipe in a line, as: merged by dare_linear from a (0123456789ab) x 0.5 and ..., density 0.5, seed 0."""
    parts = [
        f"{label} ({parent.run_id}) x {parent.weight:g}" for parent, label in zip(recipe.parents, labels, strict=True)
    ]
    density = "" if recipe.density is None else f", density {recipe.density:g}"
    seed = "" if recipe.seed is None else f", seed {recipe.seed}"
    return f"merged by {recipe.method.value} from {' and '.join(parts)}{density}{seed}"
