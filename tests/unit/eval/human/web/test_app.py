"""The voting pages over HTTP: blind, guarded, forgiving; every answer under the same strict headers."""

import asyncio
import re
from collections import Counter
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from starlette.formparsers import FormParser

from eval.human.items import Contest, Item
from eval.human.raters import add_rater, hash_token
from eval.human.store import Rules, VoteStore, create_store
from eval.human.votes import Choice, votes
from eval.human.web.app import create_app
from eval.human.web.guard import (
    FORM_TYPE,
    HEADERS,
    MAX_FORM_BYTES,
    MAX_WRONG_TOKENS,
    TRIES_SECONDS,
    Access,
    Refused,
    TimedProtocol,
    TokenTries,
)
from eval.human.web.server import listen
from tests.voting import SYSTEMS, Clock, make_store

ADMIN = "the-admins-own-secret"
URL = "http://127.0.0.1"
WHOLE = b"GET /admin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ACCESS = Access(admin_sha256=hash_token(ADMIN), hosts=frozenset({"127.0.0.1"}))


def browser(store: VoteStore, token: str | None = None, access: Access = ACCESS) -> TestClient:
    client = TestClient(create_app(store, access), base_url=URL)
    if token is not None:
        assert client.get(f"/enter/{token}").status_code == 200
    return client


def field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None, page
    return found.group(1)


def vote(client: TestClient, choice: str, page: str | None = None) -> str:
    page = page if page is not None else client.get("/").text
    data = {"form": field(page, "form"), "assignment": field(page, "assignment"), "choice": choice}
    answer = client.post("/vote", data=data)
    assert answer.status_code == 200
    return answer.text


def test_a_rater_votes_to_the_end_and_reads_no_name(tmp_path: Path) -> None:
    store = make_store(tmp_path, check_rate=0.3)
    client = browser(store, add_rater(store, "ann"))
    seen = []
    client.event_hooks["response"].append(
        lambda answer: seen.append(str(answer.url) + str(answer.headers) + answer.read().decode())
    )
    page, choices = client.get("/").text, ["left", "right", "tie", "both_bad"]
    while "Thank you" not in page:
        page = vote(client, choices[len(votes(store)) % 4], page)
    cast = votes(store)
    assert Counter(v.better is None for v in cast)[True] == 12
    assert any(v.better is not None for v in cast)
    assert {v.choice for v in cast} == set(Choice)
    text = "\n".join(seen).lower()
    assert "person 1" in text  # the answers were there
    for secret in (*SYSTEMS, "attention", "better-", "system", "swapped", "seed"):
        assert secret not in text


def test_left_on_the_page_is_system_a_of_the_vote(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    client = browser(store, add_rater(store, "ann"))
    for _ in range(12):
        page = client.get("/").text
        first, second = re.findall(r"person (\d)", page)
        vote(client, "left", page)
        cast = votes(store)[-1]
        assert (cast.system_a, cast.system_b) == (SYSTEMS[int(first)], SYSTEMS[int(second)])


def test_undo_brings_the_same_page_back(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    client = browser(store, add_rater(store, "ann"))
    first = client.get("/").text
    assert "disabled" in first
    second = vote(client, "left", first)
    back = client.post("/undo", data={"form": field(second, "form")})
    assert "taken back" in back.text
    assert field(back.text, "assignment") == field(first, "assignment")
    assert votes(store) == []
    vote(client, "right", back.text)
    assert [v.choice for v in votes(store)] == [Choice.right]


def test_a_form_sent_twice_is_one_vote_and_another_choice_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    client = browser(store, add_rater(store, "ann"))
    page = client.get("/").text
    vote(client, "left", page)
    assert 'class="note"' not in vote(client, "left", page)
    assert "the first vote stands" in vote(client, "right", page)
    assert [v.choice for v in votes(store)] == [Choice.left]


def test_every_answer_has_the_headers(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    client = browser(store, add_rater(store, "ann"))
    answers = [
        client.get(path) for path in ("/", "/static/vote.js", "/admin", "/nowhere", "/enter/x", "/static/../store.py")
    ]
    answers += [client.post("/vote"), client.post("/vote", content=b"x" * (MAX_FORM_BYTES + 1))]
    assert [a.status_code for a in answers] == [200, 200, 401, 404, 401, 404, 403, 413]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    page = answers[0].text
    assert not re.findall(r'(?:src|href)="(?!/static/)', page)
    assert not re.search(r"<style|style=|\son[a-z]+=", page)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-length": "20"}, b"x" * (MAX_FORM_BYTES + 1), 413),  # more comes than was said
        ({"content-length": "20", "transfer-encoding": "chunked"}, b"x" * (MAX_FORM_BYTES + 1), 413),
        ({"transfer-encoding": "chunked"}, b"x", 411),
        ({"content-length": "9" * 5000}, b"x", 413),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b--", 415),
    ],
)
def test_nothing_is_read_of_a_form_that_is_none_of_ours(
    tmp_path: Path, headers: dict[str, str], body: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FormParser, "parse", lambda self: pytest.fail("the form was read"))
    client = browser(make_store(tmp_path))
    request = client.build_request("POST", "/enter", content=body)
    request.headers.update({"content-type": FORM_TYPE, **headers})
    if "content-length" not in headers and status == 411:
        del request.headers["content-length"]
    assert client.send(request).status_code == status


def test_a_body_on_a_page_that_takes_none_is_counted_too(tmp_path: Path) -> None:
    client = browser(make_store(tmp_path))
    assert client.request("GET", "/", content=b"x" * (MAX_FORM_BYTES + 1)).status_code == 413


def test_guessing_is_slowed_and_nobody_who_is_in_is_kept_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ann, token = (add_rater(store, name) for name in ("ann", "bob"))
    client = browser(store, ann)
    wrong = [client.get(f"/enter/{number}.wrong").status_code for number in range(MAX_WRONG_TOKENS + 1)]
    assert wrong == [401] * MAX_WRONG_TOKENS + [429]
    assert client.post("/enter", data={"token": token}).status_code == 429
    assert client.get("/").status_code == 200
    for number in range(MAX_WRONG_TOKENS):  # the admin's page is guarded whichever way the token comes
        status = client.get("/admin", headers={"cookie": f"admin_{store.contest_sha256[:8]}=guess{number}"}).status_code
        assert status == 401
    answer = client.post("/admin", data={"token": ADMIN})
    assert answer.status_code == 429
    assert "Too many wrong tokens" in answer.text


def test_tries_are_forgotten_after_a_while_and_right_ones_never_count() -> None:
    clock = Clock()
    tries = TokenTries(now=clock)
    for _ in range(MAX_WRONG_TOKENS):
        assert tries.is_right("here", lambda: True)
    for _ in range(MAX_WRONG_TOKENS):
        assert not tries.is_right("here", lambda: False)
    assert tries.is_right("there", lambda: True)
    with pytest.raises(Refused, match="Try again in 61 seconds"):
        tries.is_right("here", lambda: True)
    clock.seconds += TRIES_SECONDS
    assert tries.is_right("here", lambda: True)


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.human.web.guard.BODY_SECONDS", 0.01)
    sent: list[dict[str, Any]] = []

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def keep(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"9"), (b"content-type", FORM_TYPE.encode())]
    scope = {"type": "http", "method": "POST", "path": "/vote", "query_string": b"", "headers": headers}
    asyncio.run(create_app(make_store(tmp_path), ACCESS)(scope, never, keep))
    assert sent[0]["status"] == 408


def test_a_connection_that_brings_no_headers_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.human.web.guard.HEADER_SECONDS", 0.05)
    app = create_app(make_store(tmp_path), ACCESS)

    async def main() -> list[bytes]:
        with listen("127.0.0.1", 0) as listener:
            server = uvicorn.Server(uvicorn.Config(app, http=TimedProtocol, log_level="warning", lifespan="off"))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            ends = []
            for begin in (b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", WHOLE, WHOLE + b"GET / HT"):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.write(begin)
                ends.append((await reader.read())[:12])
                writer.close()
            server.should_exit = True
            await serving
            return ends

    assert asyncio.run(main()) == [b"", b"", b"HTTP/1.1 401", b"HTTP/1.1 401"]


def test_both_turns_of_a_dialogue_stand_side_by_side(tmp_path: Path) -> None:
    turns = (("Write a <line>.", "one a", "two **a**"), ("Shorter.", "one b", "two b"))
    item = Item(
        question_id="81", category="writing", question="q", system_one="x", system_two="y", answer_one="1",
        answer_two="2", turns=turns,
    )  # fmt: skip
    store = create_store(tmp_path, Contest(items=(item,), checks=(), seed=0), Rules(check_rate=0.0))
    client = browser(store, add_rater(store, "ann"))
    page = client.get("/").text
    said = re.findall(r'class="asked" dir="auto">(.*?)</p>|class="said" dir="auto">(.*?)</div>', page, re.S)
    texts = [re.sub("<[^>]*>", "", one or two).strip() for one, two in said]
    left, right = (1, 2) if texts[1] == "one a" else (2, 1)
    assert texts == ["Write a &lt;line&gt;.", *(turns[0][side].strip("*").replace("*", "") for side in (left, right)),
                     "Shorter.", turns[1][left], turns[1][right]]  # fmt: skip
    assert "Answer A, turn 2" in page
    assert "Thank you" in vote(client, "left", page)


def test_who_has_no_token_sees_no_answer(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token = add_rater(store, "ann")
    client = browser(store)
    for path in ("/", "/enter/1.wrong", f"/enter/{token}x"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "person" not in answer.text
    assert client.post("/vote", data={"form": "x", "assignment": "1", "choice": "left"}).status_code == 401
    assert client.post("/enter", data={"token": f" {URL}/enter/{token} "}).status_code == 200
    assert "Answer A" in client.get("/").text


def test_the_cookie_is_for_this_site_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token = add_rater(store, "ann")
    cookie = browser(store).get(f"/enter/{token}", follow_redirects=False).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    secure = Access(admin_sha256=ACCESS.admin_sha256, hosts=ACCESS.hosts, secure_cookies=True)
    assert (
        "secure"
        in browser(store, access=secure).get(f"/enter/{token}", follow_redirects=False).headers["set-cookie"].lower()
    )


def test_forms_of_other_sites_do_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ann, eve = (browser(store, add_rater(store, name)) for name in ("ann", "eve"))
    page = ann.get("/").text
    data = {"form": field(page, "form"), "assignment": field(page, "assignment"), "choice": "left"}
    for wrong in ("", "0" * 64, field(eve.get("/").text, "form"), "ü"):
        assert ann.post("/vote", data={**data, "form": wrong}).status_code == 403
    for origin in ("cross-site", "same-site"):
        assert ann.post("/vote", data=data, headers={"Sec-Fetch-Site": origin}).status_code == 403
    assert ann.get("/vote").status_code == 405
    assert votes(store) == []
    assert ann.post("/vote", data=data, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert len(votes(store)) == 1


def test_one_raters_page_is_closed_to_another(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ann, eve = (browser(store, add_rater(store, name)) for name in ("ann", "eve"))
    theirs = field(ann.get("/").text, "assignment")
    data = {"form": field(eve.get("/").text, "form"), "assignment": theirs, "choice": "left"}
    assert "was not yours" in eve.post("/vote", data=data).text
    assert votes(store) == []


@pytest.mark.parametrize("data", [{"assignment": "x"}, {"choice": "best"}, {"assignment": "9" * 40}])
def test_a_form_that_lacks_something_gets_a_page(tmp_path: Path, data: dict[str, str]) -> None:
    store = make_store(tmp_path)
    client = browser(store, add_rater(store, "ann"))
    page = client.get("/").text
    whole = {"form": field(page, "form"), "assignment": field(page, "assignment"), "choice": "left"}
    answer = client.post("/vote", data={**whole, **data})
    assert answer.status_code == 422
    assert "This did not work" in answer.text


def test_only_known_names_of_this_machine_are_answered(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    client = browser(store)
    for host in ("evil.example", "", "[", "evil.example:80", "127.0.0.1.evil.example"):
        assert client.get("/", headers={"Host": host}).status_code == 421
    assert client.get("/", headers={"Host": "127.0.0.1:8000"}).status_code == 401


def test_the_admin_page_needs_its_token_and_names_no_system(tmp_path: Path) -> None:
    store = make_store(tmp_path, check_rate=0.4)
    token = add_rater(store, "<b>ann</b>")
    rater, admin = browser(store, token), browser(store)
    for _ in range(9):
        vote(rater, "left")
    for path in ("/admin", "/admin/live", "/admin/enter/wrong", f"/admin/enter/{token}"):
        assert admin.get(path).status_code == 401
        assert rater.get(path).status_code == 401
    assert admin.post("/admin", data={"token": ADMIN}).status_code == 200
    page = admin.get("/admin").text
    assert "&lt;b&gt;ann&lt;/b&gt;" in page
    assert "<b>ann" not in page
    assert re.search(r"\d+ (passed|failed)|\d failed", page)
    assert not any(system in page for system in SYSTEMS)
    live = admin.get("/admin/live").text
    assert "<html" not in live
    assert "Median time" in live


def test_a_vote_of_nobody_has_an_admin_page_too(tmp_path: Path) -> None:
    client = browser(make_store(tmp_path))
    page = client.get(f"/admin/enter/{ADMIN}").text
    assert "Nobody yet" in page
    assert "No decisive vote yet" in page
