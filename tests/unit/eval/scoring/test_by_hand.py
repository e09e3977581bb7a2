"""Which prompts go together in a pass, by hand; and the defaults of judges, as the docs state them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eval import systems
from eval.judges import batch
from eval.judges.batch import BatchJudge
from eval.judges.replay import ReplayJudge
from eval.judges.retry import RunStopped
from eval.judging.flags import JudgeFlags
from eval.judging.options import ApiOptions, JudgeOptions, LocalOptions, ReplayOptions
from eval.judging.prompts import Mode
from eval.scoring import continuations, next_token, padded
from eval.scoring.row_sizes import MAX_SLOTS, PREFILL_TOKENS, ROW_TOKENS, _kept_width, pass_token_bytes
from harness.config.schema import Device, PathsConfig
from tests.builders import record, spec


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_a_row_of_continuations_is_filled_and_holds_one_at_least() -> None:
    requests = [made(tokens=[0] * size) for size in (5, 4, 3, 9)]
    whole = continuations._Group(None, [0, 1], 2)
    assert whole.num_row_tokens(requests) == 2 + (5 - 1 - 2) + (4 - 1 - 2)
    groups = [continuations._Group(None, [i], 0) for i in (0, 1, 2)]  # 4, 3 and 2 tokens

    def taken(limit: int) -> list[int]:
        return [group.requests[0] for group in continuations._next_row(groups, requests, limit)]

    assert [taken(limit) for limit in (1, 4, 6, 7, 8, 9, 99)] == [[0], [0], [0], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    assert [part.requests for part in continuations._Group(None, [0, 1, 2], 0).halves(requests)] == [[0], [1, 2]]
    assert [part.requests for part in continuations._Group(None, [3], 0).halves(requests)] == [[3]]
    assert continuations._num_prefix([0], requests) == 0


def test_a_row_of_prompts_is_bounded_by_its_own_tokens_and_by_what_is_kept() -> None:
    prompts = [made(tokens=[0] * size) for size in (10, 12, 9, 7)]
    first, second = (made(num_prefix=num) for num in (6, 5))
    waiting: Any = [(first, 0), (first, 1), (second, 2), (second, 3)]  # own: 4, 6, 4, 2

    def taken(limit: int, kept: int) -> list[int]:
        return [index for _, index in next_token._next_row(waiting, prompts, limit, kept)]  # type: ignore[arg-type]

    assert [taken(limit, 99) for limit in (1, 9, 10, 13, 14, 16)] == [[0], [0], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert [taken(99, kept) for kept in (1, 6, 10, 11)] == [[0], [0, 1], [0, 1], [0, 1, 2, 3]]


def test_prompts_share_a_prefix_that_is_worth_a_pass_of_its_own() -> None:
    begin, short = list(range(16)), list(range(15))
    prompts: Any = [
        made(tokens=tokens, member=member, group=group)
        for tokens, member, group in (
            ([*begin, 90, 91], "a", "x"),
            ([*begin, 92], None, "x"),
            ([*begin, 93], "a", "x"),
            ([*short, 94], "a", "y"),
            ([*short, 95], "a", "y"),
            (begin, None, "x"),  # one token of a prompt is its own
            ([*begin, 96, 97], "a", "z"),  # alone
        )
    ]

    def groups(shares: bool) -> list[tuple[str | None, list[int], int]]:
        return [(group.member, group.prompts, group.num_prefix) for group in next_token._groups(prompts, shares)]

    assert groups(True) == [("a", [0, 2], 16), ("a", [3, 4], 0), ("a", [6], 0), (None, [1, 5], 0)]
    assert groups(False) == [("a", [0, 2], 0), ("a", [3, 4], 0), ("a", [6], 0), (None, [1, 5], 0)]


def test_prefixes_are_encoded_together_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[int]] = []
    monkeypatch.setattr(
        next_token, "_encode", lambda bank, groups, prompts: passes.append([group.num_prefix for group in groups])
    )
    groups: Any = [made(num_prefix=num) for num in (6, 0, 4, 5, 1)]

    def encoded(limit: int) -> list[list[int]]:
        passes.clear()
        next_token._encode_prefixes(None, groups, [], limit)  # type: ignore[arg-type]
        return list(passes)

    assert encoded(16) == [[6, 4, 5, 1]]
    assert encoded(15) == [[6, 4, 5], [1]]
    assert encoded(10) == [[6, 4], [5, 1]]
    assert encoded(9) == [[6], [4, 5], [1]]
    assert encoded(1) == [[6], [4], [5], [1]]


def test_log_probabilities_of_scored_tokens_a_chunk_at_a_time() -> None:
    logits_DV = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.2, 0.7, 0.1]]))
    bank: Any = made(head=made(chunk=2), logits=lambda hidden_BD: hidden_BD @ logits_DV + 3.0)
    at_M = torch.tensor([0, 1, 1, 2, 2])
    logprobs, is_best = continuations._token_logprobs(bank, torch.eye(3), at_M, [0, 2, 1, 1, 0])
    np.testing.assert_allclose(np.exp(logprobs), [0.5, 0.75, 0.125, 0.7, 0.2], rtol=1e-5)
    assert is_best.tolist() == [True, True, False, True, False]


def test_a_continuation_is_never_asked_in_less_than_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def next_row(groups: Any, requests: Any, limit: int) -> list[Any]:
        limits.append(limit)
        return [groups[0]]

    def no_room(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(continuations, "_next_row", next_row)
    monkeypatch.setattr(continuations, "_score_row", no_room)
    monkeypatch.setattr(continuations, "row_sizes", lambda bank, row_tokens: made(row_tokens=row_tokens))
    layout = made(may_share=lambda num_tokens: True)
    base: Any = made(bank=made(layout=layout, device=torch.device("cpu"), configs={}), max_length=99)
    requests = [continuations.Continuation(tokens=[5] * size, num_context=1, group="g") for size in (9, 5)]
    with pytest.raises(torch.OutOfMemoryError, match="too few for one sequence of this evaluation"):
        list(continuations.score_continuations(base, requests, row_tokens=20))
    assert limits == [20, 10, 8]


def test_unknown_adapters_are_named_beside_the_loaded_ones_in_order() -> None:
    base: Any = made(bank=made(configs={"wide": 1, "bent": 2}), max_length=9)
    with pytest.raises(ValueError, match=r"prompt 0: adapter ghost is not loaded; loaded are \['bent', 'wide'\]"):
        next_token._check(base, [next_token.Prompt(tokens=[1], member="ghost")])
    with pytest.raises(ValueError, match=r"request 0: adapter ghost is not loaded; loaded are \['bent', 'wide'\]"):
        continuations._check(base, [continuations.Continuation(tokens=[1, 2], num_context=1, member="ghost")])
    next_token._check(base, [next_token.Prompt(tokens=[1] * 9, member="wide")])
    continuations._check(base, [continuations.Continuation(tokens=[1] * 10, num_context=1, member="bent")])


def test_a_pass_is_reckoned_by_the_widest_layer() -> None:
    def reckoned(*layers: Any) -> int:
        text = made(num_hidden_layers=len(layers), per_layer_config=layers)
        base: Any = made(
            config=made(get_text_config=lambda decoder: text),
            get_input_embeddings=lambda: made(weight=torch.zeros(1, dtype=torch.bfloat16)),
        )
        return pass_token_bytes(base)

    narrow, wide = made(hidden_size=8, intermediate_size=20), made(hidden_size=8, intermediate_size=30)
    assert reckoned(narrow, wide) == reckoned(wide, narrow) == (6 * 8 + 4 * 30) * 2 + 2 * 4 * 8
    assert reckoned(made(hidden_size=8, ffn_dim=25)) == (6 * 8 + 4 * 25) * 2 + 2 * 4 * 8
    assert reckoned(made(hidden_size=8)) == (6 * 8 + 4 * 32) * 2 + 2 * 4 * 8


def test_padded_batches_are_of_one_member_the_longest_first() -> None:
    prompts: Any = [
        made(tokens=[0] * size, member=member) for size, member in ((2, "a"), (3, None), (5, "a"), (4, "a"))
    ]
    assert padded._ordered(prompts) == [2, 3, 0, 1]
    assert [padded._next_batch([2, 3, 0, 1], prompts, limit) for limit in (1, 10, 14, 15, 99)] == [
        [2], [2, 3], [2, 3], [2, 3, 0], [2, 3, 0],
    ]  # fmt: skip


def test_what_a_layer_keeps_of_a_token() -> None:
    assert _kept_width(made(num_attention_heads=8, num_key_value_heads=2, head_dim=16, hidden_size=64)) == 32
    assert _kept_width(made(num_attention_heads=8, hidden_size=64)) == 64
    assert _kept_width(made(num_attention_heads=8, num_key_value_heads=4, head_dim=None, hidden_size=64)) == 32
    assert _kept_width(made(hidden_size=48)) == 48
    assert _kept_width(made(num_attention_heads=0, hidden_size=48)) == 48
    assert (ROW_TOKENS, PREFILL_TOKENS, MAX_SLOTS) == (
        {"cpu": 1024, "cuda": 16_384}, {"cpu": 1024, "cuda": 8192}, 32,
    )  # fmt: skip


def test_judges_are_asked_as_the_paper_says_where_nothing_else_is_said() -> None:
    api = ApiOptions(model="m")
    assert (api.temperature, api.max_tokens, api.num_concurrent, api.max_attempts) == (0.2, 1024, 8, 6)
    assert (api.backoff_seconds, api.max_wait_seconds, api.request_timeout_seconds) == (1.0, 60.0, 120.0)
    assert (api.batch, api.batch_poll_seconds, api.structured, api.seed) == (False, 30.0, None, None)
    local = LocalOptions(model=spec().model, quant=spec().quant, paths=PathsConfig())
    assert (local.max_answer_tokens, local.max_question_tokens, local.margin_nats) == (256, 512, 0.1)
    assert (local.chat_template, local.device) == (False, Device.auto)
    flags = JudgeFlags()
    assert (flags.max_answer_tokens, flags.chat_template) == (local.max_answer_tokens, local.chat_template)
    for name in (
        "base_url",
        "key_variable",
        "temperature",
        "max_tokens",
        "reasoning_effort",
        "structured",
        "budget_usd",
    ):
        assert getattr(flags, name) == getattr(api, name), name
    assert (flags.num_concurrent, flags.batch) == (api.num_concurrent, api.batch)
    options = JudgeOptions(answers=(), tournament=Path("t"), judge=ReplayOptions(files=()))
    assert (options.mode, options.benchmark, options.seed, options.reference_answers) == (
        Mode.pairwise,
        "open",
        0,
        True,
    )
    assert (options.null_control, options.retry_unparsed, options.reparse) == (False, False, False)
    assert (ReplayJudge.is_waiting, ReplayJudge.stopped) == (False, None)
    for wrong in ("num_concurrent", "max_attempts", "max_tokens", "request_timeout_seconds"):
        with pytest.raises(ValueError, match=f"{wrong}=0: must be above 0"):
            ApiOptions(model="m", **{wrong: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_questions=0: must be at least 1"):
        JudgeOptions(answers=(), tournament=Path("t"), judge=ReplayOptions(files=()), max_questions=0)


def test_a_batch_takes_what_its_limits_and_the_budget_take(monkeypatch: pytest.MonkeyPatch) -> None:
    judge: Any = made(
        _store=made(spent_usd=lambda: 1.0),
        _options="options",
        _prompts=made(mode=Mode.pairwise),
        _unsupported=frozenset(),
    )
    asked: list[float] = []
    budget = [99.0]

    def most_usd(options: Any, prompt: Any, spent: float) -> float:
        if spent + 0.5 > budget[0]:
            raise RunStopped("the budget is used up")
        asked.append(spent)
        return 0.5

    monkeypatch.setattr(batch, "most_usd", most_usd)
    monkeypatch.setattr(batch, "request_body", lambda options, mode, prompt, unsupported: {"p": prompt})
    prompts: Any = {f"d{i}": f"p{i}" for i in range(4)}

    def chunk() -> list[str]:
        asked.clear()
        return [digest for digest, _ in BatchJudge._chunk(judge, prompts)]

    assert chunk() == ["d0", "d1", "d2", "d3"]
    assert asked == [1.0, 1.5, 2.0, 2.5]
    monkeypatch.setattr(batch, "MAX_REQUESTS", 2)
    assert chunk() == ["d0", "d1"]
    monkeypatch.setattr(batch, "MAX_REQUESTS", 99)
    ((_, (line, most)), *_) = BatchJudge._chunk(judge, prompts)
    assert most == 0.5
    for size, taken in (
        (len(line) + 1, ["d0"]),
        (2 * len(line) + 1, ["d0"]),
        (2 * len(line) + 2, ["d0", "d1"]),
        (1, ["d0"]),
    ):
        monkeypatch.setattr(batch, "MAX_FILE_BYTES", size)
        assert chunk() == taken
    monkeypatch.setattr(batch, "MAX_FILE_BYTES", 10**9)
    budget[0] = 2.0
    assert chunk() == ["d0", "d1"]
    budget[0] = 1.0
    with pytest.raises(RunStopped, match="the budget is used up"):
        chunk()


def test_how_adapters_bases_were_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert systems.adapters_quant([]).name == "none"
    kinds = {"a": spec(quant="nf4"), "b": spec(quant="nf4"), "c": spec(quant="fp4")}

    def beside(folder: Path) -> Any:
        found = kinds.get(folder.name)
        return None if found is None else made(spec=found.to_dict(), label=record().label)

    monkeypatch.setattr(systems, "record_beside", beside)
    assert systems.adapters_quant([Path("a"), Path("b")]) == kinds["a"].quant
    with pytest.raises(ValueError, match="differently quantized bases; score them apart"):
        systems.adapters_quant([Path("a"), Path("c")])
    with pytest.raises(
        ValueError, match="--adapter d: no record beside it says how its base was quantized; say --quant"
    ):
        systems.adapters_quant([Path("a"), Path("d")])
