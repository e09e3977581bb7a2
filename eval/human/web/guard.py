"""Decides which requests reach the pages: known host names, short whole forms, and no endless guessing of tokens.

`Guard` stands before the application. It reads a request's body whole, counting what really comes whatever the headers
say, so that nothing is parsed or stored of a form that is too long, too slow or of another kind; and it adds the
headers under which nothing foreign runs or loads to every answer. `TokenTries` slows who tries token after token, and
`TimedProtocol` closes a connection on which no whole request comes.
"""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_FORM_BYTES = 4096
BODY_SECONDS = 10.0  # for all of a request's body
HEADER_SECONDS = 10.0  # for all of a request's headers, from the connection's begin or the last answer on
MAX_WRONG_TOKENS = 10  # of one address, within TRIES_SECONDS; further ones are not looked at
TRIES_SECONDS = 60.0
MAX_ADDRESSES = 10_000  # remembered at once
FORM_TYPE = "application/x-www-form-urlencoded"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may reach what."""

    admin_sha256: str  # hash of the admin's token
    hosts: frozenset[str] | None  # names under which a browser may ask, against DNS rebinding; None: any
    secure_cookies: bool = False  # behind https only


class Refused(Exception):
    """Raised for a request that no page answers."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Guard:
    """An ASGI application around another: refuses what no page of ours sends."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            check_request(Request(scope), self._access)
            body = await _whole_body(receive)
        except Refused as refused:
            response = PlainTextResponse(refused.why, refused.status, headers={"Connection": "close"})
            await response(scope, receive, send_with_headers)
            return
        await self._app(scope, _handed_over(body, receive), send_with_headers)


def check_request(request: Request, access: Access) -> None:
    """Looks at a request's headers.

    Raises:
        Refused: they are none that a page of ours sends.
    """
    if access.hosts is not None and (_host(request) or "") not in access.hosts:
        raise Refused(421, "This server is not known under that name.")
    length = request.headers.get("content-length", "" if request.method not in ("GET", "HEAD") else "0")
    if not (length.isascii() and length.isdigit()):
        raise Refused(411, "A form says how long it is.")
    if len(length) > 10 or int(length) > MAX_FORM_BYTES:
        raise Refused(413, f"A form here has at most {MAX_FORM_BYTES} bytes.")
    if request.method in ("GET", "HEAD"):
        return
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "This form comes from another site.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if int(length) and kind != FORM_TYPE:
        raise Refused(415, f"A form here is {FORM_TYPE}.")


class TokenTries:
    """Wrong tokens by address: who has sent MAX_WRONG_TOKENS in the last TRIES_SECONDS waits, whatever comes next."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._wrong: defaultdict[str, deque[float]] = defaultdict(deque)

    def is_right(self, address: str, check: Callable[[], bool]) -> bool:
        """Runs a check of a token, and remembers where it fails.

        Raises:
            Refused: 429, before anything is looked at.
        """
        with self._lock:  # counted first, so that many at once are no more than one after another
            self._count(address)
        if not check():
            return False
        with self._lock:
            if self._wrong[address]:
                self._wrong[address].pop()
        return True

    def _count(self, address: str) -> None:
        now = self._now()
        for known in [address] if len(self._wrong) < MAX_ADDRESSES else list(self._wrong):
            times = self._wrong[known]
            while times and times[0] <= now - TRIES_SECONDS:
                times.popleft()
            if not times:
                del self._wrong[known]
        times = self._wrong[address]
        if len(times) >= MAX_WRONG_TOKENS:
            wait = int(times[0] + TRIES_SECONDS - now) + 1
            raise Refused(429, f"Too many wrong tokens came from here. Try again in {wait} seconds.")
        times.append(now)


class TimedProtocol(H11Protocol):
    """A connection of uvicorn's that must bring the whole headers of a request within HEADER_SECONDS."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Begins to wait for the next request."""
        super().on_response_complete()
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._close_without_headers)

    def _close_without_headers(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


async def _whole_body(receive: Receive) -> bytes:
    """The body of a request.

    Raises:
        Refused: it is too long or too slow, or the other side went away.
    """
    body: bytes = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "The form ended early.")
                body += bytes(message.get("body", b""))
                if len(body) > MAX_FORM_BYTES:
                    raise Refused(413, f"A form here has at most {MAX_FORM_BYTES} bytes.")
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise Refused(408, "The form did not come in time.") from None


def _handed_over(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, then what else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _host(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None
