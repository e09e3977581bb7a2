"""Every command finds the same ledger, and no password is shown."""

from pathlib import Path

import pytest

from harness.config.compose import compose_grid
from harness.config.paths import paths_of_environment
from harness.config.schema import PathsConfig
from harness.ledger.ledger import Ledger
from harness.ledger.open import existing_ledger, ledger_url, without_passwords
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
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
