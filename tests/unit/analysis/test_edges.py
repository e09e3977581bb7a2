"""Edges of frames and of what notebooks show: an index is no column, a table as text."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from analysis.frames import to_parquet
from analysis.notebook import Table, show


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
