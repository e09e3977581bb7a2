"""Corrects the ratings of a judge's tournament by the votes of people on a part of its matches.

A judge is cheap and biased, people are right by definition and few. Prediction-powered inference (Angelopoulos et al.,
arXiv 2301.09633) rates by people's votes and adds what the judge says of all matches less what it says of those that
people voted on, which is nothing on average, however biased it is. The addition is weighted with the power `weight`
between 0 (people alone) and 1, that makes intervals narrowest (PPI++, arXiv 2311.01453), and halved while few votes
make them wider than people's alone. Each pair of systems is corrected by its own matches (stratified, Fisch et al.,
arXiv 2406.04291), so that people may vote more often on some pairs; within a pair they must vote on matches taken at
random. Intervals are Student's t with a bootstrap of the prompts (PPBoot, Zrnic, arXiv 2405.18379). Used by
`python -m eval rate VERDICTS.csv --people VOTES.csv`.

Which pair to ask for next: the one whose vote takes most off the sum of the ratings' variances (a sequential A-optimal
design; Chatbot Arena draws pairs in proportion to what they take off an interval, arXiv 2403.04132, section 5). Much is
asked about a system far from all others, as each of its votes says little.

    found = people_ratings(load_verdicts([judged]), load_verdicts([votes]), num_resamples=1000, rng=default_rng(0))
"""

from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from eval.answers.files import named
from eval.ratings.bradley_terry import (
    ANCHOR,
    PRIOR_PRECISION,
    Cells,
    Fit,
    connected_groups,
    count_cells,
    fit_resamples,
    linear_resamples,
)
from eval.ratings.canonical import canonical_order, joined, parted
from eval.ratings.comparisons import (
    Comparison,
    Rank,
    agreeing,
    compare_all,
    exact_p_values,
    ranks,
    standard_errors,
    verdict,
)
from eval.ratings.intervals import resampled_error, student_t
from eval.ratings.unanimous import ResampledPrompts, doubted_cells, doubtful_pairs, least_errors
from eval.verdicts.table import Matches, Verdicts, items_question, refuse_other_benchmarks, to_matches

METHOD = (
    "prediction-powered Bradley-Terry: people's votes, corrected by the judge's verdicts on all matches less those "
    "voted on, pair by pair (Angelopoulos et al., arXiv 2301.09633; power-tuned as in PPI++, arXiv 2311.01453; "
    "stratified as in arXiv 2406.04291); Student's t with a bootstrap of the prompts (arXiv 2405.18379); pairs as in "
    "`comparisons`, with the votes' exact test where people rate alone, else one in which all prompts with votes agree"
)
Array = NDArray[np.float64]
LEAST_WEIGHT = 0.05  # of the judge; below, people rate alone


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRating:
    """One system's Bradley-Terry rating by people, in points; 95 % intervals over prompts."""

    rating: float  # corrected by people, with the judge's help
    low: float | None
    high: float | None
    people_only: float  # from people's votes alone
    people_only_low: float | None
    people_only_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRatings:
    """The systems that people voted on, group by group, each group from best to worst with a mean of 1000."""

    ratings: dict[str, PeopleRating]
    ranks: dict[str, Rank]
    comparisons: list[Comparison]  # every two systems of a group, by the corrected ratings
    verdict: list[str]  # a sentence for each group
    judge_weight: float  # how much the judge's verdicts count: 0 is people alone
    num_votes: int  # matches that people decided and the judge has too
    num_unmatched: int  # matches that people decided and the judge has not: left out
    num_prompts: int  # with a vote
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedStrengths:
    """Points of the systems that people voted on; NaN for others. Resamples have shape (num_resamples, num_systems)."""

    weight: float  # of the judge, from 0 (people alone) to 1
    points: Array  # (num_systems,)
    resamples: Array | None  # None with votes on a single prompt
    people_points: Array  # from people's votes alone
    people_resamples: Array | None
    prompts: NDArray[np.int64]  # (num_systems,) with a vote
    least_error: Array  # (num_systems,) below which no standard error is taken: people of one mind
    num_prompts: int  # with a vote
    num_votes: int  # matches that people decided and the judge has too
    num_unmatched: int  # matches that people decided and the judge has not: left out
    groups: list[list[int]]  # systems linked by people's votes
    exact: Array | None  # (num_systems, num_systems) p of an exact test on people's votes; None where the judge counts

    def interval(self, system: int, *, people_only: bool = False) -> tuple[float, float] | None:
        """95 %, over prompts."""
        draws = self.people_resamples if people_only else self.resamples
        if draws is None or self.prompts[system] < 2:
            return None
        points = self.people_points if people_only else self.points
        error = resampled_error(draws[:, system], self.num_prompts)
        if isnan(error):
            return None
        half = student_t(int(self.prompts[system])) * max(error, float(self.least_error[system]))
        return float(points[system]) - half, float(points[system]) + half


@dataclass(frozen=True, slots=True, kw_only=True)
class _Votes:
    """What people and the judge say of the pairs that people voted on, by prompt."""

    matches: Matches  # people's
    people: Cells  # these, counted
    judge: Cells  # of the same pairs, the outcomes being 0: score where voted, 1: score, 2: matches


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Of a resample of the prompts, or of several: the tables of `_Votes` summed over prompts."""

    people: Array  # (num_resamples, num_pairs, 3)
    votes: Array  # (num_resamples, num_pairs) that were cast
    judge: Array  # (num_resamples, num_pairs, 3)

    def corrected(self, weight: float) -> Array:
        """People's wins and losses (num_resamples, num_pairs, 3), with what the judge's verdicts add to them."""
        expected = self.votes * self.judge[..., 1] / np.maximum(self.judge[..., 2], 1.0)
        won = self.people[..., 0] + self.people[..., 2] / 2.0 + weight * (expected - self.judge[..., 0])
        return np.stack([won, self.people.sum(axis=2) - won, np.zeros_like(won)], axis=2)


def people_ratings(
    verdicts: Verdicts,
    votes: Verdicts,
    num_resamples: int,
    rng: np.random.Generator,
    aggregate: str = "majority",
) -> PeopleRatings:
    """Rate the systems of a judge's verdicts by people's votes on some of them.

    Raises:
        ValueError: No vote is on a match that was judged.
    """
    refuse_other_benchmarks(verdicts, votes)
    voted = to_matches(votes, aggregate)
    known, shared = _renumbered(voted, votes, verdicts)
    found = corrected_ratings(to_matches(verdicts, aggregate), shared, len(verdicts.system_names), num_resamples, rng)
    names = verdicts.system_names
    rankings = [sorted(group, key=lambda system: -found.points[system]) for group in found.groups]
    errors = None if found.resamples is None else standard_errors(found.resamples, found.num_prompts)
    comparisons = compare_all(names, rankings, found.points, errors, found.exact, found.prompts)
    places = agreeing(ranks(names, rankings, found.points, found.resamples, found.num_prompts), comparisons)
    said = f"corrected by people's votes on {found.num_votes} match{'es' * (found.num_votes != 1)}, "
    return PeopleRatings(
        ratings={names[system]: _rating(found, system) for ranking in rankings for system in ranking},
        ranks=places,
        comparisons=comparisons,
        verdict=[
            said + verdict([names[system] for system in ranking], places, comparisons, " with votes")
            for ranking in rankings
        ],
        judge_weight=found.weight,
        num_votes=found.num_votes,
        num_unmatched=found.num_unmatched + int((~known).sum()),
        num_prompts=found.num_prompts,
        method=METHOD,
    )


def vote_notes(verdicts: Verdicts, votes: Verdicts, found: PeopleRatings) -> list[str]:
    """Notes for readers on votes and verdicts that don't belong together."""
    notes, num = [], found.num_unmatched
    if num:
        notes.append(f"{num} match{'es' * (num > 1)} with votes {'were' if num > 1 else 'was'} not judged: left out")
    strangers = sorted(set(votes.system_names) - set(verdicts.system_names))
    unknown = sorted(set(votes.question.values) - set(verdicts.question.values))
    silent = sorted(set(verdicts.system_names) - set(found.ratings))
    lists = (
        (strangers, "systems of the votes are in no verdict"),
        (unknown, "questions of the votes are in no verdict"),
        (silent, "systems of the verdicts have no votes, and no corrected rating"),
    )
    return notes + [f"{len(names)} {what}: {named(names)}" for names, what in lists if names]


def informative_order(strengths: Array, pairs: NDArray[np.int64], num_items: NDArray[np.int64]) -> list[int]:
    """The pair of each vote to be cast, in order, each adding its Fisher information to that of the ratings.

    Args:
        strengths: (num_systems,) in nats, as far as they are known.
        pairs: (num_pairs, 2) systems.
        num_items: (num_pairs,) items of each pair, each of which comes once.
    """
    first, second = pairs.T
    chance = expit(strengths[first] - strengths[second])
    information = chance * (1.0 - chance)
    covariance = np.eye(len(strengths)) / PRIOR_PRECISION
    left, order = num_items.copy(), []
    for _ in range(int(num_items.sum())):
        reach = covariance[:, first] - covariance[:, second]  # (num_systems, num_pairs)
        spread = reach[first, np.arange(len(pairs))] - reach[second, np.arange(len(pairs))]
        gain = information * (reach**2).sum(axis=0) / (1.0 + information * spread)
        best = int(np.argmax(np.where(left > 0, gain, -np.inf)))
        step = reach[:, best]
        covariance = covariance - np.outer(step, step) * information[best] / (1.0 + information[best] * spread[best])
        left[best] -= 1
        order.append(best)
    return order


def _renumbered(voted: Matches, votes: Verdicts, verdicts: Verdicts) -> tuple[NDArray[np.bool_], Matches]:
    """(which votes are on questions and systems of the verdicts, those votes in the verdicts' numbers)."""
    systems, questions = (
        np.array([{name: code for code, name in enumerate(there)}.get(name, -1) for name in here], dtype=np.int32)
        for here, there in (
            (votes.system_names, verdicts.system_names),
            (votes.question.values, verdicts.question.values),
        )
    )
    moved = replace(voted, question=questions[voted.question], first=systems[voted.first], second=systems[voted.second])
    known = (moved.question >= 0) & (moved.first >= 0) & (moved.second >= 0)
    return known, moved.pick(known)


def _rating(found: CorrectedStrengths, system: int) -> PeopleRating:
    low, high = found.interval(system) or (None, None)
    people_low, people_high = found.interval(system, people_only=True) or (None, None)
    return PeopleRating(
        rating=float(found.points[system]),
        low=low,
        high=high,
        people_only=float(found.people_points[system]),
        people_only_low=people_low,
        people_only_high=people_high,
    )


def corrected_ratings(
    judged: Matches, voted: Matches, num_systems: int, num_resamples: int, rng: np.random.Generator
) -> CorrectedStrengths:
    """Bradley-Terry ratings by people, with the judge's help.

    Args:
        judged: The judge's verdicts.
        voted: People's matches, with the same numbers of questions and systems.
        num_systems: Systems are 0 .. num_systems - 1.
        num_resamples: Of the prompts.
        rng: Draws them.

    Raises:
        ValueError: No vote is on a match that was judged.
    """
    order, questions, both = canonical_order(joined(judged, voted), num_systems)
    judged, people = parted(both)
    known = np.isin(people.items(num_systems), judged.items(num_systems))
    if not known.any():
        raise ValueError("no vote is on a match that was judged: same question_id, turn and two systems")
    votes = _tabulated(judged, people.pick(known), num_systems, len(questions))
    found = _strengths(votes, num_resamples, rng)
    back = np.argsort(order)
    moved = {name: getattr(found, name)[..., back] for name in ("points", "people_points", "prompts", "least_error")}
    for name in ("resamples", "people_resamples"):
        draws = getattr(found, name)
        moved[name] = None if draws is None else draws[:, back]
    moved["exact"] = None if found.exact is None else found.exact[np.ix_(back, back)]
    groups = [[order[system] for system in group] for group in found.groups]
    return replace(found, **moved, groups=groups, num_unmatched=int((~known).sum()))


def _tabulated(judged: Matches, people: Matches, num_systems: int, num_questions: int) -> _Votes:
    """Both put in tables of the same pairs and prompts; the judge's score of an item is the mean of its verdicts."""
    cells = count_cells(people, num_systems)
    cells = replace(cells, num_questions=num_questions, question=cells.codes[cells.question])
    items, at = np.unique(judged.items(num_systems), return_inverse=True)
    low_points = np.where(judged.first < judged.second, judged.half_points, 2 - judged.half_points)
    score = np.bincount(at, weights=low_points / 2.0) / np.bincount(at)
    taken, votes = np.unique(people.items(num_systems), return_counts=True)
    num_votes = np.zeros(len(items))
    num_votes[np.searchsorted(items, taken)] = votes
    numbers = np.full(num_systems**2, -1, dtype=np.int64)
    numbers[cells.pair[:, 0] * num_systems + cells.pair[:, 1]] = np.arange(len(cells.pair))
    pair = numbers[items % num_systems**2]
    kept = pair >= 0
    pair, score, num_votes = pair[kept], score[kept], num_votes[kept]
    judge = replace(
        cells,
        question=np.tile(items_question(items[kept], num_systems), 3),
        column=np.concatenate([3 * pair + outcome for outcome in range(3)]),
        count=np.concatenate([num_votes * score, score, np.ones(len(score))]),
    )
    return _Votes(matches=people, people=cells, judge=judge)


def _strengths(votes: _Votes, num_resamples: int, rng: np.random.Generator) -> CorrectedStrengths:
    people, num_prompts, whole = votes.people, len(votes.people.codes), _counted(votes)
    level = Fit(points=np.full(people.num_systems, ANCHOR), nu=0.0)
    alone = fit_resamples(people, whole.corrected(0.0), level)[0]
    weight, draws, people_draws = 0.0, None, None
    if num_prompts > 1:
        resampled = _resampled(votes, num_resamples, rng)
        weight, draws, people_draws = _tuned(people, whole, resampled, Fit(points=alone, nu=0.0))
    points = fit_resamples(people, whole.corrected(weight), level)[0] if weight else alone
    return CorrectedStrengths(
        weight=weight,
        points=points,
        resamples=draws,
        people_points=alone,
        people_resamples=people_draws,
        prompts=people.prompts_of_systems(),
        least_error=least_errors(votes.matches, np.where(np.isnan(points), ANCHOR, points)),
        num_prompts=num_prompts,
        num_votes=int(people.count.sum()),
        num_unmatched=0,
        groups=connected_groups(people),
        exact=None if weight else exact_p_values(votes.matches, people.num_systems, people.num_questions),
    )


def _counted(votes: _Votes) -> _Counts:
    people, judge = votes.people.totals()[None], votes.judge.totals()[None]
    return _Counts(people=people, votes=people.sum(axis=2), judge=judge)


def _resampled(votes: _Votes, num_resamples: int, rng: np.random.Generator) -> _Counts:
    """With prompts drawn anew; where all people agree, a further vote that doesn't is people's alone."""
    people, doubt, num_questions = votes.people, doubtful_pairs(votes.people), votes.people.num_questions
    weights = ResampledPrompts(num_questions, num_resamples, int(rng.integers(2**63)), doubt)
    cast, judge = (
        replace(cells, num_questions=num_questions + len(doubt.outcomes())).resampled(weights)
        for cells in (people, votes.judge)
    )
    return _Counts(people=doubted_cells(people, doubt).resampled(weights), votes=cast.sum(axis=2), judge=judge)


def _tuned(people: Cells, whole: _Counts, resampled: _Counts, alone: Fit) -> tuple[float, Array, Array]:
    """(the judge's weight, the ratings' resamples, those of people's votes alone)."""
    people_draws = fit_resamples(people, resampled.corrected(0.0), alone)
    linear = (linear_resamples(people, resampled.corrected(w), whole.corrected(0.0)[0], alone) for w in (0.0, 1.0))
    weight = _power(*linear)
    while weight > LEAST_WEIGHT:
        draws = fit_resamples(people, resampled.corrected(weight), alone)
        if _spread(draws) <= _spread(people_draws):
            return weight, draws, people_draws
        weight /= 2.0
    return 0.0, people_draws, people_draws


def _spread(draws: Array) -> float:
    """The sum of the ratings' variances, of the systems with votes: all others are NaN in every resample."""
    voted = ~np.isnan(draws).all(axis=0)
    return float(np.nanvar(draws[:, voted], axis=0).sum())


def _power(alone: Array, full: Array) -> float:
    """The judge's weight for which linear resamples of the ratings vary least; `alone` are at 0, `full` at 1."""
    change = alone - full
    change -= change.mean(axis=0)
    total = float((change**2).sum())
    return float(np.clip((alone * change).sum() / total, 0.0, 1.0)) if total > 0 else 0.0
