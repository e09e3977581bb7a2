"""A worker that downloads, converts or tokenizes for long gives signs of life; work that stands still gives none."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub.utils import tqdm as hub_bar
from tqdm.auto import tqdm as plain_bar
from transformers.utils import logging as transformers_logging

from harness.config.schema import DatasetConfig, PathsConfig
from harness.data.source import locate_dataset
from harness.data.tokens import tokenize_dataset
from harness.files import signs
from harness.files.signs import heard_by, in_view, locked, progressed
from sweeps.launch.local import _receive, _Worker
from sweeps.workers.processes import ALIVE
from sweeps.workers.serve import _sender
from tests.tiny import make_tokenizer


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """A sign each; all that come are handed on."""
    monkeypatch.setattr(signs, "SECONDS_APART", -1.0)
    found: list[None] = []
    with heard_by(lambda: found.append(None)):
        yield found


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("bar", [hub_bar, plain_bar])
def test_bytes_that_arrive_are_signs_shown_or_not(heard: list[None], bar: Any, shown: bool) -> None:
    download = bar(total=100, disable=not shown)
    assert not heard, "nothing has arrived yet"
    download.update(10)
    download.update(0)
    download.refresh()
    assert len(heard) == 1
    download.close()


def test_weights_that_are_read_are_signs(heard: list[None]) -> None:
    transformers_logging.disable_progress_bar()
    try:
        assert list(transformers_logging.tqdm(range(3), desc="Loading weights")) == [0, 1, 2]
    finally:
        transformers_logging.enable_progress_bar()
    assert len(heard) == 3


def test_rows_that_are_tokenized_are_signs(heard: list[None], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "output": "b"}\n' * 2049)
    config = DatasetConfig(name="rows", hub_id="a/b", format="input_output", path=str(tmp_path / "rows.jsonl"))
    source = locate_dataset(config, PathsConfig(cache=str(tmp_path)))
    tokenize_dataset(config, source, make_tokenizer(), tmp_path / "cache")  # type: ignore[arg-type]
    assert len(heard) == 3, "one a batch of 1024"


def test_nothing_is_left_behind_where_nobody_listens() -> None:
    from tqdm.std import tqdm

    before = tqdm.update
    with heard_by(lambda: None):
        assert tqdm.update is not before
    assert tqdm.update is before
    progressed()


def test_signs_are_handed_on_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []
    clock = [1000.0]
    monkeypatch.setattr(signs, "_handed_on", 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with heard_by(lambda: found.append(clock[0])):
        for _ in range(120):
            progressed()
            clock[0] += 0.1
    assert found == pytest.approx([1000.0, 1005.0, 1010.0], abs=0.11)


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    signs_heard, lines, clock = list[float](), list[str](), [1000.0]
    monkeypatch.setattr(signs, "_handed_on", 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with heard_by(lambda: signs_heard.append(clock[0]), lines.append):
        for _ in in_view("layers", range(8), 8):
            clock[0] += 4.0
        for _ in in_view("examples", iter("abcd")):
            clock[0] += 11.0
        assert list(in_view("quick", "ab")) == ["a", "b"]
    assert lines == ["layers: 3 of 8", "layers: 6 of 8", "examples: 1", "examples: 2", "examples: 3"]
    assert len(signs_heard) > 5
    assert list(in_view("nobody listens", "ab")) == ["a", "b"]


def test_waiting_for_another_process_s_download_is_a_sign(
    heard: list[None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(signs, "SECONDS_APART", 0.05)
    other = FileLock(tmp_path / "lock", thread_local=False)
    other.acquire()
    threading.Timer(0.5, other.release).start()
    with locked(tmp_path / "lock"):
        assert len(heard) > 1
    with FileLock(tmp_path / "lock", timeout=0):
        pass  # it is free again


def test_a_sign_renews_what_the_parent_knows_and_is_not_shown() -> None:
    ours, theirs = multiprocessing.Pipe()
    worker = _Worker(SimpleNamespace(), "worker", ours, 0)  # type: ignore[arg-type]
    worker.last_message = 0.0
    _sender(theirs)({"phase": ALIVE, "label": ""})
    assert _receive(worker, lambda message: pytest.fail(f"shown: {message}"))
    assert worker.last_message > 0.0
