"""`python -m harness.data FILE`: what it prints of a file, as text and as JSON."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.data.__main__ import main
from tests.tiny import make_tokenizer

ROWS = [{"input": "a", "output": "b"}, {"input": "c\td\n\ne", "output": " "}, {"input": "f", "output": "g"}]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = {
    "messages": [{"role": role, "content": f"{role} {number}"} for number in range(2) for role in ("user", "assistant")]
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out.splitlines()


def refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("\n".join(said(capsys, *arguments, "--json")))
    return found


def test_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("x.jsonl"), *ROWS, {"input": 3, "output": "h"})
    assert said(capsys, "x.jsonl", "--skip-bad-rows", "--row", 2) == [
        "x.jsonl: dataset.format=input_output",
        "3 rows, 3 examples, 1 blank targets, 1 rows left out",
        "left out: x.jsonl, line 4, field 'input': expected text, found int '3';",
        "dataset.format is input_output, no known format reads this row",
        "columns: input, output",
        "",
        "The example of line 2 ('learned' carries loss, 'read' does not):",
        "read    | c\\td",
        "read    |",
        "read    | e",
        "learned |  ",
    ]
    write(Path("x.jsonl"), {"input": "x" * 141, "output": "é" * 70}, *[ROWS[0]] * 1999)
    lines = said(capsys, "x.jsonl")
    assert "2,000 rows, 2,000 examples, 0 blank targets, 0 rows left out" in lines
    assert lines[-4:] == ["read    | " + "x" * 70, "read    | " + "x" * 70, "read    | x", "learned | " + "é" * 70]


def test_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.jsonl", *ROWS)
    assert as_json(capsys, path) == {
        "file": str(path),
        "format": "input_output",
        "columns": ["input", "output"],
        "rows": 3,
        "examples": 3,
        "blank_targets": 1,
        "skipped_rows": 0,
        "skipped": [],
        "line": 1,
        "parts": [{"loss": False, "text": "a"}, {"loss": True, "text": "b"}],
    }
    assert as_json(capsys, path, "--row", 3, "--format", "longform")["parts"][1]["text"] == "g"
    write(path, {"input": "ü", "output": "b", "context": "c"})
    text = "\n".join(said(capsys, path, "--json", "--ignore-column", "context"))
    assert '"text": "ü"' in text
    assert '\n  "rows": 1' in text


def test_dialogues_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.jsonl", CHAT, CHAT)
    found = as_json(capsys, path)
    assert (found["rows"], found["examples"]) == (2, 2)
    assert found["parts"][0]["text"] == "user: user 0\nassistant: assistant 0\nuser: user 1"
    found = as_json(capsys, path, "--assistant-turns", "all", "--row", 3)
    assert (found["rows"], found["examples"], found["line"]) == (2, 4, 2)
    assert found["parts"] == [{"loss": False, "text": "user: user 0"}, {"loss": True, "text": "assistant 0"}]
    labelled = write(tmp_path / "l.jsonl", {"text": "a", "label": 0}, {"text": "a", "text_pair": "b", "label": "no"})
    found = as_json(capsys, labelled)
    assert (found["blank_targets"], found["parts"]) == (
        0,
        [{"loss": False, "text": "a"}, {"loss": True, "text": "0"}],
    )
    assert as_json(capsys, labelled, "--row", 2)["parts"] == [
        {"loss": False, "text": "a\nb"},
        {"loss": True, "text": "no"},
    ]


def test_a_models_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer().save_pretrained(tmp_path / "model")
    path = write(tmp_path / "x.jsonl", {"input": "zzzz", "output": "yyyy"})
    arguments = (path, "--model", tmp_path / "model", "--source-max-tokens", 3, "--target-max-tokens", 9)
    assert as_json(capsys, *arguments)["parts"] == [
        {"loss": False, "tokens": 3, "cut": True, "text": "<s>zz"},
        {"loss": True, "tokens": 5, "cut": False, "text": "yyyy</s>"},
    ]
    assert said(capsys, *arguments)[-4:] == [
        "read    | <s>zz",
        "        = 3 tokens, cut to fit",
        "learned | yyyy</s>",
        "        = 5 tokens",
    ]
    assert as_json(capsys, *arguments[:-1], 2)["parts"][1] == {"loss": True, "tokens": 2, "cut": True, "text": "yy"}
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    chat = write(tmp_path / "chat.jsonl", CHAT)
    with_template = (chat, "--model", tmp_path / "model", "--chat-template", tmp_path / "t.jinja")
    assert as_json(capsys, *with_template)["parts"][1]["text"] == "assistant 1"
    refused([str(chat), "--model", str(tmp_path / "model")])
    assert "has no chat template" in capsys.readouterr().err
    refused([*map(str, with_template), "--source-max-tokens", "2"])
    assert "dataset.source_max_tokens=2; raise it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x.jsonl", "--row", "4"], "x.jsonl: no example 4: it has 3"),
        (["x.jsonl", "--row", "0"], "x.jsonl: no example 0: it has 3"),
        (["gone.jsonl"], "gone.jsonl: no such file"),
        (["x.jsonl", "--format", "alpaca"], "field 'instruction': missing"),
        (["x.jsonl", "--model", "no_such_choice"], "no_such_choice"),
    ],
)
def test_what_training_would_refuse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("x.jsonl"), *ROWS)
    refused(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert problem in captured.err


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.jsonl", *ROWS)
    monkeypatch.setattr(sys, "argv", ["harness.data", str(tmp_path / "x.jsonl")])
    runpy.run_module("harness.data", run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["harness.data", str(tmp_path / "gone.jsonl")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("harness.data", run_name="__main__")
    assert ended.value.code == 2
