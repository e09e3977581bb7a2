"""Attention plans: the variable-length kernel, stood in for on the CPU, says what the path a segment at a time says."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from eval.answers.key_value_cache import Decode, Prefill, Shelf, Slots
from harness.nn import attention, attention_kernels
from harness.nn.attention import AttentionPlan, Branches, KeyValue, Packed, PrefixGroup, SharedPrefix
from harness.nn.attention_kernels import (
    Sequences,
    attention_lse,
    has_efficient_kernel,
    has_varlen_kernel,
    plain_attention_lse,
)

HEADS, KV_HEADS, SIZE, SCALE = 6, 2, 16, 0.3


def reference_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: varlen.AuxRequest,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> tuple[Tensor, Tensor]:
    """torch's `varlen_attn` by its documentation: a loop over the sequences, softmax by hand. LSE [H, N]."""
    assert return_aux.lse
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(cu_seq_k.diff().max())
    outs, lses = [], []
    for place in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[place] : cu_seq_q[place + 1]].transpose(0, 1)
        k, v = (
            t[cu_seq_k[place] : cu_seq_k[place + 1]].transpose(0, 1).repeat_interleave(query.shape[1] // t.shape[1], 0)
            for t in (key, value)
        )
        scores = q @ k.transpose(1, 2) * scale
        if window_size == (-1, 0):
            assert (
                q.shape == k.shape
            )  # else the kernel's diagonal is at the end, scaled_dot_product_attention's at the start
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        outs.append((scores.softmax(-1) @ v).transpose(0, 1))
        lses.append(scores.logsumexp(-1))
    return torch.cat(outs), torch.cat(lses, dim=1)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The variable-length path on the CPU. -> how often sequences' places were put on the device."""
    made: list[Sequence[int]] = []
    of = Sequences.of

    def counting(lengths: Sequence[int], device: torch.device) -> Sequences:
        made.append(lengths)
        return of(lengths, device)

    monkeypatch.setattr(varlen, "varlen_attn", reference_varlen)
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    monkeypatch.setattr(Sequences, "of", counting)
    return lambda: len(made)


def rows(num_tokens: int, seed: int = 0) -> list[Tensor]:
    """Queries, keys and values of a row, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, heads, num_tokens, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def prefix(num_tokens: int, seed: int) -> list[KeyValue]:
    """Recorded keys and values of two layers."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, KV_HEADS, num_tokens, SIZE)
    return [(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)) for _ in range(2)]


PLANS: list[tuple[Callable[[], AttentionPlan], int]] = [
    (lambda: Packed([5, 1, 9, 2]), 17),
    (lambda: Packed([4]), 4),
    (lambda: SharedPrefix([PrefixGroup(prefix(7, 1), [3, 1, 4]), PrefixGroup(prefix(20, 2), [2])]), 10),
    (
        lambda: SharedPrefix([PrefixGroup(prefix(7, 1), [3]), PrefixGroup([], [5, 1]), PrefixGroup(prefix(2, 2), [2])]),
        11,
    ),
    (lambda: SharedPrefix([PrefixGroup(prefix(9, 3), [6])]), 6),
    (lambda: SharedPrefix([PrefixGroup([], [6, 2])]), 8),
    (lambda: Branches([(6, [2, 3]), (4, [1])]), 16),
    (lambda: Branches([(0, [4, 1]), (5, [2, 2]), (3, [])]), 17),
    (lambda: Branches([(0, [4, 1])]), 5),
    (lambda: Branches([(4, []), (0, [2]), (5, [1, 2])]), 14),
]


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_one_call_a_row_says_what_a_call_a_segment_says(number: int, request: pytest.FixtureRequest) -> None:
    make, num_tokens = PLANS[number]
    with torch.inference_mode():
        expected = [make().attend(layer, *rows(num_tokens), SCALE) for layer in (0, 1)]
    made = request.getfixturevalue("at_once")
    plan = make()
    with torch.inference_mode():
        found = [plan.attend(layer, *rows(num_tokens), SCALE) for layer in (0, 1)]
    assert made() in (1, 3)  # own sequences, and queries and prefixes where there are any: by the first layer alone
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


def test_gradients_are_the_same_too(request: pytest.FixtureRequest) -> None:
    grads = []
    for at_once in (False, True):
        if at_once:
            request.getfixturevalue("at_once")
        tensors = rows(17)
        out = Packed([5, 1, 9, 2]).attend(0, *tensors, SCALE)
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
        grads.append([tensor.grad for tensor in tensors])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_plan_counts_its_segments_once_for_all_layers(at_once: Callable[[], int]) -> None:
    plan = Packed([3, 4])
    for layer in range(5):
        plan.attend(layer, *rows(7), SCALE)
    assert at_once() == 1


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "capability", "expected"),
    [
        ("cuda", torch.bfloat16, 128, (9, 0), True),
        ("cuda", torch.float16, 64, (8, 0), True),
        ("cuda", torch.bfloat16, 80, (12, 0), True),
        ("cuda", torch.bfloat16, 256, (9, 0), True),
        ("cuda", torch.bfloat16, 256, (8, 6), False),  # its backward pass wants an A100's shared memory
        ("cuda", torch.float32, 128, (9, 0), False),
        ("cuda", torch.float16, 128, (7, 5), False),
        ("cuda", torch.bfloat16, 100, (9, 0), False),
        ("cuda", torch.bfloat16, 264, (9, 0), False),
        ("cpu", torch.bfloat16, 128, (0, 0), False),
        ("mps", torch.float16, 128, (0, 0), False),
        ("xpu", torch.bfloat16, 128, (0, 0), False),
    ],
)
def test_where_a_row_is_one_call(
    device: str, dtype: torch.dtype, head_size: int, capability: tuple[int, int], expected: bool
) -> None:
    assert has_varlen_kernel(device, dtype, head_size, capability) is expected


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "capability", "expected"),
    [
        ("cuda", torch.float32, 64, (7, 0), True),
        ("cuda", torch.float16, 128, (7, 5), True),
        ("cuda", torch.bfloat16, 128, (8, 0), True),
        ("cuda", torch.bfloat16, 128, (7, 5), False),
        ("cuda", torch.float64, 64, (9, 0), False),
        ("cuda", torch.float32, 20, (9, 0), False),
        ("mps", torch.float32, 64, (0, 0), False),
    ],
)
def test_where_the_efficient_kernel_exists(
    device: str, dtype: torch.dtype, head_size: int, capability: tuple[int, int], expected: bool
) -> None:
    assert has_efficient_kernel(device, dtype, head_size, capability) is expected


@pytest.mark.parametrize("chunk_bytes", [1, 4 * HEADS * 23 * 3, 2**28])
@pytest.mark.parametrize(("num_queries", "num_keys", "causal"), [(9, 23, False), (23, 23, True), (1, 23, False)])
def test_the_plain_kernel_is_the_cpus(
    num_queries: int, num_keys: int, causal: bool, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_kernels, "PLAIN_SCORES_BYTES", chunk_bytes)
    query, _, _ = (tensor.detach() for tensor in rows(num_queries, 1))
    _, key, value = (tensor.detach() for tensor in rows(num_keys, 2))
    for ours, theirs in zip(
        plain_attention_lse(query, key, value, causal, SCALE),
        attention_lse(query, key, value, causal, SCALE),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    in_16_bits = plain_attention_lse(query.bfloat16(), key.bfloat16(), value.bfloat16(), causal, SCALE)
    assert [tensor.dtype for tensor in in_16_bits] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("has_kernel", [False, True])
def test_a_device_without_the_efficient_kernel_gets_the_plain_one(
    has_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On meta tensors, which are neither a CPU's nor a GPU's: shapes and types."""
    called: list[int] = []

    def plain(*args: Any) -> tuple[Tensor, Tensor]:
        called.append(1)
        return plain_attention_lse(*args)

    monkeypatch.setattr(attention_kernels, "plain_attention_lse", plain)
    if has_kernel:
        monkeypatch.setattr(attention_kernels, "has_efficient_kernel", lambda *args: True)
    out, lse = attention_lse(*meta_row(9), True, SCALE)
    assert (out.shape, lse.shape) == ((1, HEADS, 9, SIZE), (1, HEADS, 9))
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert called == ([] if has_kernel else [1])


def meta_row(num_tokens: int, requires_grad: bool = False) -> list[Tensor]:
    shapes = ((1, heads, num_tokens, SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return [torch.empty(s, device="meta", dtype=torch.bfloat16, requires_grad=requires_grad) for s in shapes]


def test_every_plan_fits_torchs_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors, by the kernel's own registration: a fake GPU wants a build of torch with CUDA."""
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    calls: list[tuple[int, ...]] = []
    real = varlen.varlen_attn

    def counting(query: Tensor, *args: Any, **options: Any) -> Any:
        calls.append(tuple(query.shape))
        return real(query, *args, **options)

    monkeypatch.setattr(varlen, "varlen_attn", counting)
    beginning: list[KeyValue] = [(*meta_row(7)[1:],), (*meta_row(7)[1:],)]  # type: ignore[list-item]
    shelf = Shelf(num_slots=3, max_tokens=8)
    plans: list[tuple[AttentionPlan, int, int]] = [
        (Packed([5, 1, 9, 2]), 17, 1),
        (SharedPrefix([PrefixGroup(beginning, [3, 1]), PrefixGroup([], [2])]), 6, 2),
        (SharedPrefix([PrefixGroup([], [3, 1, 2])]), 6, 1),
        (Branches([(6, [2, 3]), (0, [4])]), 15, 2),
        (Prefill([2, 3], [(shelf, shelf.add(2)), (shelf, shelf.add(3))]), 5, 1),
    ]
    for plan, num_tokens, num_calls in plans:
        calls.clear()
        for layer in (0, 1):
            out = plan.attend(layer, *meta_row(num_tokens), SCALE)
            assert out.shape == (1, HEADS, num_tokens, SIZE)
            assert out.dtype == torch.bfloat16
        assert len(calls) == 2 * num_calls
    decode = Decode(Slots([shelf], [1, 0], torch.device("meta")))
    assert decode.attend(0, *meta_row(2), SCALE).shape == (1, HEADS, 2, SIZE)


def test_torchs_kernel_has_a_backward_pass_for_grouped_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    tensors = meta_row(17, requires_grad=True)
    Packed([5, 1, 9, 2]).attend(0, *tensors, SCALE).sum().backward()
    for tensor in tensors:
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape


@pytest.mark.slow  # processes that import torch
def test_cudnns_attention_is_off_wherever_a_model_is_loaded() -> None:
    """It is on in a fresh process; the setting is torch's, so it holds for transformers' own attention too."""
    program = (
        "import sys, torch; assert torch.backends.cuda.cudnn_sdp_enabled(); "
        "import harness.banks.load; assert not torch.backends.cuda.cudnn_sdp_enabled(); "
        "assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled(); "
        "assert 'torch.nn.attention.varlen' not in sys.modules"  # it brings torch's compiler
    )
    subprocess.run([sys.executable, "-c", program], check=True)
