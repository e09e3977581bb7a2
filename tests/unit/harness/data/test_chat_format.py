"""Dialogues through a tokenizer's chat template, and Super-NaturalInstructions' prompts."""

import json
from pathlib import Path

import pytest

from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.dialogues import chat
from harness.data.fields import RowError
from harness.data.formats import super_ni
from harness.data.source import locate_dataset
from harness.data.tokens import TokenizedDataset, tokenize_dataset
from harness.files.hub import Missing
from tests.tiny import make_tokenizer

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
ROW = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Name a colour"},
        {"role": "assistant", "content": "Red"},
    ]
}


def tokenized(tmp_path: Path, template: str | None) -> tuple[TokenizedDataset, object]:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    config = DatasetConfig(name="local", hub_id="local", format="chat", path=str(file))
    source = locate_dataset(config, PathsConfig(cache=str(tmp_path)))
    assert not isinstance(source, Missing)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenize_dataset(config, source, tokenizer, tmp_path / "cache"), tokenizer


def test_loss_is_on_the_last_answer_and_its_end(tmp_path: Path) -> None:
    data, tokenizer = tokenized(tmp_path, TEMPLATE)
    ids, num_source = data[0].input_ids, data[0].num_source
    source, target = tokenizer.decode(ids[:num_source]), tokenizer.decode(ids[num_source:])  # type: ignore[attr-defined]
    assert source == "<s>user: Hi</s><s>assistant: Hello</s><s>user: Name a colour</s><s>assistant: "
    assert target == "Red</s>"


def test_another_template_is_another_file(tmp_path: Path) -> None:
    first, _ = tokenized(tmp_path, TEMPLATE)
    second, _ = tokenized(tmp_path, TEMPLATE.replace("assistant: ", "assistant:"))
    assert first.path != second.path


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "no chat template"), ("{{ messages | length }}", "leaves out the text of its user")],
)
def test_a_template_that_cannot_serve_is_refused(tmp_path: Path, template: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenized(tmp_path, template)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ("text", "messages"),
        ([], "messages"),
        (["text"], r"messages\[0\]"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "messages"),
    ],
)
def test_broken_dialogues_name_the_field(messages: object, field: str) -> None:
    with pytest.raises(RowError, match=field):
        chat({"messages": messages})


def test_super_ni_prompt() -> None:
    (example,) = super_ni({"definition": " Add. ", "inputs": "1 2", "targets": "3"})
    assert example.input == "Definition: Add.\n\nNow complete the following example -\nInput: 1 2.\nOutput: "
    assert example.output == "3"
