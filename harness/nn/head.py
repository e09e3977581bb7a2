"""Turns the last hidden states into logits and losses, by the model's own rule.

Most models multiply by the output layer's weight and that is all. Others add a bias (Phi), scale (Granite, Cohere), cap
(Gemma 2) or do more. No list of rules is kept here: the model's own `forward` is run with its decoder standing aside,
handing on the states that it is given. Where a probe shows that this is the output layer and nothing else, that is
called directly; where it is a product, so is the lean loss of `harness.nn.loss`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from harness.devices.buffers import CHUNK_BYTES
from harness.devices.product import linear
from harness.nn.loss import ruled_losses, target_losses, trained_head_losses, trained_ruled_losses

_PROBE_SCALES = (1e-3, 1.0, 30.0, 3e4)  # of logits: a cap shows in large ones, a bias in small ones


class HeadError(ValueError):
    """Raised for a model whose output layer, or what goes into it, can't be reached."""


class Head:
    """The output layer of a causal transformers model, with whatever the model does behind it."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._layer: Any = model.get_output_embeddings()  # type: ignore[operator]
        if self._layer is None:
            raise HeadError(f"{type(model).__name__} has no output layer that predicts tokens")
        self._is_layer_alone = self._probe()

    @property
    def weight(self) -> Tensor:
        """[V, hidden]"""
        weight: Tensor = self._layer.weight
        return weight

    @property
    def is_product(self) -> bool:
        """Whether logits are hidden states times the weight, and nothing else: no bias, no adapter of PEFT's."""
        return self._is_layer_alone and isinstance(self._layer, nn.Linear) and self._layer.bias is None

    @property
    def chunk(self) -> int:
        """Positions whose logits are computed at a time."""
        return max(1, CHUNK_BYTES // (4 * self.weight.shape[0]))

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, hidden] -> [N, V], float32."""
        if type(self._layer) is nn.Linear and self.is_product and not torch.is_grad_enabled():
            return linear(hidden_ND, self.weight).float()
        logits: Tensor = self._layer(hidden_ND) if self._is_layer_alone else self._own_logits(hidden_ND)
        return logits.float()

    def losses(self, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """Negative log-likelihood of each target. -> [M] float32, nats.

        Differentiable in the hidden states, and in the output layer where that is trained.
        """
        is_trained = any(parameter.requires_grad for parameter in self._layer.parameters())
        if self.is_product:
            of_product = trained_head_losses if is_trained else target_losses
            return of_product(hidden_MD, self.weight, targets_M)
        of_rule = trained_ruled_losses if is_trained else ruled_losses
        return of_rule(hidden_MD, self.logits, targets_M, max(1, self.chunk // 4))  # a rule keeps a few copies

    @torch.no_grad()
    def hidden_of(self, ids_1T: Tensor) -> Tensor:
        """The hidden states that the model's own `forward` gets from its decoder, [T, hidden].

        Raises:
            HeadError: it doesn't ask its decoder.
        """
        found: list[Tensor] = []
        hook = self._model.get_decoder().register_forward_hook(lambda *call: found.append(call[2][0][0]))
        try:
            with nullcontext() if not self._is_layer_alone else _with_forward(self._layer, lambda hidden: hidden):
                self._model(input_ids=ids_1T, use_cache=False)
        finally:
            hook.remove()
        if not found:
            raise HeadError(f"{type(self._model).__name__}: its forward pass goes around its own decoder")
        return found[0]

    @torch.no_grad()
    def _probe(self) -> bool:
        """Whether the output layer gets the hidden states as they are, and what it makes of them is the logits."""
        weight_VD = self.weight
        if weight_VD.is_meta or isinstance(weight_VD, FakeTensor):  # no numbers to compare
            return True
        num_tokens, hidden_size = len(_PROBE_SCALES), weight_VD.shape[1]
        steps = torch.linspace(-1, 1, num_tokens * hidden_size, device=weight_VD.device, dtype=self._dtype)
        hidden_ND = steps.view(num_tokens, hidden_size)
        shape_V = torch.linspace(-1, 1, weight_VD.shape[0], device=weight_VD.device)
        made_NV = torch.stack([shape_V * scale for scale in _PROBE_SCALES]).to(self._dtype)
        seen: list[Tensor] = []

        def layer(hidden_1ND: Tensor) -> Tensor:
            seen.append(hidden_1ND)
            return made_NV[None]

        with _with_forward(self._layer, layer):
            logits_NV = self._own_logits(hidden_ND)
        return len(seen) == 1 and torch.equal(seen[0][0], hidden_ND) and torch.equal(logits_NV.float(), made_NV.float())

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of hidden states; a trained layer's weight may be float32 while it computes in 16 bits."""
        dtype: torch.dtype = getattr(self._layer, "compute_dtype", self.weight.dtype)
        return dtype

    def _own_logits(self, hidden_ND: Tensor) -> Tensor:
        """What the model's own `forward` makes of hidden states."""
        ids_1N = torch.zeros(1, len(hidden_ND), dtype=torch.long, device=hidden_ND.device)
        with _standing_aside(self._model, hidden_ND[None]) as passed:
            logits_1NV: Tensor = self._model(input_ids=ids_1N, use_cache=False).logits
        if not passed.was_read:
            raise HeadError(f"{type(self._model).__name__}: its forward pass goes around its own decoder")
        return logits_1NV[0]


class _Passed:
    """Stands for a decoder's output: the hidden states, and nothing of what else a decoder may return."""

    def __init__(self, hidden_1ND: Tensor) -> None:
        self.hidden_1ND, self.was_read = hidden_1ND, False

    def __getattr__(self, name: str) -> Tensor | None:
        return self[0] if name == "last_hidden_state" else None

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return (self.hidden_1ND,)[place]
        self.was_read |= place == 0
        return self.hidden_1ND if place == 0 else None


@contextmanager
def _standing_aside(model: Any, hidden_1ND: Tensor) -> Iterator[_Passed]:
    """The model's decoder hands on `hidden` within, whatever it is called with."""
    passed = _Passed(hidden_1ND)
    with _with_forward(model.get_decoder(), lambda *args, **kwargs: passed):
        yield passed


@contextmanager
def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A module computes something else within."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
