"""The API judge's parts that need no server: replies, waits, what is retried, estimates, settings."""

import asyncio
import dataclasses
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answers.questions import Question
from eval.judges import batch, batch_server, calls, client, local, request, retry, tournament
from eval.judges.calls import ApiJudge
from eval.judges.client import ReplyTooLarge
from eval.judges.registry import choose_judge
from eval.judges.request import (
    Reply,
    estimate_calls,
    left_out_notes,
    next_to_leave_out,
    price_usd,
    read_completion,
    read_reply,
    reply_cost,
    request_body,
    shown_reason,
)
from eval.judges.retry import (
    TOO_DEEP,
    UNNAMED,
    Fault,
    Gate,
    RunStopped,
    Usage,
    backoff_seconds,
    classify,
    error_details,
    error_message,
    parse_duration,
    read_usage,
    refused_field,
    status_fault,
    too_long_a_wait,
    unrouted_part,
    wait_asked_for,
)
from eval.judging.flags import JudgeFlags, costs_money
from eval.judging.matches import Judgment, Match
from eval.judging.options import ApiOptions
from eval.judging.prompts import Mode, own_prompts, render
from eval.judging.store import JudgmentStore, settings_sha256
from harness.models.locate import ModelSource

MATCH = Match(
    question=Question(question_id="1", category="generic", text="Why?"),
    system_a="ann",
    system_b="bob",
    answer_a="Because.",
    answer_b="So.",
)
PROMPTS = own_prompts(Mode.pairwise)
GOLDEN = Path(__file__).resolve().parents[3] / "golden"
FREE = ApiOptions(model="m")
PRICED = ApiOptions(model="m", usd_per_million_prompt_tokens=10.0, usd_per_million_completion_tokens=30.0)


def completion(**changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Fine.\n1", "refusal": None}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "judge-2024",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        **changes,
    }


def test_a_whole_reply_is_read() -> None:
    reply = read_reply(json.dumps(completion()).encode(), "application/json")
    assert reply == Reply(
        text="Fine.\n1",
        refusal=None,
        finish_reason="stop",
        num_prompt_tokens=100,
        num_completion_tokens=10,
        model="judge-2024",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>Login</html>", "no JSON"),
        (b'{"choices": [{"mess', "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"", "no JSON"),
        (b"[]", "no choices"),
        (b'"text"', "no choices"),
        (b"{}", "no choices"),
        (json.dumps(completion(choices=None)).encode(), "no choices"),
        (json.dumps(completion(choices=[])).encode(), "no choices"),
        (json.dumps(completion(choices=[None])).encode(), "no choices"),
        (json.dumps(completion(choices=[{"message": {"content": None}}])).encode(), "no content"),
        (json.dumps(completion(choices=[{"message": {"content": [1]}}])).encode(), "no content"),
        (b'{"error": {"message": "Provider  down", "code": 502}}', "the server's reply is an error: Provider down"),
        (b'{"object": "error", "message": "loading", "code": 503}', "the server's reply is an error: loading"),
        (b'{"error": "no"}', "the server's reply is an error: no"),
        (
            json.dumps(completion(choices=[{"error": {"message": "broke off"}, "message": {"content": "1"}}])).encode(),
            "the server's reply is an error: broke off",
        ),
    ],
)
def test_what_is_no_completion_fails_the_match_alone(content: bytes, reason: str) -> None:
    fault = read_reply(content, "text/html; charset=utf-8")
    assert isinstance(fault, Fault)
    assert reason in fault.reason
    assert (fault.retry, fault.fatal, fault.was_free) == ("code" in content.decode("latin-1"), False, False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda t: (
            st.lists(t)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "refusal", "usage", "finish_reason", "model"]), t
            )
        ),
    )
)
def test_no_json_breaks_the_reader(value: Any) -> None:
    assert isinstance(read_reply(json.dumps(value).encode(), ""), (Reply, Fault))


@pytest.mark.parametrize(
    ("error", "kind", "is_counted"),
    [
        ({"message": "quota", "code": "insufficient_quota"}, {"fatal": True, "was_free": True}, False),
        ({"message": "slow down", "code": 429}, {"retry": True, "was_free": True}, False),
        ({"message": "slow down", "code": "429"}, {"retry": True, "was_free": True}, False),
        ({"message": "slow down", "code": 429}, {"retry": True, "was_free": False}, True),
        ({"message": "down", "code": 502}, {"retry": True, "was_free": False}, False),
        ({"message": "who knows"}, {"retry": False, "was_free": False}, False),
        ({"message": "Unsupported parameter: 'seed'", "code": 400}, {"adapt": "seed", "was_free": True}, False),
        ({"message": "Unsupported parameter: 'seed'"}, {"adapt": "seed", "was_free": True}, False),
    ],
)
def test_an_error_of_status_200_is_what_its_code_says(
    error: dict[str, Any], kind: dict[str, Any], is_counted: bool
) -> None:
    body: dict[str, Any] = {"error": error}
    if is_counted:
        body["usage"] = {"prompt_tokens": 3, "completion_tokens": 1}
    fault = read_completion(body)
    assert isinstance(fault, Fault)
    assert {name: getattr(fault, name) for name in kind} == kind
    assert fault.usage == (Usage(num_prompt_tokens=3, num_completion_tokens=1) if is_counted else Usage())


def test_content_in_parts_is_what_is_said_without_the_thoughts() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "2"}]}, {"type": "text", "text": "Fine.\n"}]
    reply = read_completion(completion(choices=[{"message": {"content": [*parts, {"type": "text", "text": "1"}]}}]))
    assert isinstance(reply, Reply)
    assert reply.text == "Fine.\n1"
    assert isinstance(read_completion(completion(choices=[{"message": {"content": parts[:1]}}])), Fault)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("7", 7.0),
        ("1700000000", 0.0),
        ("1700000000000", 0.0),
        ("soon", None),
        (None, None),
        ("-1", None),
    ],
)
def test_durations_of_rate_limit_headers(text: str | None, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


def test_waits_that_a_server_asks_for() -> None:
    assert wait_asked_for({"retry-after": "300"}) == 300
    assert wait_asked_for({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert wait_asked_for({"retry-after": "later"}) is None
    assert wait_asked_for({"retry-after": "9" * 400}) == float("inf")
    assert wait_asked_for({"retry-after": str(int(time.time()) + 50)}) == pytest.approx(50, abs=5)
    assert wait_asked_for({"retry-after": str(int(time.time() * 1000) + 50_000)}) == pytest.approx(50, abs=5)
    local = format_datetime((datetime.now(UTC) + timedelta(seconds=100)).replace(tzinfo=None))  # ends in -0000
    assert wait_asked_for({"retry-after": local}) == pytest.approx(100, abs=5)
    assert too_long_a_wait(90.4, 60) == "the server asks for a wait of 90 s, more than max_wait_seconds=60"
    assert "a wait of more than a year, more" in too_long_a_wait(float("inf"), 60)
    assert wait_asked_for({}) is None
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert wait_asked_for({"retry-after": date}) == pytest.approx(100, abs=5)
    assert wait_asked_for({"retry-after": format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)}) == 0


def test_backoff_doubles() -> None:
    assert [backoff_seconds(n, 1.0, 0.0) for n in (1, 2, 3)] == [1, 2, 4]
    assert 1 < backoff_seconds(1, 1.0, 0.9) < 1.5


def test_the_estimate_bounds_what_is_paid() -> None:
    options = ApiOptions(
        model="m", usd_per_million_prompt_tokens=10, usd_per_million_completion_tokens=30, max_tokens=100
    )
    found = estimate_calls(options, PROMPTS, [MATCH, MATCH])
    prompt = render(PROMPTS, MATCH)
    size = len((prompt.system + prompt.user).encode())
    assert (found.num_calls, found.num_completion_tokens, found.max_completion_tokens) == (2, 200, 200)
    assert found.num_prompt_tokens == pytest.approx(2 * (size / 4 + 16), abs=2)
    assert found.cost_usd is not None
    assert found.max_cost_usd is not None
    assert found.max_cost_usd == pytest.approx(2 * ((size + 16) * 10 + 100 * 30) / 1e6)
    assert found.cost_usd < found.max_cost_usd
    assert estimate_calls(ApiOptions(model="m"), PROMPTS, [MATCH]).cost_usd is None


def test_no_key_is_said_and_no_call_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with JudgmentStore(tmp_path) as store:
        judge = ApiJudge(ApiOptions(model="m"), PROMPTS, store)
        with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
            judge.judge([MATCH], lambda judgment: None)


def test_whatever_changes_a_verdict_changes_the_key_of_its_judgments(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"model": "n"},
        {"max_tokens": 5},
        {"base_url": "http://127.0.0.1:1/v1"},
        {"seed": 1},
        {"structured": False},
    ]
    with JudgmentStore(tmp_path) as store:
        judges = [ApiJudge(ApiOptions(**{"model": "m", **change}), PROMPTS, store) for change in changes]
        judges.append(ApiJudge(ApiOptions(model="m"), own_prompts(Mode.relative), store))
        patient = ApiJudge(ApiOptions(model="m", num_concurrent=1, max_attempts=1), PROMPTS, store)
    assert len({settings_sha256(judge) for judge in judges}) == len(judges)
    assert settings_sha256(patient) == settings_sha256(judges[0])


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (
            "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is supported.",
            1,
        ),
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", 0),
        ("Model grok-4 does not support parameter reasoningEffort.", 4),
        ('{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}', 3),
        ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', 3),
        ("Unrecognized request argument supplied: reasoning_effort", 4),
        ("max_completion_tokens is unknown", 2),
        ("'response_format.type' must be 'text'", 5),
        ("json_schema: additionalProperties missing", 5),
        ("temperature: may only be set to 1 when thinking is enabled", 1),
        ("`temperature` cannot be set for this model", 1),
        ("Setting temperature is disabled for reasoning models", 1),
        ("temperature must be 1 for this model", 1),
        ('"llama3" does not support thinking', 4),
        ("seed: field not recognised", 3),
        ("parameters [seed] are not accepted by this endpoint", 3),
        ('Unknown field seed in request {"max_tokens": 9, "temperature": 0.2, "response_format": {}}', 3),
        ("参数 temperature 不支持", 1),
        ("temperature must be between 0 and 2", None),
        ("max_tokens is too large: 5000. This model has room for at most 4096", None),
        ("this model's context is 8192 tokens", None),
        ("unsupported model", None),
        ("the seeds are unsupported", None),
    ],
)
def test_the_field_that_a_server_refuses(message: str, field: int | None) -> None:
    names = ("max_tokens", "temperature", "max_completion_tokens", "seed", "reasoning_effort", "response_format")
    assert refused_field(message) == (None if field is None else names[field])


REFUSALS = [json.loads(line) for line in (GOLDEN / "judge_refusals.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal["server"])
def test_errors_of_servers_name_what_they_refuse(refusal: dict[str, Any], by_batch: bool) -> None:
    """As OpenAI, Azure, vLLM, llama.cpp, Anthropic, Gemini and others word them, by call and by batch."""
    body, status = refusal["body"], refusal["status"]
    if by_batch:
        digest, fault = batch._parsed(json.dumps({"custom_id": "d", "response": {"status_code": status, "body": body}}))
        assert digest == "d"
    else:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        reply = httpx2.Response(status, content=content, request=httpx2.Request("POST", "http://server/v1"))
        fault = classify(openai.OpenAI(api_key="none")._make_status_error_from_response(reply))
    assert isinstance(fault, Fault)
    assert (fault.adapt, fault.was_free, fault.fatal) == (refusal["part"], True, False)


@pytest.mark.parametrize(
    "message",
    [
        "the question on grammar is too long: 9000 tokens",
        "Unsupported model: gpt-9",
        "the prompt's reasoning is 9000 tokens, more than 8192",
        "the system is overloaded",
    ],
)
def test_errors_that_name_no_part(message: str) -> None:
    assert refused_field(message) is None


def test_the_system_message_joins_the_users_where_a_server_takes_none() -> None:
    prompt = render(PROMPTS, MATCH)
    assert request_body(FREE, Mode.pairwise, prompt, {"system"})["messages"] == [
        {"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}
    ]
    assert next_to_leave_out(PRICED, "system", set()) == "system"


ROUTING = ". To learn more about provider routing, visit: https://openrouter.ai/docs/guides/routing/provider-selection"


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("No endpoints found that can handle the requested parameters" + ROUTING, UNNAMED),
        ("No endpoints found that support the requested parameters.", UNNAMED),
        ("litellm.NotFoundError: OpenrouterException - No endpoints found that support the parameters", UNNAMED),
        ("No endpoints found that support response_format json_schema.", "response_format"),
        ("No endpoints found that support the requested parameter: reasoning_effort", "reasoning_effort"),
        ("No endpoints found that support tool use" + ROUTING, None),
        ("No endpoints found that support image input", None),
        ("No endpoints found that support the provided 'tool_choice' value" + ROUTING, None),
        ("No endpoints found for m/temperature:free.", None),
        ("No endpoints found matching your data policy (Free model training).", None),
    ],
)
def test_the_part_for_which_a_router_finds_no_server(message: str, part: str | None) -> None:
    """As OpenRouter words it, mostly with status 404, which else is a wrong model and ends the run."""
    assert unrouted_part(message) == part
    fault = status_fault(404, "", message)
    assert (fault.adapt, fault.fatal, fault.was_free) == (part, True, True)
    fault = status_fault(503, "", message)
    assert (fault.adapt, fault.retry, fault.was_free) == (part, True, part is not None)


def test_parts_are_given_up_one_after_the_other_where_a_server_names_none() -> None:
    def given_up(**options: Any) -> list[str]:
        chosen, parts = dataclasses.replace(PRICED, **options), list[str]()
        while (part := next_to_leave_out(chosen, UNNAMED, parts)) not in parts:
            assert part is not None
            parts.append(part)
        return parts

    every = ["json_schema", "response_format", "reasoning_effort", "seed", "temperature", "max_tokens"]
    assert given_up(seed=0, reasoning_effort="low", temperature=0.0) == every
    assert given_up() == ["json_schema", "response_format", "temperature", "max_tokens"]
    assert given_up(structured=True) == given_up(structured=False) == ["temperature", "max_tokens"]
    assert given_up(temperature=None) == ["json_schema", "response_format", "max_tokens"]


def test_what_a_server_made_us_leave_out_is_noted() -> None:
    assert left_out_notes(FREE, {"json_schema", "max_tokens", "system"}) == []
    note = "the server refused a request until it came without "
    assert left_out_notes(FREE, {"temperature", "json_schema", "seed"}) == [f"{note}seed, temperature"]
    assert left_out_notes(FREE, {"response_format"}) == [f"{note}response_format"]
    assert left_out_notes(dataclasses.replace(FREE, structured=False), {"response_format"}) == []


def test_limits_are_those_of_servers_and_of_the_docs() -> None:
    assert (batch.MAX_REQUESTS, batch.MAX_FILE_BYTES, batch_server.PAGE) == (50_000, 190_000_000, 100)
    assert (request.BATCH_PRICE, tournament.MEASURED_AFTER, calls.MAX_FAILURES_IN_A_ROW) == (0.5, 50, 10)
    assert (request.BYTES_PER_TOKEN, request.ASSUMED_REPLY_TOKENS, request.MESSAGE_TOKENS) == (4, 250, 16)
    assert (retry.MAX_COUNT, retry.REFUSING_STATUS) == (10**7, (400, 422, 500, 501))
    assert (client.MAX_REPLY_BYTES, client.MAX_OUTPUT_BYTES) == (16 * 2**20, 2**30)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "", {"was_free": True}),
        (401, "", {"was_free": True, "fatal": True}),
        (402, "", {"was_free": True, "fatal": True}),
        (404, "", {"was_free": True, "fatal": True}),
        (408, "", {"retry": True, "wait_seconds": 3.0}),
        (429, "", {"was_free": True, "retry": True, "wait_seconds": 3.0}),
        (429, "insufficient_quota", {"was_free": True, "fatal": True}),
        (499, "", {"was_free": True}),
        (500, "", {"retry": True, "wait_seconds": 3.0}),
        (529, "", {"retry": True, "wait_seconds": 3.0}),
        (302, "", {"was_free": True}),
    ],
)
def test_what_is_tried_again_what_ends_the_run_and_what_is_not_billed(
    status: int, code: str, expected: dict[str, object]
) -> None:
    fault = status_fault(status, code, "oops", 3.0)
    found = {name: getattr(fault, name) for name in ("was_free", "retry", "fatal", "wait_seconds", "adapt")}
    assert found == {"was_free": False, "retry": False, "fatal": False, "wait_seconds": None, "adapt": None} | expected


def test_a_field_is_left_out_where_a_server_error_names_it() -> None:
    fault = status_fault(500, "", "unknown field: seed")
    assert (fault.adapt, fault.was_free, fault.retry) == ("seed", True, True)
    assert status_fault(404, "", "unsupported: seed").adapt is None
    assert status_fault(422, "", "", details="'temperature' is not supported").adapt == "temperature"


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 0}, (7, 0)),
        ({"prompt_tokens": 7.0, "completion_tokens": 10**7}, (7, 10**7)),
        ({"prompt_tokens": 0, "completion_tokens": 10**7 + 1}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": "5"}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, (None, None)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 30}, (7, 23)),  # thoughts are in the total only
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 8}, (7, 2)),
        ({"prompt_tokens": 7, "total_tokens": 30}, (7, None)),
        (None, (None, None)),
        ([1], (None, None)),
    ],
)
def test_tokens_that_a_server_counts(usage: object, found: tuple[int | None, int | None]) -> None:
    counted = read_usage({"usage": usage})
    assert (counted.num_prompt_tokens, counted.num_completion_tokens) == found
    assert read_usage([usage]) == read_usage({})


def test_calls_are_held_until_the_server_takes_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [1000.0], list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    gate = Gate(60.0)
    asyncio.run(gate.wait())
    gate.hold(60.0)
    gate.hold(5.0)
    asyncio.run(gate.wait())
    assert slept == [60.0]
    gate.hold(60.5)
    with pytest.raises(RunStopped, match=r"the server asks for a wait of 60 s, more than max_wait_seconds=60"):
        asyncio.run(gate.wait())


@pytest.mark.parametrize(
    ("headers", "held"),
    [
        ({}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}, 2.0),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "2s"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "99", "x-ratelimit-reset-tokens": "3s"}, 3.0),
        ({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-reset-tokens": "3s"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "0"}, 0.0),
    ],
)
def test_what_is_left_of_a_limit_is_heeded(
    headers: dict[str, str], held: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.time, "monotonic", lambda: 1000.0)
    gate = Gate(60.0)
    gate.observe(headers, 100)
    assert max(0.0, gate._not_before - 1000.0) == held


def test_a_wait_is_read_in_milliseconds_before_seconds() -> None:
    assert wait_asked_for({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert wait_asked_for({"retry-after": "nothing"}) is None
    assert wait_asked_for({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0


@pytest.mark.parametrize(
    ("name", "flags", "room"),
    [
        ("gpt-4o", {}, 0),
        ("gpt-4o", {"reasoning_effort": "low"}, 8192),
        ("gpt-4o", {"reasoning_effort": "none"}, 0),
        ("o3-mini", {}, 8192),
        ("openai/gpt-5-mini-2025-08-07", {}, 8192),
        ("deepseek-ai/DeepSeek-R1", {}, 8192),
        ("grok-4", {}, 8192),
        ("qwen/qwq-32b", {}, 8192),
        ("gpt-5-chat-latest", {}, 0),
        ("gemini-2.5-flash", {}, 8192),
        ("gemini-2.5-flash-lite", {}, 0),
        ("o3-mini", {"thought_tokens": 100}, 100),
        ("o3-mini", {"thought_tokens": 0}, 0),
    ],
)
def test_a_reasoning_judges_thoughts_have_room_of_their_own(name: str, flags: dict[str, Any], room: int) -> None:
    chosen = choose_judge(name, JudgeFlags(**flags))
    assert isinstance(chosen, ApiOptions)
    assert (chosen.max_tokens, chosen.thought_tokens) == (1024, room)
    prompt = render(PROMPTS, MATCH)
    assert request_body(chosen, Mode.pairwise, prompt, ())["max_tokens"] == 1024 + room
    ahead = estimate_calls(chosen, PROMPTS, [MATCH])
    assert ahead.max_completion_tokens == 1024 + room
    assert ahead.num_completion_tokens == 250 + min(room, 1000)
    without = ApiOptions(model=name, reasoning_effort=chosen.reasoning_effort)
    assert request.judge_settings(chosen, PROMPTS) == request.judge_settings(without, PROMPTS)


def test_room_for_thoughts_is_reserved_and_named_where_a_reply_is_cut() -> None:
    roomy = dataclasses.replace(PRICED, thought_tokens=1000)
    prompt = render(PROMPTS, MATCH)
    assert request.most_usd(roomy, prompt, 0.0) - request.most_usd(PRICED, prompt, 0.0) == pytest.approx(0.03)
    cut = Reply(text="1", refusal=None, finish_reason="length", num_prompt_tokens=1, num_completion_tokens=1, model="m")
    made = request.reply_judgment(roomy, Mode.pairwise, MATCH.key, "p", cut, None, None, str)
    assert made.reason == "the reply was cut at 2024 tokens"
    with pytest.raises(ValueError, match="thought_tokens=-1"):
        ApiOptions(model="m", thought_tokens=-1)


def test_requests_leave_out_what_a_server_does_not_know() -> None:
    options = ApiOptions(model="m", max_tokens=7, temperature=0.5, reasoning_effort="low", seed=3)
    prompt = render(PROMPTS, MATCH)
    whole = request_body(options, Mode.pairwise, prompt, ())
    form = whole.pop("response_format")
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
    assert whole == {
        "model": "m", "messages": messages, "max_tokens": 7, "temperature": 0.5, "reasoning_effort": "low", "seed": 3,
    }  # fmt: skip
    assert (form["type"], form["json_schema"]["name"], form["json_schema"]["strict"]) == (
        "json_schema", "pairwise_judgment", True,
    )  # fmt: skip
    schema = form["json_schema"]["schema"]
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == (
        "object", list(schema["properties"]), False,
    )  # fmt: skip
    assert schema["properties"] == {
        "explanation": {"type": "string"}, "verdict": {"type": "integer", "enum": [1, 2, 3]},
    }  # fmt: skip
    plain = request_body(options, Mode.pairwise, prompt, ("json_schema", "max_tokens", "seed"))
    assert plain["response_format"] == {"type": "json_object", "schema": schema}
    assert (plain["max_completion_tokens"], "max_tokens" in plain, "seed" in plain) == (7, False, False)
    bare = request_body(options, Mode.pairwise, prompt, ("response_format", "max_tokens", "max_completion_tokens"))
    assert set(bare) == {"model", "messages", "temperature", "reasoning_effort", "seed"}
    unset = request_body(ApiOptions(model="m", temperature=None), Mode.pairwise, prompt, ())
    assert not {"temperature", "reasoning_effort", "seed"} & set(unset)


def test_parts_are_left_out_in_their_order() -> None:
    assert next_to_leave_out(FREE, "max_tokens", ()) == "max_tokens"
    assert next_to_leave_out(FREE, "max_completion_tokens", ()) == "max_tokens"
    assert next_to_leave_out(FREE, "max_tokens", ("max_tokens",)) == "max_completion_tokens"
    assert next_to_leave_out(FREE, "response_format", ()) == "json_schema"
    assert next_to_leave_out(FREE, "response_format", ("json_schema",)) == "response_format"
    assert next_to_leave_out(FREE, "seed", ()) == "seed"


def test_estimates_rest_on_measured_replies_where_there_are_some() -> None:
    options = ApiOptions(
        model="m", usd_per_million_prompt_tokens=10, usd_per_million_completion_tokens=30, max_tokens=100, batch=True
    )
    prompt = render(PROMPTS, MATCH)
    size = len((prompt.system + prompt.user).encode())

    def judged(**facts: Any) -> tuple[Match, Judgment]:
        return MATCH, Judgment(
            question_id="1", system_a="ann", system_b="bob", prompt_sha256="p", verdict=1, **{"raw_text": None, **facts}
        )

    counted = [judged(num_prompt_tokens=size // 2, num_completion_tokens=20), judged(num_completion_tokens=40)]
    found = estimate_calls(options, PROMPTS, [MATCH] * 3, counted)
    assert (found.num_calls, found.num_completion_tokens, found.max_completion_tokens) == (3, 90, 300)
    assert found.num_prompt_tokens == round(3 * size / (size / (size // 2)))
    assert (found.num_measured, found.batch) == (2, True)
    assert found.cost_usd == pytest.approx((found.num_prompt_tokens * 10 + 90 * 30) / 2e6)
    by_text = estimate_calls(options, PROMPTS, [MATCH], [judged(raw_text="x" * 40), judged()])
    assert by_text.num_completion_tokens == 5
    assert by_text.num_prompt_tokens == round(size / 4)


def test_costs_need_both_prices_and_both_counts() -> None:
    priced = ApiOptions(model="m", usd_per_million_prompt_tokens=1e6, usd_per_million_completion_tokens=2e6)
    assert price_usd(priced, 3, 5) == 13.0
    assert price_usd(ApiOptions(model="m", usd_per_million_prompt_tokens=1e6), 3, 5) is None
    assert price_usd(ApiOptions(model="m", usd_per_million_completion_tokens=1e6), 3, 5) is None
    assert reply_cost(priced, Usage(num_prompt_tokens=3, num_completion_tokens=5)) == 13.0
    assert reply_cost(priced, Usage(num_prompt_tokens=3)) is None
    assert reply_cost(priced, Usage(num_completion_tokens=3)) is None


def test_faults_of_the_client_by_their_kind() -> None:
    sent = httpx.Request("POST", "http://x")
    timeout = classify(openai.APITimeoutError(sent))
    assert (timeout.reason, timeout.retry, timeout.timed_out, timeout.was_free) == ("time-out", True, True, False)
    assert classify(TimeoutError()).retry
    assert classify(RecursionError()) == Fault(reason=TOO_DEEP)

    def broken(cause: Exception) -> Fault:
        error = openai.APIConnectionError(request=sent)
        error.__cause__ = cause
        return classify(error)

    refused = broken(httpx.ConnectError("no"))
    assert (refused.reason, refused.was_free, refused.retry, refused.unreached) == ("no connection", True, True, True)
    cut = broken(httpx.ReadError("no"))
    assert (cut.reason, cut.was_free, cut.retry) == ("the connection broke off", False, False)
    assert broken(ReplyTooLarge("too large")).reason == "too large"
    body = {"message": "slow\n down", "code": "x"}
    content = json.dumps({"error": body, "usage": {"prompt_tokens": 4, "completion_tokens": 0}}).encode()
    response = httpx.Response(429, headers={"retry-after": "7"}, content=content, request=sent)
    fault = classify(openai.RateLimitError("m", response=response, body=body))
    assert (fault.retry, fault.wait_seconds, fault.usage) == (
        True,
        7.0,
        Usage(num_prompt_tokens=4, num_completion_tokens=0),
    )
    quota = status_fault(429, "", "insufficient_quota: pay", None)
    assert (quota.fatal, quota.reason) == (True, "the account's quota is used up (HTTP 429: insufficient_quota: pay)")
    assert status_fault(401, "", "no").reason == "the key was refused (HTTP 401: no)"
    assert status_fault(418, "", "tea").reason == "HTTP 418: tea"
    reasons = {status: status_fault(status, "", "").reason for status in (300, 307, 399, 400)}
    assert [status for status, reason in reasons.items() if "a redirect, which is not followed" in reason] == [
        300, 307, 399,
    ]  # fmt: skip


def test_words_of_an_error_are_one_line_and_details_are_cut() -> None:
    assert error_message({"message": "a\n  b"}) == "a b"
    assert error_message({"message": {"x": 1}}) == '{"x": 1}'
    assert error_message("text") == "text"
    assert error_message(None) == ""
    assert error_details({1, 2}) == ""
    assert len(error_details("x" * 5000)) == 4000
    assert shown_reason("secret" + "x" * 300, "secret") == "[key]" + "x" * 195


@pytest.mark.parametrize(
    ("counted", "read"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, (7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 0}, (7, None)),  # a reply of no tokens has no text
        ({"prompt_tokens": 0, "completion_tokens": 3}, (None, 3)),
        ({"prompt_tokens": -7, "completion_tokens": "3"}, (None, None)),
        ({"prompt_tokens": 7.5, "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": 10**30, "completion_tokens": float("inf")}, (None, None)),
        ({"completion_tokens": [3]}, (None, None)),
        ([], (None, None)),
        (None, (None, None)),
    ],
)
def test_what_a_server_counted_is_believed_where_it_can_be(counted: Any, read: tuple[int | None, int | None]) -> None:
    reply = read_completion({"choices": [{"message": {"content": "2"}}], "usage": counted})
    assert isinstance(reply, Reply)
    assert (reply.num_prompt_tokens, reply.num_completion_tokens) == read
    unknown = None in read
    assert (reply_cost(PRICED, reply) is None) is unknown


def test_judges_that_cost_nothing_are_known_to_plans() -> None:
    assert not any(map(costs_money, ("local:smollm2", "replay:a.csv")))
    assert all(map(costs_money, ("gpt-4", "local", "replay", "ft:gpt-4:me", "api:x")))


@pytest.mark.parametrize("judge", ["gpt-4", "replay:a.csv"])
def test_a_chat_template_is_for_local_judges(judge: str) -> None:
    with pytest.raises(ValueError, match=f"--chat-template: {judge} is no local judge"):
        choose_judge(judge, JudgeFlags(chat_template=True))


def test_a_judge_without_the_template_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource(kind="folder", location=str(tmp_path), revision="main", max_length=9)
    monkeypatch.setattr(local, "locate_model", lambda *_: source)
    chosen = choose_judge("local:smollm2", JudgeFlags(chat_template=True))
    with pytest.raises(ValueError, match="--chat-template: the tokenizer of smollm2 has no chat template"):
        local.load_judge(chosen)  # type: ignore[arg-type]
