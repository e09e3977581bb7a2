"""Decides whether and when a failed call to a judge's server is tried again; one policy serves every call.

Tried again: 429, 5xx (and 408), a connection that isn't made though the server was there before, up to a number of
attempts; a time-out of ours once, as each may be billed. Never: an exhausted quota, a refused key, an unknown model,
a wait beyond the limit: these end the run at once, for the next call would meet the same. Anything else that is wrong
with one reply (cut, no JSON, an HTML page, no choices) fails that match alone and is left for the next run. A call that
the server refused costs nothing; one that failed on the way or on the server costs what its reply counts, else it stays
booked at the most that it can have cost. The openai client's own retries are off: they ignore a `retry-after` of 300 s
and try an exhausted quota three times (measured with openai 3.x).

Source: OpenAI's documented headers: `retry-after`, `retry-after-ms`, `x-ratelimit-remaining-*`, `x-ratelimit-reset-*`.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from eval.judges.client import ReplyTooLarge

FATAL_STATUS = {
    401: "the key was refused",
    402: "the account has no credit",
    403: "access was refused",
    404: "no such model or address",
}
FATAL_CODES = ("insufficient_quota", "billing_hard_limit_reached", "account_deactivated")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
REFUSING_STATUS = (400, 422, 500, 501)  # llama-cpp-python says 500 to a field that it doesn't know
SCHEMA_FIELDS = ("response_format", "json_schema", "structured")
OPTIONAL_FIELDS = ("max_tokens", "max_completion_tokens", "temperature", "seed", "reasoning_effort", *SCHEMA_FIELDS)
REFUSAL = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unknown|unexpected|no such|illegal|extraneous|"
    r"(?:not|n't) (?:permitted|allowed|available|enabled|accept\w*|implemented|recogni[sz]ed|known|valid|a valid)|"
    r"forbidden|"
    r"deprecated|obsolete|disabled|unavailable|immutable|only the default|incompatible|instead|may only be|"
    r"can(?:not|n't| not) be (?:set|used|specified|given)|temperature\W{1,3}(?:must|has to) be 1\b|"
    r"invalid (?:parameter|field|argument|keyword|property|key)|不支持|未知",
    re.IGNORECASE,
)
OTHER_WORDS = {  # of a part that an error names in its own words; the first that fits
    "system": r"system (?:role|message|prompt|instruction)|developer instruction|messages\[\d+\]\.role|must alternate",
    "response_format": r"grammar|guided[ _]decoding|structured[ _]output|(?:output|response)[ _]format|json[ _]schema",
    "reasoning_effort": r"\b(?:thinking|reasoning)\b",
}
UNROUTED = re.compile(r"no endpoints found that (?:support|can handle)\b(.*)", re.IGNORECASE | re.DOTALL)
UNNAMED = "unnamed"  # a part of a request that a server refuses without saying which
MAX_DETAILS = 4000  # characters of an error's body in which the refused field is looked for
LONG_SECONDS = 365 * 86400.0
EPOCH_SECONDS = 1e9  # from here (2001) to ten times it, a number is a date, as some servers have it
MAX_TIMED_OUT = 2  # calls about one match that we give up waiting for; more would be paid for nothing
MAX_REASON = 200  # characters of a reason that is shown and stored


MAX_COUNT = 10**7  # tokens of one call, beyond any model's context; a server that says more has not counted
MAX_DIGITS = 30  # of a whole number in a reply
TOO_DEEP = "the server's reply is nested too deeply"


class RunStopped(Exception):
    """Raised when no further call makes sense; judgments stay, and the rest is left for the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens that a server counted; None for what it did not count, or not credibly."""

    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What went wrong with one call."""

    reason: str
    retry: bool = False
    fatal: bool = False
    wait_seconds: float | None = None  # what the server asked for
    was_free: bool = False  # surely not billed
    usage: Usage = Usage()  # what the server counted all the same
    adapt: str | None = None  # the request's part that the server doesn't know: try without it
    unreached: bool = False  # no connection was made
    timed_out: bool = False  # we gave up waiting, and the server may go on and bill it


class Gate:
    """Holds all calls back while the server's limits ask for it."""

    def __init__(self, max_wait_seconds: float) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._not_before = 0.0

    async def wait(self) -> None:
        """Returns when a call may be sent.

        Raises:
            RunStopped: that is further off than the limit.
        """
        while (left := self._not_before - time.monotonic()) > 0:
            if left > self._max_wait_seconds:
                raise RunStopped(too_long_a_wait(left, self._max_wait_seconds))
            await asyncio.sleep(left)

    def hold(self, seconds: float) -> None:
        """No call before so many seconds from now."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def observe(self, headers: Mapping[str, str], num_tokens: int) -> None:
        """Heeds a reply's rate-limit headers, if the next call will need about `num_tokens`."""
        for kind, needed in (("requests", 1), ("tokens", num_tokens)):
            remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
            reset = parse_duration(headers.get(f"x-ratelimit-reset-{kind}"))
            if remaining is not None and reset is not None and remaining < needed:
                self.hold(reset)


def too_long_a_wait(seconds: float, limit: float) -> str:
    """What ends a run whose server asks for more patience than there is."""
    shown = f"{seconds:.0f} s" if seconds < LONG_SECONDS else "more than a year"
    return f"the server asks for a wait of {shown}, more than max_wait_seconds={limit:g}"


def classify(error: APIError | TimeoutError | RecursionError) -> Fault:
    """The fault behind an exception of the client, which says what to do about it."""
    if isinstance(error, RecursionError):
        return Fault(reason=TOO_DEEP)
    if isinstance(error, (APITimeoutError, TimeoutError)):
        return Fault(reason="time-out", retry=True, timed_out=True)
    if isinstance(error, APIStatusError):
        code, wait = str(error.code or error.type or ""), wait_asked_for(error.response.headers)
        message = error_message(error.body) or error_message(str(error))
        fault = status_fault(error.status_code, code, message, wait, error_details(error.body))
        return replace(fault, usage=usage_of(error.response.content))
    if isinstance(error, APIConnectionError):
        if isinstance(error.__cause__, ReplyTooLarge):
            return Fault(reason=str(error.__cause__))
        refused = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
        reason = "no connection" if refused else "the connection broke off"
        return Fault(reason=reason, was_free=refused, retry=refused, unreached=refused)
    return Fault(reason=f"{type(error).__name__}")


def load_json(content: bytes | str) -> Any:
    """A reply's JSON; a whole number of many digits becomes a float, which is no count.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(content, parse_int=lambda digits: int(digits) if len(digits) <= MAX_DIGITS else float(digits))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def usage_of(content: bytes) -> Usage:
    """The tokens that a body counts; none where it is no JSON."""
    try:
        return read_usage(load_json(content))
    except ValueError:
        return Usage()


def read_usage(body: Any) -> Usage:
    """The tokens that a body counts. No prompt has none.

    Some servers (xAI's, Gemini's) count thoughts, which are billed as tokens of the reply, in the total only.
    """
    counts = body.get("usage") if isinstance(body, dict) else None
    counts = counts if isinstance(counts, dict) else {}
    prompt = _count(counts.get("prompt_tokens")) or None
    completion = _count(counts.get("completion_tokens"))
    total = _count(counts.get("total_tokens"))
    if prompt is not None and completion is not None and total is not None:
        completion = max(completion, total - prompt)
    return Usage(num_prompt_tokens=prompt, num_completion_tokens=completion)


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds of `retry-after-ms` or `retry-after` (a number or a date); None where neither can be read."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    if text is None:
        return None
    if text.strip().isdecimal():
        return _until(float(text))  # of hundreds of digits: infinite, which is a wait too
    seconds = _number(text)
    if seconds is not None:
        return _until(seconds)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def parse_duration(text: str | None) -> float | None:
    """Seconds of "1s", "6m0s", "1h2m3.5s", "120ms", a plain number or a date as one; None for anything else."""
    if text is None:
        return None
    parts = DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        seconds = sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)
        return seconds if math.isfinite(seconds) else None
    number = _number(text)
    return None if number is None else _until(number)


def backoff_seconds(attempt: int, first_seconds: float, spread: float) -> float:
    """How long to wait after attempt number `attempt`: doubles each time; `spread` in [0, 1) keeps callers apart."""
    return first_seconds * 2.0 ** (attempt - 1) * (1 + spread / 2)


def status_fault(status: int, code: str, message: str, wait_seconds: float | None = None, details: str = "") -> Fault:
    """The fault behind an HTTP status that is no success.

    Args:
        status: the HTTP status.
        code: the server's own code for the error, or an empty text.
        message: the server's words.
        wait_seconds: what the server asked for.
        details: the whole body of the error, where it names the field that it refuses.
    """
    reason = f"HTTP {status}: {message}"
    if code in FATAL_CODES or any(name in message for name in FATAL_CODES):
        return Fault(reason=f"the account's quota is used up ({reason})", fatal=True, was_free=True)
    unrouted = unrouted_part(message)
    if status in FATAL_STATUS:
        return Fault(reason=f"{FATAL_STATUS[status]} ({reason})", fatal=True, was_free=True, adapt=unrouted)
    if 300 <= status < 400:
        return Fault(reason=f"HTTP {status}: a redirect, which is not followed; give the final base_url", was_free=True)
    adapt = unrouted
    if adapt is None and status in REFUSING_STATUS:
        adapt = refused_field(message) or refused_field(details)
    if status in (408, 429) or status >= 500:
        was_free = (
            status == 429 or adapt is not None
        )  # another one may have been answered, and billed, before it failed
        return Fault(reason=f"HTTP {status}", retry=True, wait_seconds=wait_seconds, was_free=was_free, adapt=adapt)
    return Fault(reason=reason, was_free=True, adapt=adapt)


def error_in_reply(body: Any) -> Fault | None:
    """The fault that a body of status 200 tells instead of a completion, as gateways do; None where it tells none.

    Its code is read as an HTTP status where it is one.
    """
    found = body.get("error") if isinstance(body, dict) else None
    if isinstance(body, dict) and not found and body.get("object") == "error":
        found = body
    if not found:
        return None
    code = found.get("code") if isinstance(found, dict) else None
    status = int(code) if isinstance(code, (int, str)) and re.fullmatch("[45][0-9][0-9]", str(code)) else None
    words, details = error_message(found), error_details(found)
    fault = status_fault(status or 500, code if isinstance(code, str) else "", words, details=details)
    if status is None:
        fault = replace(fault, retry=False, was_free=fault.fatal or fault.adapt is not None)
    told = fault.reason if fault.fatal and status is not None else words or "it gives no reason"
    return replace(fault, reason=f"the server's reply is an error: {told}")


def refused_field(text: str) -> str | None:
    """The optional part of a request that an error's text says the server doesn't take; None where it says none.

    A text may name several, as one that repeats the request does: the one next to the words that refuse is meant.
    """
    text = re.sub(r"\buse\W{1,3}\w+\W{1,3}instead\b", "instead", text, flags=re.IGNORECASE)  # that one is taken
    refusals = [match.span() for match in REFUSAL.finditer(text)]
    other = next((part for part, words in OTHER_WORDS.items() if re.search(words, text, re.IGNORECASE)), None)
    if not refusals:
        if any(name in text for name in SCHEMA_FIELDS) or re.search(r"(?:pars|convert|compil)\w* .{0,20}grammar", text):
            return "response_format"
        return "system" if "roles must alternate" in text else None
    places = [
        (max(match.start() - end, start - match.end()), order, name)
        for order, name in enumerate(OPTIONAL_FIELDS)
        for match in re.finditer(rf"\b{name}\b|\b{_in_capitals(name)}\b", text)
        for start, end in refusals
    ]
    if not places:
        return other
    name = min(places)[2]
    return "response_format" if name in SCHEMA_FIELDS else name


def unrouted_part(text: str) -> str | None:
    """The part of a request for which a router (OpenRouter) finds no server; `UNNAMED` where it doesn't say which.

    None for other errors, and for what such a text says of tools, images or a model, which no other request mends.
    """
    found = UNROUTED.search(text)
    if found is None:
        return None
    name = next((name for name in OPTIONAL_FIELDS if re.search(rf"\b{name}\b", found[1])), None)
    if name is None:
        return (
            UNNAMED
            if re.match(r" (?:the|all|these)? ?(?:requested |given |provided )?parameters?\b", found[1])
            else None
        )
    return "response_format" if name in SCHEMA_FIELDS else name


def _in_capitals(name: str) -> str:
    """ "reasoning_effort" -> "reasoningEffort", as some servers' errors have it."""
    first, *later = name.split("_")
    return first + "".join(word.capitalize() for word in later)


def error_message(body: Any) -> str:
    """The server's words in an error's body, on one line; they are cut once the key is out (`request.shown_reason`)."""
    found = body.get("message") if isinstance(body, dict) else body
    text = found if isinstance(found, str) else error_details(found) if found is not None else ""
    return " ".join(text.split())


def error_details(body: Any) -> str:
    """An error's body as text, to look through; empty where it can't be written."""
    try:
        return json.dumps(body)[:MAX_DETAILS]
    except (TypeError, ValueError, RecursionError):
        return ""


def _count(value: Any) -> int | None:
    """A number of tokens; None for what can't be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def _until(seconds: float) -> float:
    """From now; a number that is a date since 1970, in seconds or milliseconds, is a time to wait for."""
    for unit in (1.0, 1000.0):
        if EPOCH_SECONDS <= seconds / unit < 10 * EPOCH_SECONDS:
            return max(0.0, seconds / unit - time.time())
    return seconds


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < float("inf") else None
