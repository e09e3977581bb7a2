"""A real voting server under eight raters at once, killed in the middle: no vote that was acknowledged is lost."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx

from eval.human.raters import add_rater
from eval.human.votes import votes
from tests.lab import REPOSITORY, TIMEOUT_SECONDS
from tests.voting import make_store

NUM_RATERS = 8
KILL_AFTER = 25  # acknowledged votes
FIELD = r'name="{}" value="([^"]*)"'


@contextmanager
def server(tournament: Path, port: int = 0) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`python -m eval human serve` on a free port; its address."""
    command = [sys.executable, "-m", "eval", "human", "serve", "--tournament", str(tournament), "--port", str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("admin: "))
        yield process, line.split()[1].split("/admin")[0]
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_SECONDS)


def field(page: str, name: str) -> str:
    found = re.search(FIELD.format(name), page)
    assert found is not None, page[:500]
    return found.group(1)


def keep_voting(url: str, token: str, number: int, acknowledged: list[tuple[int, int]], stop: threading.Event) -> None:
    """One rater, until there is nothing left or the server is gone."""
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, follow_redirects=True) as client:
            page = client.get(f"/enter/{token}").text
            while "Thank you" not in page and not stop.is_set():
                assignment = field(page, "assignment")
                data = {"form": field(page, "form"), "assignment": assignment, "choice": "left"}
                answer = client.post("/vote", data=data, follow_redirects=False)
                assert answer.headers["location"] == "/", answer.headers
                acknowledged.append((number, int(assignment)))
                page = client.get("/").text
    except httpx.TransportError:
        assert stop.is_set(), "the server was not killed, and yet it is gone"


def vote_together(process: "subprocess.Popen[str]", url: str, tokens: list[str], kill: bool) -> list[tuple[int, int]]:
    """-> (rater, assignment) of every vote that was acknowledged, until the end or a SIGKILL."""
    acknowledged: list[tuple[int, int]] = []
    stop = threading.Event()
    threads = [
        threading.Thread(target=keep_voting, args=(url, token, number, acknowledged, stop))
        for number, token in enumerate(tokens, start=1)
    ]
    for thread in threads:
        thread.start()
    while kill and len(acknowledged) < KILL_AFTER and any(thread.is_alive() for thread in threads):
        threads[0].join(0.005)
    if kill:
        stop.set()
        process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()
    return acknowledged


def test_a_killed_server_goes_on_with_every_vote(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_questions=10, raters_per_item=3)
    tokens = [add_rater(store, f"rater {number}") for number in range(1, NUM_RATERS + 1)]
    with server(store.path.parent) as (process, url):
        before = vote_together(process, url, tokens, kill=True)
    assert KILL_AFTER <= len(before) < 90
    kept = Counter((int(vote.rater.split()[1])) for vote in votes(store))
    assert all(kept[number] >= count for number, count in Counter(number for number, _ in before).items())
    assert len(votes(store)) <= len(before) + NUM_RATERS  # a vote that was stored but not acknowledged any more
    with server(store.path.parent) as (process, url):
        after = vote_together(process, url, tokens, kill=False)
    with store.reading() as db:
        voted = {row[0] for row in db.execute("SELECT assignment_id FROM assignments WHERE state = 'voted'")}
    assert {assignment for _, assignment in before + after} <= voted
    cast = votes(store)
    assert len(cast) == 90
    assert set(Counter(vote.item_id for vote in cast).values()) == {3}
    assert len({(vote.item_id, vote.rater) for vote in cast}) == 90
