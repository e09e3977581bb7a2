"""`qlora-harness` takes what is installed, whatever lies in the user's folder, and completes its commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import COMMANDS, main
from harness.console import version

ROOT = Path(__file__).parents[3]
SCRIPT = "from harness.cli import main; main()"


def script(folder: Path, *arguments: str, **environment: str) -> str:
    """What the installed script prints in a folder; `-P` leaves that folder out of the path, as a script does."""
    command = [sys.executable, "-P", "-c", SCRIPT, *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=True).stdout


def test_a_users_own_modules_of_these_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "analysis.py").write_text("print('mine')")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "__init__.py").write_text("print('mine')")
    printed = script(tmp_path, "analysis", "tables", "--help")
    assert "mine" not in printed
    assert "1 to 12, or all" in printed


@pytest.mark.parametrize(("words", "offered"), [("ev", "eval"), ("eval ra", "rate")])
def test_the_shell_completes_commands(words: str, offered: str, tmp_path: Path) -> None:
    line = f"qlora-harness {words}"
    asked = {"_QLORA_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert script(tmp_path, **asked).split() == [offered]


def test_options_are_handed_on_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("harness.cli.runpy.run_module", lambda *_, **__: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["qlora-harness", "run", "-m", "model=7b,13b", "--help", "--", "x=1"])
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert seen == [["qlora-harness run", "-m", "model=7b,13b", "--help", "--", "x=1"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_that_runs(name: str) -> None:
    place = ROOT / COMMANDS[name][0].replace(".", "/")
    assert (place / "__main__.py").is_file() or place.with_suffix(".py").is_file()


def test_other_names_get_their_near_matches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qlora-harness", "evla"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Did you mean eval?" in capsys.readouterr().err


def test_its_version_is_the_distributions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["qlora-harness", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.strip() == version()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["qlora-harness", command, "--version"])
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == version()
