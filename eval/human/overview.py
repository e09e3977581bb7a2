"""What the admin page shows about a vote: progress, speed, attention, agreement, position bias.

    overview(store)     # nothing in it says which system wins: who runs a vote should not know before its end

Agreement and position bias are those of `eval.ratings.agreement` and `eval.ratings.bias`, over the votes without
attention checks; "both bad" counts as a tie.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from eval.human.raters import list_raters
from eval.human.store import VoteStore
from eval.human.votes import Choice, Vote, votes
from eval.ratings.agreement import Level, rater_agreement
from eval.ratings.bias import PositionBias, position_bias
from eval.verdicts.table import Verdicts

NUM_RESAMPLES = 200
HASTY_SECONDS = 3.0  # nobody reads two answers in less


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterView:
    """What the admin sees of one rater. Shares are None where there is nothing to divide."""

    name: str
    can_enter: bool
    num_votes: int  # attention checks included
    num_open: int
    num_undone: int
    median_seconds: float | None
    num_hasty: int  # votes within HASTY_SECONDS
    last_vote: float | None  # seconds since 1970
    left_share: float | None  # of the votes that name a winner
    num_decisive: int
    num_ties: int
    num_both_bad: int
    checks_passed: int
    checks_failed: int
    checks_unsure: int  # said that both are bad
    agreement: float | None  # share of other raters' votes on the same items that say the same
    num_compared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the admin sees of the whole vote."""

    num_items: int
    num_complete: int  # have raters_per_item votes
    raters_per_item: int
    num_votes: int  # without attention checks
    num_wanted: int
    num_check_votes: int
    num_open: int
    num_expired: int  # claims that were let go
    raters: tuple[RaterView, ...]
    agreement: Level | None  # None: no item has two votes
    position: PositionBias | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    items: int
    open_of: dict[str, int]
    undone_of: dict[str, int]
    expired: int


def overview(store: VoteStore) -> Overview:
    """Computes the overview of the votes as they are now."""
    k = store.rules.raters_per_item
    counts = _counts(store)
    cast = votes(store)
    real = [vote for vote in cast if vote.better is None]
    per_item = Counter(vote.item_id for vote in real)
    of_rater = defaultdict(list)
    for vote in cast:
        of_rater[vote.rater].append(vote)
    same = _same_votes(real)
    agreement, position = _quality(real, store.seed) if real else (None, None)
    return Overview(
        num_items=counts.items,
        num_complete=sum(num >= k for num in per_item.values()),
        raters_per_item=k,
        num_votes=len(real),
        num_wanted=counts.items * k,
        num_check_votes=len(cast) - len(real),
        num_open=sum(counts.open_of.values()),
        num_expired=counts.expired,
        raters=tuple(
            _rater_view(rater.name, rater.can_enter, of_rater[rater.name], counts, same.get(rater.name, (0, 0)))
            for rater in list_raters(store)
        ),
        agreement=agreement,
        position=position,
    )


def to_verdicts(cast: Sequence[Vote]) -> Verdicts:
    """Turns votes into the form in which `eval.verdicts.table` holds a file's rows."""
    return Verdicts.of(
        questions=[vote.question_id for vote in cast],
        pairs=[(vote.system_a, vote.system_b) for vote in cast],
        verdicts=[vote.choice.verdict for vote in cast],
        raters=[vote.rater for vote in cast],
    )


def _quality(real: Sequence[Vote], seed: int) -> tuple[Level | None, PositionBias]:
    verdicts = to_verdicts(real)
    levels = rater_agreement(verdicts, NUM_RESAMPLES, np.random.default_rng(seed))
    return levels.get("all"), position_bias(verdicts)


def _counts(store: VoteStore) -> _Counts:
    now = store.now()
    with store.reading() as db:
        (items,) = db.execute("SELECT COUNT(*) FROM items WHERE better IS NULL").fetchone()
        open_of = db.execute(
            "SELECT name, COUNT(*) FROM assignments JOIN raters USING (rater_id) "
            "WHERE state = 'open' AND expires >= ? GROUP BY name",
            (now,),
        ).fetchall()
        undone_of = db.execute(
            "SELECT name, COUNT(*) FROM undone JOIN assignments USING (assignment_id) JOIN raters USING (rater_id) "
            "GROUP BY name"
        ).fetchall()
        (expired,) = db.execute(
            "SELECT COUNT(*) FROM assignments WHERE state = 'expired' OR state = 'open' AND expires < ?", (now,)
        ).fetchone()
    return _Counts(items=items, open_of=dict(open_of), undone_of=dict(undone_of), expired=expired)


def _rater_view(name: str, can_enter: bool, mine: Sequence[Vote], counts: _Counts, same: tuple[int, int]) -> RaterView:
    real = Counter(vote.choice for vote in mine if vote.better is None)
    decisive = real[Choice.left] + real[Choice.right]
    checks = [vote for vote in mine if vote.better is not None]
    passed = sum(vote.choice.verdict == vote.better for vote in checks)
    unsure = sum(vote.choice is Choice.both_bad for vote in checks)
    seconds = [vote.seconds for vote in mine if vote.seconds is not None]
    return RaterView(
        name=name,
        can_enter=can_enter,
        num_votes=len(mine),
        num_open=counts.open_of.get(name, 0),
        num_undone=counts.undone_of.get(name, 0),
        median_seconds=median(seconds) if seconds else None,
        num_hasty=sum(value < HASTY_SECONDS for value in seconds),
        last_vote=max((vote.voted for vote in mine if vote.voted is not None), default=None),
        left_share=real[Choice.left] / decisive if decisive else None,
        num_decisive=decisive,
        num_ties=real[Choice.tie],
        num_both_bad=real[Choice.both_bad],
        checks_passed=passed,
        checks_failed=len(checks) - passed - unsure,
        checks_unsure=unsure,
        agreement=same[0] / same[1] if same[1] else None,
        num_compared=same[1],
    )


def _same_votes(real: Sequence[Vote]) -> dict[str, tuple[int, int]]:
    """-> {rater: (equal votes of other raters on the same items, all votes of other raters on them)}"""
    votes_by_item: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for vote in real:
        votes_by_item[vote.item_id].append((vote.rater, _winner(vote)))
    counts: dict[str, tuple[int, int]] = {}
    for item in votes_by_item.values():
        labels = Counter(label for _, label in item)
        for rater, label in item:
            equal, total = counts.get(rater, (0, 0))
            counts[rater] = (equal + labels[label] - 1, total + len(item) - 1)
    return counts


def _winner(vote: Vote) -> str:
    """The system that the vote names; empty for a tie."""
    return {Choice.left: vote.system_a, Choice.right: vote.system_b}.get(vote.choice, "")
