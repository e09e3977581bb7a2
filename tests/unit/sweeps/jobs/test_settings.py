"""A claim belongs to one process: a pid alone is used again."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.schema import PathsConfig
from sweeps.jobs import settings
from sweeps.jobs.settings import is_alive, short_name, worker_name, worker_pid


def test_this_process_lives_and_one_that_ended_does_not() -> None:
    own = worker_name(os.getpid())
    assert is_alive(own) is True
    assert worker_pid(own) == os.getpid()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = worker_name(child.pid)
        assert is_alive(name) is True
        child.communicate(b"\n")
    assert is_alive(name) is False
    assert worker_pid(name) is None
    assert short_name(name) == f"{settings._process(child.pid).host}:{child.pid}"


@pytest.mark.parametrize(
    ("change", "alive"),
    [({"started": "1"}, False), ({"boot": "00000000"}, None), ({"namespace": "7"}, None), ({"host": "other"}, True)],
)
def test_an_equal_pid_is_not_enough(change: dict[str, str], alive: bool | None) -> None:
    """Another start is another process; what another boot or container calls so can't be seen from here."""
    assert is_alive(replace(settings._process(os.getpid()), **change).name) is alive  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, "me", "host:8", f"host:{os.getpid()}"], ids=["none", "word", "pid", "own pid"])
def test_names_of_earlier_versions_say_nothing(name: str | None) -> None:
    assert is_alive(name) is None
    assert worker_pid(name) is None
    assert short_name(name) == (name or "?")


def test_a_process_is_told_by_its_place_in_the_kernels_tables() -> None:
    here = settings._process(os.getpid())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert (here.host, here.pid, here.boot) == (socket.gethostname(), os.getpid(), boot[:8])
    assert here.started == Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19] != "0"
    assert here.namespace == "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    assert here.name == f"{here.host}/{here.boot}.{here.namespace}.{here.started}:{here.pid}"
    assert settings._process(2**22 + 1).started == "0"


def test_the_start_is_the_22nd_field_wherever_the_commands_name_ends() -> None:
    fields = ["S", *map(str, range(4, 30))]
    assert settings._start_ticks(f"7 (a) b) {' '.join(fields)}") == "22"
    for state in "ZX":
        assert settings._start_ticks(f"7 (a) {' '.join([state, *fields[1:]])}") == "0"
    assert settings._start_ticks("") == settings._start_ticks(f"7 (a) {' '.join(fields[:19])}") == "0"
    assert settings._start_ticks(f"7 (a) {' '.join(fields[:20])}") == "22"


def test_paths_and_urls_of_a_worker_that_starts_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = settings.absolute_paths(PathsConfig(runs="runs", cache="~/c", model_store=None, data_store="/d"))
    assert (found.runs, found.cache, found.model_store, found.data_store) == (
        str(tmp_path / "runs"), str(tmp_path / "home" / "c"), None, "/d",
    )  # fmt: skip
    assert settings.absolute_url("l.sqlite") == str(tmp_path / "l.sqlite")
    assert settings.absolute_url("postgresql://h/d") == "postgresql://h/d"
