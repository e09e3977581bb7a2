"""Stores people's votes in one SQLite file for each tournament; a vote is on disk before its page is answered.

Tables of `human.sqlite`:
  facts        schema version, the contest's digest and seed, the rules, where it was served last
  items        what is voted on, texts included: a server starts again without the answer files; `turns` is JSON, where
               a dialogue has several
  raters       name and hash of the token; no token lies here
  assignments  an item given to a rater: open until `expires`, then voted or expired; the seed of its sides
  undone       votes that were taken back

`synchronous=FULL`: a vote survives a power cut too. WAL does not work on network file systems: keep the folder on a
local disk while people vote.
"""

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.human.items import Contest, Item
from harness.files.atomic import TEMPORARY_SUFFIX

DATABASE = "human.sqlite"
SCHEMA_VERSION = 2  # of 1, items had no turns; such files are given the column when they are opened
BUSY_SECONDS = 30.0
MAX_RATERS_PER_ITEM = 1000

SCHEMA = """
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    item_id INTEGER PRIMARY KEY, question_id TEXT NOT NULL, category TEXT NOT NULL, question TEXT NOT NULL,
    system_one TEXT NOT NULL, system_two TEXT NOT NULL, answer_one TEXT NOT NULL, answer_two TEXT NOT NULL,
    better INTEGER CHECK (better IN (1, 2)), turns TEXT);
CREATE UNIQUE INDEX item_names ON items (question_id, system_one, system_two);
CREATE TABLE raters (
    rater_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token_sha256 TEXT, created REAL NOT NULL);
CREATE TABLE assignments (
    assignment_id INTEGER PRIMARY KEY, item_id INTEGER NOT NULL REFERENCES items,
    rater_id INTEGER NOT NULL REFERENCES raters, seed INTEGER, swapped INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'voted', 'expired')), claimed REAL NOT NULL, expires REAL,
    choice TEXT CHECK (choice IN ('left', 'right', 'tie', 'both_bad')), voted REAL, seconds REAL, reopened REAL,
    origin TEXT NOT NULL CHECK (origin IN ('web', 'import')),
    CHECK ((state = 'voted') = (choice IS NOT NULL)));
CREATE UNIQUE INDEX active_assignments ON assignments (item_id, rater_id) WHERE state <> 'expired';
CREATE INDEX assignments_of_rater ON assignments (rater_id, state);
CREATE TABLE undone (
    assignment_id INTEGER NOT NULL REFERENCES assignments, choice TEXT NOT NULL, voted REAL NOT NULL,
    undone REAL NOT NULL);
"""
ITEM_FIELDS = tuple(field.name for field in fields(Item))
ITEM_COLUMNS = ", ".join(f"items.{name}" for name in ITEM_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules by which items are handed out; they may change while people vote."""

    raters_per_item: int = 3  # as in QLoRA (arXiv 2305.14314, section 5.3)
    check_rate: float = 0.1  # share of a rater's pages that are attention checks
    claim_seconds: float = 1800.0  # an item that is not voted on for so long goes to another rater

    def __post_init__(self) -> None:
        if not 1 <= self.raters_per_item <= MAX_RATERS_PER_ITEM:
            raise ValueError(f"raters_per_item={self.raters_per_item}: expected 1 to {MAX_RATERS_PER_ITEM}")
        if not 0.0 <= self.check_rate < 1.0:
            raise ValueError(f"check_rate={self.check_rate:g}: expected a share from 0 to below 1")
        if self.claim_seconds <= 0.0:
            raise ValueError(f"claim_seconds={self.claim_seconds:g}: must be above 0")


class VoteStore:
    """The votes of one tournament. Any number of threads and processes may use one file at once."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Opens what `create_store` made.

        Args:
            path: `human.sqlite`.
            now: seconds since 1970; tests put their own clock here.

        Raises:
            ValueError: there is no such file, it is no database, or another version of this program made it.
        """
        self.path, self.now = path, now
        if not path.is_file():
            raise ValueError(
                f"{path}: no votes are kept here; begin with `python -m eval human serve ANSWERS... --tournament "
                f"{path.parent}`"
            )
        try:
            if self.fact("schema_version") == 1:
                self._add_turns()
            version = self.fact("schema_version")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: {error}; move the file away or name another tournament") from error
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema version {version}, this program knows {SCHEMA_VERSION}; export with the other"
            )
        self.seed = int(self.fact("seed"))
        self.contest_sha256 = str(self.fact("contest_sha256"))

    def _add_turns(self) -> None:
        with self.writing() as db:
            (version,) = db.execute("SELECT value FROM facts WHERE key = 'schema_version'").fetchone()
            if version == "1":  # no other process was quicker
                db.execute("ALTER TABLE items ADD COLUMN turns TEXT")
                db.execute("UPDATE facts SET value = '2' WHERE key = 'schema_version'")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Opens the database for reading, with one consistent view."""
        connection = _connect(self.path)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Opens the database for writing, alone. All writes are on disk at the end, or none of them after an error."""
        connection = _connect(self.path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()

    def fact(self, key: str) -> Any:
        """A stored fact; None if it was never set."""
        with self.reading() as db:
            row = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_fact(self, key: str, value: Any) -> None:
        """Stores or replaces a fact."""
        with self.writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def rules(self) -> Rules:
        """The rules as they are now; another process may have changed them."""
        return Rules(**self.fact("rules"))

    @property
    def num_checks(self) -> int:
        """The number of attention checks."""
        with self.reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM items WHERE better IS NOT NULL").fetchone()[0])

    def items(self) -> list[Item]:
        """Items and checks, in order."""
        with self.reading() as db:
            return [read_item(row) for row in db.execute(f"SELECT {ITEM_COLUMNS} FROM items ORDER BY item_id")]


def read_item(row: Sequence[Any]) -> Item:
    """An item from its ITEM_COLUMNS."""
    values = dict(zip(ITEM_FIELDS, row, strict=True))
    turns = json.loads(values.pop("turns") or "[]")
    return Item(**values, turns=tuple((question, one, two) for question, one, two in turns))


def create_store(folder: Path, contest: Contest, rules: Rules, now: Callable[[], float] = time.time) -> VoteStore:
    """Begins the votes of a tournament, or goes on with those that are there.

    Raises:
        ValueError: the folder keeps votes on other items; says on which.
    """
    path = folder / DATABASE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        _write_contest(path, contest, rules)
    store = VoteStore(path, now)
    if store.contest_sha256 != contest.sha256:
        raise ValueError(
            f"{path}: holds the votes of another contest ({_difference(store, contest)}); name another --tournament, "
            f"or leave the answers out to go on with what is there"
        )
    return store


def stamp(seconds: float | None) -> str:
    """Seconds since 1970 as ISO 8601 in UTC; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{_quoted(path)}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _write_contest(path: Path, contest: Contest, rules: Rules) -> None:
    """Writes a new contest in one transaction, so that a process that is killed here leaves no table."""
    facts = {
        "schema_version": SCHEMA_VERSION,
        "seed": contest.seed,
        "contest_sha256": contest.sha256,
        "rules": asdict(rules),
        "created": stamp(time.time()),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    db = sqlite3.connect(temporary, isolation_level=None)
    try:
        db.executescript(f"BEGIN; {SCHEMA}")
        db.executemany("INSERT INTO facts VALUES (?, ?)", [(key, json.dumps(value)) for key, value in facts.items()])
        marks = ", ".join("?" * len(ITEM_FIELDS))
        rows = [(*astuple(item)[:-1], _turns_text(item)) for item in (*contest.items, *contest.checks)]
        db.executemany(f"INSERT INTO items ({', '.join(ITEM_FIELDS)}) VALUES ({marks})", rows)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode=WAL")
    finally:
        db.close()
    try:
        os.link(temporary, path)  # never over votes that another process has begun meanwhile
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _turns_text(item: Item) -> str | None:
    return json.dumps(item.turns, ensure_ascii=False) if item.turns else None


def _difference(store: VoteStore, contest: Contest) -> str:
    """Says how the stored contest and the offered one differ."""
    if store.seed != contest.seed:
        return f"seed {store.seed}, not {contest.seed}"
    stored, offered = (
        {_name(item): item for item in items} for items in (store.items(), (*contest.items, *contest.checks))
    )
    missing, new = ([name for name in one if name not in two] for one, two in ((stored, offered), (offered, stored)))
    if missing or new:
        example = f"the first is {(new or missing)[0]}"
        return f"{len(missing)} of its {len(stored)} items are not in these files, {len(new)} are new; {example}"
    changed = [name for name in stored if stored[name] != offered[name]]
    return f"{changed[0]} has another text" if changed else "the items come in another order"


def _name(item: Item) -> str:
    return f"question {item.question_id}, {item.system_one} against {item.system_two}"
