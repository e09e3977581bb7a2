"""Runs the decoder of a LLaMA, Mistral or Qwen2 on a CPU by fewer passes over memory than transformers' own code.

The products are the model's own layers, called as they are, with their adapters and quantized weights. What lies
between them is computed in place: norms, rotary positions, SiLU, residual sums. Behind its attention the last layer
computes only the positions that are read. A prefix is computed for its keys and values alone: nothing of it is read.

It serves float32 on a CPU, in inference. Which models it suits is decided by the types of their modules and then by a
trial (`harness.nn.rows.fitting_layout`); tests/unit/harness/models/test_lean.py compares it with the model's own code.
Source: `LlamaModel.forward` and what it calls, in transformers' modeling_llama.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import SiLUActivation

from harness.nn.attention import AttentionPlan, Packed
from harness.nn.batch import counted_positions, only_at
from harness.nn.rows import PackedHidden

_CLASS_PREFIXES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}  # by model_type; their layers are alike


def lean_of(model: Any) -> PackedHidden | None:
    """`lean_hidden` of the model, where it suits, to be tried by `harness.nn.rows.fitting_layout`."""
    return partial(lean_hidden, model) if suits(model) else None


def suits(model: Any) -> bool:
    """Whether the model's decoder is, module by module, one that `lean_hidden` computes: float32, on a CPU."""
    kind = model.config.model_type
    if kind not in _CLASS_PREFIXES:
        return False
    family = import_module(f"transformers.models.{kind}.modeling_{kind}")
    decoder = model.get_decoder()
    modules = [(decoder, "Model"), (decoder.rotary_emb, "RotaryEmbedding"), (decoder.norm, "RMSNorm")]
    for layer in decoder.layers:
        modules += [(layer, "DecoderLayer"), (layer.self_attn, "Attention"), (layer.mlp, "MLP")]
        modules += [(layer.input_layernorm, "RMSNorm"), (layer.post_attention_layernorm, "RMSNorm")]
    return (
        all(type(module) is getattr(family, _CLASS_PREFIXES[kind] + name) for module, name in modules)
        and all(type(layer.mlp.act_fn) in (SiLUActivation, nn.SiLU) for layer in decoder.layers)
        and not any(layer._forward_pre_hooks for layer in decoder.layers)  # they gather a sharded layer's weights
        and (decoder.norm.weight.device.type, decoder.norm.weight.dtype) == ("cpu", torch.float32)
    )


def lean_hidden(
    model: Any,
    input_ids_1N: Tensor,
    lengths: Sequence[int],
    position_ids_1N: Tensor | None = None,
    plan: AttentionPlan | None = None,
    read_at: Sequence[int] | None = None,
    begin_reading: Callable[[], None] = lambda: None,
) -> Tensor:
    """-> the last hidden states of a packed row at the places that are read, [1, M, hidden]. No gradient is recorded.

    Args:
        model: one that `suits`, its attention set to packed rows.
        input_ids_1N: the row's tokens.
        lengths: tokens of each sequence.
        position_ids_1N: each token's position in its own sequence; default: counted from 0.
        plan: who sees whom; default: causal within each sequence.
        read_at: places in the row, ascending; None: all. Nothing is computed for the others beyond the last attention.
        begin_reading: called when from here on the linear layers get the places that are read, and no others.
    """
    decoder, plan = model.get_decoder(), plan or Packed(lengths)
    if position_ids_1N is None:
        position_ids_1N = counted_positions(lengths, input_ids_1N.device)
    hidden = decoder.embed_tokens(input_ids_1N)
    cos, sin = (part[:, None] for part in decoder.rotary_emb(hidden, position_ids_1N))
    layers = decoder.layers[: decoder.config.num_hidden_layers]
    for place, layer in enumerate(layers):
        attended = _attended(layer, hidden, cos, sin, plan)
        if read_at is not None and place == len(layers) - 1:
            hidden, attended = only_at(read_at, hidden), only_at(read_at, attended)
            if not len(read_at):
                return hidden
            begin_reading()
        hidden.add_(layer.self_attn.o_proj(attended))
        normed = _normed(layer.post_attention_layernorm, hidden)
        inner = functional.silu(layer.mlp.gate_proj(normed), inplace=True).mul_(layer.mlp.up_proj(normed))
        hidden.add_(layer.mlp.down_proj(inner))
    return _normed(decoder.norm, hidden)


def _attended(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan) -> Tensor:
    """The attention of a layer before its output projection, [1, N, H * D]."""
    attention, normed = layer.self_attn, _normed(layer.input_layernorm, hidden)
    query, key, value = (
        project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
    out = plan.attend(attention.layer_idx, query, key, value, attention.scaling)
    return out.transpose(1, 2).flatten(2)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates each head's first half with its second. [1, H, N, D], [1, 1, N, D] twice -> [1, H, N, D]"""
    half = states.shape[-1] // 2
    out = states * cos
    out[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(states[..., :half], sin[..., half:])
    return out


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    """A root-mean-square norm, its squares summed without a copy of them."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    mean_square = length.square_().div_(hidden.shape[-1])
    normed: Tensor = hidden * mean_square.add_(norm.variance_epsilon).rsqrt_()
    return normed.mul_(norm.weight)
