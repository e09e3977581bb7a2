"""Parts of the voting app by hand: what is said of a rater, contests, the database's rules, requests."""

import asyncio
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import h11
import numpy as np
import pytest
from starlette.requests import Request

from eval.answers.questions import Question
from eval.human import overview as views
from eval.human.items import CHECK_SYSTEMS, Contest, ContestOptions, Item, _check, _items
from eval.human.overview import _Counts, _rater_view, _same_votes, _winner, to_verdicts
from eval.human.raters import add_rater, find_rater, form_token, is_form_token, remove_rater, renew_rater
from eval.human.store import MAX_RATERS_PER_ITEM, Rules, VoteStore, _connect, _quoted, create_store, stamp
from eval.human.votes import Choice, Vote
from eval.human.web import guard, server
from eval.human.web.guard import FORM_TYPE, MAX_FORM_BYTES, Access, Refused, TimedProtocol, check_request
from eval.human.web.token_strength import _alphabet_size, _num_unforeseen, strength_bits
from eval.verdicts.codes import FIRST, SECOND, TIE
from tests.voting import make_store


def vote(choice: Choice, rater: str = "ann", item: int = 1, **changes: Any) -> Vote:
    values: dict[str, Any] = {"question_id": "q", "system_a": "a", "system_b": "b", "better": None, "seed": 0}
    return Vote(
        **{**values, "item_id": item, "choice": choice, "rater": rater, "voted": None, "seconds": None, **changes}
    )


def test_what_is_said_of_a_rater() -> None:
    mine = [
        vote(Choice.left, voted=50.0, seconds=views.HASTY_SECONDS),
        vote(Choice.left, voted=90.0, seconds=views.HASTY_SECONDS / 2),
        vote(Choice.left, voted=70.0, seconds=100.0),
        vote(Choice.right),
        vote(Choice.tie),
        vote(Choice.both_bad),
        vote(Choice.left, better=FIRST),
        vote(Choice.right, better=FIRST),
        vote(Choice.both_bad, better=SECOND),
    ]
    counts = _Counts(items=9, open_of={"ann": 2}, undone_of={"ann": 3}, expired=0)
    view = _rater_view("ann", True, mine, counts, (3, 8))
    assert (view.num_votes, view.num_open, view.num_undone) == (9, 2, 3)
    assert (view.median_seconds, view.num_hasty, view.last_vote) == (views.HASTY_SECONDS, 1, 90.0)
    assert (view.left_share, view.num_decisive, view.num_ties, view.num_both_bad) == (0.75, 4, 1, 1)
    assert (view.checks_passed, view.checks_failed, view.checks_unsure) == (1, 1, 1)
    assert (view.agreement, view.num_compared) == (0.375, 8)
    nobody = _rater_view("bob", False, [], counts, (0, 0))
    assert (nobody.num_open, nobody.num_undone, nobody.median_seconds, nobody.last_vote) == (0, 0, None, None)
    assert (nobody.left_share, nobody.agreement) == (None, None)


def test_equal_votes_name_the_same_winner_whatever_side_it_stood_on() -> None:
    cast = [
        vote(Choice.left, "ann"),
        vote(Choice.right, "bob", system_a="b", system_b="a"),
        vote(Choice.tie, "cat"),
        vote(Choice.both_bad, "dan"),
        vote(Choice.left, "ann", 2),
    ]
    assert [_winner(one) for one in cast] == ["a", "a", "", "", "a"]
    assert _same_votes(cast) == {"ann": (1, 3), "bob": (1, 3), "cat": (1, 3), "dan": (1, 3)}
    rows = to_verdicts(cast)
    assert rows.verdict.tolist() == [FIRST, SECOND, TIE, TIE, FIRST]
    assert [rows.system_names[code] for code in rows.first] == ["a", "b", "a", "a", "a"]


def test_items_by_strength_do_not_depend_on_the_order_of_files() -> None:
    questions = [Question(question_id=f"q{n}", category="c", text=f"{n}?", turns=(f"{n}?",)) for n in range(4)]
    strengths = {"a": 3.0, "b": 0.0, "c": 0.1}

    def drawn(names: str) -> list[tuple[str, str, str]]:
        answers = {name: {q.question_id: (f"{name} on {q.text}",) for q in questions} for name in names}
        items = _items(answers, questions, None, np.random.default_rng(0), strengths)
        return [(item.question_id, item.system_one, item.system_two) for item in items]

    assert drawn("cab") == drawn("abc")
    assert len(drawn("abc")) == 12
    even = _items(
        {name: {q.question_id: (name,) for q in questions} for name in "abc"}, questions, None, np.random.default_rng(0)
    )
    assert [len({(item.system_one, item.system_two) for item in even[at : at + 3]}) for at in (0, 3, 6, 9)] == [3] * 4


def test_half_of_the_checks_have_the_better_answer_first() -> None:
    checks = [_check(number, "q", "good", "bad") for number in (1, 2, 3, 4)]
    assert [check.better for check in checks] == [SECOND, FIRST, SECOND, FIRST]
    assert [check.answer_one for check in checks] == ["bad", "good", "bad", "good"]
    assert [check.system_two for check in checks] == [CHECK_SYSTEMS[0], CHECK_SYSTEMS[1]] * 2
    assert [check.question_id for check in checks] == [f"attention-{number}" for number in (1, 2, 3, 4)]


def test_a_contest_is_its_items_checks_and_seed_and_not_how_texts_are_cut_into_turns() -> None:
    item = _check(1, "q", "good", "bad")
    contest = Contest(items=(item,), checks=(), seed=1)
    cut = replace(item, turns=(("q", "good", "bad"), ("r", "s", "t")))
    assert Contest(items=(cut,), checks=(), seed=1).sha256 == contest.sha256
    others = [
        Contest(items=(item,), checks=(), seed=2),
        Contest(items=(item, item), checks=(), seed=1),
        Contest(items=(replace(item, question="r"),), checks=(), seed=1),
    ]
    assert len({contest.sha256, *(other.sha256 for other in others)}) == 4
    assert item.shown_turns == (("q", "bad", "good"),)
    assert cut.shown_turns == cut.turns


def test_rules_have_their_ends(tmp_path: Path) -> None:
    for k in (1, MAX_RATERS_PER_ITEM):
        assert Rules(raters_per_item=k, check_rate=0.0).raters_per_item == k
    for wrong in ({"raters_per_item": 0}, {"check_rate": 1.0}, {"check_rate": -0.1}, {"claim_seconds": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Rules(**wrong)  # type: ignore[arg-type]
    store = make_store(tmp_path)
    store.set_fact("rules", {"raters_per_item": 2, "check_rate": 0.25, "claim_seconds": 7.0})
    assert store.rules == Rules(raters_per_item=2, check_rate=0.25, claim_seconds=7.0)
    assert store.fact("none") is None
    assert VoteStore(store.path).items() == store.items()


def test_the_database_is_written_through_and_its_rows_belong_together(tmp_path: Path) -> None:
    connection = _connect(make_store(tmp_path).path)
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("foreign_keys", "synchronous")]
    found.append(connection.isolation_level)
    connection.close()
    assert found == [1, 2, None]
    assert _quoted(Path("/a?b#c%d")) == "/a%3fb%23c%25d"
    assert (stamp(None), stamp(0.0), stamp(1.5)) == (
        "",
        "1970-01-01T00:00:00.000+00:00",
        "1970-01-01T00:00:01.500+00:00",
    )


def test_a_token_is_a_number_and_a_secret(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    name = "ann"
    old, token = add_rater(store, name), renew_rater(store, name)
    assert find_rater(store, old) is None
    number, _, secret = token.partition(".")
    found = find_rater(store, token)
    assert found is not None
    assert (found.name, found.rater_id, found.can_enter) == (name, int(number), True)
    with pytest.raises(ValueError, match="expected a name of 1 to 60 printable characters"):
        add_rater(store, "x" * 61)
    assert add_rater(store, f" {'x' * 60} ")
    remove_rater(store, name)
    assert find_rater(store, token) is None
    token = renew_rater(store, name)
    secret = token.partition(".")[2]
    for wrong in (
        f"{number}.x",
        number,
        f".{secret}",
        f"x.{secret}",
        f"{'0' * 9}{number}.{secret}",
        f"99.{secret}",
        "",
    ):
        assert find_rater(store, wrong) is None, wrong
    assert find_rater(store, f"{number.zfill(9)}.{secret}") is None, "the whole token counts"
    assert is_form_token(form_token(token), token)
    assert not is_form_token(form_token(token), "other")


@pytest.mark.parametrize(
    ("token", "unforeseen", "alphabet"),
    [
        ("", 0, 1),
        ("k", 1, 26),
        ("kM", 2, 52),
        ("k7", 2, 36),
        ("k7.", 3, 26 + 10 + 33),
        ("\u00e9", 1, 33),
        ("abcq", 2, 26),  # b and c go on
        ("kkj", 1, 26),  # the same again, and back by one
        ("098", 1, 10),  # a keyboard's digits end with 0
        ("poiuyt", 1, 26),
        ("kfzkfz", 5, 26),  # the last ends three that were there
        ("passwordk", 1, 26),
        ("p4$$w0rdk", 1, 26 + 10 + 33),
        ("Admink", 1, 52),
    ],
)
def test_what_a_chosen_secret_is_worth(token: str, unforeseen: int, alphabet: int) -> None:
    assert (_num_unforeseen(token), _alphabet_size(token)) == (unforeseen, alphabet)
    assert strength_bits(token) == pytest.approx(unforeseen * math.log2(alphabet))


def test_a_contest_has_its_ends() -> None:
    common: dict[str, Any] = {"answers": (), "tournament": Path("t")}
    assert ContestOptions(**common, max_questions=1, seed=0, order="informative").max_questions == 1
    for wrong in ({"max_questions": 0}, {"seed": -1}, {"order": "any"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ContestOptions(**common, **wrong)


def request(method: str = "POST", **headers: str) -> Request:
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "headers": listed, "path": "/", "query_string": b""})


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("GET"), None),
        (request("HEAD"), None),
        (request("GET", content_length=str(MAX_FORM_BYTES)), None),
        (request("GET", content_length=str(MAX_FORM_BYTES + 1)), 413),
        (request("GET", content_length="1" * 11), 413),
        (request(), 411),
        (request(content_length="x"), 411),
        (request(content_length="\u0661"), 411),
        (request(content_length="0"), None),
        (request(content_length="1"), 415),
        (request(content_length="1", content_type=f"{FORM_TYPE.upper()}; charset=x"), None),
        (request(content_length="0", sec_fetch_site="cross-site"), 403),
        (request(content_length="0", sec_fetch_site="none"), None),
        (request(content_length="0", sec_fetch_site="same-origin"), None),
    ],
)
def test_requests_that_a_page_of_ours_sends(asked: Request, status: int | None) -> None:
    access = Access(admin_sha256="x", hosts=None)
    if status is None:
        check_request(asked, access)
        return
    with pytest.raises(Refused) as refused:
        check_request(asked, access)
    assert refused.value.status == status


def test_only_names_of_this_server_are_answered() -> None:
    access = Access(admin_sha256="x", hosts=frozenset({"a.example"}))
    check_request(request("GET", host="a.example:8000"), access)
    for host in ("b.example", "[", ""):
        with pytest.raises(Refused) as refused:
            check_request(request("GET", host=host), access)
        assert refused.value.status == 421


def test_a_body_is_handed_over_once_and_what_comes_after_it_too() -> None:
    async def later() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def both() -> list[Any]:
        again = guard._handed_over(b"body", later)  # type: ignore[arg-type]
        return [await again(), await again()]

    first, second = asyncio.run(both())
    assert first == {"type": "http.request", "body": b"body", "more_body": False}
    assert second == {"type": "http.disconnect"}


def test_limits_of_requests_and_of_the_end() -> None:
    assert (guard.MAX_FORM_BYTES, guard.BODY_SECONDS, guard.HEADER_SECONDS) == (4096, 10.0, 10.0)
    assert (guard.MAX_WRONG_TOKENS, guard.TRIES_SECONDS, guard.MAX_ADDRESSES) == (10, 60.0, 10_000)
    assert (server.SHUTDOWN_SECONDS, server.MIN_TOKEN) == (3, 16)


def test_a_body_comes_in_parts_up_to_its_largest_size() -> None:
    def read(*messages: dict[str, Any]) -> bytes:
        left = iter(messages)

        async def receive() -> Any:
            return next(left)

        return asyncio.run(guard._whole_body(receive))

    part = {"type": "http.request", "body": b"x" * (MAX_FORM_BYTES // 2), "more_body": True}
    last = {"type": "http.request", "body": b"y" * (MAX_FORM_BYTES // 2)}
    assert len(read(part, last)) == MAX_FORM_BYTES
    for messages, status in (
        ((part, last | {"body": last["body"] + b"z"}), 413),
        ((part, {"type": "http.disconnect"}), 400),
    ):
        with pytest.raises(Refused) as refused:
            read(*messages)
        assert refused.value.status == status


@pytest.mark.parametrize(("state", "closed"), [(h11.IDLE, True), (h11.SEND_BODY, False)])
def test_a_connection_is_closed_only_while_it_brings_no_headers(state: Any, closed: bool) -> None:
    protocol: Any = SimpleNamespace(conn=SimpleNamespace(their_state=state), transport=MagicMock())
    TimedProtocol._close_without_headers(protocol)
    assert protocol.transport.close.called is closed


def test_the_wait_for_headers_begins_anew_with_each_answer() -> None:
    timers: list[Any] = []
    loop = SimpleNamespace(
        call_later=lambda seconds, call: timers.append((seconds, call, MagicMock())) or timers[-1][2]
    )
    protocol: Any = SimpleNamespace(_deadline=None, loop=loop, _close_without_headers="close")
    TimedProtocol._wait_for_headers(protocol)
    TimedProtocol._wait_for_headers(protocol)
    assert [(seconds, call) for seconds, call, _ in timers] == [(guard.HEADER_SECONDS, "close")] * 2
    assert [timer.cancel.called for _, _, timer in timers] == [True, False]
    assert Counter(guard.HEADERS.values())["same-origin"] == 3


def test_items_of_a_dialogue_keep_their_turns_in_the_store(tmp_path: Path) -> None:
    item = Item(
        question_id="1", category="c", question="q", system_one="a", system_two="b", answer_one="x", answer_two="y",
        turns=(("q1", "x1", "y1"), ("q2", "x2", "y2")),
    )  # fmt: skip
    contest = Contest(items=(item,), checks=(_check(1, "q", "good", "bad"),), seed=3)
    store = create_store(tmp_path / "t", contest, Rules())
    assert store.items() == [item, contest.checks[0]]
    assert (store.num_checks, store.seed, store.contest_sha256) == (1, 3, contest.sha256)
    with pytest.raises(ValueError, match="holds the votes of another contest"):
        create_store(tmp_path / "t", replace(contest, seed=4), Rules())
