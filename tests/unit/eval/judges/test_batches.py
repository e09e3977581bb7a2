"""A batch judge by hand, on a server of which only the answers are played: what is booked, asked, said and kept."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.judges import batch
from eval.judges.batch import BatchJudge
from eval.judges.batch_server import BatchState, NotMade
from eval.judges.batch_store import BatchRequest, BatchStore
from eval.judges.request import NO_LIMIT
from eval.judging.matches import Judgment
from eval.judging.options import ApiOptions
from eval.judging.prompts import Mode, own_prompts
from eval.judging.store import JudgmentStore, settings_sha256
from tests.builders import a_match

MATCHES = [a_match("one", text) for text in ("two", "three", "four")]
PRICED = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_completion_tokens": 30.0}
BODY = {"choices": [{"message": {"content": "2"}}], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}


class Played:
    """Answers as `answer` has it for each request of a batch; `ends` are the states that batches end with, in turn."""

    def __init__(self, *ends: Any, answer: Any = None, known: str | None = None) -> None:
        self.ends, self.known = list(ends), known
        self.answer = answer or (lambda digest, body: {"response": {"status_code": 200, "body": BODY}})
        self.asked: list[list[dict[str, Any]]] = []
        self.refuses = False

    def __call__(self, options: ApiOptions, key: str) -> "Played":
        assert key == "secret"
        return self

    def __enter__(self) -> "Played":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def find(self, booking: str) -> str | None:
        return self.known

    def upload(self, booking: str, lines: Iterable[str]) -> str:
        self.asked.append([json.loads(line) for line in lines])
        return f"file_{len(self.asked)}"

    def create(self, booking: str, file_id: str) -> str:
        if self.refuses:
            raise NotMade("no batch could be made: secret")
        return file_id.replace("file", "batch")

    def state(self, batch_id: str) -> BatchState | None:
        end = self.ends.pop(0) if self.ends else "completed"
        if not isinstance(end, str):
            return end if end is None else replace(end, batch_id=batch_id)
        return state(end, files=(batch_id,))

    def lines(self, file_id: str) -> list[str]:
        requests = self.asked[int(file_id[-1]) - 1] if self.asked else []
        answers = [(r["custom_id"], self.answer(r["custom_id"], r["body"])) for r in requests]
        return [a if isinstance(a, str) else json.dumps({"custom_id": d, **a}) for d, a in answers if a is not None]


def state(status: str, **facts: Any) -> BatchState:
    given = {"batch_id": "b", "num_done": 1, "num_requests": 3, "files": (), "errors": "", **facts}
    return BatchState(status=status, **given)


class Run:
    """One judge in a folder, what it said, kept and failed, and what the calls were booked as."""

    def __init__(self, folder: Path, server: Played, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        monkeypatch.setattr(batch, "BatchServer", server)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        self.slept: list[float] = []
        monkeypatch.setattr(batch.time, "sleep", self.slept.append)
        self.said: list[str] = []
        self.kept: list[Judgment] = []
        with JudgmentStore(folder) as store:
            chosen = ApiOptions(model="m", batch=True, batch_poll_seconds=7.0, **{**PRICED, **options})
            self.judge = BatchJudge(chosen, own_prompts(Mode.pairwise), store, self.said.append)
            self.failures = self.judge.judge(MATCHES, self.kept.append)
            rows = store.connection.execute("SELECT outcome, cost_usd FROM calls ORDER BY call_id")
            self.calls = [tuple(row) for row in rows]
            self.is_waiting = self.judge.is_waiting
            self.batches = [row[0] for row in store.connection.execute("SELECT outcome FROM batches ORDER BY rowid")]
        assert self.judge._key == ""


def test_a_batch_is_asked_waited_for_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = (state("validating"), state("validating"), state("in_progress", num_done=2))
    server = Played(*looks)
    run = Run(tmp_path, server, monkeypatch)
    assert [(j.verdict, j.num_prompt_tokens, j.cost_usd) for j in run.kept] == [(2, 100, 0.00065)] * 3
    assert (run.failures, run.judge.stopped, run.is_waiting) == ([], None, False)
    assert run.calls == [("batch: completed", 0.00065)] * 3
    assert run.said == [
        "batch batch_1: validating, 1 of 3 done (may be left: the same command goes on)",
        "batch batch_1: in_progress, 2 of 3 done (may be left: the same command goes on)",
        "batch batch_1: completed",
    ]
    assert run.slept == [7.0, 7.0, 7.0]
    (lines,) = server.asked
    assert [line["custom_id"] for line in lines] == [run.judge.prompt_sha256(match) for match in MATCHES]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}


def test_batches_are_as_large_as_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_REQUESTS", 2)
    server = Played()
    assert len(Run(tmp_path / "a", server, monkeypatch).kept) == 3
    assert [len(lines) for lines in server.asked] == [2, 1]
    size = sum(len(json.dumps(line)) + 1 for line in server.asked[0])
    monkeypatch.setattr(batch, "MAX_REQUESTS", 3)
    for most, sizes in ((size, [2, 1]), (size - 1, [1, 1, 1]), (1, [1, 1, 1])):
        monkeypatch.setattr(batch, "MAX_FILE_BYTES", most)
        server = Played()
        Run(tmp_path / f"b{most}", server, monkeypatch)
        assert [len(lines) for lines in server.asked] == sizes


def test_a_budget_takes_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Played()
    run = Run(tmp_path / "a", server, monkeypatch, budget_usd=0.0005)
    assert (server.asked, run.kept, run.batches) == ([], [], [])
    assert str(run.judge.stopped).startswith("budget: 0.0000 of 0.0005 USD are spent")
    server = Played(answer=lambda digest, body: {"response": {"status_code": 200, "body": {**BODY, "usage": None}}})
    run = Run(tmp_path / "b", server, monkeypatch, budget_usd=0.045)
    assert [len(lines) for lines in server.asked] == [2]  # some 0.02 each at most, and no bill is known
    assert [j.cost_usd for j in run.kept] == [None, None]
    assert str(run.judge.stopped).startswith("budget: 0.0")


def test_what_a_batch_has_no_line_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def but_one(digest: str, body: Any) -> Any:
        return None if "three" in body["messages"][1]["content"] else Played().answer(digest, body)

    for end, cost in (("completed", None), ("expired", 0.0), ("cancelled", 0.0)):
        run = Run(tmp_path / end, Played(end, answer=but_one), monkeypatch)
        assert [(f.question_id, f.system_a, f.reason) for f in run.failures] == [
            ("Why?", "ann", f"the {end} batch has no line for it")
        ]
        assert [call[1] for call in run.calls] == [0.00065, cost, 0.00065]
        assert (len(run.kept), run.batches) == (2, [end])


def test_a_batch_that_failed_or_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "a", Played(state("failed", errors="too many secret")), monkeypatch)
    assert run.judge.stopped == "batch batch_1 failed: too many [key]"
    assert (run.calls, run.kept) == ([("batch: failed", 0.0)] * 3, [])
    assert Run(tmp_path / "b", Played(state("failed")), monkeypatch).judge.stopped == (
        "batch batch_1 failed: the server gives no reason"
    )
    lost = Run(tmp_path / "c", Played(None), monkeypatch)
    assert str(lost.judge.stopped).startswith("batch batch_1: the server no longer knows it; its calls stay booked")
    assert (lost.calls, lost.said) == ([("batch: lost", None)] * 3, [])
    unread = Run(tmp_path / "d", Played(answer=lambda digest, body: "<html>"), monkeypatch)
    assert unread.judge.stopped == "batch batch_1: none of its 3 lines can be read; the next run tries again"
    assert (unread.calls, unread.is_waiting) == ([(None, None)] * 3, True)


def test_a_batch_that_is_not_made_is_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Played()
    server.refuses = True
    run = Run(tmp_path, server, monkeypatch)
    assert (run.judge.stopped, run.calls) == ("no batch could be made: [key]", [("batch: never made", 0.0)] * 3)
    assert (run.is_waiting, run.failures) == (False, [])


@pytest.mark.parametrize(("known", "outcomes"), [(None, ["never sent", "completed"]), ("batch_1", ["completed"] * 2)])
def test_batches_of_a_killed_run_are_collected(
    known: str | None, outcomes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ApiOptions(model="m", batch=True, **PRICED)  # type: ignore[arg-type]
    with JudgmentStore(tmp_path) as store:
        judge = BatchJudge(options, own_prompts(Mode.pairwise), store)
        digest = judge.prompt_sha256(MATCHES[0])
        assert not judge.is_waiting
        BatchStore(store).book(
            "m", settings_sha256(judge), [BatchRequest(prompt_sha256=digest, key=MATCHES[0].key, most_usd=0.5)]
        )
        assert judge.is_waiting
    server = Played(known=known)
    if known:
        server.asked.append([{"custom_id": digest, "body": {}}])
    run = Run(tmp_path, server, monkeypatch)
    assert run.batches == outcomes
    assert [len(lines) for lines in server.asked] == ([1, 2] if known else [3])
    assert run.calls[0] == (f"batch: {outcomes[0]}", 0.00065 if known else 0.0)
    assert len(run.kept) == 3


def test_each_line_is_kept_once_and_of_this_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Played()
    plain = server.lines
    monkeypatch.setattr(
        server, "lines", lambda file_id: [*plain(file_id), *plain(file_id), '{"custom_id": "x", "error": {"a": 1}}']
    )
    assert len(Run(tmp_path, server, monkeypatch).kept) == 3


@pytest.mark.parametrize(
    ("line", "reason", "cost"),
    [
        ({"error": {"message": "late secret"}}, "late [key]", 0.0),
        ({"response": {"status_code": 503, "body": {"usage": BODY["usage"]}}}, "HTTP 503", 0.00065),
        ({"response": {"status_code": 503, "body": {}}}, "HTTP 503", None),
    ],
)
def test_calls_that_failed_on_the_server_are_left(
    line: Any, reason: str, cost: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Played(answer=lambda digest, body: line), monkeypatch)
    assert ([f.reason for f in run.failures], run.kept) == ([reason] * 3, [])
    assert run.calls == [("batch: completed", cost)] * 3


def test_a_line_that_is_no_completion_is_unparsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"response": {"status_code": 200, "body": {"note": "secret", "usage": BODY["usage"]}}}
    run = Run(tmp_path, Played(answer=lambda digest, body: line), monkeypatch)
    assert {(j.verdict, j.reason, j.cost_usd) for j in run.kept} == {(-1, "the server's reply has no choices", 0.00065)}
    assert all(j.raw_text is not None and "[key]" in j.raw_text and "secret" not in j.raw_text for j in run.kept)
    assert [(j.question_id, j.system_a, j.system_b) for j in run.kept] == [match.key for match in MATCHES]


def refused(field: str, **body: Any) -> Any:
    return {
        "response": {"status_code": 400, "body": {"error": {"message": f"Unsupported parameter: '{field}'", **body}}}
    }


def test_fields_that_a_server_refuses_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(field: str) -> Any:
        return lambda digest, body: refused(field) if field in body else Played().answer(digest, body)

    server = Played(answer=answer("temperature"))
    assert len(Run(tmp_path / "a", server, monkeypatch).kept) == 3
    assert [["temperature" in line["body"] for line in lines] for lines in server.asked] == [[True] * 3, [False] * 3]
    for structured, num_batches, num_kept in ((None, 3, 3), (True, 1, 0), (False, 1, 3)):
        server = Played(answer=answer("response_format"))
        run = Run(tmp_path / f"b{structured}", server, monkeypatch, structured=structured)
        assert (len(server.asked), len(run.kept), len(run.failures)) == (num_batches, num_kept, 3 - num_kept)
    server = Played(answer=lambda digest, body: refused("max_tokens"))
    run = Run(tmp_path / "c", server, monkeypatch)
    assert ([f.reason for f in run.failures], len(server.asked)) == ([NO_LIMIT] * 3, 2)


def test_a_file_that_is_refused_for_a_field_is_handed_in_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Played(state("failed", errors="Unknown field: seed"))
    run = Run(tmp_path, server, monkeypatch, seed=1)
    assert [{"seed" in line["body"] for line in lines} for lines in server.asked] == [{True}, {False}]
    assert (len(run.kept), run.failures, run.batches) == (3, [], ["failed", "completed"])


def test_bookings_by_hand(tmp_path: Path) -> None:
    with JudgmentStore(tmp_path) as store:
        batches = BatchStore(store)
        one, two = (
            batches.book(
                "j", "s", [BatchRequest(prompt_sha256=name, key=("q", "a", name), most_usd=0.5) for name in names]
            )
            for names in ("xy", "z")
        )
        assert (one.batch_id, store.spent_usd()) == (None, 1.5)
        batches.name(one, "batch_1")
        assert batches.unsettled("s") == [replace(one, batch_id="batch_1"), two]
        assert one.requests["y"][0] == ("q", "a", "y")
        assert batches.unsettled("other") == []
        batches.settle(one, "completed", {"x": 0.25, "y": None})
        assert (batches.unsettled("s"), store.spent_usd(), store.unknown_usd()) == ([two], 1.25, 1.0)
        rows = store.connection.execute("SELECT judge, batch_id, outcome, finished IS NULL FROM batches ORDER BY rowid")
        assert [tuple(row) for row in rows] == [("j", "batch_1", "completed", 0), ("j", None, None, 1)]
