"""Checks at plan time whether a way of finetuning works with a quantization and a model.

    problem = method_problem(config.adapter, config.quant, config.model)   # None: it works

What works was tried with PEFT 0.21 and bitsandbytes 0.50 on a tiny model (tests/unit/harness/banks/test_causal.py).
Methods that move part of the weights into the adapter do so with the 16/32-bit weights, and what is left is quantized
afterwards (PiSSA, section 4: QPiSSA). So they work with quantized bases too, but for the exceptions below.
"""

from harness.config.schema import (
    ALL_LINEAR,
    SHARED_BASE_METHODS,
    WHOLE_METHODS,
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    ModelConfig,
    ModelKind,
    Optimizer,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
)
from harness.data.formats import LABELLED
from harness.methods.blocks import blocks_problem
from harness.methods.formats import LEAST_BITS, MOST_BITS
from harness.methods.keys import keys_problem
from harness.methods.side import side_problem
from harness.methods.sizes import Layer, size_problem
from harness.methods.submatrices import LAYERS, heads_problem
from harness.methods.table import METHODS, entry_of

RESIDUAL_METHODS = frozenset(
    {AdapterMethod.pissa, AdapterMethod.olora, AdapterMethod.corda, AdapterMethod.lora_ga, AdapterMethod.lq_lora}
)  # W = W_residual + scale B0 A0: the base changes, and B, A start from B0, A0
CALIBRATED_METHODS = frozenset({AdapterMethod.eva, AdapterMethod.corda, AdapterMethod.lora_ga})  # start from data
WITH_VECTORS = WHOLE_METHODS | {AdapterMethod.dora, AdapterMethod.qst}  # train norms, magnitudes or gates, too
SVD_METHODS = RESIDUAL_METHODS | {AdapterMethod.loftq}  # the rank is bounded by the layer's smaller side


def method_problem(adapter: AdapterConfig, quant: QuantConfig, model: ModelConfig) -> str | None:
    """-> why the run can't be trained, with the keys, their values and the remedy; None if it can."""
    method, kind = adapter.method, model.kind
    if problem := quant_problem(method, quant.method):
        return problem
    if problem := keys_problem(adapter) or weights_problem(adapter, quant.method) or bits_problem(adapter, quant):
        return problem
    if adapter.fisher and kind is not ModelKind.causal:
        return (
            f"adapter.fisher=true with model.kind={kind.value}: examples' gradients are implemented for causal models "
            "only; use adapter.fisher=false"
        )
    if method in CALIBRATED_METHODS and kind is not ModelKind.causal:
        return (
            f"adapter.method={method.value} with model.kind={kind.value}: its start from data is implemented for "
            "causal models only; use adapter=lora, dora, pissa or olora"
        )
    if method is AdapterMethod.qst and kind is not ModelKind.causal:
        return (
            f"adapter.method=qst with model.kind={kind.value}: its side network stands beside a causal model that "
            "predicts tokens; use adapter=lora, dora or hft"
        )
    if method is AdapterMethod.s2ft and kind is ModelKind.seq2seq:
        return (
            f"adapter.method=s2ft with model.kind={kind.value}: it knows heads and channels by the names "
            f"{', '.join(LAYERS)}, which a T5 doesn't have; use adapter=lora, dora or hft"
        )
    return shape_problem(adapter, kind, model.shape) if model.path is None else None  # a checkpoint has its own shape


def optimizer_problem(adapter: AdapterConfig, optimizer: Optimizer) -> str | None:
    """-> why an optimizer can't train the method, with the remedy; None if nothing is known against it"""
    if optimizer is not Optimizer.muon or adapter.method not in WITH_VECTORS:
        return None
    return (
        f"train.optimizer=muon with adapter={adapter.method_name}: it updates matrices, and vectors are trained too; "
        "use train.optimizer=adamw, or a method that trains matrices only, as adapter=lora"
    )


def shape_problem(adapter: AdapterConfig, kind: ModelKind, shape: ShapeConfig, head_size: int = 0) -> str | None:
    """-> which number of the method a model of this shape has no room for, with the remedy; None if it has.

    The bank checks it again with the real layers, whose sizes a shape doesn't always tell.

    Args:
        head_size: of its attention, where that isn't the hidden size shared out among the heads; 0: it is.
    """
    if kind is ModelKind.causal and shape.num_heads and shape.num_kv_heads:
        head_size = head_size or shape.hidden_size // shape.num_heads
    if adapter.method is AdapterMethod.qst and shape.hidden_size and shape.intermediate_size and head_size:
        return side_problem(adapter.qst_reduction or 1, shape.hidden_size, shape.intermediate_size, head_size)
    is_grouped = kind is ModelKind.causal and shape.num_kv_heads < shape.num_heads
    if adapter.method is AdapterMethod.s2ft and "v_proj" in adapter.targets and is_grouped:
        return heads_problem(shape.num_heads)
    beyond = [block for block in adapter.layers or () if block >= shape.num_layers]
    if beyond and shape.num_layers:
        return blocks_problem(beyond, shape.num_layers)
    return _rank_problem(adapter, kind, shape) or size_problem(adapter, _known_layers(adapter, shape, head_size))


def task_problem(model: ModelConfig, dataset: DatasetConfig) -> str | None:
    """-> why a model of this kind can't learn from such rows, with the remedy; None if it can."""
    labelled = dataset.format in LABELLED
    if labelled and model.kind is ModelKind.causal:
        return (
            f"dataset.format={dataset.format} has classes for targets, and model.kind=causal writes text: add "
            "model.kind=classifier, which puts a classification head on this model"
        )
    if labelled and model.kind is ModelKind.seq2seq:
        return (
            f"dataset.format={dataset.format} has classes for targets, and model.kind=seq2seq writes text: use "
            "model=roberta_large, or a causal model with model.kind=classifier"
        )
    if not labelled and model.kind is ModelKind.classifier:
        return (
            f"dataset.format={dataset.format} has no labels, and model.kind=classifier needs them: use "
            f"dataset=glue_mrpc and the like, or one of dataset.format={', '.join(sorted(LABELLED))}"
        )
    if model.kind is ModelKind.seq2seq and dataset.train_on_source:
        return (
            "dataset.train_on_source=true with model.kind=seq2seq: its encoder's input has no loss; set "
            "dataset.train_on_source=false"
        )
    return None


def quant_problem(method: AdapterMethod, quant: QuantMethod) -> str | None:
    """-> why the method can't be trained on weights stored so; None if it can."""
    if method in WHOLE_METHODS and quant is not QuantMethod.none:
        return (
            f"adapter.method={method.value} with quant.method={quant.value}: quantized weights can't be trained; "
            "use quant=bf16 or quant=fp32, or adapter=lora"
        )
    if method in (AdapterMethod.loftq, AdapterMethod.lq_lora) and quant is QuantMethod.none:
        return (
            f"adapter.method={method.value} with quant.method=none: it makes up for the error of quantization, and "
            "there is none; use quant=nf4, fp4 or int8, or adapter=lora"
        )
    return None


def weights_problem(adapter: AdapterConfig, quant: QuantMethod) -> str | None:
    """-> why PEFT's own layers of this method don't work on weights stored so, with what does; None if they do."""
    entry = entry_of(adapter)
    if adapter.method is not AdapterMethod.peft or entry is None or quant in entry.works_on:
        return None
    others = [row.name for row in METHODS.values() if quant in row.works_on and not row.refused and row.rank]
    stored = sorted(method.value for method in entry.works_on)
    return (
        f"adapter.peft_type={adapter.peft_type} with quant.method={quant.value}: PEFT 0.21 fails on such weights, or "
        f"trains something else on them; use quant.method={' or '.join(stored)}, or one of adapter="
        f"{', '.join(others)}"
    )


def bits_problem(adapter: AdapterConfig, quant: QuantConfig) -> str | None:
    """-> why no formats make up so many bits a weight, or not on such a base, with the remedy; None if some do."""
    if adapter.bits is None:
        return None
    if quant.method is not QuantMethod.nf4:
        return (
            f"adapter.bits={adapter.bits:g} with quant.method={quant.method.value}: its formats are normal floats; use "
            "quant=nf4, which is how layers without an adapter are stored then, or leave adapter.bits out"
        )
    if not LEAST_BITS <= adapter.bits <= MOST_BITS:
        return (
            f"adapter.bits={adapter.bits:g}: the formats take {LEAST_BITS:.3f} to {MOST_BITS:.3f} bits a weight, "
            "scales included; use a number between, or leave it out"
        )
    return None


def is_calibrated(adapter: AdapterConfig) -> bool:
    """Whether the method starts from examples."""
    return adapter.method in CALIBRATED_METHODS or adapter.fisher


def shard_problem(kind: ModelKind, method: AdapterMethod) -> str | None:
    """-> why `launch.shard_base=true` doesn't go with this; None if it does."""
    if kind is ModelKind.causal and method in SHARED_BASE_METHODS:
        return None
    return (
        f"launch.shard_base=true with model.kind={kind.value}, adapter.method={method.value}: only a frozen "
        "causal base under lora, rslora or allora is sharded; use launch.shard_base=false"
    )


def max_rank(method: AdapterMethod, smaller_side: int) -> int:
    """The largest rank that the method can start with on a layer whose smaller side is this."""
    if method in (AdapterMethod.lora_ga, AdapterMethod.eva):
        return smaller_side // 2  # LoRA-GA's A and B take half of the vectors each; EVA may give a layer twice its rank
    return smaller_side if method in SVD_METHODS else 2**31


def rank_problem(adapter: AdapterConfig, smaller_side: int) -> str | None:
    """-> why `adapter.lora_r` doesn't fit a layer whose smaller side is this; None if it does."""
    largest = max_rank(adapter.method, smaller_side)
    if adapter.lora_r <= largest:
        return None
    return (
        f"adapter.lora_r={adapter.lora_r} with adapter.method={adapter.method.value}: it starts from a singular "
        f"value decomposition, and this model's smallest layer has {smaller_side} rows or columns; use "
        f"adapter.lora_r={largest} or less"
    )


def _rank_problem(adapter: AdapterConfig, kind: ModelKind, shape: ShapeConfig) -> str | None:
    if kind is not ModelKind.causal or not (shape.hidden_size and shape.num_heads and shape.num_kv_heads):
        return None
    keys = shape.hidden_size // shape.num_heads * shape.num_kv_heads
    sides = [side for side in (shape.hidden_size, keys, shape.intermediate_size) if side]
    return rank_problem(adapter, min(sides)) if list(adapter.targets) == [ALL_LINEAR] else None


def _known_layers(adapter: AdapterConfig, shape: ShapeConfig, head_size: int) -> list[Layer]:
    """The adapted layers whose sizes follow from a model's shape: the feed-forward ones only without a head's size."""
    width, inner = shape.hidden_size, shape.intermediate_size
    if not width or not inner:
        return []
    layers = [Layer(width, inner, "up_proj"), Layer(width, inner, "gate_proj"), Layer(inner, width, "down_proj")]
    if head_size:
        heads, keys = shape.num_heads * head_size, shape.num_kv_heads * head_size
        layers += [Layer(width, heads, "q_proj"), Layer(heads, width, "o_proj")]
        layers += [Layer(width, keys, "k_proj"), Layer(width, keys, "v_proj")]
    every = list(adapter.targets) == [ALL_LINEAR]
    return [layer for layer in layers if every or layer.name in adapter.targets]
