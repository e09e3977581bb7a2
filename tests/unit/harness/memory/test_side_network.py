"""What QST needs by arithmetic is what the program holds; the base's activations aren't in it."""

import math
from dataclasses import replace

import pytest

from harness.config.choices import model_choice
from harness.config.schema import AdapterConfig, AdapterMethod, DType, ModelConfig, QuantMethod, TrainConfig
from harness.memory.beside import side_tensors
from harness.memory.measured.program import Case, measure
from harness.memory.measured.storages import ADAPTERS, GRADIENTS
from harness.memory.predict import predict
from harness.methods.side import side_numbers
from tests.unit.harness.memory.test_measured import LORA, measured_and_expected, quant_of, tiny

QST = AdapterConfig(name="qst", method=AdapterMethod.qst, qst_reduction=16, qst_down_rank=16)
LLAMA = model_choice("llama7b")


def of_layers(number: int) -> ModelConfig:
    return replace(LLAMA, shape=replace(LLAMA.shape, num_layers=number))


@pytest.mark.parametrize(
    ("quant", "dtype", "changes", "tokens", "checkpointing", "layers"),
    [
        ("nf4", DType.bfloat16, {}, 2112, False, 4),
        ("int8", DType.bfloat16, {"qst_down_rank": 0}, 1056, True, 2),
        ("none", DType.float32, {"qst_reduction": 4}, 528, False, 2),
        pytest.param("nf4", DType.bfloat16, {}, 4224, False, 32, marks=pytest.mark.slow),
        pytest.param("nf4", DType.bfloat16, {}, 4224, True, 32, marks=pytest.mark.slow),
        pytest.param("none", DType.float32, {"qst_reduction": 2}, 1056, False, 32, marks=pytest.mark.slow),
    ],
)
def test_the_prediction_at_real_widths(
    quant: str, dtype: DType, changes: dict[str, int], tokens: int, checkpointing: bool, layers: int
) -> None:
    found, expected = measured_and_expected(
        Case(
            model=of_layers(layers),
            quant=quant_of(quant, dtype),
            adapter=replace(QST, **changes),
            tokens=tokens,
            train=TrainConfig(gradient_checkpointing=checkpointing),
        )
    )
    assert expected == pytest.approx(found.peak.num_bytes, rel=0.03)


def test_what_is_trained_is_counted_to_the_byte() -> None:
    adapter = replace(QST, qst_reduction=4, qst_down_rank=4)
    case = Case(model=tiny(), quant=quant_of("nf4"), adapter=adapter, tokens=64, sequence=64)
    held = measure(case).peak.by_category
    trained = sum(512 * math.ceil(4 * count / 512) for count in side_tensors(case.model.shape, adapter))
    assert held[ADAPTERS] == trained, "an allocator gives multiples of 512 bytes"
    assert held[GRADIENTS] <= held[ADAPTERS]


@pytest.mark.parametrize("rank", [0, 16])
def test_tensors_add_up_to_the_formula(rank: int) -> None:
    adapter, shape = replace(QST, qst_down_rank=rank), LLAMA.shape
    inner, wide = shape.intermediate_size, shape.hidden_size
    layers = [(wide, wide, "")] * 4 + [(wide, inner, "")] * 2 + [(inner, wide, "")]
    fields = {"qst_reduction": 16, "qst_down_rank": rank, "hidden_size": wide, "num_layers": 32, "num_biases": 0}
    assert sum(side_tensors(shape, adapter)) == side_numbers(layers * 32, fields)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_plan_says_that_the_bases_activations_are_not_kept(checkpointing: bool) -> None:
    """Of LLaMA 7B and a row of 2,112 tokens: a wide state a layer is kept, beside a small network."""
    train, quant = TrainConfig(gradient_checkpointing=checkpointing), quant_of("nf4")
    assert quant.method is QuantMethod.nf4
    side, lora = (predict(LLAMA.shape, quant, each, train, 2112, 528) for each in (QST, replace(LORA, lora_r=64)))
    wide = 33 * 2112 * 4096 * 2
    assert wide < side.activation_bytes < (1.3 if checkpointing else 2.7) * wide
    assert side.resident_bytes < lora.resident_bytes
