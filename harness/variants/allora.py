"""ALLoRA: LoRA without dropout and without a scale, whose B learns at rates that fall as its rows grow.

    y = W x + B A x,    the gradient of row i of B is taken times 1 / sqrt(|B_i| + 1 / eta^2)

B starts at 0, where LoRA is slow: a row's gradient begins eta times as large, and loses that boost as the row grows.
The factor is a constant of each step, so it may be taken pass by pass.

Source: ALLoRA (arXiv 2410.09692), the adaptive gradient of section 4. Rows are those of B [outputs, rank].
"""

import torch
from torch import Tensor, nn


def gradient_factors(b_OR: Tensor, eta: float) -> Tensor:
    """-> what each row's gradient is multiplied by, [O, 1]"""
    norms_O1: Tensor = torch.linalg.vector_norm(b_OR, dim=1, keepdim=True)
    return (norms_O1 + eta**-2).rsqrt()


def adapt_gradients(b_OR: nn.Parameter, eta: float) -> None:
    """Multiplies the gradients that B gets from now on by the factors of its values at that time."""
    values_OR = b_OR.detach()  # the same memory: the parameter itself would keep itself alive
    b_OR.register_hook(lambda grad_OR: grad_OR * gradient_factors(values_OR, eta))
