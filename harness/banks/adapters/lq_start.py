"""Starts LQ-LoRA: chooses how each layer is stored, and takes its weight apart.

With `adapter.bits` each adapted layer is stored in a format of its own (`harness.methods.formats`), and all of them
in so many bits a weight; other layers, and without it all, as `quant` says. With `adapter.fisher` examples say what
each number of a weight counts, in that choice and in the decomposition.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from harness.banks.adapters.layers import layer_weight, quantization_of, quantize_layers, simulate
from harness.banks.adapters.peft import ADAPTER, Started, hold_adapter_in_float32, residual
from harness.config.schema import AdapterConfig, QuantConfig
from harness.files.signs import in_view
from harness.methods.formats import format_of
from harness.runs.adapter_files import PEFT_PREFIX
from harness.variants.lq_budget import candidates, share_out
from harness.variants.lq_fisher import Weighting, mean_squared_gradients, weighting_of
from harness.variants.lq_lora import Factors, take_apart
from harness.variants.lq_rounding import rounded


class Examples(Protocol):
    """What a method starts from."""

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """Gives the mean loss of one example's target tokens after the other."""


def start_lq(
    model: nn.Module,
    lora: LoraConfig,
    config: AdapterConfig,
    quant: QuantConfig,
    names: Sequence[str],
    wanted: Sequence[str],
    examples: Examples | None,
) -> Started:
    """The base is Q(W - s B0 A0), and B, A begin where they make up best for what that leaves.

    Args:
        model: in 16/32 bits, where it is to be; changed in place.
        lora: PEFT's config of it.
        config: of adapter=lq_lora.
        quant: how layers without a format of their own are stored.
        names: of the linear layers.
        wanted: of those that are adapted.
        examples: needed by `adapter.fisher`.
    """
    assert config.lq_rounds is not None
    device = layer_weight(model, wanted[0]).device
    weightings = _weightings(model, wanted, examples) if config.fisher and examples is not None else {}
    formats = {} if config.bits is None else _formats(model, wanted, config.bits, config.lora_r, weightings)
    peft_model, initial = get_peft_model(model, lora), dict[str, Tensor]()
    for name in in_view("lq_lora takes apart layers", wanted, len(wanted)):
        layer: Any = model.get_submodule(name)
        weight, scale = layer.base_layer.weight.data, layer.scaling[ADAPTER]

        def quantized(taken: Factors, name: str = name, weight: Tensor = weight, scale: float = scale) -> Tensor:
            less = residual(weight, initial_factors(name, taken), name, scale)
            if name in formats:
                return rounded(less, format_of(formats[name])).float()
            return quantization_of(less, quant, device)

        weighting = weightings[name].to(device) if name in weightings else None
        parts = take_apart(weight.float(), config.lora_r, scale, quantized, config.lq_rounds, weighting)
        layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data = parts.learned
        initial |= initial_factors(name, parts.taken)
        layer.base_layer.weight.data = residual(weight, initial, name, scale)
    simulate(model, formats)
    quantize_layers(model, names, quant, device)
    hold_adapter_in_float32(peft_model, quant)
    return Started(model=peft_model, method=config.method, initial=initial, formats=formats)


def initial_factors(name: str, factors: Factors) -> dict[str, Tensor]:
    """A layer's factors by their names in PEFT's file."""
    a_RI, b_OR = factors
    return {f"{PEFT_PREFIX}{name}.lora_A.weight": a_RI, f"{PEFT_PREFIX}{name}.lora_B.weight": b_OR}


def _weightings(model: nn.Module, wanted: Sequence[str], examples: Examples) -> dict[str, Weighting]:
    """What each number of each adapted weight counts, on the CPU: 4 bytes a weight."""
    weights: dict[str, nn.Parameter] = {name: model.get_submodule(name).weight for name in wanted}  # type: ignore[misc]
    losses = in_view("adapter.fisher: examples", examples.losses(model))
    fisher = mean_squared_gradients(model, weights, losses)
    return {name: weighting_of(fisher.pop(name)) for name in wanted}


def _formats(
    model: nn.Module, wanted: Sequence[str], bits: float, rank: int, weightings: Mapping[str, Weighting]
) -> dict[str, str]:
    """The name of each adapted layer's format."""
    choices, num_weights = [], 0
    for name in in_view("lq_lora tries formats on layers", wanted, len(wanted)):
        weight = layer_weight(model, name).detach()
        weighting = weightings[name].to(weight.device) if name in weightings else None
        choices.append(candidates(weight, rank, weighting))
        num_weights += weight.numel()
    chosen = share_out(choices, bits * num_weights)
    return {name: kind.name for name, kind in zip(wanted, chosen, strict=True)}
