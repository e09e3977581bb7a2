"""What each number of a weight counts, by examples: the diagonal of the Fisher information.

    F = mean over examples of (d loss / d W)^2        loss: an example's mean over its target tokens

    |D_row (W - L) D_col| is least in L of rank r by an SVD;   D_row, D_col: roots of F's means over rows and columns

Source: LQ-LoRA (arXiv 2311.12023) section 3.3. The paper takes means of roots for D_row and D_col; the authors' code
(github.com/HanGuo97/lq-lora, `factorizations_utils.py` of its models) takes roots of means by default, "better
empirically", and so does this. Where it holds errors against each other, for the end of the rounds and the choice of
formats, it weighs each number by the root of its own F, and so does this.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

_SMALLEST = 1e-6  # of a mean's ratio to the largest one: rows that no example reaches still count a little


class Weighting(NamedTuple):
    """What the rows, the columns and each number of a matrix count."""

    row_O: Tensor
    column_I: Tensor
    root_OI: Tensor  # of F

    def to(self, device: torch.device) -> "Weighting":
        """The same on a device."""
        return Weighting(*(part.to(device) for part in self))


def weighting_of(fisher_OI: Tensor) -> Weighting:
    """The weights that follow from mean squared gradients."""
    rows_O, columns_I = fisher_OI.mean(1), fisher_OI.mean(0)
    return Weighting(_roots(rows_O), _roots(columns_I), fisher_OI.sqrt())


def mean_squared_gradients(
    model: nn.Module, weights: Mapping[str, nn.Parameter], losses: Iterable[Tensor]
) -> dict[str, Tensor]:
    """-> F of each weight, float32 on the CPU

    Args:
        model: whose other parameters get no gradient; afterwards none asks for one.
        weights: of the model, by name.
        losses: one example's after the other, each computed when it is asked for.

    Raises:
        ValueError: no example, or a gradient that is no number.
    """
    sums = {name: torch.zeros(weight.shape, dtype=torch.float32) for name, weight in weights.items()}

    def adding(name: str) -> Callable[[Tensor], None]:
        def add(weight: Tensor) -> None:
            assert weight.grad is not None
            sums[name] += weight.grad.float().square().cpu()
            weight.grad = None

        return add

    model.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    hooks = [weight.register_post_accumulate_grad_hook(adding(name)) for name, weight in weights.items()]
    number = 0
    try:
        with torch.enable_grad():
            for loss in losses:
                loss.backward()
                number += 1
    finally:
        model.requires_grad_(False)
        for hook in hooks:
            hook.remove()
    broken = [name for name, values in sums.items() if not values.isfinite().all()]
    if broken or not number:
        what = f"examples give {broken[0]} a gradient that is no number" if broken else "there are no examples"
        raise ValueError(f"adapter.fisher=true: {what}; use adapter.fisher=false, or quant.compute_dtype=float32")
    return {name: values / number for name, values in sums.items()}


def _roots(means_X: Tensor) -> Tensor:
    largest = means_X.max()
    if not largest > 0:
        return torch.ones_like(means_X)
    return means_X.clamp(min=float(largest) * _SMALLEST).sqrt()
