"""Ends a step within a layer's time when the process is asked to stop.

A forward and backward pass over a full row of a large model takes many seconds, and a worker has ten to end in.
So every linear layer checks for the request, in the forward and in the backward pass. Its results don't change.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


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

    handles = [m.register_forward_hook(look_both_ways) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
