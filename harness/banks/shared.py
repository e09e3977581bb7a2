"""Many LoRA adapters over one frozen base, in one forward pass.

`AdapterBank` is the one interface of training, MMLU and generation: a packed row, the segments in it,
their positions, and which member each segment belongs to. Each linear layer computes the shared frozen
product once and adds every member's low-rank term to that member's tokens only:

    y[tokens of k] = W x + (alpha_k / r_k) * dropout(x) A_k^T B_k^T

What a member draws at random (initial weights, dropout) depends on its own seed, step, example and layer
alone, never on other members, so that a run trained in a group equals the run trained alone.

Source: LoRA (arXiv 2106.09685), QLoRA section 5 (adapters on every linear layer), and PEFT's LoRA for
the initial values and the file format, `adapter_config.json` + `adapter_model.safetensors`.

Models that can't be packed (BLOOM's own attention, with ALiBi) see a padded batch with an attention mask
(`harness.nn.rows`): the same members, the same dropout by key.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeGuard, cast

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from harness.config.schema import ALL_LINEAR, AdapterConfig, AdapterMethod
from harness.devices.product import frozen_linear, is_by_onednn
from harness.files.atomic import write_atomically
from harness.methods.blocks import in_blocks
from harness.models.lean import lean_hidden
from harness.models.lean_training import trained_hidden
from harness.nn.attention import AttentionPlan
from harness.nn.batch import Item, Segment, only_at, pack, segments_read
from harness.nn.dropout import mix_seed
from harness.nn.head import Head
from harness.nn.low_rank import add_low_rank
from harness.nn.member_row import Kernels, MemberRow
from harness.nn.quant import dequantized, features, float32_weight, linear_layers, quantized_share
from harness.nn.rows import PACKED_ROWS, BatchCache, Layout, its_own_errors, packed_hidden, padded_hidden
from harness.nn.shards import ShardedLayers
from harness.runs.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    DEFAULT_ALPHA,
    DEFAULT_RANK,
    PEFT_PREFIX,
    listed,
    peft_config,
    peft_only,
    read_peft_config,
    require_finite,
    short_names,
    targeted,
)
from harness.variants.allora import adapt_gradients


class BankLinear(nn.Module):
    """A frozen linear layer with the members' low-rank terms."""

    def __init__(self, base: nn.Module, row: MemberRow, layer: int) -> None:
        super().__init__()
        self.base = base
        self.dequantized_OI: Tensor | None = None  # the base's weight, where it is kept (`keep_dequantized`)
        self.layer = layer
        self.lora_a = nn.ParameterDict()  # member -> [r, in_features]
        self.lora_b = nn.ParameterDict()  # member -> [out_features, r]
        self.scale: dict[str, float] = {}
        self.row = row

    def forward(self, x: Tensor) -> Tensor:
        """[1, N, I], or a padded batch [B, T, I], -> the same with O features."""
        y = self._frozen(x)
        spans = [span for span in self.row.spans if span.member in self.lora_a]
        if not spans:
            return y
        factors = [factor for span in spans for factor in (self.lora_a[span.member], self.lora_b[span.member])]
        return add_low_rank(y, x, self.row.terms(self, spans, x), factors)

    def keep_dequantized(self, on: bool) -> None:
        """As `AdapterBank.keep_dequantized`, of this layer."""
        if not on:
            self.dequantized_OI = None
        elif self.dequantized_OI is None:
            self.dequantized_OI = dequantized(self.base)

    def _frozen(self, x: Tensor) -> Tensor:
        """The frozen layer's output."""
        kept_OI, bias_O = self.dequantized_OI, cast(Tensor | None, self.base.bias)
        if is_by_onednn(x):
            weight_of = float32_weight(self.base) if kept_OI is None else lambda: kept_OI
            if weight_of is not None:
                return frozen_linear(x, weight_of, bias_O)
        if kept_OI is None:
            y: Tensor = self.base(x)
            return y
        return functional.linear(x, kept_OI, bias_O)


class AdapterBank(nn.Module):
    """A frozen causal model with any number of named LoRA members.

    Args:
        base: a transformers causal model, readied for `layout` (`harness.nn.rows.fitting_layout`, or loaded with
            `attn_implementation="packed"`); it is changed in place: its linear layers (lm_head never) are
            wrapped, its parameters frozen.
        shards: its decoder layers, where `harness.nn.quant` has sharded them over ranks.
        layout: how its rows are computed.
        notes: what the records of runs on it say.
    """

    def __init__(
        self,
        base: nn.Module,
        shards: ShardedLayers | None = None,
        layout: Layout = PACKED_ROWS,
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        base.requires_grad_(False)
        self.base = base
        self.shards = shards
        self.layout, self.notes = layout, notes
        with its_own_errors(base, getattr(base.config, "name_or_path", None) or type(base).__name__):
            self.head = Head(base)
        self.row = MemberRow(Kernels.of(self.device))
        self.layers: dict[str, BankLinear] = {}
        for name, module in linear_layers(base):
            self.layers[name] = BankLinear(module, self.row, layer=len(self.layers))
            _set_submodule(base, name, self.layers[name])
        self.checkpointing = False  # whether the backward pass recomputes decoder layers
        self.configs: dict[str, AdapterConfig] = {}
        self.factors: dict[str, float] = {}  # of members at another scale than the trained one
        self.quantized_share = quantized_share(base)  # of the base's weights

    @property
    def device(self) -> torch.device:
        return next(self.base.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the activations, and of all weights that aren't quantized."""
        return self.head.weight.dtype

    @property
    def isolates_members(self) -> bool:
        """Whether what isn't finite in one member can't reach another of the same row."""
        return self.row.kernels.isolate_members

    def add_member(self, name: str, config: AdapterConfig, seed: int) -> None:
        """Adds a fresh adapter: A uniform as in PEFT (Kaiming, a = sqrt 5), B zero.

        Raises:
            ValueError: `config.targets` or `config.layers` matches no linear layer.
        """
        self.configs[name] = config
        if config.method is AdapterMethod.none:
            return
        for layer_name in self._targets(config):
            layer = self.layers[layer_name]
            in_features, out_features = features(layer.base)
            generator = torch.Generator().manual_seed(mix_seed(seed, 0, layer.layer))
            bound = math.sqrt(1 / in_features)
            a_RI = torch.empty(config.lora_r, in_features).uniform_(-bound, bound, generator=generator)
            b_OR = torch.zeros(out_features, config.lora_r)
            self._place(layer, name, a_RI, b_OR, config, seed)

    def load_member(self, name: str, folder: Path) -> None:
        """Reads an adapter saved in PEFT's format, by us or by PEFT: plain LoRA on linear layers.

        Raises:
            ValueError: the adapter was made for another base, is damaged, or has what only PEFT's layers compute.
        """
        saved = read_peft_config(folder, "CAUSAL_LM")
        if others := peft_only(folder, saved):
            raise ValueError(f"{folder}: {listed(others)}: a shared base serves plain LoRA; load this adapter alone")
        config = AdapterConfig(
            name="lora",
            method=AdapterMethod.rslora if saved.get("use_rslora") else AdapterMethod.lora,
            lora_r=saved.get("r", DEFAULT_RANK),
            lora_alpha=saved.get("lora_alpha", DEFAULT_ALPHA),
            lora_dropout=float(saved.get("lora_dropout", 0.0)),
        )
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        require_finite(folder / ADAPTER_WEIGHTS, tensors)
        factors = list(self._fitting_factors(folder, tensors, saved))
        self.configs[name] = config  # from here on nothing is refused
        for layer_name, a_RI, b_OR in factors:
            self._place(self.layers[layer_name], name, a_RI, b_OR, config, seed=0)

    def _fitting_factors(
        self, folder: Path, tensors: dict[str, Tensor], saved: dict[str, Any]
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """-> each layer's name with its A and B, of an adapter's file.

        Raises:
            ValueError: an A without a B, of another rank, or a layer that this base doesn't have or has in another
                shape; layers that the config means and the file lacks, or the other way round.
        """
        rank, adapted = saved.get("r", DEFAULT_RANK), set[str]()
        for key in sorted(tensors):
            layer_name, _, factor = key.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
            other = f"{PEFT_PREFIX}{layer_name}.{'lora_B' if factor == 'lora_A' else 'lora_A'}.weight"
            if other not in tensors:
                raise ValueError(f"{folder / ADAPTER_WEIGHTS}: {key} has no {other} beside it; copy it anew")
            if factor == "lora_B":
                continue
            a_RI, b_OR = tensors[key], tensors[other]
            shape = (a_RI.shape[-1], b_OR.shape[0])
            if layer_name not in self.layers or features(self.layers[layer_name].base) != shape:
                raise ValueError(
                    f"{folder}: its layer {layer_name} ({shape[0]} -> {shape[1]}) doesn't fit this base model; "
                    f"it was made for {saved.get('base_model_name_or_path')}"
                )
            if a_RI.shape != (rank, shape[0]) or b_OR.shape != (shape[1], rank):
                ranks = f"{list(a_RI.shape)} and {list(b_OR.shape)}"
                raise ValueError(f"{folder}: r={rank} in {ADAPTER_CONFIG}, but {layer_name} has factors of {ranks}")
            adapted.add(layer_name)
            yield layer_name, a_RI, b_OR
        if apart := adapted.symmetric_difference(targeted(saved, self.layers)):
            raise ValueError(
                f"{folder}: target_modules in {ADAPTER_CONFIG} and the layers in {ADAPTER_WEIGHTS} differ in "
                f"{listed(apart)}; copy both files anew"
            )

    def rank_allocation(self, name: str) -> None:
        """LoRA's rank stays as it is."""

    def storage(self, name: str) -> None:
        """A shared base's layers are stored as its quantization says."""

    def adapted_layers(self, name: str) -> list[tuple[int, int, str]]:
        """-> inputs, outputs and name of each layer that the member has factors in"""
        return [(*features(layer.base), key) for key, layer in self.layers.items() if name in layer.lora_a]

    def adapter_fields(self, name: str) -> dict[str, Any]:
        """The member's config as PEFT names its fields."""
        return {"r": self.configs[name].lora_r}

    def adapter_layers(self, name: str) -> Iterator[tuple[nn.Module, nn.Module, tuple[int, int]]]:
        """The layers that the member has factors in, as it computes them alone, with the base's and their sizes."""
        for layer in self.layers.values():
            if name in layer.lora_a:
                yield _MemberLayer(self, name, layer), layer.base, features(layer.base)

    @contextmanager
    def without_member(self, name: str) -> Iterator[str | None]:
        """Gives None: the base's own rows may stand beside any member's."""
        yield None

    def read_again(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote into the member that wrote it, or into one like it.

        Raises:
            ValueError: as `load_member`; or the adapter is of other layers, another rank or another scale.
        """
        read = f"{name} read again"
        self.load_member(read, folder)
        try:
            self._require_alike(name, read, folder)
            with torch.no_grad():
                own = self.member_parameters(name)
                for key, tensor in self.member_parameters(read).items():
                    own[key].copy_(tensor)
        finally:
            self.remove_member(read)

    def _require_alike(self, name: str, other: str, folder: Path) -> None:
        """Raises ValueError for a member in other layers than another one's, which came from a folder, or unlike it."""
        own, theirs = self.member_parameters(name), self.member_parameters(other)
        if unlike := own.keys() ^ theirs.keys():
            raise ValueError(f"{folder}: {listed(unlike)} is on one side only; take the same adapter.targets")
        for key, tensor in theirs.items():
            if own[key].shape != tensor.shape:
                shapes = f"{list(tensor.shape)}, here {list(own[key].shape)}"
                raise ValueError(f"{folder}: {key} has the shape {shapes}; take the same adapter.lora_r")
        for layer in self.layers.values():
            if name in layer.scale and layer.scale[name] != layer.scale[other]:
                scales = f"{layer.scale[other]:g}, here {layer.scale[name]:g}"
                raise ValueError(f"{folder}: its scale is {scales}; take the same adapter.lora_alpha")

    def remove_member(self, name: str) -> None:
        """Drops an adapter; the base stays loaded for the next ones."""
        self.configs.pop(name)
        self.factors.pop(name, None)
        for layer in self.layers.values():
            if name in layer.lora_a:
                del layer.lora_a[name], layer.lora_b[name], layer.scale[name]
        self.row.dropout.pop(name, None)
        self.row.forget()

    def add_scaled(self, name: str, of: str, factor: float) -> None:
        """Adds a member with another's tensors, which it shares, and `factor` times its scale."""
        self.configs[name], self.factors[name] = self.configs[of], factor
        for layer in self.layers.values():
            if of in layer.lora_a:
                layer.lora_a[name], layer.lora_b[name] = layer.lora_a[of], layer.lora_b[of]
                layer.scale[name] = factor * layer.scale[of]
        self.row.dropout[name] = self.row.dropout[of]
        self.row.forget()

    def member_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """-> the member's tensors by their names in PEFT's file."""
        tensors: dict[str, nn.Parameter] = {}
        for layer_name, layer in self.layers.items():
            if name in layer.lora_a:
                tensors[f"{PEFT_PREFIX}{layer_name}.lora_A.weight"] = layer.lora_a[name]
                tensors[f"{PEFT_PREFIX}{layer_name}.lora_B.weight"] = layer.lora_b[name]
        return tensors

    def save_member(self, name: str, folder: Path, base_model: str, revision: str) -> str:
        """Writes PEFT's two files, the weights last. -> sha256 of the weights."""
        config = self.configs[name]
        targets = short_names(self._targets(config), list(self.layers))
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.member_parameters(name).items()}
        data = save(tensors, metadata={"format": "pt"})
        folder.mkdir(parents=True, exist_ok=True)
        description = peft_config(config, targets, base_model, revision)
        write_atomically(folder / ADAPTER_CONFIG, json.dumps(description, indent=2))
        write_atomically(folder / ADAPTER_WEIGHTS, data)
        return hashlib.sha256(data).hexdigest()

    def forward(
        self,
        input_ids_1N: Tensor,
        segments: Sequence[Segment],
        position_ids_1N: Tensor | None = None,
        plan: AttentionPlan | BatchCache | None = None,
        read_at: Sequence[int] | None = None,
    ) -> Tensor:
        """Runs the base and every segment's adapter over one packed row.

        Args:
            input_ids_1N: the segments' tokens, one segment after the other.
            segments: in the row's order; those of one member must be neighbours.
            position_ids_1N: each token's position in its own sequence; default: counted from 0 in each segment.
            plan: who sees whom; default: causal within each segment. For padded rows a cache, whose sequences go on.
            read_at: the places of the row whose hidden states are wanted, ascending; default: all.

        Returns:
            Hidden states before the output layer, [1, N, hidden], or of the places that are read, [1, M, hidden].

        Raises:
            ValueError: a plan of packed attention, and a base whose rows are padded, or the other way round.
        """
        lengths = [segment.num_tokens for segment in segments]
        if sum(lengths) != input_ids_1N.shape[1]:
            raise ValueError(f"segments cover {sum(lengths)} tokens, the row has {input_ids_1N.shape[1]}")
        if not self.layout.is_packed:
            self.begin_row(segments, stride=max(lengths))
            return only_at(read_at, padded_hidden(self.base, input_ids_1N, lengths, plan))
        self.begin_row(segments)
        if self._may_be_lean(plan):

            def begin_reading() -> None:
                self.begin_row(segments_read(segments, read_at or ()))

            return lean_hidden(self.base, input_ids_1N, lengths, position_ids_1N, plan, read_at, begin_reading)
        if self.layout.is_lean and self._trains_at_once and not isinstance(plan, BatchCache):
            return only_at(read_at, trained_hidden(self.base, input_ids_1N, lengths, position_ids_1N, plan))
        return only_at(read_at, packed_hidden(self.base, input_ids_1N, lengths, position_ids_1N, plan))

    def _may_be_lean(self, plan: AttentionPlan | BatchCache | None) -> TypeGuard[AttentionPlan | None]:
        """Only scoring and answering may; losses on held-out examples are computed by the model's own code."""
        is_scoring = torch.is_inference_mode_enabled() and not self.training
        return self.layout.is_lean and is_scoring and not isinstance(plan, BatchCache)

    @property
    def _trains_at_once(self) -> bool:
        """Whether gradients are recorded, and no layer is computed again for them."""
        return torch.is_grad_enabled() and not self.checkpointing

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode (`eval` calls it too) and forgets the last row: weights may have changed."""
        self.row.forget()
        return super().train(mode)

    def begin_row(self, segments: Sequence[Segment], stride: int = 0) -> None:
        """Tells all layers of the row that the base computes next.

        Args:
            segments: in the row's order; those of one member must be neighbours.
            stride: tokens that each takes up in a padded batch; 0: packed, its own number.
        """
        self.row.begin(segments, stride, self.training, self.layers.values(), self.head.weight)

    def keep_dequantized(self, on: bool) -> None:
        """Keeps the weights of 4-bit layers in the compute dtype as well, or drops these copies.

        Each is then dequantized once, and not in every forward and every backward pass. All results stay the same, bit
        for bit. A base that isn't quantized, or to 8 bits, has nothing to keep; one that is sharded isn't whole here.
        """
        assert self.shards is None or not on
        for layer in self.layers.values():
            layer.keep_dequantized(on)

    @property
    def dequantized_bytes(self) -> int:
        """The bytes of the weights that are kept dequantized."""
        return sum(layer.dequantized_OI.nbytes for layer in self.layers.values() if layer.dequantized_OI is not None)

    def set_checkpointing(self, on: bool) -> None:
        """Turns on or off that the backward pass recomputes decoder layers; dropout repeats itself by its keys."""
        self.checkpointing = on
        prefix = (
            "activation" if hasattr(self.base, "activation_checkpointing_enable") else "gradient"
        )  # older transformers
        if on:
            getattr(self.base, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.base, f"{prefix}_checkpointing_disable")()

    def item_losses(self, items: Sequence[Item]) -> Tensor:
        """-> negative log-likelihood of every target token, in the items' order, [targets] float32.

        Only target positions reach the output layer; those of one member must be neighbours.
        """
        row = pack(items, self.device)
        hidden_1ND = self(row.input_ids_1N, row.segments, row.position_ids_1N)
        return self.head.losses(hidden_1ND[0, row.target_at_M], row.targets_M)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """[N, hidden] -> [N, V], float32, by the model's own rule."""
        return self.head.logits(hidden_ND)

    def _targets(self, config: AdapterConfig) -> list[str]:
        wanted = config.targets
        if list(wanted) == [ALL_LINEAR]:
            return in_blocks(list(self.layers), config.layers)
        targets = [name for name in self.layers if name.rsplit(".", 1)[-1] in wanted or name in wanted]
        unknown = set(wanted) - {name.rsplit(".", 1)[-1] for name in self.layers} - set(self.layers)
        if unknown:
            known = sorted({name.rsplit(".", 1)[-1] for name in self.layers})
            raise ValueError(f"adapter.targets={sorted(unknown)}: no such linear layer; this model has {known}")
        return in_blocks(targets, config.layers)

    def _place(
        self, layer: BankLinear, name: str, a_RI: Tensor, b_OR: Tensor, config: AdapterConfig, seed: int
    ) -> None:
        device = self.device
        layer.lora_a[name] = nn.Parameter(a_RI.to(device=device, dtype=torch.float32))
        layer.lora_b[name] = nn.Parameter(b_OR.to(device=device, dtype=torch.float32))
        rank = math.sqrt(config.lora_r) if config.method is AdapterMethod.rslora else config.lora_r
        layer.scale[name] = config.lora_alpha / rank
        if config.allora_eta is not None:
            adapt_gradients(layer.lora_b[name], config.allora_eta)
        self.row.dropout[name] = (config.lora_dropout or 0.0, seed)
        self.row.forget()


class _MemberLayer(nn.Module):
    """A layer as one member sees it, in a row of its own."""

    def __init__(self, bank: AdapterBank, name: str, layer: BankLinear) -> None:
        super().__init__()
        self.lora_a, self.lora_b = layer.lora_a[name], layer.lora_b[name]
        self._bank_and_layer, self._name = (bank, layer), name  # within a tuple they are no modules of this one

    def forward(self, x: Tensor) -> Tensor:
        """[1, N, I] -> [1, N, O]"""
        bank, layer = self._bank_and_layer
        bank.row.forget()
        bank.begin_row([Segment(num_tokens=x.shape[1], member=self._name)])
        y: Tensor = layer(x)
        bank.row.forget()
        return y


def _set_submodule(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, child, module)
