"""A claim belongs to one process: a pid alone is used again."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

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
