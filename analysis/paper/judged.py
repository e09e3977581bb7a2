"""Fills the paper's Tables 1, 6, 7 and 12 from your own tournament: the answers of a grid's runs, and a judge of yours.

    own = own_tournament("7", Path("tournaments/guanaco/verdicts.csv"), OwnRuns.of_sweep(runs, "guanaco", url))
    own_cells("7", own, resamples=1000, left="...")

A system of the tournament is a row of the table by its run's settings (LLaMA 65B on oasst1 is guanaco-65b), or by its
name (chatgpt-3.5, vicuna-13b, and whoever's answers came from a file). Ours reproduces the paper where the printed
value lies within our 95 % interval over prompts, or ours is as near as the released judgments must be. What is left to
do is said with its grid, runs, GPU-hours, judge's calls and their price. Source: QLoRA (arXiv 2305.14314).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.paper.own import GridPlan, OwnRuns
from analysis.paper.places import judged_row
from analysis.paper.released import NAMES
from analysis.paper.tables import (
    GPT4_TABLE_1,
    OWN,
    Cell,
    Reproduction,
    Status,
    elo_cells,
    elo_ratings,
    own_setting,
    printed_table,
    relative_cells,
    win_cells,
    without_cells,
)
from eval.judges.prices import price_of
from eval.judging.store import SCORES_FILE, VERDICTS_FILE
from eval.ratings.relative import Scores, load_scores, relative_scores
from eval.verdicts.table import Names, Verdicts, load_verdicts

NUM_QUESTIONS = 80  # of the Vicuna benchmark
PROMPT_TOKENS, REPLY_TOKENS = 1000, 200  # of a call, about: a question, two answers, and the judge's reasons
TOURNAMENTS = "tournaments"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTable:
    """What a table of judgments is made of, where it is made of own runs."""

    grids: tuple[str, ...]  # of sweeps/grid/ whose runs answer; the first is what is left to run
    file: str  # of the tournament's folder
    further: str = ""  # options of the leaderboard's command, beside the usual ones
    pairs: bool = True  # every two systems meet; False: each meets the reference alone

    def num_calls(self, num_systems: int) -> int:
        """How often a judge is asked, in both orders."""
        return NUM_QUESTIONS * (num_systems * (num_systems - 1) if self.pairs else 2 * num_systems)

    def words(self, num_systems: int, plan: GridPlan | None, judge: str) -> str:
        """What is left to do: the runs with their hours, and the judging with its price."""
        grid, calls = self.grids[0], self.num_calls(num_systems)
        left = plan.words() if plan else f"python -m sweeps run +grid={grid}"
        command = (
            f"python -m analysis leaderboard --sweep {grid} --answers OTHERS.jsonl --questions VICUNA.jsonl "
            f"--judge {judge}{self.further} --tournament {TOURNAMENTS}/{grid} --out reports/{grid}"
        )
        return f"{left}; then {command}: {calls:,} calls of the judge, {_cost(judge, calls)}"


ELO_GRIDS = ("guanaco", "table6")  # the second has the first's runs, too
JUDGED: Mapping[str, JudgedTable] = {
    "1": JudgedTable(grids=ELO_GRIDS, file=VERDICTS_FILE),
    "6": JudgedTable(
        grids=("table6",), file=SCORES_FILE, further=' --with "judge --reference chatgpt-3.5"', pairs=False
    ),
    "7": JudgedTable(grids=ELO_GRIDS, file=VERDICTS_FILE),
    "12": JudgedTable(grids=ELO_GRIDS, file=VERDICTS_FILE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTournament:
    """A file of own judgments, and which row of the paper each of its systems is."""

    path: Path
    rows: Mapping[str, str]  # system -> row
    notes: tuple[str, ...] = ()


def find_file(table: str, folders: Sequence[Path]) -> Path | None:
    """The first folder's file of judgments that a table is made of; None where none is there."""
    return next((path for folder in folders if (path := folder / JUDGED[table].file).is_file()), None)


def tournament_folders(runs: Path, sweep: str) -> tuple[Path, Path]:
    """Where a sweep's tournament is looked for."""
    return Path(TOURNAMENTS) / sweep, runs / TOURNAMENTS / sweep


def own_tournament(table: str, path: Path, runs: OwnRuns) -> OwnTournament:
    """Says which row of the table each system of a file is; of two runs of one row, the first plays.

    Raises:
        ValueError: the file can't be read.
    """
    systems = _systems(table, path)
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
    notes = [f"{OWN}: left out, as they are no row of the table, or one that is there: {', '.join(left_out)}"]
    return OwnTournament(path=path, rows=rows, notes=tuple(notes) if left_out else ())


def own_cells(table: str, own: OwnTournament, resamples: int, left: str) -> list[Cell]:
    """The cells that own judgments fill; the others of the same columns are not run.

    Args:
        table: "1", "6", "7" or "12".
        own: its judgments.
        resamples: of the prompts, for intervals.
        left: why a cell is not run: what is left to do.

    Raises:
        ValueError: the judgments can't be read.
    """
    printed = printed_table(table)
    if table == "6":
        scores = _renamed_scores(load_scores([own.path]), own.rows)
        return [_within(cell) for cell in relative_cells(printed, relative_scores(scores), OWN, lambda _: left)]
    verdicts = _renamed(load_verdicts([own.path]), own.rows)
    if table == "12":
        return [_within(cell) for cell in win_cells(printed, verdicts, OWN, left)]
    setting = own_setting()
    ratings = elo_ratings(verdicts, setting, resamples) if verdicts is not None else {}
    column = replace(GPT4_TABLE_1, rank="rank_gpt4_vicuna" if table == "7" else None)
    column = column if table == "1" else replace(column, interval=None)
    return [_within(cell) for cell in elo_cells(printed, column, OWN, ratings, left)]


def beside(
    table: str, released: Reproduction | None, why_not: str, own: OwnTournament | None, cells: Sequence[Cell], left: str
) -> Reproduction:
    """A table with both: of the released judgments, and of own runs.

    Args:
        table: its number.
        released: made of the released judgments; None where none are there.
        why_not: why it is None.
        own: the own judgments; None where there are none.
        cells: made of them.
        left: what is left to do for them.
    """
    base = without_cells(table, why_not) if released is None else released
    if own is None:
        return replace(base, missing=(*base.missing, f"{OWN}: not run: {left}"))
    elo = (own_setting(),) if table in ("1", "7") else ()
    return replace(
        base,
        cells=(*base.cells, *cells),
        settings=(*base.settings, *elo),
        sources=(*base.sources, f"{OWN}: {own.path}, {_described(table, own)}"),
        missing=(*base.missing, *own.notes),
    )


def _described(table: str, own: OwnTournament) -> str:
    if table == "6":
        scores = load_scores([own.path])
        return f"{len(scores.candidate)} pairs of scores on {len(scores.question.values)} questions"
    verdicts = load_verdicts([own.path])
    judges = ", ".join(sorted(filter(None, verdicts.judge.values))) or "a judge that the file doesn't name"
    return f"{len(verdicts)} verdicts of {judges} on {len(verdicts.question.values)} questions"


def _systems(table: str, path: Path) -> list[str]:
    return load_scores([path]).system.values if table == "6" else load_verdicts([path]).system_names


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
        return "whose price isn't known (a local judge costs none)"
    usd = calls * (PROMPT_TOKENS * price.prompt + REPLY_TOKENS * price.completion) / 1e6
    tokens = f"{PROMPT_TOKENS:,} and {REPLY_TOKENS:,} tokens a call"
    return f"about {usd:,.0f} USD by {judge} ({price.source}, {tokens}); a local judge costs none"
