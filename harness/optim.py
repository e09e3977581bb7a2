"""The optimizer of one adapter, and which one a machine can really run.

Paged AdamW keeps its state in CUDA unified memory; on a machine without CUDA paging has no meaning, so the
same AdamW runs with its state in plain memory and the record says so. Source: QLoRA section 3, bitsandbytes.
"""

from collections.abc import Iterable

import torch
from torch import nn

from harness.schema import Optimizer, TrainConfig


def used_optimizer(wanted: Optimizer, device: torch.device) -> Optimizer:
    """The optimizer that runs on this device; 32-bit AdamW on a CPU, where 8-bit state is not implemented."""
    return wanted if device.type == "cuda" else Optimizer.adamw


def make_optimizer(
    parameters: Iterable[nn.Parameter], train: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW with the config's constants; its learning rate is set anew before every step."""
    assert train.learning_rate is not None
    kind = used_optimizer(train.optimizer, device)
    lr, betas = train.learning_rate, (train.adam_beta1, train.adam_beta2)
    if kind is Optimizer.adamw:
        return torch.optim.AdamW(
            parameters, lr=lr, betas=betas, eps=train.adam_epsilon, weight_decay=train.weight_decay, fused=True
        )
    import bitsandbytes as bnb

    bits = 8 if kind is Optimizer.paged_adamw_8bit else 32
    optimizer: torch.optim.Optimizer = bnb.optim.AdamW(
        parameters,
        lr=lr,
        betas=betas,
        eps=train.adam_epsilon,
        weight_decay=train.weight_decay,
        optim_bits=bits,
        is_paged=True,
    )
    return optimizer
