"""The server by hand: where it listens, what uvicorn is told, who is let in from where."""

import asyncio
import math
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from fastapi.testclient import TestClient
from jinja2 import StrictUndefined
from uvicorn.protocols.http.h11_impl import H11Protocol

from eval.human.raters import add_rater, hash_token
from eval.human.web import guard, server
from eval.human.web.app import create_app
from eval.human.web.guard import (
    HEADERS,
    MAX_WRONG_TOKENS,
    TRIES_SECONDS,
    Access,
    Guard,
    Refused,
    TimedProtocol,
    TokenTries,
)
from eval.human.web.server import ServeOptions, _url, admin_token, listen, make_access
from eval.human.web.token_strength import MIN_BITS, strength_bits, weakness
from tests.voting import Clock, make_store

URL = "http://127.0.0.1"
ACCESS = Access(admin_sha256=hash_token("the-admins-own-secret"), hosts=frozenset({"127.0.0.1"}))


def test_addresses_have_their_ends() -> None:
    assert ServeOptions() == ServeOptions(host="127.0.0.1", port=8000, public_url=None)
    for port in (0, 65_535):
        assert ServeOptions(port=port).port == port
    for url in ("http://a", "https://a.example:8443", "http://a/"):
        assert ServeOptions(public_url=url).public_url == url
    for port in (-1, 65_536):
        with pytest.raises(ValueError, match=f"port={port}: expected 0 to 65535"):
            ServeOptions(port=port)
    for url in ("ftp://a", "http://", "http://:80", "https://a/b", "//a"):
        with pytest.raises(ValueError, match=f"public_url={url}: expected"):
            ServeOptions(public_url=url)


@pytest.mark.parametrize("public", [None, "https://vote.example/"])
@pytest.mark.parametrize("chosen", [None, "long enough to be one"])
def test_what_is_served_where_and_what_is_announced(
    public: str | None, chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_HUMAN_TOKEN", raising=False)
    if chosen is not None:
        monkeypatch.setenv("HARNESS_HUMAN_TOKEN", chosen)
    store, said, served = make_store(tmp_path), list[Any](), list[Any]()

    def run(config: Any) -> Any:
        assert said, "announced before it serves"
        return SimpleNamespace(run=lambda sockets: served.append((config, [s.getsockname()[1] for s in sockets])))

    monkeypatch.setattr(server.uvicorn, "Server", run)
    server.serve(store, ServeOptions(port=0, public_url=public), lambda *words: said.append(words))
    ((config, (port,)),) = served
    url = "https://vote.example" if public else f"http://127.0.0.1:{port}"
    ((announced, token),) = said
    assert (announced, store.fact("url"), token is None) == (url, url, chosen is not None)
    assert (config.http, config.log_level, config.timeout_graceful_shutdown) == (TimedProtocol, "warning", 3)
    assert (config.access_log, config.server_header, config.proxy_headers) == (False, False, False)
    access = config.app.state.site.access
    assert access.admin_sha256 == hash_token(chosen or token)
    assert access.secure_cookies is (public is not None)


def test_a_chosen_secret_has_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for token, message in (("k8Qz!vT4mW.x9Rp", "15 characters; a token needs at least 16"), ("k8Qz!vT4mW.x9Rp2", None)):
        monkeypatch.setenv("HARNESS_HUMAN_TOKEN", token)
        if message is None:
            assert admin_token("0.0.0.0") == (token, False)
        else:
            with pytest.raises(ValueError, match=message):
                admin_token("127.0.0.1")
    enough = "kqzvxmbtjfhr"
    assert strength_bits(enough) == pytest.approx(12 * math.log2(26))
    assert MIN_BITS == 56.0 < strength_bits(enough) < 2 * MIN_BITS
    assert weakness(enough) is None
    worth = "worth about 52 bits, 56 are needed: words, repeats and runs such as abc count nothing"
    assert weakness(enough[:-1]) == worth
    assert strength_bits("administratork") == pytest.approx(math.log2(26))  # the longest word counts


def test_who_is_known_by_which_name() -> None:
    assert make_access(ServeOptions(), "t") == Access(
        admin_sha256=hash_token("t"), hosts=frozenset({"127.0.0.1", "localhost", "::1"}), secure_cookies=False
    )
    plain = make_access(ServeOptions(host="127.0.0.9", public_url="http://vote.example:80"), "t")
    assert plain.hosts == frozenset({"127.0.0.1", "localhost", "::1", "127.0.0.9", "vote.example"})
    assert plain.secure_cookies is False
    assert Access(admin_sha256="x", hosts=None).secure_cookies is False


def test_addresses_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.socket, "gethostname", lambda: "me")
    assert [_url(host, 80) for host in ("0.0.0.0", "::", "::1", "a")] == [
        "http://me:80",
        "http://me:80",
        "http://[::1]:80",
        "http://a:80",
    ]


def test_the_listener_is_of_the_addresss_own_family_and_a_failed_look_up_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(server.socket, "getaddrinfo", lambda host, port, type: [(socket.AF_INET6, type)])
    monkeypatch.setattr(server.socket, "create_server", lambda place, family: made.append((place, family)))
    listen("::1", 80)
    assert made == [(("::1", 80), socket.AF_INET6)]

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(server.socket, "getaddrinfo", unknown)
    with pytest.raises(ValueError, match="host=a port=80: Name or service not known; take another --port"):
        listen("a", 80)


def test_pages_are_escaped_and_lack_no_value_and_nothing_else_is_served(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    app = create_app(store, ACCESS)
    templates = app.state.site.templates
    assert (templates.autoescape, templates.undefined) == (True, StrictUndefined)
    client = TestClient(app, base_url=URL)
    assert [client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
    nobody = client.post("/vote", data={"assignment": "1", "choice": "left"})
    assert (nobody.status_code, "Ask for a new one" in nobody.text) == (401, True)
    assert "This did not work" in nobody.text
    wrong, none = client.get("/enter/1.x").text, client.get("/").text
    assert ["opens nothing here" in page for page in (wrong, none)] == [True, False]
    assert ["Open the link that you were given" in page for page in (wrong, none)] == [True, True]
    pages = [client.get(path).text for path in ("/admin/enter/x", "/admin")]
    assert ["opens nothing here" in page for page in pages] == [True, False]
    assert all("Admin page" in page and 'action="/admin"' in page for page in pages)


def test_a_raters_cookie_lasts_90_days_and_undo_has_its_notes(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token = add_rater(store, "ann")
    client = TestClient(create_app(store, ACCESS), base_url=URL)
    answer = client.get(f"/enter/{token}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "Max-Age=7776000" in answer.headers["set-cookie"]
    page = client.get("/").text
    form = page.partition('name="form" value="')[2].partition('"')[0]
    assert "There is no vote of yours to take back." in client.post("/undo", data={"form": form}).text
    assert 'class="note"' not in client.get("/?note=nonsense").text
    refused = client.post("/undo", data={"form": "x"})
    assert (refused.status_code, "not from your own page" in refused.text) == (403, True)
    assert client.post("/enter", data={"token": f" {token} "}).status_code == 200


def test_wrong_tokens_count_by_address(tmp_path: Path) -> None:
    app = create_app(make_store(tmp_path), ACCESS)
    here, there = (TestClient(app, base_url=URL, client=(address, 1)) for address in ("10.0.0.1", "10.0.0.2"))
    assert [here.get("/enter/1.x").status_code for _ in range(MAX_WRONG_TOKENS + 1)][-1] == 429
    assert there.get("/enter/1.x").status_code == 401
    assert here.get("/admin/enter/x").status_code == 401  # the admin's are counted by themselves


def test_addresses_are_forgotten_once_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_ADDRESSES", 2)
    clock = Clock()
    tries = TokenTries(now=clock)
    assert not tries.is_right("a", lambda: False)
    clock.seconds += TRIES_SECONDS
    assert not tries.is_right("b", lambda: False)
    assert set(tries._wrong) == {"a", "b"}
    assert not tries.is_right("c", lambda: False)
    assert set(tries._wrong) == {"b", "c"}


def test_how_long_one_waits_after_wrong_tokens() -> None:
    clock = Clock()
    tries = TokenTries(now=clock)
    for _ in range(MAX_WRONG_TOKENS):
        assert not tries.is_right("a", lambda: False)
        clock.seconds += 1
    with pytest.raises(Refused, match=f"Try again in {60 - MAX_WRONG_TOKENS + 1} seconds") as refused:
        tries.is_right("a", lambda: True)
    assert refused.value.status == 429


def test_other_scopes_pass_and_refused_requests_close_the_connection() -> None:
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def run(scope: Any) -> None:
        await Guard(app, ACCESS)(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(run({"type": "lifespan"}))
    assert (passed, sent) == (["lifespan"], [])
    headers = [(b"host", b"evil.example")]
    asyncio.run(run({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}))
    assert passed == ["lifespan"]
    start = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert (sent[0]["status"], start["connection"]) == (421, "close")
    assert {name: start[name.lower()] for name in HEADERS} == HEADERS


@pytest.mark.parametrize("waits", [True, False])
def test_a_lost_connection_is_waited_for_no_longer(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Any] = []
    monkeypatch.setattr(H11Protocol, "connection_lost", lambda self, error: lost.append(error))
    protocol = object.__new__(TimedProtocol)
    timer = MagicMock()
    protocol._deadline = timer if waits else None
    protocol.connection_lost(None)
    assert (lost, timer.cancel.called) == ([None], waits)
