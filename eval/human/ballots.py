"""Writes and reads people's votes as CSV in the project's verdict columns, without loss.

    write_votes(store, Path("human.csv"))                 # `python -m eval rate human.csv` reads it
    store_ballots(store, read_ballots(Path("more.csv")))

Columns: question_id, system_a (shown left), system_b, verdict (1, 2, 3), judge (human), rater, both_bad (1 where both
answers were called bad: a tie to ratings), seconds, voted, side_seed. Read are these and `rater_slot` and `hit` of the
released annotations of QLoRA (arXiv 2305.14314). Attention checks go into a file of their own, with `better`.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from eval.answers.rows import identifier_text, read_rows
from eval.human.raters import checked_name
from eval.human.store import VoteStore, stamp
from eval.human.votes import Choice, Vote, votes
from eval.verdicts.codes import FIRST, MEANS_BOTH, SECOND, TIE, is_marked, means_both, verdict_code
from eval.verdicts.columns import REQUIRED, VerdictError, read_header
from eval.verdicts.foreign import RATERS
from harness.files.atomic import csv_text, write_atomically

JUDGE = "human"
COLUMNS = (*REQUIRED, "judge", "rater", "both_bad", "seconds", "voted", "side_seed")
KNOWN = {*COLUMNS, *RATERS, "hit", "better"}
BOTH_BAD = ("both_bad", "both bad", "bothbad", "tie (bothbad)", "tie(bothbad)", "tie (both bad)")
MAX_SECONDS = 1e9  # on one page
MAX_SEED = 2**63 - 1  # SQLite's largest number
FIRST_YEAR, LAST_YEAR = 1971, 2999  # of a vote; within, a time can be written in any zone
CHOICES = {FIRST: Choice.left, SECOND: Choice.right, TIE: Choice.tie}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """A vote as a file has it."""

    where: str  # file and line, for messages
    question_id: str
    system_a: str
    system_b: str
    choice: Choice
    rater: str
    seconds: float | None = None
    voted: float | None = None  # seconds since 1970
    side_seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """How many votes an import stored, knew already or left out."""

    num_stored: int
    num_known: int  # the very same vote was there
    num_foreign: int  # on items that are not voted on here, where these were to be left out
    num_raters: int  # new ones


def write_votes(store: VoteStore, path: Path, checks: bool = False) -> int:
    """Writes votes, or attention checks, as CSV. -> how many."""
    chosen = [vote for vote in votes(store) if (vote.better is not None) == checks]
    columns = (*COLUMNS, "better") if checks else COLUMNS
    write_atomically(path, csv_text(columns, [_row(vote)[: len(columns)] for vote in chosen]))
    return len(chosen)


def read_votes(path: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV, or of JSON, as (file and line, values by column as text); "" where a row has no such field.

    Raises:
        VerdictError: it is neither, or a line has too few or too many fields.
    """
    try:
        rows = read_rows(path)
    except FileNotFoundError:
        raise VerdictError(f"{path}: no such file") from None
    except ValueError as error:
        raise VerdictError(str(error)) from None
    nothing = {name: "" for row in rows for name in row.values}
    said = ({name: str(value).strip() for name, value in row.values.items() if value is not None} for row in rows)
    return [(row.where, nothing | values) for row, values in zip(rows, said, strict=True)]


def read_ballots(path: Path) -> list[Ballot]:
    """The votes of a file in the project's columns.

    Raises:
        VerdictError: a column is missing or unknown, or a row holds no vote; named by line.
    """
    rows = read_votes(path)
    header = read_header(path) or [name for _, row in rows[:1] for name in row]
    raters = [name for name in RATERS if name in header]
    missing = [name for name in REQUIRED if name not in header] + ([] if raters else ["rater"])
    unknown = [name for name in header if name not in KNOWN]
    if missing or unknown:
        lacking = f"no column {', '.join(missing)}; " if missing else ""
        strange = f"unknown column {', '.join(unknown)}; " if unknown else ""
        raise VerdictError(f"{path}: {lacking}{strange}expected {', '.join(COLUMNS)} (the last five may be missing)")
    if len(raters) > 1 or len(set(header)) < len(header):
        raise VerdictError(
            f"{path}: a column appears twice, or rater stands beside rater_slot; keep the one that says who voted"
        )
    return [_ballot(where, row, raters[0]) for where, row in rows]


def store_ballots(store: VoteStore, ballots: Sequence[Ballot], only_known: bool = False) -> ImportSummary:
    """Adds votes, all or none. Raters that are new get a name but no way in.

    Args:
        store: where to.
        ballots: as read.
        only_known: leave out what is on other items than these, instead of refusing it.

    Raises:
        VerdictError: an item that is not voted on here, or a rater who has said something else about it.
    """
    counts = dict.fromkeys(("stored", "known", "foreign"), 0)
    with store.writing() as db:
        (before,) = db.execute("SELECT COUNT(*) FROM raters").fetchone()
        for ballot in ballots:
            counts[_store_ballot(db, store.now(), ballot, only_known)] += 1
        (after,) = db.execute("SELECT COUNT(*) FROM raters").fetchone()
    return ImportSummary(
        num_stored=counts["stored"], num_known=counts["known"], num_foreign=counts["foreign"], num_raters=after - before
    )


def parse_choice(value: str, both_bad: str, where: str) -> Choice:
    """Turns a verdict, as files write it, into a choice.

    Raises:
        VerdictError: it is none.
    """
    if " ".join(value.lower().split()) in BOTH_BAD:
        return Choice.both_bad
    verdict = verdict_code(value)
    if verdict not in CHOICES:
        raise VerdictError(f"{where}: verdict {value!r}; a person's vote is 1, 2, 3, a, b, tie or both_bad")
    is_bad = is_marked(both_bad or 0)
    if is_bad is None or (is_bad and verdict != TIE):
        raise VerdictError(f"{where}: both_bad {both_bad!r} with verdict {value!r}; expected 0, or 1 beside a tie")
    return Choice.both_bad if is_bad else CHOICES[verdict]


def parse_seconds(value: str, name: str, where: str) -> float | None:
    """A number of seconds, at least 0; None for an empty field.

    Raises:
        VerdictError: it is none.
    """
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= MAX_SECONDS:
        raise VerdictError(f"{where}: {name} {value!r}; expected a number from 0 to {MAX_SECONDS:.0f}, or nothing")
    return number


def parse_rater(name: str, where: str) -> str:
    """A rater's name.

    Raises:
        VerdictError: it is none that can be stored.
    """
    try:
        return checked_name(name)
    except ValueError as error:
        raise VerdictError(f"{where}: {error}") from None


def _row(vote: Vote) -> tuple[object, ...]:
    return (
        vote.question_id,
        vote.system_a,
        vote.system_b,
        vote.choice.verdict,
        JUDGE,
        vote.rater,
        int(vote.choice is Choice.both_bad),
        "" if vote.seconds is None else f"{vote.seconds:.3f}",
        stamp(vote.voted),
        "" if vote.seed is None else vote.seed,
        vote.better,
    )


def _ballot(where: str, row: Mapping[str, str], rater_column: str) -> Ballot:
    for name in ("question_id", "system_a", "system_b", rater_column):
        if not row[name]:
            raise VerdictError(f"{where}: {name} is empty")
    for side, column in ((FIRST, "system_a"), (SECOND, "system_b")):
        if means_both(row["verdict"], row[column], side) and not row["verdict"].isdecimal():
            raise VerdictError(f"{where}: verdict {row['verdict']!r} {MEANS_BOTH.format(column)}")
    if row.get("judge", JUDGE) not in ("", JUDGE):
        raise VerdictError(f"{where}: judge {row['judge']}; only people's votes are imported")
    return Ballot(
        where=where,
        question_id=identifier_text(row["question_id"]),
        system_a=row["system_a"],
        system_b=row["system_b"],
        choice=parse_choice(row["verdict"], row.get("both_bad", ""), where),
        rater=parse_rater(row[rater_column], where),
        seconds=parse_seconds(row.get("seconds", ""), "seconds", where),
        voted=_time(row.get("voted", ""), where),
        side_seed=_seed(row.get("side_seed", ""), where),
    )


def _seed(value: str, where: str) -> int | None:
    if not value:
        return None
    text = identifier_text(value)
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_SEED)) or int(text) > MAX_SEED:
        raise VerdictError(f"{where}: side_seed {value[:40]!r}; expected a whole number from 0 to {MAX_SEED}")
    return int(text)


def _time(value: str, where: str) -> float | None:
    if not value:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise VerdictError(f"{where}: voted {value!r}; expected a time such as 2026-01-31T12:00:00+00:00") from None
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise VerdictError(f"{where}: voted {value!r}; expected a time of {FIRST_YEAR} to {LAST_YEAR}")
    return time.timestamp()


def _store_ballot(db: sqlite3.Connection, now: float, ballot: Ballot, only_known: bool) -> str:
    """-> stored, known or foreign."""
    one, two = sorted((ballot.system_a, ballot.system_b))
    item = db.execute(
        "SELECT item_id, system_one FROM items WHERE question_id = ? AND "
        "((system_one = ? AND system_two = ?) OR (system_two = ? AND system_one = ?))",
        (ballot.question_id, one, two, one, two),
    ).fetchone()
    if item is None:
        if only_known:
            return "foreign"
        raise VerdictError(
            f"{ballot.where}: question {ballot.question_id}, {ballot.system_a} against {ballot.system_b} is not voted "
            f"on here; check the names, or leave such rows out with --only-known"
        )
    item_id, swapped = item[0], item[1] != ballot.system_a
    db.execute("INSERT OR IGNORE INTO raters (name, created) VALUES (?, ?)", (ballot.rater, now))
    (rater_id,) = db.execute("SELECT rater_id FROM raters WHERE name = ?", (ballot.rater,)).fetchone()
    key = (item_id, rater_id)
    there = db.execute(
        "SELECT swapped, choice FROM assignments WHERE item_id = ? AND rater_id = ? AND state = 'voted'", key
    ).fetchone()
    if there is not None:
        if (bool(there[0]), there[1]) == (swapped, ballot.choice.value):
            return "known"
        raise VerdictError(
            f"{ballot.where}: {ballot.rater} has another vote on question {ballot.question_id}, {one} against {two}; "
            f"a rater has one vote on an item. Remove one of them"
        )
    db.execute("UPDATE assignments SET state = 'expired' WHERE item_id = ? AND rater_id = ? AND state = 'open'", key)
    db.execute(
        "INSERT INTO assignments (item_id, rater_id, seed, swapped, state, claimed, choice, voted, seconds, origin) "
        "VALUES (?, ?, ?, ?, 'voted', ?, ?, ?, ?, 'import')",
        (*key, ballot.side_seed, swapped, now, ballot.choice.value, ballot.voted, ballot.seconds),
    )
    return "stored"
