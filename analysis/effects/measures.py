"""Makes the results of a grid from the frames of `analysis.frames`: of questions, of single numbers, or of verdicts.

    from analysis.frames import questions, runs, scores
    grid = of_questions(runs(sweep="demo"), questions(sweep="demo"), "mmlu")
    grid = of_scores(runs(sweep="demo"), scores(sweep="demo"), "perplexity pile_cc", "token_perplexity")
    grid = of_column(runs(sweep="demo"), "final_loss")
    grid = of_verdicts(runs(sweep="demo"), load_verdicts([Path("tournaments/demo/verdicts.csv")]))

Untouched bases are no points of a grid; they, and runs that have no value, are left out and named in `left_out`.

Ratings: a prompt's value of a system is its Bradley-Terry rating as that prompt alone moves it, the pseudo-value of the
infinitesimal jackknife (Efron 1982; in Bradley-Terry's Newton step at the whole). Their mean is the rating, and their
spread over prompts is what a bootstrap of the prompts gives where it moves little.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.effects.grid import GridResults
from analysis.tidy.axes import UNTOUCHED
from analysis.tidy.columns import unit_of
from eval.ratings.bradley_terry import (
    Cells,
    Fit,
    connected_groups,
    count_cells,
    fit,
    linear_resamples,
    unbounded_systems,
)
from eval.verdicts.table import Verdicts, to_matches

Array = NDArray[np.float64]
DONE = "done"
LOWER_IS_BETTER = ("final_loss", "train_seconds", "peak_memory_bytes", "eval_loss", "eval_bits_per_byte")
MAX_NAMED = 5
_MAX_NUMBERS = 1 << 24  # of the second derivatives that are held at once


def of_column(
    runs: pd.DataFrame, name: str, *, higher_is_better: bool | None = None, axes: Sequence[str] | None = None
) -> GridResults:
    """A number of each run: `final_loss`, `train_seconds`, `peak_memory_bytes`.

    Args:
        runs: of `analysis.frames.runs`.
        name: a column of numbers.
        higher_is_better: None: as is known of the column.
        axes: as `GridResults.of`.

    Raises:
        ValueError: no such column, or no run with a value.
    """
    if name not in runs:
        raise ValueError(f"{name}: no such column; the runs have {', '.join(map(str, runs))}")
    better = not name.startswith(LOWER_IS_BETTER) if higher_is_better is None else higher_is_better
    points, left_out = _points(runs, set(runs["run_id"][runs[name].notna()]), name)
    values = points[name].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return GridResults.of(
        points, values, measure=name, unit=unit_of(name) or "", higher_is_better=better, axes=axes, left_out=left_out
    )


def of_scores(
    runs: pd.DataFrame, scores: pd.DataFrame, evaluation: str, metric: str, *, axes: Sequence[str] | None = None
) -> GridResults:
    """A score of each run as one number, without its questions.

    Args:
        runs: of `analysis.frames.runs`.
        scores: of `analysis.frames.scores`, of the same runs.
        evaluation: "mmlu", "perplexity pile_cc": a value of its column.
        metric: likewise.
        axes: as `GridResults.of`.

    Raises:
        ValueError: no run has such a score.
    """
    chosen = scores[(scores["evaluation"] == evaluation) & (scores["metric"] == metric) & scores["value"].notna()]
    if chosen.empty:
        known = scores.dropna(subset=["value"])[["evaluation", "metric"]].drop_duplicates()
        shown = "; ".join(f"{row.evaluation} {row.metric}" for row in known.itertuples())
        raise ValueError(f"{evaluation} {metric}: no run has such a score; there is {shown or 'none'}")
    of_run = chosen.set_index("run_id")
    points, left_out = _points(runs, set(of_run.index), f"{evaluation} {metric}")
    of_run = of_run.loc[points["run_id"]]
    better = of_run["higher_is_better"].iloc[0]
    return GridResults.of(
        points,
        of_run["value"].to_numpy(),
        measure=f"{evaluation} {metric}",
        unit=str(of_run["unit"].iloc[0]) if of_run["unit"].notna().iloc[0] else "",
        higher_is_better=None if pd.isna(better) else bool(better),
        settings=of_run["settings_sha256"].astype("object").fillna("").tolist(),
        axes=axes,
        left_out=left_out,
    )


def of_questions(
    runs: pd.DataFrame,
    questions: pd.DataFrame,
    evaluation: str,
    metric: str | None = None,
    *,
    axes: Sequence[str] | None = None,
) -> GridResults:
    """A score of each run, question by question: each accuracy of MMLU, each document's nats a token.

    Args:
        runs: of `analysis.frames.runs`.
        questions: of `analysis.frames.questions`, of the same runs.
        evaluation: a value of its column.
        metric: likewise; None: the one that there is.
        axes: as `GridResults.of`.

    Raises:
        ValueError: no run has such results, or they have several metrics and none is named.
    """
    chosen = questions[(questions["evaluation"] == evaluation) & questions["value"].notna()]
    metrics = chosen["metric"].dropna().unique().tolist()
    if metric is None and len(metrics) > 1:
        raise ValueError(f"{evaluation}: name a metric; there are {', '.join(metrics)}")
    chosen = chosen[chosen["metric"] == (metric or (metrics[0] if metrics else ""))]
    if chosen.empty:
        known = ", ".join(questions["evaluation"].dropna().unique()) or "none"
        raise ValueError(f"{evaluation} {metric or ''}: no run has such results by question; there is {known}")
    points, left_out = _points(runs, set(chosen["run_id"]), evaluation)
    chosen = chosen[chosen["run_id"].isin(points["run_id"])]
    if (twice := chosen.duplicated(["run_id", "question"])).any():
        row = chosen[twice].iloc[0]
        raise ValueError(f"{evaluation}: run {row['run_id']} has question {row['question']!r} twice; score it again")
    first = chosen.iloc[0]
    named = chosen.assign(question=chosen["question"].astype("object"))
    table = named.pivot(index="run_id", columns="question", values="value")
    weights = named.groupby("question")["weight"].first().loc[table.columns]
    of_run = chosen.groupby("run_id", observed=True)["settings_sha256"].first().astype("object").fillna("")
    return GridResults.of(
        points,
        table.loc[points["run_id"]].to_numpy(dtype=np.float64, na_value=np.nan),
        measure=f"{evaluation} {first['metric']}",
        unit="" if pd.isna(first["unit"]) else str(first["unit"]),
        higher_is_better=None if pd.isna(first["higher_is_better"]) else bool(first["higher_is_better"]),
        questions=[str(name) for name in table.columns],
        weights=None if weights.isna().all() or weights.nunique() == 1 else weights.to_numpy(dtype=np.float64),
        settings=of_run.loc[points["run_id"]].tolist(),
        axes=axes,
        left_out=left_out,
    )


def of_verdicts(runs: pd.DataFrame, verdicts: Verdicts, *, axes: Sequence[str] | None = None) -> GridResults:
    """The Bradley-Terry rating of each run, prompt by prompt.

    Args:
        runs: of `analysis.frames.runs`; systems of verdicts are their labels.
        verdicts: of `eval.verdicts.table.load_verdicts`; those on other systems count in the ratings.
        axes: as `GridResults.of`.

    Raises:
        ValueError: two runs of one label, verdicts that rate no run, or systems that no chain of matches links.
    """
    twice = sorted(runs["label"][runs["label"].duplicated()].unique())
    if twice:
        raise ValueError(
            f"{', '.join(twice[:MAX_NAMED])}: several runs have this label, so a verdict names none of them"
        )
    prompts, values, notes = rating_values(verdicts)
    systems = verdicts.system_names
    rated = {name for row, name in enumerate(systems) if np.isfinite(values[row]).all()}
    points, left_out = _points(runs, set(runs["run_id"][runs["label"].isin(rated)]), "a rating")
    place = {name: row for row, name in enumerate(systems)}
    return GridResults.of(
        points,
        values[[place[label] for label in points["label"]]],
        measure="Bradley-Terry rating",
        unit="points",
        questions=prompts,
        axes=axes,
        left_out=(*left_out, *notes),
    )


def rating_values(verdicts: Verdicts) -> tuple[list[str], Array, list[str]]:
    """-> (prompts, (num_systems, num_prompts) ratings as each prompt alone moves them, notes)

    A row's mean is the system's Bradley-Terry rating; a system without a match has NaN.

    Raises:
        ValueError: no verdict is parsed, or systems that no chain of matches links.
    """
    matches, num_systems = to_matches(verdicts), len(verdicts.system_names)
    if not len(matches):
        raise ValueError("no verdict is parsed, so nothing can be rated")
    cells = count_cells(matches, num_systems)
    if len(groups := connected_groups(cells)) > 1:
        raise ValueError(f"{len(groups)} groups of systems never met, so their ratings can't be compared")
    whole = fit(cells, cells.totals())
    moved = np.concatenate([_moved_by(cells, block, whole) for block in _blocks(cells)])
    values = whole.points[:, None] + (moved - moved.mean(axis=0)).T
    held = [verdicts.system_names[system] for side in unbounded_systems(cells, cells.totals()) for system in side]
    notes = [f"{', '.join(held)}: only wins or only losses, so a weak prior holds the rating"] if held else []
    return [verdicts.question.values[code] for code in cells.codes], values, notes


def _blocks(cells: Cells) -> list[NDArray[np.int64]]:
    """Prompts in parts of which the second derivatives fit into memory."""
    size = max(1, _MAX_NUMBERS // (cells.num_systems + 1) ** 2)
    return [np.arange(start, min(start + size, cells.num_questions)) for start in range(0, cells.num_questions, size)]


def _moved_by(cells: Cells, prompts: NDArray[np.int64], whole: Fit) -> Array:
    """(num_prompts of the block, num_systems) how far the ratings move where one prompt stands for all."""
    weights = (np.eye(cells.num_questions)[prompt] * cells.num_questions for prompt in prompts)
    return linear_resamples(cells, cells.resampled(weights), cells.totals(), whole)


def _points(runs: pd.DataFrame, measured: set[str], measure: str) -> tuple[pd.DataFrame, list[str]]:
    """-> (the runs of a grid that have a value, by their label; sentences on the others)

    Raises:
        ValueError: there is none.
    """
    untouched = runs["method"].eq(UNTOUCHED).fillna(False) if "method" in runs else pd.Series(False, runs.index)
    failed, valued = ~untouched & runs["state"].ne(DONE), runs["run_id"].isin(measured)
    silent = ~untouched & ~failed & ~valued
    left_out = [
        *_sentence(runs[untouched], "untouched base", "no point of the grid"),
        *_sentence(runs[failed], "run", "not done"),
        *_sentence(runs[silent], "run", f"without {measure}"),
    ]
    points = runs[~untouched & ~failed & valued]
    if points.empty:
        raise ValueError(f"{measure}: no run has a value" + "".join(f"; {sentence}" for sentence in left_out))
    names = points["label"].where(~points["label"].duplicated(keep=False), points["run_id"])
    return points.set_index(pd.Index(names.astype("object"), name="run")), left_out


def _sentence(runs: pd.DataFrame, what: str, why: str) -> list[str]:
    if runs.empty:
        return []
    named = ", ".join(runs["label"].astype("object").fillna(runs["run_id"])[:MAX_NAMED])
    more = f" and {len(runs) - MAX_NAMED} more" if len(runs) > MAX_NAMED else ""
    return [f"{len(runs)} {what}{'s' * (len(runs) > 1)} left out, {why}: {named}{more}"]
