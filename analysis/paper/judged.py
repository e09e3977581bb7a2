"""Fills the paper's Tables 1, 6, 7 and 12 from your own tournaments: the answers of a grid's runs, and your judges.

    own = own_tournament("7", files_of("7", [Path("tournaments/guanaco")]), OwnRuns.of_sweep(runs, "guanaco", url))
    own_cells("7", own, resamples=1000, left=left_to_do("7", plan=None, judge="gpt-4"))

A system of a tournament is a row of the table by its run's settings (LLaMA 65B on oasst1 is guanaco-65b), or by its
name (chatgpt-3.5, vicuna-13b, and whoever's answers came from a file). A verdict belongs to a column by whoever gave
it (a rater, or a judge) and by its question: Open Assistant's are known by their ids or by the column `benchmark`, all
others stand for the Vicuna benchmark's. Ours reproduces the paper where the printed value lies within our 95 %
interval over prompts, or ours is as near as the released judgments must be. What is left to do is said with its grid,
runs, GPU-hours, judge's calls and their price. Source: QLoRA (arXiv 2305.14314).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from analysis.paper.own import GridPlan, OwnRuns
from analysis.paper.places import judged_row
from analysis.paper.released import CHATGPT, NAMES
from analysis.paper.tables import (
    GPT4,
    GPT4_TABLE_1,
    HUMAN,
    OPEN_ASSISTANT,
    OWN,
    Cell,
    EloColumn,
    Reproduction,
    Status,
    elo_cells,
    elo_ratings,
    median_ranks,
    own_setting,
    printed_table,
    ranks_of,
    relative_cells,
    win_cells,
    without_cells,
)
from analysis.paper.values import value
from eval.judges.prices import price_of
from eval.judging.store import SCORES_FILE, VERDICTS_FILE
from eval.ratings.relative import Scores, load_scores, relative_scores
from eval.verdicts.columns import Names
from eval.verdicts.table import Verdicts, load_verdicts

PROMPT_TOKENS, REPLY_TOKENS = 1000, 200  # of a call, about: a question, two answers, and the judge's reasons
TOURNAMENTS = "tournaments"
VOTES_FILE = "human.csv"  # what `python -m eval human export` leaves in a tournament
MEDIAN = "median_rank"
ONLY_API = "only an API judge gives ten-point scores"
VICUNA_PROMPTS = int(value("text", "vicuna prompts", "value"))
ELO_GRIDS = ("guanaco", "table6")  # the second has the first's runs, too
GRIDS: Mapping[str, tuple[str, ...]] = {  # of sweeps/grid/ whose runs answer; the first is what is left to run
    "1": ELO_GRIDS,
    "6": ELO_GRIDS[::-1],
    "7": ELO_GRIDS,
    "12": ELO_GRIDS,
}
_OPEN_ASSISTANT = re.compile(r"oa|oasst.*|open[-_ ]?assistant.*", re.IGNORECASE)  # names of that benchmark
_MESSAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)  # a question's, of OASST1


def _is_message(question: str) -> bool:
    return _MESSAGE_ID.fullmatch(question) is not None


def _is_vicunas(question: str) -> bool:
    return question.isdecimal() and 1 <= int(question) <= VICUNA_PROMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One of the paper's two sets of questions."""

    name: str
    file: str  # what a command calls the file of its questions
    num_questions: int
    is_question: Callable[[str], bool]  # whether an identifier is one of its questions'
    suffix: str = ""  # of the folder that its tournament is kept in, by default
    options: str = ""  # of the leaderboard's command


VICUNA = Benchmark(name="Vicuna", file="VICUNA.jsonl", num_questions=VICUNA_PROMPTS, is_question=_is_vicunas)
OASST = Benchmark(
    name="Open Assistant",
    file="OA.jsonl",
    num_questions=int(value("text", "oa prompts", "value")),
    is_question=_is_message,
    suffix="-oa",
    options=" --bench oa",
)
SUFFIXES = (VICUNA.suffix, OASST.suffix)
RATERS = int(value("text", "human annotators per pairwise item", "value"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The verdicts that a column, or a table, is made of: whose, and on which questions."""

    benchmark: Benchmark = VICUNA
    by_people: bool = False
    elo: EloColumn | None = None  # the column of Elo; None: the table is of another kind

    @property
    def words(self) -> str:
        """What it is, for a reader."""
        return f"{'people' if self.by_people else 'a judge'} on the {self.benchmark.name} benchmark"


PARTS: Mapping[str, tuple[Part, ...]] = {
    "1": (Part(elo=GPT4_TABLE_1),),
    "7": (Part(by_people=True, elo=HUMAN), Part(elo=GPT4), Part(benchmark=OASST, elo=OPEN_ASSISTANT)),
    "12": (Part(),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdicts of one part, and the file that they are of."""

    path: Path
    verdicts: Verdicts

    def words(self, part: Part) -> str:
        """How many verdicts they are, whose, and on how many of the benchmark's questions."""
        judges = ", ".join(sorted(filter(None, self.verdicts.judge.values))) or "a judge that the file doesn't name"
        asked = self.verdicts.question.values
        known = all(map(part.benchmark.is_question, asked))
        others = "" if known else f" that are not the {part.benchmark.name} benchmark's"
        on = f"{len(asked)} question{'s' * (len(asked) != 1)}{others}"
        return f"{len(self.verdicts):,} verdicts of {judges} on {on} ({self.path})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTournament:
    """Own judgments, and which row of the paper each of their systems is."""

    rows: Mapping[str, str]  # system -> row
    parts: tuple[Judged | None, ...] = ()  # of `PARTS`, in their order
    scores: Path | None = None  # of Table 6
    notes: tuple[str, ...] = ()


def files_of(table: str, folders: Sequence[Path]) -> list[Path]:
    """The files of judgments in these folders that a table is made of."""
    names = (SCORES_FILE,) if table == "6" else (VERDICTS_FILE, VOTES_FILE)
    return [path for folder, name in product(folders, names) if (path := folder / name).is_file()]


def tournament_folders(runs: Path, sweep: str) -> list[Path]:
    """Where the tournaments of a sweep are looked for: that of its name, and that of the Open Assistant benchmark."""
    homes = (Path(TOURNAMENTS), runs / TOURNAMENTS)
    return [home / f"{sweep}{suffix}" for suffix, home in product(SUFFIXES, homes)]


def own_tournament(table: str, files: Sequence[Path], runs: OwnRuns) -> OwnTournament:
    """Says which verdicts are a column's, and which row each system is; of two runs of one row, the first plays.

    Args:
        table: "1", "6", "7" or "12".
        files: of judgments; of two with verdicts for one column, the first counts.
        runs: the runs that their systems may be.

    Raises:
        ValueError: a file can't be read.
    """
    if table == "6":
        rows, notes = _rows(table, load_scores(files[:1]).system.values, runs)
        return OwnTournament(rows=rows, scores=files[0], notes=(*notes, *_not_read(files[1:])))
    found = _of_parts(table, files)
    systems = [name for judged in found for one in judged[:1] for name in one.verdicts.system_names]
    rows, notes = _rows(table, list(dict.fromkeys(systems)), runs)
    twice = [one.path for judged in found for one in judged[1:]]
    return OwnTournament(
        rows=rows, parts=tuple(judged[0] if judged else None for judged in found), notes=(*notes, *_not_read(twice))
    )


def _of_parts(table: str, files: Sequence[Path]) -> list[list[Judged]]:
    """For each part of a table, what each file has for it; files that have nothing are left out."""
    loaded = [(path, load_verdicts([path], may_be_empty=True)) for path in files]
    judged = [Judged(path=path, verdicts=verdicts) for path, verdicts in loaded if len(verdicts)]
    return [[mine for one in judged if (mine := _of_part(one, part)) is not None] for part in PARTS[table]]


def _rows(table: str, systems: Sequence[str], runs: OwnRuns) -> tuple[dict[str, str], list[str]]:
    """-> ({system: row of the table}, a note on those that are none)"""
    printed = printed_table(table)
    by_run = {run.label: row for run in runs.runs if (row := judged_row(run.spec)) is not None}
    rows: dict[str, str] = {}
    left_out = []
    for system in systems:
        row = by_run.get(system) or NAMES.get(system, system)
        if row not in printed.rows or row in rows.values():
            left_out.append(system)
        else:
            rows[system] = row
    note = f"{OWN}: left out, as they are no row of the table, or one that is there: {', '.join(left_out)}"
    return rows, [note] if left_out else []


def _not_read(paths: Sequence[Path]) -> list[str]:
    """Notes on files whose judgments don't count, as those of others do."""
    return [f"{OWN}: left out, as another file has judgments of its kind: {path}" for path in dict.fromkeys(paths)]


def _of_part(judged: Judged, part: Part) -> Judged | None:
    """The verdicts of one file that belong to a part; None where it has none."""
    verdicts = judged.verdicts
    by_people = np.array([bool(name) for name in verdicts.rater.values])[verdicts.rater.codes]
    named = np.array([bool(_OPEN_ASSISTANT.fullmatch(name)) for name in verdicts.benchmark.values])
    messages = np.array([_is_message(question) for question in verdicts.question.values])
    on_oasst = named[verdicts.benchmark.codes] | messages[verdicts.question.codes]
    kept = (by_people == part.by_people) & (on_oasst == (part.benchmark is OASST))
    return replace(judged, verdicts=verdicts.pick(kept)) if kept.any() else None


def own_cells(table: str, own: OwnTournament, resamples: int, left: Mapping[str, str]) -> list[Cell]:
    """The cells that own judgments fill; the others of the same table are not run.

    Args:
        table: "1", "6", "7" or "12".
        own: its judgments.
        resamples: of the prompts, for intervals.
        left: column -> why a cell of it is not run: what is left to do; as `left_to_do` says it.

    Raises:
        ValueError: the judgments can't be read.
    """
    printed = printed_table(table)
    if table == "6":
        assert own.scores is not None
        relative = relative_scores(_renamed_scores(load_scores([own.scores]), own.rows))
        return [_within(cell) for cell in relative_cells(printed, relative, OWN, lambda _: left["mean_pct"])]
    verdicts = [None if one is None else _renamed(one.verdicts, own.rows) for one in own.parts]
    if table == "12":
        return [_within(cell) for cell in win_cells(printed, verdicts[0], OWN, left[printed.columns[0]])]
    cells: list[Cell] = []
    ranks: dict[str, list[int]] = {}
    for part, mine in zip(PARTS[table], verdicts, strict=True):
        assert part.elo is not None
        ratings = elo_ratings(mine, own_setting(), resamples) if mine is not None else {}
        cells += [_within(cell) for cell in elo_cells(printed, part.elo, OWN, ratings, left[part.elo.elo])]
        for system, rank in ranks_of(ratings).items():
            ranks.setdefault(system, []).append(rank)
    if MEDIAN in printed.columns:
        open_parts = [part.words for part, mine in zip(PARTS[table], verdicts, strict=True) if mine is None]
        missing = [f"there is none by {open_parts[0]}"] if open_parts else []
        cells += [replace(cell, setting=OWN) for cell in median_ranks(printed, {OWN: ranks}, missing)]
    return cells


def beside(
    table: str,
    released: Reproduction | None,
    why_not: str,
    own: OwnTournament | None,
    cells: Sequence[Cell],
    left: Mapping[str, str],
) -> Reproduction:
    """A table with both: of the released judgments, and of own runs.

    Args:
        table: its number.
        released: made of the released judgments; None where none are there.
        why_not: why it is None.
        own: the own judgments; None where there are none.
        cells: made of them.
        left: column -> what is left to do for it.
    """
    base = without_cells(table, why_not) if released is None else released
    if own is None:
        open_columns: dict[str, list[str]] = {}
        for column, words in left.items():
            open_columns.setdefault(words, []).append(column)
        lines = [f"{OWN}: not run: {', '.join(columns)}: {words}" for words, columns in open_columns.items()]
        return replace(base, missing=(*base.missing, *lines))
    elo = (own_setting(),) if table in ("1", "7") else ()
    return replace(
        base,
        cells=(*base.cells, *cells),
        settings=(*base.settings, *elo),
        sources=(*base.sources, *(f"{OWN}: {words}" for words in _sources(table, own))),
        missing=(*base.missing, *own.notes),
    )


def _sources(table: str, own: OwnTournament) -> Iterator[str]:
    if own.scores is not None:
        scores = load_scores([own.scores])
        yield f"{len(scores.candidate):,} pairs of scores on {len(scores.question.values)} questions ({own.scores})"
        return
    for part, judged in zip(PARTS[table], own.parts, strict=True):
        if judged is not None:
            yield judged.words(part)


def left_to_do(table: str, plan: GridPlan | None, judge: str) -> dict[str, str]:
    """Column -> what is left to run and to judge for it, with hours, calls and price.

    Args:
        table: "1", "6", "7" or "12".
        plan: of the table's first grid; None: not asked.
        judge: the one whose price is said.
    """
    printed, grid = printed_table(table), GRIDS[table][0]
    runs = plan.words() if plan else f"python -m sweeps run +grid={grid}"
    if table == "6":
        reference = f' --with "judge --reference {CHATGPT}"'
        calls = 2 * VICUNA.num_questions * len(printed.rows)
        words = f"{runs}; then {_judging(grid, VICUNA, judge, reference, calls, ONLY_API)}"
        return {column: words for column in printed.columns if column.endswith("_pct")}
    left: dict[str, str] = {}
    for part in PARTS[table]:
        column = printed.columns.index(part.elo.elo) if part.elo else None
        num = sum(column is None or values[column] is not None for values in printed.rows.values())
        if part.by_people:
            words = _voting(grid, part.benchmark, num)
        else:
            words = _judging(grid, part.benchmark, judge, "", part.benchmark.num_questions * num * (num - 1))
        names = [c for c in (part.elo.elo, part.elo.interval, part.elo.rank) if c] if part.elo else printed.columns
        left |= dict.fromkeys(names, f"{runs}; then {words}")
    return left


def _judging(
    grid: str, benchmark: Benchmark, judge: str, further: str, calls: int, others: str = "a local judge costs none"
) -> str:
    command = (
        f"python -m analysis leaderboard --sweep {grid} --answers OTHERS.jsonl --questions {benchmark.file}"
        f"{benchmark.options} --judge {judge}{further} --tournament {TOURNAMENTS}/{grid}{benchmark.suffix} "
        f"--out reports/{grid}{benchmark.suffix}"
    )
    return f"{command}: {calls:,} calls of the judge, {_cost(judge, calls)}; {others}"


def _voting(grid: str, benchmark: Benchmark, num_systems: int) -> str:
    """What people have to do, each pair of systems on each question once."""
    folder = f"{TOURNAMENTS}/{grid}{benchmark.suffix}"
    votes = RATERS * benchmark.num_questions * num_systems * (num_systems - 1) // 2
    return (
        f"python -m eval human serve OTHERS.jsonl --sweep {grid} --questions {benchmark.file} --tournament {folder}, "
        f"and python -m eval human export --tournament {folder}: {votes:,} votes of people, {RATERS} on each pair of "
        "answers"
    )


def _renamed(verdicts: Verdicts, rows: Mapping[str, str]) -> Verdicts | None:
    """The matches between systems of the table, under its names; None where no two of them met."""
    known = np.array([name in rows for name in verdicts.system_names])
    kept = known[verdicts.first] & known[verdicts.second]
    if not kept.any():
        return None
    left = verdicts.pick(kept)
    names = [rows[name] for name in left.system_names]
    place = np.argsort(np.argsort(names)).astype(np.int32)  # the names of `Verdicts` are sorted
    return replace(left, system_names=sorted(names), first=place[left.first], second=place[left.second])


def _renamed_scores(scores: Scores, rows: Mapping[str, str]) -> Scores:
    names = [rows.get(name, name) for name in scores.system.values]
    return replace(scores, system=Names(values=names, codes=scores.system.codes))


def _within(cell: Cell) -> Cell:
    """The cell; it reproduces the paper, too, where the printed value lies within our interval."""
    if cell.low is None or cell.high is None or isinstance(cell.paper, str):
        return cell
    return replace(cell, status=Status.reproduces) if cell.low <= cell.paper <= cell.high else cell


def _cost(judge: str, calls: int) -> str:
    price = price_of(judge)
    if price is None:
        return "whose price isn't known"
    usd = calls * (PROMPT_TOKENS * price.prompt + REPLY_TOKENS * price.completion) / 1e6
    tokens = f"{PROMPT_TOKENS:,} and {REPLY_TOKENS:,} tokens a call"
    return f"about {usd:,.0f} USD by {judge} ({price.source}, {tokens})"
