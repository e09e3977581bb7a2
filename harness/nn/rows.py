"""Sequences of any length through a causal transformers model in one pass: packed in one row, or as a padded batch.

Packed costs no padding and lets sequences share prefixes and be decoded from a cache. It needs attention that goes
through transformers' interface in every layer, and no other layer that looks at neighbouring tokens. Which of the two
computes what the model itself computes is found by trying (`fitting_layout`), when a model is loaded: two short
sequences, in a row and in a batch, against the model's own `forward` on each. Refused is what neither serves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.nn.attention import PACKED, AttentionPlan, Packed
from harness.nn.batch import send
from harness.nn.head import Head

_LENGTHS = (9, 6)  # of the sequences tried: more than a convolution reaches back
_MAX_ERRORS = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}  # of logits, by their own size

_Hidden = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a model's rows are computed."""

    is_packed: bool
    window: int | None = None  # the smallest sliding window of its layers; only known of packed ones

    def may_share(self, longest: int) -> bool:
        """Whether sequences of up to so many tokens can share what they begin with."""
        return self.is_packed and (self.window is None or longest <= self.window)


PACKED_ROWS = Layout(is_packed=True)


def packed_hidden(
    model: Any,
    input_ids_1N: Tensor,
    lengths: Sequence[int],
    position_ids_1N: Tensor | None = None,
    plan: AttentionPlan | None = None,
) -> Tensor:
    """-> the last hidden states of a packed row, [1, N, hidden]."""
    if position_ids_1N is None:
        positions = np.concatenate([np.arange(length) for length in lengths])[None]
        position_ids_1N = send(positions, input_ids_1N.device)
    out = model.get_decoder()(
        input_ids=input_ids_1N, position_ids=position_ids_1N, plan=plan or Packed(lengths), use_cache=False
    )
    hidden: Tensor = out.last_hidden_state
    return hidden


def padded_hidden(
    model: Any, input_ids_1N: Tensor, lengths: Sequence[int], plan: AttentionPlan | None = None
) -> Tensor:
    """As `packed_hidden`, computed as a batch with a row for each sequence, padded on the right.

    Raises:
        ValueError: a plan; shared prefixes and decoding from a cache need packed attention.
    """
    if plan is not None:
        raise ValueError(f"{type(model).__name__}: its attention can't share prefixes or decode from a cache here")
    longest = max(lengths)
    ids_BT = torch.zeros(len(lengths), longest, dtype=torch.long, device=input_ids_1N.device)
    ends_B1 = torch.tensor(lengths, device=ids_BT.device)[:, None]
    real_BT = torch.arange(longest, device=ids_BT.device)[None, :] < ends_B1
    ids_BT[real_BT] = input_ids_1N[0]
    out = model.get_decoder()(input_ids=ids_BT, attention_mask=real_BT.long(), use_cache=False)
    hidden: Tensor = out.last_hidden_state[real_BT][None]
    return hidden


@torch.no_grad()
def fitting_layout(model: Any, where: object) -> Layout:
    """Tries both layouts on a model that was read as transformers reads it, and readies it for the one that fits.

    Args:
        model: in evaluation mode, without members; its layers may be quantized, or wrapped for members to come.
        where: what a message calls it.

    Raises:
        ValueError: neither computes what the model's own `forward` does; says why.
    """
    rows = _sequences(model)
    try:
        head = Head(model)
        own_NV = torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows]).float()
    except AttributeError as error:  # Mamba multiplies by the weight of a layer that it doesn't call
        raise ValueError(
            f"{where}: model_type {model.config.model_type} can't be trained or scored here: it takes linear layers "
            f"apart, which are wrapped to be adapted ({error})"
        ) from error
    row_1N = torch.cat(rows, dim=1)

    def problem(of: _Hidden) -> str | None:
        try:
            return _difference(head.logits(of(row_1N)[0]), own_NV, head.weight.dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            return str(error).splitlines()[0]

    unlike, window = _packed_problem(model, problem)
    if unlike is None:
        return Layout(is_packed=True, window=window)
    if (padded := problem(lambda row: padded_hidden(model, row, _LENGTHS))) is None:
        return Layout(is_packed=False)
    raise ValueError(
        f"{where}: model_type {model.config.model_type} can't be trained or scored here: what it computes for a "
        f"sequence alone is not what it computes beside another one. Packed: {unlike}. Padded: {padded}"
    )


def _packed_problem(model: Any, problem: Callable[[_Hidden], str | None]) -> tuple[str | None, int | None]:
    """-> what keeps rows from being packed, None if nothing does; and the smallest window of the layers."""
    before = model.config._attn_implementation
    if not model._can_set_attn_implementation():
        return "its attention doesn't go through transformers' interface", None
    model.set_attn_implementation(PACKED)
    asked = _Asked(_LENGTHS)
    unlike = problem(lambda row: packed_hidden(model, row, _LENGTHS, plan=asked))
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if unlike is None and len(asked.layers) != num_layers:
        unlike = f"{num_layers - len(asked.layers)} of its {num_layers} layers are no attention"
    if unlike is not None:
        model.set_attn_implementation(before)
    return unlike, min(asked.windows, default=None)


@dataclass(slots=True)
class _Asked(Packed):
    """`Packed` that notes which layers asked it."""

    layers: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        self.layers.add(layer)
        self.windows |= set() if window is None else {window}
        return Packed.attend(self, layer, query, key, value, scaling, window)


def _sequences(model: Any) -> list[Tensor]:
    """Token ids that no model gives a meaning of its own: none that its config names."""
    table: nn.Embedding = model.get_input_embeddings()
    named = [value for key, value in model.config.to_dict().items() if key.endswith("_token_id")]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    ids = [token for token in range(table.weight.shape[0]) if token not in special][: 4 * sum(_LENGTHS)]
    drawn = np.random.default_rng(0).choice(np.array(ids), size=sum(_LENGTHS))
    row_1N = torch.from_numpy(drawn).to(table.weight.device)[None]
    return list(row_1N.split(list(_LENGTHS), dim=1))


def _difference(ours_NV: Tensor, own_NV: Tensor, dtype: torch.dtype) -> str | None:
    """Says by how much logits differ, each position's by its own size; None where that is rounding."""
    size_N = (own_NV - own_NV.mean(-1, keepdim=True)).norm(dim=-1).clamp_min(1e-12)
    error = float(((ours_NV - own_NV).norm(dim=-1) / size_N).max())
    return None if error <= _MAX_ERRORS[dtype] else f"its logits differ by {error:.2g} of their size"
