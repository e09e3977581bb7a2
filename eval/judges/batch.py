"""A judge that asks a chat model about many matches at half the price, by a server's Batch API.

`python -m eval judge --batch` builds it. It asks what `eval.judges.calls` asks, under the same name and
settings, so that judgments of both are one stock and none is paid twice. A batch is booked in the tournament's store
before it is sent, and collected by whichever call comes next: killed while it waits, the same command goes on.

  completed   every line becomes a judgment; one that can't be read is unparsed, its text kept; one whose call failed
              on the server cost nothing and is left for the next run
  expired,    what was answered before is kept, the rest cost nothing and is asked again by the next run
  cancelled
  failed      the server refused the whole file: nothing was asked; the run ends with its reason
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eval.judges.batch_server import ENDPOINT, BatchServer, BatchState, NotMade
from eval.judges.batch_store import BatchRequest, BatchStore, Booking
from eval.judges.request import (
    NO_LIMIT,
    Reply,
    fault_cost,
    judge_settings,
    left_out_notes,
    most_usd,
    next_to_leave_out,
    read_completion,
    read_key,
    redact,
    reply_cost,
    reply_judgment,
    request_body,
    shown_reason,
)
from eval.judges.retry import (
    Fault,
    RunStopped,
    error_details,
    error_message,
    load_json,
    read_usage,
    refused_field,
    status_fault,
)
from eval.judging.matches import Failure, Judgment, Match
from eval.judging.options import ApiOptions
from eval.judging.prompts import JudgePrompt, PromptSet, render
from eval.judging.store import JudgmentStore, settings_sha256
from eval.verdicts.codes import UNPARSED

MAX_REQUESTS = 50_000  # of a batch; OpenAI's limits
MAX_FILE_BYTES = 190_000_000  # of 200 MB
CUSTOM_ID = re.compile(r'"custom_id"\s*:\s*"([0-9a-f]{64})"')

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """What the lines of a batch's output brought."""

    judged: set[str] = field(default_factory=set)  # prompt hashes
    failed: dict[str, str] = field(default_factory=dict)  # prompt hash -> why
    adapt: dict[str, str] = field(default_factory=dict)  # prompt hash -> a part that the server doesn't know
    costs: dict[str, float | None] = field(default_factory=dict)


class BatchJudge:
    """A judge behind a server's Batch API."""

    def __init__(self, options: ApiOptions, prompts: PromptSet, store: JudgmentStore, say: Say | None = None) -> None:
        """Makes the judge; nothing is sent before `judge`.

        Args:
            options: server, model and limits.
            prompts: what it is asked.
            store: where calls and batches are booked.
            say: told what is waited for.
        """
        self.name = options.model
        self.stopped: str | None = None  # why the last `judge` ended early
        self._options = options
        self._prompts = prompts
        self._store = store
        self._batches = BatchStore(store)
        self._say = say or (lambda line: None)
        self._key = ""
        self._unsupported: set[str] = set() if options.structured is not False else {"response_format"}
        self.settings: Mapping[str, Any] = judge_settings(options, prompts)

    @property
    def is_waiting(self) -> bool:
        """Whether batches of earlier runs are to be collected, even where nothing is left to ask."""
        return bool(self._batches.unsettled(settings_sha256(self)))

    @property
    def notes(self) -> list[str]:
        """What a reader of its verdicts must know."""
        return left_out_notes(self._options, self._unsupported)

    def prompt_sha256(self, match: Match) -> str:
        """The hash of both messages of a match's prompt."""
        return render(self._prompts, match).sha256

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Collects what is under way, hands in the rest, and waits for it; Ctrl-C and kills lose nothing.

        Raises:
            ValueError: the environment has no key.
        """
        self._key = read_key(self._options)
        self.stopped = None
        todo = {self.prompt_sha256(match): match for match in matches}
        failed: dict[str, str] = {}
        try:
            with BatchServer(self._options, self._key) as server:
                try:
                    self._collect(server, todo, on_judgment)
                    self._ask(server, todo, failed, on_judgment)
                except RunStopped as stop:
                    self.stopped = self._redacted(str(stop))
        finally:
            self._key = ""
        return [_failure(todo[digest], reason) for digest, reason in failed.items() if digest in todo]

    def _collect(self, server: BatchServer, todo: dict[str, Match], on_judgment: Callable[[Judgment], None]) -> None:
        """Ends the batches of earlier runs; what they judged leaves `todo`."""
        for booking in self._batches.unsettled(settings_sha256(self)):
            batch_id = booking.batch_id or server.find(booking.name)
            if batch_id is None:  # killed before it was made
                self._batches.settle(booking, "never sent", dict.fromkeys(booking.requests, 0.0))
                continue
            self._batches.name(booking, batch_id)
            for digest in self._finish(server, booking, batch_id, on_judgment).judged:
                todo.pop(digest, None)

    def _ask(
        self,
        server: BatchServer,
        todo: dict[str, Match],
        failed: dict[str, str],
        on_judgment: Callable[[Judgment], None],
    ) -> None:
        """Hands in everything, batch after batch, each prompt once (and again where the server refused a part)."""
        while waiting := {digest: match for digest, match in todo.items() if digest not in failed}:
            prompts = {digest: render(self._prompts, match) for digest, match in waiting.items()}
            lines = dict(self._chunk(prompts))
            booking = self._batches.book(
                self.name,
                settings_sha256(self),
                [
                    BatchRequest(prompt_sha256=digest, key=waiting[digest].key, most_usd=most)
                    for digest, (_, most) in lines.items()
                ],
            )
            try:
                batch_id = server.create(
                    booking.name, server.upload(booking.name, (line for line, _ in lines.values()))
                )
            except NotMade:
                self._batches.settle(booking, "never made", dict.fromkeys(booking.requests, 0.0))
                raise
            self._batches.name(booking, batch_id)
            outcome = self._finish(server, booking, batch_id, on_judgment)
            for digest in outcome.judged:
                todo.pop(digest, None)
            failed |= outcome.failed
            for digest in outcome.adapt:
                failed.pop(digest, None)
            left_out = {
                next_to_leave_out(self._options, part, self._unsupported) for part in set(outcome.adapt.values())
            }
            self._unsupported |= {part for part in left_out if part is not None}

    def _chunk(self, prompts: Mapping[str, JudgePrompt]) -> Iterator[tuple[str, tuple[str, float]]]:
        """(prompt hash, (line of the file, most that it can cost)) of as many as one batch and the budget take.

        Raises:
            RunStopped: the budget takes none.
        """
        spent, size_bytes = self._store.spent_usd(), 0
        for number, (digest, prompt) in enumerate(prompts.items()):
            body = request_body(self._options, self._prompts.mode, prompt, self._unsupported)
            line = json.dumps({"custom_id": digest, "method": "POST", "url": ENDPOINT, "body": body})
            size_bytes += len(line) + 1
            try:
                most = most_usd(self._options, prompt, spent)
            except RunStopped:
                if number:
                    return
                raise
            if number and (number >= MAX_REQUESTS or size_bytes > MAX_FILE_BYTES):
                return
            spent += most
            yield digest, (line, most)

    def _finish(
        self, server: BatchServer, booking: Booking, batch_id: str, on_judgment: Callable[[Judgment], None]
    ) -> _Outcome:
        """Waits for a batch, keeps its judgments and settles its calls.

        Raises:
            RunStopped: the server refused it as a whole, no longer knows it, or can't be reached.
        """
        state = self._wait(server, batch_id)
        if state is None:
            self._batches.settle(booking, "lost", dict.fromkeys(booking.requests))
            raise RunStopped(
                f"batch {batch_id}: the server no longer knows it; its calls stay booked at the most that they can "
                f"have cost, and the next run asks again"
            )
        lines = [line for file_id in state.files for line in server.lines(file_id)]
        outcome = _Outcome()
        for line in lines:
            self._read_line(line, booking, outcome, on_judgment)
        if lines and not outcome.costs:
            raise RunStopped(f"batch {batch_id}: none of its {len(lines)} lines can be read; the next run tries again")
        refused = refused_field(state.errors) if state.status == "failed" else None  # the whole file, for its fields
        for digest in booking.requests.keys() - outcome.costs.keys():  # answered, for all we know, where it completed
            outcome.costs[digest] = None if state.status == "completed" else 0.0
            outcome.failed[digest] = f"the {state.status} batch has no line for it"
            if refused is not None:
                self._adapt(digest, refused, outcome)
        self._batches.settle(booking, state.status, outcome.costs)
        if state.status == "failed" and not outcome.adapt:
            raise RunStopped(f"batch {batch_id} failed: {state.errors or 'the server gives no reason'}")
        return outcome

    def _wait(self, server: BatchServer, batch_id: str) -> BatchState | None:
        last_line = ""
        while (state := server.state(batch_id)) is not None and not state.is_final:
            line = f"batch {batch_id}: {state.status}, {state.num_done} of {state.num_requests} done"
            if line != last_line:
                self._say(f"{line} (may be left: the same command goes on)")
            last_line = line
            time.sleep(self._options.batch_poll_seconds)
        if state is not None:
            self._say(f"batch {batch_id}: {state.status}")
        return state

    def _read_line(
        self, line: str, booking: Booking, outcome: _Outcome, on_judgment: Callable[[Judgment], None]
    ) -> None:
        """Keeps what a line says; one that names no request of the batch is passed over."""
        digest, parsed = _parsed(line)
        if digest not in booking.requests or digest in outcome.costs:
            return
        if isinstance(parsed, Fault) and (parsed.was_free or parsed.retry):
            outcome.costs[digest] = fault_cost(self._options, parsed)
            outcome.failed[digest] = shown_reason(parsed.reason, self._key)
            if parsed.adapt is not None:
                self._adapt(digest, parsed.adapt, outcome)
            return
        (question_id, first, second), _ = booking.requests[digest]
        cost = reply_cost(self._options, parsed) if isinstance(parsed, Reply) else fault_cost(self._options, parsed)
        if isinstance(parsed, Reply):
            key, mode = (question_id, first, second), self._prompts.mode
            judgment = reply_judgment(self._options, mode, key, digest, parsed, cost, None, self._redacted)
        else:
            judgment = Judgment(
                question_id=question_id,
                system_a=first,
                system_b=second,
                prompt_sha256=digest,
                verdict=UNPARSED,
                reason=shown_reason(parsed.reason, self._key),
                cost_usd=cost,
                raw_text=self._redacted(line),
            )
        on_judgment(judgment)
        outcome.costs[digest] = cost
        outcome.judged.add(digest)

    def _adapt(self, digest: str, refused: str, outcome: _Outcome) -> None:
        """Notes that a request is to be made again without a field, unless it may not be."""
        part = next_to_leave_out(self._options, refused, self._unsupported)
        if part is None:
            outcome.failed[digest] = NO_LIMIT
        elif part not in self._unsupported and self._may_adapt(refused):
            outcome.adapt[digest] = refused

    def _may_adapt(self, part: str) -> bool:
        return part != "response_format" or self._options.structured is None

    def _redacted(self, text: str) -> str:
        return redact(text, self._key)


def _parsed(line: str) -> tuple[str, Reply | Fault]:
    """(prompt hash, what came of it) of a line of an output or error file; an unread line's hash is looked for."""
    unread = Fault(reason="the line in the batch's output can't be read")
    try:
        entry = load_json(line)
    except ValueError:
        found = CUSTOM_ID.search(line)
        return (found[1] if found else ""), unread
    if not isinstance(entry, dict) or not isinstance(entry.get("custom_id"), str):
        return "", unread
    digest, response, error = entry["custom_id"], entry.get("response"), entry.get("error")
    if isinstance(error, dict) and error:
        code = error.get("code")
        reason = error_message(error) or (code if isinstance(code, str) else "the server names no reason")
        return digest, Fault(reason=reason, was_free=True, adapt=refused_field(f"{reason} {error.get('param') or ''}"))
    if not isinstance(response, dict):
        return digest, unread
    status, body = response.get("status_code"), response.get("body")
    if isinstance(status, int) and status >= 400:
        found_error = body.get("error", body) if isinstance(body, dict) else body
        found_code = found_error.get("code") if isinstance(found_error, dict) else None
        code = found_code if isinstance(found_code, str) else ""
        fault = status_fault(status, code, error_message(found_error), details=error_details(found_error))
        return digest, replace(fault, usage=read_usage(body))
    return digest, read_completion(body)


def _failure(match: Match, reason: str) -> Failure:
    question_id, first, second = match.key
    return Failure(question_id=question_id, system_a=first, system_b=second, reason=reason)
