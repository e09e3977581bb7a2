"""What a plan says of local rows that a run can't use: before any work, by file and line."""

from pathlib import Path

import pytest

from harness.config.schema import DatasetConfig, EmptyTargets, ModelKind
from harness.data.source import DataSource
from sweeps.plan.rows import check_rows
from tests.builders import write_rows

ROWS: list[dict[str, object]] = [{"input": "Why?", "output": "So."}, {"input": "", "output": "Yes."}]


def problems(folder: Path, rows: list[dict[str, object]], kind: ModelKind, **dataset: object) -> tuple[str, ...]:
    path = Path(write_rows(folder / "rows.jsonl", rows))
    config = DatasetConfig(name="local", path=str(path), format="input_output", **dataset)  # type: ignore[arg-type]
    return check_rows(kind, config, DataSource(name="local", files=(path,))).problems


@pytest.mark.parametrize("how", EmptyTargets)
def test_an_empty_target_is_refused_unless_it_is_kept_or_dropped(tmp_path: Path, how: EmptyTargets) -> None:
    found = problems(tmp_path, [*ROWS, {"input": "Why?", "output": " "}], ModelKind.causal, empty_targets=how)
    assert len(found) == int(how is EmptyTargets.refuse)
    assert all("rows.jsonl, line 3" in problem and "the target is empty" in problem for problem in found)


def test_an_encoder_has_to_have_something_to_read(tmp_path: Path) -> None:
    assert problems(tmp_path, ROWS, ModelKind.causal) == ()
    (found,) = problems(tmp_path, ROWS, ModelKind.seq2seq)
    assert "rows.jsonl, line 2" in found
