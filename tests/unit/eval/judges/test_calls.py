"""The API judge's parts that need no server: replies, waits, what is retried, estimates, settings."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answers.questions import Question
from eval.judges.calls import ApiJudge
from eval.judges.request import Reply, estimate_calls, read_reply
from eval.judges.retry import Fault, backoff_seconds, parse_duration, wait_asked_for
from eval.judging.matches import Match
from eval.judging.options import ApiOptions
from eval.judging.prompts import Mode, own_prompts, render
from eval.judging.store import JudgmentStore, settings_sha256

MATCH = Match(
    question=Question(question_id="1", category="generic", text="Why?"),
    system_a="ann",
    system_b="bob",
    answer_a="Because.",
    answer_b="So.",
)
PROMPTS = own_prompts(Mode.pairwise)


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
    ],
)
def test_what_is_no_completion_fails_the_match_alone(content: bytes, reason: str) -> None:
    fault = read_reply(content, "text/html; charset=utf-8")
    assert isinstance(fault, Fault)
    assert reason in fault.reason
    assert (fault.retry, fault.fatal, fault.was_free) == (False, False, False)


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
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("7", 7.0),
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
