"""Compares systems with their untouched base, over the same questions: what finetuning gained, and what it forgot.

    changes = changes_from(benchmark, base_values, {"tuned": tuned_values})

A change is the mean over questions of (system - base), its interval that of paired differences (Student's t; weighted
ones linearised). The front keeps the systems to which no other one is preferable in every task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from eval.benchmarks.benchmark import Benchmark, QuestionScores, cell
from eval.ratings.intervals import ratio_interval
from harness.runs.estimate import Estimate, plain_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one metric from the base to a system."""

    system: str
    base: str
    measure: str  # "accuracy", or task and metric: "hellaswag acc_norm"
    higher_is_better: bool
    before: float  # means over the questions
    after: float
    change: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = plain_values(self)
        return values


def changes_from(
    benchmark: Benchmark, base: tuple[str, Mapping[str, Any]], systems: Mapping[str, Mapping[str, Any]]
) -> list[Change]:
    """The changes of every system and measure.

    Args:
        base: name and result's content of the untouched base.
        systems: result's content of each, by name.

    Raises:
        ValueError: a system was asked other questions than the base.
    """
    before = {_measure(scores): scores for scores in benchmark.by_question(base[1])}
    return [
        _change(name, base[0], before[_measure(scores)], scores)
        for name, values in systems.items()
        for scores in benchmark.by_question(values)
        if _measure(scores) in before
    ]


def changes_table(changes: Sequence[Change], before: str = "the untouched base") -> Table:
    """A row a system with its change in each measure, for a person; `front` where there are several of both.

    Args:
        changes: of all systems.
        before: what they are compared with, in words.
    """
    measures = list(dict.fromkeys(change.measure for change in changes))
    rows = _by_system(changes)
    has_front = len(measures) > 1 and len(rows) > 1
    table = Table(
        title=f"Change from {before}",
        title_justify="left",
        caption="differences over the same questions, paired 95 % intervals"
        + ("; front: no other row is as good everywhere and better somewhere" if has_front else ""),
    )
    for column in ("system", *measures, *(["front"] if has_front else [])):
        table.add_column(column, justify="left" if column == "system" else "right")
    on_front = front(changes)
    for system, found in rows.items():
        cells = [cell(found[measure].change, 4) if measure in found else "-" for measure in measures]
        table.add_row(system, *cells, *(["yes" if system in on_front else ""] if has_front else []))
    return table


def front(changes: Sequence[Change]) -> list[str]:
    """The systems of the front of gain against forgetting, by the changes themselves, not their intervals."""
    gains = {
        system: {name: (1 if c.higher_is_better else -1) * (c.change.value or 0.0) for name, c in found.items()}
        for system, found in _by_system(changes).items()
    }
    return [system for system in gains if not any(_is_better(gains[other], gains[system]) for other in gains)]


def _is_better(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    shared = one.keys() & other.keys()
    return all(one[name] >= other[name] for name in shared) and any(one[name] > other[name] for name in shared)


def _by_system(changes: Sequence[Change]) -> dict[str, dict[str, Change]]:
    found: dict[str, dict[str, Change]] = {}
    for change in changes:
        found.setdefault(change.system, {})[change.measure] = change
    return found


def _measure(scores: QuestionScores) -> str:
    return f"{scores.part} {scores.metric}".strip()


def _change(system: str, base: str, before: QuestionScores, after: QuestionScores) -> Change:
    if before.names != after.names:
        raise ValueError(f"{system} and {base} were asked other questions ({_measure(after)}); score both anew")
    weights = np.array(before.weights or [1.0] * len(before.names))
    one, two = np.array(before.values), np.array(after.values)
    total = float(weights.sum())
    return Change(
        system=system,
        base=base,
        measure=_measure(after),
        higher_is_better=after.higher_is_better,
        before=float(weights @ one) / total,
        after=float(weights @ two) / total,
        change=Estimate.of(
            float(weights @ (two - one)) / total, ratio_interval(weights * (two - one), weights), len(before.names)
        ),
    )


def of_groups(
    benchmark: Benchmark, results: Mapping[str, Mapping[str, Any]], bases: Mapping[str, str]
) -> Iterator[Change]:
    """The changes of systems over several bases. Args: bases: the base's name of each system."""
    for base in dict.fromkeys(bases.values()):
        systems = {name: results[name] for name, own in bases.items() if own == base and name != base}
        yield from changes_from(benchmark, (base, results[base]), systems)
