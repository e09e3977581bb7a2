"""Chooses the best setting of each level on data that the comparison doesn't use, so that no maximum is reported.

The best of several noisy numbers is too good (Cawley & Talbot 2010, Journal of Machine Learning Research 11: 2079), and
the more settings a method tried, the better it looks. So a level's setting is chosen by the runs of the first third
of the seeds (one at least), and its runs of the other seeds are what is compared. It is chosen by the held-out loss
where all runs have one, else by one half of the questions, and the other half is what is compared; a question belongs
to its half by a hash of its name. What is compared is then independent of the choice, whatever the noise.

With a single seed the questions alone are divided, and the result says that the luck of the run which was chosen stays.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.compare.options import SelectOn
from analysis.effects.grid import GridResults, Level, setting_text

Array = NDArray[np.float64]
Setting = tuple[Level, ...]
Seed = tuple[Level, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What chooses settings, and what is compared."""

    choosing_seeds: tuple[Seed, ...]  # empty: nothing is searched
    compared_seeds: tuple[Seed, ...]
    compared_questions: NDArray[np.bool_]  # of the grid's columns
    source: str  # in words: by what settings were chosen
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A level with the setting that was chosen for it."""

    level: Level
    setting: str  # in words; empty where nothing is searched
    rows: tuple[int, ...]  # of the grid: its runs that are compared
    num_settings: int  # that it could choose from
    num_runs: int  # of all its settings
    num_seeds: int
    uncorrected: float | None  # the largest mean of its settings over all runs and questions: too good
    problems: tuple[str, ...]


def split_of(
    grid: GridResults, rows: Sequence[int], is_searched: bool, loss: Mapping[int, float], select_on: SelectOn
) -> Split:
    """Divides seeds and questions.

    Args:
        grid: the runs.
        rows: of it, those that are compared with each other.
        is_searched: whether some level has several settings.
        loss: row -> the run's held-out loss, of those that have one.
        select_on: what is asked for.

    Raises:
        ValueError: the held-out loss is asked for, and some run has none; or nothing is left to choose by.
    """
    seeds = sorted({grid.seed(row) for row in rows}, key=lambda seed: tuple(map(_sortable, seed)))
    every = np.ones(len(grid.questions), dtype=np.bool_)
    if not is_searched:
        return Split(choosing_seeds=(), compared_seeds=tuple(seeds), compared_questions=every, source="")
    num_choosing = max(1, len(seeds) // 3)
    choosing, compared = (seeds, seeds) if len(seeds) == 1 else (seeds[:num_choosing], seeds[num_choosing:])
    lacking = [str(grid.runs.index[row]) for row in rows if row not in loss]
    if lacking and select_on is SelectOn.eval_loss:
        raise ValueError(f"--select-on eval_loss: no held-out loss of {', '.join(lacking[:3])}; say questions")
    by_loss = not lacking and select_on is not SelectOn.questions
    by = "the held-out loss" if by_loss else "half of the questions" if len(every) > 1 else grid.measure
    if len(every) == 1 and len(seeds) == 1 and not (by_loss and grid.measure not in ("eval_loss", "final_loss")):
        raise ValueError(
            f"{grid.measure}: one seed and one number a run: nothing is left to compare once it has chosen the "
            "setting; train more seeds"
        )
    questions = every if by_loss or len(every) == 1 else halves([*grid.questions])
    note = "" if len(seeds) > 1 else "one seed: the luck of the run that was chosen stays in its result"
    source = f"{by} of {_seeds_text(grid, choosing)}"
    return Split(
        choosing_seeds=tuple(choosing),
        compared_seeds=tuple(compared),
        compared_questions=questions,
        source=source,
        note=note,
    )


def halves(names: Sequence[str]) -> NDArray[np.bool_]:
    """Which questions are compared; the others choose. As many of each, up to one, by a hash of the names."""
    places = sorted(range(len(names)), key=lambda place: hashlib.sha256(names[place].encode()).digest())
    chosen = np.zeros(len(names), dtype=np.bool_)
    chosen[places[: (len(names) + 1) // 2]] = True
    return chosen


def entrant_of(
    grid: GridResults,
    level: Level,
    rows: Sequence[int],
    searched: Sequence[str],
    split: Split,
    loss: Mapping[int, float],
) -> Entrant:
    """The level with its best setting; without rows where none can be chosen, or it was not run with other seeds."""
    by_setting: dict[Setting, list[int]] = {}
    for row in rows:
        by_setting.setdefault(tuple(grid.columns[name][row] for name in searched), []).append(row)
    means = {setting: _mean(grid, found, None) for setting, found in by_setting.items()}
    chosen, problems = _chosen(grid, by_setting, split, loss)
    compared = [] if chosen is None else [row for row in by_setting[chosen] if grid.seed(row) in split.compared_seeds]
    if chosen is not None and not compared:
        problems.append(f"its best setting ({setting_text(searched, chosen)}) was not run with another seed")
    if compared and (lacking := len(split.compared_seeds) - len(compared)) > 0:
        problems.append(f"{lacking} of the {len(split.compared_seeds)} seeds that are compared has no value")
    return Entrant(
        level=level,
        setting="" if chosen is None or not searched else setting_text(searched, chosen),
        rows=tuple(compared),
        num_settings=len(by_setting),
        num_runs=len(rows),
        num_seeds=len({grid.seed(row) for row in rows}),
        uncorrected=_best(list(means.values()), grid.higher_is_better) if len(means) > 1 else None,
        problems=tuple(problems),
    )


def _chosen(
    grid: GridResults, by_setting: Mapping[Setting, Sequence[int]], split: Split, loss: Mapping[int, float]
) -> tuple[Setting | None, list[str]]:
    if len(by_setting) == 1:
        return next(iter(by_setting)), []
    by_loss = split.source.startswith("the held-out loss")
    scores: dict[Setting, float] = {}
    for setting, rows in by_setting.items():
        choosing = [row for row in rows if grid.seed(row) in split.choosing_seeds]
        if not choosing:
            continue
        if by_loss:
            scores[setting] = -float(np.mean([loss[row] for row in choosing]))
            continue
        others = None if split.compared_questions.all() else ~split.compared_questions
        mean = _mean(grid, choosing, others)
        scores[setting] = mean if grid.higher_is_better else -mean
    scores = {setting: score for setting, score in scores.items() if np.isfinite(score)}
    if not scores:
        return None, ["no setting was run with the seeds that choose"]
    lost = len(by_setting) - len(scores)
    problems = [f"{lost} of its {len(by_setting)} settings has no run with the seeds that choose"] if lost else []
    return max(scores, key=lambda setting: scores[setting]), problems


def _mean(grid: GridResults, rows: Sequence[int], questions: NDArray[np.bool_] | None) -> float:
    """The mean over runs of their (weighted) means over some questions; NaN where a run has none of them."""
    kept = slice(None) if questions is None else questions
    table = grid.values[list(rows)][:, kept]
    weights = np.ones(len(grid.questions)) if grid.weights is None else grid.weights
    share = np.where(np.isfinite(table), weights[kept], 0.0)
    totals = share.sum(axis=1)
    if not (totals > 0).all():
        return float("nan")
    return float(((np.nan_to_num(table) * share).sum(axis=1) / totals).mean())


def _best(means: Sequence[float], higher: bool | None) -> float | None:
    known = [mean for mean in means if np.isfinite(mean)]
    return None if higher is None or not known else (max if higher else min)(known)


def _seeds_text(grid: GridResults, seeds: Sequence[Seed]) -> str:
    if not grid.seeds:
        return "its run"
    return " and ".join(setting_text(grid.seeds, seed) for seed in seeds)


def _sortable(value: Level) -> tuple[bool, str, float]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (value is None, "" if is_number else str(value), float(value) if is_number else 0.0)
