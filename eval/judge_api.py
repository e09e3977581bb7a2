"""What does a chat model behind an OpenAI-compatible server say? Paid judgments, none lost, none paid twice.

Library only; `python -m eval judge` builds it. Source: QLoRA (arXiv 2305.14314), section 5.2: GPT-4 at temperature
0.2, at most 1,024 tokens a reply. Several calls are under way at once; each is booked in the tournament's store
before it is sent and settled when it is answered, so that the budget is a hard stop even across kills: what was
under way counts with the most that it can have cost. `eval.judge_retry` says what is tried again.

The key is read from the environment when the calls begin; it goes into no setting, file or message.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIError, APIStatusError, AsyncOpenAI

from eval.judge_options import ApiOptions, Estimate
from eval.judge_prompts import JudgePrompt, Mode, PromptSet, render
from eval.judge_replay import judgment_of
from eval.judge_retry import Fault, Gate, RunStopped, backoff_seconds, classify
from eval.judge_store import JudgmentStore
from eval.judging import Failure, Judgment, Match

BYTES_PER_TOKEN = 4  # of English, about; for the estimate only
MESSAGE_TOKENS = 16  # of a chat template around two messages, at most
MAX_FAILURES_IN_A_ROW = 10  # then the server is taken to be broken
EXPLANATION = {"type": "string"}
SCHEMAS: dict[Mode, dict[str, Any]] = {
    Mode.pairwise: {"explanation": EXPLANATION, "verdict": {"type": "integer", "enum": [1, 2, 3]}},
    Mode.relative: {"explanation": EXPLANATION, "score_1": {"type": "integer"}, "score_2": {"type": "integer"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A chat completion, as far as it could be read."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    num_prompt_tokens: int | None
    num_completion_tokens: int | None
    model: str | None  # that the server says it used


class ApiJudge:
    """A judge behind a server."""

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
        self._failures_in_a_row = 0
        self.settings: Mapping[str, Any] = {
            "kind": "api",
            "base_url": options.base_url,
            "model": options.model,
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "seed": options.seed,
            "structured": {None: "where the server can", True: "always", False: "never"}[options.structured],
            "mode": prompts.mode.value,
            "prompts_sha256": prompts.sha256,
        }

    def prompt_sha256(self, match: Match) -> str:
        """Of both messages."""
        return render(self._prompts, match).sha256

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Asks about every match, several at once; ends early where no further call makes sense (`stopped`).

        Raises:
            ValueError: the environment has no key.
        """
        self._key = os.environ.get(self._options.key_variable, "")
        if not self._key:
            raise ValueError(
                f"{self._options.key_variable} is not set: put the server's key into it (any text for a server "
                f"that asks for none)"
            )
        self.stopped, self._failures_in_a_row = None, 0
        try:
            return asyncio.run(self._judge_all(matches, on_judgment))
        finally:
            self._key = ""

    async def _judge_all(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        failures: list[Failure] = []
        waiting = iter(matches)
        options = self._options
        async with AsyncOpenAI(
            api_key=self._key, base_url=options.base_url, timeout=options.request_timeout_seconds, max_retries=0
        ) as client:
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
                found = await self._decide(client, match)
            except RunStopped as stop:
                self.stopped = self.stopped or self._redacted(str(stop))
                return
            if isinstance(found, Judgment):
                self._failures_in_a_row = 0
                on_judgment(found)
                continue
            question, first, second = match.key
            reason = self._redacted(found.reason)
            failures.append(Failure(question_id=question, system_a=first, system_b=second, reason=reason))
            self._failures_in_a_row += 1
            if found.fatal or self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                again = "" if found.fatal else f"{self._failures_in_a_row} matches in a row failed, the last with: "
                self.stopped = self.stopped or again + reason

    async def _decide(self, client: AsyncOpenAI, match: Match) -> Judgment | Fault:
        """Asks about one match until there is a reply, or a reason to leave it."""
        prompt = render(self._prompts, match)
        spread = random.Random(prompt.sha256)
        attempt = 1
        while True:
            await self._gate.wait()
            if self.stopped is not None:
                raise RunStopped(self.stopped)
            call_id = self._reserve(prompt)
            started = time.monotonic()
            found = await self._ask(client, prompt)
            if isinstance(found, Reply):
                cost = self._cost(found)
                self._store.settle(call_id, f"200 {found.model}", cost)
                return self._read(match, prompt, found, cost, time.monotonic() - started)
            self._store.settle(call_id, self._redacted(found.reason), 0.0 if found.was_free else None)
            if found.adapt is not None and found.adapt not in self._unsupported and self._may_adapt(found.adapt):
                self._unsupported.add(found.adapt)
                continue
            if not found.retry or attempt >= self._options.max_attempts:
                return found
            if found.wait_seconds is not None:
                self._gate.hold(found.wait_seconds)
            else:
                await asyncio.sleep(backoff_seconds(attempt, self._options.backoff_seconds, spread.random()))
            attempt += 1

    async def _ask(self, client: AsyncOpenAI, prompt: JudgePrompt) -> Reply | Fault:
        try:
            async with asyncio.timeout(
                self._options.request_timeout_seconds
            ):  # the client's own starts anew with each byte
                raw = await client.chat.completions.with_raw_response.create(**self._request(prompt))
        except (APIError, TimeoutError) as error:
            if isinstance(error, APIStatusError):
                self._gate.observe(error.response.headers, self._max_tokens(prompt))
            return classify(error)
        self._gate.observe(raw.headers, self._max_tokens(prompt))
        return read_reply(raw.http_response.content, raw.headers.get("content-type", ""))

    def _request(self, prompt: JudgePrompt) -> dict[str, Any]:
        options, mode = self._options, self._prompts.mode
        limit = "max_completion_tokens" if "max_tokens" in self._unsupported else "max_tokens"
        request: dict[str, Any] = {
            "model": options.model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            limit: options.max_tokens,
        }
        if options.temperature is not None:
            request["temperature"] = options.temperature
        if options.seed is not None:
            request["seed"] = options.seed
        if "response_format" not in self._unsupported:
            properties = SCHEMAS[mode]
            schema = {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": f"{mode.value}_judgment", "strict": True, "schema": schema},
            }
        return request

    def _read(self, match: Match, prompt: JudgePrompt, reply: Reply, cost: float | None, seconds: float) -> Judgment:
        text = self._redacted(reply.text or reply.refusal or "")
        facts: dict[str, Any] = {
            "num_prompt_tokens": reply.num_prompt_tokens,
            "num_completion_tokens": reply.num_completion_tokens,
            "cost_usd": cost,
            "latency_seconds": seconds,
        }
        unread = None
        if reply.refusal or reply.finish_reason == "content_filter":
            unread = "the judge refused"
        elif reply.finish_reason == "length":
            unread = f"the reply was cut at {self._options.max_tokens} tokens"
        return judgment_of(match, prompt.sha256, self._prompts.mode, text, unread, **facts)

    def _reserve(self, prompt: JudgePrompt) -> int:
        """Books a call at the most that it can cost.

        Raises:
            RunStopped: that would exceed the budget.
        """
        most = _price(self._options, self._max_tokens(prompt), self._options.max_tokens) or 0.0
        budget = self._options.budget_usd
        if budget is not None and (spent := self._store.spent_usd()) + most > budget:
            raise RunStopped(
                f"budget: {spent:.4f} of {budget:g} USD are spent or under way, and the next call may cost {most:.4f}"
            )
        return self._store.reserve(self.name, prompt.sha256, most)

    def _cost(self, reply: Reply) -> float | None:
        if reply.num_prompt_tokens is None or reply.num_completion_tokens is None:
            return None
        return _price(self._options, reply.num_prompt_tokens, reply.num_completion_tokens)

    def _may_adapt(self, part: str) -> bool:
        return part != "response_format" or self._options.structured is None

    def _max_tokens(self, prompt: JudgePrompt) -> int:
        """No tokenizer makes more tokens than there are bytes."""
        return len((prompt.system + prompt.user).encode()) + MESSAGE_TOKENS

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def read_reply(content: bytes, content_type: str) -> Reply | Fault:
    """Reads a 200's body; servers answer 200 with many things that are no chat completion."""
    try:
        body = json.loads(content)
    except ValueError:
        return Fault(reason=f"the server's reply is no JSON ({content_type.partition(';')[0] or 'no content type'})")
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Fault(reason="the server's reply has no choices")
    text, refusal = message.get("content"), message.get("refusal")
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(text, str) and not isinstance(refusal, str) and finish not in ("content_filter", "length"):
        return Fault(reason="the server's reply has no content")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text if isinstance(text, str) else None,
        refusal=refusal if isinstance(refusal, str) and refusal else None,
        finish_reason=finish if isinstance(finish, str) else None,
        num_prompt_tokens=_count(usage.get("prompt_tokens")),
        num_completion_tokens=_count(usage.get("completion_tokens")),
        model=body.get("model") if isinstance(body.get("model"), str) else None,
    )


def estimate_calls(options: ApiOptions, prompts: PromptSet, matches: Sequence[Match]) -> Estimate:
    """What judging `matches` will take, without a call."""
    sizes = [len((p.system + p.user).encode()) for p in (render(prompts, match) for match in matches)]
    num_prompt_tokens = sum(-(-size // BYTES_PER_TOKEN) + MESSAGE_TOKENS for size in sizes)
    num_completion_tokens = options.max_tokens * len(sizes)
    return Estimate(
        num_calls=len(sizes),
        num_prompt_tokens=num_prompt_tokens,
        num_completion_tokens=num_completion_tokens,
        cost_usd=_price(options, num_prompt_tokens, num_completion_tokens),
        max_cost_usd=_price(options, sum(sizes) + MESSAGE_TOKENS * len(sizes), num_completion_tokens),
    )


def _price(options: ApiOptions, num_prompt_tokens: int, num_completion_tokens: int) -> float | None:
    prompt, completion = options.usd_per_million_prompt_tokens, options.usd_per_million_completion_tokens
    if prompt is None or completion is None:
        return None
    return (num_prompt_tokens * prompt + num_completion_tokens * completion) / 1e6


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
