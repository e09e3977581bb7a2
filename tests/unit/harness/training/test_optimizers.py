"""Optimizers besides AdamW: their updates are those of the papers, and a resumed run is the same run, bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.config.schema import Optimizer, TrainConfig
from harness.training.loop import TrainingInterrupted, train_group
from harness.training.optim import OptimizerKind, make_optimizer, rate_groups, set_rate, state_bytes, used_optimizer
from tests.builders import make_member, weights
from tests.tiny import make_checkpoint
from tests.unit.harness.training.test_loop import make_bank

NEW = ["adamw_8bit", "ademamix", "ademamix_8bit", "lion", "lion_8bit", "muon"]
TRAIN = TrainConfig(learning_rate=1e-2, adam_beta2=0.99, weight_decay=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def updates(
    kind: str, num_steps: int, total_steps: int = 0, rows: int = 64
) -> tuple[list[Tensor], list[Tensor], nn.Parameter]:
    """-> gradients of each step, the parameter before the first and after each, and the parameter"""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(rows, 128, generator=generator))
    optimizer = make_optimizer([parameter], TRAIN, OptimizerKind(kind), total_steps)
    gradients, values = list[Tensor](), [parameter.detach().clone()]
    for _ in range(num_steps):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        gradients.append(parameter.grad.clone())
        set_rate(optimizer, 1e-2)
        optimizer.step()
        values.append(parameter.detach().clone())
    return gradients, values, parameter


def test_lion_is_the_papers() -> None:
    """arXiv 2302.06675, algorithm 2: the sign of b1 m + (1 - b1) g, decay apart, then m by b2."""
    gradients, values, _ = updates("lion", 4)
    p, m = values[0].clone(), torch.zeros_like(values[0])
    for g, value in zip(gradients, values[1:], strict=True):
        p = p * (1 - 1e-2 * 0.1) - 1e-2 * (0.9 * m + 0.1 * g).sign()
        m = 0.99 * m + 0.01 * g
        torch.testing.assert_close(value, p, rtol=0, atol=1e-5)


def test_ademamix_is_the_papers_with_rising_alpha_and_beta3() -> None:
    """arXiv 2409.03137, algorithm 1 and equations for alpha(t) and beta3(t)."""
    gradients, values, _ = updates("ademamix", 4, total_steps=4)
    p, fast, slow, second = values[0].clone(), *(torch.zeros_like(values[0]) for _ in range(3))
    log1, log3 = (torch.log(torch.tensor(beta, dtype=torch.float64)) for beta in (0.9, 0.9999))
    for step, (g, value) in enumerate(zip(gradients, values[1:], strict=True), 1):
        share = step / 4
        beta3 = float(torch.exp(log1 * log3 / ((1 - share) * log3 + share * log1)).clamp_max(0.9999))
        fast, slow = 0.9 * fast + 0.1 * g, beta3 * slow + (1 - beta3) * g
        second = 0.99 * second + 0.01 * g * g
        root = (second / (1 - 0.99**step)).sqrt() + 1e-8
        p = p * (1 - 1e-2 * 0.1) - 1e-2 * (fast / (1 - 0.9**step) + 5.0 * share * slow) / root
        torch.testing.assert_close(value, p, rtol=0, atol=2e-5)


def test_muons_update_has_equal_singular_values_of_adamws_size() -> None:
    _, values, _ = updates("muon", 1)
    update = (values[1] - values[0] * (1 - 1e-2 * 0.1)) / 1e-2
    singular = torch.linalg.svdvals(update)
    assert float(singular.max() / singular.min()) < 2.5  # Newton-Schulz in five steps: 0.7 to 1.2
    assert 0.1 < float(update.square().mean().sqrt()) < 0.3  # 0.2, an AdamW step's


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(ValueError, match=r"train.optimizer=muon: it updates matrices, and a tensor of shape \[3\]"):
        make_optimizer([nn.Parameter(torch.ones(3))], TRAIN, OptimizerKind.muon)


@pytest.mark.parametrize("name", ["adamw_8bit", "ademamix_8bit", "lion_8bit"])
def test_8_bits_are_8_bits_and_near_the_32_bit_update(name: str) -> None:
    parameter = nn.Parameter(torch.ones(64, 128))
    optimizer = make_optimizer([parameter], TRAIN, OptimizerKind(name))
    parameter.grad = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype is torch.uint8
    moments = sum(value.numel() for key, value in optimizer.state[parameter].items() if key in ("state1", "state2"))
    assert state_bytes(Optimizer(name), parameter.numel()) == moments


@pytest.mark.parametrize("name", NEW)
def test_a_named_optimizer_runs_everywhere_and_never_pages(name: str) -> None:
    for device in ("cpu", "cuda"):
        kind = used_optimizer(Optimizer(name), torch.device(device), pages=True)
        assert kind.value == name
        assert not kind.paged
    if name != "adamw_8bit":
        assert kind.with_paging(True) is kind


@pytest.mark.parametrize("name", ["adamw_8bit", "ademamix_8bit", "lion_8bit", "muon"])
def test_a_resumed_run_is_the_same_run(folder: Path, tmp_path: Path, name: str) -> None:
    straight, resumed = make_bank(folder), make_bank(folder)
    wanted: dict[str, object] = {"optimizer": Optimizer(name), "max_steps": 4}
    wanted |= {"adapter": {"lora_plus_ratio": 4.0, "lora_r": 128, "targets": ["q_proj"]}}  # 4,096 elements and more
    train_group(straight, [make_member("a", tmp_path / "straight", **wanted)[0]])
    stopped, seen = make_member("a", tmp_path, **wanted)
    with pytest.raises(TrainingInterrupted):
        train_group(make_bank(folder), [stopped], lambda: len(seen) >= 2)
    again, _ = make_member("a", tmp_path, **wanted)
    train_group(resumed, [again])
    assert again.error is None
    assert again.optimizer_kind is not None
    assert again.optimizer_kind.value == name
    own, other = weights(straight, "a"), weights(resumed, "a")
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_lora_plus_moves_b_by_its_ratio() -> None:
    names = ["x.lora_A.weight", "x.lora_B.weight"]
    parameters = {name: nn.Parameter(torch.zeros(4, 4)) for name in names}
    optimizer = make_optimizer(rate_groups(parameters, 16.0), TRAIN, OptimizerKind.adamw)
    for parameter in parameters.values():
        parameter.grad = torch.ones(4, 4)
    set_rate(optimizer, 1e-3)
    optimizer.step()
    moved = [float(-parameter.mean()) for parameter in parameters.values()]
    assert moved == pytest.approx([1e-3, 16e-3], rel=1e-4)
