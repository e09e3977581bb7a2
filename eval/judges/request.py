"""Makes the request to a chat model that judges, and reads its reply and cost.

`eval.judges.calls` and `eval.judges.batch` both use it, so that they ask the same and share their judgments.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.judges.retry import (
    MAX_REASON,
    TOO_DEEP,
    UNNAMED,
    Fault,
    RunStopped,
    Usage,
    error_in_reply,
    load_json,
    read_usage,
)
from eval.judging.matches import Judgment, Match
from eval.judging.options import ApiOptions, Estimate
from eval.judging.parse import CUT, KEY_MARK, REFUSED, judgment_of
from eval.judging.prompts import JudgePrompt, Mode, PromptSet, render

BYTES_PER_TOKEN = 4  # of English, about; for the estimate only, until a server has counted
ASSUMED_REPLY_TOKENS = 250  # of an explained verdict, until replies are measured
ASSUMED_THOUGHT_TOKENS = 1000  # of a reasoning judge, likewise
MEASURED = 500  # judgments at most, spread evenly, that replies are measured on
MESSAGE_TOKENS = 16  # of a chat template around two messages, at most
BATCH_PRICE = 0.5  # of the single calls' price, as OpenAI has it
NO_LIMIT = (
    "the server takes neither max_tokens nor max_completion_tokens, so a reply could be of any length and cost: "
    "take another server, or give no price where it costs none"
)
NOTED = ("response_format", "reasoning_effort", "seed", "temperature")  # parts that can change a verdict
EXPLANATION = {"type": "string"}
SCHEMAS: dict[Mode, dict[str, Any]] = {
    Mode.pairwise: {"explanation": EXPLANATION, "verdict": {"type": "integer", "enum": [1, 2, 3]}},
    Mode.relative: {"explanation": EXPLANATION, "score_1": {"type": "integer"}, "score_2": {"type": "integer"}},
    Mode.single: {"explanation": EXPLANATION, "score": {"type": "number"}},
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


def request_body(options: ApiOptions, mode: Mode, prompt: JudgePrompt, unsupported: Collection[str]) -> dict[str, Any]:
    """The chat completion that puts a prompt before the judge, without the parts that the server doesn't know."""
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
    if "system" in unsupported:
        messages = [{"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}]
    request: dict[str, Any] = {"model": options.model, "messages": messages}
    limit = "max_completion_tokens" if "max_tokens" in unsupported else "max_tokens"
    optional = {
        limit: options.limit_tokens,
        "temperature": options.temperature,
        "reasoning_effort": options.reasoning_effort,
        "seed": options.seed,
    }
    request |= {name: value for name, value in optional.items() if value is not None and name not in unsupported}
    if "response_format" not in unsupported:
        properties = SCHEMAS[mode]
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        named = {"name": f"{mode.value}_judgment", "strict": True, "schema": schema}
        plain = {"type": "json_object", "schema": schema}  # as llama-cpp-python and others have it
        request["response_format"] = (
            plain if "json_schema" in unsupported else {"type": "json_schema", "json_schema": named}
        )
    return request


def next_to_leave_out(options: ApiOptions, part: str, unsupported: Collection[str]) -> str | None:
    """The part to leave out next, after a server refused `part` of a request made without `unsupported`.

    A schema is asked for in OpenAI's way first, then in the other's, then not at all; the limit of a reply by its old
    name first, then by its new one, then not at all. None where replies are paid for and had no limit (`NO_LIMIT`).
    Where the server doesn't say which part (`UNNAMED`), one goes after the other, those that matter least to a verdict
    first, and the limit of a reply stays by one of its names.
    """
    if part == UNNAMED:
        return next((name for name in _optional_parts(options) if name not in unsupported), "max_tokens")
    if part in ("max_tokens", "max_completion_tokens"):
        if "max_tokens" not in unsupported:
            return "max_tokens"
        return "max_completion_tokens" if price_usd(options, 1, 1) is None else None
    return "json_schema" if part == "response_format" and "json_schema" not in unsupported else part


def _optional_parts(options: ApiOptions) -> list[str]:
    """What a request may be made without, in the order in which it is given up."""
    structured = ["json_schema", "response_format"] if options.structured is None else []
    chosen = [name for name in ("reasoning_effort", "seed", "temperature") if getattr(options, name) is not None]
    return [*structured, *chosen, "max_tokens"]


def left_out_notes(options: ApiOptions, unsupported: Collection[str]) -> list[str]:
    """A note on the parts that a server refused and that can change a verdict; empty where there are none."""
    parts = [
        part for part in NOTED if part in unsupported and (part != "response_format" or options.structured is None)
    ]
    return [f"the server refused a request until it came without {', '.join(parts)}"] if parts else []


def reply_judgment(
    options: ApiOptions,
    mode: Mode,
    key: tuple[str, str, str],
    prompt_sha256: str,
    reply: Reply,
    cost: float | None,
    seconds: float | None,
    redacted: Callable[[str], str],
) -> Judgment:
    """The judgment that a reply makes; a refusal or a reply that was cut is unparsed.

    What the reply says is read as it came, and stored and shown without the key.
    """
    text = reply.text or reply.refusal or ""
    facts: dict[str, Any] = {
        "raw_text": redacted(text),
        "num_prompt_tokens": reply.num_prompt_tokens,
        "num_completion_tokens": reply.num_completion_tokens,
        "cost_usd": cost,
        "latency_seconds": seconds,
    }
    unread = None
    if reply.refusal or reply.finish_reason == "content_filter":
        unread = REFUSED
    elif reply.finish_reason == "length":
        unread = f"{CUT} at {options.limit_tokens} tokens"
    judgment = judgment_of(key, prompt_sha256, mode, text, unread, **facts)
    return replace(judgment, reason=None if judgment.reason is None else redacted(judgment.reason))


def redact(text: str, key: str) -> str:
    """Removes the key and half surrogate pairs from a text, so that it may be shown and stored."""
    text = text.encode("utf-8", "replace").decode()
    return text.replace(key, KEY_MARK) if key else text


def shown_reason(text: str, key: str) -> str:
    """A server's words as they may be shown: without the key, then cut, so that no part of the key is left."""
    return redact(text, key)[:MAX_REASON]


def read_reply(content: bytes, content_type: str) -> Reply | Fault:
    """Reads a 200's body; servers answer 200 with many things that are no chat completion."""
    try:
        return read_completion(load_json(content))
    except ValueError as error:
        kind = content_type.partition(";")[0] or "no content type"
        is_deep = str(error) == TOO_DEEP
        return Fault(reason=TOO_DEEP if is_deep else f"the server's reply is no JSON ({kind})")


def read_completion(body: Any) -> Reply | Fault:
    """Reads a chat completion; what is none is a fault that costs what it counts."""
    usage = read_usage(body)
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    fault = error_in_reply(choice) or (None if isinstance(message, dict) else error_in_reply(body))
    if fault is not None:  # of this completion, or in place of one
        return replace(fault, usage=usage, was_free=fault.was_free and usage == Usage())
    if not isinstance(message, dict):
        return Fault(reason="the server's reply has no choices", usage=usage)
    text, refusal = _joined(message.get("content")), message.get("refusal")
    if text and usage.num_completion_tokens == 0:  # it has not counted
        usage = replace(usage, num_completion_tokens=None)
    finish = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(text, str) and not isinstance(refusal, str) and finish not in ("content_filter", "length"):
        return Fault(reason="the server's reply has no content", usage=usage)
    return Reply(
        text=text if isinstance(text, str) else None,
        refusal=refusal if isinstance(refusal, str) and refusal else None,
        finish_reason=finish if isinstance(finish, str) else None,
        num_prompt_tokens=usage.num_prompt_tokens,
        num_completion_tokens=usage.num_completion_tokens,
        model=body.get("model") if isinstance(body.get("model"), str) else None,
    )


def _joined(content: Any) -> Any:
    """The text of a message's content, which some servers send in parts, thoughts apart from what is said."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in ("text", None)]
    return "".join(text for text in texts if isinstance(text, str)) or None


def estimate_calls(
    options: ApiOptions, prompts: PromptSet, matches: Sequence[Match], judged: Sequence[tuple[Match, Judgment]] = ()
) -> Estimate:
    """What judging `matches` will take, without a call.

    Args:
        options: the judge's limits and prices.
        prompts: what it is asked.
        matches: those ahead.
        judged: matches that it has judged, to measure its replies on.
    """
    sizes = [_num_bytes(render(prompts, match)) for match in matches]
    sample = judged[:: -(-len(judged) // MEASURED) or 1]
    bytes_per_token, reply_tokens = _measured(options, prompts, sample)
    num_prompt_tokens = round(sum(sizes) / bytes_per_token) if sample else _assumed_prompt_tokens(sizes)
    num_completion_tokens = round(reply_tokens * len(sizes))
    most = options.limit_tokens * len(sizes)
    return Estimate(
        num_calls=len(sizes),
        num_prompt_tokens=num_prompt_tokens,
        num_completion_tokens=num_completion_tokens,
        max_completion_tokens=most,
        num_measured=len(sample),
        cost_usd=price_usd(options, num_prompt_tokens, num_completion_tokens),
        max_cost_usd=price_usd(options, sum(sizes) + MESSAGE_TOKENS * len(sizes), most),
        price_source=options.price_source,
        batch=options.batch,
    )


def _measured(options: ApiOptions, prompts: PromptSet, sample: Sequence[tuple[Match, Judgment]]) -> tuple[float, float]:
    """(bytes of a prompt's token, tokens of a reply), as the server counted them where it counts."""
    counted = [
        (_num_bytes(render(prompts, match)), judgment.num_prompt_tokens)
        for match, judgment in sample
        if judgment.num_prompt_tokens
    ]
    replies = [
        len((judgment.raw_text or "").encode()) / BYTES_PER_TOKEN
        if judgment.num_completion_tokens is None
        else judgment.num_completion_tokens
        for _, judgment in sample
    ]
    num_tokens = sum(tokens for _, tokens in counted)
    return (
        sum(size for size, _ in counted) / num_tokens if num_tokens else BYTES_PER_TOKEN,
        sum(replies) / len(replies)
        if replies
        else min(ASSUMED_REPLY_TOKENS, options.max_tokens) + min(ASSUMED_THOUGHT_TOKENS, options.thought_tokens),
    )


def _assumed_prompt_tokens(sizes: Sequence[int]) -> int:
    return sum(-(-size // BYTES_PER_TOKEN) + MESSAGE_TOKENS for size in sizes)


def _num_bytes(prompt: JudgePrompt) -> int:
    return len((prompt.system + prompt.user).encode())


def price_usd(options: ApiOptions, num_prompt_tokens: int, num_completion_tokens: int) -> float | None:
    """The price of these tokens; None if no price was given. A batch costs half."""
    prompt, completion = options.usd_per_million_prompt_tokens, options.usd_per_million_completion_tokens
    if prompt is None or completion is None:
        return None
    share = BATCH_PRICE if options.batch else 1.0
    return share * (num_prompt_tokens * prompt + num_completion_tokens * completion) / 1e6


def reply_cost(options: ApiOptions, counted: Reply | Usage) -> float | None:
    """The cost of a reply in US dollars; None if the server didn't count the tokens, or no price was given."""
    if counted.num_prompt_tokens is None or counted.num_completion_tokens is None:
        return None
    return price_usd(options, counted.num_prompt_tokens, counted.num_completion_tokens)


def fault_cost(options: ApiOptions, fault: Fault) -> float | None:
    """What a call that failed has cost; None where it isn't known, so that its reservation stands."""
    return 0.0 if fault.was_free else reply_cost(options, fault.usage)


def most_tokens(prompt: JudgePrompt) -> int:
    """The most tokens that a prompt can have: no tokenizer makes more than there are bytes."""
    return _num_bytes(prompt) + MESSAGE_TOKENS


def most_usd(options: ApiOptions, prompt: JudgePrompt, spent_usd: float) -> float:
    """The most that asking about a prompt can cost.

    Raises:
        RunStopped: with what is spent that would exceed the budget.
    """
    most = price_usd(options, most_tokens(prompt), options.limit_tokens) or 0.0
    if options.budget_usd is not None and spent_usd + most > options.budget_usd:
        raise RunStopped(
            f"budget: {spent_usd:.4f} of {options.budget_usd:g} USD are spent or under way, and the next call "
            f"may cost {most:.4f}"
        )
    return most


def judge_settings(options: ApiOptions, prompts: PromptSet) -> dict[str, Any]:
    """The settings that can change a verdict. Whether it is asked singly or in a batch can't.

    Nor can room for thoughts: a reply without enough of it is cut, and so no verdict, and --retry-unparsed asks again.
    """
    return {
        "kind": "api",
        "base_url": options.base_url,
        "model": options.model,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": options.seed,
        **({} if options.reasoning_effort is None else {"reasoning_effort": options.reasoning_effort}),
        "structured": {None: "where the server can", True: "always", False: "never"}[options.structured],
        "mode": prompts.mode.value,
        "prompts_sha256": prompts.sha256,
    }


def read_key(options: ApiOptions) -> str:
    """The server's key, from the environment.

    Raises:
        ValueError: it isn't there, or is no key.
    """
    key = os.environ.get(options.key_variable, "").strip()
    if not key:
        raise ValueError(
            f"{options.key_variable} is not set: put the server's key into it (any text if it asks for none)"
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{options.key_variable}: the key holds characters that no key has; copy it again")
    return key
