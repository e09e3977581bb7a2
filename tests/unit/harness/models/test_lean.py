"""The lean decoder computes what the model's own code computes, and is used only where that is so."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MistralConfig, PretrainedConfig

from harness.banks.load import make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, AdapterMethod, DType, ModelKind, QuantConfig, QuantMethod
from harness.models.lean import lean_of
from harness.nn.attention import Branches, KeyValue, Packed, PrefixGroup, SharedPrefix
from harness.nn.batch import Segment, segments_read
from harness.nn.rows import fitting_layout
from tests.families import FAMILIES, GROUPED, draw_weights
from tests.tiny import make_checkpoint

SEGMENTS = [
    Segment(num_tokens=5, member="a"),
    Segment(num_tokens=3, member="a"),
    Segment(num_tokens=4, member=None),
    Segment(num_tokens=6, member="b"),
]
LEAN = {
    "llama": FAMILIES["llama"],
    "qwen2": FAMILIES["qwen2"],  # biases
    "mistral": MistralConfig(**GROUPED, head_dim=16, sliding_window=None, rms_norm_eps=0.1),
}


def bank_of(config: PretrainedConfig) -> AdapterBank:
    """A base with two adapters, laid out as it is when it is loaded."""
    bank = AdapterBank(draw_weights(AutoModelForCausalLM.from_config(deepcopy(config))))
    add_adapters(bank)
    bank.layout = fitting_layout(bank.base, "here", lean_of(bank.base))
    return bank


def add_adapters(bank: AdapterBank) -> None:
    """Two of them, neither without effect."""
    for seed, name in enumerate(("a", "b")):
        bank.add_member(name, AdapterConfig(name="lora", lora_r=2, lora_alpha=4, lora_dropout=0.5), seed=seed)
        for parameter in bank.member_parameters(name).values():
            parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed))
    bank.eval()


def own_bank(bank: AdapterBank) -> AdapterBank:
    """The same, by the model's own code."""
    own = deepcopy(bank)
    own.layout = replace(bank.layout, is_lean=False)
    return own


@pytest.fixture(scope="module", params=list(LEAN))
def bank(request: pytest.FixtureRequest) -> AdapterBank:
    return bank_of(LEAN[request.param])


def row() -> Tensor:
    return torch.arange(3, 3 + sum(segment.num_tokens for segment in SEGMENTS))[None] * 5 % 97


def calls_of(module: nn.Module) -> list[tuple[int, ...]]:
    """The shapes of a module's results, once it has been called."""
    shapes: list[tuple[int, ...]] = []
    module.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    return shapes


@pytest.mark.parametrize("read_at", [None, [4, 7, 11, 17], [0, 9, 10], [6], []])
def test_it_computes_what_the_models_own_code_does(bank: AdapterBank, read_at: list[int] | None) -> None:
    """For adapters and the base in one row, at all places or those that are read: some segments have none."""
    assert bank.layout.is_lean
    with torch.inference_mode():
        hidden = bank(row(), SEGMENTS, read_at=read_at)
        everything = own_bank(bank)(row(), SEGMENTS)
    assert hidden.shape[1] == (18 if read_at is None else len(read_at))
    torch.testing.assert_close(hidden, everything if read_at is None else everything[:, read_at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [QuantMethod.nf4, QuantMethod.int8])
def test_quantized_layers_are_called_as_they_are(method: QuantMethod, tmp_path: Path) -> None:
    """Whoever shares the row: a member's hidden states alone and in company."""
    quant = QuantConfig(name=method.value, method=method, compute_dtype=DType.float32)
    folder = make_checkpoint(tmp_path)
    bank = make_bank(folder, ModelKind.causal, AdapterMethod.lora, quant, torch.device("cpu"))
    assert isinstance(bank, AdapterBank)
    add_adapters(bank)
    assert bank.layout.is_lean
    with torch.inference_mode():
        together = bank(row(), SEGMENTS, read_at=[7, 11, 17])
        alone = bank(row()[:, 12:], SEGMENTS[3:], read_at=[5])
    with torch.no_grad():
        own = bank(row(), SEGMENTS)[:, [7, 11, 17]]
    torch.testing.assert_close(together, own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone[0, 0], together[0, 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "plan",
    [lambda record: Branches([(5, [3, 4]), (0, [6])]), lambda record: Packed([5, 3, 4, 6], record=record)],
)
def test_plans_are_asked_and_recorded_alike(
    bank: AdapterBank, plan: Callable[[list[KeyValue]], Branches | Packed]
) -> None:
    records: list[list[KeyValue]] = [[], []]
    positions = torch.tensor([[*range(5), *range(5, 8), *range(5, 9), *range(6)]])
    with torch.inference_mode():
        ours, own = (
            one(row(), SEGMENTS, positions, plan(record), read_at=[2, 17])
            for one, record in zip((bank, own_bank(bank)), records, strict=True)
        )
    torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(records[0], records[1], rtol=1e-5, atol=1e-5)


def test_a_recorded_prefix_goes_on(bank: AdapterBank) -> None:
    """Nothing of the prefix is read, yet its keys and values are all there."""
    tokens, segment = row()[:, :12], [Segment(num_tokens=12, member="a")]
    record: list[KeyValue] = []
    with torch.inference_mode():
        assert (
            bank(tokens[:, :8], [replace(segment[0], num_tokens=8)], plan=Packed([8], record), read_at=()).numel() == 0
        )
        plan = SharedPrefix([PrefixGroup(record, [4])])
        ours = bank(tokens[:, 8:], [replace(segment[0], num_tokens=4)], torch.arange(8, 12)[None], plan, read_at=[3])
        own = own_bank(bank)(tokens, segment)
    torch.testing.assert_close(ours[0, 0], own[0, 11], rtol=1e-5, atol=1e-5)


def test_the_last_layer_ends_with_what_is_read() -> None:
    bank = bank_of(LEAN["llama"])
    first, last = (calls_of(bank.layers[f"model.layers.{layer}.mlp.down_proj"]) for layer in (0, 1))
    with torch.inference_mode():
        bank(row(), SEGMENTS, read_at=[4, 17])
        bank(row(), SEGMENTS, read_at=())
    assert first == [(1, 18, 32)] * 2
    assert last == [(1, 2, 32)]


def test_losses_on_held_out_examples_run_the_models_own_code() -> None:
    bank = bank_of(LEAN["llama"])
    calls = calls_of(bank.base.model.norm)
    with torch.no_grad():
        bank(row(), SEGMENTS)
    bank.train()
    with torch.inference_mode():
        bank(row(), SEGMENTS)
    assert len(calls) == 2
    bank.eval()
    with torch.inference_mode():
        bank(row(), SEGMENTS)
    assert len(calls) == 2


class _OwnMlp(nn.Module):
    """A module of another type with the same layers; it computes something else."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
            mlp.act_fn,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden).relu())
        return out


def _other_mlp(model: Any) -> None:
    model.model.layers[1].mlp = _OwnMlp(model.model.layers[1].mlp)


def _other_activation(model: Any) -> None:
    model.model.layers[1].mlp.act_fn = nn.GELU()


def _hooked_mlp(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda *call: 2 * call[2])


def _hooked_layer(model: Any) -> None:
    model.model.layers[0].register_forward_pre_hook(lambda *call: None)


def _16_bits(model: Any) -> None:
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [_other_mlp, _other_activation, _hooked_mlp, _hooked_layer, _16_bits])
def test_a_model_that_was_changed_runs_its_own_code(change: Callable[[Any], None]) -> None:
    model = draw_weights(AutoModelForCausalLM.from_config(deepcopy(FAMILIES["llama"])))
    change(model)
    layout = fitting_layout(model.eval(), "here", lean_of(model))
    assert layout.is_packed
    assert not layout.is_lean


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gemma", "granite", "cohere"])
def test_other_families_and_windows_run_their_own_code(family: str) -> None:
    """They still return only what is read."""
    bank = bank_of(FAMILIES[family])
    assert bank.layout.is_packed
    assert not bank.layout.is_lean
    with torch.inference_mode():
        torch.testing.assert_close(bank(row(), SEGMENTS, read_at=[3, 9]), bank(row(), SEGMENTS)[:, [3, 9]])


def test_segments_that_are_read() -> None:
    read = segments_read(SEGMENTS, [4, 5, 7, 17])
    assert [(segment.num_tokens, segment.member) for segment in read] == [(1, "a"), (2, "a"), (1, "b")]
    assert segments_read(SEGMENTS, range(18)) == SEGMENTS
