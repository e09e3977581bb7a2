"""Full finetuning of a causal model over packed rows: the 16-bit baseline that QLoRA is held against.

Every weight is trained, the output layer and embeddings included; `save_member` writes a checkpoint of its own, with
the tokenizer, which any program reads by `model.path`. Weights are float32 and cast to `quant.compute_dtype` where
they are used; with `train.master_weights=compute` they are kept in it, so bf16 means pure bf16, as with the original's
`--full_finetune --bf16`.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from harness.loss import CHUNK_BYTES
from harness.peft_bank import PackedBank


class FullBank(PackedBank):
    """A causal model, all of it trained."""

    def head_losses(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """-> [M] float32, differentiable in the hidden states and the output layer."""
        return trained_head_losses(hidden_MD, self.lm_head_weight, targets_M)


def trained_head_losses(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """Negative log-likelihood of each target, the output layer being trained too.

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
