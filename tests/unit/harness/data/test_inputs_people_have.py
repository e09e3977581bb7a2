"""Data files as people have them: read exactly, or refused with file, line and field; never a stack trace."""

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.config.schema import AssistantTurns, DatasetConfig, DType, PathsConfig
from harness.data.__main__ import main
from harness.data.dialogues import chat, every_answer, prompt_completion, sharegpt
from harness.data.examples import Skipped, read_examples, resolved
from harness.data.fields import RowError
from harness.data.rows import DataError, read_file
from harness.data.source import DataSource, fingerprint, locate_dataset, read_rows
from harness.data.tokens import TokenizedDataset, tokenize_dataset
from harness.data.trees import top_reply_path
from harness.files.atomic import sha256_file
from harness.runs.spec import make_spec
from tests import builders
from tests.tiny import make_tokenizer

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
DROPS_SYSTEM = TEMPLATE.replace("<s>{{ m", "{% if m['role'] == 'system' %}{% continue %}{% endif %}<s>{{ m")
TOKENIZER = make_tokenizer()


def located(path: Path, **changes: Any) -> tuple[DatasetConfig, DataSource]:
    config = resolved(
        DatasetConfig(**{"name": "mine", "hub_id": "local", "format": "auto", "path": str(path)} | changes)
    )
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)
    return config, source


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(path: Path, template: str | None = TEMPLATE, **changes: Any) -> list[tuple[str, str]]:
    config, source = located(path, chat_template=template, **changes)
    data = tokenize_dataset(config, source, TOKENIZER, path.parent / "cache")
    return [split(data, place) for place in range(len(data))]


def split(data: TokenizedDataset, place: int) -> tuple[str, str]:
    example = data[place]
    ids, start = example.input_ids, example.num_source
    return str(TOKENIZER.decode(ids[:start])), str(TOKENIZER.decode(ids[start:]))


def turns(*contents: str, system: str | None = None) -> dict[str, Any]:
    roles = ("user", "assistant")
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": head + [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]}


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, "sharegpt"),
        ({"conversations": [{"role": "User", "content": "Hi"}, {"role": "model", "content": "Yo"}]}, "sharegpt"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                    {"role": "gpt", "content": "Yo"},
                ]
            },
            "chat",
        ),
        (
            {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yo"}]},
            "prompt_completion",
        ),
        ({"prompt": [{"role": "human", "content": "Hi"}], "completion": "Yo"}, "prompt_completion"),
        ({"prompt": "Hi", "completion": [{"role": "model", "content": "Yo"}]}, "prompt_completion"),
    ],
)
def test_dialogues_of_every_spelling_are_the_same_tokens(tmp_path: Path, row: dict[str, Any], format: str) -> None:
    path = write(tmp_path / "x.jsonl", row)
    assert located(path)[0].format == format
    assert texts(path) == [("<s>user: Hi</s><s>assistant: ", "Yo</s>")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": " b"}, ("<s>a", " b</s>")),
        ({"text": "plain"}, ("<s>", "plain</s>")),
        ({"input": "a", "output": "b"}, ("<s>a", "b</s>")),
    ],
)
def test_texts_without_a_format(tmp_path: Path, row: dict[str, str], expected: tuple[str, str]) -> None:
    assert texts(write(tmp_path / "x.jsonl", row), template=None) == [expected]


def test_the_oldest_turns_go_first(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", turns("old " * 40, "older", "mid", "ok", "Last?", "Yes", system="Brief."))
    config, source = located(path, chat_template=TEMPLATE, source_max_tokens=60)
    data = tokenize_dataset(config, source, TOKENIZER, tmp_path / "cache")
    whole = "<s>system: Brief.</s><s>user: mid</s><s>assistant: ok</s><s>user: Last?</s><s>assistant: "
    assert split(data, 0) == (whole, "Yes</s>")
    assert data.num_truncated_sources == 1
    [(short, _)] = texts(path, source_max_tokens=38)
    assert short == "<s>system: Brief.</s><s>user: Last?</s><s>assistant: "


def test_a_long_question_is_cut_and_the_header_stays(tmp_path: Path) -> None:
    [(source, target)] = texts(write(tmp_path / "x.jsonl", turns("word " * 90, "Yes")), source_max_tokens=40)
    assert source.startswith("<s>user: word")
    assert source.endswith("</s><s>assistant: ")
    assert target == "Yes</s>"
    with pytest.raises(DataError, match=r"line 1.*source_max_tokens=5"):
        texts(tmp_path / "x.jsonl", source_max_tokens=5)


DROPS_THOUGHT = TEMPLATE.replace("m['content'] }}", "m['content'].split('</think>')[-1] }}")


@pytest.mark.parametrize(
    ("answer", "template", "left_out"),
    [
        ({"content": "5", "reasoning_content": "2 + 3"}, TEMPLATE, "reasoning_content"),
        ({"content": "5", "thinking": "2 + 3"}, TEMPLATE, "thinking"),
        ({"content": "<think>2 + 3</think>5"}, DROPS_THOUGHT, "answer"),
    ],
)
def test_reasoning_that_the_template_drops_is_not_dropped_in_silence(
    tmp_path: Path, answer: dict[str, str], template: str, left_out: str
) -> None:
    asked = [{"role": "user", "content": "Sum?"}, {"role": "assistant"} | answer]
    with pytest.raises(DataError, match=f"leaves out the text of its {left_out}"):
        texts(write(tmp_path / "x.jsonl", {"messages": asked}), template)
    later = [*asked, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes"}]
    assert len(texts(write(tmp_path / "y.jsonl", {"messages": later}), template)) == 1, "earlier thoughts may go"


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_system_text_goes_into_the_first_user_turn(tmp_path: Path, template: str) -> None:
    path = write(tmp_path / "x.jsonl", turns("Hi", "Yo", system="Brief."))
    assert texts(path, template) == [("<s>user: Brief.\n\nHi</s><s>assistant: ", "Yo</s>")]


def test_tool_calls_are_shown_by_the_template_or_refused(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    row = {
        "messages": [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    }
    path = write(tmp_path / "x.jsonl", row)
    with pytest.raises(DataError, match=r"line 1.*tool_calls"):
        texts(path)
    shows = TEMPLATE.replace(
        "</s>{% endfor",
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments.city }}{% endfor %}"
        "</s>{% endfor",
    )
    assert texts(path, shows)[0][1] == "weatherBonn</s>"
    write(path, row | {"tools": [{"type": "function", "function": {"name": "umbrella"}}]})
    with pytest.raises(DataError, match="leaves out the text of its tools"):
        texts(path, shows)


def test_loss_on_all_of_the_assistants_turns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", turns("a", "b", "c", "d"))
    found = texts(path, assistant_turns=AssistantTurns.all)
    assert [target for _, target in found] == ["b</s>", "d</s>"]
    assert found[1][0] == "<s>user: a</s><s>assistant: b</s><s>user: c</s><s>assistant: "


def test_a_cut_target_is_counted_and_the_key_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"input": "a", "output": "b " * 30}, *[{"input": "a", "output": "b"}] * 30)
    config, source = located(path, target_max_tokens=8)
    few = tokenize_dataset(config, source, TOKENIZER, tmp_path / "cache")
    assert few.notes == ["mine: 1 of 31 targets were cut"]
    config, source = located(write(path, {"input": "a", "output": "b " * 30}), target_max_tokens=8)
    [note] = tokenize_dataset(config, source, TOKENIZER, tmp_path / "cache").notes
    assert note == "mine: 1 of 1 targets were cut (100% lose their end, EOS included): raise dataset.target_max_tokens"


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"instruction": "Do.", "Input": "x", "output": "y"}, "Input"),
        ({"instruction": "Do.", " input": "x", "output": "y"}, " input"),
        ({"instruction": "Do.", "context": "x", "output": "y"}, "context"),
        ({"instruction": "Do.", "history": [["a", "b"]], "output": "y"}, "history"),
        ({"input": "a", "output": "b", "instruction": "c", "system": "d"}, "system"),
        ({"text": "a", "system": "d"}, "system"),
    ],
)
def test_a_filled_column_is_not_dropped(tmp_path: Path, row: dict[str, Any], column: str) -> None:
    config, source = located(write(tmp_path / "x.jsonl", row), skip_bad_rows=True)
    with pytest.raises(DataError, match=r"dataset\.ignore_columns") as caught:
        list(read_examples(config, source))
    assert (caught.value.line, caught.value.field) == (1, column)
    config, source = located(tmp_path / "x.jsonl", ignore_columns=[column])
    assert len(list(read_examples(config, source))) == 1
    write(tmp_path / "x.jsonl", row | {column: ""})
    assert len(list(read_examples(*located(tmp_path / "x.jsonl")))) == 1


DEEP = '{"input": "a", "output": "b", "x": ' + "[" * 5000 + "]" * 5000 + "}"
ODD = [
    ('{"input": "a", "output": "\\ud83d"}', "output", "surrogate"),
    ('{"input": "a", "output": "b", "id": 1' + "0" * 5000 + "}", "id", "64 bits"),
    ('{"input": "a", "output": "b", "id": 1' + "0" * 30 + "}", "id", "64 bits"),
    (DEEP, None, "nested"),
    (DEEP.replace("[" * 5000, "[" * 90).replace("]" * 5000, "]" * 90), "x", "nested"),
    ('{"input": "a", "output": "\\u0000"}', "output", "NUL"),
    ('{"input": "a", "output": 3}', "output", "expected text"),
    ('{"input": "a"', None, "broken JSON"),
    ("[1]", None, "found list"),
    ('{"input": "a", "output": "b", "output": "c"}', "output", "two fields"),
    ('{"input": "a", "\\ud83d": "b", "output": "c"}', r"'\ud83d'", "surrogate"),
]


@pytest.mark.parametrize(("line", "field", "problem"), ODD)
def test_an_odd_row_is_refused_by_name_or_left_out(tmp_path: Path, line: str, field: str | None, problem: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'\ufeff{{"input": "a", "output": "b"}}\n{line}\n{{"input": "c", "output": "d"}}\n')
    with pytest.raises(DataError, match=problem) as caught:
        list(read_examples(*located(path)))
    assert caught.value.line == 2
    assert field is None or (caught.value.field or "").startswith(field)
    config, source = located(path, skip_bad_rows=True)
    skipped = Skipped()
    assert [example.input for _, example in read_examples(config, source, skipped=skipped)] == ["a", "c"]
    assert skipped.num_rows == 1
    for _ in range(2):  # made, then read from the cache
        data = tokenize_dataset(config, source, TOKENIZER, tmp_path / "cache")
        assert (len(data), data.num_skipped_rows) == (2, 1)
        assert data.notes == ["mine: 1 rows that can't be read were left out"]
    assert split(data, 1) == ("<s>c", "d</s>")


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["input", "output"], ["a" * 200_000, "b"]])
    assert len(next(iter(read_examples(*located(path))))[1].input) == 200_000
    path.write_text("input,output,input\na,b,c\n")
    with pytest.raises(DataError, match=r"line 1, field 'input': two columns"):
        list(read_file(path))


def test_packed_wrapped_and_parquet_files(tmp_path: Path) -> None:
    rows = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    (tmp_path / "w.json").write_text(json.dumps({"version": "1", "data": rows}))
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "c.json").write_text(json.dumps({"input": ["a", "c"], "output": ["b", "d"]}))
    for name in ("w.json", "g.jsonl.gz", "p.parquet", "c.json"):
        assert [row.fields for row in read_rows(located(tmp_path / name)[1])] == rows
    for name in ("broken.parquet", "broken.jsonl.gz"):
        (tmp_path / name).write_bytes(b"PAR1 no")
        with pytest.raises(DataError, match=name):
            list(read_file(tmp_path / name))


@pytest.mark.parametrize(
    ("rule", "row", "problem"),
    [
        (chat, turns("a", "b") | {"messages": [{"role": "alien", "content": "x"}]}, "unknown role 'alien'"),
        (chat, {"messages": [{"role": "assistant", "content": "x"}]}, "no user's message"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'image_url'"),
        (chat, {"messages": [{"role": "user", "content": 3}]}, "expected text"),
        (chat, {"messages": [{"role": "user", "content": "a", "weight": 0}]}, r"messages\[0\]\.weight"),
        (chat, {"messages": [{"role": "user", "content": "a", "train": False}]}, r"\.train.*assistant_turns"),
        (sharegpt, {"conversations": []}, "expected a list"),
        (sharegpt, {"conversations": [{"from": "gpt", "value": None}]}, "expected text"),
        (chat, turns("a", "b", system="c") | {"system": "d"}, "system message as well"),
        (prompt_completion, {"prompt": "a", "completion": 3}, "expected text"),
        (prompt_completion, {"completion": [{"role": "assistant", "content": "b"}]}, "missing"),
    ],
)
def test_broken_dialogues(rule: Any, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowError, match=problem):
        rule(row)


def test_a_greeting_is_no_answer() -> None:
    row = {"conversations": [{"from": role, "value": role} for role in ("gpt", "human", "gpt")]}
    assert [len(example.messages) for example in every_answer(sharegpt(row)[0])] == [3]


def test_one_token_without_a_bos_is_refused_or_left_out(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = None  # type: ignore[assignment]
    path = write(tmp_path / "x.jsonl", {"text": "a"}, {"text": "b c"})
    config, source = located(path, target_max_tokens=1)
    with pytest.raises(DataError, match=r"line 1, field 'text': no token is left to learn"):
        tokenize_dataset(config, source, tokenizer, tmp_path / "cache")
    config, source = located(path, target_max_tokens=1, skip_bad_rows=True)
    with pytest.raises(DataError, match=r"no rows to train on .2 were left out"):
        tokenize_dataset(config, source, tokenizer, tmp_path / "cache")


TREE = {
    "role": "prompter",
    "text": "Q",
    "replies": [
        {"role": "assistant", "text": "second", "rank": 1, "replies": []},
        {
            "role": "assistant",
            "text": "first",
            "rank": 0,
            "replies": [{"role": "prompter", "text": "unanswered", "replies": []}],
        },
        {"role": "assistant", "text": "deleted", "rank": -1, "deleted": True, "replies": []},
    ],
}


def test_trees_give_their_top_reply_path(tmp_path: Path) -> None:
    assert top_reply_path({"prompt": TREE}) == "### Human: Q### Assistant: first"
    flat = [
        {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "worse", "rank": 1},
        {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Q", "rank": None},
        {"message_id": "c", "parent_id": "a", "role": "assistant", "text": "better", "rank": 0},
        {"message_id": "d", "parent_id": "lost", "role": "assistant", "text": "orphan", "rank": 0},
    ]
    config, source = located(write(tmp_path / "x.jsonl", *flat))
    assert config.format == "oasst1"
    assert [e.output for _, e in read_examples(config, source)] == ["### Human: Q### Assistant: better"]


def test_a_stream_takes_a_seeded_sample_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Stream:
        def shuffle(self, **options: Any) -> "Stream":
            asked.append(options)
            return self

        def take(self, count: int) -> Any:
            return ({"inputs": str(n), "targets": "t"} for n in range(count))

    def load_dataset(*arguments: Any, **options: Any) -> Stream:
        asked.append((arguments, options))
        return Stream()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "nowhere")
    monkeypatch.setattr("harness.data.source.hub_problem", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="c0ffee"))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    config = DatasetConfig(name="flan", hub_id="o/flan", format="flan", max_rows=3, stream=True)
    source = locate_dataset(config, PathsConfig(cache="unused"))
    assert isinstance(source, DataSource)
    assert fingerprint(source) == "o/flan@c0ffee/train/stream-3-seed42"
    assert [example.input for _, example in read_examples(config, source)] == ["0", "1", "2"]
    loaded = {"revision": "c0ffee", "split": "train", "streaming": True, "name": None}
    assert asked == [(("o/flan",), loaded), {"seed": 42, "buffer_size": 10_000}]
    with pytest.raises(ValueError, match=r"dataset\.max_rows"):
        resolved(DatasetConfig(name="flan", hub_id="o/flan", format="flan", stream=True))


def test_a_streamed_sample_and_one_of_a_copy_are_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "nowhere")
    monkeypatch.setattr("harness.data.source.hub_problem", lambda *_, **__: None)
    monkeypatch.setattr("harness.data.source._hub_commit", lambda _: "c0ffee")
    flan = builders.config(dataset="flan")
    streamed = make_spec(flan, DType.float32, sha256_file)
    whole = make_spec(builders.config(dataset=("flan", {"stream": False})), DType.float32, sha256_file)
    write(tmp_path / "flan.jsonl", {"inputs": "a", "targets": "b"})
    store = PathsConfig(cache="unused", data_store=str(tmp_path))
    copy = make_spec(replace(flan, paths=store), DType.float32, sha256_file)
    assert copy.run_id == whole.run_id != streamed.run_id
    for spec, there in ((streamed, False), (copy, True)):  # the worker reads what was planned, wherever it looks
        assert spec.dataset is not None
        source = locate_dataset(spec.dataset, store)
        assert isinstance(source, DataSource)
        assert (bool(source.files), source.stream_rows) == (there, None if there else 450_000)


def test_the_command_shows_format_counts_and_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.jsonl", {"instruction": "Do " * 60, "output": "Done"})
    model = tmp_path / "model"
    make_tokenizer().save_pretrained(model)
    main([str(path), "--model", str(model)])
    printed = capsys.readouterr().out.splitlines()
    assert any("dataset.format=alpaca" in line for line in printed)
    assert "learned | Done</s>" in printed
    assert max(map(len, printed[2:])) <= 80
    main([str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["rows"], found["parts"][1]) == ("alpaca", 1, {"loss": True, "text": "Done"})
    with pytest.raises(SystemExit):
        main([str(tmp_path / "no.jsonl")])
    assert "not found" in capsys.readouterr().err
