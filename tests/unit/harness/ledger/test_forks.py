"""A forked process leaves its parent's connections alone: it neither uses nor closes them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job

Events = list[str]


@pytest.fixture
def events() -> Iterator[Events]:
    """What happens to connections of any engine."""
    seen = Events()
    listeners = [
        (sa.pool.Pool, "connect", lambda *_: seen.append("opened")),
        (sa.engine.Engine, "engine_disposed", lambda _: seen.append("closed")),
    ]
    for listener in listeners:
        sa.event.listen(*listener)
    yield seen
    for listener in listeners:
        sa.event.remove(*listener)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.sqlite")
    opened.add([Job(kind="train", spec_hash="a", run_id="a", group="g", label="a", payload="{}")], sweep="s")
    yield opened
    opened.close()


def test_a_fork_opens_its_own_and_the_parent_goes_on(
    ledger: Ledger, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(ledger.rows())) == 1
    assert events == []
    with monkeypatch.context() as fork:
        fork.setattr(os, "getpid", lambda: 1)
        assert len(list(ledger.rows())) == 1
        assert events == ["opened"]
        ledger.close()
        assert events == ["opened", "closed"], "its own"


def test_a_fork_that_ends_closes_nothing(ledger: Ledger, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as fork:
        fork.setattr(os, "getpid", lambda: 1)
        ledger.close()
    assert events == []
