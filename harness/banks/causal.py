"""A causal model with one adapter of a kind that PEFT ships, computed in packed rows as in `AdapterBank`.

It serves DoRA, PiSSA, OLoRA, CorDA, EVA, LoftQ, LoRA-GA, LoRA-FA and PEFT's methods that aren't LoRA; LoRA and rsLoRA
too, though `AdapterBank` trains many of those at once. Everything but the adapter is the same: the packed forward pass,
losses at target positions only, dropout drawn for each example from (seed, step, place in it, layer), however a step
is cut into rows.

`FullBank` trains every weight, the output layer and embeddings included: the 16-bit baseline that QLoRA is held
against. `save_member` writes a checkpoint of its own, with the tokenizer, which any program reads by `model.path`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from harness.banks.adapters.any_peft import dropout_places, tuner_layers
from harness.banks.adapters.peft import ADAPTER
from harness.banks.adapters.starts import Calibration
from harness.banks.owned import OwnedBank
from harness.config.schema import AdapterConfig
from harness.models.reading import OnTheWay, dropout_notes, read_config, read_model, without_dropout
from harness.nn.attention import AttentionPlan
from harness.nn.batch import Item, PackedRow, Segment, only_at, pack, split_rows
from harness.nn.dropout import draw_mask, mix_seed, rounded_probability
from harness.nn.head import Head
from harness.nn.quant import require_quantized
from harness.nn.rows import BatchCache, Layout, fitting_layout, make_ready, packed_hidden, padded_hidden

CALIBRATION_TOKENS = 2048  # a row of calibration examples


class SegmentDropout(nn.Module):
    """Dropout of one adapter layer. The mask depends on the example, not on other examples of the row."""

    def __init__(self, probability: float, seed: int, layer: int, segments: list[Segment]) -> None:
        super().__init__()
        self.probability, self.seed, self.layer = probability, seed, layer
        self._segments = segments  # of the row under way; the bank's own list

    def forward(self, x: Tensor) -> Tensor:
        """[1, N, I], or a padded batch [B, T, I], -> the same with zeros in it."""
        if not self.training:
            return x
        mask, begin = torch.ones(x.shape, dtype=torch.bool, device=x.device), 0
        for place, segment in enumerate(self._segments):
            row, begin = (place, 0) if len(x) > 1 else (0, begin)  # a padded batch, or a packed row
            own = mask[row, begin : begin + segment.num_tokens]
            draw_mask(own, self.probability, mix_seed(self.seed, segment.dropout_key, self.layer))
            begin += segment.num_tokens
        kept = torch.ones(()) / (1 - rounded_probability(self.probability, x.device))  # in float32, whatever x is
        return x * mask * float(kept)


class PackedBank(OwnedBank):
    """A bank of one member over a causal model of its own, with `AdapterBank`'s methods."""

    task_type = "CAUSAL_LM"

    def __init__(self, folder: Path, *args: Any) -> None:
        super().__init__(folder, *args)
        self._segments: list[Segment] = []
        self._head: Head | None = None
        self._layout: Layout | None = None  # of the base, found when it is read first

    def read(self, folder: Path, dtype: torch.dtype, device: torch.device, on_the_way: OnTheWay | None) -> nn.Module:
        config = read_config(folder)
        self.notes = dropout_notes(without_dropout(config))
        model: nn.Module = read_model(AutoModelForCausalLM, folder, config, dtype, device, on_the_way=on_the_way)
        if on_the_way is not None:
            require_quantized(model, folder)
        if self._layout is None:
            self._layout = fitting_layout(model, folder)
        else:
            make_ready(model, self._layout)
        return model

    def _take(self, model: nn.Module) -> None:
        super()._take(model)
        self._head = Head(model)

    @property
    def layout(self) -> Layout:
        """How the base's rows are computed."""
        if self._layout is None:
            _ = self.base  # is read
        assert self._layout is not None
        return self._layout

    @property
    def head(self) -> Head:
        """The base's output layer."""
        if self.model is None:
            _ = self.base  # is read
        assert self._head is not None
        return self._head

    def remove_member(self, name: str) -> None:
        """Drops the member, its base and what reaches into it."""
        super().remove_member(name)
        self._head = None

    def forward(
        self,
        input_ids_1N: Tensor,
        segments: Sequence[Segment],
        position_ids_1N: Tensor | None = None,
        plan: AttentionPlan | BatchCache | None = None,
        read_at: Sequence[int] | None = None,
    ) -> Tensor:
        """As `AdapterBank.forward`: hidden states before the output layer, [1, N, hidden], or only at `read_at`.

        Raises:
            ValueError: segments of a member that isn't in, or of the untouched base while one is.
        """
        members = {segment.member for segment in segments}
        if members != set(self.configs or [None]):
            raise ValueError(f"this bank serves {sorted(self.configs) or 'the untouched base'}, not {members}")
        lengths = [segment.num_tokens for segment in segments]
        if sum(lengths) != input_ids_1N.shape[1]:
            raise ValueError(f"segments cover {sum(lengths)} tokens, the row has {input_ids_1N.shape[1]}")
        self._segments[:] = segments
        return only_at(read_at, _hidden(self.base, self.layout, input_ids_1N, lengths, position_ids_1N, plan))

    def item_losses(self, items: Sequence[Item]) -> Tensor:
        """-> negative log-likelihood of every target token, in the items' order, [targets] float32."""
        row = pack(items, self.device)
        hidden_1ND = self(row.input_ids_1N, row.segments)
        return self.head.losses(hidden_1ND[0, row.target_at_M], row.targets_M)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, hidden] -> [N, V], float32, by the model's own rule."""
        return self.head.logits(hidden_ND)


class PeftBank(PackedBank):
    """One adapter that PEFT starts, or that anybody saved with PEFT; see the module's docstring."""

    def adapted(self, config: AdapterConfig) -> None:
        """Replaces PEFT's dropout, which draws from the global generator, by one that draws for each example."""
        if not (probability := config.lora_dropout):
            return
        for index, layer in enumerate(tuner_layers(self.model)):
            for places in dropout_places(layer):
                places[ADAPTER] = SegmentDropout(probability, self.seed, index, self._segments)

    def calibration(self) -> Calibration | None:
        return _Examples(self.folder, self.layout, self._examples, self.device) if self._examples else None


@dataclass(frozen=True, slots=True)
class _Examples:
    """Runs examples through a causal model; `harness.banks.adapters.starts.Calibration`."""

    folder: Path
    layout: Layout
    items: Sequence[Item]
    device: torch.device

    def __call__(self, model: nn.Module, backward: bool) -> None:
        """A pass for each row of `CALIBRATION_TOKENS`, and a backward pass if `backward`.

        Raises:
            ValueError: a model whose attention can't be packed.
        """
        if not self.layout.is_packed:
            raise ValueError(
                f"{self.folder}: a start from data needs attention that can be packed, which model_type "
                f"{read_config(self.folder).model_type} doesn't have; use adapter=lora, dora, pissa or olora"
            )
        rows = [pack(items, self.device) for items in split_rows(self.items, CALIBRATION_TOKENS)]
        longest = max(row.input_ids_1N.shape[1] for row in rows)  # EVA can't use a short last row
        for row in (row for row in rows if row.input_ids_1N.shape[1] >= longest // 2):
            _calibrate_row(model, self.layout, row, backward)

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """The mean loss of one example's target tokens after the other."""
        for item in self.items:
            row = pack([item], self.device)
            yield _mean_loss(model, row, _states(model, self.layout, row))


def _calibrate_row(model: nn.Module, layout: Layout, row: PackedRow, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        hidden_1ND = _states(model, layout, row)
        if backward:
            _mean_loss(model, row, hidden_1ND).backward()


def _states(model: nn.Module, layout: Layout, row: PackedRow) -> Tensor:
    return _hidden(model, layout, row.input_ids_1N, [segment.num_tokens for segment in row.segments])


def _mean_loss(model: nn.Module, row: PackedRow, hidden_1ND: Tensor) -> Tensor:
    return Head(model).losses(hidden_1ND[0, row.target_at_M], row.targets_M).mean()


def _hidden(
    model: nn.Module,
    layout: Layout,
    input_ids_1N: Tensor,
    lengths: Sequence[int],
    position_ids_1N: Tensor | None = None,
    plan: AttentionPlan | BatchCache | None = None,
) -> Tensor:
    """-> [1, N, hidden] of a row."""
    if layout.is_packed:
        return packed_hidden(model, input_ids_1N, lengths, position_ids_1N, plan)
    return padded_hidden(model, input_ids_1N, lengths, plan)


class FullBank(PackedBank):
    """A causal model of which every weight is trained."""
