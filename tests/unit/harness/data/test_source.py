"""Locating and reading rows: the order of places, broken files by name and line, identity by content."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.rows import DataError, read_file
from harness.data.source import (
    DataSource,
    column,
    data_files,
    fingerprint,
    locate_dataset,
    num_rows,
    read_rows,
    row_examples,
    streams,
)
from harness.files.hub import Missing

ROWS = [{"input": "a", "output": "b"}, {"input": "c\nd", "output": 'e "f",\tg'}]


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a network nor this machine's own cache may answer."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))


def config(**changes: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "mine", "hub_id": "owner/rows", "format": "input_output"} | changes)


def paths(store: Path | None = None) -> PathsConfig:
    return PathsConfig(cache="unused", data_store=None if store is None else str(store))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def source(path: Path, **changes: Any) -> DataSource:
    found = locate_dataset(config(path=str(path), **changes), paths())
    assert isinstance(found, DataSource)
    return found


CSV = 'input,output\na,b\n"c\nd","e ""f"",\tg"\n'
TSV = 'input\toutput\na\tb\n"c\nd"\t"e ""f"",\tg"\n'


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("x.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS), [1, 2]),
        ("blank.jsonl", f"\n{json.dumps(ROWS[0])}\n\n  \n{json.dumps(ROWS[1])}", [2, 5]),
        ("mark.jsonl", "\ufeff" + "".join(json.dumps(row) + "\r\n" for row in ROWS), [1, 2]),
        ("x.json", json.dumps(ROWS), [1, 1]),
        ("indented.json", json.dumps(ROWS, indent=2), [2, 6]),
        ("objects.json", "\n".join(json.dumps(row, indent=1) for row in ROWS) + "\n", [1, 5]),
        ("x.csv", CSV, [2, 3]),
        ("windows.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("c\r\nd", "c\nd"), [2, 3]),
        ("x.TSV", TSV, [2, 3]),
    ],
)
def test_kinds_of_file(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    found = list(read_rows(source(write(tmp_path / name, text))))
    assert [row.fields for row in found] == ROWS
    assert [row.line for row in found] == lines
    assert {row.file for row in found} == {str(tmp_path / name)}


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=40)
@given(
    rows=st.lists(st.dictionaries(TEXTS, TEXTS, min_size=1)), indent=st.sampled_from([None, 1]), size=st.integers(1, 9)
)
def test_json_streams_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], indent: int | None, size: int
) -> None:
    path = write(tmp_path_factory.mktemp("json") / "x.json", json.dumps(rows, indent=indent, ensure_ascii=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.data.rows._CHUNK_CHARACTERS", size)
        assert [row for _, row in read_file(path)] == rows


def test_headerless_flan_tsv(tmp_path: Path) -> None:
    path = write(tmp_path / "cot.tsv", '"Who?" he said\\nNow\tyes\tso\nq\ta\tr\n')
    found = list(read_rows(source(path, format="flan")))
    assert found[0].fields == {"question": '"Who?" he said\\nNow', "answer": "yes", "rationale": "so"}
    assert [row.line for row in found] == [1, 2]


def test_flan_tsv_with_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "cot.tsv", "inputs\ttargets\na\tb\n")
    assert [row.fields for row in read_rows(source(path, format="flan"))] == [{"inputs": "a", "targets": "b"}]


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"),
    [
        ("x.jsonl", '{"input": "a"}\n{"input": \n', 2, "broken JSON"),
        ("x.jsonl", "{}\n[1]\n", 2, "found list"),
        ("x.jsonl", b'{}\n{"a": "\xff"}\n', 2, "not UTF-8"),
        ("x.json", '[{"a": 1},\n {"a": }]', 2, "broken JSON"),
        ("x.json", '[{"a": 1},\n', 2, "broken JSON"),
        ("x.json", '[{"a": 1}]\n[{"a": 2}]', 1, "after the array's end"),
        ("x.json", '["a"]', 1, "found str"),
        ("x.csv", "input,output\na,b\nc\n", 3, "1 columns where there should be 2"),
        ("x.csv", 'input,output\na,"b', 2, "broken table"),
        ("x.csv", b"input,output\n\xff,b\n", 2, "not UTF-8"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, name: str, text: str | bytes, line: int, problem: str
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(DataError, match=problem) as caught:
        list(read_rows(source(path)))
    assert (caught.value.file, caught.value.line) == (str(path), line)
    assert str(caught.value).startswith(f"{path}, line {line}: ")


def test_a_row_of_another_format_names_field_and_remedy(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": "a", "completion": "b"}])
    [row] = read_rows(source(path))
    with pytest.raises(DataError, match=r"x.jsonl, line 1, field 'instruction': missing.*self_instruct") as caught:
        row_examples(row, "alpaca")
    assert caught.value.field == "instruction"


def test_only_some_rows(tmp_path: Path) -> None:
    found = source(jsonl(tmp_path / "x.jsonl", [{"input": str(n), "output": "x"} for n in range(10)]))
    assert num_rows(found) == 10
    assert [row.fields["input"] for row in read_rows(found, [2, 3, 9])] == ["2", "3", "9"]
    assert list(read_rows(found, [])) == []


@pytest.mark.parametrize(
    "place",
    [
        "mine.jsonl",
        "mine.json",
        "mine.csv",
        "mine.tsv",
        "mine/anything.jsonl",
        "mine/train-00.jsonl",
        "owner/rows.jsonl",
        "owner/rows/data.csv",
        "owner--rows.jsonl",
        "rows/train.tsv",
    ],
)
def test_store_lookup(tmp_path: Path, place: str) -> None:
    path = jsonl(tmp_path / place)
    if "train" in place:
        jsonl(path.with_name("test.jsonl"), ROWS[:1])
    found = locate_dataset(config(), paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == (path,)


def test_a_version_in_the_name_is_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.v2.jsonl")
    found = locate_dataset(config(name="mine.v2"), paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == (path,)


def test_the_store_holds_shards(tmp_path: Path) -> None:
    shards = [jsonl(tmp_path / "mine" / f"train-{n}.jsonl", ROWS[n : n + 1]) for n in range(2)]
    jsonl(tmp_path / "mine" / "test.jsonl")
    found = locate_dataset(config(), paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == tuple(shards)
    assert [row.fields for row in read_rows(found)] == ROWS
    assert fingerprint(found) not in {fingerprint(source(shard)) for shard in shards}


def test_an_ambiguous_folder_is_not_guessed_at(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        jsonl(tmp_path / "mine" / name)
    found = locate_dataset(config(), paths(tmp_path))
    assert isinstance(found, Missing)
    assert any("2 data files, none called train*" in place for place in found.looked_in)


def test_path_beats_the_store(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl")
    path = jsonl(tmp_path / "other.jsonl")
    found = locate_dataset(config(path=str(path)), paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == (path,)


def test_a_wrong_path_does_not_fall_through_to_the_store(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine.jsonl")
    found = locate_dataset(config(path=str(tmp_path / "absent.jsonl")), paths(tmp_path))
    assert isinstance(found, Missing)
    assert len(found.looked_in) == 1
    assert "dataset.path" in found.looked_in[0]


def test_missing_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    found = locate_dataset(config(), paths(tmp_path))
    assert isinstance(found, Missing)
    text = str(found)
    for place in (tmp_path / "mine", tmp_path / "owner/rows", "owner--rows", "local cache", "HF_HUB_OFFLINE"):
        assert str(place) in text
    assert "paths.data_store" in found.remedy


def test_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter=none"):
        locate_dataset(config(name="none", hub_id="none", format="none"), paths())
    with pytest.raises(ValueError, match="Did you mean 'oasst1'"):
        locate_dataset(config(format="oaast1"), paths())
    with pytest.raises(DataError, match=r"rows.txt: unknown kind of file; there are: .jsonl"):
        locate_dataset(config(path=str(write(tmp_path / "rows.txt", "x"))), paths())


def test_embedded_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.source.EMBEDDED_FOLDER", tmp_path)
    embedded = config(name="concise", hub_id="embedded/concise")
    assert isinstance(locate_dataset(embedded, paths()), Missing)
    path = jsonl(tmp_path / "concise.jsonl")
    found = locate_dataset(embedded, paths())
    assert isinstance(found, DataSource)
    assert found.files == (path,)


def test_identity_is_content(tmp_path: Path) -> None:
    first, copy = jsonl(tmp_path / "a.jsonl"), jsonl(tmp_path / "b.jsonl")
    assert fingerprint(source(first)) == fingerprint(source(copy))
    jsonl(copy, ROWS[:1])
    assert fingerprint(source(first)) != fingerprint(source(copy))


def in_hub_cache(tmp_path: Path, files: dict[str, list[dict[str, Any]]]) -> str:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "hub_cache" / "datasets--owner--rows"
    write(folder / "refs" / "main", commit)
    for name, rows in files.items():
        jsonl(folder / "snapshots" / commit / name, rows)
    return commit


@pytest.mark.parametrize("subset", [None, "data/second.jsonl"])
def test_hub_cache_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subset: str | None) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setattr("harness.data.source._HUB_BATCH_ROWS", 2)
    rows = [{"input": str(n), "output": "x"} for n in range(5)]
    files = {"data/first.jsonl": ROWS[:1], "data/second.jsonl": rows} if subset else {"train.jsonl": rows}
    commit = in_hub_cache(tmp_path, files)
    found = locate_dataset(config(subset=subset), paths())
    assert isinstance(found, DataSource)
    assert fingerprint(found) == "/".join(filter(None, [f"owner/rows@{commit}", subset, "train"]))
    assert num_rows(found) == 5
    assert [row.fields for row in read_rows(found)] == rows
    assert [(row.line, row.fields["input"]) for row in read_rows(found, [1, 3, 4])] == [(2, "1"), (4, "3"), (5, "4")]


def test_a_reachable_hub_is_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a branch that moves between two runs is seen, and a later run from the cache is the same data."""
    asked: list[tuple[Any, dict[str, Any]]] = []

    def load_dataset(path: str, **options: Any) -> list[None]:
        asked.append((path, options))
        return []

    monkeypatch.setattr("harness.data.source.hub_problem", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="c0ffee"))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = locate_dataset(config(subset="tiny", split="test"), paths())
    assert isinstance(found, DataSource)
    assert asked == []
    assert fingerprint(found) == "owner/rows@c0ffee/tiny/test"
    assert num_rows(found) == 0
    assert asked == [("owner/rows", {"revision": "c0ffee", "split": "test", "name": "tiny"})]


def test_a_cached_card_alone_is_not_the_data(tmp_path: Path) -> None:
    commit = in_hub_cache(tmp_path, {})
    write(tmp_path / "hub_cache" / "datasets--owner--rows" / "snapshots" / commit / "README.md", "# card")
    assert isinstance(locate_dataset(config(), paths()), Missing)


def test_locating_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.data.source import *; from harness.config.schema import *;"
        "locate_dataset(DatasetConfig(name='x', hub_id='o/x', format='alpaca'), PathsConfig(cache='c'));"
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[4])}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_a_configuration_of_a_repository_has_a_folder_or_file_of_its_own(tmp_path: Path) -> None:
    """The dataset's own name comes first and stands for itself; under the repository's name its subset lies."""
    glue = config(name="glue_rte", hub_id="nyu-mll/glue", subset="rte")
    jsonl(tmp_path / "nyu-mll" / "glue.jsonl")
    assert isinstance(locate_dataset(glue, paths(tmp_path)), Missing)
    path = jsonl(tmp_path / "nyu-mll" / "glue" / "rte.jsonl")
    found = locate_dataset(glue, paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == (path,)
    files = config(name="mine", hub_id="nyu-mll/glue", subset="data/rte.csv")
    found = locate_dataset(files, paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == (tmp_path / "nyu-mll" / "glue.jsonl",), "a file's name is no configuration's"
    own = jsonl(tmp_path / "glue_rte.jsonl")
    found = locate_dataset(glue, paths(tmp_path))
    assert isinstance(found, DataSource)
    assert found.files == (own,)


def test_where_a_folder_has_its_rows(tmp_path: Path) -> None:
    looked: list[str] = []
    (tmp_path / "notes.txt").write_text("")
    assert data_files(tmp_path, "train", looked, "here ") == ()
    assert looked.pop() == f"here {tmp_path}: no data file in it"
    one = jsonl(tmp_path / "only.jsonl")
    assert data_files(tmp_path, "train", looked, "") == (one,)
    shards = tuple(jsonl(tmp_path / f"train-{number}.jsonl") for number in range(2))
    assert data_files(tmp_path, "train", looked, "") == shards
    assert looked == []
    assert data_files(tmp_path, "validation", looked, "") == ()
    assert looked.pop() == f"{tmp_path}: 3 data files, none called validation* in it"
    assert data_files(tmp_path / "gone", "train", looked, "") == ()
    assert looked.pop() == f"{tmp_path / 'gone'}: no such file or folder"
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json: names no shards"):
        data_files(tmp_path, "train", looked, "")


@pytest.mark.parametrize(
    ("changes", "streamed"),
    [
        ({}, True),
        ({"stream": False}, False),
        ({"max_rows": None}, False),
        ({"path": "x.jsonl"}, False),
    ],
)
def test_what_a_plan_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], streamed: bool
) -> None:
    problem: list[str | None] = [None]

    def hub_problem(hub_id: str, revision: str, repo_type: str = "model") -> str | None:
        assert (hub_id, revision, repo_type) == ("owner/rows", "main", "dataset")
        return problem[0]

    monkeypatch.setattr("harness.data.source.hub_problem", hub_problem)
    chosen = config(**{"stream": True, "max_rows": 5} | changes)
    assert streams(chosen, paths(tmp_path)) is streamed
    problem[0] = "not there"
    assert not streams(chosen, paths(tmp_path))
    problem[0] = None
    commit = in_hub_cache(tmp_path, {})
    assert streams(chosen, paths(tmp_path)) is streamed, "a snapshot without rows"
    jsonl(tmp_path / "hub_cache" / "datasets--owner--rows" / "snapshots" / commit / "x.jsonl")
    assert not streams(chosen, paths(tmp_path))


def test_a_planned_stream_stays_one_beside_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.source.hub_problem", lambda *_, **__: None)
    monkeypatch.setattr("harness.data.source._hub_commit", lambda _: "c0ffee")
    in_hub_cache(tmp_path, {"train.jsonl": ROWS})
    chosen = config(stream=True, max_rows=2, subset="part", split="test", skip_bad_rows=True)
    found = locate_dataset(chosen, paths(tmp_path))
    assert found == DataSource(
        name="mine",
        hub_id="owner/rows",
        subset="part",
        split="test",
        revision="c0ffee",
        stream_rows=2,
        skip_bad_rows=True,
    )
    assert num_rows(found) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_one_field_of_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    rows = [{"input": number, "output": "x"} for number in range(count)]
    local = source(jsonl(tmp_path / "x.jsonl", rows))
    assert list(column(local, "input")) == [str(number) for number in range(count)]
    jsonl(tmp_path / "x.jsonl", [*rows, {"output": "x"}])
    with pytest.raises(DataError) as caught:
        list(column(local, "input"))
    assert (caught.value.line, caught.value.field, caught.value.problem) == (count + 1, "input", "missing")
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setattr("harness.data.source._HUB_BATCH_ROWS", 2)
    in_hub_cache(tmp_path, {"train.jsonl": rows})
    hub = locate_dataset(config(), paths())
    assert isinstance(hub, DataSource)
    assert list(column(hub, "input")) == [str(number) for number in range(count)]
    with pytest.raises(DataError, match=r"mine, field 'task': missing \(there are: input, output\)"):
        list(column(hub, "task"))


def test_bad_rows_are_not_counted_where_they_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"input": "a"}\n{\n{"input": "b"}\n')
    assert num_rows(source(path, skip_bad_rows=True)) == 2
    assert list(column(source(path, skip_bad_rows=True), "input")) == ["a", "b"]
    with pytest.raises(DataError, match="line 2"):
        num_rows(source(path))
    seen: list[DataError] = []
    assert len(list(read_rows(source(path, skip_bad_rows=True), on_bad_row=seen.append))) == 2
    assert [error.line for error in seen] == [2]


def test_rows_after_the_last_wanted_one_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"input": "a"}\n{"input": "b"}\n{"input": "c"}\n{')
    assert [row.fields["input"] for row in read_rows(source(path), [1])] == ["b"]


def test_an_unfitting_row_says_which_formats_would_fit(tmp_path: Path) -> None:
    for fields, said in (
        ({"text": "a"}, "formats that read this row: oasst1, text"),
        ({"x": 1}, "no known format reads this row"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"these are preference rows"),
    ):
        [row] = read_rows(source(jsonl(tmp_path / "x.jsonl", [fields])))
        with pytest.raises(DataError, match=rf"dataset\.format is flan, {said}"):
            row_examples(row, "flan")
