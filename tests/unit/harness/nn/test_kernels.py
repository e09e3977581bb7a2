"""Attention's kernels and refusals by hand: who has which kernel, what it is told, windows, prefixes too long."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import varlen

from harness.nn import attention_kernels
from harness.nn.attention import Branches, Packed, PrefixGroup, SharedPrefix, _packed_attention
from harness.nn.attention_kernels import (
    Sequences,
    attention_lse,
    causal_segments,
    device_capability,
    has_efficient_kernel,
    has_varlen_kernel,
    plain_attention_lse,
    repeat_heads,
    takes_varlen,
    varlen_attention,
)
from harness.nn.batch import Item, Segment
from harness.nn.member_row import Kernels
from harness.nn.rows import Layout, difference

CPU = torch.device("cpu")
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "capability", "varlen_too", "efficient"),
    [
        ("cuda", HALF, 8, (8, 0), True, True),
        ("cuda", BRAIN, 192, (8, 9), True, True),
        ("cuda", BRAIN, 200, (8, 9), False, True),
        ("cuda", BRAIN, 256, (8, 0), True, True),
        ("cuda", BRAIN, 256, (10, 3), True, True),
        ("cuda", BRAIN, 256, (12, 0), False, True),
        ("cuda", BRAIN, 264, (9, 0), False, True),
        ("cuda", BRAIN, 64, (7, 5), False, False),
        ("cuda", HALF, 64, (7, 5), False, True),
        ("cuda", HALF, 64, (5, 0), False, True),
        ("cuda", SINGLE, 64, (4, 9), False, False),
        ("cuda", SINGLE, 64, (8, 0), False, True),
        ("cuda", HALF, 36, (9, 0), False, False),
        ("cuda", torch.float64, 64, (9, 0), False, False),
        ("cpu", HALF, 64, (9, 0), False, False),
    ],
)
def test_who_has_which_kernel(
    device: str, dtype: torch.dtype, head_size: int, capability: tuple[int, int], varlen_too: bool, efficient: bool
) -> None:
    assert has_varlen_kernel(device, dtype, head_size, capability) is varlen_too
    assert has_efficient_kernel(device, dtype, head_size, capability) is efficient


def test_the_capability_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    of = device_capability.__wrapped__
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [of(torch.device(kind)) for kind in ("cpu", "cuda")] == [(0, 0), (0, 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [of(torch.device(kind)) for kind in ("cpu", "cuda")] == [(0, 0), (9, 0)]


def test_a_row_asks_by_its_own_device_type_and_head_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(attention_kernels, "has_varlen_kernel", lambda *given: asked.append(given) or True)
    assert takes_varlen(torch.empty(1, 2, 3, 16, dtype=HALF))
    assert asked == [("cpu", HALF, 16, (0, 0))]


@pytest.mark.parametrize(
    ("capability", "hip", "grouped"),
    [((9, 0), None, {BRAIN}), ((10, 3), None, {BRAIN}), ((8, 0), None, set()), ((9, 0), "6.2", set())],
)
def test_the_kernels_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, grouped: set[torch.dtype]
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert Kernels.of(torch.device("cuda")) == Kernels(together=True, grouped=frozenset(grouped), row_masks=True)


@pytest.mark.parametrize(
    ("causal", "window", "told"), [(True, None, (-1, 0)), (True, 3, (2, 0)), (False, None, (-1, -1))]
)
@pytest.mark.parametrize("heads", [2, 4])
def test_what_torchs_kernel_is_told(
    monkeypatch: pytest.MonkeyPatch, causal: bool, window: int | None, told: tuple[int, int], heads: int
) -> None:
    seen: list[Any] = []
    answer = torch.zeros(1), torch.zeros(2)
    monkeypatch.setattr(varlen, "varlen_attn", lambda *given, **options: seen.append((given, options)) or answer)
    query, key, value = torch.ones(7, heads, 8), torch.ones(9, 2, 8), torch.ones(9, 2, 8)
    queries, keys = Sequences.of([3, 4], CPU), Sequences.of([8, 1], CPU)
    assert queries.starts.tolist() == [0, 3, 7]
    assert Sequences.of([3], torch.device("meta")).starts.device.type == "meta"
    assert (queries.starts.dtype, queries.longest, keys.longest) == (torch.int32, 4, 8)
    assert varlen_attention(query, key, value, queries, keys, causal, 0.5, window) == answer
    [(given, options)] = seen
    assert all(
        one is other for one, other in zip(given, (query, key, value, queries.starts, keys.starts, 4, 8), strict=True)
    )
    assert options.pop("return_aux").lse is True
    assert options == {"scale": 0.5, "window_size": told, "enable_gqa": heads == 4}


def by_hand(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float) -> Tensor:
    """Softmax of one head of one sequence, [T, D]."""
    scores = (query @ key.T * scaling).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("window", [None, 1, 3, 5, 6])
def test_segments_see_themselves_within_the_window(window: int | None) -> None:
    lengths, heads, kv_heads, size = [5, 1, 7], 4, 2, 8
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 13, size, generator=generator) for n in (heads, kv_heads, kv_heads))
    found = causal_segments(query, key, value, lengths, 0.4, window)
    assert torch.equal(Packed(lengths).attend(0, query, key, value, 0.4, window), found)
    alone = SharedPrefix([PrefixGroup([], lengths[:2]), PrefixGroup([], lengths[2:])])
    assert torch.equal(alone.attend(0, query, key, value, 0.4, window), found), "without a prefix any length goes"
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        places = torch.arange(length)
        behind = places[:, None] - places
        seen = (behind >= 0) & (behind < (window or length))
        for head in range(heads):
            wanted = by_hand(query[0, head, rows], key[0, head // 2, rows], value[0, head // 2, rows], seen, 0.4)
            torch.testing.assert_close(found[0, head, rows], wanted)
        start += length


def test_the_plain_kernel_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two query heads for each key's; chunks of two queries, of one where two take too much."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 5, 4, generator=generator) for n in (4, 2, 2))
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    whole = plain_attention_lse(query, key, value, True, 0.5)
    for num_bytes in (4 * 4 * 5 * 2, 4 * 4 * 5 * 2 - 1, 1):
        monkeypatch.setattr(attention_kernels, "PLAIN_SCORES_BYTES", num_bytes)
        out, lse = plain_attention_lse(query, key, value, True, 0.5)
        torch.testing.assert_close((out, lse), whole)
    for head in range(4):
        torch.testing.assert_close(
            out[0, head], by_hand(query[0, head], key[0, head // 2], value[0, head // 2], seen, 0.5)
        )
        scores = (query[0, head] @ key[0, head // 2].T * 0.5).masked_fill(~seen, -torch.inf)
        torch.testing.assert_close(lse[0, head], scores.logsumexp(-1))


def test_what_the_efficient_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors, with a log-sum-exp that is padded as the kernel's is."""
    query, key = torch.empty(1, 4, 5, 8, device="meta"), torch.empty(1, 2, 5, 8, device="meta")
    told: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def kernel(*given: Any, **options: Any) -> tuple[Any, ...]:
        told.append((given, options))
        return query, torch.empty(1, 4, 32), None, None

    monkeypatch.setattr(attention_kernels, "has_efficient_kernel", lambda *_: True)
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", kernel)
    out, lse = attention_lse(query, key, key, True, 0.25)
    [(given, options)] = told
    assert (out is query, lse.shape, options) == (True, (1, 4, 5), {"scale": 0.25})
    assert [tensor.shape for tensor in given[:3]] == [(1, 4, 5, 8)] * 3
    assert given[3:] == (None, True, 0.0, True)


def test_heads_are_repeated_in_their_order() -> None:
    tensor = torch.arange(2.0)[None, :, None, None]
    assert repeat_heads(tensor, 2) is tensor
    assert repeat_heads(tensor, 6).flatten().tolist() == [0, 0, 0, 1, 1, 1]


def recorded(num_tokens: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros(1, 1, num_tokens, 4), torch.zeros(1, 1, num_tokens, 4))]


def test_how_long_the_longest_sequence_is() -> None:
    assert Packed([3, 9, 2]).longest == 9
    assert SharedPrefix([PrefixGroup(recorded(5), [1, 2]), PrefixGroup([], [6])]).longest == 7
    assert SharedPrefix([PrefixGroup(recorded(5), [1, 2]), PrefixGroup([], [8])]).longest == 8
    assert Branches([(5, [1, 2]), (6, []), (0, [4])]).longest == 7
    assert PrefixGroup([], [1, 2, 4]).num_tokens == 7


@pytest.mark.parametrize("plan", [SharedPrefix([PrefixGroup(recorded(5), [2])]), Branches([(5, [2])])])
def test_a_shared_beginning_has_to_be_within_the_window(plan: SharedPrefix | Branches) -> None:
    row = [torch.ones(1, 1, 7 if isinstance(plan, Branches) else 2, 4)] * 3
    assert plan.attend(0, *row, 1.0, 7).shape == row[0].shape
    assert plan.attend(0, *row, 1.0, None).shape == row[0].shape
    with pytest.raises(ValueError, match=r"a sequence of 7 tokens is longer than the model's sliding window of 6"):
        plan.attend(0, *row, 1.0, 6)


def test_keys_and_values_are_recorded() -> None:
    record: list[tuple[Tensor, Tensor]] = []
    query, key, value = torch.ones(1, 2, 3, 4), torch.ones(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
    plan = Packed([3], record)
    for layer in range(2):
        plan.attend(layer, query, key, value, 1.0)
    assert [(k is key, v is value) for k, v in record] == [(True, True)] * 2


class Recording:
    """A plan that notes what it is asked for."""

    longest = 3

    def __init__(self) -> None:
        self.asked: list[tuple[int, float, int | None]] = []

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        self.asked.append((layer, scaling, window))
        return query


def test_what_a_layer_asks_of_its_plan() -> None:
    plan, module, query = Recording(), nn.Module(), torch.ones(1, 2, 3, 16)
    module.layer_idx = 5  # type: ignore[assignment]
    out, weights = _packed_attention(module, query, query, query, None, plan=plan)
    assert (out.shape, weights) == ((1, 3, 2, 16), None)
    _packed_attention(
        module, query, query, query, None, 0.5, plan, 9, position_ids=query, cache_position=query, other=1
    )
    assert plan.asked == [(5, 0.25, None), (5, 0.5, 9)]
    with pytest.raises(ValueError, match=r"needs plan=\.\.\."):
        _packed_attention(module, query, query, query, None, 0.5)
    with pytest.raises(ValueError, match="Module caps its attention scores, which packed rows"):
        _packed_attention(module, query, query, query, None, 0.5, plan, softcap=50.0)
    with pytest.raises(ValueError, match="Module adds s_aux, bias to its attention"):
        _packed_attention(module, query, query, query, None, 0.5, plan, s_aux=query, bias=query)


# Rows.


@pytest.mark.parametrize(
    ("layout", "longest", "expected"),
    [
        (Layout(is_packed=True), 10**6, True),
        (Layout(is_packed=True, window=8), 8, True),
        (Layout(is_packed=True, window=8), 9, False),
        (Layout(is_packed=False), 1, False),
    ],
)
def test_who_may_share_a_beginning(layout: Layout, longest: int, expected: bool) -> None:
    assert layout.may_share(longest) is expected
    assert not layout.keeps_cache


def test_logits_differ_by_their_own_size() -> None:
    """Of each position, around its mean: a constant added to all tokens' logits counts, their level does not."""
    own = torch.tensor([[100.0, 101.0, 102.0], [0.0, 3.0, -3.0]])
    size = torch.tensor([2.0, 18.0]).sqrt()
    assert difference(own, own, 0.0) is None
    ours = own + torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    error = float(0.1 / size[0])
    assert difference(ours, own, error * 1.01) is None
    assert difference(ours, own, error * 0.99) == f"its logits differ by {error:.2g} of their size"
    assert difference(own.half(), own.half(), 0.0) is None
    assert difference(own * torch.nan, own, 1.0) == "its logits differ by nan of their size"


def test_defaults_of_a_row() -> None:
    assert Segment(num_tokens=1, member=None).dropout_key == 0
    tokens: Any = SimpleNamespace(__len__=lambda: 3)
    labelled = Item(member="a", tokens=tokens, num_source=0, dropout_key=0, weight=1.0, label=0.0)
    assert labelled.num_targets == 1
