"""LQ-LoRA: every round comes nearer to the weight, the first is LoftQ's, and a bank's start is what was taken apart."""

from pathlib import Path

import pytest
import torch

from harness.banks.causal import PeftBank
from harness.banks.layers import quantization_of
from harness.nn.quant import dequantized
from harness.variants.lq_lora import Factors, best_factors, take_apart
from tests.tiny import make_checkpoint
from tests.unit.harness.banks import test_causal
from tests.unit.harness.banks.test_causal import CPU, QUANTS

RANK, SCALE = 4, 2.0


def weight() -> torch.Tensor:
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(0))


def quantized(taken: Factors) -> torch.Tensor:
    return quantization_of(weight() - SCALE * (taken.b_OR @ taken.a_RI), QUANTS["nf4"], CPU)


def test_rounds_come_nearer_and_the_first_is_loftqs() -> None:
    parts = [take_apart(weight(), RANK, SCALE, quantized, rounds) for rounds in (1, 2, 5, 50)]
    errors = [part.error for part in parts]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.99 * errors[0]
    loftq = best_factors(weight() - quantized(Factors(torch.zeros(RANK, 96), torch.zeros(64, RANK))), RANK, SCALE)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(parts[0].learned, loftq, strict=True))
    assert not any(factor.any() for factor in parts[0].taken)
    own = weight() - quantized(parts[3].taken) - SCALE * (parts[3].learned.b_OR @ parts[3].learned.a_RI)
    assert float(own.norm()) == pytest.approx(parts[3].error, rel=1e-5)


def test_it_ends_before_the_error_grows() -> None:
    """Quantization that is worse each time: the second round is not taken."""
    noise = iter((0.1, 10.0, 0.0))
    parts = take_apart(weight(), RANK, SCALE, lambda _: weight() + next(noise) * weight().flip(0), 3)
    assert not any(factor.any() for factor in parts.taken)
    assert next(noise) == 0.0


def test_a_bank_starts_nearer_to_the_weights_than_loftq(tmp_path: Path) -> None:
    folder, errors = make_checkpoint(tmp_path), dict[str, float]()
    plain = PeftBank(folder, QUANTS["none"], CPU)
    originals = {name: layer.base.weight.detach().clone() for name, layer in plain.layers.items()}
    for method in ("loftq", "lq_lora"):
        bank = PeftBank(folder, QUANTS["nf4"], CPU)
        bank.add_member("a", test_causal.config(method), seed=3)
        factors = {key.removeprefix("base_model.model."): p.detach() for key, p in bank.member_parameters("a").items()}
        squares = 0.0
        for name, layer in bank.layers.items():
            stored = dequantized(layer.base)
            if stored is None:  # the output layer
                continue
            added = 2 * factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
            squares += float((originals[name] - stored - added).square().sum())
        errors[method] = squares
    assert errors["lq_lora"] < 0.99 * errors["loftq"]
