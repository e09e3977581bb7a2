"""Finds what `--on` names in a sweep's scores, and makes a grid of it: by question where there are questions.

A name is an evaluation (`mmlu`, `glue rte`), the end of one (`rte`, `gsm8k`), a number of a run's record (`eval_loss`,
`final_loss`, `eval_bits_per_byte`, `train_seconds`), or one of these with a metric: `super_ni:exact_match`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.levels import Layout
from analysis.compare.options import POINTS
from analysis.effects.grid import GridResults
from analysis.effects.measures import of_column, of_questions, of_scores
from harness.config.choices import near

RECORD_NUMBERS = ("eval_loss", "eval_bits_per_byte", "final_loss", "train_seconds", "peak_memory_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """A sweep as frames."""

    runs: pd.DataFrame  # of `analysis.compare.levels.with_choices`
    scores: pd.DataFrame
    questions: pd.DataFrame


def grid_on(frames: Frames, layout: Layout, name: str) -> GridResults:
    """A measure of all runs; shares as points of a hundred.

    Raises:
        ValueError: no run has such a score.
    """
    wanted, _, metric = name.partition(":")
    if wanted in RECORD_NUMBERS:
        if not frames.runs[wanted].notna().any():
            hint = "; train with train.eval_rows=N" if wanted.startswith("eval_") else ""
            raise ValueError(f"--on {name}: no run has it{hint}")
        return _with_seeds(of_column(frames.runs, wanted, axes=layout.columns), layout)
    by_question = _evaluation(frames.questions, wanted)
    if by_question is not None and (not metric or _has_metric(frames.questions, by_question, metric)):
        chosen = metric or _first_metric(frames, by_question)
        grid = of_questions(frames.runs, frames.questions, by_question, chosen or None, axes=layout.columns)
        return _in_points(_with_seeds(grid, layout))
    evaluation = _evaluation(frames.scores, wanted)
    if evaluation is None:
        known = [*_names(frames.scores), *(number for number in RECORD_NUMBERS if frames.runs[number].notna().any())]
        raise ValueError(f"--on {name}: no run has such a score.{near(wanted, known)}")
    chosen = metric or _headline(frames.scores, evaluation)
    return _in_points(
        _with_seeds(of_scores(frames.runs, frames.scores, evaluation, chosen, axes=layout.columns), layout)
    )


def without_value(runs: pd.DataFrame, grid: GridResults) -> list[dict[str, Any]]:
    """Every run that trains something and is not in the grid, with the reason."""
    there = set(grid.runs["run_id"])
    return [
        {
            "run_id": str(row["run_id"]),
            "label": None if pd.isna(row["label"]) else str(row["label"]),
            "state": str(row["state"]),
            "reason": f"no {grid.measure}" if pd.isna(row["reason"]) else str(row["reason"]),
        }
        for _, row in runs[~runs["run_id"].isin(there)].iterrows()
    ]


def _evaluation(frame: pd.DataFrame, wanted: str) -> str | None:
    """The evaluation that is called so, or ends so.

    Raises:
        ValueError: several end so.
    """
    names = _names(frame)
    if wanted in names:
        return wanted
    ending = [name for name in names if wanted in (name.partition(" ")[0], name.partition(" ")[2])]
    if len(ending) > 1:
        raise ValueError(f"--on {wanted}: several evaluations are called so: {', '.join(ending)}")
    return ending[0] if ending else None


def _names(frame: pd.DataFrame) -> list[str]:
    if "evaluation" not in frame or "value" not in frame:
        return []
    return [str(name) for name in frame[frame["value"].notna()]["evaluation"].dropna().unique()]


def _has_metric(frame: pd.DataFrame, evaluation: str, metric: str) -> bool:
    return bool((frame["evaluation"].eq(evaluation) & frame["metric"].eq(metric)).any())


def _first_metric(frames: Frames, evaluation: str) -> str | None:
    """Of several metrics by question the headline, else the first that the result's file has."""
    rows = frames.questions[frames.questions["evaluation"].eq(evaluation)]
    metrics = [str(metric) for metric in rows["metric"].dropna().unique()]
    headline = _headline(frames.scores, evaluation)
    return headline if headline in metrics else next(iter(metrics), None)


def _headline(scores: pd.DataFrame, evaluation: str) -> str:
    rows = scores[scores["evaluation"].eq(evaluation) & scores["value"].notna()]
    first = rows[rows["is_headline"].fillna(False)]
    chosen = first if len(first) else rows
    return str(chosen["metric"].iloc[0]) if len(chosen) else ""


def _with_seeds(grid: GridResults, layout: Layout) -> GridResults:
    """The grid with the sweep's seeds, also where the runs with a value happen to have one."""
    columns: Sequence[str] = [name for name in layout.seeds if name not in grid.seeds]
    if not columns:
        return grid
    more = {name: tuple(grid.runs[name].astype("object").where(grid.runs[name].notna(), None)) for name in columns}
    return replace(grid, seeds=layout.seeds, columns={**grid.columns, **more})


def _in_points(grid: GridResults) -> GridResults:
    """Shares, and questions that are right or wrong, as points of a hundred."""
    known = grid.values[np.isfinite(grid.values)]
    is_right_or_wrong = len(grid.questions) > 1 and bool(np.isin(known, (0.0, 1.0)).all())
    if grid.unit != "share" and not is_right_or_wrong:
        return grid
    return replace(grid, values=grid.values * 100.0, unit=POINTS)
