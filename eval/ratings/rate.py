"""Rates systems from verdict files, as `python -m eval rate` prints it.

It puts together Elo as in QLoRA (arXiv 2305.14314, section 5.3), Bradley-Terry and Davidson with intervals clustered by
prompt, relative scores (its Table 6), position bias, the win matrix, tests of all pairs and ranks. Whatever
can't be rated is left out and said in `notes`.

    from eval.ratings.rate import RateOptions, rate_files
    result = rate_files([Path("verdicts.csv")], RateOptions())
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.answers.files import load_answers, named, unmatched_notes
from eval.ratings.bias import PositionBias, Share, length_bias, position_bias, unplaced_notes
from eval.ratings.bradley_terry import (
    ANCHOR,
    Cells,
    Fit,
    connected_groups,
    count_cells,
    fit,
    fit_resamples,
    has_no_davidson_maximum,
    unbounded_systems,
)
from eval.ratings.canonical import canonical_order
from eval.ratings.comparisons import (
    METHOD,
    Comparison,
    Rank,
    agreeing,
    compare_all,
    exact_p_values,
    ranks,
    standard_errors,
    verdict,
)
from eval.ratings.elo import EloRating, elo_drawn, elo_over_prompts, elo_resamples, ordering_interval
from eval.ratings.intervals import resampled_error, student_t
from eval.ratings.people import METHOD as PEOPLE_METHOD
from eval.ratings.people import PeopleRatings, people_ratings, vote_notes
from eval.ratings.relative import RelativeScore, Scores, is_score_file, load_scores, relative_scores
from eval.ratings.style import Controlled, controlled_ratings
from eval.ratings.unanimous import ResampledPrompts, doubted_cells, doubted_matches, doubtful_pairs, least_errors
from eval.verdicts.codes import NULL_SYSTEM
from eval.verdicts.columns import read_header
from eval.verdicts.files import has_places
from eval.verdicts.table import Matches, Verdicts, load_verdicts, to_matches

SCHEMA_VERSION = 1
FEW_PROMPTS = 10  # below this intervals over prompts rest on hardly anything
METHODS = {
    "bradley_terry": "Student's t with a bootstrap of the prompts; where all prompts agree, one that doesn't is added, "
    "as in Clopper & Pearson's exact interval, and the interval is at least as wide as an exact sign test asks",
    "elo": "as bradley_terry's; what noise of the ordering is left in a resample is taken out",
    "position_bias": "Korn & Graubard (1998): Clopper & Pearson at the effective number of prompts",
    "relative": "Student's t on the linearised ratio of the two means, over prompts",
    "controlled": "Student's t with a bootstrap of the prompts, and an exact sign test's where all prompts agree",
    "length_bias": "as position_bias",
    "comparisons": METHOD,
    "people": PEOPLE_METHOD,
    "ranks": "percentiles of the ranks of the bootstrap, spread by Student's t, widened where a plain test can't "
    "tell two systems that they keep apart; best: share of resamples that it leads, at most 1 - p / 2 "
    "of each plain test",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RateOptions:
    """The options of a rating. The paper states K = 32, start 1000, 10,000 orderings."""

    k: float = 32.0  # points at stake in one match
    start: float = 1000.0  # every system's rating before the first match
    orderings: int = 10_000  # random orders of play that the mean is taken over; 0 leaves Elo out (millions of rows)
    sample_size: int | None = None  # matches drawn for an ordering; None takes all
    seed: int = 0
    resamples: int = 1000  # of the prompts, for every interval but that of the ordering
    aggregate: str = "majority"  # several raters an item: majority | each
    people: tuple[Path, ...] = ()  # people's votes on a part of the matches, which correct the judge's
    answers: tuple[Path, ...] = ()  # JSON lines with question_id, system, answer: for length and style
    benchmark: str | None = None  # the set of questions, where the files say which; None takes all
    turn: int | None = None  # of the dialogues; None takes all, as matches of their own

    def __post_init__(self) -> None:
        if self.orderings < 0:
            raise ValueError(f"orderings={self.orderings}: 0 leaves Elo out, else at least 1")
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: an interval needs at least 2, and a good one 1000")
        if self.sample_size is not None and self.sample_size < 1:
            raise ValueError(f"sample_size={self.sample_size}: at least 1, or leave it out to take all matches")
        if self.aggregate not in ("majority", "each"):
            raise ValueError(f"aggregate={self.aggregate!r}: expected majority or each")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthRating:
    """A Bradley-Terry or Davidson rating in points, with its 95 % interval over prompts."""

    rating: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The results of one system against another."""

    wins: int
    losses: int
    ties: int
    win_rate: float  # a tie counts half


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingsResult:
    """The whole result of a rating. Systems are in order of their Bradley-Terry rating, group by group."""

    elo: dict[str, EloRating]
    bradley_terry: dict[str, StrengthRating]
    davidson: dict[str, StrengthRating]
    tie_parameter: float | None  # Davidson's nu
    relative: dict[str, RelativeScore]
    position_bias: PositionBias | None
    num_matches: int  # that ratings are made from
    num_unparsed: int  # rows left out
    win_matrix: dict[str, dict[str, Record]]
    pairs: list[Comparison]  # those of `comparisons` that are next to each other in the ranking
    comparisons: list[Comparison]  # every two systems of a group
    ranks: dict[str, Rank]
    verdict: list[str]  # a sentence for each group: which is best, and how sure that is
    methods: dict[str, str]  # how each kind of interval is made
    people: PeopleRatings | None  # the judge's ratings corrected by people
    groups: list[list[str]]  # systems linked by matches; ratings of different groups can't be compared
    unrated: list[str]  # systems that met nobody
    controlled: Controlled | None
    length_bias: Share | None
    notes: list[str]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and None, ready for `json.dumps(..., allow_nan=False)`."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tournament:
    """The matches between systems of one list, counted."""

    systems: list[str]
    questions: list[str]
    matches: Matches
    cells: Cells
    groups: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strengths:
    whole: Fit
    resamples: NDArray[np.float64] | None  # (num_resamples, num_systems) points; None with a single prompt


def rate_files(paths: Sequence[Path], options: RateOptions) -> RatingsResult:
    """Rate the systems of pairwise and ten-point files, in any mixture.

    Raises:
        ValueError: A file or an option can't be used; the message names the file, the line and the remedy.
    """
    if not paths:
        raise ValueError("no verdict file was given")
    score_paths = [path for path in paths if is_score_file(read_header(path))]
    pair_paths = [path for path in paths if path not in score_paths]
    verdicts = load_verdicts(pair_paths, benchmark=options.benchmark, turn=options.turn) if pair_paths else None
    scores = load_scores(score_paths, options.benchmark, options.turn) if score_paths else None
    unplaced = [path.name for path in pair_paths if not has_places(path)]
    return rate(verdicts, scores, options, [str(path) for path in paths], unplaced)


def rate(
    verdicts: Verdicts | None,
    scores: Scores | None,
    options: RateOptions,
    sources: Sequence[str] = (),
    unplaced: Sequence[str] = (),
) -> RatingsResult:
    """Rate loaded verdicts and scores.

    Args:
        verdicts: of pairs.
        scores: ten-point scores.
        options: how.
        sources: the files, which are only recorded.
        unplaced: those of them whose pairs stand in the order of names (`eval.verdicts.files.has_places`).
    """
    relative = relative_scores(scores) if scores else {}
    unparsed = [0 if rows is None else int((~rows.parsed).sum()) for rows in (verdicts, scores)]
    named = {name: [str(path) for path in getattr(options, name)] for name in ("answers", "people")}
    settings = {**asdict(options), **named, "files": list(sources)}
    notes = [f"{unparsed[1]} rows of ten-point scores could not be parsed and are left out"] if unparsed[1] else []
    if scores is not None and len(np.unique(scores.turn)) > 1:
        notes.append("ten-point scores of a question's turns are averaged; --turn takes one")
    left_out = [] if scores is None else [name for name in scores.system.values if name not in relative]
    notes += [f"{name} has no relative score: none of its is parsed, or the reference's are 0" for name in left_out]
    common: dict[str, Any] = {"relative": relative, "num_unparsed": sum(unparsed), "settings": settings}
    if verdicts is None:
        return _result(**common, notes=notes)

    play = _tournament(verdicts, options)
    common |= {
        "position_bias": None if unplaced else position_bias(verdicts),
        "num_matches": len(play.matches),
        "unrated": _unrated(play),
        "notes": [*_notes(verdicts, play, options), *unplaced_notes(unplaced), *notes],
    }
    if len(play.matches):
        common |= _rated(verdicts, play, options, common["notes"], unplaced)
    return _result(**common)


def _tournament(verdicts: Verdicts, options: RateOptions) -> _Tournament:
    """Its systems and prompts in an order that depends neither on their names nor on the files' rows."""
    order, questions, matches = canonical_order(to_matches(verdicts, options.aggregate), len(verdicts.system_names))
    cells = count_cells(matches, len(order))
    return _Tournament(
        systems=[verdicts.system_names[system] for system in order],
        questions=[verdicts.question.values[question] for question in questions],
        matches=matches,
        cells=cells,
        groups=connected_groups(cells),
    )


def _rated(
    verdicts: Verdicts, play: _Tournament, options: RateOptions, notes: Sequence[str], unplaced: Sequence[str]
) -> dict[str, Any]:
    """What is known of a tournament with a match."""
    elo_rng, prompt_rng, control_rng, people_rng = np.random.default_rng(options.seed).spawn(4)
    cells, doubt = play.cells, doubtful_pairs(play.cells)
    weights = ResampledPrompts(cells.num_questions, options.resamples, int(prompt_rng.integers(2**63)), doubt)
    resampled = doubted_cells(cells, doubt).resampled(weights)
    with ThreadPoolExecutor(2) as pool:  # numpy's inner loops leave the interpreter's lock
        strengths, davidson = pool.map(lambda ties: _strengths(cells, resampled, davidson=ties), (False, True))
    order = _ranking(play, strengths.whole.points)
    controlled, longer = _style(verdicts, play, options, control_rng, has_places=not unplaced)
    people, vote_words = _people(verdicts, options, people_rng)
    return {
        "elo": _elo(play, options, weights, elo_rng, order),
        "bradley_terry": _table(play, strengths, order),
        "davidson": _table(play, davidson, order),
        "tie_parameter": davidson.whole.nu,
        "people": people,
        "win_matrix": _win_matrix(play, cells.totals(), order),
        "groups": [[play.systems[s] for s in order if s in group] for group in play.groups],
        "controlled": controlled,
        "length_bias": longer,
        "notes": [*notes, *vote_words, *_control_note(play, order)],
        **_compared(play, strengths, order),
    }


def _compared(play: _Tournament, strengths: _Strengths, order: Sequence[int]) -> dict[str, Any]:
    """Every two systems of a group, their ranks, and the sentence that says which is best."""
    num_prompts, rankings = play.cells.num_questions, [[s for s in order if s in group] for group in play.groups]
    draws, points = strengths.resamples, strengths.whole.points
    errors = exact = None
    if draws is not None:
        errors = standard_errors(draws, num_prompts)
        exact = exact_p_values(play.matches, len(play.systems), num_prompts)
    found = compare_all(play.systems, rankings, points, errors, exact, play.cells.prompts_of_systems())
    next_to = {(play.systems[a], play.systems[b]) for ranking in rankings for a, b in pairwise(ranking)}
    places = agreeing(ranks(play.systems, rankings, points, draws, num_prompts), found)
    return {
        "comparisons": found,
        "pairs": [pair for pair in found if (pair.higher, pair.lower) in next_to],
        "ranks": places,
        "verdict": [verdict([play.systems[s] for s in ranking], places, found) for ranking in rankings],
    }


def _result(**found: Any) -> RatingsResult:
    """Makes a result; fields that are not given are empty."""
    empty: dict[str, Any] = {
        **{name: {} for name in ("elo", "bradley_terry", "davidson", "relative", "win_matrix", "ranks")},
        **dict.fromkeys(("tie_parameter", "position_bias", "controlled", "length_bias", "people")),
        **{name: [] for name in ("pairs", "comparisons", "verdict", "groups", "unrated", "notes")},
        "num_matches": 0,
        "methods": METHODS,
    }
    return RatingsResult(**{**empty, **found})


def _unrated(play: _Tournament) -> list[str]:
    met = {system for group in play.groups for system in group}
    return [name for system, name in enumerate(play.systems) if system not in met]


def _ranking(play: _Tournament, points: NDArray[np.float64]) -> list[int]:
    """Systems by rating, group after group."""
    return [system for group in play.groups for system in sorted(group, key=lambda s: -points[s])]


def _strengths(cells: Cells, resampled: NDArray[np.float64], *, davidson: bool) -> _Strengths:
    whole = fit(cells, cells.totals(), davidson=davidson)
    draws = fit_resamples(cells, resampled, whole, davidson=davidson) if len(resampled) else None
    return _Strengths(whole=whole, resamples=draws)


def _table(play: _Tournament, strengths: _Strengths, order: Sequence[int]) -> dict[str, StrengthRating]:
    points = strengths.whole.points
    bounds = _bounds(play, points, strengths.resamples, ANCHOR)
    return {
        play.systems[system]: StrengthRating(
            rating=float(points[system]), low=bounds[system][0], high=bounds[system][1]
        )
        for system in order
    }


def _elo(
    play: _Tournament,
    options: RateOptions,
    weights: ResampledPrompts,
    rng: np.random.Generator,
    order: Sequence[int],
) -> dict[str, EloRating]:
    if not options.orderings:
        return {}
    whole_rng, prompt_rng = rng.spawn(2)
    num_systems = len(play.systems)
    settings: dict[str, Any] = {"sample_size": options.sample_size, "k": options.k, "start": options.start}
    ratings = elo_drawn(play.matches, num_systems, options.orderings, whole_rng, **settings)
    draws = None
    if weights.num_questions > 1:
        num_resamples = elo_resamples(options.resamples, options.sample_size or len(play.matches))
        matches = doubted_matches(play.matches, weights.num_questions, weights.doubt)
        drawn = islice(_positions(matches, weights), num_resamples)
        draws = elo_over_prompts(matches, num_systems, drawn, prompt_rng, **settings)
    bounds = _bounds(play, ratings.mean(axis=0), draws, options.start)
    table = {}
    for system in order:
        mean, sd, ordering_low, ordering_high = ordering_interval(ratings[:, system])
        low, high = bounds[system]
        table[play.systems[system]] = EloRating(
            mean=mean, ordering_sd=sd, ordering_low=ordering_low, ordering_high=ordering_high, low=low, high=high
        )
    return table


def _bounds(
    play: _Tournament, points: NDArray[np.float64], draws: NDArray[np.float64] | None, average: float
) -> list[tuple[float, float] | tuple[None, None]]:
    """Each system's 95 % interval over prompts: Student's t with the resamples' error, or an exact test's."""
    prompts_of, least = play.cells.prompts_of_systems(), least_errors(play.matches, points, average)
    found: list[tuple[float, float] | tuple[None, None]] = []
    for system, num in enumerate(prompts_of.tolist()):
        error = resampled_error(draws[:, system], play.cells.num_questions) if draws is not None and num > 1 else nan
        if isnan(error):
            found.append((None, None))
            continue
        half = student_t(num) * max(error, float(least[system]))
        found.append((float(points[system]) - half, float(points[system]) + half))
    return found


def _people(
    verdicts: Verdicts, options: RateOptions, rng: np.random.Generator
) -> tuple[PeopleRatings | None, list[str]]:
    """(ratings by people, notes on votes that fit no verdict)."""
    if not options.people:
        return None, []
    votes = load_verdicts(options.people, turn=options.turn)
    if options.benchmark is not None and any(votes.benchmark.values):
        votes = load_verdicts(options.people, benchmark=options.benchmark, turn=options.turn)
    try:
        found = people_ratings(verdicts, votes, options.resamples, rng, options.aggregate)
    except ValueError as error:
        raise ValueError(f"{', '.join(map(str, options.people))}: {error}") from None
    return found, vote_notes(verdicts, votes, found)


def _positions(matches: Matches, weights: ResampledPrompts) -> Iterator[NDArray[np.int64]]:
    """Each resample's matches: a prompt drawn twice gives its matches twice."""
    every = np.arange(len(matches))
    return (np.repeat(every, np.rint(weight).astype(np.int64)[matches.question]) for weight in weights)


def _win_matrix(play: _Tournament, counts: NDArray[np.float64], order: Sequence[int]) -> dict[str, dict[str, Record]]:
    found: dict[tuple[int, int], Record] = {}
    for (i, j), (won, lost, tied) in zip(play.cells.pair.tolist(), counts.astype(int).tolist(), strict=True):
        for one, two, wins, losses in ((i, j, won, lost), (j, i, lost, won)):
            rate = (wins + tied / 2) / (wins + losses + tied)
            found[one, two] = Record(wins=wins, losses=losses, ties=tied, win_rate=rate)
    return {
        play.systems[one]: {play.systems[two]: found[one, two] for two in order if (one, two) in found} for one in order
    }


def _control_note(play: _Tournament, order: Sequence[int]) -> list[str]:
    """Says where the constant-answer control ranks. Above a system that answers, the judge can't be trusted."""
    if NULL_SYSTEM not in play.systems:
        return []
    null = play.systems.index(NULL_SYSTEM)
    mine = next((group for group in play.groups if null in group), [])
    ranked = [system for system in order if system in mine]
    if len(ranked) < 2:
        return []
    place, below = ranked.index(null) + 1, ranked[ranked.index(null) + 1 :]
    if not below:
        return [f"control: {NULL_SYSTEM}, which says the same to everything, is last of {len(ranked)}, as it should be"]
    named = ", ".join(play.systems[system] for system in below)
    return [
        f"control: {NULL_SYSTEM}, which says the same to everything, ranks {place} of {len(ranked)}, above {named}: "
        "a judge that can't tell these apart from nothing is not to be believed"
    ]


def _style(
    verdicts: Verdicts, play: _Tournament, options: RateOptions, rng: np.random.Generator, *, has_places: bool
) -> tuple[Controlled | None, Share | None]:
    if not options.answers:
        return None, None
    answers = load_answers(options.answers, play.questions)
    lengths = {key: float(len(text)) for key, text in answers.items()}
    longer = length_bias(verdicts, lengths)
    if len(play.groups) > 1:
        return None, longer
    named = (play.systems, play.questions)
    return controlled_ratings(play.matches, *named, answers, options.resamples, rng, has_places=has_places), longer


def _turn_notes(matches: Matches) -> list[str]:
    """Says where a question has matches on several turns of its dialogue."""
    if matches.turn is None:
        return []
    asked = np.unique(np.column_stack([matches.question, matches.turn]), axis=0)
    if len(asked) == len(np.unique(matches.question)):
        return []
    counts = ", ".join(f"{count} on turn {turn}" for turn, count in enumerate(np.bincount(matches.turn)) if count)
    return [f"turns of a dialogue are matches of their own and one prompt: {counts}; --turn takes one"]


def _notes(verdicts: Verdicts, play: _Tournament, options: RateOptions) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    if options.answers:
        notes += unmatched_notes(
            load_answers(options.answers, verdicts.question.values),
            verdicts.system_names,
            verdicts.question.values,
        )
    unparsed = int((~verdicts.parsed).sum())
    if unparsed:
        notes.append(
            f"{unparsed} of {len(verdicts)} verdicts ({unparsed / len(verdicts):.1%}) are unparsed and left out"
        )
    raters = [name for name in verdicts.rater.values if name]
    if raters and options.aggregate == "majority":
        notes.append("several raters an item count as one match: more than half of the votes wins, else it is a tie")
    judges = [name for name in verdicts.judge.values if name]
    if len(judges) > 1:
        notes.append(f"verdicts of {len(judges)} judges are pooled: {named(judges)}")
    benchmarks = [name or "none named" for name in verdicts.benchmark.values]
    if len(benchmarks) > 1:
        notes.append(f"{len(benchmarks)} benchmarks are pooled: {', '.join(sorted(benchmarks))}; --bench takes one")
    notes += _turn_notes(play.matches)
    for name in _unrated(play):
        notes.append(f"{name} met nobody (none of its verdicts is parsed) and has no rating")
    if len(play.groups) > 1:
        described = "; ".join(", ".join(play.systems[s] for s in group) for group in play.groups)
        notes.append(
            f"{len(play.groups)} groups of systems never met: {described}. Each group has its own mean of 1000; "
            "ratings of different groups can't be compared"
        )
        if options.answers:
            notes.append("length and style are not controlled for, as not all systems are linked by matches")
    up, down = unbounded_systems(play.cells, play.cells.totals())
    for systems, what in ((up, "wins"), (down, "losses")):
        for system in systems:
            notes.append(
                f"{play.systems[system]} has nothing but {what} against the rest: likelihood gives it no finite "
                "Bradley-Terry rating; the one shown is held by a weak prior (normal, sd 800 points) and depends on it"
            )
    if has_no_davidson_maximum(play.cells, play.cells.totals()):
        notes.append(
            "no system lost to one rated below it, but some tied: likelihood gives no finite Davidson ratings; those "
            "shown are held by a weak prior (normal, sd 800 points) and depend on it"
        )
    if 0 < play.cells.num_questions < FEW_PROMPTS:
        few = play.cells.num_questions
        what = "no interval over prompts" if few == 1 else "the intervals over prompts rest on hardly anything"
        notes.append(f"only {few} prompt{'s' * (few > 1)}: {what}")
    if not options.orderings:
        notes.append("orderings=0: no Elo")
    return notes
