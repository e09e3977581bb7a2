"""Edges of frames and notebooks: an index is no column, a table as text, steps read at once, names by size."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.frames import to_parquet
from analysis.notebook import Table, show
from analysis.tidy import axes, steps
from analysis.tidy.rows import RunRows, joined


def test_a_frames_index_is_no_column_of_its_file(tmp_path: Path) -> None:
    frame = pd.DataFrame({"final_loss": [1.0, 2.0]}, index=["x", "y"])
    to_parquet(frame, tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["final_loss"]
    assert table.schema.field("final_loss").metadata[b"unit"] == b"nats a token"
    assert pd.read_parquet(tmp_path / "f.parquet").index.tolist() == [0, 1]


def test_a_table_as_text_has_no_row_numbers() -> None:
    frame = pd.DataFrame({"label": ["a", "b"], "value": [1, 2]})
    assert [line.split() for line in repr(Table(frame)).splitlines()] == [["label", "value"], ["a", "1"], ["b", "2"]]
    assert Table(frame.head(0))._repr_html_() == "<p>none</p>"
    assert list(show(frame, "value").frame) == ["value"]
    assert list(show(frame).frame) == ["label", "value"]
    assert list(show(frame.set_index("label")).frame) == ["label", "value"]
    assert list(show(frame.assign(more=0).set_index("label"), "value").frame) == ["label", "value"]
    assert list(show(frame.set_index(pd.Index([0, 1], name="n"))).frame) == ["n", "label", "value"]


def test_well_formed_steps_are_read_at_once_and_others_line_by_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (file := tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.5}\n{"step": 1, "loss": null}\n')

    def read_jsonl(path: Path) -> Any:
        raise ValueError("line by line")

    monkeypatch.setattr(steps, "read_jsonl", read_jsonl)
    assert steps.read_steps(file) == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.5}]
    for text in ('{"step": 1, "loss": 2.0}, {"step": 2, "loss": 2.0}\n', "[1]\n", '{"step": 1, "loss": NaN}\n', "{\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="line by line"):
            steps.read_steps(file)


def test_nobodys_rows_have_a_runs_column_of_texts() -> None:
    rows = RunRows()
    rows.add(None, {"question": "z"}, "no run")
    frame = joined(rows, [], ("question",))
    for name in ("run_id", "label"):
        assert str(frame[name].cat.categories.dtype) == "str"


def test_numbers_within_names_are_sorted_by_size() -> None:
    names = ["llama-13b", "llama-7b", "a", "7b", "10", "llama-7b-chat", "llama"]
    assert sorted(names, key=axes._natural) == ["7b", "10", "a", "llama", "llama-7b", "llama-7b-chat", "llama-13b"]
