"""Values of scoring by hand: which requests share a row, what is kept of finished parts, whose digest a model has."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eval.scoring import continuations, embeddings, next_token, row_sizes
from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.finite import require_finite
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.next_token import MIN_PREFIX_TOKENS, Prompt, common_prefix
from eval.scoring.partial import Partial
from eval.scoring.row_sizes import Backoff
from harness.config.schema import AdapterMethod


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_parts_are_kept_on_disk_under_what_decides_them(tmp_path: Path) -> None:
    partial: Partial[int] = Partial.open(tmp_path, "mmlu", "model", "data")
    digest = hashlib.sha256(b'["model", "data"]').hexdigest()[:16]
    assert partial.path == tmp_path / f"mmlu-{digest}.partial.jsonl"
    partial.add({})
    assert not partial.path.exists()
    partial.add({3: [0.5], 1: [0.25]})
    partial.add({2: "x"})
    assert [json.loads(line) for line in partial.path.read_text().splitlines()] == [
        {"at": [3, 1], "values": [[0.5], [0.25]]}, {"at": [2], "values": ["x"]},
    ]  # fmt: skip
    assert Partial.open(tmp_path, "mmlu", "model", "data").done == partial.done == {3: [0.5], 1: [0.25], 2: "x"}
    assert Partial.open(tmp_path, "mmlu", "model", "other").done == {}
    nowhere: Partial[int] = Partial.open(None, "mmlu", "model")
    nowhere.add({1: 2})
    assert (nowhere.path, nowhere.done) == (None, {1: 2})


def test_what_a_models_digest_holds() -> None:
    weight = torch.zeros(1)
    base: Any = made(
        fingerprint="f",
        tokenizer_fingerprint="t",
        bank=made(layers={"q": made(base=made(weight=weight))}, dtype="d", configs={}, member_parameters=None),
    )
    storage = ["SimpleNamespace", "torch.float32", "d"]

    def expected(parts: list[Any] | None = None, more: list[str] | None = None) -> str:
        digest = hashlib.sha256(json.dumps(["f", [*storage, *(more or [])]]).encode())
        if parts is not None:
            digest.update(json.dumps(parts).encode())
            for name in "ab":
                digest.update(name.encode() + np.float32(1.5).tobytes())
        return digest.hexdigest()

    assert (model_sha256(base, None), read_by(base)) == (expected(), "t")
    tensor = torch.tensor([1.5], requires_grad=True)
    base.bank.member_parameters = lambda member: {"b": tensor, "a": tensor}
    for method, parts in (
        (AdapterMethod.lora, [8, 16]),
        (AdapterMethod.allora, [8, 16]),
        (AdapterMethod.rslora, [8, 16, "rslora"]),
    ):
        base.bank.configs["m"] = made(lora_r=8, lora_alpha=16, method=method)
        assert model_sha256(base, "m") == expected(parts), method
    base.bank.configs["m"].method = AdapterMethod.lora
    base.bank.factors = {"m": 1, "n": 0.5}
    assert model_sha256(base, "m") == expected([8, 16])
    base.bank.factors["m"] = 0.5
    assert model_sha256(base, "m") == expected([8, 16, {"factor": 0.5}])
    base.bank.factors, base.bank.serving_fields = {}, {"x": 1, "a": 2}
    assert model_sha256(base, "m") == expected([8, 16, {"a": 2, "x": 1}])
    weight.quant_state = made(quant_type="nf4", blocksize=64, nested=True, dtype="d2")  # type: ignore[attr-defined]
    assert model_sha256(base, None) == expected(more=["nf4", "64", "True", "d2"])


def test_scores_that_are_no_numbers_are_whose() -> None:
    base: Any = made(source=made(location="m"))
    members = [None, "a", "a", "b"]
    require_finite(base, members, np.zeros((4, 2), dtype=np.float32))
    require_finite(base, members, np.zeros(4, dtype=np.float32))
    with pytest.raises(ValueError, match=r"^m with adapter a: its logits are NaN or infinite"):
        require_finite(base, members, np.array([[0, 0], [0, np.nan], [np.inf, 0], [0, 0]], dtype=np.float32))
    with pytest.raises(ValueError, match=r"^m with no adapter and adapter b: its logits"):
        require_finite(base, members, np.array([np.nan, 0, 0, -np.inf], dtype=np.float32))


def test_sequences_are_embedded_a_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[int]] = []

    def one_pass(base: Any, sequences: Any) -> list[Any]:
        passes.append([len(tokens) for tokens in sequences])
        return [np.array([float(len(tokens))]) for tokens in sequences]

    monkeypatch.setattr(embeddings, "_pass", one_pass)
    sequences = [np.zeros(size, dtype=np.int32) for size in (5, 4, 1, 9)]

    def taken(limit: int) -> list[list[int]]:
        passes.clear()
        found = embeddings.embed(None, sequences, limit)  # type: ignore[arg-type]
        assert (found.dtype, found.tolist()) == (np.float64, [[5.0], [4.0], [1.0], [9.0]])
        return list(passes)

    assert taken(1) == [[5], [4], [1], [9]]
    assert taken(9) == [[5, 4], [1], [9]]
    assert taken(10) == [[5, 4, 1], [9]]
    assert taken(19) == [[5, 4, 1, 9]]
    assert embeddings.ROW_TOKENS == 4096


def test_an_embedding_is_the_mean_of_a_sequences_own_states() -> None:
    seen: list[Any] = []

    def bank(row: Any, segments: Any, plan: Any) -> Any:
        seen.append((row.tolist(), [(one.num_tokens, one.member) for one in segments], list(plan.lengths)))
        return torch.stack([row[0], 10 * row[0]], dim=1)[None]

    bank.device = torch.device("cpu")  # type: ignore[attr-defined]
    sequences = [np.array([1, 3], dtype=np.int32), np.array([5], dtype=np.int32)]
    found = embeddings.embed(made(bank=bank), sequences)  # type: ignore[arg-type]
    assert found.tolist() == [[2.0, 20.0], [5.0, 50.0]]
    assert seen == [([[1, 3, 5]], [(2, None), (1, None)], [2, 1])]


def test_layers_are_those_of_the_decoder() -> None:
    text = made(num_hidden_layers=2, per_layer_config=["a", "b", "c"])
    base: Any = made(config=made(get_text_config=lambda decoder: {True: text}[decoder]))
    assert row_sizes._layer_configs(base) == ["a", "b"]


def test_continuations_of_a_group_share_what_is_worth_it() -> None:
    begin = list(range(MIN_PREFIX_TOKENS))

    def groups(*requests: Continuation, shares: bool = True) -> list[tuple[str | None, list[int], int]]:
        found = continuations._groups(requests, shares)
        return [(group.member, group.requests, group.num_prefix) for group in found]

    def one(tokens: list[int], group: str | None = "g", member: str | None = None) -> Continuation:
        return Continuation(tokens=tokens, num_context=1, group=group, member=member)

    assert MIN_PREFIX_TOKENS == 16
    assert groups(one([*begin, 90]), one([*begin, 91])) == [(None, [0, 1], 16)]
    assert groups(one([*begin[:-1], 90, 91]), one([*begin[:-1], 92])) == [(None, [0, 1], 0)]
    assert groups(one(begin), one(begin)) == [(None, [0, 1], 0)]  # the last token is no input
    assert groups(one([*begin, 90]), one([*begin, 91]), shares=False) == [(None, [0], 0), (None, [1], 0)]
    assert groups(one([1, 2], None), one([1, 2, 3], None), one([1, 2, 3, 4], None, "a"), one([1, 2], "x", "a")) == [
        (None, [1], 0), (None, [0], 0), ("a", [2], 0), ("a", [3], 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("num_tokens", "num_context", "message"),
    [
        (3, 0, "request 0: 0 tokens of context of 3 in all"),
        (3, 3, "request 0: 3 tokens of context of 3 in all"),
        (7, 1, "request 0 has 7 tokens; this model takes 5 and one to predict"),
    ],
)
def test_continuations_have_their_ends(num_tokens: int, num_context: int, message: str) -> None:
    base: Any = made(bank=made(configs={}), max_length=5)
    with pytest.raises(ValueError, match=message):
        continuations._check(base, [Continuation(tokens=[1] * num_tokens, num_context=num_context)])
    for good in ((2, 1), (6, 1), (6, 5)):
        continuations._check(base, [Continuation(tokens=[1] * good[0], num_context=good[1])])


def test_a_group_that_does_not_fit_is_cut_where_it_would_have_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[list[int]]] = []

    def score_row(bank: Any, row: Any, requests: Any, shares: bool) -> Any:
        tried.append([group.requests for group in row])
        if sum(group.num_row_tokens(requests) for group in row) > 8:
            raise torch.OutOfMemoryError("no room")
        return [made(logprobs=np.zeros(1, dtype=np.float32)) for group in row for _ in group.requests]

    monkeypatch.setattr(continuations, "_score_row", score_row)
    monkeypatch.setattr(continuations, "row_sizes", lambda bank, row_tokens: made(row_tokens=row_tokens))
    longest: list[int] = []
    layout = made(may_share=lambda num_tokens: longest.append(num_tokens) or True)
    base: Any = made(bank=made(layout=layout, device=torch.device("cpu"), configs={}), max_length=99)
    assert list(score_continuations(base, [], row_tokens=12)) == []
    two = [Continuation(tokens=[1] * size, num_context=1) for size in (7, 3)]
    assert [indices for indices, _ in score_continuations(base, two, row_tokens=12)] == [[0, 1]]
    assert longest == [0, 7]
    tried.clear()
    asked = [Continuation(tokens=[n] * 5, num_context=1, group=group) for n, group in ((1, "g"), (2, "g"), (3, "h"))]
    done = [index for indices, _ in score_continuations(base, asked, row_tokens=16) for index in indices]
    assert sorted(done) == [0, 1, 2]
    assert tried == [[[0, 1], [2]], [[0, 1]], [[2]]]
    tried.clear()
    more = [*asked, Continuation(tokens=[4] * 5, num_context=1, group="g")]
    assert sorted(index for indices, _ in score_continuations(base, more, 16) for index in indices) == [0, 1, 2, 3]
    assert tried == [[[0, 1, 3], [2]], [[0]], [[1, 3]], [[2]]]


def test_prompts_have_their_ends() -> None:
    base: Any = made(bank=made(configs={}), max_length=3)
    for size in (0, 4):
        with pytest.raises(ValueError, match=rf"prompt 1 \(group 'g'\) has {size} tokens; this model takes 1 to 3"):
            next_token._check(base, [Prompt(tokens=[1] * 3), Prompt(tokens=[1] * size, group="g")])
    assert common_prefix([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert common_prefix([[1], [2]]) == 0
    table = next_token._candidate_table
    assert table([7, 8], 2).tolist() == [[7, 8], [7, 8]]
    assert table([[7], [8]], 2).tolist() == [[7], [8]]
    for wrong in ([[7], [8], [9]], [[[7]], [[8]]]):
        with pytest.raises(ValueError, match=r"candidates: shape .*; expected \[C\] or \[2, C\], one row a prompt"):
            table(wrong, 2)  # type: ignore[arg-type]


def test_kept_prefixes_are_bounded_by_rows_and_by_room(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    original = next_token._next_row

    def next_row(parts: Any, prompts: Any, limit: int, kept: int) -> Any:
        limits.append((limit, kept))
        return original(parts, prompts, limit, kept)

    def score_row(bank: Any, parts: Any, prompts: Any, wanted: Any, limit: int) -> Any:
        if limit > 20:
            raise torch.OutOfMemoryError("no room")
        return np.zeros((len(parts), 1), dtype=np.float32)

    monkeypatch.setattr(next_token, "_next_row", next_row)
    monkeypatch.setattr(next_token, "_score_row", score_row)
    longest: list[int] = []
    layout = made(may_share=lambda num_tokens: bool(longest.append(num_tokens)))
    base: Any = made(bank=made(layout=layout, device=torch.device("cpu"), configs={}), max_length=99)
    prompts = [Prompt(tokens=[1] * size) for size in (5, 4, 3)]
    told: list[tuple[int, int]] = []
    for kept in (100, 1000):
        monkeypatch.setattr(
            next_token, "row_sizes", lambda bank, row_tokens, kept=kept: made(row_tokens=row_tokens, kept_tokens=kept)
        )
        next_token.next_token_logprobs(base, prompts, [7], lambda *done: told.append(done), row_tokens=40)
    assert limits == [(40, 100), (20, 50), (40, 320), (20, 160)]
    assert (told, longest) == ([(3, 3)] * 2, [5, 5])
    assert list(next_token.score_rows(base, [], [7], 40)) == []
    assert row_sizes.PREFIX_ROWS == 8


def test_a_size_is_one_at_least() -> None:
    assert [Backoff(size, torch.device("cpu"), "row", "x").size for size in (0, 1, 2)] == [1, 1, 2]
    sizes: list[int] = []

    def work(size: int) -> int:
        sizes.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("no room")
        return size

    assert Backoff(9, torch.device("cpu"), "row", "x").run(work, smallest=3) == 3
    assert sizes == [9, 4, 3]
    with pytest.raises(RuntimeError, match=r"^something else$") as caught:
        Backoff(9, torch.device("cpu"), "row", "x").run(_fails, smallest=3)
    assert caught.type is RuntimeError  # and not that there was no room


def _fails(size: int) -> int:
    raise RuntimeError("something else")
