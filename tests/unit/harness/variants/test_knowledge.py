"""Knowledge that CorDA keeps: rows of the kinds that people have are read, and a run is tied to their content."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.data.selection.knowledge import knowledge_file, knowledge_texts
from harness.files.atomic import sha256_file
from tests.builders import spec, write_rows


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "Paris is in France."}, "Paris is in France."),
        ({"question": "Who? ", "answer": "Ann"}, "Who? Ann"),
        ({"question": "Who?", "answer": ["Ann", "Anna"]}, "Who? Ann"),
        ({"question": "Who?", "answer": {"value": "Ann", "aliases": []}}, "Who? Ann"),
        ({"question": "Who?", "choices": ["Ann", "Bob"], "answer": 1}, "Who? Bob"),
    ],
)
def test_a_row_of_knowledge(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    assert knowledge_texts(Path(write_rows(tmp_path / "a.jsonl", [row])), None) == [text]


@pytest.mark.parametrize(
    "row", [{"text": " "}, {"question": "Who?"}, {"question": "Who?", "choices": ["a"], "answer": 1}, {"answer": "a"}]
)
def test_a_row_without_a_text_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    file = Path(write_rows(tmp_path / "a.jsonl", [{"text": "a"}, row]))
    with pytest.raises(ValueError, match="line 2: expected a text, or a question and its answer"):
        knowledge_texts(file, None)


def test_what_is_shipped_has_a_text_in_every_row() -> None:
    assert len(knowledge_texts(knowledge_file("embedded"), None)) > 64


def test_a_run_is_tied_to_the_content_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_rows(file, [{"text": "a"}])
    planned = spec(adapter=("corda_kpm", {"corda_keep": str(file)}))
    copy = tmp_path / "b.jsonl"
    copy.write_text(file.read_text())
    assert spec(adapter=("corda_kpm", {"corda_keep": str(copy)})).run_id == planned.run_id
    assert planned.adapter.corda_keep_sha256 == sha256_file(file)
    assert planned.label.endswith("corda_kpm")
    file.write_text(json.dumps({"text": "b"}))
    assert spec(adapter=("corda_kpm", {"corda_keep": str(file)})).run_id != planned.run_id
    with pytest.raises(ValueError, match="the run was planned with"):
        knowledge_texts(file, planned.adapter.corda_keep_sha256)
    with pytest.raises(ValueError, match=r"adapter.corda_keep=nowhere: no such file"):
        spec(adapter=("corda_kpm", {"corda_keep": "nowhere"}))
    with pytest.raises(ValueError, match=r"adapter.corda_keep=embedded: of adapter=corda only"):
        spec(adapter=("lora", {"corda_keep": "embedded"}))
