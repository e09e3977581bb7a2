"""The least that a T5 or a RoBERTa needs is what their tensors take, to the byte."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks.gpu.shapes import llama_config
from harness.banks.causal import PeftBank
from harness.banks.classifier import ClassifierBank
from harness.banks.owned import OwnedBank
from harness.banks.seq2seq import Seq2SeqBank
from harness.config.choices import load_choice, model_choice
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    DType,
    ModelConfig,
    ModelKind,
    Optimizer,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
    typed,
)
from harness.memory.floor import floor_run
from harness.memory.predict import MemoryPrediction, predict
from harness.runs.spec import RunSpec

SHAPE = ShapeConfig(vocab_size=300, hidden_size=64, intermediate_size=192, num_layers=2, num_heads=2, num_kv_heads=2)
UNGATED = replace(SHAPE, gated_mlp=False)
PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32)
NF4 = QuantConfig(name="nf4", compute_dtype=DType.float32)
INT8 = QuantConfig(name="int8", method=QuantMethod.int8, compute_dtype=DType.float32)
BF16 = QuantConfig(name="bf16", method=QuantMethod.none, compute_dtype=DType.bfloat16)
LORA = AdapterConfig(name="lora", lora_r=8, lora_alpha=16, targets=["all-linear"])
FULL = AdapterConfig(name="full", method=AdapterMethod.full)
MAX_LENGTH = 62
DATA = DatasetConfig(name="any", hub_id="a/b", format="alpaca")


def t5(folder: Path, quant: QuantConfig) -> OwnedBank:
    """As the published v1.1 ones are: the output layer is a table of its own."""
    config = T5Config(
        vocab_size=SHAPE.vocab_size,
        d_model=SHAPE.hidden_size,
        d_kv=64,
        d_ff=SHAPE.intermediate_size,
        num_layers=SHAPE.num_layers,
        num_heads=SHAPE.num_heads,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = 2 * weights["shared.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Seq2SeqBank(folder, quant, torch.device("cpu"))


def roberta(folder: Path, quant: QuantConfig) -> OwnedBank:
    RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=SHAPE.vocab_size,
            hidden_size=SHAPE.hidden_size,
            num_hidden_layers=SHAPE.num_layers,
            num_attention_heads=SHAPE.num_heads,
            intermediate_size=SHAPE.intermediate_size,
            max_position_embeddings=MAX_LENGTH + 2,
            type_vocab_size=1,
        )
    ).save_pretrained(folder)
    return ClassifierBank(folder, quant, torch.device("cpu"), num_labels=1)


SHAPES = {ModelKind.seq2seq: SHAPE, ModelKind.classifier: UNGATED}
MAKE = {ModelKind.seq2seq: t5, ModelKind.classifier: roberta}


def spec_of(kind: ModelKind, quant: QuantConfig, adapter: AdapterConfig) -> RunSpec:
    return RunSpec(
        model=ModelConfig(name="tiny", hub_id="some/tiny", kind=kind, max_length=MAX_LENGTH, shape=SHAPES[kind]),
        quant=quant,
        adapter=adapter,
        dataset=DatasetConfig(name="rows"),
        train=TrainConfig(optimizer=Optimizer.adamw),
    )


def stored_bytes(module: nn.Module) -> int:
    """Of a model's frozen tensors, with the state of its quantized layers."""
    tensors: list[Tensor] = [p.data for p in module.parameters() if not p.requires_grad]
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += [state.absmax, state.code]
            tensors += [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    for int8 in (layer for layer in module.modules() if isinstance(layer, bnb.nn.Linear8bitLt)):
        tensors.append(int8.weight.SCB if int8.state.SCB is None else int8.state.SCB)  # moved by the first pass
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("kind", list(MAKE))
@pytest.mark.parametrize("quant", [PLAIN, NF4, INT8, BF16], ids=["none", "nf4", "int8", "bf16"])
def test_weights_and_adapter_take_what_is_predicted(kind: ModelKind, quant: QuantConfig, tmp_path: Path) -> None:
    bank = MAKE[kind](tmp_path, quant)
    bank.add_member("m", LORA, seed=0)
    found = floor_run(spec_of(kind, quant, LORA))
    assert found is not None
    assert found.weights_bytes == pytest.approx(stored_bytes(bank.model), rel=1e-3)
    trained = list(bank.member_parameters("m").values())
    assert found.adapter_bytes == found.gradient_bytes == sum(p.numel() * p.element_size() for p in trained)
    assert found.optimizer_bytes == 2 * found.gradient_bytes


@pytest.mark.parametrize("kind", list(MAKE))
@pytest.mark.parametrize("quant", [NF4, replace(NF4, compute_dtype=DType.bfloat16)], ids=["fp32", "bf16"])
def test_layers_in_formats_of_their_own_take_the_compute_dtype(
    kind: ModelKind, quant: QuantConfig, tmp_path: Path
) -> None:
    name = "o" if kind is ModelKind.seq2seq else "value"
    adapter = replace(LORA, method=AdapterMethod.lq_lora, lq_rounds=1, bits=4.0, targets=[name])
    bank = MAKE[kind](tmp_path, quant)
    bank.add_member("m", adapter, seed=0)
    found = floor_run(spec_of(kind, quant, adapter))
    assert found is not None
    assert found.weights_bytes == pytest.approx(stored_bytes(bank.model), rel=1e-3)
    plain = floor_run(spec_of(kind, quant, replace(adapter, bits=None)))
    assert plain is not None
    assert plain.weights_bytes < 0.98 * found.weights_bytes


@pytest.mark.parametrize("keys", [{}, {"targets": ["q_proj", "down_proj"]}, {"layers": [1]}])
def test_a_decoders_layers_in_formats_of_their_own(keys: dict[str, Any], tmp_path: Path) -> None:
    """Beside the prediction of the same without them, by the bytes of real layers."""
    shape = replace(SHAPE, num_kv_heads=2)
    AutoModelForCausalLM.from_config(llama_config(shape)).save_pretrained(tmp_path)
    quant = replace(NF4, compute_dtype=DType.bfloat16)
    adapter = replace(LORA, method=AdapterMethod.lq_lora, lq_rounds=1, bits=4.0, **keys)
    found, weights = dict[float | None, MemoryPrediction](), dict[float | None, int]()
    for bits in (None, 4.0):
        bank = PeftBank(tmp_path, quant, torch.device("cpu"))
        bank.add_member("m", replace(adapter, bits=bits), seed=0)
        found[bits] = predict(shape, quant, replace(adapter, bits=bits), TrainConfig(), 100, 100)
        weights[bits] = stored_bytes(bank.model)
    added = found[4.0].weights_bytes - found[None].weights_bytes
    assert added == pytest.approx(weights[4.0] - weights[None], rel=0.02)
    assert added > 0
    everything = not keys
    assert (found[4.0].dequantization_bytes == 0) is everything
    assert found[None].dequantization_bytes > 0


@pytest.mark.parametrize("kind", list(MAKE))
def test_full_finetuning_trains_all_of_it(kind: ModelKind, tmp_path: Path) -> None:
    bank = MAKE[kind](tmp_path, PLAIN)
    bank.add_member("m", FULL, seed=0)
    found = floor_run(spec_of(kind, PLAIN, FULL))
    assert found is not None
    assert found.gradient_bytes == sum(p.numel() * 4 for p in bank.member_parameters("m").values())
    assert found.adapter_bytes == 0


def test_published_sizes() -> None:
    """T5 v1.1 XXL has 11.1 billion weights, small 77 million; RoBERTa-large 355 million."""
    counts = {"t5_small": 76.96e6, "t5_xl": 2.85e9, "t5_xxl": 11.135e9, "roberta_large": 355.4e6}
    for name, count in counts.items():
        spec = replace(spec_of(ModelKind.seq2seq, PLAIN, LORA), model=model_choice(name))
        found = floor_run(spec)
        assert found is not None
        assert found.weights_bytes / 4 == pytest.approx(count, rel=5e-3), name


def test_what_it_doesnt_know_is_missing() -> None:
    spec = spec_of(ModelKind.seq2seq, NF4, LORA)
    assert floor_run(replace(spec, model=model_choice("llama7b"))) is None
    assert floor_run(replace(spec, model=replace(model_choice("llama7b"), kind=ModelKind.classifier))) is None
    assert floor_run(replace(spec, model=replace(spec.model, shape=ShapeConfig()))) is None
    assert floor_run(replace(spec, adapter=replace(LORA, targets=["q_proj"]))) is None


@pytest.mark.parametrize(
    ("method", "weights", "trained", "moments"),
    [
        ("s2ft", 4_398_065_664, 240_123_904, 480_280_576),
        ("miss", 3_865_847_808, 348_127_232, 696_369_152),
        ("oft", 3_867_682_816, 70_598_656, 141_312_000),
        ("vera", 3_888_392_192, 5_668_864, 11_567_104),
        ("ia3", 3_865_847_808, 2_457_600, 4_964_352),
        ("hft", 7_000_564_736, 6_476_267_520, 25_905_070_080),
    ],
)
def test_methods_of_their_own_need_what_the_program_was_measured_to_hold(
    method: str, weights: int, trained: int, moments: int
) -> None:
    """LLaMA 7B in bfloat16, on NF4 but for HFT; the numbers are of `python -m harness.memory --model 7b --measure`.

    HFT's moments page, so no measurement shows them: two in float32 of each of 3,238,133,760 weights, and a counter.
    """
    quant = replace(NF4 if method != "hft" else BF16, compute_dtype=DType.bfloat16)
    adapter: AdapterConfig = typed(AdapterConfig, load_choice("adapter", method))
    spec = RunSpec(
        model=model_choice("7b"), quant=quant, adapter=adapter, dataset=DATA, train=TrainConfig(batch_size=1)
    )
    floor = floor_run(spec)
    assert floor is not None
    assert (floor.adapter_bytes, floor.gradient_bytes) == (trained, trained)
    assert floor.weights_bytes == pytest.approx(weights, rel=0.01)
    assert floor.optimizer_bytes + floor.paged_optimizer_bytes == pytest.approx(moments, rel=0.03)


@pytest.mark.parametrize("change", [{"peft_type": "LILY"}, {"peft_type": "LN_TUNING"}, {"targets": ["fc1"]}])
def test_a_method_without_a_formula_has_no_floor(change: dict[str, Any]) -> None:
    adapter = replace(AdapterConfig(name="miss", method=AdapterMethod.peft, peft_type="MISS"), **change)
    train = TrainConfig(batch_size=1)
    model = model_choice("7b")
    assert floor_run(RunSpec(model=model, quant=NF4, adapter=adapter, dataset=DATA, train=train)) is None
