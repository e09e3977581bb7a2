"""Runs of a sweep that take the place of those that have ended: one load of the base, and the results of runs alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import Config
from harness.ledger.tables import JobStatus
from sweeps.jobs import row_tokens
from sweeps.jobs.context import Context
from tests.tiny import make_checkpoint
from tests.worker import OneWorker

LENGTHS = (2, 6, 1, 3, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def worker(tmp_path: Path, model: Path) -> Iterator[OneWorker]:
    worker = OneWorker(tmp_path, model, max_group_size=2)
    yield worker
    worker.ledger.close()


def points(worker: OneWorker, **more: Any) -> list[Config]:
    return [worker.config(max_steps=steps, seed=seed, **more) for seed, steps in enumerate(LENGTHS)]


def loads(worker: OneWorker) -> int:
    return sum(message["phase"] == "loading" for message in worker.messages)


def test_places_are_filled_and_results_are_those_of_runs_alone(worker: OneWorker, tmp_path: Path, model: Path) -> None:
    runs = worker.plan(points(worker, eval_rows=4))
    claimed: list[int] = []
    claim = worker.ledger.claim

    def count(*arguments: Any, **more: Any) -> Any:
        claims = claim(*arguments, **more)
        claimed.append(len(claims))
        return claims

    worker.ledger.claim = count  # type: ignore[method-assign]
    rows = worker.work()
    assert {row.status for row in rows.values()} == {JobStatus.done}
    assert {row.attempts for row in rows.values()} == {1}
    assert claimed[0] == 2
    assert sum(claimed) == len(LENGTHS)
    assert claimed[1] == 1, "the next one comes when the first has ended"
    first = [message["label"] for message in worker.messages if message["phase"] == "tokenizing"]
    assert first == [run.label for run in sorted(runs, key=lambda run: -(run.spec.train.max_steps or 0))], (
        "longest first"
    )
    assert loads(worker) == 1
    (tmp_path / "alone").mkdir()
    alone = OneWorker(tmp_path / "alone", model, max_group_size=1)
    alone.plan(points(alone, eval_rows=4))
    alone.work()
    for run in runs:
        mine, theirs = worker.record(run.run_id), alone.record(run.run_id)
        assert (mine.num_steps, mine.num_examples) == (theirs.num_steps, theirs.num_examples)
        assert mine.eval_loss == pytest.approx(theirs.eval_loss, abs=1e-6)
        assert mine.final_loss == pytest.approx(theirs.final_loss, abs=1e-6)
        assert not (worker.folder / "runs" / run.run_id / "checkpoint").exists()
    alone.ledger.close()


def test_a_run_that_fails_gives_its_place_away(worker: OneWorker) -> None:
    bad = worker.config(max_steps=6, learning_rate=0.9, max_grad_norm=1e30, eval_rows=999)  # can't even start
    exploding = worker.config(max_steps=30, learning_rate=0.99, max_grad_norm=1e30)
    runs = worker.plan([bad, exploding, *points(worker)])
    rows = worker.work()
    assert rows[runs[0].run_id].status is JobStatus.failed
    assert all(rows[run.run_id].status is JobStatus.done for run in runs[2:])
    assert loads(worker) == 1


def test_a_stop_gives_all_claims_back_and_what_has_ended_stays(worker: OneWorker) -> None:
    runs = worker.plan(points(worker))
    worker.should_stop = lambda: sum(message["phase"] == "done" for message in worker.messages) >= 1
    rows = worker.work()
    ended = [run.run_id for run in runs if rows[run.run_id].status is JobStatus.done]
    assert ended == [runs[LENGTHS.index(4)].run_id], "of 6 and 4 steps"
    others = [row for run_id, row in rows.items() if run_id not in ended]
    assert {(row.status, row.attempts) for row in others} == {(JobStatus.queued, 0)}
    worker.should_stop = lambda: False
    assert {row.status for row in worker.work().values()} == {JobStatus.done}


def test_no_more_runs_are_taken_than_the_predictor_has_room_for(
    worker: OneWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(row_tokens, "_usable_bytes", lambda *_: 10)
    monkeypatch.setattr(row_tokens, "group_bytes", lambda specs, *_: seen.append(len(specs)) or 6 * len(specs))
    runs = worker.plan(points(worker))
    rows = worker.work()
    assert all(rows[run.run_id].status is JobStatus.done for run in runs)
    assert max(seen) == 2
    assert all(line["num_members"] == 1 for run in runs for line in worker.metrics(run.run_id))
    assert all(row.attempts == 1 for row in rows.values()), "a claim that was given back is no attempt"


def test_runs_of_a_base_that_changed_wait_until_it_is_read_anew(
    worker: OneWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group goes on with the base that it has, and gives claims back that were planned with another one."""
    asked: list[str] = []
    monkeypatch.setattr(Context, "serves", lambda _, spec, planned: asked.append(spec.run_id) or False)
    runs = worker.plan(points(worker))
    rows = worker.work()
    assert {rows[run.run_id].status for run in runs} == {JobStatus.done}
    assert {rows[run.run_id].attempts for run in runs} == {1}
    assert asked
