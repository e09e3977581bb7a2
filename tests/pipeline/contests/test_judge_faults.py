"""The API judge against a server that misbehaves: a real one on loopback, a real client, no mocks.

Each test scripts the server: a function from the number of the request to what it answers. The key is a canary
that may appear nowhere: in no file of the tournament, no log, no summary.
"""

import dataclasses
import gzip
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.commands.judge import summary_text
from eval.judges.tournament import estimate, run
from eval.judging.options import JudgeSummary
from eval.judging.prompts import Mode
from eval.judging.store import JudgmentStore
from harness.files.atomic import to_json
from tests.servers.judge_server import (
    CANARY,
    GOOD,
    Answer,
    ScriptedServer,
    completion,
    error,
    options_in,
    output_line,
    serving,
    serving_batches,
)

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def canary_stays_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    monkeypatch.setenv("JUDGE_TEST_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    yield
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in caplog.text


def judge(folder: Path, server: ScriptedServer, **api: Any) -> JudgeSummary:
    summary = run(options_in(folder, server.url, **api))
    assert CANARY not in to_json(summary, where="test")
    return summary


def test_a_good_server_is_asked_once_a_match_and_all_is_kept(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as server:
        summary = judge(tmp_path, server)
        again = judge(tmp_path, server)
    assert len(server.requests) == 4 == summary.num_judged
    assert (again.num_judged, again.num_reused) == (0, 4)
    assert server.keys == {f"Bearer {CANARY}"}
    assert summary.cost_usd == pytest.approx(4 * (300 * 10 + 20 * 30) / 1e6)
    assert summary.spent_usd == pytest.approx(summary.cost_usd)
    assert {r["temperature"] for r in server.requests} == {0.2}
    assert {r["max_tokens"] for r in server.requests} == {1024}
    assert (summary.position_bias.first_wins, summary.position_bias.num_reversed) == (4, 2)
    with JudgmentStore(tmp_path / "tournament") as store:
        for _, judgment in store.judgments():
            assert judgment.raw_text == "Fine.\n1"
            assert (judgment.num_prompt_tokens, judgment.num_completion_tokens) == (300, 20)
            assert judgment.latency_seconds is not None


def test_a_burst_of_429_is_waited_out(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return error(429, "slow down", "rate_limit_exceeded", retry_after="0.2") if n < 3 else GOOD

    with serving(script) as server:
        summary = judge(tmp_path, server)
    assert (summary.num_judged, summary.num_failed, len(server.requests)) == (4, 0, 7)
    assert all(later - sooner > 0.15 for sooner, later in zip(server.times[:3], server.times[1:4], strict=True))
    assert summary.spent_usd == pytest.approx(summary.cost_usd)


def test_a_storm_of_429_fails_no_match_while_some_calls_are_answered(tmp_path: Path) -> None:
    """Of twelve calls at once the server takes every fifth: a match is refused more often than it is tried alone."""

    def script(n: int, request: dict[str, Any]) -> Answer:
        return GOOD if n % 5 == 4 else error(429, "slow down", retry_after="0")

    with serving(script) as server:
        summary = judge(tmp_path, server, num_questions=6, num_concurrent=12, backoff_seconds=0.002)
    assert (summary.num_judged, summary.num_failed) == (12, 0)
    assert summary.spent_usd == pytest.approx(summary.cost_usd)


def test_a_long_retry_after_ends_the_run_at_once(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return error(429, "slow down", retry_after="300") if n == 1 else GOOD

    with serving(script) as server:
        summary = judge(tmp_path, server)
        assert summary.stopped is not None
        assert "300 s" in summary.stopped
        assert (summary.num_judged, summary.num_failed, summary.num_unasked, len(server.requests)) == (1, 0, 3, 2)
        resumed = judge(tmp_path, server)
    assert (resumed.num_judged, resumed.num_reused, resumed.stopped) == (3, 1, None)


def test_an_exhausted_quota_is_not_tried_again(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return error(429, "You exceeded your current quota", "insufficient_quota")

    with serving(script) as server:
        summary = judge(tmp_path, server)
    assert len(server.requests) == 1
    assert summary.stopped is not None
    assert "quota" in summary.stopped
    assert (summary.num_failed, summary.num_unasked) == (1, 3)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "key was refused"), (402, "no credit"), (404, "no such model"), (403, "refused")]
)
def test_what_no_retry_can_mend_ends_the_run(tmp_path: Path, status: int, words: str) -> None:
    with serving(lambda n, request: error(status, f"bad key {CANARY}")) as server:
        summary = judge(tmp_path, server)
    assert len(server.requests) == 1
    assert summary.stopped is not None
    assert words in summary.stopped


def test_server_errors_are_tried_again_up_to_the_limit(tmp_path: Path) -> None:
    with serving(lambda n, request: error(500, "oops") if n < 2 else GOOD) as server:
        assert judge(tmp_path, server).num_judged == 4
        assert len(server.requests) == 6
    with serving(lambda n, request: error(503, "oops")) as server:
        summary = judge(tmp_path, server, model="other", max_attempts=3)
    assert len(server.requests) == 4 * 3
    assert summary.failures == {"HTTP 503": 4}


BROKEN = {
    "cut body": (Answer(body=completion(), cut_bytes=40), "broke off"),
    "malformed JSON": (Answer(body=completion()[:-20]), "no JSON"),
    "HTML": (Answer(body=b"<html>Sign in</html>", headers={"content-type": "text/html"}), "no JSON (text/html)"),
    "choices null": (Answer(body=completion(choices=None)), "no choices"),
    "no content": (Answer(body=completion(None)), "no content"),
    "bad request": (error(400, "the messages are bad"), "HTTP 400"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_reply_fails_its_match_alone_and_the_next_run_mends_it(tmp_path: Path, name: str) -> None:
    broken, words = BROKEN[name]
    with serving(lambda n, request: broken if n == 1 else GOOD) as server:
        summary = judge(tmp_path, server)
        assert (summary.num_judged, summary.num_failed, len(server.requests)) == (3, 1, 4)
        (reason,) = summary.failures
        assert words in reason
        assert len(summary.output.read_text().splitlines()) == 4
        mended = judge(tmp_path, server)
    assert (mended.num_judged, mended.num_reused, mended.num_failed) == (1, 3, 0)
    assert mended.cost_usd is not None
    unknown = mended.spent_usd - mended.cost_usd  # a reply that broke may have been billed
    assert unknown == pytest.approx(0.0) if name == "bad request" else unknown > 0


def test_a_server_that_only_fails_is_left_alone(tmp_path: Path) -> None:
    with serving(lambda n, request: BROKEN["HTML"][0]) as server:
        summary = judge(tmp_path, server, num_questions=20)
    assert len(server.requests) == 10
    assert summary.stopped is not None
    assert "10 matches in a row failed" in summary.stopped
    assert (summary.num_failed, summary.num_unasked) == (10, 30)


def test_slow_bytes_are_a_time_out(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return dataclasses.replace(GOOD, seconds_per_byte=0.05) if n == 0 else GOOD

    with serving(script) as server:
        summary = judge(tmp_path, server, request_timeout_seconds=2.0)
    assert summary.num_judged == 4
    assert len(server.requests) == 5


def test_a_reply_that_never_ends_is_asked_for_twice_and_the_next_match_goes_on(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        return dataclasses.replace(GOOD, seconds_per_byte=0.05) if "ann on 1" in str(request) else GOOD

    with serving(script) as server:
        summary = judge(tmp_path, server, request_timeout_seconds=0.3)
    assert (summary.num_judged, summary.num_failed, len(server.requests)) == (2, 2, 2 + 2 * 2)
    assert summary.failures == {"time-out: no whole reply within 0.3 s; --request-timeout-seconds gives it longer": 2}


def test_an_unreachable_server_costs_nothing(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as server:
        pass
    summary = judge(tmp_path, server)
    assert summary.failures == {"no connection": 4}
    assert summary.spent_usd == 0


def test_refusals_cut_replies_and_nonsense_are_unparsed_and_paid_once(tmp_path: Path) -> None:
    replies = [
        completion(None, refusal="I can't compare these."),
        completion("", finish_reason="content_filter"),
        completion("The first is\n1", finish_reason="length"),
        completion("7"),
        completion('{"explanation": "", "verdict": 9}'),
        completion("Fine.\n2"),
    ]
    with serving(lambda n, request: Answer(body=replies[n])) as server:
        summary = judge(tmp_path, server, num_questions=3)
        again = judge(tmp_path, server, num_questions=3)
    assert len(server.requests) == 6
    assert (summary.num_judged, summary.num_unparsed, summary.num_failed) == (6, 5, 0)
    assert again.num_reused == 6
    with JudgmentStore(tmp_path / "tournament") as store:
        reasons = {j.reason for _, j in store.judgments() if j.reason}
    assert "the judge refused" in reasons
    assert "the reply was cut at 1024 tokens" in reasons
    assert len(reasons) == 4


def test_scores_out_of_range_are_no_scores(tmp_path: Path) -> None:
    replies = [completion("8 9"), completion("0 11"), completion("8"), completion('{"score_1": 3, "score_2": 4}')]
    with serving(lambda n, request: Answer(body=replies[n])) as server:
        summary = judge(tmp_path, server, mode=Mode.relative)
    assert summary.num_unparsed == 2
    rows = [line.split(",")[3:] for line in summary.output.read_text().splitlines()[1:]]
    assert rows.count(["-1", "-1"]) == 2


def test_structured_output_is_asked_for_and_done_without(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        if "response_format" in request:
            return error(400, "response_format json_schema is not supported")
        return GOOD

    structured = Answer(body=completion('{"explanation": "x", "verdict": 2}'))
    with serving(lambda n, request: structured) as server:
        assert judge(tmp_path, server).position_bias.second_wins == 4
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == [1, 2, 3]
    with serving(script) as server:
        summary = judge(tmp_path, server, model="older")
    assert (summary.num_judged, len(server.requests)) == (4, 6)
    asked = [request.get("response_format", {}).get("type") for request in server.requests]
    assert asked == ["json_schema", "json_object", None, None, None, None]
    with serving(script) as server:
        summary = judge(tmp_path, server, model="strict", structured=True)
    assert summary.num_failed == 4
    with serving(script) as server:
        assert judge(tmp_path, server, model="plain", structured=False).num_judged == 4
    assert len(server.requests) == 4


def test_another_servers_way_of_asking_for_a_schema(tmp_path: Path) -> None:
    """llama-cpp-python 0.3.36 answers 500 to `json_schema` and takes a schema beside `json_object`."""

    def script(n: int, request: dict[str, Any]) -> Answer:
        if request["response_format"]["type"] == "json_schema":
            return error(
                500, "'loc': ('body', 'response_format', 'type'), 'msg': \"Input should be 'text' or 'json_object'\""
            )
        return Answer(body=completion('{"explanation": "x", "verdict": 1}'))

    with serving(script) as server:
        summary = judge(tmp_path, server, num_concurrent=3)
    assert (summary.num_judged, summary.num_failed, summary.spent_usd) == (4, 0, pytest.approx(summary.cost_usd))
    assert len(server.requests) <= 4 + 3
    assert "verdict" in server.requests[-1]["response_format"]["schema"]["properties"]


def test_a_server_that_takes_no_limit_of_a_reply_is_not_paid(tmp_path: Path) -> None:
    """Each reply could cost any money; where nothing costs money it is asked all the same."""

    def script(n: int, request: dict[str, Any]) -> Answer:
        given = next((name for name in ("max_tokens", "max_completion_tokens") if name in request), None)
        return GOOD if given is None else error(400, f"Unsupported parameter: '{given}' is not supported.")

    with serving(script) as server:
        (tmp_path / "paid").mkdir()
        summary = judge(tmp_path / "paid", server)
        assert (summary.num_judged, summary.spent_usd, len(server.requests)) == (0, 0.0, 2)
        assert "takes neither max_tokens nor max_completion_tokens" in str(summary.stopped)
        free = {"usd_per_million_prompt_tokens": None, "usd_per_million_completion_tokens": None}
        (tmp_path / "free").mkdir()
        assert judge(tmp_path / "free", server, **free).num_judged == 4


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("field", ["temperature", "seed", "reasoning_effort", "max_tokens"])
def test_an_optional_field_that_the_server_refuses_is_left_out(tmp_path: Path, field: str, batch: bool) -> None:
    """Today's reasoning models refuse a temperature, other servers whatever they don't know."""

    def body(request: dict[str, Any]) -> str | None:
        return f"Unsupported parameter: '{field}' is not supported with this model." if field in request else None

    def script(n: int, request: dict[str, Any]) -> Answer:
        words = body(request)
        return GOOD if words is None else error(400, words, "unsupported_parameter")

    options = {"seed": 1, "reasoning_effort": "low"}
    if batch:
        with serving_batches() as server:
            server.line = lambda n, request: (
                output_line(request)
                if (words := body(request["body"])) is None
                else json.dumps(
                    {
                        "custom_id": request["custom_id"],
                        "response": {"status_code": 400, "body": {"error": {"message": words}}},
                    }
                )
            )
            summary = judge(tmp_path, server, batch=True, batch_poll_seconds=0.01, **options)
    else:
        with serving(script) as server:
            summary = judge(tmp_path, server, **options)
        assert field not in server.requests[-1]
        assert len(server.requests) == 4 + 1
    assert (summary.num_judged, summary.num_failed) == (4, 0)


UNROUTED = "No endpoints found that can handle the requested parameters."


@pytest.mark.parametrize("batch", [False, True])
def test_where_a_router_finds_no_server_for_some_part_they_go_one_by_one(tmp_path: Path, batch: bool) -> None:
    """OpenRouter with `require_parameters`, for a reasoning model that takes no temperature."""

    def fits(request: dict[str, Any]) -> bool:
        return not {"seed", "temperature"} & request.keys()

    if batch:
        with serving_batches() as server:
            body = json.dumps({"error": {"message": UNROUTED, "code": 404}}).encode()
            server.line = lambda n, request: (
                output_line(request) if fits(request["body"]) else output_line(request, body, 404)
            )
            summary = judge(tmp_path, server, batch=True, batch_poll_seconds=0.01, seed=1)
    else:
        with serving(lambda n, request: GOOD if fits(request) else error(404, UNROUTED)) as server:
            summary = judge(tmp_path, server, num_concurrent=4, seed=1)
        assert server.requests[-1].keys() == {"model", "messages", "max_tokens"}
        assert len(server.requests) <= 4 + 4 * 4
    assert (summary.num_judged, summary.num_failed, summary.stopped) == (4, 0, None)
    assert summary.spent_usd == summary.cost_usd
    assert summary.notes == ("the server refused a request until it came without response_format, seed, temperature",)


def test_where_a_router_finds_no_server_for_any_request_the_run_ends_with_its_words(tmp_path: Path) -> None:
    with serving(lambda n, request: error(404, UNROUTED)) as server:
        summary = judge(tmp_path, server, num_concurrent=1)
    assert (summary.num_judged, summary.num_failed, summary.num_unasked, len(server.requests)) == (0, 1, 3, 5)
    assert UNROUTED in str(summary.stopped)
    assert summary.spent_usd == 0


def test_a_limit_that_is_too_high_is_no_unknown_field(tmp_path: Path) -> None:
    with serving(lambda n, request: error(400, "max_tokens is too large: 9000; at most 4096")) as server:
        summary = judge(tmp_path, server)
    assert (summary.num_failed, len(server.requests)) == (4, 4)


def test_unparsed_replies_are_said_read_anew_for_nothing_and_asked_again(tmp_path: Path) -> None:
    replies = ["Hm.", "7", "Fine.\n1", "Fine.\n2"]
    with serving(lambda n, request: Answer(body=completion(replies[n] if n < 4 else "Fine.\n3"))) as server:
        first = judge(tmp_path, server)
        options = options_in(tmp_path, server.url)
        with sqlite3.connect(tmp_path / "tournament" / "judgments.sqlite") as database:
            database.execute("UPDATE judgments SET raw_text = 'Now readable.\n2' WHERE raw_text = '7'")
        database.close()
        anew = run(dataclasses.replace(options, reparse=True))
        assert (len(server.requests), anew.num_unparsed, anew.spent_usd) == (4, 1, first.spent_usd)
        again = run(dataclasses.replace(options, retry_unparsed=True))
    assert (first.num_unparsed, sum(first.unparsed.values())) == (2, 2)
    assert set(first.unparsed) == {"the last line is no verdict"}
    assert "unparsed: the last line is no verdict (2 matches)" in summary_text(first)
    assert (len(server.requests), again.num_unparsed, again.num_judged) == (5, 0, 1)
    bias = again.position_bias
    assert (bias.first_wins, bias.second_wins, bias.ties) == (1, 2, 1)


def test_a_key_is_taken_out_of_what_is_shown_and_not_of_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT_KEY", "1")
    with serving(lambda n, request: Answer(body=completion("Fine.\n1", model="model-1"))) as server:
        options = options_in(tmp_path, server.url, key_variable="SHORT_KEY")
        summary = run(options)
        anew = run(dataclasses.replace(options, reparse=True))
    assert (summary.position_bias.first_wins, summary.num_unparsed) == (4, 0)
    assert anew.position_bias == summary.position_bias
    with JudgmentStore(tmp_path / "tournament") as store:
        assert {judgment.raw_text for _, judgment in store.judgments()} == {"Fine.\n[key]"}
        outcomes = {row[0] for row in store.connection.execute("SELECT outcome FROM calls")}
    assert outcomes == {"200 model-[key]"}


def test_a_reply_is_stored_and_settled_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: JudgmentStore, call_id: int, outcome: str, cost_usd: float | None) -> None:
        raise OSError("disk full")

    with serving(lambda n, request: GOOD) as server:
        with monkeypatch.context() as patch:
            patch.setattr(JudgmentStore, "settle", full)
            with pytest.raises(OSError, match="disk full"):
                judge(tmp_path, server)
        with JudgmentStore(tmp_path / "tournament") as store:
            assert store.judgments() == []
        assert judge(tmp_path, server).num_judged == 4


def test_a_full_disk_ends_the_run_in_words_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: JudgmentStore, judge: Any, judgment: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with serving(lambda n, request: GOOD) as server:
        with monkeypatch.context() as patch:
            patch.setattr(JudgmentStore, "add", full)
            with pytest.raises(ValueError, match=r"judgments.sqlite: database or disk is full; is the disk full"):
                judge(tmp_path, server)
        assert judge(tmp_path, server).num_judged == 4


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        completion(usage={"prompt_tokens": 10**30, "completion_tokens": 10**400}),
        completion("Half \ud83d.\n1", model="m \ud83d"),
    ],
    ids=["deep", "huge numbers", "surrogates"],
)
def test_strange_replies_stop_nothing(tmp_path: Path, body: bytes) -> None:
    with serving(lambda n, request: Answer(body=body)) as server:
        summary = judge(tmp_path, server)
    assert summary.num_judged + summary.num_failed == 4


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as other:
        moved = Answer(status=307, headers={"location": f"{other.url}/chat/completions"})
        with serving(lambda n, request: moved) as server:
            summary = judge(tmp_path, server)
    assert (summary.num_failed, other.requests) == (4, [])


def test_newer_models_name_of_the_token_limit(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        if "max_tokens" in request:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return GOOD

    with serving(script) as server:
        summary = judge(tmp_path, server, temperature=None)
    assert (summary.num_judged, len(server.requests)) == (4, 5)
    assert server.requests[-1]["max_completion_tokens"] == 1024
    assert "temperature" not in server.requests[-1]


def test_rate_limit_headers_hold_the_next_call_back(tmp_path: Path) -> None:
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
    few_tokens = {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "0.3s"}
    headers = [used_up, few_tokens, {}, {}]
    with serving(lambda n, request: dataclasses.replace(GOOD, headers=headers[n])) as server:
        assert judge(tmp_path, server).num_judged == 4
    assert server.times[1] - server.times[0] > 0.25
    assert server.times[2] - server.times[1] > 0.25


def test_calls_run_side_by_side_up_to_the_limit(tmp_path: Path) -> None:
    def script(n: int, request: dict[str, Any]) -> Answer:
        time.sleep(0.1)
        return GOOD

    with serving(script) as server:
        summary = judge(tmp_path, server, num_questions=8, num_concurrent=4)
    assert summary.num_judged == 16
    assert 1 < server.max_active <= 4


def test_the_budget_is_a_hard_stop_across_runs(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as server:
        call = (300 * 10 + 20 * 30) / 1e6
        most = estimate(options_in(tmp_path, server.url, num_questions=10)).max_cost_usd
        assert most is not None
        budget = most / 20 + 2.5 * call
        summary = judge(tmp_path, server, num_questions=10, num_concurrent=8, budget_usd=budget)
        assert summary.stopped is not None
        assert summary.stopped.startswith("budget")
        assert 0 < summary.spent_usd <= budget
        assert (summary.num_judged, summary.num_failed, summary.num_unasked) == (3, 0, 17)  # not fewer
        while (again := judge(tmp_path, server, num_questions=10, budget_usd=budget)).num_judged:
            pass
        assert again.spent_usd <= budget
        assert len(server.requests) == 3
        assert len(again.output.read_text().splitlines()) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.servers.judge_server import options_in
from eval.judges.tournament import run
def on_progress(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
run(options_in(Path({folder!r}), {url!r}, num_questions=6, num_concurrent=2), on_progress)
"""


def test_a_killed_run_pays_for_no_judgment_twice(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as server:
        script = KILLED.format(root=str(REPOSITORY), folder=str(tmp_path), url=server.url)
        killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=dict(os.environ), check=False)
        assert killed.returncode == -signal.SIGKILL
        before = len(server.requests)
        summary = judge(tmp_path, server, num_questions=6, num_concurrent=2)
    assert (summary.num_reused, summary.num_judged) == (5, 7)
    assert len(server.requests) - before == 7
    assert summary.cost_usd is not None
    assert summary.spent_usd >= summary.cost_usd  # what was under way at the kill is booked at its most


BOMB = Answer(body=gzip.compress(bytes(64 * 2**20)), headers={"content-encoding": "gzip"})
MOST = "at the most that it can have cost"


@pytest.mark.parametrize(
    ("answer", "reason", "booked"),
    [
        (error(500, "oops"), "HTTP 500", MOST),
        (error(408, "too slow"), "HTTP 408", MOST),
        (error(429, "slow down", retry_after="0"), "HTTP 429", "nothing"),
        (error(400, "the messages are bad"), "HTTP 400: the messages are bad", "nothing"),
        (Answer(status=502, body=completion(choices=None)), "HTTP 502", "as counted"),
        (Answer(body=completion(choices=None)), "the server's reply has no choices", "as counted"),
        (BOMB, "the reply is larger than 16 MiB", MOST),
        (dataclasses.replace(BOMB, status=400), "the reply is larger than 16 MiB", MOST),
        (Answer(body=b"\x1f\x8b no gzip", headers={"content-encoding": "gzip"}), "the connection broke off", MOST),
        (Answer(body=b"[" * 100_000), "the server's reply is nested too deeply", MOST),
        (Answer(status=400, body=b'{"a":' * 900 + b"1" + b"}" * 900), None, "nothing"),
        (
            Answer(status=307, headers={"location": "http://["}),
            "HTTP 307: a redirect, which is not followed; give the final base_url",
            "nothing",
        ),
        (error(400, "no " * 66 + CANARY), None, "nothing"),
    ],
)
def test_a_call_that_fails_is_booked_by_what_is_known_and_stops_nothing(
    tmp_path: Path, answer: Answer, reason: str | None, booked: str
) -> None:
    with serving(lambda n, request: answer if n == 0 else GOOD) as server:
        summary = judge(tmp_path, server, max_attempts=1)
    assert (summary.num_judged, len(server.requests)) == (3, 4)
    (said,) = summary.failures
    assert reason in (None, said)
    assert "sk-" not in said
    counted, cost = (300 * 10 + 20 * 30) / 1e6, summary.spent_usd - (summary.cost_usd or 0.0)
    if booked == MOST:
        assert cost > counted
    else:
        assert cost == pytest.approx(counted if booked == "as counted" else 0.0)


@pytest.mark.parametrize("number", [-5, 20.5, 10**30, None, "20", True, [20], 10**8, float("inf"), float("nan")])
def test_a_count_that_can_be_none_leaves_the_call_at_its_most(tmp_path: Path, number: Any) -> None:
    with serving(
        lambda n, request: Answer(body=completion(usage={"prompt_tokens": 300, "completion_tokens": number}))
    ) as server:
        summary = judge(tmp_path, server, num_questions=1)
    assert (summary.num_judged, summary.cost_usd, len(server.requests)) == (2, None, 2)
    assert summary.spent_usd > 2 * (300 * 10 + 20 * 30) / 1e6


def test_a_batch_follows_no_redirect_either(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as other, serving_batches() as server:
        moved = Answer(status=308, headers={"location": f"{other.url}/files"})
        server.fault = lambda method, path, n: moved
        summary = judge(tmp_path, server, batch=True, max_attempts=1)
    assert (other.requests, summary.spent_usd) == ([], 0.0)
    assert summary.stopped is not None
    assert "a redirect, which is not followed" in summary.stopped
