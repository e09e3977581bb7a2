"""Measures how far two judges agree on items and on the ranking, and how far the raters of one file agree.

Used by `python -m eval agree A.csv B.csv`. An item is a question, its turn and a pair of systems, in whichever order.
Its label in a file is the sign of the sum of its matches there (both orders, raters' majority first), so that a win
in one order and a loss in the other is a tie. Source: QLoRA (arXiv 2305.14314, section 6.2); with this rule GPT-4
against the human majority gives its Fleiss kappa of 0.25 (0.258). Intervals are bootstraps clustered by
question; that of percent agreement is Korn & Graubard's (1998), exact at 0 and 100 %.

    from eval.ratings.agreement import AgreeOptions, agree_files
    result = agree_files(Path("gpt4.csv"), Path("human.csv"), AgreeOptions())
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.answers.files import load_answers, unmatched_notes
from eval.ratings import kappa as statistics
from eval.ratings.bias import PositionBias, Share, length_bias, own_wins, position_bias, unplaced_notes
from eval.ratings.bradley_terry import connected_groups, count_cells, fit, fit_resamples, prompt_weights
from eval.ratings.canonical import canonical_order, joined
from eval.ratings.intervals import Z_95, clustered_interval, student_t
from eval.verdicts.columns import combined_key, join_names
from eval.verdicts.files import has_places
from eval.verdicts.table import Matches, Verdicts, items_question, load_verdicts, refuse_other_benchmarks, to_matches

SCHEMA_VERSION = 1
METHODS = {
    "percent_agreement": "Korn & Graubard (1998): Clopper & Pearson at the effective number of questions",
    "others": "percentiles of a bootstrap of the questions, spread about the value as Student's t asks. Where every "
    "resample says the same, kappas and alpha follow percent agreement's interval with chance agreement held "
    "(1 - kappa is proportional to 1 - agreement; a perfect kappa takes the chance of labels in equal numbers); others "
    "have none",
}
NUM_LABELS = 3  # half points of the alphabetically first system: 0 it lost, 1 tie, 2 it won
EXAMPLE_STATISTICS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "percent_agreement": statistics.percent_agreement,
    "cohen_kappa": statistics.cohen_kappa,
    "fleiss_kappa": statistics.fleiss_kappa_of_pairs,
    "krippendorff_alpha": statistics.krippendorff_alpha_of_pairs,
    "kendall_tau": statistics.kendall_tau_of_table,
    "spearman": statistics.spearman_of_table,
}
SYSTEM_STATISTICS = {
    "percent_agreement": statistics.pair_order_agreement,
    "kendall_tau": statistics.kendall_tau,
    "spearman": statistics.spearman,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreeOptions:
    """The options of a comparison of two verdict files."""

    seed: int = 0
    resamples: int = 1000
    without: tuple[str, ...] = ()  # systems to leave out, e.g. gpt-4, which makes any ranking agree
    own_a: str | None = None  # the system that is judge A itself, for self-preference
    own_b: str | None = None
    answers: tuple[Path, ...] = ()  # JSON lines with question_id, system, answer, for length bias
    benchmark: str | None = None  # the set of questions, where the files say which; None takes all
    turn: int | None = None  # of the dialogues; None takes all

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: an interval needs at least 2, and a good one 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A value and its 95 % interval over questions; None where it is undefined (one label only, one question)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Agreement at one level; `num` is items, or systems."""

    num: int
    statistics: dict[str, Statistic]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfPreference:
    """How often the judge prefers its own system, and the other judge that system, on the same decisive questions."""

    system: str
    by_itself: Share
    by_the_other: Share
    excess: float | None  # by_itself.rate - by_the_other.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReport:
    """What one file says about its judge."""

    file: str
    num_verdicts: int
    num_unparsed: int
    raters: dict[str, Level]  # agreement of several raters an item: over all items, and those without a tie vote
    position_bias: PositionBias | None  # None for a file without places
    length_bias: Share | None
    self_preference: SelfPreference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementResult:
    """The whole result of comparing two verdict files."""

    example: Level
    example_decisive: Level  # items on which neither side has a tie
    system: Level
    judges: list[JudgeReport]
    notes: list[str]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and None, ready for `json.dumps(..., allow_nan=False)`."""
        return {"schema_version": SCHEMA_VERSION, "methods": METHODS, **asdict(self)}


def agree_files(a: Path, b: Path, options: AgreeOptions) -> AgreementResult:
    """Compare two verdict files.

    Raises:
        ValueError: A file can't be used, the two share no item, or a system named in the options is not judged.
    """
    example_rng, system_rng, rater_rng = np.random.default_rng(options.seed).spawn(3)
    loaded = [load_verdicts([path], benchmark=options.benchmark, turn=options.turn) for path in (a, b)]
    pair = [without_systems(verdicts, options.without) for verdicts in loaded]
    refuse_other_benchmarks(*pair)
    for path, verdicts in zip((a, b), pair, strict=True):
        if not verdicts.parsed.any():
            raise ValueError(f"{path}: none of its {len(verdicts)} verdicts is parsed, so there is nothing to compare")
    systems = sorted({*pair[0].system_names} | {*pair[1].system_names})
    questions = sorted(join_names([verdicts.question for verdicts in pair]).values)
    matches = [_renamed(verdicts, systems, questions) for verdicts in pair]
    question, tables = _confusions(*(_item_labels(m, len(systems)) for m in matches))
    if not len(question):
        raise ValueError(f"{a} and {b} share no item (a question, its turn and a pair of systems); check their names")
    if len(systems) > 2:
        tables = _either_way(tables)
    decisive = tables.copy()
    decisive[:, 1, :] = decisive[:, :, 1] = 0
    system, notes = _system_level(matches, systems, len(questions), options.resamples, system_rng)
    answers = load_answers(options.answers, questions) if options.answers else None
    if answers is not None:
        kept = {key: text for key, text in answers.items() if key[0] not in options.without}
        notes = [*notes, *unmatched_notes(kept, systems, questions)]
    lengths = {key: float(len(text)) for key, text in answers.items()} if answers is not None else None
    judges = []
    for index, (path, own) in enumerate(((a, options.own_a), (b, options.own_b))):
        mine, other = pair[index], pair[1 - index]
        judges.append(
            JudgeReport(
                file=str(path),
                num_verdicts=len(mine),
                num_unparsed=int((~mine.parsed).sum()),
                raters=rater_agreement(mine, options.resamples, rater_rng),
                position_bias=position_bias(mine) if has_places(path) else None,
                length_bias=length_bias(mine, lengths) if lengths is not None else None,
                self_preference=_self_preference(mine, other, own) if own else None,
            )
        )
    return AgreementResult(
        example=_example_level(tables, options.resamples, example_rng),
        example_decisive=_example_level(decisive, options.resamples, example_rng),
        system=system,
        judges=judges,
        notes=[*notes, *unplaced_notes([path.name for path in (a, b) if not has_places(path)])],
        settings={**asdict(options), "answers": [str(path) for path in options.answers], "files": [str(a), str(b)]},
    )


def without_systems(verdicts: Verdicts, names: Sequence[str]) -> Verdicts:
    """The rows in which none of `names` plays.

    Raises:
        ValueError: One of them is not judged, or nothing is left.
    """
    unknown = [name for name in names if name not in verdicts.system_names]
    if unknown:
        raise ValueError(f"no system {', '.join(unknown)}; there are {', '.join(verdicts.system_names)}")
    out = np.array([name in names for name in verdicts.system_names])
    kept = ~(out[verdicts.first] | out[verdicts.second])
    if not kept.any():
        raise ValueError(f"nothing is left without {', '.join(names)}")
    return verdicts.pick(kept)


def _renamed(verdicts: Verdicts, systems: Sequence[str], questions: Sequence[str]) -> Matches:
    """Matches with systems and questions numbered as in the common lists."""
    matches = to_matches(verdicts, "majority")
    system_at, question_at = ({name: i for i, name in enumerate(names)} for names in (systems, questions))
    system = np.array([system_at[name] for name in verdicts.system_names], dtype=np.int32)
    question = np.array([question_at[name] for name in verdicts.question.values], dtype=np.int32)
    return replace(
        matches,
        question=question[matches.question],
        first=system[matches.first],
        second=system[matches.second],
    )


def _item_labels(matches: Matches, num_systems: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(key, question, label) of each item: which system its matches, taken together, favour."""
    keys, item = np.unique(matches.items(num_systems), return_inverse=True)
    favour = np.where(matches.first < matches.second, 1, -1) * (matches.half_points.astype(np.int64) - 1)
    net = np.bincount(item, weights=favour, minlength=len(keys))
    return keys, items_question(keys, num_systems), np.sign(net).astype(np.int64) + 1


def _confusions(
    a: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    b: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(num_questions,) questions that share items, and (num_questions, 3, 3) counts of (label in A, label in B)."""
    _, in_a, in_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
    questions, question = np.unique(a[1][in_a], return_inverse=True)
    cell = (question * NUM_LABELS + a[2][in_a]) * NUM_LABELS + b[2][in_b]
    counts = np.bincount(cell, minlength=len(questions) * NUM_LABELS**2).astype(np.float64)
    return questions, counts.reshape(-1, NUM_LABELS, NUM_LABELS)


def _either_way(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tables (num_questions, 3, 3) in which each item counts half as it is, half with its two systems exchanged.

    Of two systems a win has a name. Of several pairs, which is called first is as good as drawn, and chance agreement
    must not depend on it.
    """
    return (tables + tables[:, ::-1, ::-1]) / 2.0


def _resampled(sums: NDArray[np.float64], num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`sums` (num_questions, ...) added up: the whole in row 0, then each resample of the questions.

    Questions are put in order of what they hold, so that the files' order of rows changes nothing.
    """
    num = len(sums)
    sums = sums[np.lexsort(sums.reshape(num, -1).T)]
    weights = [np.ones(num), *prompt_weights(num, num_resamples if num > 1 else 0, rng)]
    return np.tensordot(np.array(weights), sums, axes=1)


def _statistic(values: NDArray[np.float64], num_questions: int, least: float = -1.0) -> Statistic:
    """Makes a statistic of the whole's value, in row 0, and those of the resamples where it is defined.

    Percentiles, spread about the value as few questions ask (Student's t). Resamples that all agree say nothing of the
    error: then there is no interval.
    """
    value = float(values[0]) if np.isfinite(values[0]) else None
    drawn = values[1:][np.isfinite(values[1:])]
    if value is None or len(drawn) < 2:
        return Statistic(value=value, low=None, high=None)
    wider = student_t(num_questions) / Z_95 * math.sqrt(num_questions / (num_questions - 1))
    low, high = (value + wider * (float(bound) - value) for bound in np.percentile(drawn, [2.5, 97.5]))
    low, high = min(value, max(least, low)), max(value, min(1.0, high))
    if high - low < 1e-12:
        return Statistic(value=value, low=None, high=None)
    return Statistic(value=value, low=low, high=high)


def _with_share(found: dict[str, Statistic], agreed: NDArray[np.float64], num: NDArray[np.float64]) -> None:
    """Gives percent agreement its exact interval over questions (Korn & Graubard), and kappas that lack one.

    Where judges agree on everything or nothing, resamples do so too. A kappa is then carried along the line through
    its own value: with chance agreement held, (1 - kappa) is proportional to (1 - percent agreement); where kappa is 1,
    chance is that of labels in equal numbers.
    """
    kept = num > 0
    bounds = clustered_interval(agreed[kept], num[kept])
    if bounds is None:
        return
    share = found["percent_agreement"]
    found["percent_agreement"] = Statistic(value=share.value, low=bounds[0], high=bounds[1])
    for name in ("cohen_kappa", "fleiss_kappa", "krippendorff_alpha"):
        kappa = found.get(name)
        if kappa is None or kappa.value is None or share.value is None or kappa.low is not None:
            continue
        by_chance = 1 / NUM_LABELS if share.value == 1.0 else (share.value - kappa.value) / (1.0 - kappa.value)
        low, high = ((bound - by_chance) / (1.0 - by_chance) for bound in bounds)
        found[name] = Statistic(value=kappa.value, low=low, high=high)


def _example_level(tables: NDArray[np.float64], num_resamples: int, rng: np.random.Generator) -> Level:
    drawn = _resampled(tables, num_resamples, rng)
    found = {name: _statistic(function(drawn), len(tables)) for name, function in EXAMPLE_STATISTICS.items()}
    _with_share(found, np.einsum("qii->q", tables), tables.sum(axis=(1, 2)))
    return Level(num=int(tables.sum()), statistics=found)


def _system_level(
    matches: Sequence[Matches], systems: Sequence[str], num_questions: int, num_resamples: int, rng: np.random.Generator
) -> tuple[Level, list[str]]:
    """Rank agreement of the two files' Bradley-Terry ratings, both refitted on the same resamples of the questions."""
    cells = [count_cells(m, len(systems)) for m in matches]
    groups = [connected_groups(c) for c in cells]
    shared = sorted(set(groups[0][0]) & set(groups[1][0]))
    notes = []
    if any(len(group) > 1 for group in groups) or len(shared) < len(systems):
        named = ", ".join(systems[s] for s in shared) or "none"
        notes.append(f"ranks are compared over the systems that each file's largest connected group shares: {named}")
    if len(shared) < 3:
        notes.append("fewer than three shared systems: no rank correlation")
        return Level(num=len(shared), statistics={}), notes
    played = canonical_order(joined(*matches), len(systems))[1]  # the same resamples whatever questions are called
    weights = np.zeros((num_resamples if len(played) > 1 else 0, num_questions))
    for weight, drawn in zip(weights, prompt_weights(len(played), len(weights), rng), strict=True):
        weight[played] = drawn
    ratings = []
    for c in cells:
        whole = fit(c, c.totals())
        counts = c.resampled(weight[c.codes] for weight in weights)
        ratings.append(np.concatenate([whole.points[None], fit_resamples(c, counts, whole)])[:, shared])
    least = {"percent_agreement": 0.0}
    found = {
        name: _statistic(function(*ratings), len(played), least.get(name, -1.0))
        for name, function in SYSTEM_STATISTICS.items()
    }
    return Level(num=len(shared), statistics=found), notes


def rater_agreement(verdicts: Verdicts, num_resamples: int, rng: np.random.Generator) -> dict[str, Level]:
    """Agreement of the raters of one item among themselves: over `all` items, and those with `no_tie_vote`.

    Args:
        verdicts: Rows as loaded; those without a rater are left out.
        num_resamples: Bootstrap resamples of the questions.
        rng: Draws them.

    Returns:
        Levels by name; empty where no item has two raters.
    """
    rows = np.flatnonzero(verdicts.parsed & np.array([bool(v) for v in verdicts.rater.values])[verdicts.rater.codes])
    if not len(rows):
        return {}
    first, second = verdicts.first[rows], verdicts.second[rows]
    question = verdicts.question.codes[rows]
    pair = np.minimum(first, second), np.maximum(first, second)
    key = combined_key([verdicts.judge.codes[rows], question, verdicts.turn[rows], *pair])
    _, where, item = np.unique(key, return_index=True, return_inverse=True)
    favour = np.choose(verdicts.verdict[rows] - 1, [1, -1, 0]) * np.where(first < second, 1, -1)
    counts = np.bincount(item * NUM_LABELS + favour + 1, minlength=len(where) * NUM_LABELS).reshape(-1, NUM_LABELS)
    either_way = len(np.unique(np.concatenate([first, second]))) > 2
    levels = {}
    for name, kept in (
        ("all", counts.sum(axis=1) > 1),
        ("no_tie_vote", (counts.sum(axis=1) > 1) & (counts[:, 1] == 0)),
    ):
        if kept.any():
            levels[name] = _rater_level(
                counts[kept].astype(np.float64), question[where[kept]], num_resamples, rng, either_way
            )
    return levels


def _rater_level(
    counts: NDArray[np.float64],
    question: NDArray[np.int32],
    num_resamples: int,
    rng: np.random.Generator,
    either_way: bool = False,
) -> Level:
    """Fleiss' kappa takes the items with the commonest number of raters; alpha takes all.

    Args:
        counts: (num_items, 3) votes.
        question: (num_items,).
        num_resamples: Bootstrap resamples of the questions.
        rng: Draws them.
        either_way: Labels' frequencies with each item's two systems exchanged too (`_either_way`).
    """
    num = counts.sum(axis=1)
    agreeing = (counts * (counts - 1)).sum(axis=1)
    labels = (counts + counts[:, ::-1]) / 2.0 if either_way else counts
    usual = (num == np.bincount(num.astype(int)).argmax()).astype(np.float64)
    per_item = np.column_stack(
        [usual * agreeing / (num * (num - 1)), usual, usual[:, None] * labels, agreeing / (num - 1), labels]
    )
    _, code = np.unique(question, return_inverse=True)
    sums = np.zeros((code.max() + 1, per_item.shape[1]))
    np.add.at(sums, code, per_item)
    drawn = _resampled(sums, num_resamples, rng)
    pair_agreement, items = drawn[:, 0], drawn[:, 1]
    found = {
        "percent_agreement": pair_agreement / np.maximum(items, 1.0),
        "fleiss_kappa": statistics.fleiss_kappa(pair_agreement, items, drawn[:, 2:5]),
        "krippendorff_alpha": statistics.krippendorff_alpha(drawn[:, 5], drawn[:, 6:9]),
    }
    levels = {name: _statistic(values, len(sums)) for name, values in found.items()}
    _with_share(levels, sums[:, 0], sums[:, 1])
    return Level(num=len(counts), statistics=levels)


def _self_preference(mine: Verdicts, other: Verdicts, own: str) -> SelfPreference:
    itself, others = (own_wins(verdicts, own) for verdicts in (mine, other))
    excess = None if itself.rate is None or others.rate is None else itself.rate - others.rate
    return SelfPreference(system=own, by_itself=itself, by_the_other=others, excess=excess)
