"""Trains through the decoders that `harness.models.lean` knows by fewer passes over memory than transformers' own code.

The forward pass computes the same numbers to the bit, operation by operation; what is short is the backward pass of
norms and rotations, which autograd would take apart: four passes over memory instead of twelve, and three instead of
ten. What is kept for it is what autograd keeps, so harness/memory counts the same. The products are the model's own
layers, called as they are, with their adapters and quantized weights.

It serves frozen norms in float32 on a CPU, where passes over memory are a fifth of a step of many short examples
(benchmarks/results/group-training-cpu-2026-11-30.md), and no gradient checkpointing, which needs the model's own code.
Source: `LlamaModel.forward` and what it calls, in transformers' modeling_llama; RMSNorm, arXiv 1910.07467; rotary
positions, arXiv 2104.09864. tests/unit/harness/models/test_lean_training.py compares it with the model's own code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.nn.attention import AttentionPlan, Packed
from harness.nn.batch import counted_positions


def trained_hidden(
    model: Any,
    input_ids_1N: Tensor,
    lengths: Sequence[int],
    position_ids_1N: Tensor | None = None,
    plan: AttentionPlan | None = None,
) -> Tensor:
    """-> the last hidden states of a packed row, [1, N, hidden], whose gradients reach what the layers train.

    Args:
        model: one that `harness.models.lean.suits`, its attention set to packed rows.
        input_ids_1N: the row's tokens.
        lengths: tokens of each sequence.
        position_ids_1N: each token's position in its own sequence; default: counted from 0.
        plan: who sees whom; default: causal within each sequence.
    """
    decoder, plan = model.get_decoder(), plan or Packed(lengths)
    if position_ids_1N is None:
        position_ids_1N = counted_positions(lengths, input_ids_1N.device)
    hidden = decoder.embed_tokens(input_ids_1N)
    cos, sin = (part[:, None] for part in decoder.rotary_emb(hidden, position_ids_1N))
    for layer in decoder.layers[: decoder.config.num_hidden_layers]:
        hidden = hidden + _attention(layer.self_attn, _normed(layer.input_layernorm, hidden), cos, sin, plan)
        hidden = hidden + layer.mlp(_normed(layer.post_attention_layernorm, hidden))
    return _normed(decoder.norm, hidden)


def _attention(attention: Any, normed: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan) -> Tensor:
    """A layer's attention, [1, N, hidden]."""
    query, key, value = (
        project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = (_Rotated.apply(states, cos, sin) for states in (query, key))  # type: ignore[no-untyped-call]
    attended = plan.attend(attention.layer_idx, query, key, value, attention.scaling)
    out: Tensor = attention.o_proj(attended.transpose(1, 2).flatten(2))
    return out


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    """A norm's output."""
    out: Tensor = _Normed.apply(hidden, norm.weight, norm.variance_epsilon)  # type: ignore[no-untyped-call]
    return out


class _Normed(torch.autograd.Function):
    """y = g n x with n = 1 / sqrt(mean(x^2) + eps). With d the gradient to y times g: grad x = n d - x n^3 mean(d x)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, epsilon: float) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.gain_D = gain_D
        ctx.save_for_backward(x, scale)
        return (x * scale).mul_(gain_D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, scale = ctx.saved_tensors
        grad, size = grads[0] * ctx.gain_D, x.shape[-1]
        along = torch.bmm(grad.reshape(-1, 1, size), x.reshape(-1, size, 1)).view(scale.shape)
        return grad.mul_(scale).addcmul_(x, along.mul_(scale.pow(3)).div_(-size)), None, None


class _Rotated(torch.autograd.Function):
    """Each head's halves turned: y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin. Backward it turns the other way."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(states, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, sin, -1), None, None


def _rotate(states: Tensor, cos: Tensor, sin: Tensor, sense: int) -> Tensor:
    """[1, H, N, D], [1, 1, N, D] twice -> [1, H, N, D]"""
    half = states.shape[-1] // 2
    out = states * cos
    out[..., :half].sub_(states[..., half:] * sin[..., :half], alpha=sense)  # not `addcmul_`, which rounds once less
    out[..., half:].add_(states[..., :half] * sin[..., half:], alpha=sense)
    return out
