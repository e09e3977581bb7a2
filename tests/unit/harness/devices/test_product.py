"""Products with frozen weights by MKL and by oneDNN."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.devices import product
from harness.devices.product import frozen_linear, is_by_onednn, linear


@pytest.fixture(params=[False, True], ids=["torch", "onednn"])
def by_onednn(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(product, "_is_faster", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(1, 7, 24), (3, 5, 24), (11, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(by_onednn, shape, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40, bias=bias).requires_grad_(False), torch.randn(shape, requires_grad=True)
    grad = torch.randn(*shape[:-1], 40)
    reads = []

    def weight_of():
        reads.append(1)
        return layer.weight

    y = frozen_linear(x, weight_of, layer.bias)
    (own,) = torch.autograd.grad(y, x, grad)
    expected = functional.linear(x, layer.weight, layer.bias)
    (theirs,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)
    assert len(reads) == 2  # a weight that is dequantized is not kept between the passes
    assert y.is_contiguous()
    assert not (by_onednn and y._is_view())  # low-rank terms are added in place


def test_a_transposed_view_is_multiplied_as_it_is(by_onednn):
    weight, x = torch.randn(40, 24), torch.randn(5, 40)
    torch.testing.assert_close(linear(x, weight.T), x @ weight, rtol=1e-5, atol=1e-5)


def test_one_row_that_is_not_finite_stays_alone(by_onednn):
    weight, x = torch.randn(40, 24), torch.randn(5, 24)
    x[3] = float("nan")
    assert linear(x, weight).isnan().any(dim=1).tolist() == [False, False, False, True, False]


def test_no_gradient_is_kept_where_none_is_wanted(by_onednn):
    x, weight = torch.randn(5, 24), torch.randn(40, 24)
    assert not frozen_linear(x, lambda: weight, None).requires_grad
    with torch.no_grad():
        assert not frozen_linear(x.clone().requires_grad_(), lambda: weight, None).requires_grad


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_the_processor_decides(monkeypatch, vendor, capability, expected):
    monkeypatch.setattr(product, "processor_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    product._is_amd_with_avx512.cache_clear()
    try:
        assert is_by_onednn(torch.zeros(2)) is (expected and torch.backends.mkldnn.is_available())
        assert not is_by_onednn(torch.zeros(2, dtype=torch.bfloat16))
        monkeypatch.setattr(torch._C, "_get_mkldnn_enabled", lambda: False)
        assert not is_by_onednn(torch.zeros(2))
    finally:
        product._is_amd_with_avx512.cache_clear()
