"""One claimed run while its group trains, and its metrics.jsonl: a line a step."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.data.tokens import TokenizedDataset
from harness.files.atomic import append_jsonl, read_jsonl, to_json, write_atomically
from harness.identity.proof import Proof
from harness.ledger.tables import JobRow
from harness.runs.record import METRICS_FILE, now
from harness.runs.spec import RunSpec
from harness.training.group import Member, StepMetrics
from harness.training.held_out import EvalPoint
from harness.training.tracking import Tracker
from sweeps.jobs.context import Workplace
from sweeps.plan.inputs import inputs_of
from sweeps.plan.jobs import UNTIL

_EVAL = "eval_"  # how the names of a held-out loss's numbers begin in metrics.jsonl


@dataclass(slots=True, kw_only=True)
class ClaimedRun:
    """One claimed run while its group trains."""

    claim: JobRow
    spec: RunSpec
    label: str
    folder: Path
    started: str
    until: int | None  # the step after which it stops to be judged
    inputs: dict[str, str]  # signs of what it was planned to read
    data: TokenizedDataset | None = None
    data_fingerprint: str | None = None
    member: Member | None = None
    tracker: Tracker | None = None
    proof: Proof | None = None  # of its method
    metrics: list[StepMetrics] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on its rows
    points: dict[int, EvalPoint] = field(default_factory=dict)  # by step

    @classmethod
    def of(cls, claim: JobRow, place: Workplace) -> "ClaimedRun":
        payload = json.loads(claim.payload)
        return cls(
            claim=claim,
            spec=RunSpec.from_dict(payload["spec"]),
            label=payload["label"],
            folder=place.run_folder(claim.run_id),
            started=now(),
            until=payload.get(UNTIL),
            inputs=inputs_of(payload),
        )

    def read_earlier_metrics(self) -> None:
        """Takes over what an earlier part of the run has written; none where another version of the code wrote it."""
        self.metrics, self.points = earlier_metrics(self.folder)

    def add_step(self, metrics: StepMetrics) -> None:
        """Appends a step's line. A step that was made before is made again, and those behind it are to come."""
        if self.metrics and self.metrics[-1].step >= metrics.step:
            self.metrics = [earlier for earlier in self.metrics if earlier.step < metrics.step]
            self.points = {step: point for step, point in self.points.items() if step < metrics.step}
            self._write_metrics()
        self.metrics.append(metrics)
        append_jsonl(self.folder / METRICS_FILE, asdict(metrics))

    def add_point(self, point: EvalPoint) -> None:
        """Writes the held-out loss that was measured after a step into that step's line."""
        self.points[point.step] = point
        self._write_metrics()

    def _write_metrics(self) -> None:
        path = self.folder / METRICS_FILE
        rows = (asdict(m) | (asdict(self.points[m.step]) if m.step in self.points else {}) for m in self.metrics)
        write_atomically(path, "".join(to_json(row, where=str(path)) + "\n" for row in rows))


def earlier_metrics(folder: Path) -> tuple[list[StepMetrics], dict[int, EvalPoint]]:
    """The steps in metrics.jsonl of a run that was stopped, and the held-out losses that were measured after them.

    Nothing if another version of the code wrote them.
    """
    metrics, points = list[StepMetrics](), dict[int, EvalPoint]()
    try:
        for row in read_jsonl(folder / METRICS_FILE):
            measured = {key: row.pop(key) for key in list(row) if key.startswith(_EVAL)}
            metrics.append(StepMetrics(**row))
            if measured:
                points[row["step"]] = EvalPoint(step=row["step"], **measured)
    except (FileNotFoundError, TypeError, ValueError):
        return [], {}
    return metrics, points
