"""The live view of a sweep: made anew when something has changed, for requests under a loopback name only."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.leaderboard.watch import LOOPBACK, Watched, WatchOptions, serving
from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job
from tests.unit.analysis.report.test_page import make_run, make_spec


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A sweep of two runs, none of them done yet."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.record_sweep("demo", "x")
    specs = [make_spec(name) for name in ("concise", "stepwise")]
    jobs = [
        Job(kind="train", spec_hash=s.run_id, run_id=s.run_id, group="g", label=n, payload="{}")
        for n, s in zip(("concise", "stepwise"), specs, strict=True)
    ]
    ledger.add(jobs, sweep="demo")
    ledger.close()
    return tmp_path


def finish(runs: Path, *names: str) -> None:
    ledger = Ledger.open(runs / "ledger.sqlite")
    for claim in ledger.claim("w", ["train"], max_jobs=2, lease_seconds=60, max_attempts=1):
        if claim.label in names:
            make_run(runs, claim.label, make_spec(claim.label), [2.0, 1.0], None)
            ledger.finish(claim, {}, 1.0)
    ledger.close()


def test_the_site_follows_the_sweep(runs: Path, tmp_path: Path) -> None:
    watched = Watched(WatchOptions(sweep="demo", runs=runs), out := tmp_path / "site")
    assert watched.update()
    assert "2 runs of this sweep are not done" in " ".join((out / "index.html").read_text().split())
    assert not watched.update()
    finish(runs, "concise")
    assert watched.update()
    page = " ".join((out / "index.html").read_text().split())
    assert "1 run of this sweep is not done" in page
    assert "How can a busy person" in page
    (next(runs.glob("*/answers/open.jsonl"))).write_text("half a li")
    with pytest.raises(ValueError, match="not JSON"):
        watched.update()
    assert "How can a busy person" in (out / "index.html").read_text()


@pytest.fixture
def port(runs: Path) -> Iterator[int]:
    with serving(WatchOptions(sweep="demo", runs=runs, every_seconds=60), print) as server:
        yield server.server_port


def asked(port: int, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply


def test_only_loopback_names_are_answered_and_only_files_of_the_site(port: int) -> None:
    page = asked(port, "/")
    assert (page.status, page.headers["Refresh"]) == (200, "60")
    assert asked(port, "/leaderboard.csv").headers["Refresh"] is None
    assert asked(port, "/", f"localhost:{port}", "HEAD").status == 200
    assert [asked(port, "/", host).status for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "[", "")] == [
        421
    ] * 4
    assert [asked(port, path).status for path in ("/figures/", "/../ledger.sqlite", "/%2e%2e/ledger.sqlite")] == [
        404
    ] * 3
    assert asked(port, "/", method="POST").status == 501


def test_what_can_not_be_watched_is_said(runs: Path) -> None:
    with pytest.raises(ValueError, match="no such sweep"), serving(WatchOptions(sweep="dmeo", runs=runs), print):
        pass
    with pytest.raises(ValueError, match=r"--every 0: expected 1 second or more"):
        WatchOptions(sweep="demo", every_seconds=0)
