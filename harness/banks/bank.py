"""A bank: the interface between the training loop and a model in memory with what is trained in it.

`harness.banks.shared.AdapterBank` (many LoRA members over one frozen causal base, packed rows) is the usual one.
The others own their base and hold one member: `harness.banks.causal` (variants that PEFT ships, full
finetuning), `harness.banks.seq2seq`, `harness.banks.classifier`. The loop, checkpoints and records are the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.config.schema import AdapterConfig
from harness.nn.attention import AttentionPlan
from harness.nn.batch import Item, Segment
from harness.nn.head import Head
from harness.nn.rows import BatchCache, Layout
from harness.nn.shards import ShardedLayers


class Allocation(Protocol):
    """What a method does over a run's steps beside its gradients (`harness.banks.adapters.any_peft.RankAllocation`)."""

    def begin(self, total_steps: int) -> None:
        """Raises ValueError where its schedule doesn't fit into so many steps."""
        ...

    def penalty(self) -> Tensor:
        """What is added to a step's loss."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step, counted from 1, with the gradients still there."""
        ...

    def state(self) -> dict[str, Any]:
        """What the next step depends on, for a checkpoint."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class Bank(Protocol):
    """A model in memory with named members."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the activations: `quant.compute_dtype`."""
        ...

    @property
    def shards(self) -> ShardedLayers | None:
        """The base's layers, where each rank keeps a part of them; None: the base is whole here."""
        ...

    @property
    def isolates_members(self) -> bool:
        """Whether what isn't finite in one member can't reach another of the same row."""
        ...

    @property
    def base(self) -> Any:
        """The transformers model."""
        ...

    @property
    def layers(self) -> Mapping[str, Any]:
        """The base's linear layers by name; `base` of each is the layer itself."""
        ...

    @property
    def configs(self) -> Mapping[str, AdapterConfig]:
        """The adapter configs of the members, by their names."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the base, which go into the records of its runs."""
        ...

    @property
    def quantized_share(self) -> float:
        """The share of the base's weights that is quantized; embeddings and output layer count too."""
        ...

    def add_member(self, name: str, config: AdapterConfig, seed: int) -> None:
        """Adds what is to be trained, freshly initialized from `seed`."""
        ...

    def load_member(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote. Raises ValueError for files of another base or kind."""
        ...

    def remove_member(self, name: str) -> None: ...

    def member_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The member's trainable tensors, by stable names."""
        ...

    def save_member(self, name: str, folder: Path, base_model: str, revision: str) -> str:
        """Writes the member, its weights last. -> sha256 of the weights."""
        ...

    def adapted_layers(self, name: str) -> list[tuple[int, int, str]]:
        """-> inputs, outputs and name of each layer of the base that a member has something in"""
        ...

    def adapter_fields(self, name: str) -> Mapping[str, Any]:
        """The member's config as PEFT writes it."""
        ...

    def adapter_layers(self, name: str) -> Iterator[tuple[nn.Module, nn.Module, tuple[int, int]]]:
        """The member's layers around linear ones: each with the base's layer in it, and its inputs and outputs."""
        ...

    def without_member(self, name: str) -> AbstractContextManager[str | None]:
        """Within this context the base computes alone for items of the member that it gives."""
        ...

    def storage(self, name: str) -> dict[str, Any] | None:
        """What the record says of a member's layers that are stored in formats of their own; None: as the base's."""
        ...

    def read_again(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote into the member that wrote it."""
        ...

    def rank_allocation(self, name: str) -> "Allocation | None":
        """AdaLoRA's schedule of ranks, which the loop drives; None of other members."""
        ...

    def set_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        ...

    def item_losses(self, items: Sequence[Item]) -> Tensor:
        """-> negative log-likelihood of every target token of the items, in their order, [targets] float32."""
        ...

    def train(self, mode: bool = True) -> nn.Module: ...

    def eval(self) -> nn.Module: ...


class CausalBank(Bank, Protocol):
    """A bank that predicts tokens, as scoring and answering need it."""

    @property
    def layout(self) -> Layout:
        """How rows are computed, which decides whether sequences may share a prefix."""
        ...

    @property
    def head(self) -> Head: ...

    def __call__(
        self,
        input_ids_1N: Tensor,
        segments: Sequence[Segment],
        position_ids_1N: Tensor | None = None,
        plan: AttentionPlan | BatchCache | None = None,
        read_at: Sequence[int] | None = None,
    ) -> Tensor:
        """-> hidden states before the output layer, [1, N, hidden], or [1, M, hidden] at the places that are read."""
        ...

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, hidden] -> [N, V], float32, by the model's own rule."""
        ...
