"""Votes of tests need not outlive a power failure: their databases don't wait for the disk."""

import sqlite3
from pathlib import Path

import pytest

from eval.human import store


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = store._connect

    def connect_quickly(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr(store, "_connect", connect_quickly)
