"""QST: a small side network beside the frozen base; no backward pass goes through the base.

    g_i = block_i((1 - b_i) down_i(h_i) + b_i g_{i-1}),   b_i = sigmoid(gate_i),   g_0 = down_1(h_0)
    out = alpha h_N + (1 - alpha) up(norm(g_N)),          alpha = 1 at the start: the base's own function

h_0 are the embeddings, h_i the i-th decoder layer's output, without a graph; in `out`, h_N is what the base's last norm
makes of it. Blocks are the base's own kind of layer at 1 / reduction of its width, with as many heads; a gate has a
number for each feature and starts at 0.5. The frozen output layer reads `out`.

Source: QST (arXiv 2401.07159), as remembered. Held against the authors' code (YouAreSpecialToMe/QST,
modeling_llama_qst.py, the decoder only): where h_i goes, the gates, the norm, the first downsampling's second use. Not
read there: `up` and alpha. It differs: no norm behind a downsampling (an option there, on by default).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

KNOWN = frozenset({"llama", "mistral", "qwen2"})  # families whose layers take what these are called with


class SideNetwork(nn.Module):
    """What QST trains, for one base.

    Args:
        base: a causal transformers model.
        reduction: what its width is divided by.
        down_rank: of the downsampling matrices; 0: they are whole.

    Raises:
        ValueError: another family, or a reduction that its sizes can't be divided by.
    """

    def __init__(self, base: Any, reduction: int, down_rank: int = 0) -> None:
        super().__init__()
        config = _reduced(base.config, reduction)
        decoder = type(base.get_decoder())(config)
        self.layers, self.rotary, self.norm = decoder.layers, decoder.rotary_emb, decoder.norm
        wide, narrow = base.config.hidden_size, config.hidden_size
        self.down = nn.ModuleList(_down(wide, narrow, down_rank) for _ in self.layers)
        self.up = nn.Linear(narrow, wide, bias=False)
        self.gate = nn.Parameter(torch.full((len(self.layers), narrow), 0.5))
        self.alpha = nn.Parameter(torch.ones(()))

    def forward(self, kept: "Kept", last_BTD: Tensor) -> Tensor:
        """-> [B, T, hidden], which the output layer reads."""
        side_BTE: Tensor = self.down[0](kept.hidden[0])
        for block, down, gate, hidden_BTD, options in zip(
            self.layers, self.down, self.gate, kept.hidden[1:], kept.options, strict=True
        ):
            share = gate.sigmoid()
            mixed_BTE = (1 - share) * down(hidden_BTD) + share * side_BTE
            places = self.rotary(mixed_BTE, options["position_ids"])
            made = block(mixed_BTE, **{**options, "position_embeddings": places, "past_key_values": None})
            side_BTE = made[0] if isinstance(made, tuple) else made
        return self.alpha * last_BTD + (1 - self.alpha) * self.up(self.norm(side_BTE))


class Kept:
    """Of one forward pass of the base: the hidden states around its layers, and what else each was called with."""

    def __init__(self) -> None:
        self.hidden: list[Tensor] = []
        self.options: list[dict[str, Any]] = []


@contextmanager
def keeping(base: Any) -> Iterator[Kept]:
    """Within this context nothing has a graph, and the hidden states of the base's one forward pass are kept."""
    kept = Kept()

    def keep(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any], made: Any) -> None:
        if not kept.hidden:
            kept.hidden.append(args[0].detach())
        kept.hidden.append((made[0] if isinstance(made, tuple) else made).detach())
        kept.options.append(options)

    hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in base.get_decoder().layers]
    try:
        with torch.no_grad():
            yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _down(wide: int, narrow: int, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(wide, narrow, bias=False)
    return nn.Sequential(nn.Linear(wide, rank, bias=False), nn.Linear(rank, narrow, bias=False))


def _reduced(config: Any, reduction: int) -> Any:
    """The base's config at 1 / reduction of its width, with as many heads as have 2 numbers or more each."""
    if config.model_type not in KNOWN:
        raise ValueError(
            f"adapter=qst with model_type {config.model_type}: known are {', '.join(sorted(KNOWN))}; use adapter=lora"
        )
    wide, inner = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if reduction < 2 or wide % (reduction * heads * 2) or inner % reduction:
        raise ValueError(
            f"adapter.reduction={reduction}: expected 2 or more that leaves each of {heads} heads an even part of "
            f"{wide}, and divides {inner}"
        )
    small = deepcopy(config)
    small.hidden_size, small.intermediate_size = wide // reduction, inner // reduction
    small.head_dim = small.hidden_size // heads
    small.num_attention_heads, small.num_key_value_heads, small.vocab_size = heads, kv_heads, 1
    small.pad_token_id = None
    return small
