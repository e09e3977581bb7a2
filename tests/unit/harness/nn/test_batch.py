"""Packing loses nothing: every target token is predicted from the position before it, within its own sequence."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.nn.batch import Item, pack, split_rows

CPU = torch.device("cpu")


def item(num_tokens: int, num_source: int, member: str = "a", key: int = 0) -> Item:
    tokens = np.arange(100 * (key + 1), 100 * (key + 1) + num_tokens, dtype=np.int32)
    return Item(member=member, tokens=tokens, num_source=num_source, dropout_key=key, weight=1.0)


SIZES = st.integers(2, 20).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length - 1)))
ITEMS = st.lists(SIZES, min_size=1, max_size=8).map(
    lambda sizes: [item(length, source, "ab"[n % 2], n) for n, (length, source) in enumerate(sizes)]
)


def test_by_hand() -> None:
    row = pack([item(4, 2, "a", 0), item(3, 0, "b", 1)], CPU)
    assert row.input_ids_1N.tolist() == [[100, 101, 102, 103, 200, 201, 202]]
    assert row.target_at_M.tolist() == [1, 2, 4, 5]
    assert row.targets_M.tolist() == [102, 103, 201, 202]
    assert [(s.num_tokens, s.member, s.dropout_key) for s in row.segments] == [(4, "a", 0), (3, "b", 1)]


def test_first_token_is_never_a_target() -> None:
    assert item(3, 0).num_targets == item(3, 1).num_targets == 2


@settings(deadline=None)  # a loaded machine is no failure
@given(items=ITEMS)
def test_each_target_is_the_next_token_of_its_own_sequence(items: list[Item]) -> None:
    row = pack(items, CPU)
    tokens = row.input_ids_1N[0]
    assert torch.equal(tokens[row.target_at_M + 1], row.targets_M)
    owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor([len(i.tokens) for i in items]))
    assert torch.equal(owner[row.target_at_M], owner[row.target_at_M + 1]), "predicted across a border"
    counts = torch.bincount(owner[row.target_at_M], minlength=len(items)).tolist()
    assert counts == [i.num_targets for i in items]
    assert sum(s.num_tokens for s in row.segments) == len(tokens)


@settings(deadline=None)  # a loaded machine is no failure
@given(items=ITEMS, max_tokens=st.integers(1, 60))
def test_rows_keep_order_and_limit(items: list[Item], max_tokens: int) -> None:
    rows = split_rows(items, max_tokens)
    assert [i for row in rows for i in row] == items
    for row in rows:
        assert len(row) == 1 or sum(len(i.tokens) for i in row) <= max_tokens
    for row, following in pairwise(rows):
        assert sum(len(i.tokens) for i in row) + len(following[0].tokens) > max_tokens, "a row was ended too early"
