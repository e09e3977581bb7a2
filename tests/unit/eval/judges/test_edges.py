"""Judges at their edges: calls that fail in a row, sizes, prices, names, replays, ensembles, plans, what is said."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from eval.answers.files import Answers
from eval.judges import calls, ensemble, local, registry, request, tournament
from eval.judges.calls import ApiJudge
from eval.judges.client import BoundedClient, ReplyTooLarge, _read, open_client, within
from eval.judges.ensemble import _by_preference, combine
from eval.judges.local import LocalJudge, _batches, with_calibration
from eval.judges.prices import load_prices, price_of
from eval.judges.registry import JUDGES, build_judge, choose_judge
from eval.judges.replay import ReplayJudge
from eval.judges.request import (
    NO_LIMIT,
    SCHEMAS,
    Reply,
    estimate_calls,
    judge_settings,
    most_tokens,
    most_usd,
    next_to_leave_out,
    read_completion,
    read_key,
    read_reply,
    redact,
    reply_judgment,
)
from eval.judges.retry import (
    Fault,
    RunStopped,
    Usage,
    backoff_seconds,
    classify,
    error_details,
    load_json,
    parse_duration,
    read_usage,
    refused_field,
    usage_of,
)
from eval.judges.tournament import Tournament, _num_unasked, _Plan, _todo, estimate, open_tournament, run
from eval.judging.flags import JudgeFlags, replayed_file
from eval.judging.matches import Failure, Judgment
from eval.judging.options import ApiOptions, Estimate, JudgeOptions, LocalOptions, ReplayOptions
from eval.judging.prompts import Mode, own_prompts, render
from eval.judging.store import JudgmentStore
from harness.config.choices import quant_choice
from harness.files.hub import Missing
from tests.builders import ScriptedJudge, a_match, write_rows

PROMPTS = own_prompts(Mode.pairwise)
MATCH = a_match("one", "two")
PRICED = ApiOptions(model="m", usd_per_million_prompt_tokens=10.0, usd_per_million_completion_tokens=30.0)
GOOD = Reply(text="1", refusal=None, finish_reason="stop", num_prompt_tokens=100, num_completion_tokens=10, model="m-1")


def judgment(question: str, first: str, second: str, verdict: int, **facts: Any) -> Judgment:
    reason = "x" if verdict == -1 else None
    return Judgment(
        question_id=question,
        system_a=first,
        system_b=second,
        verdict=verdict,
        reason=reason,
        **{"prompt_sha256": "p", **facts},
    )


# Calls


class Calls:
    """An API judge whose server gives each of `results` in turn, then the last again; nobody waits."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *results: Any, num: int = 1, **options: Any
    ) -> None:
        self.slept: list[float] = []
        self.held: list[float] = []
        self.without: list[list[str]] = []
        left = list(results)

        async def ask(judge: ApiJudge, client: Any, prompt: Any) -> Any:
            self.without.append(sorted(judge._unsupported))
            result = left.pop(0) if len(left) > 1 else left[0]
            return result

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        monkeypatch.setenv("OPENAI_API_KEY", " secret ")
        monkeypatch.setattr(ApiJudge, "_ask", ask)
        monkeypatch.setattr(calls, "open_client", lambda *_: nullcontext())
        monkeypatch.setattr(calls.asyncio, "sleep", sleep)
        monkeypatch.setattr(calls.Gate, "hold", lambda gate, seconds: self.held.append(seconds))
        self.kept: list[Judgment] = []
        with JudgmentStore(folder) as store:
            chosen = replace(PRICED, **{"num_concurrent": 1, "max_attempts": 3, "backoff_seconds": 2.0, **options})
            judge = ApiJudge(chosen, PROMPTS, store)

            def keep(found: Judgment) -> None:
                self.kept.append(found)
                store.add(judge, found)

            self.failures = judge.judge([a_match("one", f"two {n}") for n in range(num)], keep)
            rows = store.connection.execute("SELECT outcome, cost_usd FROM calls ORDER BY call_id")
            self.booked = [tuple(row) for row in rows]
        self.stopped = judge.stopped


def test_a_reply_is_kept_and_its_call_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Calls(tmp_path, monkeypatch, replace(GOOD, model="m secret"), num=2)
    assert [(j.verdict, j.cost_usd) for j in found.kept] == [(1, 0.0013)] * 2
    assert found.booked == [("200 m [key]", 0.0013)] * 2
    assert all(j.latency_seconds is not None and j.latency_seconds >= 0 for j in found.kept)
    assert (found.failures, found.stopped, found.slept) == ([], None, [])


def test_calls_are_tried_again_as_often_as_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Fault(reason="HTTP 503 secret", retry=True)
    found = Calls(tmp_path / "a", monkeypatch, busy)
    assert [(f.question_id, f.system_a, f.system_b, f.reason) for f in found.failures] == [
        ("Why?", "ann", "bob", "HTTP 503 [key]")
    ]
    assert found.booked == [("HTTP 503 [key]", None)] * 3
    first, second = found.slept
    assert 2.0 <= first < 3.0
    assert second == pytest.approx(2 * first, rel=0.5)
    held = Calls(tmp_path / "b", monkeypatch, replace(busy, wait_seconds=7.0, was_free=True), GOOD)
    assert (held.held, held.slept, len(held.kept)) == ([7.0], [], 1)
    assert held.booked[0] == ("HTTP 503 [key]", 0.0)
    longer = Calls(tmp_path / "longer", monkeypatch, *[replace(busy, wait_seconds=0.0)] * 2, GOOD)
    assert (longer.held, len(longer.kept)) == ([0.0, 0.0], 1)
    (pause,) = longer.slept  # a wait of nothing, asked for again, is no longer believed
    assert 2.0 <= pause < 3.0
    many = Calls(tmp_path / "many", monkeypatch, busy, max_attempts=9)
    assert 64.0 <= max(many.slept) < 96.0
    asked = Calls(tmp_path / "asked", monkeypatch, *[replace(busy, was_free=True)] * 2, GOOD, num=2, max_attempts=2)
    assert (len(asked.failures), len(asked.kept)) == (1, 1)
    slow = Fault(reason="time-out", retry=True, timed_out=True)
    for faults, num_booked in ((1, 2), (2, 2)):  # each may be billed: twice and no more
        late = Calls(tmp_path / f"slow {faults}", monkeypatch, *[slow] * faults, *[GOOD] * (2 - faults), num=1)
        assert (len(late.failures), len(late.booked)) == (faults - 1, num_booked)
    mixed = Calls(tmp_path / "mixed", monkeypatch, busy, slow, GOOD)
    assert (len(mixed.kept), mixed.booked[1]) == (1, ("time-out", None))
    away = Fault(reason="no connection", retry=True, unreached=True, was_free=True)
    back = Calls(tmp_path / "back", monkeypatch, GOOD, away, away, GOOD, num=2)
    assert (len(back.kept), len(back.booked)) == (2, 4)
    never = Calls(tmp_path / "never", monkeypatch, away)  # there was no server to begin with
    assert (len(never.failures), len(never.booked)) == (1, 1)
    once = Calls(tmp_path / "c", monkeypatch, Fault(reason="no"), GOOD)
    assert (len(once.failures), len(once.booked)) == (1, 1)


def test_ten_failures_in_a_row_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Fault(reason="no choices", was_free=True)
    found = Calls(tmp_path / "a", monkeypatch, bad, num=12)
    assert len(found.failures) == 10
    assert found.stopped == "10 matches in a row failed, the last with: no choices"
    between = Calls(tmp_path / "b", monkeypatch, *[bad] * 9, GOOD, bad, num=14)
    assert (len(between.failures), len(between.kept), between.stopped) == (13, 1, None)
    fatal = Calls(tmp_path / "c", monkeypatch, GOOD, replace(bad, fatal=True, reason="secret no"), num=5)
    assert (len(fatal.kept), len(fatal.failures), fatal.stopped) == (1, 1, "[key] no")


def test_fields_are_left_out_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(field: str) -> Fault:
        return Fault(reason="no", was_free=True, adapt=field)

    found = Calls(tmp_path / "a", monkeypatch, refuses("seed"), GOOD, num=2)
    assert (found.without, len(found.kept)) == ([[], ["seed"], ["seed"]], 2)
    schema = Calls(tmp_path / "b", monkeypatch, refuses("response_format"), refuses("response_format"), GOOD)
    assert schema.without == [[], ["json_schema"], ["json_schema", "response_format"]]
    for structured, without in ((True, []), (False, ["response_format"])):
        wanted = Calls(tmp_path / f"c{structured}", monkeypatch, refuses("response_format"), structured=structured)
        assert (wanted.without[0], len(wanted.failures), len(wanted.kept)) == (without, 1, 0)
    again = Calls(tmp_path / "d", monkeypatch, refuses("seed"))
    assert (len(again.booked), len(again.failures)) == (2, 1)
    limit = Calls(tmp_path / "e", monkeypatch, refuses("max_tokens"), num=2)
    assert (limit.stopped, len(limit.failures), limit.without) == (NO_LIMIT, 1, [[], ["max_tokens"]])


def test_a_budget_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = most_usd(PRICED, render(PROMPTS, a_match("one", "two 0")), 0.0)
    found = Calls(tmp_path, monkeypatch, GOOD, num=5, budget_usd=most + 0.0013)
    assert (len(found.kept), found.failures) == (2, [])
    assert found.stopped == (
        f"budget: 0.0026 of {most + 0.0013:g} USD are spent or under way, and the next call may cost {most:.4f}"
    )


# The client


def test_replies_have_a_size() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"ab", b"cd"):
            yield piece

    reply: Any = SimpleNamespace(aiter_bytes=pieces, request=None)
    assert asyncio.run(_read(reply, 4)) == b"abcd"
    with pytest.raises(ReplyTooLarge, match="the reply is larger than 2"):
        asyncio.run(_read(reply, 3))
    client = open_client("k", "http://127.0.0.1:1/v1", 3.0, 5)
    assert (client.max_retries, client.timeout, client.api_key) == (0, 3.0, "k")
    assert isinstance(client._client, BoundedClient)
    assert (client._client._max_bytes, client._client.follow_redirects) == (5, False)
    assert client._client.timeout.read == 3.0


def test_a_call_takes_so_long_at_most() -> None:
    async def slow() -> int:
        await asyncio.sleep(5)
        return 1

    async def quick() -> int:
        return 2

    with pytest.raises(TimeoutError):
        asyncio.run(within(0.001, slow()))
    assert asyncio.run(within(5.0, quick())) == 2


# Requests and replies


@pytest.mark.parametrize(
    ("changes", "verdict", "reason", "text"),
    [
        ({}, 1, None, "1"),
        ({"text": "1", "refusal": "No."}, -1, "the judge refused", "1"),
        ({"text": None, "refusal": "No."}, -1, "the judge refused", "No."),
        ({"text": None, "finish_reason": "content_filter"}, -1, "the judge refused", ""),
        ({"finish_reason": "length"}, -1, "the reply was cut at 1024 tokens", "1"),
        ({"finish_reason": None}, 1, None, "1"),
    ],
)
def test_what_a_reply_is_worth(changes: dict[str, Any], verdict: int, reason: str | None, text: str) -> None:
    made = reply_judgment(PRICED, Mode.pairwise, ("q", "a", "b"), "p", replace(GOOD, **changes), 0.5, 2.0, str)
    assert (made.verdict, made.reason, made.raw_text) == (verdict, reason, text)
    assert (made.num_prompt_tokens, made.num_completion_tokens, made.cost_usd, made.latency_seconds) == (
        100,
        10,
        0.5,
        2.0,
    )


@pytest.mark.parametrize("finish", ["content_filter", "length", "stop", None])
def test_a_reply_without_content_is_one_where_it_was_cut(finish: str | None) -> None:
    found = read_completion({"choices": [{"message": {}, "finish_reason": finish}], "model": "m"})
    assert isinstance(found, Reply if finish in ("content_filter", "length") else Fault)


def test_bodies_that_are_no_json() -> None:
    assert read_reply(b"<", "text/html; x") == Fault(reason="the server's reply is no JSON (text/html)")
    assert read_reply(b"<", "") == Fault(reason="the server's reply is no JSON (no content type)")
    assert read_reply(b"[" * 100_000, "") == Fault(reason="the server's reply is nested too deeply")
    assert (load_json("1" * 30), load_json("1" * 31)) == (int("1" * 30), float("1" * 31))
    assert usage_of(b"<") == Usage()
    assert usage_of(b'{"usage": {"prompt_tokens": 3}}') == Usage(num_prompt_tokens=3)
    assert read_usage({"usage": {"prompt_tokens": 10**7, "completion_tokens": 10**7 + 1}}) == Usage(
        num_prompt_tokens=10**7
    )


def test_keys_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1 \n")
    assert read_key(PRICED) == "sk-1"
    for bad, words in (
        ("sk-\u00e9", "characters that no key has"),
        ("a\tb", "characters that no key has"),
        ("  ", "is not set"),
    ):
        monkeypatch.setenv("OPENAI_API_KEY", bad)
        with pytest.raises(ValueError, match=words):
            read_key(PRICED)
    assert (redact("a key b", "key"), redact("half \ud83d", ""), redact("ab", "")) == ("a [key] b", "half ?", "ab")


def test_settings_say_what_can_change_a_verdict() -> None:
    assert judge_settings(PRICED, PROMPTS) == {
        "kind": "api", "base_url": "https://api.openai.com/v1", "model": "m", "temperature": 0.2, "max_tokens": 1024,
        "seed": None, "structured": "where the server can", "mode": "pairwise", "prompts_sha256": PROMPTS.sha256,
    }  # fmt: skip
    other = judge_settings(replace(PRICED, reasoning_effort="low", structured=True, batch=True), PROMPTS)
    assert (other["reasoning_effort"], other["structured"], "batch" in other) == ("low", "always", False)
    assert judge_settings(replace(PRICED, structured=False), PROMPTS)["structured"] == "never"
    assert set(SCHEMAS[Mode.relative]) == {"explanation", "score_1", "score_2"}
    assert SCHEMAS[Mode.single]["score"] == {"type": "number"}


def test_the_most_that_a_call_can_cost() -> None:
    prompt = render(PROMPTS, a_match("\u00e9", "two"))
    tokens = len((prompt.system + prompt.user).encode()) + 16
    most = (tokens * 10 + 1024 * 30) / 1e6
    assert (most_tokens(prompt), most_usd(PRICED, prompt, 9.0)) == (tokens, pytest.approx(most))
    exact = replace(PRICED, budget_usd=1.0 + most_usd(PRICED, prompt, 0.0))
    assert most_usd(exact, prompt, 1.0) == pytest.approx(most)
    with pytest.raises(RunStopped, match=r"budget: 1\.0010 of "):
        most_usd(exact, prompt, 1.001)
    assert most_usd(ApiOptions(model="m"), prompt, 5.0) == 0.0
    assert next_to_leave_out(PRICED, "max_completion_tokens", ("max_tokens",)) is None


@pytest.mark.parametrize(("num", "measured"), [(0, 0), (1, 1), (500, 500), (501, 251), (1500, 500)])
def test_estimates_are_measured_on_500_judgments_at_most(
    num: int, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = render(PROMPTS, MATCH)
    size = len((prompt.system + prompt.user).encode())
    monkeypatch.setattr(request, "render", lambda *_: prompt)
    judged = [(MATCH, judgment("q", "a", "b", 1, num_prompt_tokens=50, num_completion_tokens=n)) for n in range(num)]
    found = estimate_calls(replace(PRICED, max_tokens=200), PROMPTS, [MATCH] * 2, judged)
    assert (found.num_measured, found.max_completion_tokens) == (measured, 400)
    assert found.num_prompt_tokens == (100 if num else 2 * (math.ceil(size / 4) + 16))
    step = math.ceil(num / 500) or 1
    mean = sum(range(0, num, step)) / measured if num else 200  # what is assumed is within the limit of a reply
    assert found.num_completion_tokens == round(2 * mean)


def test_assumed_replies_are_of_250_tokens() -> None:
    assert estimate_calls(PRICED, PROMPTS, [MATCH]).num_completion_tokens == 250
    assert estimate_calls(PRICED, PROMPTS, []).num_calls == 0


# Faults


def test_words_of_faults() -> None:
    sent = httpx.Request("POST", "http://x")
    response = httpx.Response(400, json={}, request=sent)
    plain = openai.APIStatusError("said so", response=response, body=None)
    assert classify(plain).reason == "HTTP 400: said so"
    assert classify(openai.APIError("m", request=sent, body=None)).reason == "APIError"
    typed = openai.APIStatusError(
        "m", response=httpx.Response(429, request=sent, json={}), body={"type": "insufficient_quota"}
    )
    assert classify(typed).fatal
    timeout: Any = openai.APIConnectionError(request=sent)
    timeout.__cause__ = httpx.ConnectTimeout("no")
    assert (classify(timeout).reason, classify(timeout).was_free, classify(timeout).retry) == (
        "no connection",
        True,
        True,
    )
    assert Fault(reason="x") == Fault(
        reason="x", retry=False, fatal=False, wait_seconds=None, was_free=False, usage=Usage(), adapt=None
    )
    assert (len(error_details("x" * 3998)), len(error_details("x" * 3999))) == (4000, 4000)
    assert [parse_duration(text) for text in (" 2s ", "1e400s", "2s!", "inf", "1h ago")] == [
        2.0,
        None,
        None,
        None,
        None,
    ]
    assert [backoff_seconds(n, 3.0, 0.5) for n in (1, 3)] == [3.75, 15.0]
    assert refused_field("unsupported: seed (temperature is fine)") == "seed"
    assert refused_field("use 'max_completion_tokens' instead: max_tokens is not supported") == "max_tokens"
    assert refused_field("structured outputs") == "response_format"
    assert refused_field("nothing of it") is None


# Prices, names


def test_prices_of_names(tmp_path: Path) -> None:
    for name, prompt in (
        ("gpt-4-20240101", 30.0), ("gpt-4-0613", 30.0), ("a/b/gpt-4.1-latest", 2.0), ("gpt-4-1106-preview", 10.0),
    ):  # fmt: skip
        found = price_of(name)
        assert found is not None
        assert found.prompt == prompt
    for name in ("gpt-4-061", "gpt-4-2024-1-01", "gpt-4-latest-2", "x-gpt-4", ""):
        assert price_of(name) is None
    file = tmp_path / "p.json"
    file.write_text('{"x/y": [1, 0], "z": [0, 2.5]}')
    assert load_prices(file) == {"x/y": (1.0, 0.0), "z": (0.0, 2.5)}
    named = price_of("x/y", file), price_of("q/z-2025-01-31", file), price_of("gpt-4", file)
    assert [(p.prompt, p.completion, p.source) for p in named if p] == [
        (1.0, 0.0, "price of p.json"), (0.0, 2.5, "price of p.json"), (30.0, 60.0, "list price of 2025-10-01"),
    ]  # fmt: skip
    for text, words in (
        ('{"m": [true, 1]}', r"m is \[True, 1\]; expected \[prompt, completion\]"), ('{"m": [1, 2, 3]}', "m is"),
        ('{"m": 1}', "m is 1"), ('{"m": [1, Infinity]}', "m is"), ("[1]", r"expected \{"), ("{", "not JSON"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            load_prices(file)
    with pytest.raises(ValueError, match="no such file"):
        load_prices(tmp_path / "none.json")


def test_names_of_judges_and_what_they_can_do(tmp_path: Path) -> None:
    flags = JudgeFlags(
        max_answer_tokens=9, base_url="http://h/v1", key_variable="K", temperature=0.5, max_tokens=7,
        reasoning_effort="low", structured=True, budget_usd=2.0, usd_per_million_prompt_tokens=1.0,
        usd_per_million_completion_tokens=2.0, num_concurrent=3, batch=True,
    )  # fmt: skip
    assert choose_judge("ft:gpt-4o:me", flags) == ApiOptions(
        model="ft:gpt-4o:me", base_url="http://h/v1", key_variable="K", temperature=0.5, max_tokens=7,
        thought_tokens=8192, reasoning_effort="low", structured=True, budget_usd=2.0, usd_per_million_prompt_tokens=1.0,
        usd_per_million_completion_tokens=2.0, price_source="price as given", num_concurrent=3, batch=True,
    )  # fmt: skip
    half: Any = choose_judge("gpt-4o", replace(flags, usd_per_million_completion_tokens=None))
    assert (half.usd_per_million_prompt_tokens, half.usd_per_million_completion_tokens) == (1.0, 10.0)
    assert choose_judge("api:x", JudgeFlags()) == choose_judge("x", JudgeFlags())
    assert choose_judge("replay:a:b.csv", JudgeFlags()) == ReplayOptions(files=(Path("a:b.csv"),))
    local: Any = choose_judge("local:smollm2", JudgeFlags(max_answer_tokens=9))
    assert isinstance(local, LocalOptions)
    assert (local.max_answer_tokens, local.chat_template, local.model.name) == (9, False, "smollm2")
    for name in ("", " ", "local:", "replay: "):
        with pytest.raises(ValueError, match="no name of a judge; give local:NAME, replay:NAME, api:NAME"):
            choose_judge(name, JudgeFlags())
    for name in ("local:smollm2", "replay:a.csv"):
        with pytest.raises(ValueError, match=f"--batch: {name} is no API model"):
            choose_judge(name, JudgeFlags(batch=True))
    assert {name: (kind.modes, kind.takes_prompts) for name, kind in JUDGES.items()} == {
        "local": ((Mode.pairwise,), False), "replay": ((Mode.pairwise,), False), "api": (tuple(Mode), True),
    }  # fmt: skip


def options_in(folder: Path, **changes: Any) -> JudgeOptions:
    questions = [{"question_id": n, "text": f"{n}?"} for n in (1, 2)]
    answers = [{"question_id": n, "system": s, "answer": f"{s} {n}"} for n in (1, 2) for s in ("ann", "bob")]
    return JudgeOptions(**{
        "answers": (Path(write_rows(folder / "a.jsonl", answers)),), "judge": ReplayOptions(files=()),
        "questions": Path(write_rows(folder / "q.jsonl", questions)), "tournament": folder / "t", **changes,
    })  # fmt: skip


def test_judges_are_built_where_they_can_serve(tmp_path: Path) -> None:
    with JudgmentStore(tmp_path) as store:
        with pytest.raises(ValueError, match="mode=single: only an API judge gives scores and grades"):
            build_judge(options_in(tmp_path, mode=Mode.single), store)
        with pytest.raises(ValueError, match=r"prompts=.*p\.jsonl: only an API judge takes a prompt file"):
            build_judge(options_in(tmp_path, prompts=tmp_path / "p.jsonl"), store)
        asked = options_in(tmp_path, judge=replace(PRICED, batch=True))
        waiting = build_judge(asked, store)
        assert type(waiting).__name__ == "BatchJudge"
        assert type(build_judge(options_in(tmp_path, judge=PRICED), store)).__name__ == "ApiJudge"
        from eval.judges.batch_store import BatchRequest, BatchStore
        from eval.judging.store import settings_sha256

        BatchStore(store).book(
            "m", settings_sha256(waiting), [BatchRequest(prompt_sha256="p", key=MATCH.key, most_usd=0.5)]
        )
        with pytest.raises(ValueError, match="of m is under way, and its matches would be paid twice"):
            build_judge(options_in(tmp_path, judge=PRICED), store)
    assert registry.estimate_matches(options_in(tmp_path), [MATCH], []) is None


# Replays and ensembles


def test_replays_of_several_judges(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text(
        "question_id,system_a,system_b,verdict,judge\nWhy?,ann,bob,2,j\nWhy?,ann,bob,-1,k\nWhy?,bob,ann,3,k\n"
    )
    with pytest.raises(ValueError, match="verdicts of j, k; name the one to replay"):
        ReplayJudge([path])
    assert replayed_file("replay:v.csv") == (Path("v.csv"), None)
    assert replayed_file("replay:a#b.csv#k") == (Path("a#b.csv"), "k")
    (tmp_path / "v#1.csv").touch()
    assert replayed_file(f"replay:{tmp_path}/v#1.csv") == (tmp_path / "v#1.csv", None)
    chosen = choose_judge(f"replay:{path}#k", JudgeFlags())
    assert isinstance(chosen, ReplayOptions)
    assert (chosen.files, chosen.judge) == ((path,), "k")
    assert ReplayJudge([path], "k").unmatched([a_match("two", "one", systems=("bob", "ann"))]) == [
        "1 of 2 verdicts of the files are on no match here and are left out: Why? (ann, bob)"
    ]
    assert ReplayJudge([path], "j").unmatched([MATCH]) == []
    with pytest.raises(ValueError, match="judge='l': the files hold verdicts of j, k"):
        ReplayJudge([path], "l")
    found: list[Judgment] = []
    judge = ReplayJudge([path], "k")
    turned = a_match("two", "one", systems=("bob", "ann"))
    failures = judge.judge([turned, MATCH, a_match("c", "d", "Who?")], found.append)
    assert [(j.system_a, j.verdict, j.reason) for j in found] == [
        ("bob", 3, None), ("ann", -1, "unparsed in the verdict file"),
    ]  # fmt: skip
    assert failures == [Failure(question_id="Who?", system_a="ann", system_b="bob", reason="not in the verdict files")]
    assert (judge.name, judge.is_waiting, judge.stopped, judge.settings["kind"]) == ("k", False, None, "replay")
    assert len({judge.prompt_sha256(match) for match in (MATCH, turned)}) == 2
    path.write_text("question_id,system_a,system_b,verdict\nWhy?,ann,bob,2\n")
    assert ReplayJudge([path]).name == "replay-v"
    path.write_text("question_id,system_a,system_b,verdict,turn\nWhy?,ann,bob,2,1\nWhy?,ann,bob,2,2\n")
    with pytest.raises(ValueError, match=r"question Why\?, ann against bob: several raters or turns"):
        ReplayJudge([path])


def test_a_judges_preference_of_both_orders() -> None:
    rows = [
        judgment("1", "a", "b", 1),
        judgment("1", "b", "a", 1),
        judgment("2", "b", "a", 1),
        judgment("2", "a", "b", 3),
    ]
    rows += [
        judgment("3", "a", "b", -1),
        judgment("4", "a", "b", 1),
        judgment("4", "b", "a", 2),
        judgment("5", "b", "a", 2),
    ]
    assert _by_preference(rows) == {("1", "a", "b"): 3, ("2", "a", "b"): 2, ("4", "a", "b"): 1, ("5", "a", "b"): 1}


def test_an_ensembles_agreement_is_resampled_a_thousand_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []
    monkeypatch.setattr(
        ensemble, "rater_agreement", lambda rows, num, rng: drawn.append((num, int(rng.integers(10**6)))) or {}
    )
    run(options_in(tmp_path), judge=ScriptedJudge(lambda *_: "1", "x"))
    for seed in ({}, {"seed": 0}, {"seed": 1}):
        combine(tmp_path / "t", ["x"], Mode.pairwise, **seed)
    expected = [(1000, int(np.random.default_rng(seed).integers(10**6))) for seed in (0, 0, 1)]
    assert drawn == expected


def test_an_ensemble_of_nothing_and_its_rows(tmp_path: Path) -> None:
    none = combine(tmp_path, ["x", "y"], Mode.pairwise)
    assert (none.judges, none.num_items, none.agreement, none.grades) == (("x", "y"), 0, {}, ())
    for name, reply in (("x", "1"), ("y", "3")):
        run(options_in(tmp_path), judge=ScriptedJudge(lambda prompt, match, reply=reply: reply, name))  # type: ignore[misc]
    found = combine(tmp_path / "t", ["y", "x"], Mode.pairwise)
    assert found.output.read_text().splitlines() == [
        "question_id,system_a,system_b,verdict,judge,rater", "1,ann,bob,3,ensemble,y", "2,ann,bob,3,ensemble,y",
        "1,ann,bob,3,ensemble,x", "2,ann,bob,3,ensemble,x",
    ]  # fmt: skip
    assert (found.num_items, found.agreement["all"].num) == (2, 2)


# A local judge's parts


def test_matches_of_whole_questions_share_a_pass() -> None:
    questions: Any = [["a", "b"], ["c"], ["d", "e", "f"], ["g"]]
    assert list(_batches(questions, lambda match: 2, 6)) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert list(_batches(questions, lambda match: 2, 7)) == [["a", "b", "c", "d", "e", "f"], ["g"]]
    assert list(_batches([], lambda match: 2, 7)) == []
    assert with_calibration([("q", "a", "b"), ("q", "b", "a")]) == [
        ("q", "a", "b"), ("q", "a", "a"), ("q", "b", "b"), ("q", "b", "a"),
    ]  # fmt: skip


@pytest.mark.parametrize(("first", "verdict"), [(0.75, 1), (0.5, 3), (0.25, 3), (0.0, 3), (-0.25, 2)])
def test_a_preference_within_the_margin_is_a_tie(first: float, verdict: int) -> None:
    """The position alone is worth (0.5 + 0) / 2 = 0.25, and the margin is 0.25."""
    judge: Any = SimpleNamespace(_margin_nats=0.25, prompt_sha256=lambda match: "p")
    logprobs = {("q", "a", "b"): (first, 0.0), ("q", "a", "a"): (0.0, -0.5), ("q", "b", "b"): (1.0, 1.0)}
    made = LocalJudge._judgment(judge, MATCH, logprobs, ("q", "a", "b"), 9, 0.5)
    assert (made.verdict, made.logprobs) == (verdict, (first, 0.0, 0.25))
    assert (made.num_prompt_tokens, made.latency_seconds, made.prompt_sha256) == (9, 0.5, "p")


@pytest.mark.parametrize("limits", [(0, 1, 0.0), (1, 0, 0.0), (1, 1, -0.1)])
def test_limits_of_a_local_judge(limits: tuple[int, int, float]) -> None:
    base: Any = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None))
    with pytest.raises(ValueError, match="limits are at least 1, the margin at least 0"):
        LocalJudge(base, "m", *limits)
    with pytest.raises(ValueError, match="chat_template=true: the tokenizer of m has none"):
        LocalJudge(base, "m", 1, 1, 0.0, chat_template=True)


def test_a_local_judge_is_loaded_as_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Any = choose_judge("local:smollm2", JudgeFlags(max_answer_tokens=9))
    chosen = replace(chosen, max_question_tokens=5, margin_nats=0.5, chat_template=True)
    source = SimpleNamespace(kind="hub", location="x")
    given: dict[str, Any] = {}
    monkeypatch.setattr(local, "locate_model", lambda model, paths: source if paths is chosen.paths else None)
    monkeypatch.setattr(local, "resolve_device", lambda device: f"on {device.value}")
    monkeypatch.setattr(local, "resolved_quant", lambda quant, device: (quant, device))
    monkeypatch.setattr(local, "load_base", lambda *parts: parts)
    monkeypatch.setattr(local, "LocalJudge", lambda base, **options: given.update(base=base, **options))
    local.load_judge(chosen)
    assert given == {
        "base": (source, (chosen.quant, "on auto"), "on auto", Path(chosen.paths.cache)), "name": "smollm2",
        "max_answer_tokens": 9, "max_question_tokens": 5, "margin_nats": 0.5, "chat_template": True,
    }  # fmt: skip
    monkeypatch.setattr(
        local, "locate_model", lambda *_: Missing(what="weights", looked_in=("here",), remedy="fetch them")
    )
    with pytest.raises(ValueError, match="weights: not found"):
        local.load_judge(chosen)


def test_judges_are_built_from_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.csv"
    path.write_text("question_id,system_a,system_b,verdict,judge\n1,ann,bob,2,j\n1,ann,bob,1,k\n")
    monkeypatch.setattr(local, "load_judge", lambda chosen: chosen)
    with JudgmentStore(tmp_path) as store:
        replayed = build_judge(options_in(tmp_path, judge=ReplayOptions(files=(path,), judge="k")), store)
        assert replayed.name == "k"
        chosen: Any = choose_judge("local:smollm2", JudgeFlags())
        assert build_judge(options_in(tmp_path, judge=chosen), store) is chosen
        said: list[str] = []
        waiting: Any = build_judge(options_in(tmp_path, judge=replace(PRICED, batch=True)), store, said.append)
        waiting._say("so")
        assert said == ["so"]
    assert (chosen.quant, chosen.device.value) == (quant_choice("none"), "auto")


# Tournaments


def test_each_prompt_is_asked_once() -> None:
    other = a_match("one", "three")
    assert _todo([MATCH, other, other, MATCH], ["p", "q", "q", "r"], {"r"}) == {"p": MATCH, "q": other}


def plan_of(**facts: Any) -> tuple[_Plan, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    empty: Any = SimpleNamespace()
    plan = _Plan(options=empty, store=empty, judge=empty, tournament=empty, hashes=[], **facts)
    return plan, told


@pytest.mark.parametrize(
    ("kept", "measured", "num_told"), [(48, False, 0), (49, False, 1), (50, False, 0), (49, True, 0)]
)
def test_a_plan_is_told_again_after_fifty(
    kept: int, measured: bool, num_told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, told = plan_of(num_kept=kept, is_measured=measured)
    monkeypatch.setattr(_Plan, "tell", lambda plan, left: told.append(left))
    plan.count(replace(judgment(*MATCH.key, 1), cost_usd=0.25), {"p": MATCH})
    assert (plan.num_kept, plan.paid_usd, told) == (kept + 1, 0.25, [{"p": MATCH}] * num_told)
    plan.count(judgment(*MATCH.key, 1), {})
    assert plan.paid_usd == 0.25


@pytest.mark.parametrize(("num_measured", "is_measured"), [(49, False), (50, True)])
def test_a_plan_rests_on_what_was_judged(num_measured: int, is_measured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def estimated(options: Any, todo: Any, judged: Any) -> Any:
        given.append((todo, judged))
        return Estimate(
            num_calls=1, num_prompt_tokens=1, num_completion_tokens=1, max_completion_tokens=1,
            num_measured=num_measured, cost_usd=1.0, max_cost_usd=1.0, price_source="p",
        )  # fmt: skip

    monkeypatch.setattr(tournament, "estimate_matches", estimated)
    told: list[Any] = []
    store: Any = SimpleNamespace(by_prompt=lambda judge: {"q": "judged"})
    contest: Any = SimpleNamespace(matches=["one", "two"])
    options: Any = SimpleNamespace(judge=PRICED)
    plan = _Plan(options, store, contest, contest, ["p", "q"], told.append, paid_usd=0.5)
    ahead = plan.tell({"p": MATCH})
    assert ahead is not None
    assert ahead.paid_usd == 0.5
    assert (given, told, plan.is_measured) == ([([MATCH], [("two", "judged")])], [ahead], is_measured)
    options.judge = ReplayOptions(files=())
    assert plan.tell({"p": MATCH}) is None


def test_what_nobody_was_asked_about() -> None:
    matches = [a_match("one", text) for text in "abc"] + [a_match("x", "y", "Who?")]
    matches = [replace(m, system_b=f"s{n}") for n, m in enumerate(matches)]
    answers: Answers = {}
    contest = Tournament(answers=answers, questions=[], matches=matches)
    assert contest.notes == ()
    judged = [judgment(*matches[0].key, 1)]
    failed = [Failure(question_id="Why?", system_a="ann", system_b="s1", reason="x")]
    assert _num_unasked(contest, ["p", "q", "p", "r"], judged, failed) == 1
    assert _num_unasked(contest, ["p", "q", "r", "r"], judged, failed) == 2
    assert _num_unasked(contest, ["p", "q", "p", "q"], judged, failed) == 0


def test_tournaments_are_drawn_up_as_is_asked(tmp_path: Path) -> None:
    found = open_tournament(options_in(tmp_path, max_questions=1, null_control=True))
    assert [q.question_id for q in found.questions] == ["1"]
    assert (len(found.matches), sorted(found.answers)) == (6, ["ann", "bob", "null-model"])
    assert found.answers["null-model"]["1"].startswith("Thank you for your question.")
    relative = open_tournament(options_in(tmp_path, mode=Mode.relative, reference="bob"))
    assert {match.key[1:] for match in relative.matches} == {("ann", "bob"), ("bob", "ann")}
    seeds = [[m.key for m in open_tournament(options_in(tmp_path, seed=seed)).matches] for seed in range(4)]
    assert len({tuple(keys) for keys in seeds}) == 2
    rows = [{"question_id": n, "system": s, "answer": "x"} for n in (1, 2) for s in ("ann", "null-model")]
    taken = Path(write_rows(tmp_path / "n.jsonl", rows))
    with pytest.raises(ValueError, match="null-model is among the answer files already"):
        open_tournament(options_in(tmp_path, answers=(taken,), null_control=True))
    turns = [{"question_id": 1, "turns": ["a", "b"]}]
    two = options_in(tmp_path, null_control=True, mode=Mode.single)
    write_rows(tmp_path / "q.jsonl", turns)
    write_rows(tmp_path / "a.jsonl", [{"question_id": 1, "system": "ann", "turns": ["c", "d"]}])
    assert sorted(match.key[:2] for match in open_tournament(two).matches) == [
        (f"1#turn{turn}", name) for turn in (1, 2) for name in ("ann", "null-model")
    ]


def test_estimates_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--estimate: only an API judge costs money"):
        estimate(options_in(tmp_path))
    found = estimate(options_in(tmp_path, judge=PRICED))
    assert (found.num_calls, found.num_measured) == (4, 0)
    assert tournament.LOCK_FILE == ".judging.lock"


def test_a_summary_counts_everything(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    def reply(prompt: Any, match: Any) -> str:
        return "?" if match.key[0] == "2" and match.system_a == "bob" else "1"

    found = run(options_in(tmp_path), lambda done, total: progress.append((done, total)), ScriptedJudge(reply))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    counts = (found.num_systems, found.num_questions, found.num_matches, found.num_judged, found.num_reused)
    assert counts == (2, 2, 4, 4, 0)
    assert (found.num_failed, found.num_unasked, found.num_unparsed) == (0, 0, 1)
    assert (found.unparsed, found.failures) == ({"the last line is no verdict": 1}, {})
    assert (found.cost_usd, found.spent_usd, found.unknown_usd, found.stopped) == (None, 0.0, 0.0, None)
    assert (found.judge, found.mode, found.grades, found.unmatched_systems) == ("scripted", Mode.pairwise, (), ())
    assert found.position_bias.first_wins == 3
    assert 0 <= found.seconds < 60
    again = run(options_in(tmp_path, reparse=True), judge=ScriptedJudge(reply))
    assert (again.num_judged, again.num_reused, again.num_failed) == (0, 4, 0)
    retried = run(options_in(tmp_path, retry_unparsed=True), judge=ScriptedJudge(lambda *_: "1"))
    assert (retried.num_judged, retried.num_reused, retried.num_unparsed) == (1, 3, 0)
    write_rows(tmp_path / "b.jsonl", [{"question_id": 2, "system": s, "answer": "x"} for s in ("ann", "bob")])
    fewer = run(options_in(tmp_path, answers=(tmp_path / "b.jsonl",)), judge=ScriptedJudge(reply))
    assert (fewer.num_questions, fewer.num_matches) == (1, 2)  # one of the two questions of q.jsonl was answered
    assert fewer.notes == (
        "1 of 2 questions have no answers: 1",
        "2 matches of earlier runs are of other systems or questions: they leave the tournament's files, and their "
        "judgments are kept; --bench tells sets of questions apart",
    )
    assert json.loads((tmp_path / "q.jsonl").read_text().splitlines()[0])["question_id"] == 1


@pytest.mark.parametrize(("costs", "total"), [((0.25, 0.0, 0.5, 0.25), 1.0), ((0.25, None, 0.5, 0.25), None)])
def test_what_a_tournament_has_cost(costs: tuple[float | None, ...], total: float | None, tmp_path: Path) -> None:
    class Priced(ScriptedJudge):
        def judge(self, matches: Any, on_judgment: Any) -> list[Failure]:
            left = list(costs)
            return super().judge(matches, lambda found: on_judgment(replace(found, cost_usd=left.pop(0))))

    found = run(options_in(tmp_path, tournament=tmp_path / "deep" / "t"), judge=Priced(lambda *_: "1"))
    assert (found.cost_usd, found.output) == (total, tmp_path / "deep" / "t" / "verdicts.csv")


def test_one_judgment_serves_all_matches_of_its_prompt(tmp_path: Path) -> None:
    options, done = options_in(tmp_path), list[tuple[int, int]]()
    rows = [{"question_id": n, "system": s, "answer": "the same"} for n in (1, 2) for s in ("ann", "bob", "cyd")]
    write_rows(tmp_path / "a.jsonl", rows)
    found = run(options, lambda *counts: done.append(counts), ScriptedJudge(lambda *_: "3"))
    assert (done, found.num_judged, found.num_matches) == ([(6, 12), (12, 12)], 12, 12)
    again = run(replace(options, max_questions=1), lambda *counts: done.append(counts), ScriptedJudge(lambda *_: "3"))
    assert (len(done), again.num_reused, again.num_judged, again.num_failed) == (2, 6, 0, 0)
