"""The chunked cross-entropy has torch's values and gradients, and never holds all logits."""

import pytest
import torch
from torch.nn import functional as F

import harness.nn.loss
from harness.nn.loss import target_losses

N, D, V = 37, 12, 50


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    return hidden_ND, torch.randn(V, D, generator=generator).to(dtype), torch.randint(V, (N,), generator=generator)


@pytest.mark.parametrize("chunk_bytes", [1, 4 * V * 5, 2**20])
def test_values_and_gradients_are_torchs(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.nn.loss, "CHUNK_BYTES", chunk_bytes)
    hidden_ND, weight_VD, targets_N = inputs()
    weights_N = torch.linspace(0.1, 2.0, N)
    losses_N = target_losses(hidden_ND, weight_VD, targets_N)
    (losses_N * weights_N).sum().backward()
    ours = hidden_ND.grad
    reference_ND = hidden_ND.detach().clone().requires_grad_()
    expected_N = F.cross_entropy(reference_ND @ weight_VD.T, targets_N, reduction="none")
    (expected_N * weights_N).sum().backward()
    torch.testing.assert_close(losses_N, expected_N)
    torch.testing.assert_close(ours, reference_ND.grad)


def test_bfloat16_loss_is_float32_and_near() -> None:
    hidden_ND, weight_VD, targets_N = inputs(torch.bfloat16)
    losses_N = target_losses(hidden_ND, weight_VD, targets_N)
    losses_N.sum().backward()
    assert losses_N.dtype is torch.float32
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.dtype is torch.bfloat16
    expected_N = F.cross_entropy(hidden_ND.detach().float() @ weight_VD.float().T, targets_N, reduction="none")
    torch.testing.assert_close(losses_N.detach(), expected_N, rtol=0.02, atol=0.05)


def test_huge_logits_stay_finite() -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    losses_N = target_losses(hidden_ND * 1e4, weight_VD, targets_N)
    losses_N.sum().backward()
    assert torch.isfinite(losses_N).all()
    assert hidden_ND.grad is not None
    assert torch.isfinite(hidden_ND.grad).all()


def test_no_target_no_loss() -> None:
    hidden_ND, weight_VD, _ = inputs()
    losses_N = target_losses(hidden_ND[:0], weight_VD, torch.zeros(0, dtype=torch.int64))
    assert losses_N.shape == (0,)
