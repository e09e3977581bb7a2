"""Decides how a worker's group uses the memory that is free after its base is loaded: how long its rows are, and
whether dequantized layers are kept.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from harness.banks.load import LoadedBase
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    SHARED_BASE_METHODS,
    SHORTEST_ROW_TOKENS,
    Device,
    ModelKind,
    QuantMethod,
    ShapeConfig,
)
from harness.devices.memory import free_bytes
from harness.memory.predict import kept_dequantized_bytes
from harness.memory.row_length import USABLE, group_bytes, row_tokens, usable_bytes
from harness.runs.spec import RunSpec
from sweeps.jobs.context import Workplace


def agreed_row_tokens(place: Workplace, base: LoadedBase, specs: Sequence[RunSpec]) -> int:
    """Tokens of a row in which these runs train together: the smallest number that any rank has room for.

    Args:
        place: this rank's; all of them call.
        base: loaded, its members not yet in.
        specs: of one group, each with `train`.
    """
    device = base.bank.device
    num_shards = place.peers.ranks.size if place.shards_base else 1
    shaped = [with_shape(spec, base) for spec in specs]
    usable = _usable_bytes(device, place.settings.workers_on_device)
    tokens = row_tokens(shaped, Device(device.type), usable, num_shards)
    agreed = int(place.peers.ranks.span([tokens])[0][0])
    if device.type == "cuda" and place.peers.ranks.leads:
        peak = group_bytes(shaped, agreed, num_shards)
        needs = "" if peak is None else f", {peak / 1e9:.1f} GB at the peak as predicted"
        note = f"{specs[0].model.name} {specs[0].quant.label}: {len(specs)} runs in rows of {agreed:,} tokens{needs}"
        place.send({"phase": "note", "label": specs[0].model.name, "note": note})
    return agreed


def keep_dequantized(place: Workplace, base: LoadedBase, specs: Sequence[RunSpec], tokens: int) -> None:
    """Keeps the base's 4-bit layers dequantized, or drops them, as `launch.keep_dequantized` says.

    Left open, they are kept on a CPU where they fit beside the predicted peak of the runs, in this worker's share of
    what is free. It changes no result, so ranks may differ in it.

    Args:
        place: this rank's.
        base: loaded, its members not yet in.
        specs: of one group, each with `train`.
        tokens: of a row.
    """
    wanted = place.settings.launch.keep_dequantized
    if not isinstance(base.bank, AdapterBank) or base.bank.shards is not None:
        problem: str | None = "it is of no effect with a base that each run owns or ranks share out"
    elif specs[0].quant.method not in (QuantMethod.nf4, QuantMethod.fp4):
        problem = f"it is of no effect with quant.method={specs[0].quant.method.value}"
    else:
        problem = None
        base.bank.keep_dequantized(_dequantized_fits(place, base, specs, tokens) if wanted is None else wanted)
    if wanted and problem and place.peers.ranks.leads:
        place.send({"phase": "note", "label": "", "note": f"note: launch.keep_dequantized=true: {problem}"})


def _dequantized_fits(place: Workplace, base: LoadedBase, specs: Sequence[RunSpec], tokens: int) -> bool:
    shaped = [with_shape(spec, base) for spec in specs]
    peak = group_bytes(shaped, tokens)
    if base.bank.device.type != "cpu" or peak is None:
        return False
    assert isinstance(base.bank, AdapterBank)
    at_hand = free_bytes(base.bank.device) + base.bank.dequantized_bytes
    num_sharing = place.settings.workers_on_device * place.peers.ranks.size
    return peak + kept_dequantized_bytes(shaped[0].model.shape, shaped[0].quant) <= USABLE * at_hand / num_sharing


def num_fitting(place: Workplace, base: LoadedBase, inside: Sequence[RunSpec], more: Sequence[RunSpec]) -> int:
    """How many of the runs have room beside those that train, with the shortest rows; one at least where none trains.

    All of them where the device's memory isn't known, or the predictor doesn't reach; and where ranks share the work,
    which start alike.

    Args:
        place: this rank's.
        base: loaded.
        inside: that train on it.
        more: that would join them, the most urgent first.
    """
    usable = _usable_bytes(base.bank.device, place.settings.workers_on_device)
    if usable is None or place.peers.ranks.size > 1:
        return len(more)
    for number in range(len(more), 0, -1):
        together = [*inside, *more[:number]]
        peak = group_bytes([with_shape(spec, base) for spec in together], SHORTEST_ROW_TOKENS)
        if peak is None or peak <= usable or len(together) == 1:
            return number
    return 0


def with_shape(spec: RunSpec, base: LoadedBase) -> RunSpec:
    """The spec with the loaded model's shape, where its own YAML has none and the predictor knows such models."""
    shares = spec.model.kind is ModelKind.causal and spec.adapter.method in SHARED_BASE_METHODS
    if spec.model.shape.num_layers or not shares:
        return spec
    config = base.bank.base.config
    numbers = {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
    }
    found = {name: getattr(config, key, None) for name, key in numbers.items()}
    if None in found.values():
        return spec
    shape = ShapeConfig(
        **found,  # type: ignore[arg-type]
        gated_mlp=any(name.endswith(".gate_proj") for name in base.bank.layers),
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
    )
    return replace(spec, model=replace(spec.model, shape=shape))


def _usable_bytes(device: torch.device, num_workers: int) -> int | None:
    """Bytes for this worker's tensors, its base included: its share of the device, or less where others hold more."""
    if device.type != "cuda":
        return None
    whole = torch.cuda.get_device_properties(device).total_memory
    at_hand = free_bytes(device) + torch.cuda.memory_allocated(device)
    return min(usable_bytes(whole, num_workers), int(USABLE * at_hand))
