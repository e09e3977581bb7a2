"""Serves the vote, on this machine only unless a token guards it.

    serve(store, ServeOptions(host="127.0.0.1", port=8000), announce=print)

On a loopback address the admin's token is drawn at each start and shown once. Any other address can be reached
by others, so that the admin must bring a secret of their own in HARNESS_HUMAN_TOKEN (never on the command line, where
every process of the machine could read it). Raters need their token everywhere.
"""

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from eval.human.raters import hash_token
from eval.human.store import VoteStore
from eval.human.web.app import create_app
from eval.human.web.guard import Access, TimedProtocol
from eval.human.web.token_strength import weakness

TOKEN_VARIABLE = "HARNESS_HUMAN_TOKEN"
MIN_TOKEN = 16  # characters
DRAW_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe())'"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
SHUTDOWN_SECONDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The address to listen on, and the one that raters use."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    public_url: str | None = None  # what raters type where a proxy stands in front

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port={self.port}: expected 0 to 65535")
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
                raise ValueError(f"public_url={self.public_url}: expected http(s)://name[:port], without a path")


def serve(store: VoteStore, options: ServeOptions, announce: Callable[[str, str | None], None]) -> None:
    """Serves until interrupted.

    Args:
        store: the votes.
        options: where to listen.
        announce: told the address, and the admin's token where one was drawn, once the port is ours.

    Raises:
        ValueError: the address needs a token, or can't be listened on.
    """
    token, drawn = admin_token(options.host)
    listener = listen(options.host, options.port)
    with listener:
        port = int(listener.getsockname()[1])
        url = (options.public_url or _url(options.host, port)).rstrip("/")
        store.set_fact("url", url)
        access = make_access(options, token)
        announce(url, token if drawn else None)
        config = uvicorn.Config(
            create_app(store, access),
            http=TimedProtocol,
            log_level="warning",
            access_log=False,  # addresses hold tokens
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])


def admin_token(host: str) -> tuple[str, bool]:
    """-> the admin's token, and whether it was drawn just now.

    Raises:
        ValueError: the host can be reached from elsewhere and no good token was given.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and len(token) < MIN_TOKEN:
        raise ValueError(f"{TOKEN_VARIABLE}: {len(token)} characters; a token needs at least {MIN_TOKEN}")
    if token and (why := weakness(token)):
        raise ValueError(f"{TOKEN_VARIABLE}: easy to guess ({why}); take one that is drawn: {DRAW_TOKEN}")
    if not token and not is_loopback(host):
        raise ValueError(
            f"host={host}: others can reach this address, so it needs a token; set {TOKEN_VARIABLE} to a secret of at "
            f"least {MIN_TOKEN} characters ({DRAW_TOKEN}), or stay "
            f"with --host 127.0.0.1"
        )
    return (token, False) if token else (secrets.token_urlsafe(), True)


def make_access(options: ServeOptions, token: str) -> Access:
    """The access rules. On loopback only known host names are answered, so no site can point its own name here."""
    public = urlsplit(options.public_url) if options.public_url else None
    hosts = LOOPBACK_NAMES | ({public.hostname} if public and public.hostname else set())
    return Access(
        admin_sha256=hash_token(token),
        hosts=frozenset(hosts | {options.host}) if is_loopback(options.host) else None,
        secure_cookies=public is not None and public.scheme == "https",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host. A name other than localhost may mean any machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ValueError: the port is in use or the address isn't this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # A failed look-up of a name has numbers of its own, below 0.
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        raise ValueError(
            f"host={host} port={port}: {why}; take another --port (0 finds a free one) or --host"
        ) from None


def _url(host: str, port: int) -> str:
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
