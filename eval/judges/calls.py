"""A judge that calls a chat model behind an OpenAI-compatible server; no judgment is lost or paid twice.

`python -m eval judge` builds it. Source: QLoRA (arXiv 2305.14314), section 5.2: GPT-4 at temperature
0.2, at most 1,024 tokens a reply. Several calls are under way at once; each is booked in the tournament's store
before it is sent and settled when it is answered, so that the budget is a hard stop even across kills: what was
under way counts with the most that it can have cost. `eval.judges.retry` says what is tried again.

The key is read from the environment when the calls begin; it goes into no setting, file or message.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from openai import APIError, APIStatusError, AsyncOpenAI

from eval.judges.client import MAX_REPLY_BYTES, open_client, within
from eval.judges.request import (
    NO_LIMIT,
    Reply,
    fault_cost,
    judge_settings,
    left_out_notes,
    most_tokens,
    most_usd,
    next_to_leave_out,
    read_key,
    read_reply,
    redact,
    reply_cost,
    reply_judgment,
    request_body,
    shown_reason,
)
from eval.judges.retry import MAX_TIMED_OUT, Fault, Gate, RunStopped, backoff_seconds, classify
from eval.judging.matches import Failure, Judgment, Match
from eval.judging.options import ApiOptions
from eval.judging.prompts import JudgePrompt, PromptSet, render
from eval.judging.store import JudgmentStore

MAX_FAILURES_IN_A_ROW = 10  # then the server is taken to be broken
MAX_DOUBLINGS = 6  # of the pause between two calls about one match: half a minute, by default


class ApiJudge:
    """A judge behind a server."""

    is_waiting = False  # a call that was under way at a kill is asked again

    def __init__(self, options: ApiOptions, prompts: PromptSet, store: JudgmentStore) -> None:
        """Makes the judge; no call is sent before `judge`.

        Args:
            options: server, model and limits.
            prompts: what it is asked.
            store: where calls are booked.
        """
        self.name = options.model
        self.stopped: str | None = None  # why the last `judge` ended early
        self._options = options
        self._prompts = prompts
        self._store = store
        self._key = ""
        self._unsupported: set[str] = set() if options.structured is not False else {"response_format"}
        self._gate = Gate(options.max_wait_seconds)
        self.settings: Mapping[str, Any] = judge_settings(options, prompts)

    @property
    def notes(self) -> list[str]:
        """What a reader of its verdicts must know."""
        return left_out_notes(self._options, self._unsupported)

    def prompt_sha256(self, match: Match) -> str:
        """The hash of both messages of a match's prompt."""
        return render(self._prompts, match).sha256

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Asks about every match, several at once; ends early where no further call makes sense (`stopped`).

        Raises:
            ValueError: the environment has no key.
        """
        self._key = read_key(self._options)
        self.stopped, self._failures_in_a_row = None, 0
        self._num_under_way, self._num_answered, self._answered = 0, 0, asyncio.Event()
        try:
            return asyncio.run(self._judge_all(matches, on_judgment))
        finally:
            self._key = ""

    async def _judge_all(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        failures: list[Failure] = []
        waiting = iter(matches)
        options = self._options
        async with open_client(self._key, options.base_url, options.request_timeout_seconds, MAX_REPLY_BYTES) as client:
            workers = [
                asyncio.create_task(self._work(client, waiting, on_judgment, failures))
                for _ in range(min(options.num_concurrent, len(matches)))
            ]
            try:
                await asyncio.gather(*workers)
            finally:  # where one failed, as on a full disk
                for worker in workers:
                    worker.cancel()
        return failures

    async def _work(
        self,
        client: AsyncOpenAI,
        waiting: Iterator[Match],
        on_judgment: Callable[[Judgment], None],
        failures: list[Failure],
    ) -> None:
        for match in waiting:  # shared: each worker takes the next one
            if self.stopped is not None:
                return
            try:
                decided = await self._decide(client, match)
            except RunStopped as stop:
                self.stopped = self.stopped or self._reason(str(stop))
                return
            if isinstance(decided, Judgment):
                self._failures_in_a_row = 0
                on_judgment(decided)
                continue
            question, first, second = match.key
            reason = self._reason(decided.reason)
            failures.append(Failure(question_id=question, system_a=first, system_b=second, reason=reason))
            self._failures_in_a_row += 1
            if decided.fatal or self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                again = "" if decided.fatal else f"{self._failures_in_a_row} matches in a row failed, the last with: "
                self.stopped = self.stopped or again + reason

    async def _decide(self, client: AsyncOpenAI, match: Match) -> Judgment | Fault:
        """Asks about one match until there is a reply, or a reason to leave it."""
        prompt = render(self._prompts, match)
        spread = random.Random(prompt.sha256)
        attempt, num_timed_out, num_faults, num_answered = 1, 0, 0, self._num_answered
        while True:
            await self._gate.wait()
            if self.stopped is not None:
                raise RunStopped(self.stopped)
            call_id = await self._reserve(prompt)
            started, left_out = time.monotonic(), frozenset(self._unsupported)
            self._num_under_way += 1
            result = await self._ask(client, prompt)
            self._num_under_way -= 1
            self._answered.set()  # who waits goes on when this call is settled, as nothing is awaited until then
            if isinstance(result, Reply):
                self._num_answered += 1
                cost = reply_cost(self._options, result)
                outcome = self._reason(f"200 {result.model}")
                self._store.settle_when_stored(prompt.sha256, call_id, outcome, cost)
                seconds, mode = time.monotonic() - started, self._prompts.mode
                return reply_judgment(
                    self._options, mode, match.key, prompt.sha256, result, cost, seconds, self._redacted
                )
            self._store.settle(call_id, self._reason(result.reason), fault_cost(self._options, result))
            if result.adapt is not None and self._may_adapt(result.adapt):
                part = next_to_leave_out(self._options, result.adapt, left_out)
                if part is None:
                    return replace(result, reason=NO_LIMIT, fatal=True)
                if part not in left_out:
                    self._unsupported.add(part)
                    continue
            num_timed_out += result.timed_out
            ends = attempt >= self._options.max_attempts or num_timed_out >= MAX_TIMED_OUT
            if ends or not result.retry or (result.unreached and not self._num_answered):  # its address may be wrong
                return result
            num_faults += 1
            await self._pause(result, num_faults, spread)
            crowded = result.was_free and self._num_answered > num_answered  # others' calls took what the server allows
            attempt, num_answered = 1 if crowded else attempt + 1, self._num_answered

    async def _pause(self, fault: Fault, num_faults: int, spread: random.Random) -> None:
        """As long as the server asks for, and longer from a match's second fault on: callers come one by one."""
        doubling = num_faults
        if fault.wait_seconds is not None:
            self._gate.hold(fault.wait_seconds)
            doubling -= 1
        if doubling:
            seconds = backoff_seconds(min(doubling, MAX_DOUBLINGS), self._options.backoff_seconds, spread.random())
            await asyncio.sleep(seconds)

    async def _ask(self, client: AsyncOpenAI, prompt: JudgePrompt) -> Reply | Fault:
        body = request_body(self._options, self._prompts.mode, prompt, self._unsupported)
        call = client.chat.completions.with_raw_response.create(**body)
        try:
            raw = await within(self._options.request_timeout_seconds, call)
        except (APIError, TimeoutError, RecursionError) as error:
            if isinstance(error, APIStatusError):
                self._gate.observe(error.response.headers, most_tokens(prompt))
            fault = classify(error)
            return replace(fault, reason=self._slow) if fault.timed_out else fault
        self._gate.observe(raw.headers, most_tokens(prompt))
        return read_reply(raw.http_response.content, raw.headers.get("content-type", ""))

    async def _reserve(self, prompt: JudgePrompt) -> int:
        """Books a call at the most that it can cost; waits for calls under way, which mostly cost less than is booked.

        Raises:
            RunStopped: that would exceed the budget, and nothing is under way; or the run has stopped meanwhile.
        """
        while True:
            try:
                most = most_usd(self._options, prompt, self._store.spent_usd())
            except RunStopped:
                if not self._num_under_way:
                    raise
                self._answered.clear()
                await self._answered.wait()
                if self.stopped is not None:
                    raise RunStopped(self.stopped) from None
            else:
                return self._store.reserve(self.name, prompt.sha256, most)

    @property
    def _slow(self) -> str:
        seconds = self._options.request_timeout_seconds
        return f"time-out: no whole reply within {seconds:g} s; --request-timeout-seconds gives it longer"

    def _may_adapt(self, part: str) -> bool:
        return part != "response_format" or self._options.structured is None

    def _reason(self, text: str) -> str:
        return shown_reason(text, self._key)

    def _redacted(self, text: str) -> str:
        return redact(text, self._key)
