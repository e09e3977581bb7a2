"""Ends a step within a layer's time when the process is asked to stop.

A forward and backward pass over a full row of a large model takes many seconds, and a worker has ten to end in.
So every linear layer checks for the request, in the forward and in the backward pass. Its results don't change. A
layer with members is asked itself: the one that it wraps is not called where its weight is kept dequantized.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from harness.banks.shared import BankLinear


class StopNow(Exception):
    """Raised in the middle of a step, before any weight has changed, because the process was asked to stop."""


@contextmanager
def stops_at_layers(model: nn.Module, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Within this context, a pass through `model` raises StopNow soon after `should_stop` returns True."""

    def look(*_: Any) -> None:
        if should_stop():
            raise StopNow

    def look_both_ways(_module: nn.Module, _inputs: Any, output: Any) -> None:
        look()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(look)

    wrapped = {module.base for module in model.modules() if isinstance(module, BankLinear)}
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, BankLinear)) and m not in wrapped]
    handles = [layer.register_forward_hook(look_both_ways) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
