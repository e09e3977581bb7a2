"""The HTTP client of every call to a judge's server, bounded in size and time and to one address.

Used by `eval.judges.calls` and `eval.judges.batch_server`. A redirect is not followed, so that key and
prompts reach nobody but the server that was named. A reply is read up to a size, counted after decompression, so that
a small compressed one can't fill the memory; `within` bounds the whole of a call, however slowly its bytes come.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

MAX_REPLY_BYTES = 16 * 2**20  # of one judgment; replies have some thousand
MAX_OUTPUT_BYTES = 2**30  # of a batch's output: 50,000 replies of 20 kB
DESCRIBING = ("content-encoding", "content-length", "transfer-encoding")  # headers that a decoded reply no longer has

T = TypeVar("T")


class ReplyTooLarge(httpx2.RequestError):
    """Raised for a reply beyond the limit; the openai client wraps it into an APIConnectionError."""


class BoundedClient(DefaultAsyncHttpxClient):
    """An HTTP client that reads no reply beyond a size and follows no redirect."""

    def __init__(self, max_bytes: int, **options: Any) -> None:
        super().__init__(follow_redirects=False, **options)
        self._max_bytes = max_bytes

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Sends a request and reads its reply whole, whether or not `stream` asks for pieces.

        Raises:
            ReplyTooLarge: the reply, decompressed, is larger than the limit.
        """
        options["follow_redirects"] = False
        reply = await super().send(request, stream=True, **options)
        try:
            content = await _read(reply, self._max_bytes)
        finally:
            await reply.aclose()
        headers = [(name, value) for name, value in reply.headers.multi_items() if name.lower() not in DESCRIBING]
        return httpx2.Response(reply.status_code, headers=headers, content=content, request=request)


def open_client(key: str, base_url: str, timeout_seconds: float, max_bytes: int) -> AsyncOpenAI:
    """A client without retries of its own; `eval.judges.retry` says what is tried again."""
    return AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        timeout=timeout_seconds,
        max_retries=0,
        http_client=BoundedClient(max_bytes, timeout=timeout_seconds),
    )


async def within(seconds: float, call: Awaitable[T]) -> T:
    """What a call gives, from connecting to its last byte; the client's own time-out starts anew with each byte.

    Raises:
        TimeoutError: it takes longer.
    """
    async with asyncio.timeout(seconds):
        return await call


async def _read(reply: httpx2.Response, max_bytes: int) -> bytes:
    content = bytearray()
    async for piece in reply.aiter_bytes():
        content += piece
        if len(content) > max_bytes:
            raise ReplyTooLarge(f"the reply is larger than {max_bytes / 2**20:g} MiB", request=reply.request)
    return bytes(content)
