"""The memory predictor against real tensors: quantized layers, autograd's saved tensors, the allocator's peak."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from benchmarks.gpu.shapes import llama_config
from harness.banks.shared import AdapterBank
from harness.config.choices import model_choice
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    DType,
    Optimizer,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.memory.activations import Linear, Pass, linears, saved_by_pass
from harness.memory.paper import (
    RECIPE_ADAPTER,
    RECIPE_QUANT,
    full_prediction,
    llama_shape,
    paper_comparison,
    recipe_prediction,
    report,
)
from harness.memory.predict import (
    DTYPE_BYTES,
    MemoryPrediction,
    linear_bytes,
    optimizer_bytes,
    predict,
    trained_tensors,
    weights_bytes,
)
from harness.memory.runs import predict_run
from harness.nn.batch import Item
from harness.nn.quant import TORCH_DTYPES, quantize_linear
from harness.runs.spec import RunSpec
from tests.in_memory import quantize_linear_layers

CPU = torch.device("cpu")
TINY = ShapeConfig(vocab_size=300, hidden_size=128, intermediate_size=352, num_layers=4, num_heads=4, num_kv_heads=2)
LENGTHS = (200, 120)
FP32, BF16 = DType.float32, DType.bfloat16
NF4 = QuantConfig(name="nf4", compute_dtype=FP32)
PLAIN = QuantConfig(name="none", method=QuantMethod.none, compute_dtype=FP32)
LORA = AdapterConfig(name="lora", lora_r=8, lora_dropout=0.1)
TRAIN = TrainConfig()


def tensor_bytes(*tensors: torch.Tensor | None) -> int:
    """Bytes of the distinct storages behind some tensors."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())


def layer_tensors(layer: torch.nn.Module) -> list[torch.Tensor | None]:
    """All that a quantized layer holds: data and quantization state."""
    weight = layer.weight
    if isinstance(layer, bnb.nn.Linear8bitLt):
        return [weight.data, weight.CB, weight.SCB]
    state = weight.quant_state
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [weight.data, state.absmax, state.code, *nested]


def make_linear(in_features: int, out_features: int) -> torch.nn.Linear:
    linear = torch.nn.Linear(in_features, out_features, bias=False)
    linear.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return linear


def make_bank(quant: QuantConfig, adapter: AdapterConfig, shape: ShapeConfig = TINY) -> AdapterBank:
    torch.manual_seed(0)
    config = llama_config(shape)
    dtype = TORCH_DTYPES[quant.compute_dtype]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="packed", dtype=dtype)
    quantize_linear_layers(model, quant, CPU)
    bank = AdapterBank(model)
    bank.add_member("m", adapter, seed=0)
    bank.train()
    return bank


def make_items() -> list[Item]:
    rng = np.random.default_rng(0)
    return [
        Item(member="m", tokens=rng.integers(3, 300, n).astype(np.int32), num_source=1, dropout_key=i, weight=1.0)
        for i, n in enumerate(LENGTHS)
    ]


def saved_bytes(bank: AdapterBank) -> int:
    """What autograd keeps of a forward pass, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*bank.parameters(), *bank.buffers())}
    kept: list[torch.Tensor] = []  # held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bank.item_losses(make_items()).sum()
    return tensor_bytes(*(t for t in kept if t.untyped_storage().data_ptr() not in own))


def peak_bytes(bank: AdapterBank, folder: Path) -> int:
    """The most that the CPU's allocator held at once in a step beyond what lay there before, gradients included."""
    bank.item_losses(make_items()).sum().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        bank.item_losses(make_items()).sum().backward()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    assert events
    changes = [e["args"]["Bytes"] for e in sorted(events, key=lambda event: event["ts"])]
    return int(max(np.cumsum(changes)))


def make_pass(quant: QuantConfig, adapter: AdapterConfig) -> Pass:
    compute_bytes = DTYPE_BYTES[quant.compute_dtype]
    return Pass(shape=TINY, quant=quant, adapter=adapter, tokens=sum(LENGTHS), compute_bytes=compute_bytes)


@pytest.mark.parametrize("method", [QuantMethod.nf4, QuantMethod.fp4, QuantMethod.int8])
@pytest.mark.parametrize("block_size", [64, 256, 4096])
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("size", [(32, 64), (576, 192), (576, 1536), (1000, 33)])
def test_weight_bytes_equal_those_of_real_layers(
    method: QuantMethod, block_size: int, double_quant: bool, size: tuple[int, int]
) -> None:
    quant = QuantConfig(name="q", method=method, block_size=block_size, double_quant=double_quant, compute_dtype=FP32)
    layer = quantize_linear(make_linear(*size), quant, CPU)
    measured = tensor_bytes(*layer_tensors(layer))
    linear = Linear(name="x", reads="x", in_features=size[0], out_features=size[1])
    assert linear_bytes(linear, quant) == pytest.approx(measured, rel=1e-3)


def test_a_nf4_weight_costs_4_127_bits() -> None:
    quant = dataclasses.replace(NF4, double_quant=True)
    layer = quantize_linear(make_linear(2048, 2048), quant, CPU)
    bits = 8 * tensor_bytes(*layer_tensors(layer)) / 2048**2
    assert bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=3e-3)
    assert bits == pytest.approx(4.127, abs=3e-3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", [QuantMethod.nf4, QuantMethod.int8, QuantMethod.none])
def test_weight_bytes_of_a_whole_model(method: QuantMethod, tied: bool) -> None:
    smollm2 = model_choice("smollm2").shape
    shape = dataclasses.replace(smollm2, num_layers=2, vocab_size=500, tied_embeddings=tied)
    quant = QuantConfig(name="q", method=method, compute_dtype=FP32)
    bank = make_bank(quant, AdapterConfig(name="none", method=AdapterMethod.none), shape)
    quantized = [m for m in bank.modules() if isinstance(m, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)]
    states = [t for layer in quantized for t in layer_tensors(layer)]
    # the rotary frequencies are kept twice, in their original and their present values
    measured = tensor_bytes(*bank.parameters(), *bank.buffers(), *states)
    assert weights_bytes(shape, quant) == pytest.approx(measured, rel=1e-3)


def kept_on_a_cpu_alone(dtype: DType) -> int:
    """By a block in bfloat16: a copy of attention's output, and keys and values repeated to all heads.

    A GPU attends in one call there (tests/unit/harness/memory/test_measured.py), which is what the predictor counts.
    """
    if dtype is not BF16:
        return 0
    heads = TINY.num_heads + 2 * (TINY.num_heads - TINY.num_kv_heads)
    return 2 * sum(LENGTHS) * heads * (TINY.hidden_size // TINY.num_heads)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("method", [QuantMethod.none, QuantMethod.nf4])
def test_activations_equal_what_autograd_keeps(method: QuantMethod, dropout: float, dtype: DType) -> None:
    quant = QuantConfig(name="q", method=method, compute_dtype=dtype)
    adapter = dataclasses.replace(LORA, lora_dropout=dropout)
    saved = saved_by_pass(make_pass(quant, adapter), gradient_checkpointing=False)
    measured = saved_bytes(make_bank(quant, adapter))
    expected = saved.blocks_bytes + saved.loss_bytes + TINY.num_layers * kept_on_a_cpu_alone(dtype)
    assert expected == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["o_proj", "down_proj"], ["gate_proj", "up_proj"]])
def test_activations_of_some_layers_only(targets: list[str]) -> None:
    adapter = dataclasses.replace(LORA, targets=targets)
    saved = saved_by_pass(make_pass(PLAIN, adapter), gradient_checkpointing=False)
    measured = saved_bytes(make_bank(PLAIN, adapter))
    # in the first block, what comes before the first adapter needs no gradient; the formula counts it
    first_block = measured / TINY.num_layers
    assert measured <= saved.blocks_bytes + saved.loss_bytes <= measured + first_block


def test_a_checkpoint_keeps_the_blocks_inputs() -> None:
    bank = make_bank(PLAIN, LORA)
    bank.set_checkpointing(True)
    run = make_pass(PLAIN, LORA)
    saved = saved_by_pass(run, gradient_checkpointing=True)
    rotary = 2 * 4 * run.tokens * (TINY.hidden_size // TINY.num_heads)  # held by the recomputation, not by autograd
    assert saved.blocks_bytes + saved.loss_bytes - rotary == pytest.approx(saved_bytes(bank), rel=0.01)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("method", "dropout", "dtype"),
    [
        (QuantMethod.none, 0.0, FP32),
        (QuantMethod.none, 0.1, FP32),
        (QuantMethod.none, 0.1, BF16),
        (QuantMethod.nf4, 0.1, FP32),
        (QuantMethod.int8, 0.1, FP32),
    ],
)
def test_the_peak_of_a_step(
    method: QuantMethod, dropout: float, dtype: DType, checkpointing: bool, tmp_path: Path
) -> None:
    quant = QuantConfig(name="q", method=method, compute_dtype=dtype)
    adapter = dataclasses.replace(LORA, lora_dropout=dropout)
    bank = make_bank(quant, adapter)
    bank.set_checkpointing(checkpointing)
    train = TrainConfig(gradient_checkpointing=checkpointing)
    prediction = predict(TINY, quant, adapter, train, sum(LENGTHS), max(LENGTHS))
    predicted = prediction.resident_bytes - prediction.static_bytes
    predicted += (1 if checkpointing else TINY.num_layers) * kept_on_a_cpu_alone(dtype)
    # in 16 bits a GPU keeps copies of A and B and draws masks in float32, a CPU doesn't (test_measured.py)
    assert 0.95 <= predicted / peak_bytes(bank, tmp_path) <= (1.05 if dtype is FP32 else 1.15)


def test_adapters_and_their_tensors() -> None:
    bank = make_bank(PLAIN, LORA)
    parameters = bank.member_parameters("m").values()
    assert sorted(p.numel() for p in parameters) == sorted(trained_tensors(TINY, LORA))
    prediction = predict(TINY, PLAIN, LORA, TRAIN, 320, 200)
    assert prediction.adapter_bytes == prediction.gradient_bytes == tensor_bytes(*parameters)


def test_two_members_have_twice_the_adapters_over_one_base() -> None:
    one, two = (predict(TINY, PLAIN, LORA, TRAIN, 320, 200, num_members=n) for n in (1, 2))
    assert (two.weights_bytes, two.activation_bytes) == (one.weights_bytes, one.activation_bytes)
    assert two.adapter_bytes == 2 * one.adapter_bytes
    assert (one.factor_copies_bytes, two.factor_copies_bytes) == (0, two.adapter_bytes), "side by side, in float32"
    in_16_bits = predict(TINY, dataclasses.replace(PLAIN, compute_dtype=BF16), LORA, TRAIN, 320, 200)
    assert in_16_bits.factor_copies_bytes == one.adapter_bytes // 2
    assert two.optimizer_bytes + two.paged_optimizer_bytes == 2 * (one.optimizer_bytes + one.paged_optimizer_bytes)


def test_full_finetuning_trains_every_weight() -> None:
    tensors = trained_tensors(TINY, AdapterConfig(name="full", method=AdapterMethod.full))
    bank = make_bank(PLAIN, AdapterConfig(name="none", method=AdapterMethod.none))
    assert sum(tensors) == sum(p.numel() for p in bank.parameters())


def test_optimizer_state_by_hand() -> None:
    tensors = [100, 5000, 200_000]
    assert optimizer_bytes(tensors, Optimizer.adamw) == (8 * 205_100, 0)
    assert optimizer_bytes(tensors, Optimizer.paged_adamw_32bit) == (8 * 5100, 8 * 200_000)
    constants = 8 * (20 + 782)  # two float32 a block of 256
    assert optimizer_bytes(tensors, Optimizer.paged_adamw_8bit) == (8 * 100 + 2 * 5000 + constants, 2 * 200_000)


def test_adamw_state_of_a_real_step() -> None:
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (100, 5000)]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert optimizer_bytes([100, 5000], Optimizer.adamw) == (tensor_bytes(*moments), 0)


def test_an_untouched_base_needs_its_weights_alone() -> None:
    prediction = predict(TINY, NF4, AdapterConfig(name="none", method=AdapterMethod.none), None, 2048, 512)
    assert prediction.total_bytes == prediction.weights_bytes == weights_bytes(TINY, NF4)


def test_fits_counts_what_can_be_paged_as_gone() -> None:
    prediction = recipe_prediction("65b")
    assert prediction.paged_optimizer_bytes > 0
    assert prediction.fits(prediction.resident_bytes)
    assert not prediction.fits(prediction.resident_bytes - 1)


def test_a_row_holds_at_least_one_sequence() -> None:
    assert predict(TINY, NF4, LORA, TRAIN, 64, 512) == predict(TINY, NF4, LORA, TRAIN, 512, 64)


@settings(max_examples=50, deadline=None)
@given(
    tokens=st.integers(1, 4096),
    more=st.integers(1, 1000),
    r=st.sampled_from([8, 64]),
    checkpointing=st.booleans(),
    method=st.sampled_from(list(QuantMethod)),
)
def test_more_tokens_need_more(tokens: int, more: int, r: int, checkpointing: bool, method: QuantMethod) -> None:
    quant = QuantConfig(name="q", method=method, compute_dtype=BF16)
    adapter = dataclasses.replace(LORA, lora_r=r)
    train = TrainConfig(gradient_checkpointing=checkpointing)
    less, longer = (predict(llama_shape("7b"), quant, adapter, train, n, 1) for n in (tokens, tokens + more))
    assert longer.resident_bytes > less.resident_bytes
    assert longer.static_bytes == less.static_bytes
    assert all(value >= 0 for value in less.to_dict().values())


def test_a_planned_run() -> None:
    train = TrainConfig(max_steps=1, batch_size=16, learning_rate=2e-4, max_microbatch_tokens=256)
    data = DatasetConfig(name="oasst1", hub_id="a/b", format="oasst1", source_max_tokens=16, target_max_tokens=512)
    spec = RunSpec(model=model_choice("llama7b"), quant=RECIPE_QUANT, adapter=RECIPE_ADAPTER, dataset=data, train=train)
    assert predict_run(spec) == predict(spec.model.shape, spec.quant, spec.adapter, train, 256, 528)
    base = dataclasses.replace(spec, adapter=AdapterConfig(name="none", method=AdapterMethod.none), train=None)
    assert predict_run(base) == recipe_prediction_of_weights()


def recipe_prediction_of_weights() -> MemoryPrediction:
    """The recipe's base alone."""
    trained = recipe_prediction("7b").to_dict()
    empty = dict.fromkeys((f.name for f in dataclasses.fields(MemoryPrediction)), 0)
    return MemoryPrediction(**(empty | {"weights_bytes": trained["weights_bytes"]}))


def test_what_the_arithmetic_doesnt_reach_is_missing() -> None:
    model = dataclasses.replace(model_choice("llama7b"), shape=ShapeConfig())
    spec = RunSpec(model=model, quant=RECIPE_QUANT, adapter=RECIPE_ADAPTER, dataset=None, train=None)
    assert predict_run(spec) is None


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers not set"):
        predict(dataclasses.replace(TINY, num_layers=0), NF4, LORA, TRAIN, 128, 128)


def test_an_unresolved_compute_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="compute_dtype=auto"):
        predict(TINY, QuantConfig(name="nf4"), LORA, TRAIN, 128, 128)


def test_targets_of_another_architecture_are_refused() -> None:
    adapter = dataclasses.replace(LORA, targets=["query_key_value"])
    with pytest.raises(ValueError, match="query_key_value"):
        predict(TINY, NF4, adapter, TRAIN, 128, 128)


def test_the_papers_claims_hold_for_our_numbers() -> None:
    assert recipe_prediction("65b").fits(48_000_000_000)
    full = full_prediction("65b")
    assert full.weights_bytes + full.gradient_bytes + full.paged_optimizer_bytes + full.optimizer_bytes > 780e9
    assert [row.paper for row in paper_comparison()] == ["5,048 MB", "26 MB", "567 MB", "18 MB", "> 780 GB", "< 48 GB"]


def test_the_command_prints_json_without_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['memory', '--json']; "
        "runpy.run_module('harness.memory', run_name='__main__'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert list(printed["recipe"]) == ["7b", "13b", "33b", "65b"]
    assert printed["recipe"]["7b"]["weights_bytes"] == recipe_prediction("7b").weights_bytes
    assert printed["printed_gb"]["figure 6"]["65b"] == 45
    assert printed["printed_gb"]["table 1"]["33b"] == 21


def test_printed_totals_stand_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(report()[1])
    rows = {line.rpartition("  ")[0].split("  ")[0]: line.split()[-4:] for line in capsys.readouterr().out.splitlines()}
    assert rows["the paper's Figure 6"] == ["6.9", "11.3", "24.7", "45"]
    assert rows["the paper's Table 1"] == ["6", "10", "21", "41"]
    # 65B: 34.46 GB of weights and half of 3.2 GB of adapters
    assert rows["answering: weights, adapter in 16 bits"][-1] == "36.1"
    assert rows["training, nothing paged"][-1] == "50.1"
    assert rows["training, moments paged"][-1] == "43.7"


def test_linears_are_those_of_a_real_block() -> None:
    bank = make_bank(PLAIN, LORA)
    real = {name.rsplit(".", 1)[-1]: layer.base for name, layer in bank.layers.items()}
    assert {n.name: (n.in_features, n.out_features) for n in linears(TINY)} == {
        name: (layer.in_features, layer.out_features) for name, layer in real.items()
    }
