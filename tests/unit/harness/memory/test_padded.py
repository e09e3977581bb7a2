"""The memory of padded batches, as it is predicted, is that of the program itself on tensors without data."""

from dataclasses import replace

import pytest

from harness.config.choices import model_choice, quant_choice
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    Device,
    DType,
    ModelConfig,
    ModelKind,
    Optimizer,
    ShapeConfig,
    TrainConfig,
)
from harness.memory.command import expected_bytes
from harness.memory.floor import floor_run
from harness.memory.measured.program import Case, measure
from harness.memory.measured.storages import ADAPTERS, WEIGHTS
from harness.memory.padded import predict_padded
from harness.memory.row_length import UNKNOWN_ROW_TOKENS, group_bytes, row_tokens
from harness.memory.runs import predict_run
from harness.runs.spec import RunSpec

SHAPE = ShapeConfig(
    vocab_size=1000, hidden_size=128, intermediate_size=384, num_layers=2, num_heads=2, num_kv_heads=2, gated_mlp=True
)
UNGATED = replace(SHAPE, gated_mlp=False)
LORA = AdapterConfig(name="lora", lora_r=8, lora_alpha=16, lora_dropout=0.0)
T5, ROBERTA = ModelKind.seq2seq, ModelKind.classifier


def model_of(kind: ModelKind, shape: ShapeConfig = SHAPE) -> ModelConfig:
    name, shape = ("t5", shape) if kind is T5 else ("roberta", UNGATED)
    return ModelConfig(name=name, hub_id="none", kind=kind, max_length=512, shape=shape)


def error(case: Case) -> float:
    """The prediction's, relative to what is measured."""
    found = measure(case)
    source = case.sequence // 2 if case.source is None else case.source
    prediction = predict_padded(case.model, case.quant, case.adapter, case.train, case.tokens, case.sequence, source)
    assert prediction is not None
    assert found.peak.by_category[WEIGHTS] == pytest.approx(prediction.weights_bytes, rel=0.07)
    assert found.peak.by_category[ADAPTERS] == pytest.approx(prediction.adapter_bytes, rel=0.02)
    return expected_bytes(prediction, found.optimizer) / found.peak.num_bytes - 1


@pytest.mark.parametrize(
    ("kind", "quant", "dtype", "checkpointing", "tokens", "sequence", "changes"),
    [
        (T5, "nf4", "bfloat16", True, 1024, 256, {}),
        (T5, "bf16", "bfloat16", False, 850, 300, {"lora_dropout": 0.1}),
        (ROBERTA, "none", "float32", True, 1024, 256, {}),
        (ROBERTA, "int8", "bfloat16", False, 300, 300, {"lora_dropout": 0.1}),
        pytest.param(T5, "nf4", "bfloat16", False, 1024, 256, {}, marks=pytest.mark.slow),
        pytest.param(T5, "none", "float32", False, 256, 256, {}, marks=pytest.mark.slow),
        pytest.param(T5, "int8", "bfloat16", True, 500, 500, {}, marks=pytest.mark.slow),
        pytest.param(ROBERTA, "nf4", "bfloat16", False, 1024, 256, {}, marks=pytest.mark.slow),
    ],
)
def test_tiny_models(
    kind: ModelKind,
    quant: str,
    dtype: str,
    checkpointing: bool,
    tokens: int,
    sequence: int,
    changes: dict[str, float],
) -> None:
    case = Case(
        model=model_of(kind),
        quant=replace(quant_choice(quant), compute_dtype=DType(dtype)),
        adapter=replace(LORA, **changes),
        tokens=tokens,
        sequence=sequence,
        train=TrainConfig(gradient_checkpointing=checkpointing, optimizer=Optimizer.adamw),
    )
    assert abs(error(case)) < 0.05


@pytest.mark.parametrize("source", [32, pytest.param(224, marks=pytest.mark.slow)])
def test_the_first_t5_with_long_sources_or_long_targets(source: int) -> None:
    """ReLU without a gate, the output layer tied, scaled states."""
    case = Case(
        model=model_of(T5, replace(UNGATED, tied_embeddings=True)),
        quant=quant_choice("bf16"),
        adapter=LORA,
        tokens=1024,
        sequence=256,
        source=source,
        train=TrainConfig(optimizer=Optimizer.adamw),
    )
    case = replace(case, quant=replace(case.quant, compute_dtype=DType.bfloat16))
    assert abs(error(case)) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quant", "checkpointing", "tokens", "sequence"),
    [
        ("t5_base", "nf4", False, 2048, 512),
        ("t5_large", "int8", True, 4096, 1152),
        ("roberta_large", "nf4", False, 2048, 512),
        ("roberta_large", "bf16", True, 4096, 128),
    ],
)
def test_published_models(name: str, quant: str, checkpointing: bool, tokens: int, sequence: int) -> None:
    case = Case(
        model=model_choice(name),
        quant=replace(quant_choice(quant), compute_dtype=DType.bfloat16),
        adapter=replace(LORA, lora_r=16),
        tokens=tokens,
        sequence=sequence,
        train=TrainConfig(gradient_checkpointing=checkpointing),
    )
    assert abs(error(case)) < 0.05


def planned(kind: ModelKind = T5, adapter: AdapterConfig = LORA, **train: bool | int) -> RunSpec:
    return RunSpec(
        model=model_of(kind),
        quant=replace(quant_choice("nf4"), compute_dtype=DType.bfloat16),
        adapter=adapter,
        dataset=DatasetConfig(name="rows", source_max_tokens=200, target_max_tokens=56),
        train=TrainConfig(batch_size=4, learning_rate=1e-4, **{"max_microbatch_tokens": 1024, **train}),
    )


@pytest.mark.parametrize("kind", [T5, ROBERTA])
def test_a_plan_has_the_whole_peak(kind: ModelKind) -> None:
    spec = planned(kind)
    found, floor = predict_run(spec), floor_run(spec)
    longest = 256 if kind is T5 else 200  # a classifier's example has no target
    assert found == predict_padded(spec.model, spec.quant, LORA, spec.train, 1024, longest, 200)
    assert found is not None
    assert floor is not None
    assert found.static_bytes == floor.static_bytes
    assert found.total_bytes > floor.total_bytes + found.activation_bytes
    recomputed = predict_run(planned(kind, gradient_checkpointing=True))
    assert recomputed is not None
    assert recomputed.total_bytes < found.total_bytes


@pytest.mark.parametrize("method", [AdapterMethod.full, AdapterMethod.dora, AdapterMethod.lora_fa])
def test_methods_that_keep_something_else_are_not_predicted(method: AdapterMethod) -> None:
    assert predict_run(planned(adapter=replace(LORA, method=method))) is None


@pytest.mark.parametrize("kind", [T5, ROBERTA])
def test_rows_are_as_long_as_they_fit_but_no_longer_than_before(kind: ModelKind) -> None:
    spec = replace(planned(kind), train=replace(planned(kind).train, max_microbatch_tokens=None))  # type: ignore[type-var]
    assert row_tokens([spec], Device.cuda, 80 * 10**9) == UNKNOWN_ROW_TOKENS
    short = group_bytes([spec], 2048)
    assert short is not None
    assert row_tokens([spec], Device.cuda, short) == 2048
