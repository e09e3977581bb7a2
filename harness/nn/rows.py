"""Sequences of any length through a causal transformers model in one pass: packed in one row, or as a padded batch.

Packed costs no padding and lets sequences share prefixes and be decoded from a cache of ours. It needs attention that
goes through transformers' interface in every layer, and no other layer that looks at neighbouring tokens. Which of the
two computes what the model itself computes is found by trying (`fitting_layout`), when a model is loaded: a short
sequence before and behind another one, in a row and in a batch, against the model's own `forward` on it alone. Refused
is what neither serves, what looks at tokens that follow, and what computes otherwise in training than in evaluation.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers import __version__ as transformers_version
from transformers.cache_utils import get_layer_types_and_kwargs

from harness.devices.memory import is_out_of_memory
from harness.nn.attention import PACKED, AttentionPlan, Packed
from harness.nn.batch import counted_positions
from harness.nn.head import Head, HeadError

_LENGTHS = (6, 9, 6)  # of the sequences tried, the first one again at the end: more than a convolution reaches back
_CACHED = 2  # tokens of each that are tried from a cache
_SAMPLE = 1024  # tokens of the vocabulary whose logits are compared
MAX_ERRORS = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}  # of logits, by their own size
_UNPLACED_ERROR = 5e-5  # in float32, where the model counts its positions itself and a wrong one may weigh little

_FULL, _SLIDING = "full_attention", "sliding_attention"  # transformers' names of layers that packed rows serve
_Hidden = Callable[[Tensor], Tensor]
PackedHidden = Callable[[Tensor, Sequence[int]], Tensor]  # tokens [1, N], lengths of the sequences -> [1, N, hidden]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a model's rows are computed."""

    is_packed: bool
    window: int | None = None  # the smallest sliding window of its layers; only known of packed ones
    is_lean: bool = False  # whether `harness.models.lean` computes its packed rows, in inference
    keeps_cache: bool = False  # whether a padded batch can go on from the model's own cache (`BatchCache`)

    def may_share(self, longest: int) -> bool:
        """Whether sequences of up to so many tokens can share what they begin with."""
        return self.is_packed and (self.window is None or longest <= self.window)


PACKED_ROWS = Layout(is_packed=True)


@dataclass(slots=True)
class BatchCache:
    """The model's own cache of a batch that is padded on the left, and what of the batch is no padding, [B, L]."""

    cache: Any
    mask_BL: Tensor | None = None

    @classmethod
    def of(cls, model: Any) -> "BatchCache":
        """An empty one, of the kind that the model's `generate` takes."""
        return cls(DynamicCache(config=model.config.get_text_config(decoder=True)))

    def keep(self, places: Sequence[int]) -> None:
        """Goes on with these sequences of the batch only, in this order."""
        assert self.mask_BL is not None
        rows_B = torch.tensor(places, device=self.mask_BL.device)
        self.cache.reorder_cache(rows_B)
        self.mask_BL = self.mask_BL[rows_B]

    def hidden(self, model: Any, input_ids_1N: Tensor, lengths: Sequence[int]) -> Tensor:
        """Takes the next tokens of every sequence. -> their last hidden states, [1, N, hidden]."""
        real_BT = _right_aligned(lengths, input_ids_1N.device)
        ids_BT = torch.zeros(real_BT.shape, dtype=torch.long, device=real_BT.device)
        ids_BT[real_BT] = input_ids_1N[0]
        new_BT = real_BT.long()
        self.mask_BL = new_BT if self.mask_BL is None else torch.cat([self.mask_BL, new_BT], dim=1)
        decoder, options = model.get_decoder(), dict[str, Tensor]()
        if takes_positions(decoder):  # others count by the mask
            options["position_ids"] = (self.mask_BL.cumsum(1) - 1).clamp_min(0)[:, -ids_BT.shape[1] :]
        out = decoder(
            input_ids=ids_BT, attention_mask=self.mask_BL, past_key_values=self.cache, use_cache=True, **options
        )
        hidden: Tensor = out.last_hidden_state[real_BT][None]
        return hidden


def takes_positions(decoder: nn.Module) -> bool:
    """Whether it can be told where a token stands. One that can't (BART) counts through a row, or by a mask."""
    return "position_ids" in inspect.signature(decoder.forward).parameters


def packed_hidden(
    model: Any,
    input_ids_1N: Tensor,
    lengths: Sequence[int],
    position_ids_1N: Tensor | None = None,
    plan: AttentionPlan | BatchCache | None = None,
) -> Tensor:
    """-> the last hidden states of a packed row, [1, N, hidden]. Raises ValueError for a plan of padded rows."""
    if isinstance(plan, BatchCache):
        raise ValueError(f"{type(model).__name__}: its rows are packed, and go on from the slots of a plan")
    if position_ids_1N is None:
        position_ids_1N = counted_positions(lengths, input_ids_1N.device)
    out = model.get_decoder()(
        input_ids=input_ids_1N, position_ids=position_ids_1N, plan=plan or Packed(lengths), use_cache=False
    )
    hidden: Tensor = out.last_hidden_state
    return hidden


def padded_hidden(
    model: Any, input_ids_1N: Tensor, lengths: Sequence[int], plan: AttentionPlan | BatchCache | None = None
) -> Tensor:
    """As `packed_hidden`, by a batch that is padded on the right, or on the left of a cache; a sequence a row.

    Raises:
        ValueError: a plan of packed attention; shared prefixes need that.
    """
    if isinstance(plan, BatchCache):
        return plan.hidden(model, input_ids_1N, lengths)
    if plan is not None:
        raise ValueError(f"{type(model).__name__}: its attention can't share prefixes here")
    real_BT = _right_aligned(lengths, input_ids_1N.device).flip(1)
    ids_BT = torch.zeros(real_BT.shape, dtype=torch.long, device=real_BT.device)
    ids_BT[real_BT] = input_ids_1N[0]
    out = model.get_decoder()(input_ids=ids_BT, attention_mask=real_BT.long(), use_cache=False)
    hidden: Tensor = out.last_hidden_state[real_BT][None]
    return hidden


def _right_aligned(lengths: Sequence[int], device: torch.device) -> Tensor:
    """-> what is no padding in a batch that is padded on the left, [B, T]."""
    longest = max(lengths)
    starts_B1 = longest - torch.tensor(lengths, device=device)[:, None]
    return torch.arange(longest, device=device)[None, :] >= starts_B1


@torch.no_grad()
def fitting_layout(model: Any, where: object, lean: PackedHidden | None = None) -> Layout:
    """Tries both layouts on a model that was read as transformers reads it, and readies it for the one that fits.

    Args:
        model: in evaluation mode, without members; its layers may be quantized, or wrapped for members to come.
        where: what a message calls it.
        lean: computes its packed rows by other code than its own, where there is such code; is tried, too.

    Raises:
        ValueError: neither computes what the model's own `forward` does; says why.
    """
    trial = _Trial.of(model, where)
    layout = _fitting(trial, lean)
    if problem := _mode_problem(trial):
        raise ValueError(f"{where}: model_type {model.config.model_type} can't be trained or scored here: {problem}")
    make_ready(model, layout)
    return layout


def make_ready(model: Any, layout: Layout) -> None:
    """Readies a model for the layout that fits it, or fitted it when it was read before."""
    if layout.is_packed:
        model.set_attn_implementation(PACKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What the model's own `forward` makes of a sequence alone, to hold other ways against."""

    model: Any
    where: object
    head: Head
    row_1N: Tensor  # the sequence, a longer one, and the sequence again
    own_TD: Tensor  # the sequence's hidden states
    head_VD: Tensor  # a sample of the output layer

    @classmethod
    def of(cls, model: Any, where: object) -> "_Trial":
        """Raises ValueError for a model whose `forward` can't be called, or gives no numbers."""
        first_1T, longer_1T = trial_sequences(model)
        with its_own_errors(model, where):
            head = Head(model)
            own_TD = head.hidden_of(first_1T)
        head_VD = head.weight[:_SAMPLE]
        if not (own_TD.isfinite().all() and (own_TD @ head_VD.T).isfinite().all()):
            raise ValueError(
                f"{where}: computes NaN or infinite numbers in {own_TD.dtype} from a short text; take another "
                "quant.compute_dtype (bfloat16, float32), or copy the checkpoint anew"
            )
        row_1N = torch.cat([first_1T, longer_1T, first_1T], dim=1)
        return cls(model=model, where=where, head=head, row_1N=row_1N, own_TD=own_TD, head_VD=head_VD)

    @property
    def max_error(self) -> float:
        """Of logits, by their own size."""
        return MAX_ERRORS[self.own_TD.dtype]

    def problem(self, hidden_of: _Hidden, limit: float | None = None) -> str | None:
        """By how much the sequence's logits differ from its own at either place; None where that is rounding."""
        try:
            hidden_ND = hidden_of(self.row_1N)[0]
        except Exception as error:  # whatever a model's code raises that isn't made for such rows
            if is_out_of_memory(error):
                raise
            return str(error).partition("\n")[0] or type(error).__name__
        num_tokens = len(self.own_TD)
        return self.difference(torch.stack([hidden_ND[:num_tokens], hidden_ND[-num_tokens:]]), limit)

    def difference(self, hidden_KTD: Tensor, limit: float | None = None) -> str | None:
        """By how much the sequence's logits of these hidden states differ from its own; None where by rounding."""
        own_1TV = (self.own_TD @ self.head_VD.T)[None]
        return difference(hidden_KTD @ self.head_VD.T, own_1TV, self.max_error if limit is None else limit)


def _fitting(trial: _Trial, lean: PackedHidden | None) -> Layout:
    """Leaves the model as it was read. Raises ValueError where neither layout fits."""
    model = trial.model
    unlike, window = _packed_problem(trial)
    if unlike is None:
        if lean is None or window is not None:
            return Layout(is_packed=True, window=window)
        return Layout(is_packed=True, is_lean=trial.problem(lambda row_1N: lean(row_1N, _LENGTHS)) is None)
    padded = trial.problem(lambda row_1N: padded_hidden(model, row_1N, _LENGTHS))
    if padded is None:
        return Layout(is_packed=False, keeps_cache=_keeps_cache(trial))
    raise ValueError(
        f"{trial.where}: model_type {model.config.model_type} can't be trained or scored here: what it computes for a "
        f"sequence alone is not what it computes beside another one. Packed: {unlike}. Padded: {padded}"
    )


def _keeps_cache(trial: _Trial) -> bool:
    limit = None
    if trial.own_TD.dtype is torch.float32 and not takes_positions(trial.model.get_decoder()):
        limit = _UNPLACED_ERROR
    return trial.problem(lambda row_1N: _cached(trial.model, row_1N), limit) is None


@contextmanager
def its_own_errors(model: Any, where: object) -> Iterator[None]:
    """What a model's own code raises within becomes one ValueError with the model, its family and the remedy."""
    refused = f"{where}: model_type {model.config.model_type} can't be trained or scored here"
    try:
        yield
    except HeadError as error:
        raise ValueError(f"{refused}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        if (
            isinstance(error, AttributeError) and "Linear' object has no attribute" in reason
        ):  # Mamba multiplies by the weight of a layer that it doesn't call
            raise ValueError(
                f"{refused}: it takes linear layers apart, which are wrapped to be adapted ({reason})"
            ) from error
        raise ValueError(
            f"{refused}: its own forward pass fails on a short text ({type(error).__name__}: {reason}); take another "
            f"model, or mend its config.json if transformers {transformers_version} alone fails too"
        ) from error


def _mode_problem(trial: _Trial) -> str | None:
    """Why the model's own `forward` can't be gone by: it looks ahead, or computes otherwise in training."""
    model, num_tokens = trial.model, len(trial.own_TD)
    longer_1T = trial.row_1N[:, : num_tokens + 3]  # the sequence, and three tokens that follow it
    with its_own_errors(model, trial.where):
        model.train()
        try:
            trained_TD = trial.head.hidden_of(longer_1T)[:num_tokens]
        finally:
            model.eval()
        unlike = trial.difference(trained_TD[None])
        if unlike is None:
            return None
        if ahead := trial.difference(trial.head.hidden_of(longer_1T)[None, :num_tokens]):
            return f"it looks at tokens that follow, so it is no causal language model: with some behind it, {ahead}"
    return f"it computes otherwise in training than in evaluation, at random or by other code: {unlike}"


def _packed_problem(trial: _Trial) -> tuple[str | None, int | None]:
    """-> what keeps rows from being packed, None if nothing does; and the smallest window of the layers."""
    model = trial.model
    before = model.config._attn_implementation
    if not model._can_set_attn_implementation():
        return "its attention doesn't go through transformers' interface", None
    if not takes_positions(model.get_decoder()):
        return "it counts positions itself, through all of a row", None
    model.set_attn_implementation(PACKED)
    plan = _Asked(_LENGTHS)
    unlike = trial.problem(lambda row_1N: packed_hidden(model, row_1N, _LENGTHS, plan=plan))
    unlike = unlike or plan.problem(model.config.get_text_config(decoder=True))
    model.set_attn_implementation(before)
    return unlike, min((window for window in plan.windows.values() if window is not None), default=None)


@dataclass(slots=True)
class _Asked(Packed):
    """`Packed` that notes which layers asked it, and for which window."""

    windows: dict[int, int | None] = field(default_factory=dict)  # by layer

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        self.windows[layer] = window
        return Packed.attend(self, layer, query, key, value, scaling, window)

    def problem(self, config: Any) -> str | None:
        """What the trial's short sequences can't show: layers that don't ask, or limit what they see otherwise."""
        num_layers = config.num_hidden_layers
        if len(self.windows) != num_layers:
            return f"{num_layers - len(self.windows)} of its {num_layers} layers are no attention"
        kinds, options = get_layer_types_and_kwargs(config)
        for layer, (kind, option) in enumerate(zip(kinds, options, strict=True)):
            if kind not in (_FULL, _SLIDING):
                return f"its layer {layer} is of the kind {kind}"
            if kind == _SLIDING and self.windows.get(layer) != option["sliding_window"]:
                return f"its layer {layer} sees {option['sliding_window']} tokens, and doesn't tell its attention"
        return None


def _cached(model: Any, row_1N: Tensor) -> Tensor:
    """The sequence's hidden states, as a batch reads its last tokens from a cache after another one has left it."""
    first_1T, longer_1T, _ = row_1N.split(list(_LENGTHS), dim=1)
    begun = [part[:, :-_CACHED] for part in (first_1T, longer_1T, first_1T)]
    lengths = [part.shape[1] for part in begun]
    cache = BatchCache.of(model)
    parts = list(cache.hidden(model, torch.cat(begun, dim=1), lengths).split(lengths, dim=1))
    cache.keep([0, 2])
    for place in range(first_1T.shape[1] - _CACHED, first_1T.shape[1]):
        step_12D = cache.hidden(model, first_1T[:, place].repeat(1, 2), [1, 1])
        parts[0] = torch.cat([parts[0], step_12D[:, :1]], dim=1)
        parts[2] = torch.cat([parts[2], step_12D[:, 1:]], dim=1)
    return torch.cat([parts[0], parts[2]], dim=1)


def trial_sequences(model: Any) -> list[Tensor]:
    """Two sequences of tokens that its config gives no meaning of their own, the longer one last, [1, T] each."""
    table: nn.Embedding = model.get_input_embeddings()
    named = [value for key, value in model.config.to_dict().items() if key.endswith("_token_id")]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    lengths = list(_LENGTHS[:2])
    ids = [token for token in range(table.weight.shape[0]) if token not in special][: 4 * sum(lengths)]
    drawn = np.random.default_rng(0).choice(np.array(ids), size=sum(lengths))
    row_1N = torch.from_numpy(drawn).to(table.weight.device)[None]
    return list(row_1N.split(lengths, dim=1))


def difference(ours_NV: Tensor, own_NV: Tensor, limit: float) -> str | None:
    """Says by how much logits differ, each position's by its own size; None where that is rounding.

    Args:
        ours_NV: [..., V]
        own_NV: what they are held against.
        limit: the part of their size by which they may differ (`MAX_ERRORS`).
    """
    ours_NV, own_NV = ours_NV.float(), own_NV.float()
    size_N = (own_NV - own_NV.mean(-1, keepdim=True)).norm(dim=-1).clamp_min(1e-12)
    error = float(((ours_NV - own_NV).norm(dim=-1) / size_N).max())
    return None if error <= limit else f"its logits differ by {error:.2g} of their size"
