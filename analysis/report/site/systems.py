"""What a system's page shows beside its leaderboard row: opponents, win rates by category, scores by subject."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.report.content import Content
from analysis.report.matches import Tally, pair_tallies
from analysis.report.records import Run
from eval.verdicts.codes import FIRST, SECOND, TIE
from harness.runs.scores import MeasuredScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Opponent:
    """Another system, and how this one did against it."""

    name: str
    tally: Tally
    difference: float | None  # Bradley-Terry points of this system less the other's; None where it was not tested
    p_holm: float | None
    is_separable: bool | None


def opponents(content: Content) -> dict[str, list[Opponent]]:
    """System -> everybody that it met, in the order of the leaderboard."""
    if content.tournament is None:
        return {}
    place = {name: index for index, name in enumerate(content.order)}
    tests = {(pair["higher"], pair["lower"]): pair for pair in content.ratings.get("comparisons") or ()}
    found: dict[str, list[Opponent]] = {}
    for (one, two), tally in pair_tallies(content.tournament).items():
        sign, pair = (1, tests[one, two]) if (one, two) in tests else (-1, tests.get((two, one)))
        opponent = Opponent(
            name=two,
            tally=tally,
            difference=sign * pair["difference"] if pair else None,
            p_holm=pair["p_holm"] if pair else None,
            is_separable=pair["significant"] if pair else None,
        )
        found.setdefault(one, []).append(opponent)
    return {name: sorted(met, key=lambda opponent: place[opponent.name]) for name, met in found.items()}


def category_rates(content: Content) -> dict[str, dict[str, Tally]]:
    """System -> category -> its outcomes against everybody on questions of that category."""
    found: dict[str, dict[str, Tally]] = {}
    for item in content.items:
        category = content.categories.get(item.question_id)
        if category is None:
            continue
        outcomes = [*item.forward, *item.backward]
        wins, losses, ties = (outcomes.count(code) for code in (FIRST, SECOND, TIE))
        for system, won, lost in ((item.one, wins, losses), (item.two, losses, wins)):
            tally = found.setdefault(system, {}).setdefault(category, Tally())
            tally.wins += won
            tally.losses += lost
            tally.ties += ties
    return {system: dict(sorted(tallies.items())) for system, tallies in found.items()}


def subject_scores(run: Run | None) -> list[tuple[str, float, int]]:
    """(MMLU subject, accuracy, questions) of one run."""
    if run is None or run.mmlu is None:
        return []
    return [(subject, accuracy, n) for subject, (accuracy, n) in sorted(run.mmlu.subjects.items())]


def system_scores(run: Run | None) -> Sequence[MeasuredScore]:
    """All other scores of one run."""
    return run.scores if run is not None else ()
