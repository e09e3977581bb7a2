"""The judge by the Batch API: a real client against a server on loopback that speaks files and batches.

Nothing is paid twice, whatever is killed, cut or lost; the key is a canary that may appear nowhere.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval.__main__ import app
from eval.judges.tournament import estimate, run
from eval.judging.options import JudgeSummary
from eval.judging.store import JudgmentStore
from tests.servers.judge_server import (
    CANARY,
    GOOD,
    Answer,
    BatchServer,
    completion,
    error,
    options_in,
    output_line,
    serving,
    serving_batches,
)

REPOSITORY = Path(__file__).resolve().parents[3]
CALL = (300 * 10 + 20 * 30) / 1e6  # of a single call, in US dollars
BATCH = {"batch": True, "batch_poll_seconds": 0.01, "max_attempts": 3}


@pytest.fixture(autouse=True)
def canary_stays_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    monkeypatch.setenv("JUDGE_TEST_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    yield
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in caplog.text


def judge(folder: Path, server: BatchServer, **api: Any) -> JudgeSummary:
    summary = run(options_in(folder, server.url, **{**BATCH, **api}))
    assert CANARY not in str(summary)
    return summary


def reasons(folder: Path) -> dict[str, int]:
    with JudgmentStore(folder / "tournament") as store:
        found = [judgment.reason or "read" for _, judgment in store.judgments()]
    return {reason: found.count(reason) for reason in found}


def test_a_batch_costs_half_and_is_asked_once(tmp_path: Path) -> None:
    said: list[str] = []
    with serving_batches() as server:
        summary = run(options_in(tmp_path, server.url, **BATCH), say=said.append)
        again = judge(tmp_path, server)
        single = judge(tmp_path, server, batch=False)
    assert (summary.num_judged, summary.num_failed, summary.stopped) == (4, 0, None)
    assert (again.num_judged, again.num_reused, single.num_reused) == (0, 4, 4)
    assert (server.num_asked(), server.requests, server.keys) == ([4], [], {f"Bearer {CANARY}"})
    assert summary.cost_usd == summary.spent_usd == pytest.approx(4 * CALL / 2)
    assert said == [
        "batch batch_0: in_progress, 0 of 4 done (may be left: the same command goes on)",
        "batch batch_0: completed",
    ]
    requests = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert {(r["method"], r["url"]) for r in requests} == {("POST", "/v1/chat/completions")}
    assert {(r["body"]["temperature"], r["body"]["max_tokens"]) for r in requests} == {(0.2, 1024)}
    assert len(summary.output.read_text().splitlines()) == 5


def test_what_single_calls_judged_is_not_put_into_a_batch(tmp_path: Path) -> None:
    with serving_batches() as server:
        judge(tmp_path, server, batch=False, num_questions=1)
        summary = judge(tmp_path, server, num_questions=3)
    assert (len(server.requests), server.num_asked(), summary.num_reused) == (2, [4], 2)


def test_the_estimate_is_half(tmp_path: Path) -> None:
    whole = estimate(options_in(tmp_path, "http://127.0.0.1:1/v1"))
    half = estimate(options_in(tmp_path, "http://127.0.0.1:1/v1", **BATCH))
    assert whole.cost_usd is not None
    assert whole.max_cost_usd is not None
    assert (half.cost_usd, half.max_cost_usd) == (
        pytest.approx(whole.cost_usd / 2),
        pytest.approx(whole.max_cost_usd / 2),
    )
    assert (half.num_calls, half.batch) == (4, True)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from eval.judges.batch_server import BatchServer
from eval.judges.batch_store import BatchStore
from eval.judges.tournament import run
from tests.servers.judge_server import options_in
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
say = None
{where}
run(options_in(Path({folder!r}), {url!r}, batch=True, batch_poll_seconds=0.01), say=say)
"""


@pytest.mark.parametrize(
    ("where", "num_batches"),
    [("say = die", 1), ("BatchStore.name = die", 1), ("BatchServer.create = die", 1), ("BatchStore.settle = die", 1)],
    ids=["while it waits", "before the id is known", "before the batch is made", "before it is settled"],
)
def test_a_killed_run_is_gone_on_with_and_pays_nothing_twice(tmp_path: Path, where: str, num_batches: int) -> None:
    with serving_batches() as server:
        script = KILLED.format(root=str(REPOSITORY), folder=str(tmp_path), url=server.url, where=where)
        killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=dict(os.environ), check=False)
        assert killed.returncode == -signal.SIGKILL
        if where == "say = die":
            with pytest.raises(ValueError, match=r"batch batch_0 of judge is under way.*--batch"):
                judge(tmp_path, server, batch=False)
        summary = judge(tmp_path, server)
    assert server.num_asked() == [4] * num_batches
    assert summary.num_failed == 0
    assert summary.spent_usd == pytest.approx(4 * CALL / 2)
    assert len(summary.output.read_text().splitlines()) == 5


def test_an_expired_batch_keeps_what_was_answered_and_the_next_run_asks_the_rest(tmp_path: Path) -> None:
    with serving_batches() as server:
        server.final = "expired"
        server.line = lambda n, request: output_line(request) if n < 3 else None
        summary = judge(tmp_path, server)
        assert (summary.num_judged, summary.num_failed) == (3, 1)
        assert summary.failures == {"the expired batch has no line for it": 1}
        assert summary.spent_usd == pytest.approx(3 * CALL / 2)
        server.final = "completed"
        server.line = lambda n, request: output_line(request)
        mended = judge(tmp_path, server)
    assert (server.num_asked(), mended.num_reused, mended.num_failed) == ([4, 1], 3, 0)


def test_a_refused_batch_ends_the_run_with_its_reason_and_costs_nothing(tmp_path: Path) -> None:
    with serving_batches() as server:
        server.final, server.line = "failed", lambda n, request: None
        summary = judge(tmp_path, server)
        assert summary.stopped == "batch batch_0 failed: Enqueued token limit reached"
        assert (summary.num_failed, summary.num_unasked, summary.spent_usd) == (0, 4, 0.0)
        server.final, server.line = "completed", lambda n, request: output_line(request)
        assert judge(tmp_path, server).num_judged == 4


def test_a_batch_that_is_refused_for_a_field_is_made_again_without_it(tmp_path: Path) -> None:
    def mend(method: str, path: str, n: int) -> None:
        if method == "POST" and path.endswith("batches") and server.batches:
            server.final = "completed"

    with serving_batches() as server:
        server.final, server.refusal, server.fault = "failed", "Unknown parameter: 'temperature'", mend
        server.line = lambda n, request: None if server.final == "failed" else output_line(request)
        summary = judge(tmp_path, server)
    assert (summary.num_judged, summary.num_failed, summary.stopped) == (4, 0, None)
    assert server.num_asked() == [4, 4]
    bodies = [
        json.loads(line)["body"]
        for file in server.files.values()
        for line in file.splitlines()
        if b'"body": {"m' in line
    ]
    assert ["temperature" in body for body in bodies] == [True] * 4 + [False] * 4
    assert summary.spent_usd == pytest.approx(4 * CALL / 2)


def test_lines_that_cannot_be_read_are_unparsed_and_failed_calls_are_left(tmp_path: Path) -> None:
    def line(n: int, request: dict[str, Any]) -> str:
        whole = output_line(request)
        no_choices = output_line(request, completion(choices=None))
        overloaded = output_line(request, b'{"error": {"message": "overloaded"}}', status=503)
        expired = json.dumps({"custom_id": request["custom_id"], "response": None, "error": {"code": "batch_expired"}})
        refused = output_line(request, completion(None, refusal="No."))
        other = json.dumps({"custom_id": "0" * 64, "response": None})
        return [whole, whole[:-20], no_choices, overloaded, expired, refused, "<html>", other][n]

    with serving_batches() as server:
        server.line = line
        summary = judge(tmp_path, server, num_questions=4)
        assert (summary.num_judged, summary.num_unparsed, summary.num_failed) == (4, 3, 4)
        assert summary.failures == {
            "HTTP 503": 1,
            "batch_expired": 1,
            "the completed batch has no line for it": 2,
        }
        assert reasons(tmp_path) == {
            "read": 1,
            "the line in the batch's output can't be read": 1,
            "the server's reply has no choices": 1,
            "the judge refused": 1,
        }
        assert summary.spent_usd > 2 * CALL / 2  # what may have been paid is booked at its most
        server.line = lambda n, request: output_line(request)
        mended = judge(tmp_path, server, num_questions=4)
    assert (server.num_asked(), mended.num_judged, mended.num_failed) == ([8, 4], 4, 0)


def test_an_output_without_one_readable_line_is_fetched_again_by_the_next_run(tmp_path: Path) -> None:
    html = Answer(body=b"<html>Sign in</html>")
    with serving_batches() as server:
        server.fault = lambda method, path, n: html if path.endswith("/content") and n == 0 else None
        summary = judge(tmp_path, server)
        assert summary.stopped is not None
        assert "the next run tries again" in summary.stopped
        again = judge(tmp_path, server)
    assert (server.num_asked(), again.num_judged, again.num_failed) == ([4], 4, 0)


def test_the_budget_is_a_hard_stop_and_batches_are_as_large_as_it_allows(tmp_path: Path) -> None:
    with serving_batches() as server:
        most = estimate(options_in(tmp_path, server.url, num_questions=10, **BATCH)).max_cost_usd
        assert most is not None
        budget = most / 20 * 1.5 + 5 * CALL / 2
        summary = judge(tmp_path, server, num_questions=10, budget_usd=budget)
        again = judge(tmp_path, server, num_questions=10, budget_usd=budget)
    assert summary.stopped is not None
    assert summary.stopped.startswith("budget")
    assert summary.spent_usd <= budget
    assert 1 < sum(server.num_asked()) == summary.num_judged < 20
    assert len(server.num_asked()) > 1  # as the first cost less than its most, more could follow
    assert again.num_judged == 0


MADE_AND_NOT_SAID = Answer(status=599, body=b"{}")


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("POST", "batches", MADE_AND_NOT_SAID),
        ("POST", "batches", Answer(body=b"<html>")),
        ("POST", "batches", error(429, "slow down", retry_after="0.01")),
        ("POST", "files", error(500, "oops")),
        ("GET", "batches/batch_0", error(502, "oops")),
        ("GET", "batches/batch_0", Answer(body=b"<html>", headers={"content-type": "text/html"})),
        ("GET", "batches/batch_0", Answer(body=b'{"status": "x"}' + b" " * 50, cut_bytes=9)),
        ("GET", "files/file-1/content", error(500, "oops")),
    ],
)
def test_faults_on_the_way_are_tried_again_and_no_batch_is_made_twice(
    tmp_path: Path, method: str, path: str, answer: Answer
) -> None:
    with serving_batches() as server:
        server.fault = lambda m, p, n: answer if (m, p, n) == (method, path, 0) else None
        summary = judge(tmp_path, server)
    assert (summary.num_judged, summary.stopped, server.num_asked()) == (4, None, [4])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (error(404, "Not Found"), "could not be uploaded: no such model or address"),
        (error(401, f"bad key {CANARY}"), "the key was refused"),
        (error(429, "x", "insufficient_quota"), "quota is used up"),
        (error(429, "slow down", retry_after="300"), "300 s"),
    ],
)
def test_a_server_that_takes_no_file_costs_nothing_and_single_calls_go_on(
    tmp_path: Path, fault: Answer, words: str
) -> None:
    with serving_batches() as server:
        server.fault = lambda method, path, n: fault if path == "files" else None
        summary = judge(tmp_path, server)
        assert summary.stopped is not None
        assert words in summary.stopped
        assert (summary.spent_usd, server.batches) == (0.0, {})
        assert judge(tmp_path, server, batch=False).num_judged == 4


def test_a_batch_that_the_server_forgot_is_said_and_stays_booked(tmp_path: Path) -> None:
    with serving_batches() as server:
        server.fault = lambda method, path, n: error(404, "no such batch") if path == "batches/batch_0" else None
        summary = judge(tmp_path, server)
        assert summary.stopped is not None
        assert "no longer knows it" in summary.stopped
        assert summary.spent_usd > 4 * CALL / 2
        assert judge(tmp_path, server).num_judged == 4


def test_what_the_server_does_not_know_is_left_out_of_a_further_batch(tmp_path: Path) -> None:
    def line(n: int, request: dict[str, Any]) -> str:
        if "response_format" in request["body"]:
            return output_line(request, b'{"error": {"message": "response_format is not supported"}}', status=400)
        return output_line(request)

    with serving_batches() as server:
        server.line = line
        summary = judge(tmp_path, server)
        assert (summary.num_judged, summary.num_failed, server.num_asked()) == (4, 0, [4, 4, 4])
        strict = judge(tmp_path, server, model="other", structured=True)
    assert (strict.num_failed, server.num_asked()) == (4, [4, 4, 4, 4])


def test_the_command_hands_in_a_batch_and_refuses_one_for_a_local_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_in(tmp_path, "")
    common = [str(tmp_path / "answers.jsonl"), "--tournament", str(tmp_path / "t"), "--batch"]
    common += ["--questions", str(tmp_path / "questions.jsonl")]
    refused = CliRunner().invoke(app, ["judge", *common])
    assert refused.exit_code == 2
    assert "--batch: local:smollm2 is no API model" in " ".join(refused.stderr.split())
    monkeypatch.setattr("eval.judges.batch.time.sleep", lambda seconds: None)
    with serving_batches() as server:
        api = ["--judge", "judge-2024", "--base-url", server.url, "--key-variable", "JUDGE_TEST_KEY"]
        prices = ["--usd-per-million-prompt-tokens", "10", "--usd-per-million-completion-tokens", "30"]
        done = CliRunner().invoke(app, ["judge", *common, *api, *prices])
    assert done.exit_code == 0
    assert "at the batch price" in " ".join(done.stderr.split())
    assert "swapped order: of 2 pairs 0 keep their verdict, 2 reverse it" in " ".join(done.stdout.split())
    assert CANARY not in done.output


def test_single_calls_need_no_batch_endpoint(tmp_path: Path) -> None:
    with serving(lambda n, request: GOOD) as server:
        assert run(options_in(tmp_path, server.url)).num_judged == 4
