"""The loss scaling of one run: float16 gradients below 6e-8 are zero, so the loss is multiplied beforehand.

The factor is halved where a gradient overflows, and the same step is done again, so that no example is skipped; after
many steps without an overflow it is doubled. It is a power of two, so that scaling rounds nothing.
Source: Mixed Precision Training (arXiv 1710.03740); the constants are those of `torch.amp.GradScaler`.
"""

from dataclasses import dataclass

import torch

INITIAL_FACTOR = 2.0**16
GROWTH_STEPS = 2000


@dataclass(slots=True, kw_only=True)
class LossScale:
    """The factor that one run's loss is multiplied by; it stays 1 for other dtypes than float16."""

    dynamic: bool = False
    factor: float = 1.0
    good_steps: int = 0  # since the factor was last changed
    num_overflows: int = 0

    @classmethod
    def of(cls, dtype: torch.dtype) -> "LossScale":
        """The scale at the first step.

        Args:
            dtype: of the activations, through which the gradients go.
        """
        if dtype is not torch.float16:
            return cls()
        return cls(dynamic=True, factor=INITIAL_FACTOR)

    def count_good_step(self) -> None:
        """Notes a step without overflow; doubles the factor after many of them."""
        self.good_steps += 1
        if self.dynamic and self.good_steps == GROWTH_STEPS:
            self.factor, self.good_steps = 2 * self.factor, 0

    def shrink(self) -> bool:
        """Halves the factor after gradients that aren't finite. -> False where it can't help: it would fall below 1."""
        if self.factor <= 1:
            return False
        self.factor, self.good_steps = self.factor / 2, 0
        self.num_overflows += 1
        return True
