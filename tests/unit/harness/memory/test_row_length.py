"""How long rows are: by what fits, never longer than makes a run page, and as today on a CPU."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    Config,
    DatasetConfig,
    Device,
    DType,
    Mode,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.devices.ranks import Ranks
from harness.memory.row_length import (
    CONTEXT_BYTES,
    GPU_ROW_TOKENS,
    UNKNOWN_ROW_TOKENS,
    group_bytes,
    row_tokens,
    usable_bytes,
)
from harness.memory.runs import predict_run
from harness.runs.spec import RunSpec, make_spec
from sweeps.jobs.peers import Peers
from sweeps.jobs.row_tokens import agreed_row_tokens, with_shape

GB = 10**9
SHAPE = ShapeConfig(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32
)


def spec(shape: ShapeConfig = SHAPE, quant: str = "nf4", method: str = "lora", **train: Any) -> RunSpec:
    config = Config(
        model=ModelConfig(name="m", hub_id="a/m", shape=shape),
        dataset=DatasetConfig(name="d", hub_id="a/d", format="alpaca"),
        quant=QuantConfig(name=quant, method=QuantMethod(quant)),
        adapter=AdapterConfig(name=method, method=AdapterMethod(method), lora_dropout=0.0),
        train=TrainConfig(max_steps=1, **train),
    )
    return make_spec(config, DType.bfloat16, lambda path: "")


def on_gpu(specs: list[RunSpec], gigabytes: float, **options: Any) -> int:
    return row_tokens(specs, Device.cuda, usable_bytes(int(gigabytes * GB)), **options)


def test_a_row_is_the_longest_whose_peak_fits() -> None:
    for tokens, longer in zip(GPU_ROW_TOKENS, [*GPU_ROW_TOKENS[1:], None], strict=True):
        peak = group_bytes([spec()], tokens)
        assert peak is not None
        assert row_tokens([spec()], Device.cuda, peak) == tokens
        assert row_tokens([spec()], Device.cuda, peak - 1) == max(GPU_ROW_TOKENS[0], tokens // 2)
        assert longer is None or longer == 2 * tokens
    assert on_gpu([spec()], 24) == 2048
    assert on_gpu([spec()], 80) == 8192, "8k to 16k on large cards"
    assert on_gpu([spec()], 141) == 16384
    assert on_gpu([spec(gradient_checkpointing=True)], 48) == 16384
    assert on_gpu([spec()], 8) == 2048, "what fits nowhere is tried with the shortest"


def test_a_group_leaves_less_room() -> None:
    alone, eight = group_bytes([spec()], 2048), group_bytes([spec(seed=seed) for seed in range(8)], 2048)
    assert alone is not None
    assert eight is not None
    known = predict_run(spec(), num_members=8)
    assert known is not None
    assert eight == known.total_bytes
    assert (on_gpu([spec()], 60), on_gpu([spec()] * 8, 60)) == (8192, 4096)
    mixed = group_bytes([spec(), replace(spec(), adapter=replace(spec().adapter, lora_r=8))], 2048)
    assert mixed is not None
    assert alone < mixed < eight


def test_what_a_run_names_counts() -> None:
    assert on_gpu([spec(max_microbatch_tokens=512)], 141) == 512
    assert on_gpu([spec(max_microbatch_tokens=512), spec(max_microbatch_tokens=1024)], 141) == 1024
    assert on_gpu([spec(max_microbatch_tokens=512), spec()], 80) == 8192
    assert on_gpu([spec(max_microbatch_tokens=20000), spec()], 80) == 20000
    faithful = spec(mode=Mode.faithful)
    assert on_gpu([faithful], 141) == 1, "one example a row, as the original"


def test_a_cpu_has_the_rows_that_it_always_had() -> None:
    assert row_tokens([spec()], Device.cpu, None) == 2048
    assert row_tokens([spec(shape=ShapeConfig())], Device.cpu, None) == 2048
    assert row_tokens([spec()], Device.cuda, None) == 2048, "a GPU that nobody knows"
    assert spec().train is not None
    assert TrainConfig().row_tokens == 2048
    assert TrainConfig(max_microbatch_tokens=1).row_tokens == 1


def test_where_the_predictor_does_not_reach() -> None:
    assert on_gpu([spec(shape=ShapeConfig())], 141) == UNKNOWN_ROW_TOKENS
    assert on_gpu([spec(method="dora")], 141) == UNKNOWN_ROW_TOKENS, "it is known, and fits"
    assert on_gpu([spec(method="dora")], 40) == 2048, "which keeps more than twice what LoRA does"
    assert on_gpu([spec(quant="int8")], 141) > 2048, "a token's outliers are no others'"
    assert on_gpu([spec(shape=ShapeConfig())], 141, most=2048) == 2048


def test_workers_share_a_gpu() -> None:
    assert usable_bytes(80 * GB, 2) == 38 * GB - CONTEXT_BYTES
    assert row_tokens([spec()], Device.cuda, usable_bytes(80 * GB, 2)) < on_gpu([spec()], 80)


def test_no_run_pages_for_a_longer_row() -> None:
    specs = [spec() for _ in range(8)]
    for gigabytes in (24, 40, 48, 80, 141):
        tokens = on_gpu(specs, gigabytes)
        peak_bytes = group_bytes(specs, tokens)
        assert peak_bytes is not None
        assert tokens == 2048 or peak_bytes <= usable_bytes(gigabytes * GB)
    shortest = group_bytes(specs, 2048)
    assert shortest is not None
    assert shortest > usable_bytes(24 * GB), "the shortest row is taken although it pages"
    assert group_bytes([spec(shape=ShapeConfig())], 2048) is None


def base_of(device: str, config: object = None) -> Any:
    layers = {"model.layers.0.mlp.gate_proj": None}
    bank = SimpleNamespace(device=torch.device(device), base=SimpleNamespace(config=config), layers=layers)
    return SimpleNamespace(bank=bank)


def place(sent: list[dict[str, Any]], ranks: Any, workers: int = 1) -> Any:
    settings = SimpleNamespace(workers_on_device=workers)
    return SimpleNamespace(peers=Peers(ranks=ranks), settings=settings, shards_base=False, send=sent.append)


def gpu_of(monkeypatch: pytest.MonkeyPatch, total: int, free: int, allocated: int = 0) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    monkeypatch.setattr("sweeps.jobs.row_tokens.free_bytes", lambda device: free)


def test_a_worker_takes_what_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 80 * GB, free=75 * GB, allocated=4 * GB)
    sent: list[dict[str, Any]] = []
    assert agreed_row_tokens(place(sent, Ranks()), base_of("cuda"), [spec()]) == on_gpu([spec()], 80)
    assert "1 runs in rows of 8,192 tokens" in sent[0]["note"]
    assert agreed_row_tokens(place(sent, Ranks(), workers=2), base_of("cuda"), [spec()]) == 4096
    gpu_of(monkeypatch, 80 * GB, free=20 * GB, allocated=4 * GB)
    assert agreed_row_tokens(place(sent, Ranks()), base_of("cuda"), [spec()]) == 2048, "somebody else is on the device"


def test_a_worker_on_a_cpu_says_nothing() -> None:
    sent: list[dict[str, Any]] = []
    assert agreed_row_tokens(place(sent, Ranks()), base_of("cpu"), [spec()]) == 2048
    assert sent == []


def test_ranks_agree_on_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 141 * GB, free=136 * GB, allocated=4 * GB)
    ranks = SimpleNamespace(size=2, leads=True, span=lambda values: ([4096.0], list(values)))
    assert agreed_row_tokens(place([], ranks), base_of("cuda"), [spec()]) == 4096


def test_a_shape_that_no_yaml_has_is_the_loaded_models() -> None:
    numbers = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    config = SimpleNamespace(**numbers, num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=False)
    unknown = spec(shape=ShapeConfig())
    assert with_shape(unknown, base_of("cpu", config)).model.shape == SHAPE
    assert with_shape(unknown, base_of("cpu", SimpleNamespace(vocab_size=5))) == unknown
    assert with_shape(spec(), base_of("cpu", None)) == spec(), "a YAML's shape stays"
    assert with_shape(unknown, base_of("cpu", config)).run_id == unknown.run_id
