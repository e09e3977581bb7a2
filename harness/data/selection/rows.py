"""Takes the share of the rows that trains, in the order of `dataset.select`, and writes down what was taken and why.

It comes after the holdout (`harness.data.selection.holdout`), whose rows are the same for every fraction and never
train. What was kept is written beside the run: `selected.jsonl`, a line a row.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.config.schema import DatasetConfig, ModelConfig, ModelKind, Select
from harness.data.selection.orders import ORDERS, Features, Order
from harness.data.selection.quality import rule_text
from harness.data.tokens import Lengths
from harness.files.atomic import write_atomically

SELECTED_FILE = "selected.jsonl"
_STREAM = 0x73_656C  # keeps the draw apart from those of the holdout and of the order of examples


def selects(dataset: DatasetConfig) -> bool:
    """Whether not all rows train."""
    return dataset.fraction < 1.0


def asks_base(dataset: DatasetConfig) -> bool:
    """Whether the base has to read the rows before it is known which train."""
    return selects(dataset) and dataset.select in (Select.kmeans, Select.confidence, Select.quality)


def resolved_rule(dataset: DatasetConfig) -> DatasetConfig:
    """Puts the text of a rule's file into `dataset.quality_rule`; where all rows train, there is none.

    Raises:
        ValueError: a rule without select=quality, or the other way round; no such file, or no rule in it.
    """
    if (dataset.select is Select.quality) != (dataset.quality_rule is not None):
        raise ValueError(
            f"dataset.select={dataset.select.value} with dataset.quality_rule={dataset.quality_rule}: select=quality "
            "chooses by a rule, and nothing else does; fit one by `python -m sweeps quality-rule`, or leave both out"
        )
    if dataset.quality_rule is None:
        return dataset
    text = rule_text(dataset.quality_rule)
    return replace(dataset, quality_rule=text if selects(dataset) else None)


def select_problem(model: ModelConfig, dataset: DatasetConfig) -> str | None:
    """Why rows can't be chosen so for this model; None if they can."""
    if not asks_base(dataset) or model.kind is ModelKind.causal:
        return None
    return (
        f"dataset.select={dataset.select.value} with model.kind={model.kind.value}: it reads the rows by a causal "
        "base; choose random or length"
    )


def num_kept(dataset: DatasetConfig, num_rows: int) -> int:
    """How many of so many rows train: one at least."""
    return num_rows if not selects(dataset) else max(1, min(num_rows, round(dataset.fraction * num_rows)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """The rows that train."""

    places: Lengths  # ascending
    order: Order


def select_rows(dataset: DatasetConfig, features: Features, data_seed: int) -> Selected:
    """Takes the first of the rows in the order of `dataset.select`."""
    order = ORDERS[dataset.select](features, np.random.default_rng([data_seed, _STREAM]))
    kept = order.places[: num_kept(dataset, len(order.places))]
    return Selected(places=np.sort(kept), order=order)


def write_selected(folder: Path, selected: Selected, lines: Lengths) -> None:
    """Writes `<folder>/selected.jsonl`: of each kept row its line in the file, its score and its cluster.

    Args:
        folder: the run's.
        selected: what was chosen.
        lines: of all rows that it was chosen from, as their file counts them.
    """
    order, text = selected.order, []
    for place in selected.places.tolist():
        row: dict[str, int | float | None] = {"line": int(lines[place])}
        row["score"] = None if order.scores is None else float(order.scores[place])
        row["cluster"] = None if order.clusters is None else int(order.clusters[place])
        text.append(json.dumps(row))
    write_atomically(folder / SELECTED_FILE, "".join(f"{line}\n" for line in text).encode())
