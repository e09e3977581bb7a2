"""A chat server on loopback that answers by a script, and a small tournament to put before it."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from eval.judging.options import ApiOptions, JudgeOptions
from eval.judging.prompts import Mode

CANARY = "sk-canary-7d1f0c52e9"
PRICES = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_completion_tokens": 30.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server sends."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut_bytes: int | None = None  # close after so many, having promised all
    seconds_per_byte: float = 0.0


def completion(content: str | None = "Fine.\n1", **changes: Any) -> bytes:
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    finish = changes.pop("finish_reason", "stop")
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "judge-2024",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
    }
    return json.dumps({**body, **changes}).encode()


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "x", "code": code}}).encode()
    return Answer(status=status, body=body, headers={key.replace("_", "-"): value for key, value in headers.items()})


Server = TypeVar("Server", bound="ScriptedServer")
GOOD = Answer(body=completion())


class ScriptedServer(ThreadingHTTPServer):
    """Counts requests and answers each by the script."""

    daemon_threads = True

    def __init__(self, script: Callable[[int, dict[str, Any]], Answer], handler: "type[Handler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.num_active = self.max_active = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up on slow answers: no traceback for that."""


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append(request)
            server.times.append(time.monotonic())
            server.keys.add(self.headers["authorization"])
            server.num_active += 1
            server.max_active = max(server.max_active, server.num_active)
        try:
            self._send(server.script(number, request))
        finally:
            with server.lock:
                server.num_active -= 1

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"content-type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        body = answer.body if answer.cut_bytes is None else answer.body[: answer.cut_bytes]
        if not answer.seconds_per_byte:
            self.wfile.write(body)
        for position in range(len(body) if answer.seconds_per_byte else 0):
            self.wfile.write(body[position : position + 1])
            self.wfile.flush()
            time.sleep(answer.seconds_per_byte)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class BatchServer(ScriptedServer):
    """The files and batches endpoints; chat completions as its parent. Each batch is final at its third look."""

    def __init__(self) -> None:
        super().__init__(lambda number, request: GOOD, BatchHandler)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.num_polls = 2  # looks at a batch before it is final
        self.final = "completed"
        self.refusal = "Enqueued token limit reached"  # of a batch that failed as a whole
        self.line: Callable[[int, dict[str, Any]], str | None] = lambda number, request: output_line(request)
        self.fault: Callable[[str, str, int], Answer | None] = lambda method, path, number: None
        self.calls: list[tuple[str, str]] = []

    def handle_call(self, method: str, path: str, body: bytes) -> Answer:
        """One call of the Batch API."""
        number = self.calls.count((method, path))
        self.calls.append((method, path))
        answer = self.fault(method, path, number)
        if answer is not None and answer.status != 599:
            return answer
        made = self._answer(method, path, body)
        return made if answer is None else dataclasses.replace(answer, status=500)  # 599: done, and not said

    def _answer(self, method: str, path: str, body: bytes) -> Answer:
        if (method, path) == ("POST", "files"):
            lines = [line for line in body.split(b"\n") if line.startswith(b'{"custom_id"')]
            return _json({"id": self._file(b"\n".join(lines)), "object": "file"})
        if (method, path) == ("POST", "batches"):
            wanted = json.loads(body)
            batch = {
                "id": f"batch_{len(self.batches)}",
                "object": "batch",
                "status": "in_progress",
                "polls": 0,
                **wanted,
            }
            self.batches[batch["id"]] = batch
            return _json(batch)
        if (method, path) == ("GET", "batches"):
            return _json({"object": "list", "data": list(self.batches.values())[::-1], "has_more": False})
        kind, _, name = path.partition("/")
        if kind == "batches":
            return _json(self._look(name)) if name in self.batches else error(404, "no such batch")
        return Answer(body=self.files[name.removesuffix("/content")])

    def _look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        requests = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        batch["polls"] += 1
        batch["request_counts"] = {"total": len(requests), "completed": 0, "failed": 0}
        if batch["polls"] > self.num_polls and batch["status"] == "in_progress":
            batch["status"] = self.final
            lines = [line for n, r in enumerate(requests) if (line := self.line(n, r)) is not None]
            batch["output_file_id"] = self._file("\n".join(lines).encode()) if lines else None
            if self.final == "failed":
                batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": self.refusal}]}
        return batch

    def _file(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def num_asked(self) -> list[int]:
        """Requests in each batch."""
        return [len(self.files[batch["input_file_id"]].splitlines()) for batch in self.batches.values()]


class BatchHandler(Handler):
    server: BatchServer

    def do_GET(self) -> None:
        self._call("GET")

    def do_POST(self) -> None:
        if self.path.endswith("/chat/completions"):
            super().do_POST()
        else:
            self._call("POST")

    def _call(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.split("?")[0].removeprefix("/v1/")
        with self.server.lock:
            self.server.keys.add(self.headers["authorization"])
            answer = self.server.handle_call(method, path, body)
        self._send(answer)


def output_line(request: dict[str, Any], body: bytes | None = None, status: int = 200) -> str:
    """One line of a batch's output file."""
    reply = json.loads(completion() if body is None else body)
    response = {"status_code": status, "request_id": "r", "body": reply}
    return json.dumps({"id": "x", "custom_id": request["custom_id"], "response": response, "error": None})


def _json(value: Any) -> Answer:
    return Answer(body=json.dumps(value).encode())


@contextmanager
def serving_batches() -> Iterator[BatchServer]:
    with running(BatchServer()) as server:
        yield server


@contextmanager
def serving(script: Callable[[int, dict[str, Any]], Answer]) -> Iterator[ScriptedServer]:
    with running(ScriptedServer(script)) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def options_in(folder: Path, url: str, num_questions: int = 2, mode: Mode = Mode.pairwise, **api: Any) -> JudgeOptions:
    """Two systems, so two matches a question."""
    questions, answers = folder / "questions.jsonl", folder / "answers.jsonl"
    ids = range(1, num_questions + 1)
    questions.write_text("".join(json.dumps({"question_id": n, "text": f"Question {n}?"}) + "\n" for n in ids))
    rows = [{"question_id": n, "system": name, "answer": f"{name} on {n}"} for name in ("ann", "bob") for n in ids]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "model": "judge",
        "base_url": url,
        "key_variable": "JUDGE_TEST_KEY",
        "num_concurrent": 1,
        "backoff_seconds": 0.01,
        "request_timeout_seconds": 5.0,
        **PRICES,
        **api,
    }
    return JudgeOptions(
        answers=(answers,),
        questions=questions,
        tournament=folder / "tournament",
        judge=ApiOptions(**settings),
        mode=mode,
        reference="bob" if mode is Mode.relative else None,
    )
