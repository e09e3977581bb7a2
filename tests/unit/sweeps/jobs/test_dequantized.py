"""Dequantized layers are kept where they fit or are asked for, and change no bit of a result."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.banks.load import LoadedBase, load_base
from harness.banks.shared import AdapterBank
from harness.config.schema import (
    AdapterConfig,
    Config,
    DatasetConfig,
    DType,
    LaunchConfig,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.devices.ranks import Ranks
from harness.memory.predict import kept_dequantized_bytes
from harness.memory.row_length import USABLE, group_bytes
from harness.models.locate import ModelSource
from harness.nn.batch import Item, Segment
from harness.runs.spec import RunSpec, make_spec
from sweeps.jobs import row_tokens
from sweeps.jobs.peers import Peers
from sweeps.jobs.row_tokens import keep_dequantized, with_shape
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU = torch.device("cpu")
LORA = AdapterConfig(name="lora", lora_r=4, lora_alpha=8, lora_dropout=0.1)
LAYER_WEIGHTS = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)  # of the tiny model's two decoder layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def quant(method: str = "nf4", dtype: DType = DType.float32) -> QuantConfig:
    return QuantConfig(name=method, method=QuantMethod(method), compute_dtype=dtype)


def load(folder: Path, stored: QuantConfig) -> LoadedBase:
    source = ModelSource(kind="folder", location=str(folder), revision="", max_length=128)
    return load_base(source, stored, CPU, folder)


@pytest.fixture(scope="module")
def nf4(folder: Path) -> LoadedBase:
    return load(folder, quant())


@pytest.fixture
def base(nf4: LoadedBase) -> Iterator[LoadedBase]:
    yield nf4
    bank_of(nf4).keep_dequantized(False)


def bank_of(base: LoadedBase) -> AdapterBank:
    assert isinstance(base.bank, AdapterBank)
    return base.bank


def results(bank: AdapterBank) -> list[Tensor]:
    """Losses and gradients of a row of two members, and what scoring and a decoded token see."""
    rng = np.random.default_rng(0)
    names = ("a", "b")
    for seed, name in enumerate(names):
        bank.add_member(name, LORA, seed=seed)
    tokens = [rng.integers(3, VOCAB_SIZE, size=size).astype(np.int32) for size in (9, 6)]
    items = [
        Item(member=name, tokens=ids, num_source=2, dropout_key=3, weight=1.0)
        for name, ids in zip(names, tokens, strict=True)
    ]
    losses = bank.train().item_losses(items)
    losses.sum().backward()
    grads = [p.grad for name in names for p in bank.member_parameters(name).values() if p.grad is not None]
    bank.eval()
    with torch.inference_mode():
        hidden = [bank(torch.arange(5, 5 + n)[None], [Segment(num_tokens=n, member="a")]) for n in (7, 1)]
    for name in names:
        bank.remove_member(name)
    return [losses.detach(), *grads, *hidden]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "stored",
    [
        quant(),
        replace(quant(), double_quant=False, block_size=128),
        quant("fp4"),
        quant("nf4", DType.bfloat16),
        quant("int8"),
        quant("none"),
    ],
    ids=lambda stored: f"{stored.method.value} {stored.double_quant} {stored.compute_dtype.value}",
)
def test_no_bit_of_a_result_changes(folder: Path, stored: QuantConfig, checkpointing: bool) -> None:
    bank = bank_of(load(folder, stored))
    bank.set_checkpointing(checkpointing)
    plain = results(bank)
    bank.keep_dequantized(True)
    is_4bit = stored.method in (QuantMethod.nf4, QuantMethod.fp4)
    element_bytes = 2 if stored.compute_dtype is DType.bfloat16 else 4
    assert bank.dequantized_bytes == (element_bytes * LAYER_WEIGHTS if is_4bit else 0)
    kept = results(bank)
    assert len(plain) == len(kept) == 3 + 2 * 2 * 14
    assert all(torch.equal(one, other) for one, other in zip(plain, kept, strict=True))
    bank.keep_dequantized(False)
    assert bank.dequantized_bytes == 0


def test_what_is_kept_is_no_part_of_the_model(base: LoadedBase) -> None:
    before = set(base.bank.base.state_dict())
    bank_of(base).keep_dequantized(True)
    assert set(base.bank.base.state_dict()) == before
    assert bank_of(base).quantized_share > 0


def spec(stored: QuantConfig) -> RunSpec:
    config = Config(
        model=ModelConfig(name="m", hub_id="a/m", max_length=128),
        dataset=DatasetConfig(name="d", hub_id="a/d", format="alpaca", source_max_tokens=16, target_max_tokens=16),
        quant=stored,
        adapter=LORA,
        train=TrainConfig(max_steps=1),
    )
    return make_spec(config, DType.float32, lambda path: "")


def place(sent: list[Any], wanted: bool | None = None, workers: int = 1) -> Any:
    settings = SimpleNamespace(workers_on_device=workers, launch=LaunchConfig(keep_dequantized=wanted))
    return SimpleNamespace(peers=Peers(ranks=Ranks()), settings=settings, shards_base=False, send=sent.append)


def is_kept(base: LoadedBase, free: float, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bool:
    monkeypatch.setattr(row_tokens, "free_bytes", lambda device: free)
    sent: list[Any] = []
    keep_dequantized(place(sent, **options), base, [spec(quant())], 512)
    assert sent == []
    return bank_of(base).dequantized_bytes > 0


def test_they_are_kept_where_the_prediction_fits(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    shaped = with_shape(spec(quant()), base)
    assert kept_dequantized_bytes(shaped.model.shape, quant()) == 4 * LAYER_WEIGHTS
    peak = group_bytes([shaped], 512)
    assert peak is not None
    needed = (peak + 4 * LAYER_WEIGHTS) / USABLE
    assert not is_kept(base, needed - 8, monkeypatch)
    assert is_kept(base, needed + 8, monkeypatch)
    assert is_kept(base, needed + 8 - 4 * LAYER_WEIGHTS, monkeypatch), "they lie there already"
    assert not is_kept(base, needed + 8 - 8 * LAYER_WEIGHTS, monkeypatch), "there is less room now"
    assert not is_kept(base, needed + 8, monkeypatch, workers=2)
    assert is_kept(base, 2 * needed + 16, monkeypatch, workers=2)


def test_the_key_decides(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_kept(base, 0, monkeypatch, wanted=True)
    assert not is_kept(base, 10**12, monkeypatch, wanted=False)


def test_on_a_gpu_they_are_kept_where_asked_for(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdapterBank, "device", property(lambda bank: torch.device("cuda")))
    assert not is_kept(base, 10**12, monkeypatch)
    assert is_kept(base, 0, monkeypatch, wanted=True)


@pytest.mark.parametrize("method", ["int8", "none"])
def test_a_key_without_effect_is_named(base: LoadedBase, method: str) -> None:
    sent: list[Any] = []
    keep_dequantized(place(sent, wanted=True), base, [spec(quant(method))], 512)
    assert [message["note"] for message in sent] == [
        f"note: launch.keep_dequantized=true: it is of no effect with quant.method={method}"
    ]
    owned: Any = SimpleNamespace(bank=SimpleNamespace(shards=None))
    keep_dequantized(place(sent, wanted=True), owned, [spec(quant())], 512)
    assert "with a base that each run owns or ranks share out" in sent[1]["note"]
    keep_dequantized(place(sent), owned, [spec(quant())], 512)
    assert len(sent) == 2
