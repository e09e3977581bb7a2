"""A vote is written alone among writers from its first read on, and a reader sees one state throughout."""

import sqlite3
from pathlib import Path

import pytest

from tests.voting import make_store


def test_a_writer_keeps_others_out_from_the_start(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with store.writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(store.path, timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")


def test_what_fails_within_a_writer_leaves_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(sqlite3.IntegrityError), store.writing() as db:
        db.executemany("INSERT INTO facts VALUES (?, ?)", [("x", "1"), ("x", "2")])
    assert store.fact("x") is None


def test_a_reader_sees_one_state_throughout(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    count = "SELECT COUNT(*) FROM facts"
    with store.reading() as db:
        before = db.execute(count).fetchone()
        assert db.in_transaction
        try:
            other = sqlite3.connect(store.path, timeout=0, isolation_level=None)
            other.execute("INSERT INTO facts VALUES ('x', '1')")
        except sqlite3.OperationalError:
            pass  # a reader may keep writers waiting
        assert db.execute(count).fetchone() == before
