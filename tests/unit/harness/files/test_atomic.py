"""Atomic writing, JSON lines and hashes, under torn lines and full disks."""

import fcntl
import hashlib
import json
import logging
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.files.atomic import (
    append_jsonl,
    read_jsonl,
    sha256_file,
    share_as_folder_says,
    write_atomically,
    write_json,
)


class Colour(Enum):
    red = "red"


@dataclass(frozen=True)
class Inner:
    path: Path


@dataclass(frozen=True)
class Outer:
    inner: Inner
    colour: Colour


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond `size_bytes`: a write takes what fits, the next one fails in the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("data", ["grüße\n", b"\x00\xff", ""])
def test_written_whole_and_without_leftovers(tmp_path: Path, data: str | bytes) -> None:
    path = tmp_path / "new" / "folder" / "record"
    write_atomically(path, "old")
    write_atomically(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert os.listdir(path.parent) == ["record"]


def test_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    with full_disk(1000), pytest.raises(OSError, match=r"record\.json'") as caught:
        write_atomically(path, "x" * 5000)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_folder_in_the_way_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match=r"target'$"):
        write_atomically(tmp_path / "target", "data")
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "data")
        append_jsonl(tmp_path / "lines", {})
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "lines").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(("folder_mode", "mode"), [(0o755, 0o600), (0o2775, 0o660)])
def test_a_groups_folder_is_shared_whatever_the_umask(tmp_path: Path, folder_mode: int, mode: int) -> None:
    tmp_path.chmod(folder_mode)
    before = os.umask(0o077)
    try:
        share_as_folder_says(tmp_path)
        write_atomically(tmp_path / "run" / "file", "data")
    finally:
        os.umask(before)
    assert (tmp_path / "run" / "file").stat().st_mode & 0o777 == mode
    assert bool((tmp_path / "run").stat().st_mode & 0o020) is bool(mode & 0o020)


def test_json_takes_records_enums_and_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", Outer(inner=Inner(path=Path("a/b")), colour=Colour.red))
    assert json.loads((tmp_path / "record.json").read_text()) == {"inner": {"path": "a/b"}, "colour": "red"}


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), object(), {1, 2}])
def test_json_refuses_what_is_not_json(tmp_path: Path, value: object) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(ValueError, match=r"record\.json.*write null"):
        write_json(path, {"loss": value})
    with pytest.raises(ValueError, match=r"record\.json.*write null"):
        append_jsonl(path, {"loss": value})
    assert not path.exists()


json_rows = st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=8) | st.integers() | st.none(), max_size=3))


@given(rows=json_rows, data=st.data())
def test_cut_anywhere_the_whole_lines_remain(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    path.touch()
    for row in rows:
        append_jsonl(path, row)
    whole = path.read_bytes()
    assert read_jsonl(path) == rows
    num_bytes = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:num_bytes])
    kept = read_jsonl(path)
    num_ended = whole[:num_bytes].count(b"\n")
    assert kept == rows[: len(kept)]
    assert num_ended <= len(kept) <= num_ended + 1  # a line may lack nothing but its newline
    append_jsonl(path, {"last": 1})
    assert read_jsonl(path) == [*kept, {"last": 1}]


def test_torn_last_line_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    with caplog.at_level(logging.WARNING):
        assert read_jsonl(path) == [{"step": 1}]
    assert "line 2 is torn" in caplog.text
    assert str(path) in caplog.text


@pytest.mark.parametrize("bad", ["{torn", "[1]", "12"])
def test_bad_line_elsewhere_is_an_error(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 "):
        read_jsonl(path)


def test_append_on_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"step": 1})
    before = path.read_bytes()
    with full_disk(len(before) + 10), pytest.raises(OSError, match=r"metrics\.jsonl"):
        append_jsonl(path, {"step": 2, "text": "x" * 100})
    assert path.read_bytes() == before


def test_appends_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_jsonl(path, {"n": n, "text": "y" * 5000}), range(100)))
    assert sorted(row["n"] for row in read_jsonl(path)) == list(range(100))


def test_an_append_waits_for_the_one_under_way(tmp_path: Path) -> None:
    """Else it would cut off, as torn, the line that another process is in the middle of writing."""
    path = tmp_path / "rows.jsonl"
    with open(path, "w") as other, ThreadPoolExecutor(1) as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write('{"n": ')
        other.flush()
        appended = pool.submit(append_jsonl, path, {"n": 2})
        with pytest.raises(TimeoutError):
            appended.result(timeout=0.2)
        other.write("1}\n")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_UN)
        appended.result(timeout=30)
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}]


def test_sha256_of_a_large_and_of_an_empty_file(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "large") == hashlib.sha256(data).hexdigest()
    assert sha256_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
