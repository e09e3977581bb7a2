"""Decisions on a run of a race, kept in its folder, so that a ledger that is made anew has them.

runs/<run_id>/decisions.jsonl: a line a decision, with the fields of `harness.ledger.tables.Decision`. The ledger's are
the ones that count; a run that never began has no folder, and nothing to keep.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.files.atomic import append_jsonl, read_jsonl
from harness.files.typed import fit
from harness.ledger.tables import Decision

DECISIONS_FILE = "decisions.jsonl"


def keep_decisions(runs: Path, made: Sequence[Decision]) -> None:
    """Adds decisions to the folders of their runs."""
    for decision in made:
        folder = runs / decision.run_id
        if folder.is_dir():
            append_jsonl(folder / DECISIONS_FILE, asdict(decision))


def kept_decisions(folder: Path) -> list[Decision]:
    """What was decided on the run of a folder; the last word where a command was killed and decided again.

    Raises:
        ValueError: a line is no decision, or one on another run.
    """
    path = folder / DECISIONS_FILE
    if not path.is_file():
        return []
    made = [fit(row, Decision, str(path), "delete the file") for row in read_jsonl(path)]
    if any(decision.run_id != folder.name for decision in made):
        raise ValueError(f"{path}: its decisions are on another run")
    return list({(decision.sweep, decision.rung): decision for decision in made}.values())
