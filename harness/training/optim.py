"""The optimizer of one run: which one this machine uses, its state, and the clipping of gradients for a group.

Paged AdamW keeps its state in CUDA unified memory, from which the driver moves it to the host when the device is
full. It is for runs that would run out of memory otherwise: where the state fits, it stays on the device, and where
there is no CUDA, in plain memory. The record says what ran. Source: QLoRA section 3, bitsandbytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from harness.config.schema import Optimizer, TrainConfig

MAX_STATE_SHARE = 1 / 4  # of the free memory, for state that isn't paged; the rest is for gradients and activations


class OptimizerKind(StrEnum):
    """The optimizer that really runs, as records name it."""

    adamw = "adamw"  # torch's fused one; its moments have the parameters' dtype
    adamw_32bit = "adamw_32bit"  # bitsandbytes'
    adamw_8bit = "adamw_8bit"
    paged_adamw_32bit = "paged_adamw_32bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    ademamix = "ademamix"  # bitsandbytes'
    ademamix_8bit = "ademamix_8bit"
    lion = "lion"  # bitsandbytes'
    lion_8bit = "lion_8bit"
    muon = "muon"  # torch's

    @property
    def paged(self) -> bool:
        """Whether its state is in unified memory."""
        return self.startswith("paged_")

    def with_paging(self, paged: bool) -> "OptimizerKind":
        """The optimizer with the same arithmetic whose state is paged, or isn't; only bitsandbytes' AdamW can be."""
        name = self.removeprefix("paged_")
        return OptimizerKind(f"paged_{name}" if paged and name in _PAGEABLE else name)


_PAGEABLE = ("adamw_32bit", "adamw_8bit")
_OF_ADAMW = (Optimizer.adamw, Optimizer.paged_adamw_32bit, Optimizer.paged_adamw_8bit)  # by device and memory
SLOWEST_BETA = 0.9999  # AdEMAMix's beta3 (arXiv 2409.03137, section 3)
MIX = 5.0  # AdEMAMix's alpha


def used_optimizer(
    wanted: Optimizer, device: torch.device, pages: bool = True, dtype: torch.dtype = torch.float32
) -> OptimizerKind:
    """The optimizer that runs in place of the one that a run names.

    `paged_adamw_32bit` is torch's AdamW where its state need not leave the device: the same update up to rounding, in
    a few kernels instead of one a tensor. For trained tensors in 16 bits torch would keep 16-bit moments on CUDA, so
    bitsandbytes' runs, unpaged. `paged_adamw_8bit` is bitsandbytes' everywhere.

    Args:
        wanted: `train.optimizer`.
        device: where the trained tensors are.
        pages: whether the state may have to leave the device (`state_pages`).
        dtype: of the trained tensors.
    """
    if wanted not in _OF_ADAMW:
        return OptimizerKind(wanted.value)
    pages = pages and device.type == "cuda"
    if wanted is Optimizer.paged_adamw_8bit:
        return OptimizerKind.adamw_8bit.with_paging(pages)
    plain = not pages and (dtype is torch.float32 or device.type != "cuda")
    if wanted is Optimizer.adamw or plain:
        return OptimizerKind.adamw
    return OptimizerKind.adamw_32bit.with_paging(pages)


def resumed_optimizer(saved: OptimizerKind, chosen: OptimizerKind) -> OptimizerKind:
    """The optimizer that a resumed run goes on with: its checkpoint's, so that its rounding doesn't change.

    It is paged where `chosen`, by today's free memory, is. Only torch's AdamW can't be: it gives way to `chosen`.
    """
    if saved is OptimizerKind.adamw and chosen is OptimizerKind.paged_adamw_32bit:
        return chosen
    return saved.with_paging(chosen.paged)


def state_bytes(wanted: Optimizer, num_elements: int) -> int:
    """Bytes of the optimizer's moments, of one or four bytes for each element."""
    return wanted.num_moments * num_elements * (1 if wanted.in_8_bits else 4)


def state_pages(num_bytes: int, free: int) -> bool:
    """Whether the paged optimizers of a group page: their state would take over a quarter of the free memory.

    Args:
        num_bytes: of the state of all members (`state_bytes`).
        free: bytes free on the device with base and adapters on it, before gradients and activations: those take
            the other three quarters.
    """
    return num_bytes > MAX_STATE_SHARE * free


RATE_RATIO = "rate_ratio"  # of a parameter group: its learning rate is this times the run's


def rate_groups(
    parameters: Mapping[str, nn.Parameter],
    lora_plus_ratio: float | None,
    of_block: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups by learning rate.

    Args:
        parameters: what is trained, by name.
        lora_plus_ratio: with LoRA+ the rate of B is this times the others' (arXiv 2402.12354, equation 5).
        of_block: -> a tensor's rate, by its name, as a part of the run's (`harness.methods.blocks.rate_ratio`).
    """
    if lora_plus_ratio is None and of_block is None:
        return [{"params": list(parameters.values())}]
    groups: dict[float, list[nn.Parameter]] = {} if lora_plus_ratio is None else {1.0: [], lora_plus_ratio: []}
    for name, parameter in parameters.items():
        ratio = lora_plus_ratio if lora_plus_ratio is not None and is_factor_b(name) else 1.0
        groups.setdefault(ratio * (1.0 if of_block is None else of_block(name)), []).append(parameter)
    return [{"params": members, RATE_RATIO: ratio} for ratio, members in groups.items() if members]


def is_factor_b(name: str) -> bool:
    """Whether a trained tensor is LoRA's B, by its name in a bank."""
    return ".lora_B." in name


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_RATIO, 1.0)


def make_optimizer(
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
    train: TrainConfig,
    kind: OptimizerKind,
    total_steps: int = 0,
) -> torch.optim.Optimizer:
    """The optimizer with the config's constants; its learning rate is set anew before every step.

    Args:
        parameters: what is trained, or groups of it (`rate_groups`).
        train: the constants.
        kind: which optimizer.
        total_steps: of the run, over which AdEMAMix's alpha and beta3 rise; 0: they have their last values at once.

    Raises:
        ValueError: Muon, and something trained that is no matrix.
    """
    assert train.learning_rate is not None
    if kind is OptimizerKind.muon:
        return _make_muon(parameters, train)
    if kind in _OTHERS:
        return _make_other(parameters, train, kind, total_steps)
    lr, betas = train.learning_rate, (train.adam_beta1, train.adam_beta2)
    if kind is OptimizerKind.adamw:
        return torch.optim.AdamW(
            parameters, lr=lr, betas=betas, eps=train.adam_epsilon, weight_decay=train.weight_decay, fused=True
        )
    from harness.training.paged import PooledAdamW  # loads bitsandbytes, which takes a second

    return PooledAdamW(
        parameters,
        lr=lr,
        betas=betas,
        eps=train.adam_epsilon,
        weight_decay=train.weight_decay,
        bits=8 if kind.removeprefix("paged_") == OptimizerKind.adamw_8bit else 32,
        paged=kind.paged,
    )


_OTHERS = (
    OptimizerKind.ademamix,
    OptimizerKind.ademamix_8bit,
    OptimizerKind.lion,
    OptimizerKind.lion_8bit,
)


def _make_other(parameters: Any, train: TrainConfig, kind: OptimizerKind, total_steps: int) -> torch.optim.Optimizer:
    """bitsandbytes' Lion and AdEMAMix; tensors of fewer than 4,096 elements have 32-bit state all the same."""
    from harness.training.paged import PooledAdEMAMix, PooledLion  # loads bitsandbytes, which takes a second

    betas: tuple[float, ...] = (train.adam_beta1, train.adam_beta2)
    common: dict[str, Any] = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
    common["optim_bits"] = 8 if kind.endswith("_8bit") else 32
    if kind.startswith("lion"):
        return PooledLion(parameters, betas=betas, **common)
    rises_over = total_steps or None
    betas = (*betas, SLOWEST_BETA)
    return PooledAdEMAMix(
        parameters, betas=betas, alpha=MIX, t_alpha=rises_over, t_beta3=rises_over, eps=train.adam_epsilon, **common
    )


def _make_muon(parameters: Any, train: TrainConfig) -> torch.optim.Optimizer:
    """torch's Muon: orthogonal updates, scaled to the size of AdamW's (arXiv 2502.16982, equation 4)."""
    assert train.learning_rate is not None
    given = list(parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    shapes = [tuple(tensor.shape) for group in groups for tensor in group["params"] if tensor.ndim != 2]
    if shapes:
        raise ValueError(
            f"train.optimizer=muon: it updates matrices, and a tensor of shape {list(shapes[0])} is trained too; use "
            "train.optimizer=adamw, or a method that trains matrices only, as adapter=lora"
        )
    return torch.optim.Muon(
        groups, lr=train.learning_rate, weight_decay=train.weight_decay, adjust_lr_fn="match_rms_adamw"
    )


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], saved: OptimizerKind) -> None:
    """Goes on from a checkpoint's state.

    Args:
        optimizer: fresh from `make_optimizer`.
        state: `state_dict()` of an optimizer over the same parameters.
        saved: which kind that one was. Where it was torch's and this one isn't, its moments are taken over.
    """
    if saved is OptimizerKind.adamw and not isinstance(optimizer, torch.optim.AdamW):
        state = {**state, "state": {index: _bitsandbytes_state(of) for index, of in state["state"].items()}}
    optimizer.load_state_dict(dict(state))


def _bitsandbytes_state(of: Mapping[str, Any]) -> dict[str, Any]:
    """One parameter's state in torch's AdamW, as bitsandbytes names it."""
    return {"step": int(of["step"]), "state1": of["exp_avg"].float(), "state2": of["exp_avg_sq"].float()}


def release_state(optimizer: torch.optim.Optimizer) -> None:
    """Drops an optimizer's state, and frees its paged buffers for other optimizers. It can't step any more."""
    tensors = [value for of in optimizer.state.values() for value in of.values() if isinstance(value, Tensor)]
    paged = [tensor for tensor in tensors if getattr(tensor, "is_paged", False)]
    optimizer.state.clear()
    if paged:
        from harness.training.paged import POOL  # loaded by whoever took them

        POOL.give_back(paged)


def clip_gradients(
    parameters: Sequence[Sequence[nn.Parameter]], max_norms: Sequence[float], scales: Sequence[float]
) -> list[float]:
    """Clips the gradients of each member of a group in place, as `torch.nn.utils.clip_grad_norm_` does.

    All norms come to the host in one transfer, however many members and parameters there are.

    Args:
        parameters: of each member; without a gradient they are left out.
        max_norms: of each member.
        scales: what each member's loss was multiplied by; its gradients are divided by it first.

    Returns:
        The norm of each member's gradients before clipping; not finite where one of them isn't.
    """
    norms: list[Tensor] = []
    for trained, max_norm, scale in zip(parameters, max_norms, scales, strict=True):
        gradients = [p.grad for p in trained if p.grad is not None]
        if scale != 1 and gradients:
            torch._foreach_mul_(gradients, 1 / scale)
        norm = nn.utils.get_total_norm(gradients)
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
        norms.append(norm.to(trained[0].device, torch.float32))
    return torch.stack(norms).tolist()
