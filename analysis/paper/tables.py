"""Makes the paper's Tables 1, 6, 7 and 12 from the released judgments, ours beside the paper's, cell by cell.

Used by `python -m analysis tables`; `analysis.paper.judged` adds what own runs give, `analysis.paper.text` writes it
down. Source: QLoRA (arXiv 2305.14314), Tables 1, 6, 7 and 12, values in `analysis.paper.values`.

Elo is computed under three settings, side by side. "stated" is what the paper says: K = 32, every match once in each
of 10,000 random orderings; it misses GPT-4 by some 20 points. "drawn" (K = 32 on a random part of the matches for each
ordering, which fits the paper's words "randomly sample from the set of labeled comparisons") and "small K" (K = 4, all
matches) were fitted to the printed columns, so that their fit is no proof of what the authors ran.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from statistics import fmean, median

import numpy as np

from analysis.paper.memory import HALF_A_GIGABYTE, UNKNOWN, memory_gb
from analysis.paper.released import RELEASES, NoJudgments, canonical_sha256, locate
from analysis.paper.values import CITATION, RECALLED, TABLES, PaperTable, Value
from eval.ratings.elo import EloRating
from eval.ratings.intervals import ratio_interval
from eval.ratings.rate import RateOptions, rate
from eval.ratings.relative import RelativeScore, load_scores, relative_scores
from eval.verdicts.codes import FIRST, SECOND
from eval.verdicts.table import Verdicts, load_verdicts, to_matches

ELO_TOLERANCE = 2.0  # points: the paper's +-1 and as much again for ours, both of the ordering
STATED_K, ORDERINGS, SEED = 32.0, 10_000, 0
OWN = "own runs"  # the setting of cells that are made of an own tournament
CENT = 0.005 + 1e-9  # half a unit of the second decimal
CONVERTED = "judgments"  # folder below --out for files converted from the original layout
OTHER_NAMES = {"open-assistant-33b": "huggingchat-33b"}  # the paper's row -> the name of its released scores
BITS = "a property of the model, not made of judgments"


class Status(Enum):
    """How our value compares with the printed one."""

    reproduces = "reproduces"
    differs = "differs"
    not_run = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The settings under which Elo is computed."""

    name: str
    k: float
    sample_size: int | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One printed value and ours."""

    row: str
    column: str
    setting: str  # "" where there is only one way to compute it
    paper: Value
    ours: float | None
    low: float | None = None  # 95 % over prompts
    high: float | None = None
    status: Status
    reason: str | None = None  # why it was not run
    note: str | None = None  # what is odd about the printed value
    where: str  # letters of `analysis.paper.values.SOURCES`

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or isinstance(self.paper, str) else self.ours - self.paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A table of the paper beside ours."""

    table: str
    caption: str
    citation: str
    cells: tuple[Cell, ...]
    settings: tuple[Setting, ...]
    sources: tuple[str, ...]  # each file of judgments and whether it is the released one
    missing: tuple[str, ...]  # why something could not be run

    @property
    def num(self) -> dict[str, int]:
        """Cells by status; Elo cells count under every setting."""
        return {status.value: sum(cell.status is status for cell in self.cells) for status in Status}


@dataclass(frozen=True, slots=True, kw_only=True)
class EloColumn:
    """An Elo column of the paper, the columns that belong to it, and what it is made of."""

    release: str
    elo: str
    rank: str | None
    interval: str | None
    num_drawn: int  # fitted: matches drawn for an ordering


HUMAN = EloColumn(
    release="vicuna_human_pairwise", elo="elo_human_vicuna", rank="rank_human_vicuna", interval=None, num_drawn=240
)
GPT4 = EloColumn(
    release="vicuna_gpt4_pairwise", elo="elo_gpt4_vicuna", rank="rank_gpt4_vicuna", interval=None, num_drawn=500
)
GPT4_TABLE_1 = EloColumn(
    release="vicuna_gpt4_pairwise", elo="elo_gpt4_vicuna", rank=None, interval="elo_ci95", num_drawn=500
)
OPEN_ASSISTANT = EloColumn(
    release="oa_gpt4_pairwise", elo="elo_gpt4_oa", rank="rank_gpt4_oa", interval=None, num_drawn=4240
)


def reproduce(table: str, data: Path, out: Path, resamples: int = 1000) -> Reproduction:
    """Computes one of the paper's tables from the judgments in a data folder.

    Args:
        table: "1", "6", "7" or "12".
        data: where the judgments lie, as `analysis.paper.released` finds them.
        out: judgments that come in the original layout are converted into its folder `judgments`.
        resamples: of the prompts, for intervals.

    Raises:
        NoJudgments: none of what the table is made of is there.
        ValueError: another table, or a file that can't be read.
    """
    if table not in MAKERS:
        raise ValueError(f"table {table!r}: expected one of {', '.join(MAKERS)}")
    return MAKERS[table](data, (out / CONVERTED).resolve(), resamples)


def printed_table(table: str) -> PaperTable:
    """The paper's table; Table 12's values are recalled and recomputed."""
    return TABLES.get(table) or RECALLED[table]


def own_setting() -> Setting:
    """How Elo is computed of an own tournament: as the paper states."""
    return Setting(name=OWN, k=STATED_K, sample_size=None, words=f"K = {STATED_K:g}, every match of your runs once")


def _settings(column: EloColumn) -> tuple[Setting, ...]:
    return (
        Setting(name="stated", k=STATED_K, sample_size=None, words=f"K = {STATED_K:g}, every match once: as stated"),
        Setting(
            name="drawn",
            k=STATED_K,
            sample_size=column.num_drawn,
            words=f"K = {STATED_K:g}, {column.num_drawn} matches of {column.release} drawn for each ordering: fitted",
        ),
        Setting(name="small K", k=4.0, sample_size=None, words="K = 4, every match once: fitted"),
    )


def _table_1(data: Path, converted: Path, resamples: int) -> Reproduction:
    return _elo_table("1", (GPT4_TABLE_1,), data, converted, resamples)


def _table_7(data: Path, converted: Path, resamples: int) -> Reproduction:
    return _elo_table("7", (HUMAN, GPT4, OPEN_ASSISTANT), data, converted, resamples)


def _elo_table(table: str, columns: Sequence[EloColumn], data: Path, converted: Path, resamples: int) -> Reproduction:
    printed = TABLES[table]
    cells: list[Cell] = []
    sources, missing = [], []
    settings: list[Setting] = []
    ranks: dict[str, dict[str, list[int]]] = {}  # setting -> system -> its ranks
    for column in columns:
        try:
            path = locate(column.release, data, converted)
        except NoJudgments as error:
            missing.append(str(error))
            cells += _not_run(printed, [c for c in (column.elo, column.interval, column.rank) if c], str(error))
            continue
        sources.append(_source(column.release, path))
        settings += _settings(column)
        verdicts = load_verdicts([path])
        for setting in _settings(column):
            num = len(to_matches(verdicts))
            is_enough = num >= (setting.sample_size or 1)
            ratings = elo_ratings(verdicts, setting, resamples) if is_enough else {}
            reason = None if is_enough else f"{setting.words}: there are {num} matches"
            cells += elo_cells(printed, column, setting.name, ratings, reason)
            if column.rank:
                for system, rank in ranks_of(ratings).items():
                    ranks.setdefault(setting.name, {}).setdefault(system, []).append(rank)
    if not sources:
        raise NoJudgments("; ".join(missing))
    if "median_rank" in printed.columns:
        cells += median_ranks(printed, ranks, missing)
    if "memory_gb" in printed.columns:
        cells += _memory_cells(printed)
    return Reproduction(
        table=table,
        caption=printed.caption,
        citation=CITATION,
        cells=tuple(cells),
        settings=tuple(dict.fromkeys(settings)),
        sources=tuple(sources),
        missing=tuple(missing),
    )


def elo_ratings(verdicts: Verdicts, setting: Setting, resamples: int) -> dict[str, EloRating]:
    """The Elo ratings of every system under a setting."""
    options = RateOptions(
        k=setting.k, sample_size=setting.sample_size, orderings=ORDERINGS, seed=SEED, resamples=resamples
    )
    return rate(verdicts, None, options).elo


def elo_cells(
    printed: PaperTable, column: EloColumn, setting: str, ratings: Mapping[str, EloRating], why_none: str | None
) -> list[Cell]:
    """The cells of an Elo column, of its interval and of its ranks; not run where a system has no rating."""
    cells = []
    ranks = ranks_of(ratings)
    for row in printed.rows:
        rating = ratings.get(row)
        reason = None if rating else why_none or f"{row} is in none of {RELEASES[column.release].what}"
        mean = rating.mean if rating else None
        half = None
        if rating and rating.ordering_low is not None and rating.ordering_high is not None:
            half = (rating.ordering_high - rating.ordering_low) / 2
        low, high = (rating.low, rating.high) if rating else (None, None)
        make = partial(_cell, printed, row, setting=setting, reason=reason)
        cells += make(column.elo, ours=mean, tolerance=ELO_TOLERANCE, low=low, high=high)
        if column.interval:
            cells += make(column.interval, ours=half, tolerance=0.5)  # printed: a whole number
        if column.rank:
            cells += make(column.rank, ours=ranks.get(row))
    return cells


def median_ranks(
    printed: PaperTable, ranks: Mapping[str, Mapping[str, Sequence[int]]], missing: Sequence[str]
) -> list[Cell]:
    """The median of a system's ranks, a half rounded up as the paper's Bard shows (7 and 8 give 8)."""
    if missing:
        return _not_run(printed, ["median_rank"], f"needs the ranks of all three columns; {missing[0]}")
    cells = []
    for setting, by_system in ranks.items():
        for row in printed.rows:
            mine = by_system.get(row)
            ours = float(math.floor(median(mine) + 0.5)) if mine else None
            reason = None if mine else f"{row} has no rank"
            cells += _cell(printed, row, "median_rank", setting=setting, ours=ours, reason=reason)
    return cells


def _table_6(data: Path, converted: Path, resamples: int) -> Reproduction:
    printed, release = TABLES["6"], "vicuna_gpt4_relative"
    path = locate(release, data, converted)
    ours = relative_scores(load_scores([path]))
    cells = relative_cells(printed, ours, "", lambda name: f"{name} has no score in {path.name}")
    cells += [*_not_run(printed, ["bits"], BITS), *_memory_cells(printed)]
    return Reproduction(
        table="6",
        caption=printed.caption,
        citation=CITATION,
        cells=tuple(cells),
        settings=(),
        sources=(_source(release, path),),
        missing=(),
    )


def relative_cells(
    printed: PaperTable, ours: Mapping[str, RelativeScore], setting: str, why_none: Callable[[str], str]
) -> list[Cell]:
    """The cells of scores relative to ChatGPT; a system without one is not run, `why_none` says why."""
    cells: list[Cell] = []
    for row in printed.rows:
        name = row if row in ours else OTHER_NAMES.get(row, row)
        score = ours.get(name)
        make = partial(_cell, printed, row, setting=setting, reason=None if score else why_none(name))
        for column, value in _relative(score).items():
            low, high = (score.low, score.high) if score and column == "mean_pct" else (None, None)
            cells += make(column, ours=value, low=low, high=high)  # both of one decimal: equal or not
    return cells


def _table_12(data: Path, converted: Path, resamples: int) -> Reproduction:
    printed, release = RECALLED["12"], "vicuna_gpt4_pairwise"
    path = locate(release, data, converted)
    return Reproduction(
        table="12",
        caption=printed.caption,
        citation=CITATION,
        cells=tuple(win_cells(printed, load_verdicts([path]), "", f"the two never met in {path.name}")),
        settings=(),
        sources=(_source(release, path),),
        missing=(),
    )


def win_cells(printed: PaperTable, verdicts: Verdicts | None, setting: str, why_none: str) -> list[Cell]:
    """The cells of Table 12: how much oftener the row's system won against the column's than it lost, a question."""
    cells: list[Cell] = []
    for row in printed.rows:
        for column in printed.columns:
            wins = net_wins(verdicts, row, column) if verdicts is not None else {}
            ours = fmean(wins.values()) if wins else None
            low, high = ratio_interval(np.array(list(wins.values())), np.ones(len(wins))) or (None, None)
            make = partial(_cell, printed, row, column, setting=setting, tolerance=CENT)
            cells += make(ours=ours, reason=None if wins else why_none, low=low, high=high)
    return cells


def net_wins(verdicts: Verdicts, one: str, other: str) -> dict[str, float]:
    """-> {question: one's wins less its losses against the other, in both orders}; ties and unread replies count 0"""
    names = verdicts.system_names
    if one not in names or other not in names:
        return {}
    places = names.index(one), names.index(other)
    found: dict[str, float] = {}
    for shown, won, lost in ((places, FIRST, SECOND), (places[::-1], SECOND, FIRST)):
        for row in np.flatnonzero((verdicts.first == shown[0]) & (verdicts.second == shown[1])):
            question = verdicts.question.values[verdicts.question.codes[row]]
            code = int(verdicts.verdict[row])
            found[question] = found.get(question, 0.0) + (code == won) - (code == lost)
    return found


def without_cells(table: str, why_not: str) -> Reproduction:
    """A table for which no released judgments are there, before cells of own runs are added to it."""
    printed = printed_table(table)
    return Reproduction(
        table=table,
        caption=printed.caption,
        citation=CITATION,
        cells=tuple(_memory_cells(printed)) if "memory_gb" in printed.columns else (),
        settings=(),
        sources=(),
        missing=(why_not,),
    )


def _memory_cells(printed: PaperTable) -> list[Cell]:
    cells: list[Cell] = []
    for row in printed.rows:
        ours = memory_gb(row)
        reason = UNKNOWN if ours is None else None
        cells += _cell(printed, row, "memory_gb", ours=ours, reason=reason, tolerance=HALF_A_GIGABYTE)
    return cells


def _relative(score: RelativeScore | None) -> dict[str, float | None]:
    """The paper's columns, to the printed decimal; `sys_vs_chatgpt` has the system's answer first."""
    columns = ("chatgpt_vs_sys_pct", "sys_vs_chatgpt_pct", "mean_pct", "ci95_pct")
    if score is None:
        return dict.fromkeys(columns)
    values = (score.second, score.first, score.mean, score.ci95)
    return {name: None if v is None else round(v, 1) for name, v in zip(columns, values, strict=True)}


def _cell(
    printed: PaperTable,
    row: str,
    column: str,
    *,
    ours: float | None,
    reason: str | None,
    setting: str = "",
    tolerance: float = 0.0,
    low: float | None = None,
    high: float | None = None,
) -> list[Cell]:
    """The comparison; empty where the paper prints nothing."""
    value = printed.rows[row][printed.columns.index(column)]
    if value is None:
        return []
    assert not isinstance(value, str)
    fits = ours is not None and abs(ours - value) <= tolerance
    return [
        compared(
            printed, row, column, paper=value, ours=ours, fits=fits, low=low, high=high, reason=reason, setting=setting
        )
    ]


def compared(
    printed: PaperTable,
    row: str,
    column: str,
    *,
    paper: Value,
    ours: float | None,
    fits: bool,
    low: float | None,
    high: float | None,
    reason: str | None,
    setting: str = "",
) -> Cell:
    """A printed value beside ours, which reproduces it where it `fits`."""
    return Cell(
        row=row,
        column=column,
        setting=setting,
        paper=paper,
        ours=ours,
        low=low,
        high=high,
        status=Status.not_run if ours is None else Status.reproduces if fits else Status.differs,
        reason=reason,
        note=printed.notes.get((row, column)),
        where=printed.where_of(row, column),
    )


def _not_run(printed: PaperTable, columns: Sequence[str], reason: str) -> list[Cell]:
    return [
        Cell(
            row=row,
            column=column,
            setting="",
            paper=value,
            ours=None,
            status=Status.not_run,
            reason=reason,
            note=printed.notes.get((row, column)),
            where=printed.where_of(row, column),
        )
        for column in columns
        for row, values in printed.rows.items()
        if (value := values[printed.columns.index(column)]) is not None
    ]


def ranks_of(ratings: Mapping[str, EloRating]) -> dict[str, int]:
    """The place of each system, the best first."""
    return {name: place for place, name in enumerate(sorted(ratings, key=lambda n: -ratings[n].mean), start=1)}


def _source(name: str, path: Path) -> str:
    release = RELEASES[name]
    if release.sha256 is None:
        return f"{path.name}: {release.what}"
    same = canonical_sha256(release, path) == release.sha256
    return f"{path.name}: {release.what}, {'as released' if same else 'NOT the released ones'}"


def mean_absolute_error(reproduction: Reproduction, column: str, setting: str) -> float | None:
    """The mean absolute error of a column under a setting; None where nothing was run."""
    differences = [
        abs(cell.difference)
        for cell in reproduction.cells
        if (cell.column, cell.setting) == (column, setting) and cell.difference is not None
    ]
    return fmean(differences) if differences else None


MAKERS: dict[str, Callable[[Path, Path, int], Reproduction]] = {
    "1": _table_1,
    "6": _table_6,
    "7": _table_7,
    "12": _table_12,
}
