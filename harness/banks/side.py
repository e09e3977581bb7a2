"""A causal model with QST's side network beside it, computed in packed rows as in `AdapterBank`.

The base has no graph: what the backward pass goes through is the side network and the output layer. Trained weights are
float32 and compute in the base's data type, whatever the base's own are stored as.
`save_member` writes two files under PEFT's names, `adapter_config.json` with `peft_type` QST, which PEFT doesn't know.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.banks.adapters.layers import layer_names
from harness.banks.causal import PackedBank
from harness.banks.owned import FIRST_WEIGHTS
from harness.config.schema import AdapterConfig, AdapterMethod
from harness.files.atomic import write_atomically
from harness.nn.attention import AttentionPlan
from harness.nn.batch import Segment, only_at
from harness.nn.masters import hold_in_float32
from harness.nn.quant import features
from harness.nn.rows import BatchCache
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SIDE, listed, read_peft_config, require_finite
from harness.variants.qst import SideNetwork, keeping


class SideBank(PackedBank):
    """One side network over a causal model that is frozen."""

    def __init__(self, folder: Path, *args: Any) -> None:
        super().__init__(folder, *args)
        self.side: SideNetwork | None = None
        self._alone = False  # the base computes without its side network
        self._checkpointing = False

    def add_member(self, name: str, config: AdapterConfig, seed: int) -> None:
        """Reads the base and draws a side network for it, from `seed`.

        Raises:
            ValueError: another member is in, or the base can't have such a network.
        """
        self._require_free(name)
        self.seed = seed
        self._put_beside(name, config)

    def load_member(self, name: str, folder: Path) -> None:
        """Reads what `save_member` wrote.

        Raises:
            ValueError: another member is in, or files of another base or kind.
        """
        self._require_free(name)
        saved = read_peft_config(folder, self.task_type)
        if saved["peft_type"] != SIDE:
            raise ValueError(f"{folder}: peft_type={saved['peft_type']}: no side network; expected {SIDE}")
        numbers = {key: saved[key] for key in ("qst_reduction", "qst_down_rank")}
        self._put_beside(name, AdapterConfig(name="qst", method=AdapterMethod.qst, **numbers))
        try:
            self.read_again(name, folder)
        except ValueError:
            self.remove_member(name)
            raise
        self.eval()

    def _put_beside(self, name: str, config: AdapterConfig) -> None:
        assert config.qst_reduction is not None
        assert config.qst_down_rank is not None
        model = self._read_base(as_it_is=False).requires_grad_(False).eval()
        if not self.layout.is_packed:
            raise ValueError(f"{self.folder}: adapter=qst needs attention that can be packed; use adapter=lora")
        with self._drawing(FIRST_WEIGHTS):
            side = SideNetwork(model, config.qst_reduction, config.qst_down_rank).to(self.device)
        hold_in_float32(side, self.dtype, apart=[side])
        side.checkpointing = self._checkpointing
        self._take(model)
        self.side = side
        self.configs[name] = config

    def forward(
        self,
        input_ids_1N: Tensor,
        segments: Sequence[Segment],
        position_ids_1N: Tensor | None = None,
        plan: AttentionPlan | BatchCache | None = None,
        read_at: Sequence[int] | None = None,
    ) -> Tensor:
        """As `AdapterBank.forward`: hidden states before the output layer, [1, N, hidden], or only at `read_at`."""
        side = self.side
        if side is None or self._alone:
            return super().forward(input_ids_1N, segments, position_ids_1N, plan, read_at)
        with keeping(side, self.base) as kept:
            last_1MD = super().forward(input_ids_1N, segments, position_ids_1N, plan, read_at)
        return side.mixed(last_1MD, only_at(read_at, side(kept)))

    @property
    def beside_share(self) -> float:
        """The side network's width as a part of the base's."""
        return 0.0 if self.side is None else self.side.norm.weight.numel() / self.base.config.hidden_size

    @property
    def serving_fields(self) -> dict[str, Any]:
        """What of the member changes its result beside its tensors."""
        return {} if self.side is None else {"peft_type": SIDE}

    def adapted_layers(self, name: str) -> list[tuple[int, int, str]]:
        """-> inputs, outputs and name of each linear layer in the base's blocks, which the side network has smaller"""
        return [(*features(self.base.get_submodule(key)), key) for key in layer_names(self.base)]

    def adapter_fields(self, name: str) -> dict[str, Any]:
        """What the number of the side network's weights follows from."""
        config, base = self.configs[name], self.base
        biases = [base.get_submodule(key).bias for key in layer_names(base)]
        return {
            "qst_reduction": config.qst_reduction,
            "qst_down_rank": config.qst_down_rank,
            "hidden_size": base.config.hidden_size,
            "num_layers": base.config.num_hidden_layers,
            "num_biases": sum(bias.numel() for bias in biases if bias is not None),
        }

    def adapter_layers(self, name: str) -> Iterator[tuple[nn.Module, nn.Module, tuple[int, int]]]:
        """None: there is nothing around a layer of the base."""
        yield from ()

    @contextmanager
    def without_member(self, name: str) -> Iterator[str | None]:
        """Within this context the base computes alone. Gives the member's own name."""
        self._alone = True
        try:
            yield name
        finally:
            self._alone = False

    def member_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """-> the side network's tensors by their names in it"""
        if name not in self.configs or self.side is None:
            raise ValueError(f"no member {name} in this bank; it holds {sorted(self.configs)}")
        return dict(self.side.named_parameters())

    def save_member(self, name: str, folder: Path, base_model: str, revision: str) -> str:
        """Writes the side network's config and its weights in float32, the weights last. -> sha256 of the weights"""
        config = self.configs[name]
        described = {
            "about": "QST's side network, written by qlora-harness; no adapter that PEFT can read",
            "peft_type": SIDE,
            "task_type": self.task_type,
            "base_model_name_or_path": base_model,
            "revision": revision,
            "qst_reduction": config.qst_reduction,
            "qst_down_rank": config.qst_down_rank,
        }
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.member_parameters(name).items()}
        data = save(tensors, metadata={"format": "pt"})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ADAPTER_CONFIG, json.dumps(described, indent=2, sort_keys=True))
        write_atomically(folder / ADAPTER_WEIGHTS, data)
        return hashlib.sha256(data).hexdigest()

    def read_again(self, name: str, folder: Path) -> None:
        """Reads the weights that `save_member` wrote into a member of the same sizes.

        Raises:
            ValueError: no such file, a damaged one, or one of another base.
        """
        path, parameters = folder / ADAPTER_WEIGHTS, self.member_parameters(name)
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: can't be read ({error}); copy it anew") from error
        require_finite(path, tensors)
        if unlike := parameters.keys() ^ tensors.keys():
            raise ValueError(f"{folder}: doesn't fit this base model: {listed(unlike)} is on one side only")
        for key, parameter in parameters.items():
            if parameter.shape != tensors[key].shape:
                shapes = f"{list(tensors[key].shape)}, here {list(parameter.shape)}"
                raise ValueError(f"{folder}: doesn't fit this base model: {key} has the shape {shapes}")
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[key])

    def remove_member(self, name: str) -> None:
        """Drops the member and its base."""
        super().remove_member(name)
        self.side = None

    def set_checkpointing(self, on: bool) -> None:
        """Turns on or off that each block of the side network is recomputed in the backward pass."""
        self._checkpointing = on
        if self.side is not None:
            self.side.checkpointing = on
