"""int8 with outliers: a token's result is its own, whoever shares the pass; without outliers it is bitsandbytes'."""

from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.banks.load import load_base, make_bank
from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig, AdapterMethod, DType, ModelKind, QuantConfig, QuantMethod
from harness.nn.batch import Item
from harness.nn.int8 import THRESHOLD, TokenwiseInt8
from harness.nn.quant import quantize_linear
from tests.builders import smollm2
from tests.tiny import VOCAB_SIZE, make_checkpoint

CPU = torch.device("cpu")
INT8 = QuantConfig(name="int8", method=QuantMethod.int8, compute_dtype=DType.float32)


def layer(seed: int = 0) -> tuple[torch.nn.Linear, TokenwiseInt8]:
    torch.manual_seed(seed)
    linear = torch.nn.Linear(64, 32)
    quantized = quantize_linear(linear, INT8, CPU)
    assert isinstance(quantized, TokenwiseInt8)
    return linear, quantized


def test_a_tokens_outliers_are_no_others() -> None:
    linear, quantized = layer()
    calm_NI = torch.randn(5, 64).clamp(-3, 3)
    wild_NI = torch.randn(7, 64)
    wild_NI[:, [3, 40]] += 50.0
    together = quantized(torch.cat([calm_NI, wild_NI]))
    torch.testing.assert_close(together[:5], quantized(calm_NI))
    torch.testing.assert_close(together[5:], quantized(wild_NI))
    assert float((together[5:] - linear(wild_NI)).detach().abs().max()) < 0.5


def test_without_outliers_it_is_bitsandbytes_product() -> None:
    _, quantized = layer()
    x_NI = torch.randn(5, 64).clamp(-3, 3).requires_grad_()
    state = bnb.MatmulLtState()
    state.threshold, state.has_fp16_weights = THRESHOLD, False
    state.is_training = False  # else bitsandbytes computes in 32 bits on a CPU
    quantized.init_8bit_state()
    state.CB, state.SCB = quantized.state.CB, quantized.state.SCB
    theirs = bnb.matmul(x_NI, quantized.weight, bias=quantized.bias, state=state)
    (expected,) = torch.autograd.grad(theirs.square().sum(), x_NI)
    ours = quantized(x_NI)
    (found,) = torch.autograd.grad(ours.square().sum(), x_NI)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, expected)


def with_outliers(folder: Path) -> Path:
    """A checkpoint whose first norm makes two columns large for some tokens."""
    make_checkpoint(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for decoder_layer in model.model.layers:
        for norm in (decoder_layer.input_layernorm, decoder_layer.post_attention_layernorm):
            norm.weight.data[[3, 17]] = 6.0
    model.save_pretrained(folder)
    return folder


def items(member: str, seed: int, count: int = 3) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [
        Item(
            member=member,
            tokens=rng.integers(3, VOCAB_SIZE, int(rng.integers(6, 12))).astype(np.int32),
            num_source=2,
            dropout_key=key,
            weight=1.0,
        )
        for key in range(count)
    ]


def assert_alone_as_in_company(bank: AdapterBank) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        bank.add_member(name, AdapterConfig(name="lora", lora_r=4, lora_dropout=0.1), seed=seed)
    bank.train()
    mine, others = items("a", 1), items("b", 2)
    alone = bank.item_losses(mine)
    alone.sum().backward()
    own = {name: p.grad.clone() for name, p in bank.member_parameters("a").items() if p.grad is not None}
    for parameter in bank.member_parameters("a").values():
        parameter.grad = None
    together = bank.item_losses([*mine, *others])[: len(alone)]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    together.sum().backward()
    for name, parameter in bank.member_parameters("a").items():
        scale = float(own[name].abs().max())
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, own[name], rtol=1e-3, atol=1e-3 * scale + 1e-7)


def test_a_group_is_its_runs_alone(tmp_path: Path) -> None:
    bank = make_bank(with_outliers(tmp_path), ModelKind.causal, AdapterMethod.lora, INT8, CPU)
    seen: list[bool] = []
    first = next(iter(bank.layers.values()))
    first.register_forward_hook(lambda _, x, y: seen.append(bool((x[0].abs() >= THRESHOLD).any())))
    assert_alone_as_in_company(bank)
    assert all(seen)


@pytest.mark.slow
def test_smollm2s_own_outliers() -> None:
    source, cache = smollm2()
    base = load_base(source, INT8, CPU, cache)
    assert_alone_as_in_company(base.bank)
