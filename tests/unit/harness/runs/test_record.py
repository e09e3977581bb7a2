"""What a run's record says of its time, its packages and its commit."""

import subprocess
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from harness.runs import record
from harness.runs.record import RECORDED_PACKAGES, RunRecord, git_state, load_record, now, package_versions, save_record
from tests import builders


def test_a_time_is_in_utc_to_the_second() -> None:
    time = datetime.fromisoformat(now())
    assert (time.utcoffset(), time.microsecond) == (timedelta(0), 0)
    assert "." not in now()


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == RECORDED_PACKAGES[2]:
            raise PackageNotFoundError(name)
        return f"1.{name}"

    monkeypatch.setattr(record, "version", version)
    wanted = {name: f"1.{name}" for name in RECORDED_PACKAGES if name != RECORDED_PACKAGES[2]}
    assert package_versions.__wrapped__() == wanted


def test_a_record_without_the_later_fields_has_their_defaults(tmp_path: Path) -> None:
    save_record(tmp_path, builders.record())
    read = load_record(tmp_path)
    assert isinstance(read, RunRecord)
    assert (read.packages, read.python, read.row_tokens, read.schema_version) == ({}, "", None, 1)


def test_the_commit_of_the_code_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state.__wrapped__() == (None, None), "no checkout"
    (tmp_path / "record.py").write_text("")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m")
    commit = git("rev-parse", "HEAD").strip()
    assert len(commit) == 40
    (tmp_path / "untracked").write_text("")
    assert git_state.__wrapped__() == (commit, False)
    (tmp_path / "record.py").write_text("changed")
    assert git_state.__wrapped__() == (commit, True)


@pytest.mark.parametrize("error", [OSError("no git"), subprocess.TimeoutExpired("git", 10)])
def test_a_git_that_does_not_answer_is_no_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, timeout: float, **__: Any) -> None:
        assert timeout <= 60
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert git_state.__wrapped__() == (None, None)
