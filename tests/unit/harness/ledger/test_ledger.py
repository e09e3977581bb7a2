"""The ledger's rules, on SQLite and, where HARNESS_TEST_POSTGRES_URL names a server, on PostgreSQL.

Faults (killed workers, full disks, locks) are in tests/pipeline/test_ledger_faults.py.
"""

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.ledger.ledger import Ledger
from harness.ledger.tables import Job, JobRow, JobStatus, LedgerError, SweepState

POSTGRES_URL = os.environ.get("HARNESS_TEST_POSTGRES_URL")
DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@dataclass
class FakeClock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def job(name: str, kind: str = "train", group: str = "base", **fields: Any) -> Job:
    return Job(kind=kind, spec_hash=name, run_id=name, group=group, label=f"label {name}", payload="{}", **fields)


def claim(ledger: Ledger, *kinds: str, max_jobs: int = 8, worker: str = "w", **kwargs: Any) -> list[JobRow]:
    limits = {"lease_seconds": 10.0, "max_attempts": 2} | kwargs
    return ledger.claim(worker, kinds or ("train",), max_jobs, **limits)


def names(rows: list[JobRow]) -> list[str]:
    return [row.spec_hash for row in rows]


def status_of(ledger: Ledger, job_id: str) -> JobStatus:
    return row_of(ledger, job_id).status


def row_of(ledger: Ledger, job_id: str) -> JobRow:
    row = ledger.get(job_id)
    assert row is not None
    return row


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database: a file, or a schema of its own on the server."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.sqlite")
        return
    if POSTGRES_URL is None:
        pytest.skip("HARNESS_TEST_POSTGRES_URL names no PostgreSQL server")
    schema = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(sa.make_url(POSTGRES_URL).set(drivername="postgresql+psycopg"))
    with server.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    of_schema = sa.make_url(POSTGRES_URL).update_query_dict({"options": f"-csearch_path={schema}"})
    yield of_schema.render_as_string(hide_password=False)
    with server.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    server.dispose()


@pytest.fixture
def ledger(url: str, clock: FakeClock) -> Iterator[Ledger]:
    opened = Ledger.open(url, clock, wait_seconds=5)
    yield opened
    opened.close()


# Adding.


def test_added_jobs_come_back_as_they_were(ledger: Ledger) -> None:
    first = replace(job("a", priority=3), payload='{"text": "grüße % :x"}', label="a'b")
    ledger.add([first, job("a", "mmlu", after="train:a")], sweep="s")
    row = row_of(ledger, "train:a")
    assert all(getattr(row, name) == getattr(first, name) for name in Job.__dataclass_fields__)
    assert (row.status, row.attempts, row.claim_token, row.created) == (JobStatus.queued, 0, 0, 1000.0)
    assert [r.job_id for r in ledger.rows()] == ["train:a", "mmlu:a"]
    assert ledger.get("train:b") is None


def test_known_jobs_are_not_added_twice(ledger: Ledger) -> None:
    assert ledger.add([job("a"), job("b"), job("a")]).num_new == 2
    ledger.finish(claim(ledger, max_jobs=1)[0], {}, 1.0)
    again = ledger.add([job("a"), job("b"), job("c")], sweep="second")
    assert (again.num_new, again.num_known) == (1, 2)
    assert again.known == {JobStatus.done: 1, JobStatus.queued: 1}
    counts = ledger.counts("second")["train"]
    assert counts == {status: {"queued": 2, "done": 1}.get(status, 0) for status in JobStatus}


def test_adding_again_mends_the_settings_of_what_has_not_begun(ledger: Ledger) -> None:
    ledger.add([job("a"), job("b"), job("c")])
    failing, running = claim(ledger, max_jobs=2)
    ledger.fail(failing, "out of memory", retry=False)
    ledger.add([replace(job(name), payload='{"smaller": 1}', priority=1) for name in "abc"])
    assert [(r.payload, r.priority) for r in ledger.rows()] == [('{"smaller": 1}', 1), ("{}", 0), ('{"smaller": 1}', 1)]
    assert status_of(ledger, failing.job_id) is JobStatus.failed
    assert running.spec_hash == "b"


def test_a_queued_job_keeps_what_another_sweep_planned(ledger: Ledger) -> None:
    """Two commands with other settings that are no part of a run's identity, where a model lies for example."""
    ledger.add([job("a"), job("b")], sweep="first")
    other = [replace(job(name), payload='{"other": 1}') for name in "ab"]
    ledger.add(other, sweep="second", renewed=["train:b"])
    assert [row.payload for row in ledger.rows()] == ["{}", '{"other": 1}']
    ledger.cancel("first")
    ledger.add(other, sweep="second")
    assert [row.payload for row in ledger.rows()] == ['{"other": 1}'] * 2


def test_many_jobs_at_once(ledger: Ledger) -> None:
    """More than one statement's parameters, and more than one block of rows."""
    many = [job(f"{n:05d}") for n in range(2500)]
    assert ledger.add(many, sweep="s").num_new == 2500
    assert ledger.add(many, sweep="s").num_known == 2500
    assert [row.spec_hash for row in ledger.rows("s")] == [j.spec_hash for j in many]
    assert ledger.cancel("s") == 2500
    assert ledger.requeue([JobStatus.cancelled], job_ids=[j.job_id for j in many]) == 2500
    assert ledger.sweeps()[0].num_jobs == 2500


def test_unknown_predecessor_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="mmlu:a: waits for train:a, which"):
        ledger.add([job("b"), job("a", "mmlu", after="train:a")])
    assert list(ledger.rows()) == []


# Claiming.


def test_a_claim_takes_one_kind_and_one_group_by_priority_then_order(ledger: Ledger) -> None:
    ledger.add([job("a", group="1"), job("b", group="2"), job("c", group="1"), job("d", group="2", priority=5)])
    ledger.add([job("e", "mmlu", group="1")])
    assert names(claim(ledger, "train", "mmlu")) == ["d", "b"]
    assert names(claim(ledger, "mmlu", "train")) == ["a", "c"]
    assert names(claim(ledger, "train", "mmlu")) == ["e"]
    assert claim(ledger, "train", "mmlu") == []


def test_a_claim_is_bounded_and_exclusive(ledger: Ledger) -> None:
    ledger.add([job(name) for name in "abc"])
    first, second = claim(ledger, max_jobs=2, worker="one"), claim(ledger, max_jobs=2, worker="two")
    assert (names(first), names(second)) == (["a", "b"], ["c"])
    assert {(r.status, r.worker, r.attempts, r.claim_token, r.lease_expires) for r in first} == {
        (JobStatus.claimed, "one", 1, 1, 1010.0)
    }
    assert row_of(ledger, "train:a") == first[0]


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    ledger.add([job(f"{n}", group=f"{n}") for n in range(60)])
    with ThreadPoolExecutor(4) as pool:
        claimed = [held for part in pool.map(lambda _: claim(ledger), range(60)) for held in part]
    claimed += [held for _ in range(60) for held in claim(ledger)]  # a claim may miss a row that is being locked
    assert sorted(int(name) for name in names(claimed)) == list(range(60))


def test_an_expired_lease_passes_on_and_its_former_holder_is_fenced(ledger: Ledger, clock: FakeClock) -> None:
    ledger.add([job("a")])
    (stale,) = claim(ledger, worker="old")
    clock.seconds += 10
    assert claim(ledger, worker="new") == []  # not yet
    clock.seconds += 0.01
    (fresh,) = claim(ledger, worker="new")
    assert (fresh.attempts, fresh.claim_token) == (2, 2)
    assert "worker old stopped answering" in (fresh.reason or "")
    assert ledger.heartbeat([stale], 10) == set()
    assert not ledger.finish(stale, {"by": "old"}, 1.0)
    assert not ledger.fail(stale, "late", retry=True)
    ledger.release([stale])
    assert row_of(ledger, "train:a") == fresh
    assert ledger.finish(fresh, {"by": "new"}, 2.0)
    assert not ledger.finish(stale, {"by": "old"}, 1.0)
    assert row_of(ledger, "train:a").result == {"by": "new"}


def test_heartbeats_keep_a_claim(ledger: Ledger, clock: FakeClock) -> None:
    ledger.add([job("a"), job("b")])
    claims = claim(ledger)
    for _ in range(5):
        clock.seconds += 9
        assert ledger.heartbeat(claims, 10) == {"train:a", "train:b"}
        assert claim(ledger) == []
    ledger.finish(claims[0], {}, 1.0)
    assert ledger.heartbeat(claims, 10) == {"train:b"}
    clock.seconds += 11  # late, but nobody took it: still held
    assert ledger.heartbeat(claims[1:], 10) == {"train:b"}


def test_workers_that_die_use_up_the_attempts(ledger: Ledger, clock: FakeClock) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")])
    for number in (1, 2):
        assert [r.attempts for r in claim(ledger, worker=f"w{number}")] == [number]
        clock.seconds += 11
    assert claim(ledger) == []
    row = row_of(ledger, "train:a")
    assert row.status is JobStatus.failed
    assert row.reason == "worker died 2 times; last: worker w2 stopped answering and its lease ran out"
    assert (row_of(ledger, "mmlu:a").reason or "").startswith("waited for train:a, which failed: worker died 2 times")


def test_a_release_does_not_count(ledger: Ledger) -> None:
    ledger.add([job("a")])
    for _ in range(5):
        claims = claim(ledger)
        assert claims[0].attempts == 1
        ledger.release(claims)
    assert row_of(ledger, "train:a").attempts == 0
    assert claim(ledger)[0].claim_token == 6


def test_leases_do_not_depend_on_the_workers_clock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(url)
    ledger.add([job("a")])
    before = time.time()
    claims = claim(ledger, lease_seconds=30.0)
    assert abs((claims[0].lease_expires or 0) - before - 30) < 25
    for skew in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda skew=skew: before + skew)
        assert claim(ledger) == []
        assert ledger.heartbeat(claims, 30.0) == {"train:a"}
        assert abs((row_of(ledger, "train:a").lease_expires or 0) - before - 30) < 25
    ledger.close()


# Ending.


def test_finish_stores_the_result_and_may_be_repeated(ledger: Ledger, clock: FakeClock) -> None:
    ledger.add([job("a")])
    (held,) = claim(ledger)
    clock.seconds += 3
    with pytest.raises(ValueError, match="result of train:a"):
        ledger.finish(held, {"loss": float("nan")}, 1.0)
    assert ledger.finish(held, {"loss": 1.5, "path": ["é"]}, 2.5)
    assert ledger.finish(held, {"loss": 9.9}, 9.9)  # the answer to the first call may have been lost
    row = row_of(ledger, "train:a")
    assert (row.result, row.seconds, row.finished) == ({"loss": 1.5, "path": ["é"]}, 2.5, 1003.0)
    assert (row.lease_expires, row.reason) == (None, None)


@pytest.mark.parametrize(("retry", "ends"), [(True, ["queued", "failed"]), (False, ["failed"])])
def test_failures_are_tried_again_while_attempts_are_left(ledger: Ledger, retry: bool, ends: list[str]) -> None:
    ledger.add([job("a")])
    for number, end in enumerate(ends):
        assert ledger.fail(claim(ledger)[0], f"reason {number}", retry)
        row = row_of(ledger, "train:a")
        assert (row.status, row.reason) == (end, f"reason {number}")
    assert claim(ledger) == []


# Jobs after jobs.


def test_a_dependent_runs_after_its_predecessor(ledger: Ledger) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")])
    assert claim(ledger, "mmlu") == []
    ledger.finish(claim(ledger)[0], {}, 1.0)
    assert names(claim(ledger, "mmlu")) == ["a"]
    ledger.add([job("a", "generate", after="train:a")])  # its predecessor is done already
    assert names(claim(ledger, "generate")) == ["a"]


def test_a_failure_takes_its_dependents_along_and_a_retry_brings_them_back(ledger: Ledger) -> None:
    chain = [job("a"), job("a", "generate", after="train:a"), job("a", "judge", after="generate:a")]
    ledger.add(chain)
    ledger.fail(claim(ledger)[0], "loss is NaN", retry=False)
    assert row_of(ledger, "generate:a").reason == "waited for train:a, which failed: loss is NaN"
    assert status_of(ledger, "judge:a") is JobStatus.failed
    ledger.add([job("b", "mmlu", after="train:a")])  # added after the failure
    assert status_of(ledger, "mmlu:b") is JobStatus.failed
    assert ledger.requeue([JobStatus.failed], job_ids=["train:a"]) == 4
    assert ledger.counts()["judge"][JobStatus.queued] == 1
    assert claim(ledger, "generate", "judge", "mmlu") == []
    assert names(claim(ledger)) == ["a"]


def test_a_retry_of_a_dependent_brings_its_predecessor(ledger: Ledger) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")])
    ledger.fail(claim(ledger)[0], "no disk", retry=False)
    assert ledger.requeue([JobStatus.failed], job_ids=["mmlu:a"]) == 2
    held = claim(ledger)
    assert held[0].attempts == 1
    assert held[0].reason == "no disk"


def test_a_dependents_own_failure_is_not_retried_with_its_predecessor(ledger: Ledger) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")])
    ledger.finish(claim(ledger)[0], {}, 1.0)
    ledger.fail(claim(ledger, "mmlu")[0], "no questions", retry=False)
    assert ledger.requeue([JobStatus.done, JobStatus.failed], job_ids=["train:a"]) == 1
    assert row_of(ledger, "mmlu:a").reason == "no questions"


def test_queueing_a_finished_job_again_makes_its_dependents_wait(ledger: Ledger) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")])
    ledger.finish(claim(ledger)[0], {"loss": 1}, 1.0)
    assert ledger.requeue([JobStatus.done]) == 1
    assert row_of(ledger, "train:a").result is None
    assert claim(ledger, "mmlu") == []


# Sweeps.


def test_cancel_spares_what_another_sweep_wants(ledger: Ledger) -> None:
    ledger.add([job("a"), job("b"), job("c")], sweep="one")
    ledger.add([job("b")], sweep="two")
    held = claim(ledger, max_jobs=1)
    assert ledger.cancel("one") == 2
    assert [r.status for r in ledger.rows()] == ["cancelled", "queued", "cancelled"]
    assert ledger.heartbeat(held, 10) == set()
    assert not ledger.finish(held[0], {}, 1.0)
    assert row_of(ledger, "train:c").reason == "cancelled with sweep one"
    assert ledger.cancel("two") == 1  # nobody else wants it any more
    assert [s.state for s in ledger.sweeps()] == [SweepState.cancelled, SweepState.cancelled]
    assert ledger.requeue([JobStatus.cancelled], sweep="one") == 3
    assert [s.state for s in ledger.sweeps()] == [SweepState.active, SweepState.cancelled]


def test_cancel_all_with_dependents(ledger: Ledger) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")])
    assert ledger.cancel() == 2
    ledger.add([job("b", "mmlu", after="train:a")])
    assert row_of(ledger, "mmlu:b").reason == "waited for train:a, which was cancelled: cancelled"


def test_a_sweep_started_again_keeps_only_what_it_was_started_with(ledger: Ledger) -> None:
    ledger.add([job("held"), job("old"), job("old", "mmlu", after="train:old"), job("shared"), job("new")], sweep="one")
    ledger.add([job("shared")], sweep="two")
    held = claim(ledger, max_jobs=1)
    assert ledger.keep_only("one", ["train:new"]) == 2
    assert [row.job_id for row in ledger.rows("one")] == ["train:new"]
    assert {row.job_id: row.status for row in ledger.rows() if row.status is JobStatus.cancelled}.keys() == {
        "train:old",
        "mmlu:old",
    }
    assert row_of(ledger, "train:old").reason == "sweep one was started again without it"
    assert ledger.finish(held[0], {}, 1.0), "what is under way is finished"
    assert ledger.keep_only("one", ["train:new"]) == 0
    ledger.cancel("one")
    assert ledger.keep_only("two", []) == 1, "a cancelled sweep wants nothing"


def test_a_retry_leaves_nothing_queued_for_nobody(ledger: Ledger) -> None:
    ledger.add([job("a"), job("a", "mmlu", after="train:a")], sweep="one")
    ledger.keep_only("one", ["train:a"])
    ledger.fail(claim(ledger)[0], "broken", retry=False)
    assert ledger.requeue(list(JobStatus), job_ids=["train:a"]) == 2  # the evaluation never began
    assert ledger.keep_only("one", ["train:a"]) == 1
    assert row_of(ledger, "mmlu:a").status is JobStatus.cancelled
    ledger.add([job("a", "mmlu", after="train:a")], sweep="two")
    ledger.requeue([JobStatus.cancelled], sweep="two")
    assert ledger.keep_only("one", ["train:a"]) == 0, "what another sweep wants is left alone"


def test_a_paused_sweep_is_left_alone_unless_another_wants_the_job(ledger: Ledger) -> None:
    ledger.add([job("a"), job("b")], sweep="one")
    ledger.add([job("b")], sweep="two")
    ledger.add([job("c")])
    ledger.pause("one")
    assert claim(ledger, sweep="one") == []
    assert names(claim(ledger)) == ["b", "c"]
    ledger.resume("one")
    assert names(claim(ledger, sweep="one")) == ["a"]


def test_claims_of_one_sweep_only(ledger: Ledger) -> None:
    ledger.add([job("a"), job("b")])
    ledger.add([job("b"), job("c")], sweep="s")
    assert names(claim(ledger, sweep="s")) == ["b", "c"]
    assert claim(ledger, sweep="unheard of") == []


def test_sweeps_are_recorded(ledger: Ledger, clock: FakeClock) -> None:
    ledger.record_sweep("one", "python -m sweeps run +grid=table5")
    clock.seconds += 1
    ledger.add([job("a")], sweep="two")
    ledger.record_sweep("one", "again")
    found = [(s.name, s.command, s.created, s.state, s.num_jobs) for s in ledger.sweeps()]
    assert found == [("one", "again", 1000.0, SweepState.active, 0), ("two", "", 1001.0, SweepState.active, 1)]


@pytest.mark.parametrize("call", ["pause", "resume", "cancel"])
def test_an_unknown_sweep_is_named_with_the_known_ones(ledger: Ledger, call: str) -> None:
    ledger.record_sweep("tabel5", "")
    with pytest.raises(LedgerError, match=r"'table5': not in the ledger; known \(newest first\): tabel5"):
        getattr(ledger, call)("table5")


def test_counts_throughput_and_filters(ledger: Ledger, clock: FakeClock) -> None:
    ledger.add([job("a"), job("b"), job("c"), job("a", "mmlu")], sweep="s")
    for held in claim(ledger, max_jobs=2):
        ledger.finish(held, {}, 1.5)
        clock.seconds += 60
    assert ledger.counts()["train"][JobStatus.done] == 2
    assert ledger.counts("other") == {}
    assert {k: (t.num_done, t.seconds) for k, t in ledger.throughput(100).items()} == {"train": (1, 1.5)}
    assert {k: (t.num_done, t.seconds) for k, t in ledger.throughput(1000, "s").items()} == {"train": (2, 3.0)}
    assert ledger.throughput(1000, "other") == {}
    assert names(list(ledger.rows(status=JobStatus.done))) == ["a", "b"]
    assert names(list(ledger.rows(kinds=["mmlu"]))) == ["a"]
    assert [r.kind for r in ledger.rows(run_id="a")] == ["train", "mmlu"]


# Opening.


def test_a_second_ledger_sees_the_first(url: str, ledger: Ledger) -> None:
    ledger.add([job("a")])
    other = Ledger.open(url)
    assert names(list(other.rows())) == ["a"]
    other.close()
    assert names(list(other.rows())) == ["a"]  # opens again by itself
    other.close()


def test_another_schema_version_is_refused(url: str, ledger: Ledger) -> None:
    with ledger._database._ready_engine().begin() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(LedgerError, match="schema_version is 99, this program knows 1; use the version"):
        Ledger.open(url)


def test_a_foreign_database_is_refused(url: str) -> None:
    address = sa.make_url(url).set(drivername="postgresql+psycopg") if "://" in url else f"sqlite:///{url}"
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE jobs (x INTEGER)")
    engine.dispose()
    with pytest.raises(LedgerError, match="isn't a ledger's; name another database"):
        Ledger.open(url)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{tmp}/missing/ledger.sqlite", r"the folder .*missing does not exist; make it"),
        ("{tmp}", "can't be opened"),
        ("sqlite://", "a ledger is a SQLite file or a PostgreSQL database"),
        ("mysql://host/db", "a ledger is a SQLite file or a PostgreSQL database"),
        ("://", "not a database URL"),
        ("postgresql://user:secret@127.0.0.1:1/db", r"user:\*\*\*@.* the server can't be reached; check"),
    ],
)
def test_an_address_that_leads_nowhere(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger.open(address.format(tmp=tmp_path))
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database" * 1000)
    with pytest.raises(LedgerError, match="not a SQLite database; name another file"):
        Ledger.open(tmp_path / "ledger.sqlite")


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "ledger.sqlite").close()
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_import_is_light() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'transformers', 'omegaconf', 'psycopg'}"
    code = f"import sys, harness.ledger.ledger; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The whole against a model that keeps a dict.


@dataclass
class ModelJob:
    status: str = "queued"
    attempts: int = 0
    token: int = 0
    expires: float = 0.0


POOL = [
    job("a", group="1"),
    job("b", group="2"),
    job("c", group="1", priority=1),
    job("a", "mmlu", group="1", after="train:a"),
    job("b", "mmlu", group="2", after="train:b"),
    job("a", "judge", group="1", after="mmlu:a"),
]
MAX_ATTEMPTS = 2


@dataclass
class Model:
    jobs: dict[str, ModelJob] = field(default_factory=dict)  # in the order of adding

    def runnable(self, candidate: Job) -> bool:
        state = self.jobs.get(candidate.job_id)
        before = self.jobs.get(candidate.after or "")
        return state is not None and state.status == "queued" and (before is None or before.status == "done")

    def end_with(self, job_id: str, status: str) -> None:
        self.jobs[job_id].status = status
        for dependent in POOL:
            if dependent.after == job_id and self.jobs.get(dependent.job_id, ModelJob("")).status == "queued":
                self.end_with(dependent.job_id, status)

    def expire(self, now: float) -> None:
        for job_id, state in self.jobs.items():
            if state.status == "claimed" and state.expires < now:
                if state.attempts >= MAX_ATTEMPTS:
                    self.end_with(job_id, "failed")
                else:
                    state.status = "queued"

    def next_claim(self, kinds: list[str], max_jobs: int) -> list[str]:
        pool = {j.job_id: j for j in POOL}
        ready = [pool[i] for i in self.jobs if pool[i].kind in kinds and self.runnable(pool[i])]
        ready.sort(key=lambda j: -j.priority)  # stable: the order of adding within a priority
        return [j.job_id for j in ready if (j.kind, j.group) == (ready[0].kind, ready[0].group)][:max_jobs]


class LedgerAgainstModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = TemporaryDirectory()
        self.clock = FakeClock()
        self.ledger = Ledger.open(Path(self.folder.name) / "ledger.sqlite", self.clock)
        self.model = Model()
        self.claims: list[JobRow] = []

    @rule(number=st.integers(1, len(POOL)))
    def add(self, number: int) -> None:
        batch = POOL[:number]
        self.ledger.add(batch)
        for new in batch:
            if new.job_id not in self.model.jobs:
                before = self.model.jobs.get(new.after or "")
                ended = before is not None and before.status in ("failed", "cancelled")
                self.model.jobs[new.job_id] = ModelJob(status=before.status if before and ended else "queued")

    @rule(kinds=st.lists(st.sampled_from(["train", "mmlu", "judge"]), min_size=1, unique=True), n=st.integers(1, 3))
    def claim(self, kinds: list[str], n: int) -> None:
        claimed = claim(self.ledger, *kinds, max_jobs=n, max_attempts=MAX_ATTEMPTS)
        self.model.expire(self.clock.seconds)
        expected = self.model.next_claim(kinds, n)
        assert [c.job_id for c in claimed] == expected
        for job_id in expected:
            state = self.model.jobs[job_id]
            state.status, state.expires = "claimed", self.clock.seconds + 10
            state.attempts, state.token = state.attempts + 1, state.token + 1
        self.claims += claimed

    def pick(self, data: st.DataObject) -> tuple[JobRow, ModelJob, bool] | None:
        """Any claim ever made, most of them stale."""
        if not self.claims:
            return None
        chosen = data.draw(st.sampled_from(self.claims[-4:]))
        state = self.model.jobs[chosen.job_id]
        return chosen, state, state.status == "claimed" and state.token == chosen.claim_token

    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "retry", "heartbeat", "release"]))
    def act(self, data: st.DataObject, how: str) -> None:
        if (picked := self.pick(data)) is None:
            return
        held, state, valid = picked
        if how == "finish":
            repeated = state.status == "done" and state.token == held.claim_token
            assert self.ledger.finish(held, {}, 1.0) == (valid or repeated)
            state.status = "done" if valid else state.status
        elif how in ("fail", "retry"):
            assert self.ledger.fail(held, "reason", retry=how == "retry") == valid
            if valid and how == "retry" and state.attempts < MAX_ATTEMPTS:
                state.status = "queued"
            elif valid:
                self.model.end_with(held.job_id, "failed")
        elif how == "heartbeat":
            assert self.ledger.heartbeat([held], 10) == ({held.job_id} if valid else set())
            state.expires = self.clock.seconds + 10 if valid else state.expires
        else:
            self.ledger.release([held])
            if valid:
                state.status, state.attempts = "queued", state.attempts - 1

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule()
    def cancel(self) -> None:
        opened = [s for s in self.model.jobs.values() if s.status in ("queued", "claimed")]
        assert self.ledger.cancel() == len(opened)
        for state in opened:
            state.status = "cancelled"

    @rule()
    def retry(self) -> None:
        ended = [s for s in self.model.jobs.values() if s.status in ("failed", "cancelled")]
        assert self.ledger.requeue([JobStatus.failed, JobStatus.cancelled]) == len(ended)
        for state in ended:
            state.status, state.attempts = "queued", 0

    @invariant()
    def same_state(self) -> None:
        found = {r.job_id: (r.status.value, r.attempts, r.claim_token) for r in self.ledger.rows()}
        assert found == {i: (s.status, s.attempts, s.token) for i, s in self.model.jobs.items()}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
