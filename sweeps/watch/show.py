"""Shows one run: where its config, log, metrics, adapter and results are, and what became of its jobs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.ledger.ledger import Ledger
from harness.runs.record import CHECKPOINT_FOLDER, CONFIG_FILE, METRICS_FILE, RECORD_FILE, load_record

FILES = {  # what a run folder may hold, and what it is
    "config": CONFIG_FILE,
    "record": RECORD_FILE,
    "metrics": METRICS_FILE,
    "log": "error.log",
    "adapter": "adapter",
    "checkpoint": CHECKPOINT_FOLDER,
    "answers": "answers",
    "evaluations": "eval",
    "wandb": "wandb",
}


def read_run(ledger: Ledger, runs: Path, run_id: str) -> dict[str, Any]:
    """Jobs and files of the run whose id begins so, as plain values.

    Raises:
        ValueError: no such run, or several.
    """
    run_ids = sorted(path.name for path in runs.glob(f"{run_id}*") if path.is_dir()) if run_id.isalnum() else []
    rows = list(ledger.rows(run_id=run_ids[0] if len(run_ids) == 1 else run_id))
    if len(run_ids) > 1 or not (run_ids or rows):
        known = f"several begin so: {', '.join(run_ids[:10])}" if run_ids else "`python -m sweeps plan` lists the ids"
        raise ValueError(f"run {run_id!r}: not one run of {runs}; {known}")
    whole = run_ids[0] if run_ids else run_id
    label, notes = _recorded(runs / whole)
    return {
        "run_id": whole,
        "label": label,
        "notes": notes,
        "folder": str(runs / whole),
        "files": {key: str(runs / whole / name) for key, name in FILES.items() if (runs / whole / name).exists()},
        "jobs": [
            {
                "kind": row.kind,
                "label": row.label,
                "status": str(row.status),
                "attempts": row.attempts,
                "worker": row.worker,
                "reason": row.reason,
                "seconds": row.seconds,
                "result": row.result,
            }
            for row in rows
        ],
        "decisions": [asdict(decision) for decision in ledger.decisions(run_id=whole)],
    }


def _recorded(folder: Path) -> tuple[str | None, list[str]]:
    """-> label and notes of a finished run: what it was merged or started from, among others"""
    try:
        record = load_record(folder)
    except ValueError as error:
        return None, [str(error)]
    return (None, []) if record is None else (record.label, list(record.notes))


def run_text(run: dict[str, Any]) -> str:
    """The run as text: a line for each job and each file."""
    lines = [f"run {run['run_id']}" + (f": {run['label']}" if run["label"] else "")]
    lines += [f"  {note}" for note in run["notes"]]
    for job in run["jobs"]:
        reason = f": {job['reason']}" if job["reason"] else ""
        lines.append(f"  {job['kind']} {job['label']}: {job['status']} after {job['attempts']} attempts{reason}")
    lines += [f"  {decision_text(decision)}" for decision in run["decisions"]]
    lines += [f"  {key:12}{path}" for key, path in run["files"].items()]
    return "\n".join(lines)


def decision_text(decision: dict[str, Any]) -> str:
    """What was decided on a run of a race, in a line."""
    place = f"race {decision['sweep']}, rung {decision['rung']}: {decision['verdict']}"
    if decision["loss"] is None:
        return f"{place} ({decision['rule']})"
    rank = "" if decision["rank"] is None else f", {decision['rank']} of {decision['num_judged']}"
    limit = "" if decision["limit"] is None else f"; {decision['num_kept']} go on, to {decision['limit']:.4f}"
    return f"{place}, held-out loss {decision['loss']:.4f} at step {decision['step']}{rank}{limit} ({decision['rule']})"
