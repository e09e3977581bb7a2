"""The schema is read by every command, so that it imports nothing heavy."""

import subprocess
import sys

import pytest
from omegaconf import MISSING as THEIRS

from harness.config.schema import MISSING


def test_a_missing_value_is_written_as_omegaconf_writes_it() -> None:
    assert MISSING == THEIRS


@pytest.mark.parametrize("command", ["eval", "analysis"])
def test_a_command_starts_without_what_it_may_not_need(command: str) -> None:
    heavy = {"torch", "numpy", "pandas", "scipy", "numba", "sqlalchemy", "omegaconf"}
    code = f"import sys, {command}.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
