"""Files and rows of other kinds than ours: read where that is right, else refused by one line that says what to do."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.__main__ import main
from harness.data.examples import read_examples, resolved
from harness.data.fields import Example
from harness.data.rows import DataError
from harness.data.source import DataSource, locate_dataset
from harness.data.tokens import tokenize_dataset
from harness.runs.spec import make_spec
from tests import builders
from tests.tiny import make_tokenizer

ROWS = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


def examples(path: Path, format: str = "auto", **changes: Any) -> list[Example]:
    config = resolved(DatasetConfig(name="mine", hub_id="local", format=format, path=str(path), **changes))
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource), str(source)
    return [example for _, example in read_examples(config, source)]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.json.zst", b"", "unpack it first"),
        ("x.xlsx", b"PK", "save the sheet as CSV"),
        ("x.ndjson", LINES.encode(), r"rename it to \.jsonl"),
        ("x.txt", b"Once.", "write its documents as"),
        ("x.unheard", b"", "unknown kind of file; there are"),
        ("x.jsonl", LINES.encode("utf-16"), r"line 1: not UTF-8 \(UTF-16\)"),
        ("x.json", json.dumps(ROWS).encode("utf-16"), r"not UTF-8 \(UTF-16\)"),
        ("x.csv", "input,output\na,b\n".encode("utf-16-be"), "line 1|NUL"),
        ("x.csv", b"input;output\na;b, c\n", r"line 1: one column, 'input;output'"),
        ("x.tsv", b"input,output\na,b\n", r"line 1: one column, 'input,output': .* set apart by tabs"),
        ("x.json", b'{"input": ["a"], "output": ["b", "c"]}', r"field 'input': expected text, found list"),
        ("x.csv", b"input\toutput\na\tb\n", "set apart by commas"),
        ("x.csv", b"input,output\ra,b\r", "line 1: broken table"),
        ("x.csv", b'"in\nput",output\na,b\n', r"no format reads these columns \('in\\nput', output\)"),
        ("x.jsonl", LINES.replace("}", "},").encode(), "line 1: broken JSON"),
        ("x.jsonl", b"", "no rows to train on"),
        ("x.json", b'[{"input": "a",\n "input": "b"}]', r"line 1, field 'input': two fields"),
        ("x.parquet", b"", "broken parquet file"),
        ("x.arrow", b"ARROW", "broken arrow file"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        examples(path)
    assert caught.value.file == str(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("crlf.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("crlf.csv", b"\xef\xbb\xbfinput,output\r\na,b\r\nc,d\r\n"),
        ("comma.json", (json.dumps(ROWS)[:-1] + ",]").encode()),
    ],
)
def test_what_other_programs_write_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [(example.input, example.output) for example in examples(tmp_path / name)] == [("a", "b"), ("c", "d")]


def test_columns_of_lists_and_structs(tmp_path: Path) -> None:
    row = {"messages": [USER, ANSWER], "meta": {"from": "x", "tags": ["y"]}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    [example] = examples(tmp_path / "x.parquet")
    assert [message["content"] for message in example.messages] == ["q", "r"]
    late = pa.table({"input": ["a"], "output": ["b"], "at": pa.array([2**62], type=pa.timestamp("us"))})
    pq.write_table(late, tmp_path / "late.parquet")
    with pytest.raises(DataError, match="date value out of range"):
        examples(tmp_path / "late.parquet")
    pq.write_table(pa.table({"input": ["a"], "output": [float("nan")]}), tmp_path / "nan.parquet")
    with pytest.raises(DataError, match="line 1, field 'output': expected text, found float"):
        examples(tmp_path / "nan.parquet")


def test_what_datasets_saved_is_read_by_its_shards(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    (tmp_path / "one" / "cache-1234.arrow").write_bytes(b"of a map that somebody made")
    datasets.DatasetDict(test=saved).save_to_disk(tmp_path / "splits")
    expected = [("a", "b"), ("c", "d")]
    assert [(example.input, example.output) for example in examples(tmp_path / "one")] == expected
    assert [(one.input, one.output) for one in examples(tmp_path / "splits", split="test")] == expected
    with pytest.raises(AssertionError, match=r"no split 'train' \(dataset.split\); there are: test"):
        examples(tmp_path / "splits")
    mine = builders.config(dataset=("local", {"path": str(tmp_path / "one")}))
    spec = make_spec(mine, builders.DType.float32, lambda path: path.name)
    assert spec.data_sha256 is not None
    assert len(spec.data_sha256) == 64, "one digest over both shards"


def test_rows_on_one_line_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {"input": "e", "output": 3}]
    for written in (json.dumps(rows), json.dumps({"data": rows})):
        (tmp_path / "x.json").write_text(written)
        with pytest.raises(DataError, match=r"x\.json, row 3, line 1, field 'output': expected text"):
            examples(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps(ROWS))
    main([str(tmp_path / "x.json"), "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == 2


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.jsonl", *ROWS)
    config = DatasetConfig(name="mine", hub_id="local", format="input_output", path=str(path))
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)

    def changing(*arguments: Any) -> Any:
        found = list(read_examples(*arguments))
        write(path, *ROWS, *ROWS)
        return iter(found)

    monkeypatch.setattr("harness.data.tokens.read_examples", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        tokenize_dataset(config, source, make_tokenizer(), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.arrow"))


def test_a_folder_and_a_broken_link_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to("gone.jsonl")
    for path, problem in ((tmp_path / "link.jsonl", r"a link to gone\.jsonl"), (tmp_path, "no data file in it")):
        mine = builders.config(dataset=("local", {"path": str(path), "format": "text"}))
        with pytest.raises(ValueError, match=problem):
            make_spec(mine, builders.DType.float32, lambda path: "")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, r"preference rows \(chosen, rejected\)"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, r"preference rows \(chosen, rejected\)"),
        ({"prompt": "q", "completion": "a", "label": False}, "unpaired preference rows"),
        ({"prompt": "q", "completions": ["a"], "labels": [True]}, "stepwise supervision"),
        ({"prompt": "q"}, "prompts alone"),
    ],
)
def test_rows_of_other_trainings_are_called_so(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    path = write(tmp_path / "x.jsonl", row)
    with pytest.raises(DataError, match=problem):
        examples(path)
    with pytest.raises(DataError, match=rf"{problem}|dataset\.ignore_columns"):
        examples(path, "hh_rlhf" if "chosen" in row else "prompt_completion")


@pytest.mark.parametrize(
    ("rows", "format"),
    [
        ([{"instruction": "a", "output": "b"}, {"instruction": "a", "input": "i", "output": "b"}], "alpaca"),
        ([{"input": None, "instruction": "a", "output": "b"}, {"instruction": "a", "output": "b"}], "alpaca"),
        ([{"text": "a"}, {"text": "b", "id": 1}], "text"),
    ],
)
def test_the_format_of_rows_that_differ_in_optional_columns(tmp_path: Path, rows: list[Any], format: str) -> None:
    path = write(tmp_path / "x.jsonl", *rows)
    assert resolved(DatasetConfig(name="x", hub_id="local", format="auto", path=str(path))).format == format
    assert len(examples(path)) == 2


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"output": "b"}, {"instruction": "a", "output": "b"}], r"line 1, field 'instruction': missing"),
        ([{"instruction": None, "output": "b"}, {"instruction": "a", "output": "b"}], "line 1, field 'instruction'"),
        ([{"instruction": "a", "output": "b"}, {"messages": [USER, ANSWER]}], r"line 2.*=chat, and line 1.*of alpaca"),
        ([{"text": "a"}] * 50 + [{"text": "a", "label": 1}], r"line 51: .*dataset\.format=classification"),
    ],
)
def test_an_odd_or_mixed_row_is_refused_by_its_line(tmp_path: Path, rows: list[Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        examples(write(tmp_path / "x.jsonl", *rows))


def test_a_row_that_is_odd_is_left_out_by_key(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"output": "b"}, {"instruction": "a", "output": "b"})
    assert len(examples(path, skip_bad_rows=True)) == 1
    write(path, {"text": "a"}, *[{"instruction": "a", "output": "b"}] * 2)
    assert [example.output for example in examples(path, skip_bad_rows=True)] == ["b", "b"]


@pytest.mark.parametrize("role", ["developer", "function", "tool", "observation"])
def test_roles_of_every_vendor(tmp_path: Path, role: str) -> None:
    [example] = examples(
        write(tmp_path / "x.jsonl", {"messages": [USER, CALL, {"role": role, "content": "1"}, ANSWER]})
    )
    assert example.messages[2]["role"] == ("system" if role == "developer" else "tool")


STRICT = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


@pytest.mark.parametrize("format_", ["alpaca", "oasst1", "text"])
def test_a_template_that_would_write_nothing_is_refused(format_: str) -> None:
    config = DatasetConfig(name="x", hub_id="x", format=format_, chat_template="{{ messages }}")
    with pytest.raises(
        ValueError, match=rf"dataset\.format={format_} are no dialogues.*take one of chat, prompt_completion"
    ):
        resolved(config)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (STRICT, "system first"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[0].content.nothing() }}", "nothing"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}?{% endif %}", "otherwise"),
    ],
)
def test_a_template_that_fails_on_a_row_names_it(tmp_path: Path, template: str, problem: str) -> None:
    """A system message in the middle among them: shown by templates that can, refused by others."""
    middle = {"role": "system", "content": "s"}
    path = write(tmp_path / "x.jsonl", {"messages": [USER, middle, ANSWER]})
    config = resolved(DatasetConfig(name="mine", hub_id="local", format="auto", path=str(path), chat_template=template))
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)
    with pytest.raises(DataError, match=problem) as caught:
        tokenize_dataset(config, source, make_tokenizer(), tmp_path / "cache")
    assert (caught.value.line, caught.value.field) == (1, "messages")
