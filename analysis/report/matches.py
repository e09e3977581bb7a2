"""Counts who beat whom in a tournament, and how often.

The win matrix of ratings.json is taken where there is one, since it counts exactly the matches that
ratings are made from (several people's votes on one item are one match there); else verdicts are counted, each a
match. A win rate counts a tie as half a win (QLoRA, arXiv 2305.14314, section 5.3); an unparsed verdict is no match:
it is left out of every rate and counted beside it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from analysis.report.records import Tournament, Verdict
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED

PairTallies = dict[tuple[str, str], "Tally"]  # (system, opponent) -> the system's outcomes; both directions


@dataclass(slots=True, kw_only=True)
class Tally:
    """The outcomes of one system, against all others or against one of them."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    unparsed: int = 0

    @property
    def matches(self) -> int:
        """Verdicts that could be read."""
        return self.wins + self.losses + self.ties

    @property
    def win_rate(self) -> float | None:
        """The win rate from 0 to 1, a tie counting half; None without a match."""
        return (self.wins + self.ties / 2) / self.matches if self.matches else None


def pair_tallies(tournament: Tournament) -> PairTallies:
    """Outcomes of every pair that met."""
    counted = count_verdicts(tournament.verdicts)
    matrix = (tournament.ratings or {}).get("win_matrix") or {}
    if not matrix:
        return counted
    return {
        (one, two): Tally(
            wins=cell["wins"],
            losses=cell["losses"],
            ties=cell["ties"],
            unparsed=counted.get((one, two), Tally()).unparsed,
        )
        for one, row in matrix.items()
        for two, cell in row.items()
    } | {pair: tally for pair, tally in counted.items() if tally.matches == 0}


def tally_systems(pairs: PairTallies) -> dict[str, Tally]:
    """Each system's outcomes over all its opponents."""
    tallies: dict[str, Tally] = {}
    for (system, _), pair in pairs.items():
        tally = tallies.setdefault(system, Tally())
        tally.wins += pair.wins
        tally.losses += pair.losses
        tally.ties += pair.ties
        tally.unparsed += pair.unparsed
    return tallies


def count_verdicts(verdicts: Iterable[Verdict]) -> PairTallies:
    """Outcomes of every pair, each verdict a match."""
    tallies: PairTallies = {}
    for verdict in verdicts:
        one = tallies.setdefault((verdict.first, verdict.second), Tally())
        two = tallies.setdefault((verdict.second, verdict.first), Tally())
        _count(one, verdict.verdict, won=FIRST, lost=SECOND)
        _count(two, verdict.verdict, won=SECOND, lost=FIRST)
    return tallies


def _count(tally: Tally, verdict: int, won: int, lost: int) -> None:
    tally.wins += verdict == won
    tally.losses += verdict == lost
    tally.ties += verdict == TIE
    tally.unparsed += verdict == UNPARSED
