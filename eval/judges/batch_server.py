"""The calls of an OpenAI-compatible server's Batch API, with retries: make a batch, watch it, fetch its lines.

A part of `eval.judges.batch`. Source: OpenAI's Batch API: a file of requests is uploaded, a batch made of it,
which ends within 24 hours as completed, failed, expired or cancelled; its output and error files have a line a request.
Answers are read as plain JSON, as servers send many things. Making a batch isn't repeated blindly: where it isn't
known whether the server has made it, it is looked for by its booking first, so that none is made, and paid, twice.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from openai import APIError

from eval.judges.client import MAX_OUTPUT_BYTES, open_client, within
from eval.judges.request import shown_reason
from eval.judges.retry import Fault, RunStopped, backoff_seconds, classify, load_json, too_long_a_wait
from eval.judging.options import ApiOptions

ENDPOINT: Final = "/v1/chat/completions"
WINDOW: Final = "24h"
BOOKING = "booking"  # key of a batch's metadata
PAGE = 100  # batches listed at once, the newest first
NUM_PAGES = 10
TRANSFER_SECONDS = 3600.0  # of a file of requests or replies, at most 1 GiB
FINAL = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """The state of a batch, as its server reports it."""

    batch_id: str
    status: str
    num_done: int
    num_requests: int
    files: tuple[str, ...]  # ids of the files with its lines
    errors: str  # why it failed as a whole

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended, so that nothing more will come."""
        return self.status in FINAL


class BatchServer:
    """A server's files and batches. Use as a context manager."""

    def __init__(self, options: ApiOptions, key: str) -> None:
        """Opens a client; nothing is sent yet.

        Args:
            options: the server, limits of time and attempts.
            key: the server's key.
        """
        self._client = open_client(key, options.base_url, options.request_timeout_seconds, MAX_OUTPUT_BYTES)
        self._options = options
        self._key = key
        self._spread = random.Random(0)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._runner as runner:
            runner.run(self._client.close())

    def upload(self, booking: str, lines: Iterable[str]) -> str:
        """Uploads the requests. -> the file's id.

        Raises:
            NotMade: the server won't, or can't be reached.
        """
        content = "".join(f"{line}\n" for line in lines).encode()
        upload = self._client.files.with_raw_response
        try:
            found = self._repeat(
                lambda: upload.create(file=(f"{booking}.jsonl", content), purpose="batch"), seconds=TRANSFER_SECONDS
            )
        except RunStopped as stop:
            raise NotMade(f"the file of requests could not be uploaded: {stop}") from stop
        file_id = _text(found, "id")
        if file_id is None:
            raise NotMade("the server took the file of requests and gave it no id; has it a Batch API?")
        return file_id

    def find(self, booking: str) -> str | None:
        """The id of the batch that was made for a booking; None where there is none.

        Raises:
            RunStopped: the server can't be asked.
        """
        after: dict[str, Any] = {}
        for _ in range(NUM_PAGES):
            page = self._repeat(partial(self._client.batches.with_raw_response.list, limit=PAGE, **after))
            batches = page.get("data")
            if not isinstance(batches, list):
                raise RunStopped("the server doesn't list its batches, so whether one was made can't be told")
            for batch in batches:
                metadata = batch.get("metadata") if isinstance(batch, dict) else None
                if isinstance(metadata, dict) and metadata.get(BOOKING) == booking:
                    return _text(batch, "id")
            last = _text(batches[-1], "id") if batches and isinstance(batches[-1], dict) else None
            if not page.get("has_more") or last is None:
                return None
            after = {"after": last}
        return None

    def state(self, batch_id: str) -> BatchState | None:
        """How far a batch is; None where the server doesn't know it.

        Raises:
            RunStopped: the server can't be asked.
        """
        found = self._repeat(lambda: self._client.batches.with_raw_response.retrieve(batch_id), may_be_gone=True)
        if not found:
            return None
        status = _text(found, "status")
        if status is None:
            raise RunStopped(f"batch {batch_id}: the server's reply has no status")
        counts = found.get("request_counts")
        counts = counts if isinstance(counts, dict) else {}
        return BatchState(
            batch_id=batch_id,
            status=status,
            num_done=sum(_count(counts.get(name)) for name in ("completed", "failed")),
            num_requests=_count(counts.get("total")),
            files=tuple(f for name in ("output_file_id", "error_file_id") if (f := _text(found, name)) is not None),
            errors=shown_reason(_errors(found.get("errors")), self._key),
        )

    def lines(self, file_id: str) -> list[str]:
        """The lines of a file.

        Raises:
            RunStopped: it can't be fetched.
        """
        found = self._retried(lambda: self._client.files.content(file_id), seconds=TRANSFER_SECONDS)
        return [line for line in found.content.decode("utf-8", "replace").split("\n") if line.strip()]

    def create(self, booking: str, file_id: str) -> str:
        """Makes a batch of an uploaded file. -> its id.

        Raises:
            NotMade: the server refuses it.
            RunStopped: it isn't known whether it was made.
        """
        create = self._client.batches.with_raw_response.create
        for attempt in range(1, self._options.max_attempts + 1):
            try:
                raw = self._call(
                    create(
                        input_file_id=file_id, endpoint=ENDPOINT, completion_window=WINDOW, metadata={BOOKING: booking}
                    )
                )
                made = _text(_object(raw), "id")
                fault = Fault(reason="the server's reply to the new batch has no id")
            except _NoJson as error:
                made, fault = None, Fault(reason=str(error))
            except (APIError, TimeoutError, RecursionError) as error:
                made, fault = None, classify(error)
                if getattr(error, "status_code", 500) < 500 and not fault.retry:
                    raise NotMade(self._not_made(fault)) from error
            made = made or self.find(booking)  # a call that failed may have made it all the same
            if made is not None:
                return made
            if attempt == self._options.max_attempts:
                raise NotMade(self._not_made(fault))
            self._wait(fault, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _not_made(self, fault: Fault) -> str:
        return f"no batch could be made: {shown_reason(fault.reason, self._key)}"

    def _call(self, call: Awaitable[Any], seconds: float | None = None) -> Any:
        return self._runner.run(within(seconds or self._options.request_timeout_seconds, call))

    def _repeat(
        self, call: Callable[[], Awaitable[Any]], may_be_gone: bool = False, seconds: float | None = None
    ) -> dict[str, Any]:
        """The JSON object that a call answers with; empty where it may be gone and is."""
        found: dict[str, Any] = self._retried(call, may_be_gone, seconds, _object)
        return found

    def _retried(
        self,
        call: Callable[[], Awaitable[Any]],
        may_be_gone: bool = False,
        seconds: float | None = None,
        read: Callable[[Any], Any] = lambda found: found,
    ) -> Any:
        """What a call that may be repeated gives; time-outs, 429, 5xx and broken connections are tried again."""
        for attempt in range(1, self._options.max_attempts + 1):
            try:
                return read(self._call(call(), seconds))
            except (APIError, TimeoutError, RecursionError) as error:
                if may_be_gone and getattr(error, "status_code", None) == 404:
                    return {}
                fault = classify(error)
            except _NoJson as error:
                fault = Fault(reason=str(error), retry=True)
            if not (fault.retry or "connect" in fault.reason) or attempt == self._options.max_attempts:
                raise RunStopped(shown_reason(fault.reason, self._key))
            self._wait(fault, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _wait(self, fault: Fault, attempt: int) -> None:
        """As long as the server asks for, within the limit."""
        seconds = fault.wait_seconds
        if seconds is None:
            seconds = backoff_seconds(attempt, self._options.backoff_seconds, self._spread.random())
        if seconds > self._options.max_wait_seconds:
            raise RunStopped(too_long_a_wait(seconds, self._options.max_wait_seconds))
        time.sleep(seconds)


class NotMade(RunStopped):
    """The server has no batch of this booking: nothing was asked, and nothing costs."""


class _NoJson(Exception):
    """A 200 that is no JSON object."""


def _object(raw: Any) -> dict[str, Any]:
    try:
        value = load_json(raw.http_response.content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        kind = raw.headers.get("content-type", "").partition(";")[0] or "no content type"
        raise _NoJson(f"the server's reply is no JSON object ({kind})")
    return value


def _text(value: Mapping[str, Any], key: str) -> str | None:
    found = value.get(key)
    return found if isinstance(found, str) and found else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _errors(value: Any) -> str:
    """`errors` of a batch that failed as a whole: its messages."""
    data = value.get("data") if isinstance(value, dict) else None
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    return "; ".join(dict.fromkeys(_text(e, "message") or _text(e, "code") or "no words" for e in entries))
