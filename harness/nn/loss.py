"""Cross-entropy at target positions only, without ever holding [targets, vocabulary] at once.

`harness.nn.head` chooses the function: by whether logits are the output layer's product alone, and by whether that
layer is trained.

The output layer is frozen, so only the gradient to the hidden states is needed; it is computed in the
forward pass, a chunk of positions at a time. Idea: Cut Cross-Entropy (arXiv 2411.09009) and Liger's
fused linear cross-entropy.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.devices.buffers import CHUNK_BYTES
from harness.devices.product import linear

LogitsOf = Callable[[Tensor], Tensor]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        losses = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_ND = torch.empty_like(hidden_ND)
        chunk = max(1, CHUNK_BYTES // (4 * weight_VD.shape[0]))
        for start in range(0, len(targets_N), chunk):
            rows = slice(start, start + chunk)
            probs = linear(hidden_ND[rows], weight_VD).float()
            target_index_N1 = targets_N[rows, None]
            highest_N1 = probs.amax(dim=-1, keepdim=True)
            target_N1 = probs.gather(1, target_index_N1) - highest_N1
            sum_N1 = probs.sub_(highest_N1).exp_().sum(dim=-1, keepdim=True)
            losses[rows] = (sum_N1.log() - target_N1).squeeze(1)
            probs.div_(sum_N1)  # softmax in place
            probs.scatter_add_(1, target_index_N1, probs.new_full(target_index_N1.shape, -1.0))
            grad_ND[rows] = linear(probs.to(weight_VD.dtype), weight_VD.T)
        ctx.save_for_backward(grad_ND)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0][:, None].to(grad_ND.dtype), None, None


def target_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target.

    Args:
        hidden_ND: the states that predict the targets (already gathered: no other position is computed).
        weight_VD: the frozen output layer.
        targets_N: token ids.

    Returns:
        [N] float32, in nats; differentiable in `hidden_ND`.
    """
    losses: Tensor = _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call]
    return losses


def trained_head_losses(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """Negative log-likelihood of each target, where the output layer is trained too.

    A chunk of logits lives only while it is used, in the forward pass and again in the backward pass:
    [M, V] in float32 never exists. A float32 weight is cast to the states' dtype anew for each chunk, so that the
    chunks' gradients are summed in float32.

    Returns:
        [M] float32, in nats; differentiable in `hidden_MD` and `weight_VD`.
    """
    size = max(1, CHUNK_BYTES // (4 * weight_VD.shape[0]))
    parts = [
        checkpoint(_chunk_losses, hidden_MD[i : i + size], weight_VD, targets_M[i : i + size], use_reentrant=False)
        for i in range(0, len(targets_M), size)
    ]
    return torch.cat(parts) if parts else hidden_MD.new_zeros(0, dtype=torch.float32)


def _chunk_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = hidden_ND @ weight_VD.to(hidden_ND.dtype).T
    return functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")


class _RuledCrossEntropy(torch.autograd.Function):
    """As `_LinearCrossEntropy`, but autograd computes the gradient through the model's rule."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, logits_of: LogitsOf, targets_N: Tensor, chunk: int) -> Tensor:
        losses = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        grad_ND = torch.empty_like(hidden_ND)
        for start in range(0, len(targets_N), chunk):
            rows = slice(start, start + chunk)
            hidden = hidden_ND[rows].detach().requires_grad_()
            with torch.enable_grad():
                own = functional.cross_entropy(logits_of(hidden), targets_N[rows], reduction="none")
                (grad_ND[rows],) = torch.autograd.grad(own.sum(), hidden)
            losses[rows] = own.detach()
        ctx.save_for_backward(grad_ND)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0][:, None].to(grad_ND.dtype), None, None, None


def ruled_losses(hidden_ND: Tensor, logits_of: LogitsOf, targets_N: Tensor, chunk: int) -> Tensor:
    """As `target_losses`, for a frozen output layer whose product the model changes by a rule.

    Args:
        logits_of: [n, hidden] -> [n, V] float32, differentiable.
        chunk: positions whose logits are held at once.
    """
    losses: Tensor = _RuledCrossEntropy.apply(hidden_ND, logits_of, targets_N, chunk)  # type: ignore[no-untyped-call]
    return losses


def trained_ruled_losses(hidden_MD: Tensor, logits_of: LogitsOf, targets_M: Tensor, chunk: int) -> Tensor:
    """As `ruled_losses`, where the output layer is trained too."""

    def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits_of(hidden), targets, reduction="none")

    parts = [
        checkpoint(of_chunk, hidden_MD[i : i + chunk], targets_M[i : i + chunk], use_reentrant=False)
        for i in range(0, len(targets_M), chunk)
    ]
    return torch.cat(parts) if parts else hidden_MD.new_zeros(0, dtype=torch.float32)
