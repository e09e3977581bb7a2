"""The memory of methods of their own, as it is predicted, is that of the program itself on tensors without data."""

from dataclasses import replace

import pytest

from harness.config.choices import load_choice, model_choice, quant_choice
from harness.config.schema import AdapterConfig, AdapterMethod, DatasetConfig, DType, Optimizer, TrainConfig, typed
from harness.memory.command import expected_bytes
from harness.memory.floor import floor_run
from harness.memory.measured.program import Case, measure
from harness.memory.other_methods import predict_other
from harness.memory.runs import predict_run
from harness.runs.spec import RunSpec

BF16 = DType.bfloat16


def case_of(method: str, quant: str, checkpointing: bool, layers: int = 4, tokens: int = 2048) -> Case:
    """LLaMA 7B's layers, a few of them."""
    model = model_choice("llama7b")
    adapter: AdapterConfig = typed(AdapterConfig, load_choice("adapter", method))
    return Case(
        model=replace(model, shape=replace(model.shape, num_layers=layers)),
        quant=replace(quant_choice(quant), compute_dtype=BF16),
        adapter=replace(adapter, lora_dropout=0.1),
        tokens=tokens,
        sequence=1024,
        train=TrainConfig(gradient_checkpointing=checkpointing, optimizer=Optimizer.adamw),
    )


def error(case: Case) -> float:
    found = measure(case)
    prediction = predict_other(case.model, case.quant, case.adapter, case.train, case.tokens, case.sequence)
    assert prediction is not None
    return expected_bytes(prediction, found.optimizer) / found.peak.num_bytes - 1


@pytest.mark.parametrize(
    ("method", "quant", "checkpointing"),
    [
        ("miss", "nf4", False),
        ("s2ft", "nf4", True),
        ("ia3", "int8", False),
        ("dora", "nf4", True),
        pytest.param("dora", "nf4", False, marks=pytest.mark.slow),
        pytest.param("dora", "bf16", False, marks=pytest.mark.slow),
        pytest.param("lq_lora", "nf4", False, marks=pytest.mark.slow),
        ("hft", "bf16", False),
        pytest.param("miss", "bf16", True, marks=pytest.mark.slow),
        pytest.param("s2ft", "bf16", False, marks=pytest.mark.slow),
        pytest.param("vera", "nf4", False, marks=pytest.mark.slow),
        pytest.param("vera", "nf4", True, marks=pytest.mark.slow),
        pytest.param("oft", "nf4", False, marks=pytest.mark.slow),
        pytest.param("hira", "nf4", False, marks=pytest.mark.slow),
        pytest.param("hira", "bf16", True, marks=pytest.mark.slow),
        pytest.param("hft", "bf16", True, marks=pytest.mark.slow),
        pytest.param("fourierft", "nf4", False, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param("boft", "nf4", False, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_layers_of_7b(method: str, quant: str, checkpointing: bool) -> None:
    assert abs(error(case_of(method, quant, checkpointing))) < 0.05


def test_s2ft_where_outputs_are_chosen_too() -> None:
    case = case_of("s2ft", "nf4", False, layers=2, tokens=1024)
    every = ["v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert abs(error(replace(case, adapter=replace(case.adapter, targets=every)))) < 0.05


def planned(method: str, quant: str = "nf4", **changes: object) -> RunSpec:
    adapter: AdapterConfig = typed(AdapterConfig, load_choice("adapter", method))
    return RunSpec(
        model=model_choice("llama7b"),
        quant=replace(quant_choice(quant), compute_dtype=BF16),
        adapter=replace(adapter, **changes),  # type: ignore[arg-type]
        dataset=DatasetConfig(name="rows", source_max_tokens=512, target_max_tokens=512),
        train=TrainConfig(batch_size=4, learning_rate=1e-4, max_microbatch_tokens=2048),
    )


@pytest.mark.parametrize(("method", "quant"), [("miss", "nf4"), ("s2ft", "int8"), ("hft", "bf16")])
def test_a_plan_has_the_whole_peak(method: str, quant: str) -> None:
    spec = planned(method, quant)
    found, floor = predict_run(spec), floor_run(spec)
    assert found is not None
    assert floor is not None
    assert found.static_bytes == floor.static_bytes
    assert found.total_bytes > floor.total_bytes + found.activation_bytes > floor.total_bytes + 10**9


@pytest.mark.parametrize(
    "spec",
    [
        planned("randlora"),
        planned("adalora"),
        planned("trainable_tokens"),
        planned("miss", layers=[3, 4]),
        planned("miss", targets=["fc1"]),
    ],
    ids=lambda spec: f"{spec.adapter.name}-{spec.adapter.layers or spec.adapter.targets[0]}",
)
def test_what_is_not_derived_is_missing(spec: RunSpec) -> None:
    assert predict_run(spec) is None


def test_what_has_a_prediction_of_its_own_is_left_to_it() -> None:
    for method in (AdapterMethod.lora, AdapterMethod.full):
        spec = planned("lora")
        adapter = replace(spec.adapter, method=method)
        assert predict_other(spec.model, spec.quant, adapter, spec.train, 2048, 1024) is None
