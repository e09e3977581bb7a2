"""Every command finds the same ledger, and no password is shown."""

from pathlib import Path

import pytest

from harness.config.compose import compose_grid
from harness.config.paths import paths_of_environment
from harness.config.schema import PathsConfig
from harness.ledger.database import Opening, database_url
from harness.ledger.ledger import Ledger
from harness.ledger.open import existing_ledger, ledger_url
from harness.ledger.passwords import command_without_passwords, without_passwords
from harness.ledger.tables import LedgerError, LedgerUnavailableError
from sweeps.__main__ import _ledger

URL = "postgresql://user:secret@host/database"


def composed_paths() -> PathsConfig:
    return compose_grid(["model=smollm2", "dataset=concise"])[0].config.paths


@pytest.mark.parametrize("url", [None, URL])
def test_a_grid_and_the_other_commands_look_in_one_place(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS", "elsewhere")
    if url is not None:
        monkeypatch.setenv("HARNESS_LEDGER_URL", url)
    wanted = url or str(Path("elsewhere") / "ledger.sqlite")
    assert composed_paths() == paths_of_environment()
    assert ledger_url(composed_paths()) == wanted


def test_a_folder_on_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS", "elsewhere")
    assert ledger_url(paths_of_environment(Path("here"))) == str(Path("here") / "ledger.sqlite")


@pytest.mark.parametrize("folder", ["", " "])
def test_runs_in_no_folder_are_not_put_into_the_current_one(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS", folder)
    for make in (composed_paths, paths_of_environment):
        with pytest.raises(ValueError, match=r"paths\.runs \(HARNESS_RUNS\) is empty: name a folder"):
            make()


def test_looking_at_a_ledger_makes_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ledger there"):
        existing_ledger(str(tmp_path / "ledger.sqlite"))
    assert not list(tmp_path.iterdir())


def test_status_reads_the_ledger_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(tmp_path / "team.sqlite")
    ledger.record_sweep("s", "")
    monkeypatch.setenv("HARNESS_LEDGER_URL", f"sqlite:///{tmp_path / 'team.sqlite'}")
    with _ledger(tmp_path / "runs") as found:
        assert [row.name for row in found.sweeps()] == ["s"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"paths.ledger_url={URL}", "paths.ledger_url=postgresql://user:***@host/database"),
        ("'postgresql://u:p/a@ss@h/d' x=1", "'postgresql://u:***@h/d' x=1"),
        ("postgresql://h/d?user=u&password=secret&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("postgresql://u@h:5432/d model=7b,13b", "postgresql://u@h:5432/d model=7b,13b"),
        ("postgres://u:se@cr@et@h/d", "postgres://u:***@h/d"),
        ("mysql://u:secret@h", "mysql://u:***@h"),
        ("postgresql//u:secret@h", "postgresql//u:***@h"),
        ("postgresql:/u:secret@h/d", "postgresql:***@h/d"),
        ("u:secret@h", "u:***@h"),
        ("host=h PASSWORD=secret", "host=h PASSWORD=***"),
        ("postgresql+psycopg://u:p@h?sslpassword=q", "postgresql+psycopg://u:***@h?sslpassword=***"),
        ("model=smollm2 note=a@b.c", "model=smollm2 note=a@b.c"),
        ("host=h password='my secret' dbname=d", "host=h password=*** dbname=d"),
        ('connect(password = "my secret")', "connect(password = ***)"),
        ('{"password": "my secret", "host": "h"}', '{"password": ***, "host": "h"}'),
        ("PGPASSWORD=secret psql", "PGPASSWORD=*** psql"),
        ("postgresql:///d?host=h&pass=secret", "postgresql:///d?host=h&pass=***"),
        ("postgresql:///d?p%61ssword=secret&host=h", "postgresql:///d?p%61ssword=***&host=h"),
        ("postgresql://u:secret/d", "postgresql://u:***"),
        ("postgresql+psycopg://u:secret", "postgresql+psycopg://u:***"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("+launch.ray.runtime_env.env_vars.OPENAI_API_KEY=sk-1", "+launch.ray.runtime_env.env_vars.OPENAI_API_KEY=***"),
        ("password authentication failed for user me", "password authentication failed for user me"),
        ("dataset.source_max_tokens=512 eval.mmlu.limit=3", "dataset.source_max_tokens=512 eval.mmlu.limit=3"),
        ("postgresql://u:***@h/d?password=***", "postgresql://u:***@h/d?password=***"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert without_passwords(shown) == shown


def test_a_command_is_kept_without_a_password_that_has_spaces() -> None:
    command = ["python", "-m", "harness.run", "paths.ledger_url='postgresql://u:my secret@h/d'", "model=smollm2"]
    assert command_without_passwords(command) == (
        "python -m harness.run 'paths.ledger_url='\"'\"'postgresql://u:***@h/d'\"'\"'' model=smollm2"
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:secret@h/d",
        "mysql://u:secret@h/d",
        "postgresql://u:secret@cr:et@h:port/d",
        "postgresql:/u:secret@h",
        "postgresql//u:secret@h",
        "://u:secret@h",
        "postgres://u:my secret@h/d",
        "mysql://h/d?password=secret",
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(LedgerError, match=r"expected a SQLite file or postgresql://USER@HOST/DATABASE") as refused:
        database_url(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_looking_writes_nothing_and_reads_what_was_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder where nothing may be written, beside a writer whose last words are in the -wal file only."""
    path = tmp_path / "ledger.sqlite"
    writer = Ledger.open(path)
    writer.record_sweep("s", "")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert "ledger.sqlite-wal" in before
    monkeypatch.setattr("harness.ledger.database.os.access", lambda path, mode: False)
    ledger = existing_ledger(str(path))
    assert [row.name for row in ledger.sweeps()] == ["s"]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(LedgerError, match="looked at only"):
        ledger.pause("s")
    ledger.close()
    monkeypatch.undo()
    assert [row.name for row in existing_ledger(str(path)).sweeps()] == ["s"]
    (tmp_path / "empty.sqlite").write_bytes(b"")
    with pytest.raises(LedgerError, match="holds no ledger"):
        existing_ledger(str(tmp_path / "empty.sqlite"))


def test_a_worker_makes_no_ledger_in_the_place_of_a_deleted_one(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the file is gone"):
        Ledger.open(tmp_path / "ledger.sqlite", opening=Opening.use)
    assert not list(tmp_path.iterdir())


def test_a_deleted_ledger_ends_the_wait_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("harness.ledger.database.time.monotonic", lambda: now[0])
    monkeypatch.setattr("harness.ledger.database.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(LedgerUnavailableError, match="the file is gone"):
        ledger.counts()
    assert now[0] < 15, "a launch looks a few times more before it ends"
    ledger.close()


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one is no folder; least of all the current one."""
    for name in ("MODEL_STORE", "DATA_STORE", "CACHE", "LEDGER_URL"):
        monkeypatch.setenv(f"HARNESS_{name}", " " if name == "DATA_STORE" else "")
    paths = paths_of_environment()
    assert (paths.model_store, paths.data_store, paths.cache, paths.ledger_url) == (None, None, ".cache", None)
