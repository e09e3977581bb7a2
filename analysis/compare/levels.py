"""Says which runs of a sweep are compared: the levels of an axis, within what, and each level's search space.

An axis is one of `analysis.tidy.axes` (`lora_r`, `data_type`), a key of the config (`train.weight_decay`), or a group
of the config (`adapter`, `quant`, `model`, `dataset`), whose choices are its levels. Every other axis in which runs of
one level differ is that level's search space, but for those that say what was trained on what (model, dataset, data
type): levels are compared within each of their values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.tidy.axes import AXES, BY_NAME, Kind, column, seed_columns, title_of, varying_axes
from analysis.tidy.sources import FoundRun
from harness.config.choices import near
from harness.config.schema import method_name

ADAPTER = "adapter"  # the axis of methods: names of conf/adapter
_GROUP_AXES = {"quant": "data_type", "model": "model", "dataset": "dataset"}
_CONTEXT = ("model", "dataset", "data_type", "compute_dtype", "max_rows", "train_on_source")
_CONTEXT_GROUPS = ("model.", "dataset.", "quant.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is compared with what."""

    axis: str  # a column of the runs' frame
    within: tuple[str, ...]  # axes of whose every value the comparison is one of its own
    searched: tuple[str, ...]  # axes whose best value is chosen for each level
    along: tuple[str, ...]  # axes that a level gives: they belong to it
    seeds: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The axes that tell runs apart, seeds left out."""
        return [self.axis, *self.within, *self.searched]


def with_choices(frame: pd.DataFrame, found: Sequence[FoundRun]) -> pd.DataFrame:
    """The frame with a column `adapter`: the name of each run's choice; its method, where a name stands for several."""
    parts = [run.spec.get("adapter") or {} for run in found]
    named = [(str(part.get("name") or ""), method_name(part) if part.get("method") else "") for part in parts]
    methods: dict[str, set[str]] = {}
    for name, method in named:
        methods.setdefault(name, set()).add(method)
    names = [_choice(name, method, methods) for name, method in named]
    return frame.assign(**{ADAPTER: column(names, Kind.choice)})


def _choice(name: str, method: str, methods: dict[str, set[str]]) -> str | None:
    if name and len(methods[name]) == 1:
        return name
    return f"{name} {method}".strip() or None


def layout_of(frame: pd.DataFrame, axis: str, within: Sequence[str] = ()) -> Layout:
    """Sorts the axes of a sweep.

    Args:
        frame: of `with_choices`, of runs that train something.
        axis: whose levels are compared.
        within: further axes of whose values each is compared apart.

    Raises:
        ValueError: no such axis, or one in which the runs don't differ.
    """
    others = [name for name in varying_axes(frame) if name != ADAPTER]
    compared = _column_of(axis, frame, "--axis")
    if frame[compared].nunique(dropna=False) < 2:
        known = ", ".join([*([ADAPTER] if frame[ADAPTER].nunique() > 1 else []), *others]) or "nothing"
        raise ValueError(f"--axis {axis}: all runs have the same; they differ in {known}")
    apart = [_column_of(name, frame, "--within") for name in within]
    rest = [name for name in others if name != compared and name not in apart]
    context = [*apart, *(name for name in rest if _is_context(name) and _varies_within(frame, [compared], name))]
    free = [name for name in rest if name not in context and _varies_within(frame, [compared, *context], name)]
    return Layout(
        axis=compared,
        within=tuple(context),
        searched=tuple(free),
        along=tuple(name for name in rest if name not in context and name not in free),
        seeds=tuple(seed_columns(frame)),
    )


def _column_of(name: str, frame: pd.DataFrame, option: str) -> str:
    by_key = {axis.key: axis.name for axis in AXES}
    found = _GROUP_AXES.get(name, by_key.get(name, name))
    if found not in frame or not (found in BY_NAME or found == ADAPTER or "." in found):
        known = [ADAPTER, *(axis for axis in varying_axes(frame) if axis != ADAPTER)]
        raise ValueError(f"{option} {name}: no axis of these runs; they have {', '.join(known)}.{near(name, known)}")
    return found


def _is_context(name: str) -> bool:
    return name in _CONTEXT or name.startswith(_CONTEXT_GROUPS)


def _varies_within(frame: pd.DataFrame, by: Sequence[str], name: str) -> bool:
    """Whether runs that are alike in `by` differ in this axis."""
    keys = [frame[column_name].astype("object").where(frame[column_name].notna(), None).map(str) for column_name in by]
    values = frame[name].astype("object").map(str)
    return bool(values.groupby([key.to_numpy() for key in keys]).nunique().gt(1).any())


def axis_title(name: str) -> str:
    """What a table calls the axis."""
    return "method" if name == ADAPTER else title_of(name)
