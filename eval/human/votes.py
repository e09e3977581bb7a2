"""Gives raters items, takes their votes, and undoes them, each in one transaction.

    assignment = claim(store, rater_id)             # the page to show; the same one until it is voted on
    record_vote(store, rater_id, assignment.assignment_id, Choice.left)
    undo(store, rater_id)

The item with the fewest raters comes first, so that items fill evenly; a rater sees an item once. A claim that is not
voted on in time frees its place. Sides are drawn for each (contest, item, rater) from a seed that is stored.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from eval.human.items import Item
from eval.human.store import ITEM_COLUMNS, Rules, VoteStore, read_item
from eval.verdicts.codes import FIRST, SECOND, TIE


class Choice(Enum):
    """The four possible votes on two answers."""

    left = "left"
    right = "right"
    tie = "tie"
    both_bad = "both_bad"

    @property
    def verdict(self) -> int:
        """The code in verdict files, with the left answer as system A; there `both_bad` is a tie."""
        return {Choice.left: FIRST, Choice.right: SECOND}.get(self, TIE)


class Outcome(Enum):
    """What became of a vote."""

    stored = "stored"
    already = "already"  # there is a vote; undo it to change it
    gone = "gone"  # claimed too long ago, and others have taken the place
    unknown = "unknown"  # no such assignment of this rater


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An item given to one rater, with the sides on which its answers are shown."""

    assignment_id: int
    item: Item
    swapped: bool  # system_two stands left

    @property
    def turns(self) -> list[tuple[str, str, str]]:
        """(question, text shown left, text shown right) of every turn."""
        return [(said, *((two, one) if self.swapped else (one, two))) for said, one, two in self.item.shown_turns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A stored vote as files have it: system A stood left."""

    item_id: int
    question_id: str
    system_a: str
    system_b: str
    choice: Choice
    rater: str
    better: int | None  # of an attention check, on the sides as shown: FIRST (left) or SECOND
    seed: int | None  # of the sides; None: drawn elsewhere
    voted: float | None  # seconds since 1970
    seconds: float | None  # from the page to the vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one rater and the whole vote are. Attention checks count for the rater only."""

    num_mine: int  # votes
    num_left: int  # items that this rater could still get, as things stand
    num_votes: int  # on items, at most raters_per_item each
    num_wanted: int
    can_undo: bool


def claim(store: VoteStore, rater_id: int) -> Assignment | None:
    """The rater's page: the one that is open, else a new item; None where there is nothing left for now."""
    rules = store.rules
    with store.writing() as db:
        now = store.now()
        _expire(db, now)
        row = db.execute(
            "SELECT assignment_id FROM assignments WHERE rater_id = ? AND state = 'open' "
            "ORDER BY COALESCE(reopened, 0) DESC, assignment_id LIMIT 1",
            (rater_id,),
        ).fetchone()
        if row is None:
            item_id = _next_item(db, rater_id, rules)
            if item_id is None:
                return None
            check_id = _due_check(db, store.seed, rater_id, rules)
            assignment_id = _assign(db, store.seed, check_id or item_id, rater_id, now)
        else:
            assignment_id = row[0]
        expires = now + rules.claim_seconds
        db.execute("UPDATE assignments SET expires = ? WHERE assignment_id = ?", (expires, assignment_id))
        return _assignment(db, assignment_id)


def record_vote(store: VoteStore, rater_id: int, assignment_id: int, choice: Choice) -> Outcome:
    """Stores a vote. A late one counts where the item still has room."""
    rules = store.rules
    with store.writing() as db:
        now = store.now()
        _expire(db, now)
        row = db.execute(
            "SELECT state, choice, item_id, COALESCE(reopened, claimed) FROM assignments "
            "WHERE assignment_id = ? AND rater_id = ?",
            (assignment_id, rater_id),
        ).fetchone()
        if row is None:
            return Outcome.unknown
        state, stored, item_id, shown = row
        if state == "voted":
            return Outcome.stored if stored == choice.value else Outcome.already
        if state == "expired" and not _has_room(db, item_id, rater_id, rules):
            return Outcome.gone
        db.execute(
            "UPDATE assignments SET state = 'voted', choice = ?, voted = ?, seconds = ?, expires = NULL "
            "WHERE assignment_id = ?",
            (choice.value, now, now - shown, assignment_id),
        )
        return Outcome.stored


def undo(store: VoteStore, rater_id: int) -> bool:
    """Takes the rater's last vote back and opens its page again. -> False where there is none."""
    rules = store.rules
    with store.writing() as db:
        now = store.now()
        row = db.execute(
            "SELECT assignment_id, choice, voted FROM assignments WHERE rater_id = ? AND state = 'voted' "
            "AND origin = 'web' ORDER BY voted DESC, assignment_id DESC LIMIT 1",
            (rater_id,),
        ).fetchone()
        if row is None:
            return False
        db.execute("INSERT INTO undone VALUES (?, ?, ?, ?)", (*row, now))
        db.execute(
            "UPDATE assignments SET state = 'open', choice = NULL, voted = NULL, seconds = NULL, reopened = ?, "
            "expires = ? WHERE assignment_id = ?",
            (now, now + rules.claim_seconds, row[0]),
        )
        return True


def progress(store: VoteStore, rater_id: int) -> Progress:
    """How far the rater and everybody together are."""
    k = store.rules.raters_per_item
    with store.reading() as db:
        mine, undoable = db.execute(
            "SELECT COUNT(*), COALESCE(SUM(origin = 'web'), 0) FROM assignments WHERE rater_id = ? AND state = 'voted'",
            (rater_id,),
        ).fetchone()
        items, votes, left = db.execute(
            "SELECT COUNT(*), COALESCE(SUM(MIN(votes, :k)), 0), COALESCE(SUM(mine = 0 AND taken < :k OR open), 0) "
            "FROM ("
            "SELECT COALESCE(SUM(a.state = 'voted'), 0) AS votes, COUNT(a.item_id) AS taken, "
            "COALESCE(SUM(a.rater_id = :rater), 0) AS mine, "
            "COALESCE(SUM(a.rater_id = :rater AND a.state = 'open'), 0) AS open "
            "FROM items LEFT JOIN assignments AS a ON a.item_id = items.item_id "
            "AND (a.state = 'voted' OR a.state = 'open' AND a.expires >= :now) "
            "WHERE items.better IS NULL GROUP BY items.item_id)",
            {"k": k, "rater": rater_id, "now": store.now()},
        ).fetchone()
    return Progress(num_mine=mine, num_left=left, num_votes=votes, num_wanted=items * k, can_undo=undoable > 0)


def votes(store: VoteStore) -> list[Vote]:
    """All votes, attention checks included, in the order in which they came."""
    with store.reading() as db:
        return list(_votes(db))


def side_seed(contest_seed: int, item_id: int, rater_id: int) -> int:
    """The seed from which the sides of an assignment are drawn, below 2**32."""
    return int(np.random.SeedSequence([contest_seed, item_id, rater_id]).generate_state(1)[0])


def is_swapped(seed: int) -> bool:
    """Whether an assignment of this seed has system_two left."""
    return bool(np.random.default_rng(seed).integers(2))


def _expire(db: sqlite3.Connection, now: float) -> None:
    db.execute("UPDATE assignments SET state = 'expired' WHERE state = 'open' AND expires < ?", (now,))


def _due_check(db: sqlite3.Connection, seed: int, rater_id: int, rules: Rules) -> int | None:
    """An attention check that the rater hasn't seen, on a share `check_rate` of the rater's pages."""
    (num_pages,) = db.execute("SELECT COUNT(*) FROM assignments WHERE rater_id = ?", (rater_id,)).fetchone()
    rng = np.random.default_rng([seed, rater_id, num_pages])
    if rng.random() >= rules.check_rate:
        return None
    unseen = db.execute(
        "SELECT item_id FROM items WHERE better IS NOT NULL AND item_id NOT IN "
        "(SELECT item_id FROM assignments WHERE rater_id = ?) ORDER BY item_id",
        (rater_id,),
    ).fetchall()
    return int(unseen[rng.integers(len(unseen))][0]) if unseen else None


def _next_item(db: sqlite3.Connection, rater_id: int, rules: Rules) -> int | None:
    """The item with the fewest raters of those that have room and that this rater hasn't got."""
    row = db.execute(
        "SELECT items.item_id FROM items "
        "LEFT JOIN assignments AS a ON a.item_id = items.item_id AND a.state <> 'expired' "
        "WHERE items.better IS NULL GROUP BY items.item_id "
        "HAVING COUNT(a.item_id) < ? AND COALESCE(SUM(a.rater_id = ?), 0) = 0 "
        "ORDER BY COUNT(a.item_id), items.item_id LIMIT 1",
        (rules.raters_per_item, rater_id),
    ).fetchone()
    return None if row is None else int(row[0])


def _has_room(db: sqlite3.Connection, item_id: int, rater_id: int, rules: Rules) -> bool:
    taken, mine, check = db.execute(
        "SELECT COUNT(*), COALESCE(SUM(rater_id = ?), 0), "
        "(SELECT better IS NOT NULL FROM items WHERE item_id = ?) "
        "FROM assignments WHERE item_id = ? AND state <> 'expired'",
        (rater_id, item_id, item_id),
    ).fetchone()
    return not mine and (bool(check) or taken < rules.raters_per_item)


def _assign(db: sqlite3.Connection, contest_seed: int, item_id: int, rater_id: int, now: float) -> int:
    seed = side_seed(contest_seed, item_id, rater_id)
    cursor = db.execute(
        "INSERT INTO assignments (item_id, rater_id, seed, swapped, state, claimed, origin) "
        "VALUES (?, ?, ?, ?, 'open', ?, 'web')",
        (item_id, rater_id, seed, is_swapped(seed), now),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _assignment(db: sqlite3.Connection, assignment_id: int) -> Assignment:
    row = db.execute(
        f"SELECT swapped, {ITEM_COLUMNS} FROM assignments JOIN items USING (item_id) WHERE assignment_id = ?",
        (assignment_id,),
    ).fetchone()
    return Assignment(assignment_id=assignment_id, item=read_item(row[1:]), swapped=bool(row[0]))


def _votes(db: sqlite3.Connection) -> Iterable[Vote]:
    rows: Iterable[tuple[Any, ...]] = db.execute(
        "SELECT items.item_id, swapped, choice, raters.name, seed, voted, seconds, items.question_id, "
        "items.system_one, items.system_two, items.better FROM assignments JOIN items USING (item_id) "
        "JOIN raters USING (rater_id) WHERE state = 'voted' ORDER BY voted, assignment_id"
    )
    for item_id, swapped, choice, rater, seed, voted, seconds, question_id, one, two, better in rows:
        yield Vote(
            item_id=item_id,
            question_id=question_id,
            system_a=two if swapped else one,
            system_b=one if swapped else two,
            choice=Choice(choice),
            rater=rater,
            better=better if better is None or not swapped else FIRST + SECOND - better,
            seed=seed,
            voted=voted,
            seconds=seconds,
        )
