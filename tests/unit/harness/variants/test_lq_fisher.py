"""LQ-LoRA's weights by data: squared gradients of single examples, and the decomposition that is best by them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.banks.adapters.layers import layer_names
from harness.banks.causal import PeftBank
from harness.variants.lq_fisher import mean_squared_gradients, weighting_of
from harness.variants.lq_lora import Factors, best_factors, take_apart
from tests.tiny import make_checkpoint
from tests.unit.harness.banks.test_causal import CPU, QUANTS, config, make_items


def test_they_are_the_squared_gradients_of_each_example(tmp_path: Path) -> None:
    """By transformers' own loss and autograd, an example at a time."""
    folder = make_checkpoint(tmp_path)
    bank = PeftBank(folder, QUANTS["none"], CPU)
    bank.calibrate(make_items())
    examples = bank.calibration()
    assert examples is not None
    names = layer_names(bank.base)
    weights = {name: bank.base.get_submodule(name).weight for name in names}
    mine = mean_squared_gradients(bank.base, weights, examples.losses(bank.base))
    assert not any(p.requires_grad or p.grad is not None for p in bank.base.parameters())

    theirs = AutoModelForCausalLM.from_pretrained(folder)
    sums = {name: torch.zeros_like(weights[name]) for name in names}
    together = {name: torch.zeros_like(weights[name]) for name in names}
    for item in make_items():
        ids_1T = torch.from_numpy(item.tokens).long()[None]
        labels_1T = ids_1T.clone()
        labels_1T[:, : item.num_source] = -100
        theirs.zero_grad()
        theirs(input_ids=ids_1T, labels=labels_1T).loss.backward()
        for name in names:
            gradient = theirs.get_submodule(name).weight.grad
            sums[name] += gradient.square()
            together[name] += gradient
    for name in names:
        torch.testing.assert_close(mine[name], sums[name] / len(make_items()), rtol=1e-3, atol=1e-9)
        assert not torch.allclose(mine[name], (together[name] / len(make_items())).square(), rtol=0.1)


def test_what_gives_no_numbers_is_refused() -> None:
    model = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"adapter\.fisher=true: there are no examples"):
        mean_squared_gradients(model, {"a": model.weight}, [])
    with pytest.raises(ValueError, match=r"examples give a a gradient that is no number"):
        mean_squared_gradients(model, {"a": model.weight}, (model(torch.full((1, 2), torch.inf)).sum() for _ in "a"))


def test_rows_and_columns_count_by_roots_of_means_and_numbers_by_their_own() -> None:
    fisher_OI = torch.tensor([[1.0, 9.0], [4.0, 16.0]])
    weighting = weighting_of(fisher_OI)
    assert weighting.row_O.tolist() == pytest.approx([5**0.5, 10**0.5])
    assert weighting.column_I.tolist() == pytest.approx([2.5**0.5, 12.5**0.5])
    assert weighting.root_OI.tolist() == [[1, 3], [2, 4]]


def test_rows_that_no_example_reaches_stay_finite() -> None:
    fisher_OI = torch.zeros(4, 3)
    fisher_OI[0] = 1.0
    factors = best_factors(torch.randn(4, 3), 2, 1.0, weighting_of(fisher_OI))
    assert all(factor.isfinite().all() for factor in factors)
    assert torch.equal(weighting_of(torch.zeros(4, 3)).row_O, torch.ones(4))


def test_weighted_factors_have_the_least_weighted_error_and_keep_an_important_row() -> None:
    torch.manual_seed(0)
    matrix_OI, fisher_OI = torch.randn(12, 8, dtype=torch.float64), torch.rand(12, 8, dtype=torch.float64)
    fisher_OI[3] *= 1000
    weighting, scale = weighting_of(fisher_OI), 2.0

    def left(factors: Factors) -> Tensor:
        return matrix_OI - scale * factors.b_OR @ factors.a_RI

    own, plain = (left(best_factors(matrix_OI, 2, scale, counts)) for counts in (weighting, None))

    def by_rows_and_columns(matrix_OI: Tensor) -> float:
        return float((weighting.row_O[:, None] * matrix_OI * weighting.column_I).norm())

    assert by_rows_and_columns(own) < by_rows_and_columns(plain)
    assert plain.norm() < own.norm()  # which is what the unweighted one is least in
    assert own[3].norm() < plain[3].norm() / 2
    for _ in range(20):  # no other factors are nearer
        other = [factor + 1e-3 * torch.randn_like(factor) for factor in best_factors(matrix_OI, 2, scale, weighting)]
        assert by_rows_and_columns(own) <= by_rows_and_columns(left(Factors(*other)))


def test_rounds_end_by_the_weighted_error() -> None:
    """Quantization whose second round is nearer by the plain error and farther by the weighted one."""
    weight_OI, fisher_OI = torch.zeros(8, 8), torch.full((8, 8), 1e-6)
    fisher_OI[0, 0] = 1.0
    first, second = torch.eye(8), torch.zeros(8, 8)
    first[0, 0], second[0, 0] = 0.0, 0.9

    def parts(weighted: bool) -> float:
        rounds = iter((first, second))
        counts = weighting_of(fisher_OI) if weighted else None
        found = take_apart(weight_OI, 0, 1.0, lambda _: next(rounds), 2, counts)
        return found.error

    assert parts(False) == pytest.approx(0.9)
    assert parts(True) == pytest.approx(7**0.5 * 1e-3, rel=1e-3)


def test_the_examples_are_needed(tmp_path: Path) -> None:
    bank = PeftBank(make_checkpoint(tmp_path), QUANTS["nf4"], CPU)
    with pytest.raises(ValueError, match="starts from data: give the bank examples first"):
        bank.add_member("a", config("lq_lora", fisher=True), seed=3)
