"""Keeps the batches that a server works on in two tables of judgments.sqlite, so that a kill loses none.

A part of `eval.judges.batch`. A batch is booked, with every call in it at the most that it can cost, before
anything is sent; its id is stored when the server names it. What is booked and has no id may or may not have reached
the server, which is asked for it by the booking's name.
"""

import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eval.judging.store import JudgmentStore

SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    booking TEXT PRIMARY KEY, settings_sha256 TEXT NOT NULL, judge TEXT NOT NULL, batch_id TEXT, outcome TEXT,
    created TEXT NOT NULL, finished TEXT);
CREATE TABLE IF NOT EXISTS batch_requests (
    booking TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, question_id TEXT NOT NULL, system_a TEXT NOT NULL,
    system_b TEXT NOT NULL, call_id INTEGER NOT NULL, PRIMARY KEY (booking, prompt_sha256)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One prompt of a batch."""

    prompt_sha256: str
    key: tuple[str, str, str]  # (question_id, system_a, system_b)
    most_usd: float  # that the call can cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """A batch that isn't settled."""

    name: str
    batch_id: str | None  # None: it is not known whether the server has it
    requests: dict[str, tuple[tuple[str, str, str], int]]  # prompt_sha256 -> (key, call_id)


class BatchStore:
    """The batches of one tournament."""

    def __init__(self, store: JudgmentStore) -> None:
        """Makes the tables if they don't exist."""
        self._store = store
        self._db: sqlite3.Connection = store.connection
        self._db.executescript(SCHEMA)

    def book(self, judge: str, settings_sha256: str, requests: Sequence[BatchRequest]) -> Booking:
        """Books a batch and its calls, all or none, before anything is sent."""
        name, made = uuid.uuid4().hex, {}
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "INSERT INTO batches (booking, settings_sha256, judge, created) VALUES (?, ?, ?, ?)",
            (name, settings_sha256, judge, _now()),
        )
        for request in requests:
            call_id = self._store.reserve(judge, request.prompt_sha256, request.most_usd)
            made[request.prompt_sha256] = (request.key, call_id)
            self._db.execute(
                "INSERT INTO batch_requests VALUES (?, ?, ?, ?, ?, ?)",
                (name, request.prompt_sha256, *request.key, call_id),
            )
        self._db.execute("COMMIT")
        return Booking(name=name, batch_id=None, requests=made)

    def name(self, booking: Booking, batch_id: str) -> None:
        """Records the server's id for a batch."""
        self._db.execute("UPDATE batches SET batch_id = ? WHERE booking = ?", (batch_id, booking.name))

    def settle(self, booking: Booking, outcome: str, costs: dict[str, float | None]) -> None:
        """Ends a batch and settles its calls, all or none.

        Args:
            booking: the batch.
            outcome: what came of it, for the record.
            costs: by prompt, in US dollars; None where it isn't known, so that the reservation stands.
        """
        self._db.execute("BEGIN IMMEDIATE")
        for digest, (_, call_id) in booking.requests.items():
            self._store.settle(call_id, f"batch: {outcome}", costs[digest])
        self._db.execute(
            "UPDATE batches SET outcome = ?, finished = ? WHERE booking = ?", (outcome, _now(), booking.name)
        )
        self._db.execute("COMMIT")

    def unsettled(self, settings_sha256: str) -> list[Booking]:
        """This judge's batches that are under way, in the order of their booking."""
        rows = self._db.execute(
            "SELECT booking, batch_id FROM batches WHERE outcome IS NULL AND settings_sha256 = ? ORDER BY rowid",
            (settings_sha256,),
        ).fetchall()
        return [Booking(name=name, batch_id=batch_id, requests=self._requests(name)) for name, batch_id in rows]

    def _requests(self, name: str) -> dict[str, tuple[tuple[str, str, str], int]]:
        rows = self._db.execute(
            "SELECT prompt_sha256, question_id, system_a, system_b, call_id FROM batch_requests WHERE booking = ?",
            (name,),
        )
        return {digest: ((question, one, two), call_id) for digest, question, one, two, call_id in rows}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
