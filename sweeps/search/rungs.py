"""The steps at which runs are judged on their held-out loss, and what is read of them there."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.config.schema import TrainConfig
from harness.ledger.ledger import Ledger
from harness.ledger.tables import JobRow, JobStatus
from sweeps.plan.enqueue import Stops
from sweeps.plan.jobs import EVAL_BITS, EVAL_LOSS, EVAL_STEP, TRAIN

NUM_RUNGS = 3  # below the last step, where nobody says where the first one is
JUDGED_BY = (EVAL_LOSS, EVAL_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rungs:
    """Steps that grow by a factor: `first`, `first` x `eta`, ..."""

    first: int
    eta: int

    def step(self, rung: int) -> int:
        """The step of a rung, counted from 0."""
        return self.first * int(self.eta**rung)


def make_rungs(train: TrainConfig, eta: int, first: int | None) -> Rungs:
    """The rungs of runs like this one.

    Args:
        train: of one of them.
        eta: the factor.
        first: step of the first rung; None: so that there are three below `train.max_steps`.

    Raises:
        ValueError: a factor below 2, a first step below 1, or none where no number of steps says it.
    """
    if eta < 2:
        raise ValueError(f"--eta {eta}: at least 2, as of so many runs one goes on")
    if first is None and train.max_steps is None:
        raise ValueError("the runs' length is in epochs: say by --min-steps after how many steps they are judged first")
    if first is None:
        first = max(1, math.ceil((train.max_steps or 0) / eta**NUM_RUNGS))
    if first < 1:
        raise ValueError(f"--min-steps {first}: at least 1")
    return Rungs(first=first, eta=eta)


def train_rows(ledger: Ledger, run_ids: Iterable[str]) -> dict[str, JobRow]:
    """The training jobs of these runs that the ledger knows, by run."""
    return {row.run_id: row for row in ledger.find(f"{TRAIN}:{run_id}" for run_id in run_ids)}


def measured(row: JobRow | None, key: str) -> tuple[float, int] | None:
    """The held-out loss of a run that is done or stopped, and its step; None where it has none."""
    if row is None or row.status not in (JobStatus.done, JobStatus.stopped):
        return None
    loss, step = ((row.result or {}).get(name) for name in (key, EVAL_STEP))
    if not isinstance(loss, (int, float)) or not math.isfinite(loss) or not isinstance(step, int):
        return None
    return float(loss), step


def stops_at(rows: Mapping[str, JobRow], run_ids: Collection[str], active: Collection[str], until: int | None) -> Stops:
    """How far runs train to be judged: the active ones to a step, the others stay as they are.

    Args:
        rows: what the ledger knows of them.
        run_ids: of all runs.
        active: those to be judged next.
        until: the step; None: they train to their end.
    """
    there = {run_id for run_id in active if _is_there(rows.get(run_id), until)}
    at_rest = (set(run_ids) - set(active)) | there
    return Stops(until={} if until is None else dict.fromkeys(active, until), at_rest=at_rest)


def _is_there(row: JobRow | None, until: int | None) -> bool:
    """Whether a run has stopped at this step before, so that a race that was killed need not start it again."""
    if row is None or until is None or row.status is not JobStatus.stopped:
        return False
    return int((row.result or {}).get(EVAL_STEP) or 0) >= until
