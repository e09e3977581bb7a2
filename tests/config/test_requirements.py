"""What `make setup` installs with hashes is what constraints.txt lists, and all that the project imports is in it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements"
LEFT_OUT = {"torch"}  # its build follows the machine, so no hash fits all users
BUILD_TOOLS = {"pip", "setuptools", "wheel"}
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)")


def pins(text: str) -> dict[str, str]:
    """Package -> version, names as PyPI normalizes them."""
    found = (PIN.match(line) for line in text.splitlines())
    return {_normal(match[1]): match[2] for match in found if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    return pins((LOCKS / f"{name}.lock").read_text())


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text())


def test_the_locks_and_the_constraints_agree() -> None:
    assert locked("setup") | locked("build") == {n: v for n, v in CONSTRAINTS.items() if n not in LEFT_OUT}
    assert locked("build").keys() == BUILD_TOOLS
    assert locked("setup").keys() & BUILD_TOOLS == set()
    for name, version in (locked("server") | locked("server_build")).items():
        assert CONSTRAINTS.get(name, version) == version, name


@pytest.mark.parametrize("name", ["build", "setup", "server_build", "server"])
def test_every_package_has_hashes_and_no_registry_is_named(name: str) -> None:
    lines = (LOCKS / f"{name}.lock").read_text().splitlines()
    packages = [place for place, line in enumerate(lines) if PIN.match(line)]
    assert packages
    for place in packages:
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", lines[place + 1]), lines[place]
    rest = [line for line in lines if not PIN.match(line) and not line.startswith(("    --hash=sha256:", "#"))]
    assert rest == [], "options, indexes, or packages without a version"
    assert not any("://" in line for line in lines)


def test_what_the_project_names_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(package for extra in extras.values() for package in extra)]
    names = {_normal(re.split(r"[\[<>=!~; ]", package)[0]) for package in named}
    assert names - CONSTRAINTS.keys() == set(), "run `make constraints`"


def test_make_installs_from_the_locks_only() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipes = [line for line in makefile.splitlines() if line.startswith("\t") and " install " in line]
    loose = [line for line in recipes if "$(HASHED)" not in line and "--no-deps --no-build-isolation" not in line]
    assert loose == [
        "\t$(BIN)/pip $(QUIET) install -c constraints.txt $(TORCH)",
        "\t$(BIN)/pip $(QUIET) install --upgrade --target .cache/uv $(UV)",
    ]
    assert re.search(r"^HASHED := --require-hashes --no-deps --no-build-isolation$", makefile, re.MULTILINE)
