"""Tensors without data count as real ones do, and the predictor agrees with the program itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.banks.shared import AdapterBank
from harness.config.choices import model_choice, quant_choice
from harness.config.schema import (
    AdapterConfig,
    DType,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.memory.command import expected_bytes, main
from harness.memory.measured.gpu import CPU, gpu_without_data
from harness.memory.measured.program import Case, Measured, measure, train
from harness.memory.measured.storages import ADAPTERS, GRADIENTS, OPTIMIZER, WEIGHTS, LiveStorages
from harness.memory.predict import predict, trained_tensors, weights_bytes
from harness.nn.attention import PACKED

TINY = ShapeConfig(vocab_size=300, hidden_size=128, intermediate_size=352, num_layers=2, num_heads=4, num_kv_heads=2)
LORA = AdapterConfig(name="lora", lora_r=8, lora_alpha=16, lora_dropout=0.1)
GPU = 80_000_000_000
MIB = 2**20


def tiny() -> ModelConfig:
    return ModelConfig(name="llama", hub_id="none", max_length=512, shape=replace(TINY, num_kv_heads=4))


def quant_of(name: str, dtype: DType = DType.bfloat16) -> QuantConfig:
    return replace(quant_choice(name), compute_dtype=dtype)


def test_storages_are_counted_from_birth_to_death() -> None:
    with LiveStorages(without_data=False) as storages:
        kept = torch.empty(1000, dtype=torch.uint8)
        storages.start_pass()
        assert storages.live_bytes == 1024, "in blocks of 512 bytes"
        view = kept.view(10, 100)[1]
        sums = [torch.empty(512, dtype=torch.uint8) + 1 for _ in range(3)]
        del sums[1:]
        assert storages.live_bytes == 1024 + 512
        assert storages.peak_bytes == 1024 + 4 * 512, "two results, and a third beside what it is made of"
        del kept, sums
        assert storages.live_bytes == 1024, "a view holds its storage"
        del view
        assert storages.live_bytes == 0
    assert sum(storages.peak().by_category.values()) == storages.peak_bytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tiny_model_by_hand(device: str) -> None:
    with LiveStorages(without_data=device == "meta") as storages:
        first, second = (nn.Linear(512, 512, bias=False, device=device) for _ in range(2))  # 1 MiB each
        x = torch.zeros(1024, 512, device=device)  # 2 MiB, as every product
        storages.mark([first.weight, second.weight], WEIGHTS)
        storages.start_pass()
        loss = second(torch.relu(first(x))).sum()
        assert storages.peak_bytes == (2 + 2 + 2 + 2) * MIB + 512, "weights, x, relu, a product; the loss"
        loss.backward()
        for layer in (first, second):
            storages.mark([layer.weight.grad], GRADIENTS)  # type: ignore[list-item]
    # x, relu, its gradient and the gradient before relu; the second weight's gradient is there, the first's is not
    peak = storages.peak()
    assert peak.num_bytes == pytest.approx((2 + 2 + 2 + 2 + 2 + 1) * MIB, abs=MIB // 8)
    assert peak.by_category[WEIGHTS] == 2 * MIB


def tiny_bank(device: str) -> AdapterBank:
    """Made on a device; without data it is a `cpu` only to the program."""
    config = LlamaConfig(
        vocab_size=TINY.vocab_size,
        hidden_size=TINY.hidden_size,
        intermediate_size=TINY.intermediate_size,
        num_hidden_layers=TINY.num_layers,
        num_attention_heads=TINY.num_heads,
        num_key_value_heads=TINY.num_kv_heads,
    )
    with torch.device(device):
        return AdapterBank(AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=torch.float32))


@pytest.mark.parametrize(("checkpointing", "members"), [(False, 1), (True, 1), (False, 2)])
def test_tensors_without_data_count_as_real_ones(checkpointing: bool, members: int) -> None:
    case = Case(
        model=tiny(),
        quant=QuantConfig(name="none", method=QuantMethod.none, compute_dtype=DType.float32),
        adapter=replace(LORA, lora_dropout=0.0),
        tokens=256,
        sequence=128,
        members=members,
        train=TrainConfig(gradient_checkpointing=checkpointing),
    )
    with LiveStorages(without_data=False) as real:
        expected = train(tiny_bank("cpu"), case, real)
    with gpu_without_data(GPU, seen=CPU) as storages:
        found = train(tiny_bank("cpu"), case, storages)
    assert found.peak.num_bytes == pytest.approx(expected.peak.num_bytes, rel=0.01)
    for category in (WEIGHTS, ADAPTERS, GRADIENTS, OPTIMIZER):
        assert found.peak.by_category[category] == expected.peak.by_category[category]


def test_models_are_made_as_before_when_the_measuring_is_over() -> None:
    """transformers asks `torch.tensor([])` whether a model is on the meta device; buffers of one that isn't are kept as
    they were made. The first model of a process may be one that is measured.
    """
    torch.utils._device._device_constructors.cache_clear()
    with gpu_without_data(GPU), torch.device("meta"):
        torch.tensor([])
    with torch.device("meta"):
        assert torch.tensor([]).is_meta


def measured_and_expected(case: Case) -> tuple[Measured, int]:
    found = measure(case)
    prediction = predict(
        case.model.shape, case.quant, case.adapter, case.train, case.tokens, case.sequence, case.members
    )
    return found, expected_bytes(prediction, found.optimizer)


def llama(size: str, layers: int | None = 2) -> ModelConfig:
    model = model_choice(f"llama{size}")
    return replace(model, shape=replace(model.shape, num_layers=layers or model.shape.num_layers))


@pytest.mark.parametrize(
    ("size", "quant", "tokens", "members", "checkpointing"),
    [
        ("7b", "nf4", 2112, 1, False),
        pytest.param("7b", "int8", 528, 1, True, marks=pytest.mark.slow),
        pytest.param("7b", "bf16", 2112, 3, False, marks=pytest.mark.slow),
        ("65b", "nf4", 528, 1, True),
    ],
)
def test_the_prediction_at_real_widths(size: str, quant: str, tokens: int, members: int, checkpointing: bool) -> None:
    case = Case(
        model=llama(size),
        quant=quant_of(quant),
        adapter=replace(LORA, lora_r=64),
        tokens=tokens,
        members=members,
        train=TrainConfig(gradient_checkpointing=checkpointing),
    )
    found, expected = measured_and_expected(case)
    assert expected == pytest.approx(found.peak.num_bytes, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 8])
@pytest.mark.parametrize("size", ["7b", "65b"])
def test_the_prediction_of_whole_models(size: str, members: int) -> None:
    case = Case(
        model=llama(size, layers=None),
        quant=quant_of("nf4"),
        adapter=replace(LORA, lora_r=64),
        tokens=4224,
        members=members,
        train=TrainConfig(gradient_checkpointing=True),
    )
    found, expected = measured_and_expected(case)
    assert expected == pytest.approx(found.peak.num_bytes, rel=0.05)


def test_what_lies_there_is_told_apart() -> None:
    case = Case(model=tiny(), quant=quant_of("nf4"), adapter=LORA, tokens=64, sequence=64)
    found = measure(case)
    trained = 4 * sum(trained_tensors(case.model.shape, LORA))
    by_category = found.peak.by_category
    assert sum(by_category.values()) == found.peak.num_bytes
    assert by_category[WEIGHTS] == pytest.approx(weights_bytes(case.model.shape, case.quant), rel=0.06)
    assert (by_category[ADAPTERS], found.optimizer) == (trained, "adamw")
    assert by_category[OPTIMIZER] == pytest.approx(2 * trained, rel=0.06), "steps are counted, 512 bytes a tensor"


def test_state_that_pages_is_not_on_the_device() -> None:
    case = Case(model=tiny(), quant=quant_of("nf4"), adapter=replace(LORA, lora_r=1024), tokens=64, sequence=64)
    found = measure(replace(case, gpu_bytes=8 * MIB))
    assert found.optimizer == "paged_adamw_32bit"
    assert found.peak.by_category[OPTIMIZER] == 0


def test_the_command_measures_a_folder_with_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LlamaConfig(
        vocab_size=300, hidden_size=128, intermediate_size=352, num_hidden_layers=1, num_attention_heads=4
    ).save_pretrained(tmp_path)
    arguments = ["--model", str(tmp_path), "--measure", "--tokens", "32"]
    main([*arguments, "--json"])
    values = json.loads(capsys.readouterr().out)
    assert sum(values["measured"]["by_category"].values()) == values["measured"]["peak_bytes"]
    assert values["predicted"]["weights_bytes"] > 0
    main([*arguments, "--at-peak"])
    shown = capsys.readouterr().out
    assert "Peak of a step" in shown
    assert "gradients" in shown
    assert "float32" in shown, "operations with shapes and types"


def test_the_command_predicts_without_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "65b", "--checkpointing", "--json"])
    assert json.loads(capsys.readouterr().out)["predicted"]["weights_bytes"] > 3e10
    main(["--model", "t5_large", "--adapter", "lora_t5", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["predicted"]["activation_bytes"] > 1e9
    assert values["source"] == 264
    for arguments, message in (
        (["--measure"], "of which model"),
        (["--model", "65x"], "no such choice"),
        (["--model", "nobody/nothing"], "no config of that name"),
        (["--model", "7b", "--adapter", "trainable_tokens"], "--measure runs the program itself"),
        (["--model", "t5_small", "--members", "2"], "its runs train one after the other"),
        (["--model", "7b", "--adapter", "dora", "--members", "2"], "its runs train one after the other"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("adapter", ["pissa", "corda", "shira"])
def test_what_starts_from_numbers_is_not_measured(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "7b", "--quant", "bf16", "--adapter", adapter, "--measure"])
    assert "which tensors without data don't have" in capsys.readouterr().err


@pytest.mark.parametrize(("adapter", "quant"), [("adalora", "nf4"), ("randlora", "nf4")])
def test_the_command_says_what_is_known_where_activations_are_not(
    adapter: str, quant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--model", "7b", "--adapter", adapter, "--quant", quant, "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["predicted"] is None
    assert "can't be predicted" in values["not_predicted"]
    known = values["at_least"]
    assert known["total_bytes"] == sum(number for name, number in known.items() if name != "total_bytes")
    main(["--model", "7b", "--adapter", adapter, "--quant", quant])
    shown = capsys.readouterr().out
    assert "At least, before any activation: llama7b" in shown
    assert "Not predicted: " in shown
    assert "--measure runs the program itself" in shown
