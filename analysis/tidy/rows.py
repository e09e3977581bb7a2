"""Puts rows of many runs together as a frame: the runs' columns beside the rows' own, each of its type."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.tidy.axes import AXES, UNTOUCHED, axis_values, column, kind_of, other_values, varying_axes
from analysis.tidy.columns import BY_NAME, TIMES
from analysis.tidy.sources import STATES, FoundRun
from eval.benchmarks.registry import BENCHMARKS

Columns = dict[str, list[Any]]
RECORDED = (
    *("group", "num_steps", "num_examples", "num_truncated_sources", "num_truncated_targets", "target_tokens"),
    *(
        "final_loss",
        "eval_loss",
        "eval_bits_per_byte",
        "train_seconds",
        "peak_memory_bytes",
        "row_tokens",
        "quantized_share",
        "device",
        "optimizer_used",
    ),
    *("started", "finished", "git_commit", "git_dirty", "notes"),
)
SHARES = (
    "accuracy",
    "accuracy_macro",
    "accuracy_micro",
    "rouge_l",
    "rouge_l_macro",
    "exact_match",
    "acc",
    "acc_norm",
    "f1",
    "ece",
)
SCORE_UNITS = {**dict.fromkeys(SHARES, "share"), "bits_per_byte": "bits a byte", "token_perplexity": "perplexity"}


def score_unit(metric: str) -> str | None:
    """The unit of a metric; lm-eval writes the filter of the answers after a comma: "exact_match,strict-match"."""
    return SCORE_UNITS.get(metric.partition(",")[0])


def higher_is_better(evaluation: str, metric: str = "") -> bool | None:
    """Whether a score of an evaluation is better when higher; None where its scores say nothing of quality.

    Args:
        evaluation: "mmlu", "perplexity pile_cc".
        metric: the score's name; some differ from the others of their evaluation.
    """
    kind = evaluation.partition(" ")[0]
    if kind not in BENCHMARKS:
        return None
    return False if metric in BENCHMARKS[kind].lower_is_better else BENCHMARKS[kind].higher_is_better


class RunRows:
    """Rows of several runs, column by column."""

    def __init__(self) -> None:
        self.runs: list[FoundRun | None] = []
        self.counts: list[int] = []
        self.reasons: list[str | None] = []
        self.states: list[str | None] = []
        self.values: list[Mapping[str, Any]] = []  # a list of as many values, or one for all

    def __len__(self) -> int:
        return len(self.counts)

    def add(
        self, run: FoundRun | None, values: Mapping[str, Any], reason: str | None, state: str | None = None
    ) -> None:
        """One row of a run."""
        self._append(run, 1, {name: [value] for name, value in values.items()}, reason, state)

    def add_many(self, run: FoundRun | None, count: int, values: Columns, fixed: Mapping[str, Any]) -> None:
        """Rows of a run that have values of their own, and some that all of them share."""
        self._append(run, count, {**values, **{name: [value] * count for name, value in fixed.items()}}, None, None)

    def _append(
        self, run: FoundRun | None, count: int, values: Mapping[str, Any], reason: str | None, state: str | None
    ) -> None:
        self.runs.append(run)
        self.counts.append(count)
        self.reasons.append(reason or (None if run is None else run.reason))
        self.states.append(state or (None if run is None else run.state))
        self.values.append(values)

    def column(self, name: str) -> list[Any]:
        """A column's values in the order of the rows."""
        found: list[Any] = []
        for count, values in zip(self.counts, self.values, strict=True):
            found += values.get(name) or [None] * count
        return found


def joined(
    rows: RunRows, found: Sequence[FoundRun], names: Sequence[str], renamed: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Rows with their runs' columns: id, label, state and reason first, the axes in which runs differ last."""
    table = runs_frame(found) if found else pd.DataFrame({"run_id": [], "label": []})
    place = {run.run_id: number for number, run in enumerate(found)}
    repeats = np.repeat(np.arange(len(rows)), rows.counts)
    taken = np.array([-1 if run is None else place[run.run_id] for run in rows.runs], dtype=np.int64)[repeats]
    columns: dict[str, Any] = {
        "run_id": _taken(table["run_id"], taken),
        "label": _taken(table["label"], taken),
        "state": _column("state", rows.states).iloc[repeats].reset_index(drop=True),
        "reason": _column("reason", rows.reasons).iloc[repeats].reset_index(drop=True),
    }
    for name in names:
        shown = (renamed or {}).get(name, name)
        columns[shown] = _column(shown, rows.column(name))
    seeds = [axis.name for axis in AXES if axis.is_seed and axis.name in table and table[axis.name].nunique() > 1]
    for name in (*(varying_axes(table) if found else ()), *seeds):
        columns[name] = _taken(table[name], taken)
    return pd.DataFrame(columns)


def _taken(values: "pd.Series[Any]", places: NDArray[np.int64]) -> "pd.Series[Any]":
    """Values at places; NA at -1."""
    if not len(values):
        return pd.Series(pd.Categorical([None] * len(places), categories=pd.Index([], dtype="str")))
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes = np.where(places < 0, -1, values.cat.codes.to_numpy()[places])
        return pd.Series(pd.Categorical.from_codes(codes, dtype=values.dtype))
    picked = values.iloc[places].reset_index(drop=True)
    return picked.mask(places < 0) if (places < 0).any() else picked


def runs_frame(found: Sequence[FoundRun]) -> pd.DataFrame:
    values = [axis_values(run.spec) for run in found]
    others = [other_values(run.spec) for run in found]
    columns: dict[str, Any] = {
        "run_id": _column("run_id", [run.run_id for run in found]),
        "label": _column("label", [run.label for run in found]),
        "state": _column("state", [run.state for run in found]),
        "reason": _column("reason", [run.reason for run in found]),
    }
    columns |= {axis.name: column([value[axis.name] for value in values], axis.kind) for axis in AXES}
    trained = [other for value, other in zip(values, others, strict=True) if other and value["method"] != UNTOUCHED]
    for key in dict.fromkeys(key for other in trained for key in other):
        if len({repr(other.get(key)) for other in trained}) > 1:
            of_runs = [other.get(key) for other in others]
            columns[key] = column(of_runs, kind_of(of_runs))
    for name in RECORDED:
        columns[name] = _column(name, [_recorded(run, name) for run in found])
    return pd.DataFrame(columns)


def _recorded(run: FoundRun, name: str) -> Any:
    value = None if run.record is None else getattr(run.record, name)
    return "; ".join(value) if isinstance(value, tuple) else value


def _column(name: str, values: Sequence[Any]) -> "pd.Series[Any]":
    """Values as a column of the type that its name has."""
    if name in TIMES:
        return pd.Series(pd.to_datetime(list(values), utc=True, format="ISO8601"))
    if name == "state":
        return pd.Series(pd.Categorical(list(values), categories=[*STATES, *_others(values, STATES)]))
    return column(values, BY_NAME[name].kind if name in BY_NAME else kind_of(values))


def _others(values: Sequence[Any], known: Sequence[str]) -> list[str]:
    return sorted({value for value in values if value is not None} - set(known))
