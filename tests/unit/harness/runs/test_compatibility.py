"""Which methods, quantizations, models and rows go together; each refusal names keys, values and the remedy."""

import re
from dataclasses import replace
from typing import Any

import pytest

from harness.config.schema import (
    WHOLE_METHODS,
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    ModelConfig,
    ModelKind,
    Optimizer,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
)
from harness.runs.compatibility import (
    is_calibrated,
    max_rank,
    method_problem,
    optimizer_problem,
    quant_problem,
    rank_problem,
    shard_problem,
    task_problem,
)

BY_SVD = {"pissa", "olora", "corda", "loftq", "lq_lora"}
OWN_KEYS: dict[str, dict[str, Any]] = {
    "allora": {"allora_eta": 3.0},
    "lq_lora": {"lq_rounds": 2},
    "qst": {"qst_reduction": 4, "qst_down_rank": 4},
    "s2ft": {"s2ft_share": 0.1, "targets": ["o_proj", "down_proj"]},
}
BY_HALVES = {"lora_ga", "eva"}


@pytest.mark.parametrize("method", [m for m in AdapterMethod if m is not AdapterMethod.peft])  # test_methods.py
@pytest.mark.parametrize("quant", QuantMethod)
def test_methods_and_quantizations(method: AdapterMethod, quant: QuantMethod) -> None:
    problem = quant_problem(method, quant)
    impossible = (method in WHOLE_METHODS and quant is not QuantMethod.none) or (
        method in (AdapterMethod.loftq, AdapterMethod.lq_lora) and quant is QuantMethod.none
    )
    assert (problem is not None) is impossible
    if problem is not None:
        assert f"adapter.method={method.value} with quant.method={quant.value}: " in problem
    model = ModelConfig(name="m", kind=ModelKind.seq2seq)
    calibrated = method.value in ("eva", "corda", "lora_ga")
    adapter = AdapterConfig(name="a", method=method, **OWN_KEYS.get(method.value, {}))
    found = method_problem(adapter, QuantConfig(name="q", method=quant), model)
    by_names = method in (AdapterMethod.s2ft, AdapterMethod.qst)
    assert (found is not None) is (impossible or calibrated or by_names)
    assert found is None or impossible or by_names or "use adapter=lora, dora, pissa or olora" in found


@pytest.mark.parametrize("method", AdapterMethod)
def test_the_largest_rank(method: AdapterMethod) -> None:
    largest = 7 if method.value in BY_SVD else 3 if method.value in BY_HALVES else 2**31
    assert max_rank(method, 7) == largest
    assert rank_problem(AdapterConfig(name="a", method=method, lora_r=largest), 7) is None
    if largest < 2**31:
        problem = rank_problem(AdapterConfig(name="a", method=method, lora_r=largest + 1), 7)
        assert f"adapter.lora_r={largest + 1} with adapter.method={method.value}: " in (problem or "")
        assert f"has 7 rows or columns; use adapter.lora_r={largest} or less" in (problem or "")


@pytest.mark.parametrize(
    ("shape", "smallest"),
    [
        ({"hidden_size": 64, "num_heads": 4, "num_kv_heads": 1, "intermediate_size": 200}, 16),
        ({"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 24}, 24),
        ({"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4}, 64),
        ({"hidden_size": 64, "num_heads": 4}, None),
        ({"hidden_size": 64, "num_kv_heads": 4}, None),
        ({"num_heads": 4, "num_kv_heads": 4}, None),
    ],
)
def test_the_rank_is_held_against_the_models_smallest_side(shape: dict[str, int], smallest: int | None) -> None:
    def problem(
        rank: int, kind: ModelKind = ModelKind.causal, targets: tuple[str, ...] = ("all-linear",)
    ) -> str | None:
        adapter = AdapterConfig(name="a", method=AdapterMethod.pissa, lora_r=rank, targets=list(targets))
        return method_problem(
            adapter, QuantConfig(name="q"), ModelConfig(name="m", kind=kind, shape=ShapeConfig(**shape))
        )

    assert problem(smallest or 10_000) is None
    if smallest is not None:
        assert f"smallest layer has {smallest} rows" in (problem(smallest + 1) or "")
        assert problem(smallest + 1, ModelKind.seq2seq) is None
        assert problem(smallest + 1, targets=("q_proj",)) is None, "the bank looks at the layers themselves"


@pytest.mark.parametrize("kind", ModelKind)
@pytest.mark.parametrize("format", ["alpaca", "glue_rte", "classification"])
@pytest.mark.parametrize("on_source", [False, True])
def test_rows_and_models(kind: ModelKind, format: str, on_source: bool) -> None:
    dataset = DatasetConfig(name="d", hub_id="o/d", format=format, train_on_source=on_source)
    problem = task_problem(ModelConfig(name="m", kind=kind), dataset)
    labelled = format != "alpaca"
    if labelled is not (kind is ModelKind.classifier):
        what = "has classes for targets, and model" if labelled else "has no labels, and model"
        assert f"dataset.format={format} {what}.kind={kind.value} " in (problem or "")
    elif kind is ModelKind.seq2seq and on_source:
        assert "dataset.train_on_source=true with model.kind=seq2seq" in (problem or "")
    else:
        assert problem is None


@pytest.mark.parametrize("method", AdapterMethod)
@pytest.mark.parametrize("kind", ModelKind)
def test_what_is_sharded(kind: ModelKind, method: AdapterMethod) -> None:
    shared = kind is ModelKind.causal and method.value in ("none", "lora", "rslora", "allora")
    assert (shard_problem(kind, method) is None) is shared


@pytest.mark.parametrize("method", AdapterMethod)
@pytest.mark.parametrize("optimizer", [Optimizer.muon, Optimizer.adamw])
def test_muon_is_for_matrices(method: AdapterMethod, optimizer: Optimizer) -> None:
    problem = optimizer_problem(AdapterConfig(name="a", method=method), optimizer)
    trains_vectors = method.value in ("full", "hft", "dora", "qst")
    assert (problem is not None) is (trains_vectors and optimizer is Optimizer.muon)


QST = AdapterConfig(name="qst", method=AdapterMethod.qst, qst_reduction=16, qst_down_rank=16)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lora_r": 8}, "adapter.lora_r=8: QST, quantized side tuning has no such number"),
        ({"lora_alpha": 8}, "adapter.lora_alpha=8: QST"),
        ({"lora_dropout": 0.1}, "adapter.lora_dropout=0.1: QST"),
        ({"targets": ["q_proj"]}, "adapter.targets=['q_proj']: QST"),
        ({"layers": [1]}, "adapter.layers=[1] with adapter=qst: its side network reads all"),
        ({"lora_plus_ratio": 4.0}, "adapter.lora_plus_ratio=4.0 with adapter=qst"),
        ({"qst_reduction": None}, "adapter=qst needs adapter.qst_reduction"),
        ({"qst_down_rank": None}, "adapter=qst needs adapter.qst_down_rank"),
        ({"method": AdapterMethod.lora}, "adapter.qst_reduction=16: of adapter=qst only, and this is adapter=lora"),
        ({}, None),
        ({"qst_down_rank": 0}, None),
        ({"qst_reduction": 3}, "adapter.qst_reduction=3: it has to divide the model's width of 4,096, the 11,008"),
    ],
)
def test_keys_of_a_side_network(changes: dict[str, Any], problem: str | None) -> None:
    shape = ShapeConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_layers=2, num_heads=32, num_kv_heads=32
    )
    model = ModelConfig(name="m", kind=ModelKind.causal, shape=shape)
    found = method_problem(replace(QST, **changes), QuantConfig(name="nf4"), model)
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize("kind", ModelKind)
def test_a_side_network_is_beside_causal_models(kind: ModelKind) -> None:
    found = method_problem(QST, QuantConfig(name="nf4"), ModelConfig(name="m", kind=kind))
    if kind is ModelKind.causal:
        assert found is None
    else:
        assert f"adapter.method=qst with model.kind={kind.value}: " in str(found)


@pytest.mark.parametrize("reduction", [1, 0, -2])
def test_a_side_network_is_narrower(reduction: int) -> None:
    with pytest.raises(ValueError, match="a side network is narrower; use 2 or more"):
        replace(QST, qst_reduction=reduction)


@pytest.mark.parametrize(
    ("keys", "quant", "kind", "message"),
    [
        ({"bits": 2.75, "fisher": True}, QuantMethod.nf4, ModelKind.causal, None),
        ({"bits": 2.04}, QuantMethod.nf4, ModelKind.seq2seq, None),
        ({"bits": 8.625}, QuantMethod.nf4, ModelKind.classifier, None),
        (
            {"bits": 2.03},
            QuantMethod.nf4,
            ModelKind.causal,
            r"adapter\.bits=2\.03: the formats take 2\.032 to 8\.625 bits",
        ),
        ({"bits": 8.7}, QuantMethod.nf4, ModelKind.causal, r"adapter\.bits=8\.7: the formats take"),
        ({"bits": float("nan")}, QuantMethod.nf4, ModelKind.causal, r"adapter\.bits=nan: the formats take"),
        (
            {"bits": 4.0},
            QuantMethod.int8,
            ModelKind.causal,
            r"adapter\.bits=4 with quant\.method=int8: .* use quant=nf4",
        ),
        ({"fisher": True}, QuantMethod.int8, ModelKind.causal, None),
        (
            {"fisher": True},
            QuantMethod.nf4,
            ModelKind.seq2seq,
            r"adapter\.fisher=true with model\.kind=seq2seq: .*=false",
        ),
    ],
)
def test_bits_and_weights_by_data(
    keys: dict[str, Any], quant: QuantMethod, kind: ModelKind, message: str | None
) -> None:
    adapter = AdapterConfig(name="a", method=AdapterMethod.lq_lora, lq_rounds=2, **keys)
    problem = method_problem(adapter, QuantConfig(name="q", method=quant), ModelConfig(name="m", kind=kind))
    assert problem is None if message is None else re.search(message, str(problem))
    assert is_calibrated(adapter) is bool(keys.get("fisher"))


def test_a_run_is_named_by_its_bits_and_data() -> None:
    adapter = AdapterConfig(name="a", method=AdapterMethod.lq_lora, lq_rounds=2)
    assert adapter.method_name == "lq_lora"
    assert replace(adapter, bits=3.0).method_name == "lq_lora_3_bits"
    assert replace(adapter, bits=2.75, fisher=True).method_name == "lq_lora_fisher_2.75_bits"
