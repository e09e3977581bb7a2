"""The row length of a worker's group: by the loaded model's shape, and by what its device has left."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config.schema import AdapterMethod, ModelKind, ShapeConfig
from harness.memory.row_length import USABLE, usable_bytes
from harness.runs.spec import RunSpec
from sweeps.jobs import row_tokens
from sweeps.jobs.row_tokens import agreed_row_tokens, with_shape
from tests.builders import spec

NUMBERS = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2,
}  # fmt: skip


def base(layers: tuple[str, ...] = ("model.layers.0.mlp.gate_proj",), **changes: Any) -> Any:
    config = SimpleNamespace(**{**NUMBERS, **changes})
    return SimpleNamespace(
        bank=SimpleNamespace(base=SimpleNamespace(config=config), layers=layers, device=torch.device("cpu"))
    )


def unshaped(**changes: Any) -> RunSpec:
    one = spec(**changes)
    return replace(one, model=replace(one.model, shape=ShapeConfig()))


def test_a_model_without_a_shape_of_its_own_has_the_loaded_ones() -> None:
    shape = with_shape(unshaped(), base(tie_word_embeddings=True)).model.shape
    assert shape == ShapeConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=256,
        num_layers=3,
        num_heads=8,
        num_kv_heads=2,
        gated_mlp=True,
        tied_embeddings=True,
    )
    plain = with_shape(unshaped(), base(("model.layers.0.mlp.up_proj",))).model.shape
    assert (plain.gated_mlp, plain.tied_embeddings) == (False, False)


def test_what_the_predictor_does_not_know_stays_without_a_shape() -> None:
    lacking = unshaped()
    assert with_shape(lacking, base(num_key_value_heads=None)) is lacking
    shaped = with_shape(lacking, base())
    assert with_shape(shaped, base(num_hidden_layers=9)) is shaped
    other = replace(lacking, model=replace(lacking.model, kind=ModelKind.classifier))
    assert with_shape(other, base()) is other
    apart = replace(lacking, adapter=replace(lacking.adapter, method=AdapterMethod.dora))
    assert with_shape(apart, base()) is apart


def test_a_worker_has_its_share_of_the_device_or_what_others_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_tokens._usable_bytes(torch.device("cpu"), 2) is None
    whole, held = 80 * 2**30, 2**30
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=whole))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held)
    device = torch.device("cuda", 0)
    for free in (70 * 2**30, 10 * 2**30):
        monkeypatch.setattr(row_tokens, "free_bytes", lambda device, free=free: free)
        expected = min(usable_bytes(whole, 2), int(USABLE * (free + held)))
        assert row_tokens._usable_bytes(device, 2) == expected


@pytest.mark.parametrize(("device", "leads", "told"), [("cpu", True, 0), ("cuda", True, 1), ("cuda", False, 0)])
def test_the_shortest_row_of_all_ranks_is_agreed_on_and_told_once(
    device: str, leads: bool, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    asked: list[Any] = []

    def tokens(specs: Any, kind: Any, usable: Any, num_shards: int) -> int:
        asked.append((len(specs), kind.value, usable, num_shards))
        return 4096

    monkeypatch.setattr(row_tokens, "row_tokens", tokens)
    monkeypatch.setattr(row_tokens, "_usable_bytes", lambda device, workers: 7 * workers)
    monkeypatch.setattr(row_tokens, "group_bytes", lambda specs, tokens, num_shards: 2_500_000_000)
    ranks = SimpleNamespace(size=2, leads=leads, span=lambda values: [[1024, 4096]])
    place: Any = SimpleNamespace(
        peers=SimpleNamespace(ranks=ranks),
        shards_base=leads,
        settings=SimpleNamespace(workers_on_device=3),
        send=sent.append,
    )
    loaded = base()
    loaded.bank.device = torch.device(device)
    one = unshaped()
    assert agreed_row_tokens(place, loaded, [one, one]) == 1024
    assert asked == [(2, device, 21, 2 if leads else 1)]
    assert len(sent) == told
    if sent:
        what = f"{one.model.name} {one.quant.label}: 2 runs in rows of 1,024 tokens, 2.5 GB at the peak as predicted"
        assert sent == [{"phase": "note", "label": one.model.name, "note": what}]
