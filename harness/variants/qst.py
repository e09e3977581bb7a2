"""QST: a small side network beside the frozen base; no backward pass goes through the base.

    g_i = block_i((1 - b_i) down_i(h_i) + b_i g_{i-1}),   b_i = sigmoid(gate_i),   g_0 = down_1(h_0)
    out = alpha h_N + (1 - alpha) up(norm(g_N)),          alpha = 1 at the start: the base's own function

h_0 are the embeddings, h_i the i-th decoder layer's output, without a graph; in `out`, h_N is what the base's last norm
makes of it. Blocks are the base's own kind of layer at 1 / reduction of every width, with as many heads; a gate has a
number for each feature and starts at 0.5. The frozen output layer reads `out`. `down` is the paper's adapter: two
matrices of a low rank with SiLU between them and a layer norm behind, or one whole matrix.

A plan of attention (`harness.nn.attention`) knows the side network's layers by numbers behind those of the base, so
that caches of keys and values, shared prefixes and packed rows serve both alike.

Source: QST (arXiv 2401.07159), as remembered; the authors' code (YouAreSpecialToMe/QST, modeling_llama_qst.py and
QSTConfig.py) for where h_i goes, gates, `down`, `up` with a bias. There, alpha is a number for each feature behind a
sigmoid, starting at 0.73 of h_N; the paper's starts at the base.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.methods.side import family_problem, side_problem


class SideNetwork(nn.Module):
    """What QST trains, for one base. Draws its weights from torch's generator, in float32.

    Args:
        base: a causal transformers model.
        reduction: what its widths are divided by.
        down_rank: of the downsampling matrices; 0: one whole matrix each.

    Raises:
        ValueError: another family, or a reduction that its sizes can't be divided by.
    """

    def __init__(self, base: Any, reduction: int, down_rank: int) -> None:
        super().__init__()
        config = _reduced(base.config, reduction)
        decoder = type(base.get_decoder())(config)
        wide, narrow = base.config.hidden_size, config.hidden_size
        self.blocks = nn.ModuleList(SideBlock(layer, wide, narrow, down_rank) for layer in decoder.layers)
        for number, block in enumerate(self.blocks):
            block.layer.self_attn.layer_idx = len(self.blocks) + number  # type: ignore[union-attr]
        self.rotary, self.norm = decoder.rotary_emb, decoder.norm
        self.up = nn.Linear(narrow, wide)
        self.alpha = nn.Parameter(torch.ones(1))
        self.checkpointing = False  # whether the backward pass recomputes the blocks

    def forward(self, kept: "Kept") -> Tensor:
        """-> norm(g_N), [B, T, hidden / reduction]"""
        side_BTE = kept.narrow[0]
        for block, narrow_BTE, options in zip(self.blocks, kept.narrow[1:], kept.options, strict=True):
            places = self.rotary(side_BTE, options["position_ids"])
            options = {**options, "position_embeddings": places, "past_key_values": None}
            if self.checkpointing and torch.is_grad_enabled():
                side_BTE = checkpoint(block, narrow_BTE, side_BTE, use_reentrant=False, **options)
            else:
                side_BTE = block(narrow_BTE, side_BTE, **options)
        normed: Tensor = self.norm(side_BTE)
        return normed

    def mixed(self, last_BTD: Tensor, side_BTE: Tensor) -> Tensor:
        """What the output layer reads, of the base's last states and the side network's. In float32: 1 - alpha is small
        at first, and bfloat16 knows no number between 0.996 and 1.
        """
        mixed_BTD: Tensor = self.alpha * last_BTD.float() + (1 - self.alpha) * self.up(side_BTE).float()
        return mixed_BTD.to(last_BTD.dtype)


class SideBlock(nn.Module):
    """A block with what leads into it."""

    def __init__(self, layer: nn.Module, wide: int, narrow: int, down_rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = _down(wide, narrow, down_rank)
        self.gate = nn.Parameter(torch.full((narrow,), 0.5))

    def forward(self, narrow_BTE: Tensor, side_BTE: Tensor, **options: Any) -> Tensor:
        """Of down(h_i) and g_{i-1}: -> g_i, [B, T, hidden / reduction]"""
        share_E = self.gate.sigmoid()
        made = self.layer((1 - share_E) * narrow_BTE + share_E * side_BTE, **options)
        out: Tensor = made[0] if isinstance(made, tuple) else made
        return out


class Kept:
    """Of one forward pass of the base: its hidden states, made narrow, and what else each layer was called with."""

    def __init__(self) -> None:
        self.narrow: list[Tensor] = []  # of the embeddings, then of each layer's output
        self.options: list[dict[str, Any]] = []


@contextmanager
def keeping(side: SideNetwork, base: Any) -> Iterator[Kept]:
    """Within this context the base has no graph, and the hidden states of its one forward pass are kept, made narrow.

    A wide state lives on only where a downsampling matrix needs it for its gradient.
    """
    kept, learns = Kept(), torch.is_grad_enabled()

    def keep(number: int, args: tuple[Any, ...], options: dict[str, Any], made: Any) -> None:
        with torch.set_grad_enabled(learns):
            if number == 0:
                kept.narrow.append(side.blocks[0].down(args[0].detach()))  # type: ignore[operator]
            hidden: Tensor = made[0] if isinstance(made, tuple) else made
            kept.narrow.append(side.blocks[number].down(hidden.detach()))  # type: ignore[operator]
        kept.options.append(options)

    hooks = [
        layer.register_forward_hook(lambda _, *call, number=number: keep(number, *call), with_kwargs=True)
        for number, layer in enumerate(base.get_decoder().layers)
    ]
    try:
        with torch.no_grad():
            yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _down(wide: int, narrow: int, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(wide, narrow, bias=False)
    first, second = nn.Linear(wide, rank, bias=False), nn.Linear(rank, narrow, bias=False)
    return nn.Sequential(first, nn.SiLU(), second, nn.LayerNorm(narrow))


def _reduced(config: Any, reduction: int) -> Any:
    """The base's config at 1 / reduction of its widths."""
    if problem := family_problem(config.model_type):
        raise ValueError(problem)
    wide, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or wide // heads
    if problem := side_problem(reduction, wide, inner, head_size):
        raise ValueError(problem)
    small = deepcopy(config)
    small.hidden_size, small.intermediate_size = wide // reduction, inner // reduction
    small.head_dim, small.vocab_size, small.pad_token_id = head_size // reduction, 1, None
    return small
