"""Keeps the raters, who may vote. Each has a token, of which only a hash is stored.

    token = add_rater(store, "ann")       # shown once, as the link /enter/<token>
    find_rater(store, token)              # -> Rater, or None

A token is `<rater_id>.<secret>` with 192 random bits: the number finds the row, the secret is compared in
constant time. With so many bits a plain hash needs neither salt nor slowness.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from eval.human.store import VoteStore

SECRET_BYTES = 24
MAX_NAME = 60  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """A rater's number and name."""

    rater_id: int
    name: str
    can_enter: bool = True  # has a token


def add_rater(store: VoteStore, name: str) -> str:
    """Adds a rater. -> the rater's token, which can't be shown again

    Raises:
        ValueError: no usable name, or it is taken.
    """
    name = checked_name(name)
    with store.writing() as db:
        row = db.execute("SELECT rater_id, token_sha256 FROM raters WHERE name = ?", (name,)).fetchone()
        if row is not None and row[1] is not None:
            raise ValueError(f"rater {name} is there already; `human raters renew {name}` makes a new link")
        if row is None:
            row = db.execute("INSERT INTO raters (name, created) VALUES (?, ?)", (name, store.now()))
            rater_id = row.lastrowid
        else:  # known from an import only
            rater_id = row[0]
        token = f"{rater_id}.{secrets.token_urlsafe(SECRET_BYTES)}"
        db.execute("UPDATE raters SET token_sha256 = ? WHERE rater_id = ?", (hash_token(token), rater_id))
    return token


def renew_rater(store: VoteStore, name: str) -> str:
    """Gives a rater a new token and makes the old one invalid. -> the new token

    Raises:
        ValueError: nobody is called so.
    """
    rater = named_rater(store, name)
    token = f"{rater.rater_id}.{secrets.token_urlsafe(SECRET_BYTES)}"
    _set_token(store, rater, hash_token(token))
    return token


def remove_rater(store: VoteStore, name: str) -> None:
    """Takes a rater's token away; votes stay.

    Raises:
        ValueError: nobody is called so.
    """
    _set_token(store, named_rater(store, name), None)


def list_raters(store: VoteStore) -> list[Rater]:
    """All raters in the order in which they were added."""
    with store.reading() as db:
        rows = db.execute("SELECT rater_id, name, token_sha256 IS NOT NULL FROM raters ORDER BY rater_id").fetchall()
    return [Rater(rater_id=row[0], name=row[1], can_enter=bool(row[2])) for row in rows]


def named_rater(store: VoteStore, name: str) -> Rater:
    """The rater of that name.

    Raises:
        ValueError: nobody is called so.
    """
    raters = list_raters(store)
    for rater in raters:
        if rater.name == name.strip():
            return rater
    raise ValueError(f"no rater {name}; there are {', '.join(rater.name for rater in raters) or 'none'}")


def find_rater(store: VoteStore, token: str) -> Rater | None:
    """The rater whose token this is; None for an invalid token."""
    number, dot, _ = token.partition(".")
    if not (dot and number.isascii() and number.isdigit() and len(number) < 10):
        return None
    with store.reading() as db:
        row = db.execute("SELECT name, token_sha256 FROM raters WHERE rater_id = ?", (int(number),)).fetchone()
    if row is None or row[1] is None or not same_token(token, row[1]):
        return None
    return Rater(rater_id=int(number), name=row[0])


def hash_token(token: str) -> str:
    """The hash of a token, which is stored instead of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def same_token(token: str, token_sha256: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(hash_token(token), token_sha256)


def form_token(token: str) -> str:
    """The value that a form must send back; only the holder of the cookie's token can make it."""
    return hmac.digest(token.encode(), b"form", "sha256").hex()


def is_form_token(sent: str, token: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(sent.encode(), form_token(token).encode())


def checked_name(name: str) -> str:
    """Checks that a name fits a table and a CSV, and strips it.

    Raises:
        ValueError: it is empty, too long, or holds control characters.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"rater {name!r}: expected a name of 1 to {MAX_NAME} printable characters")
    return name


def _set_token(store: VoteStore, rater: Rater, token_sha256: str | None) -> None:
    with store.writing() as db:
        db.execute("UPDATE raters SET token_sha256 = ? WHERE rater_id = ?", (token_sha256, rater.rater_id))
