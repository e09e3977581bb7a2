"""`sweeps show`: what a run's record says of where it is from stands there, and a broken record is named."""

import dataclasses
from contextlib import closing
from pathlib import Path

from harness.ledger.ledger import Ledger
from harness.runs.record import RECORD_FILE, save_record
from sweeps.watch.show import read_run, run_text
from tests.builders import record


def test_a_runs_notes_are_shown_and_a_broken_record_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789ab"
    save_record(folder, dataclasses.replace(record(), label="mixed", notes=("merged by ties from a x 1 and b x 1",)))
    with closing(Ledger.open(tmp_path / "ledger.sqlite")) as ledger:
        lines = run_text(read_run(ledger, tmp_path, "0123")).splitlines()
        assert lines[:2] == ["run 0123456789ab: mixed", "  merged by ties from a x 1 and b x 1"]
        (folder / RECORD_FILE).write_text("{")
        shown = read_run(ledger, tmp_path, "0123")
    assert shown["label"] is None
    assert str(folder / RECORD_FILE) in run_text(shown).splitlines()[1]
