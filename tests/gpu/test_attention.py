"""On a CUDA device: one variable-length call a row says what a call a segment says, forward and backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.nn import attention
from harness.nn.attention import AttentionPlan, Branches, KeyValue, Packed, PrefixGroup, SharedPrefix
from harness.nn.attention_kernels import attention_lse, plain_attention_lse, takes_varlen

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none"),
]
HEADS, KV_HEADS, SIZE, SCALE = 8, 2, 64, 0.125
CLOSE = {"atol": 2e-2, "rtol": 2e-2}  # bfloat16


def rows(num_tokens: int, heads: tuple[int, ...] = (HEADS, KV_HEADS, KV_HEADS)) -> list[Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(num_tokens)
    return [
        torch.randn(1, count, num_tokens, SIZE, generator=generator, device="cuda", dtype=torch.bfloat16)
        for count in heads
    ]


def prefix(num_tokens: int) -> list[KeyValue]:
    key, value = rows(num_tokens, (KV_HEADS, KV_HEADS))
    return [(key, value)]


@pytest.mark.parametrize(
    ("make", "num_tokens"),
    [
        (lambda: Packed([300, 1, 65, 2]), 368),
        (
            lambda: SharedPrefix(
                [PrefixGroup(prefix(500), [30, 1]), PrefixGroup([], [9]), PrefixGroup(prefix(3), [2])]
            ),
            42,
        ),
        (lambda: Branches([(130, [20, 3]), (0, [40]), (17, [1])]), 211),
    ],
)
def test_a_row_in_one_call(make: Callable[[], AttentionPlan], num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = rows(num_tokens)
    if not takes_varlen(query):
        pytest.skip("this device has no variable-length kernel")
    with torch.inference_mode():
        found = make().attend(0, query, key, value, SCALE)
        monkeypatch.setattr(attention, "takes_varlen", lambda query: False)
        expected = make().attend(0, query, key, value, SCALE)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_gradients_of_a_row_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(attention, "takes_varlen", lambda query: False)
        tensors = [tensor.requires_grad_() for tensor in rows(368)]
        Packed([300, 1, 65, 2]).attend(0, *tensors, SCALE).square().sum().backward()
        found.append([tensor.grad for tensor in tensors])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("causal", [False, True])
def test_the_plain_kernel_is_the_efficient_one(causal: bool) -> None:
    query, key, value = rows(130)
    for ours, theirs in zip(
        plain_attention_lse(query, key, value, causal, SCALE),
        attention_lse(query, key, value, causal, SCALE),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_cudnns_attention_is_off() -> None:
    assert not torch.backends.cuda.cudnn_sdp_enabled()
