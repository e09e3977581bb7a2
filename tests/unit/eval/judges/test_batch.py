"""A batch's calls and lines by hand: what is asked for, what is tried again, and what each line of an output says."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from eval.judges import batch_server
from eval.judges.batch import _parsed
from eval.judges.batch_server import BatchServer, NotMade, _errors
from eval.judges.request import Reply
from eval.judges.retry import Fault, RunStopped, Usage
from eval.judging.options import ApiOptions

DIGEST = "0" * 64


def reply(content: Any) -> Any:
    """A raw reply of the client."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = httpx.Response(200, headers={"content-type": "text/html; x"}, content=body)
    return SimpleNamespace(http_response=response, headers=response.headers)


def refusal(status: int, headers: dict[str, str] | None = None) -> openai.APIStatusError:
    request = httpx.Request("POST", "http://x")
    response = httpx.Response(status, headers=headers, json={}, request=request)
    return openai.APIStatusError("no", response=response, body={"message": "no"})


class Calls:
    """A server of which only the calls are played: each gives or raises the next of `answers`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any, **options: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.slept: list[float] = []
        self._answers = list(answers)
        raw = SimpleNamespace(create=self.ask, list=self.ask, retrieve=self.ask)
        played = SimpleNamespace(with_raw_response=raw, content=self.fetch)
        monkeypatch.setattr(batch_server, "open_client", lambda *_: SimpleNamespace(batches=played, files=played))
        self.server = BatchServer(ApiOptions(model="m", **{"max_attempts": 3, **options}), "key")
        monkeypatch.setattr(batch_server.time, "sleep", self.slept.append)

    async def ask(self, *args: Any, **options: Any) -> Any:
        self.asked.append(options)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return reply(answer)

    async def fetch(self, file_id: str) -> Any:
        return SimpleNamespace(content=(await self.ask(file_id)).http_response.content)


def page(*batches: Any, has_more: bool = False) -> dict[str, Any]:
    return {"data": list(batches), "has_more": has_more}


def named(number: int, booking: str = "other") -> dict[str, Any]:
    return {"id": f"batch_{number}", "metadata": {"booking": booking}}


def test_a_booking_is_looked_for_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = ("text", {"id": "batch_0"}, {"id": "batch_1", "metadata": ["mine"]}, named(2))
    calls = Calls(monkeypatch, page(*strange, has_more=True), page(named(3), named(4, "mine")))
    assert calls.server.find("mine") == "batch_4"
    assert calls.asked == [{"limit": 100}, {"limit": 100, "after": "batch_2"}]


@pytest.mark.parametrize(
    "last", [page(named(1)), page(has_more=True), page("text", has_more=True), page({"id": 7}, has_more=True)]
)
def test_a_booking_that_is_on_no_page_was_never_made(last: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, last)
    assert calls.server.find("mine") is None
    assert len(calls.asked) == 1


def test_at_most_ten_pages_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, *[page(named(n), has_more=True) for n in range(11)])
    assert calls.server.find("mine") is None
    assert [options.get("after") for options in calls.asked] == [None, *[f"batch_{n}" for n in range(9)]]
    with pytest.raises(RunStopped, match="doesn't list its batches"):
        Calls(monkeypatch, {"data": None}).server.find("mine")


def test_a_batch_is_made_of_a_file_and_carries_its_booking(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, {"id": "batch_7"})
    assert calls.server.create("mine", "file-1") == "batch_7"
    assert calls.asked == [
        {
            "input_file_id": "file-1",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"booking": "mine"},
        }
    ]


@pytest.mark.parametrize("failure", [{"object": "batch"}, b"<html>", refusal(500), refusal(503), TimeoutError()])
def test_a_batch_that_may_have_been_made_is_looked_for_before_it_is_made_again(
    failure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Calls(monkeypatch, failure, page(named(5, "mine")))
    assert found.server.create("mine", "file-1") == "batch_5"
    assert (len(found.asked), found.slept) == (2, [])
    again = Calls(monkeypatch, failure, page(), {"id": "batch_6"}, backoff_seconds=2.0)
    assert again.server.create("mine", "file-1") == "batch_6"
    assert [2.0 <= seconds < 3.0 for seconds in again.slept] == [True]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ({"object": "batch"}, "no batch could be made: the server's reply to the new batch has no id"),
        (b"<html>", r"no batch could be made: the server's reply is no JSON object \(text/html\)"),
        (refusal(500), "no batch could be made: HTTP 500"),
    ],
)
def test_a_batch_that_can_not_be_made_is_tried_as_often_as_is_said(
    failure: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, *[failure, page()] * 3, backoff_seconds=2.0)
    with pytest.raises(NotMade, match=words):
        calls.server.create("mine", "file-1")
    assert (len(calls.asked), len(calls.slept)) == (6, 2)
    first, second = calls.slept
    assert 2.0 <= first < 3.0
    assert 4.0 <= second < 6.0


def test_what_a_server_refuses_is_not_made_and_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, refusal(400))
    with pytest.raises(NotMade, match="no batch could be made: HTTP 400: no"):
        calls.server.create("mine", "file-1")
    assert len(calls.asked) == 1
    busy = Calls(monkeypatch, refusal(429, {"retry-after": "7"}), page(), {"id": "batch_8"})
    assert busy.server.create("mine", "file-1") == "batch_8"
    assert busy.slept == [7.0]
    with pytest.raises(RunStopped, match="a wait of 61 s, more than max_wait_seconds=60"):
        Calls(monkeypatch, refusal(429, {"retry-after": "61"}), page()).server.create("mine", "file-1")


def test_files_are_uploaded_under_their_booking(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, refusal(500), {"id": "file-9"}, backoff_seconds=0.0)
    assert calls.server.upload("mine", ["a", "ü"]) == "file-9"
    assert calls.asked[1:] == [{"file": ("mine.jsonl", "a\nü\n".encode()), "purpose": "batch"}]
    with pytest.raises(NotMade, match="gave it no id; has it a Batch API"):
        Calls(monkeypatch, {"id": ""}).server.upload("mine", [])
    with pytest.raises(NotMade, match="could not be uploaded: HTTP 413: no"):
        Calls(monkeypatch, refusal(413)).server.upload("mine", [])


def test_the_state_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(answer: Any) -> Any:
        return Calls(monkeypatch, answer).server.state("batch_1")

    counts = {"completed": 3, "failed": 2, "total": 9}
    files = {"output_file_id": "file-1", "error_file_id": "file-2"}
    errors = {"data": [{"message": "too key long"}, {"code": "b"}, {"message": "too key long"}, {}, "text"]}
    found = state({"status": "failed", "request_counts": counts, "errors": errors, **files})
    assert (found.batch_id, found.status, found.num_done, found.num_requests) == ("batch_1", "failed", 5, 9)
    assert (found.files, found.errors) == (("file-1", "file-2"), "too [key] long; b; no words")
    assert found.is_final
    bare = state({"status": "in_progress", "request_counts": {"completed": True, "total": "9"}, "error_file_id": "e"})
    assert (bare.num_done, bare.num_requests, bare.files, bare.errors, bare.is_final) == (0, 0, ("e",), "", False)
    assert state(refusal(404)) is None
    with pytest.raises(RunStopped, match="batch batch_1: the server's reply has no status"):
        state({"id": "batch_1"})
    assert _errors({"data": "text"}) == _errors(None) == ""


def test_the_lines_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, refusal(502), b'{"a": 1}\n\n \n\xff\xe2\x80\xa8b\n', backoff_seconds=0.0)
    assert calls.server.lines("file-1") == ['{"a": 1}', "\ufffd\u2028b"]
    assert len(calls.asked) == 2


@pytest.mark.parametrize(
    ("failure", "num_asked", "words"),
    [
        (refusal(404), 1, "no such model or address"),
        (refusal(400), 1, "HTTP 400: no"),
        (refusal(503), 3, "HTTP 503"),
        (TimeoutError(), 3, "time-out"),
        (RecursionError(), 1, "nested too deeply"),
        (b"<html>", 3, "no JSON object"),
        (openai.APIConnectionError(request=httpx.Request("GET", "http://x")), 3, "the connection broke off"),
    ],
)
def test_calls_that_may_be_repeated(failure: Any, num_asked: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, *[failure] * 3, backoff_seconds=0.0)
    with pytest.raises(RunStopped, match=words):
        calls.server.find("mine")
    assert (len(calls.asked), len(calls.slept)) == (num_asked, num_asked - 1)


def line(**parts: Any) -> str:
    return json.dumps({"custom_id": DIGEST, **parts})


def answered(status: int, body: Any) -> str:
    return line(response={"status_code": status, "body": body}, error=None)


COUNTED = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
UNREAD = "the line in the batch's output can't be read"


@pytest.mark.parametrize(
    ("text", "digest", "expected"),
    [
        ("<html>", "", Fault(reason=UNREAD)),
        (line(response={"x": 1})[:-9], DIGEST, Fault(reason=UNREAD)),
        ("[1]", "", Fault(reason=UNREAD)),
        ('{"custom_id": 7}', "", Fault(reason=UNREAD)),
        (line(response=None, error={}), DIGEST, Fault(reason=UNREAD)),
        (line(error={"code": "batch_expired"}), DIGEST, Fault(reason="batch_expired", was_free=True)),
        (line(error={"message": "late", "code": "x"}), DIGEST, Fault(reason="late", was_free=True)),
        (line(error={"message": "", "code": "x"}), DIGEST, Fault(reason="x", was_free=True)),
        (line(error={"message": "", "code": 7}), DIGEST, Fault(reason="the server names no reason", was_free=True)),
        (answered(400, "bad"), DIGEST, Fault(reason="HTTP 400: bad", was_free=True)),
        (
            answered(400, {"error": {"message": "wrong", "param": "seed", "type": "unsupported"}}),
            DIGEST,
            Fault(reason="HTTP 400: wrong", was_free=True, adapt="seed"),
        ),
        (
            answered(503, {"error": {"message": "busy"}, **COUNTED}),
            DIGEST,
            Fault(reason="HTTP 503", retry=True, usage=Usage(num_prompt_tokens=7, num_completion_tokens=3)),
        ),
        (
            answered(429, {"message": "no", "code": "insufficient_quota"}),
            DIGEST,
            Fault(reason="the account's quota is used up (HTTP 429: no)", fatal=True, was_free=True),
        ),
        (
            answered(200, {"choices": [], **COUNTED}),
            DIGEST,
            Fault(
                reason="the server's reply has no choices",
                usage=Usage(num_prompt_tokens=7, num_completion_tokens=3),
            ),
        ),
    ],
)
def test_what_a_line_of_an_output_says(text: str, digest: str, expected: Fault) -> None:
    assert _parsed(text) == (digest, expected)


def test_a_line_with_a_completion_is_its_reply() -> None:
    read: Callable[..., Any] = lambda **body: _parsed(answered(200, body))  # noqa: E731
    message = {"content": "1", "refusal": ""}
    assert read(choices=[{"message": message, "finish_reason": "stop"}], model="m", **COUNTED) == (
        DIGEST,
        Reply(text="1", refusal=None, finish_reason="stop", num_prompt_tokens=7, num_completion_tokens=3, model="m"),
    )
    bare = read(choices=[{"message": {"content": None, "refusal": "No."}, "finish_reason": 3}], model=3)[1]
    assert (bare.text, bare.refusal, bare.finish_reason, bare.model) == (None, "No.", None, None)
    assert (bare.num_prompt_tokens, bare.num_completion_tokens) == (None, None)
