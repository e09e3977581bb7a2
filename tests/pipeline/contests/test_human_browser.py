"""The voting page in Debian's Chromium: hostile answers do nothing, nothing loads from outside, keys vote.

Each hostile answer is shown under an open door first (no sanitiser, no policy), where the browser must fall for it:
so the test would notice if it could not see an attack.
"""

import html
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import uvicorn

from eval.human.items import Contest, Item
from eval.human.raters import add_rater, hash_token
from eval.human.store import Rules, VoteStore, create_store
from eval.human.votes import Choice, votes
from eval.human.web.app import create_app
from eval.human.web.guard import Access
from eval.human.web.server import listen
from tests.payloads import PAYLOADS
from tests.servers.chromium import Chromium, LedAwayError, find_chromium
from tests.voting import SYSTEMS, make_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium (Debian: apt-get install chromium)"),
]
ADMIN = "the-admins-own-secret"
HARMLESS = {"template", "bidi", "entities", "data_link", "code_break", "title_break", "attribute_break"}
CLICKED = {"javascript_link", "javascript_anchor", "javascript_tab", "svg_animate"}  # need a click to run anywhere
MARKDOWN = {"markdown_image", "data_image", "javascript_link"}  # attack through Markdown, not as HTML


class Beacon:
    """Stands for every other host: remembers what was asked of it. Also serves pages with an open door."""

    def __init__(self) -> None:
        beacon = self
        self.asked: list[str] = []
        self.page = ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/open-door":
                    body = beacon.page.encode()
                else:
                    beacon.asked.append(self.path)
                    body = b""
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def beacon() -> Iterator[Beacon]:
    made = Beacon()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory, beacon: Beacon) -> Iterator[Chromium]:
    """Every host but loopback is the beacon."""
    rules = f"--host-resolver-rules=MAP beacon.example:80 127.0.0.1:{beacon.port},MAP * ~NOTFOUND,EXCLUDE 127.0.0.1"
    with Chromium(tmp_path_factory.mktemp("profile"), rules) as made:
        yield made


class Served:
    """The application on a port of its own, in a thread."""

    def __init__(self, store: VoteStore) -> None:
        self.listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        access = Access(admin_sha256=hash_token(ADMIN), hosts=frozenset({"127.0.0.1"}))
        self.server = uvicorn.Server(uvicorn.Config(create_app(store, access), log_level="warning", access_log=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)

    def __enter__(self) -> "Served":
        self.thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()


def hostile_store(folder: Path) -> VoteStore:
    """An item for each payload, in order."""
    items = [
        Item(
            question_id=name, category="general", question=f"{name}? <b>{html.escape(payload)}</b> {payload}",
            system_one="okapi-7", system_two="zebra-3", answer_one=payload, answer_two=f"fine {payload}",
        )
        for name, payload in PAYLOADS.items()
    ]  # fmt: skip
    contest = Contest(items=tuple(items), checks=(), seed=0)
    return create_store(folder, contest, Rules(check_rate=0.0))


def settle(chromium: Chromium) -> None:
    """Until what a page starts has had its turn."""
    chromium.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")


def test_hostile_answers_do_nothing(tmp_path: Path, chromium: Chromium, beacon: Beacon) -> None:
    store = hostile_store(tmp_path)
    token = add_rater(store, "ann")
    with Served(store) as served:
        chromium.open(f"{served.url}/enter/{token}")
        chromium.requests.clear()
        for name in PAYLOADS:
            beacon.asked.clear()
            settle(chromium)
            assert chromium.value("document.querySelector('.asked').textContent").startswith(f"{name}?")
            assert chromium.value("typeof window.pwned") == "undefined", name
            assert beacon.asked == [], name
            assert chromium.value("document.querySelectorAll('.said *').length") < 60, name
            elements = (
                "script, img, iframe, object, embed, svg, math, style, link, meta, base, form, input, video, a, [style]"
            )
            assert chromium.value(f"document.querySelectorAll('.said :is({elements})').length") == 0, name
            assert chromium.value("document.querySelectorAll('form').length") == 2, name
            assert chromium.value("getComputedStyle(document.body).display") == "flex", name
            chromium.press_and_wait("ArrowDown")
        assert chromium.value("document.querySelector('h1').textContent") == "Thank you, ann"
        assert {request.split("/")[2] for request in chromium.requests} == {served.url.split("/")[2]}
    assert chromium.dialogs == []
    assert chromium.errors == []  # the policy had nothing to refuse: the sanitiser alone was enough
    assert len(votes(store)) == len(PAYLOADS)


@pytest.mark.parametrize("name", sorted(PAYLOADS.keys() - HARMLESS - CLICKED - MARKDOWN))
def test_the_same_answers_attack_where_the_door_is_open(name: str, chromium: Chromium, beacon: Beacon) -> None:
    """Without this the test above could pass because the payloads are dull."""
    beacon.asked.clear()
    opening = "<!doctype html><body><main><article><div>"
    attacked = (
        "location.origin != 'http://127.0.0.1:%d' || window.pwned || document.querySelector('form, style, [style]')"
    )
    beacon.page = opening + PAYLOADS[name]
    chromium.open(f"http://127.0.0.1:{beacon.port}/open-door")
    for _ in range(50):
        try:
            settle(chromium)
            if beacon.asked or chromium.value(f"!!({attacked % beacon.port})"):
                return
        except LedAwayError:  # an attack too
            return
    pytest.fail(f"{name} does nothing even where it may: {PAYLOADS[name]}")


def test_the_policy_alone_holds_too(
    tmp_path: Path, chromium: Chromium, beacon: Beacon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wall: answers as they are, under the page's headers only."""
    monkeypatch.setattr("eval.human.web.pages.render_answer", lambda text: text)
    store = hostile_store(tmp_path)
    token = add_rater(store, "ann")
    names = [name for name in PAYLOADS if name not in ("refresh", "form", "close_page")]  # break the page, not the wall
    with store.writing() as db:
        db.execute("DELETE FROM items WHERE question_id IN ('refresh', 'form', 'close_page')")
    with Served(store) as served:
        chromium.errors.clear()
        beacon.asked.clear()
        chromium.open(f"{served.url}/enter/{token}")
        for name in names:
            settle(chromium)
            assert chromium.value("typeof window.pwned") == "undefined", name
            assert beacon.asked == [], name
            chromium.value("fetch('/vote', {method: 'POST', body: new URLSearchParams(new FormData("
                           "document.getElementById('vote'))) + '&choice=tie', headers: {'Content-Type': "
                           "'application/x-www-form-urlencoded'}}).then(answer => answer.status)")  # fmt: skip
            chromium.open(f"{served.url}/")
    assert any("Content Security Policy" in line for line in chromium.errors)  # here it had work
    chromium.errors.clear()


def test_keys_vote_once_and_u_takes_back(tmp_path: Path, chromium: Chromium) -> None:
    store = make_store(tmp_path, num_questions=3)
    with Served(store) as served:
        chromium.open(f"{served.url}/enter/{add_rater(store, 'ann')}")
        for key, choice in (
            ("ArrowLeft", "left"),
            ("ArrowRight", "right"),
            ("ArrowDown", "tie"),
            ("ArrowUp", "both_bad"),
        ):
            chromium.press_and_wait(key)
            assert votes(store)[-1].choice is Choice(choice)
        chromium.press("ArrowLeft", repeats=True)  # a key that is held down
        settle(chromium)
        assert len(votes(store)) == 4
        chromium.press_and_wait("u")
        assert len(votes(store)) == 3
        assert "taken back" in chromium.value("document.querySelector('.note').textContent")
        chromium.press_and_wait("ArrowLeft")
        assert [vote.choice.value for vote in votes(store)] == ["left", "right", "tie", "left"]
        shown = chromium.value("document.documentElement.outerHTML")
        assert not any(system in shown for system in SYSTEMS)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_has_one_column_and_no_sideways_scroll(tmp_path: Path, chromium: Chromium, dark: bool) -> None:
    store = make_store(tmp_path)
    with Served(store) as served:
        token = add_rater(store, "ann")
        chromium.screen(390, 844, dark=dark, phone=True)
        chromium.open(f"{served.url}/enter/{token}")
        assert chromium.value("document.documentElement.scrollWidth") == 390
        lefts = "[...document.querySelectorAll('article')].map(a => a.getBoundingClientRect().left)"
        assert chromium.value(lefts) == [16, 16]
        heights = chromium.value(
            "[...document.querySelectorAll('#vote button')].map(b => b.getBoundingClientRect().height)"
        )
        assert min(heights) >= 44  # CSS pixels that a thumb finds
        light = chromium.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (light < 60) == dark
        chromium.open(f"{served.url}/admin/enter/{ADMIN}")
        assert chromium.value("document.documentElement.scrollWidth") == 390
        chromium.screen(1280, 860)
        chromium.open(f"{served.url}/")
        assert len(set(chromium.value(lefts))) == 2


def test_the_admin_page_renews_itself(tmp_path: Path, chromium: Chromium) -> None:
    store = make_store(tmp_path)
    with Served(store) as served:
        token = add_rater(store, "ann")
        chromium.open(f"{served.url}/admin/enter/{ADMIN}")
        assert "Votes" in chromium.value("document.querySelector('.facts').textContent")
        chromium.requests.clear()
        chromium.value("document.querySelector('tbody th').textContent = 'old'")
        chromium.value("renew()")
        assert chromium.value("document.querySelector('tbody th').textContent.trim()") == "ann"
        asked = [url for url in chromium.requests if not url.endswith("/icon.svg")]  # that comes when the browser likes
        assert asked == [f"{served.url}/admin/live"]
        assert token not in chromium.value("document.documentElement.outerHTML")
