"""Lists the results of a sweep: every run with its state, loss, time and scores.

python -m sweeps results demo --sort mmlu
python -m sweeps results demo --csv > demo.csv
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.benchmarks.registry import BENCHMARKS
from harness.config.choices import near
from harness.console import TextTable
from harness.files.atomic import csv_text
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Decision, JobRow
from sweeps.plan.jobs import EVAL_BITS, EVAL_LOSS, EVAL_STEP, TRAIN

EVAL = (EVAL_LOSS, EVAL_BITS, EVAL_STEP)  # columns where some run has held-out rows
LARGEST = 1e300  # beyond it a number is a mistake
FIXED = ("run", "label", "status", "loss", "seconds")


@dataclass(slots=True, kw_only=True)
class RunResult:
    """The results of one run of a sweep."""

    run_id: str
    label: str
    status: str  # of its training
    loss: float | None = None  # mean of the last tenth of the steps
    seconds: float | None = None  # of training
    scores: dict[str, float] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)  # of a race

    def value(self, column: str) -> Any:
        """What the table has in a column."""
        fixed = dict(zip(FIXED, (self.run_id, self.label, self.status, self.loss, self.seconds), strict=True))
        return fixed[column] if column in fixed else self.scores.get(column)


def read_results(ledger: Ledger, sweep: str, sort: str | None = None) -> list[RunResult]:
    """The runs of a sweep in its order, or the best first.

    Args:
        ledger: that knows the sweep.
        sweep: its name.
        sort: a column to sort by; runs without a value come last.

    Raises:
        ValueError: no such sweep, or no such column.
    """
    known = [row.name for row in ledger.sweeps()]
    if sweep not in known:
        raise ValueError(f"{sweep}: no such sweep; known: {', '.join(known) or 'none'}")
    results: dict[str, RunResult] = {}
    for row in ledger.rows(sweep):
        result = results.setdefault(
            row.run_id, RunResult(run_id=row.run_id, label=row.label, status="queued" if row.kind != TRAIN else "")
        )
        _add(result, row)
    for decision in ledger.decisions(sweep):
        if decision.run_id in results:
            results[decision.run_id].decisions.append(decision)
    found = list(results.values())
    return found if sort is None else _sorted(found, sort)


def columns(results: Sequence[RunResult]) -> list[str]:
    """The columns that every run has, then every score that some run has."""
    return [*FIXED, *dict.fromkeys(name for result in results for name in result.scores)]


def results_table(sweep: str, results: Sequence[RunResult]) -> TextTable:
    """The results as a table with a row for each run."""
    names = columns(results)
    return TextTable(
        title=f"sweep {sweep}: {len(results)} runs, {sum(result.status == 'done' for result in results)} done",
        columns=names,
        rows=[[_shown(result.value(name), name) for name in names] for result in results],
        numbers=[name for name in names if name not in FIXED[:3]],
    )


def results_json(sweep: str, results: Sequence[RunResult]) -> dict[str, Any]:
    """The results as plain values; unknown ones are null."""
    names = columns(results)
    runs = [{name: result.value(name) for name in names} for result in results]
    if any(result.decisions for result in results):
        for values, result in zip(runs, results, strict=True):
            values["decisions"] = [asdict(decision) for decision in result.decisions]
    return {"sweep": sweep, "runs": runs}


def results_csv(results: Sequence[RunResult]) -> str:
    """The results as CSV, with no cell that a spreadsheet would run."""
    names = columns(results)
    return csv_text(names, [[result.value(name) for name in names] for result in results])


def _add(result: RunResult, row: JobRow) -> None:
    if row.kind == TRAIN:
        result.label, result.status, result.seconds = row.label, str(row.status), row.seconds
        values = row.result or {}
        result.loss = _number(values.get("final_loss"))
        result.scores |= {key: number for key in EVAL if (number := _number(values.get(key))) is not None}
        return
    result.scores |= _scores(row.kind, row.result or {})


def _scores(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation: the headline by the benchmark's name, the others by their own beside it."""
    headline = BENCHMARKS[kind].headline_key if kind in BENCHMARKS else None
    numbers = {key: number for key, value in values.items() if (number := _number(value)) is not None}
    return {kind if key == headline else f"{kind} {key}": number for key, number in numbers.items()}


def _number(value: Any) -> float | None:
    """A finite number of a ledger that other people may have written; None for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -LARGEST <= value <= LARGEST:
        return None
    return float(value)


def _sorted(results: list[RunResult], column: str) -> list[RunResult]:
    if column not in columns(results):
        raise ValueError(f"--sort {column}: no such column.{near(column, columns(results))}")
    present = [result for result in results if result.value(column) is not None]
    absent = [result for result in results if result.value(column) is None]
    return sorted(present, key=lambda result: result.value(column), reverse=_higher_is_better(column)) + absent


def _higher_is_better(column: str) -> bool:
    name = column.partition(" ")[0]
    return name in BENCHMARKS and BENCHMARKS[name].higher_is_better is not False


def _shown(value: Any, column: str) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if column in ("seconds", EVAL_STEP) else f"{value:.4f}"
