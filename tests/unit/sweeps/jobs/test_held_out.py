"""The held-out loss of runs in a sweep: where its rows come from, where its numbers stand; a kill loses none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.report.records import load_run
from harness.ledger.tables import JobStatus
from sweeps.jobs import preparing
from sweeps.jobs.held_out import target_bytes
from sweeps.plan.jobs import plan_runs
from sweeps.plan.preflight import preflight
from sweeps.watch.results import read_results
from tests.builders import Example
from tests.lab import write_rows
from tests.tiny import make_checkpoint, make_tokenizer
from tests.worker import ROWS, OneWorker

MEASURED: dict[str, Any] = {"eval_rows": 6, "eval_every_steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def worker(tmp_path: Path, model: Path) -> Iterator[OneWorker]:
    worker = OneWorker(tmp_path, model)
    yield worker
    worker.ledger.close()


def test_its_numbers_stand_in_metrics_record_ledger_and_results(worker: OneWorker) -> None:
    plain, measured = worker.plan([worker.config(), worker.config(**MEASURED)])
    rows = worker.work()
    lines = worker.metrics(measured.run_id)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4]
    record, last = worker.record(measured.run_id), lines[-1]
    assert (record.eval_loss, record.eval_bits_per_byte) == (last["eval_loss"], last["eval_bits_per_byte"])
    assert (record.eval_step, record.num_eval_examples, record.num_examples) == (4, 6, len(ROWS))
    assert rows[measured.run_id].result is not None
    assert rows[measured.run_id].result["eval_loss"] == record.eval_loss
    found = {result.run_id: result for result in read_results(worker.ledger, "s", sort="eval_loss")}
    assert found[measured.run_id].value("eval_loss") == record.eval_loss
    assert found[plain.run_id].value("eval_loss") is None
    assert list(found) == [measured.run_id, plain.run_id], "runs without one come last"
    run = load_run(worker.folder / "runs" / measured.run_id)
    assert run.eval_losses == tuple((line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line)
    assert load_run(worker.folder / "runs" / plain.run_id).eval_losses == ()
    assert not any(key.startswith("eval_") for line in worker.metrics(plain.run_id) for key in line)
    assert worker.record(plain.run_id).eval_loss is None


def test_a_killed_run_goes_on_to_the_same_numbers(worker: OneWorker, tmp_path: Path, model: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = OneWorker(tmp_path / "whole", model)
    best = MEASURED | {"keep_best": True, "learning_rate": 0.2, "max_grad_norm": 10.0, "checkpoint_steps": 3}
    (wanted,) = whole.plan([whole.config(**best)])
    whole.work()
    (run,) = worker.plan([worker.config(**best)])
    assert run.run_id == wanted.run_id
    worker.should_stop = lambda: any(message.get("step") == 3 for message in worker.messages)
    worker.work()
    assert [line["step"] for line in worker.metrics(run.run_id)] == [1, 2, 3]
    worker.should_stop = lambda: False
    assert worker.work()[run.run_id].status is JobStatus.done
    timeless = [
        [{key: value for key, value in line.items() if "seconds" not in key} for line in one.metrics(run.run_id)]
        for one in (worker, whole)
    ]
    assert timeless[0] == timeless[1]
    mine, theirs = worker.record(run.run_id), whole.record(run.run_id)
    assert (mine.eval_step, mine.eval_loss) == (theirs.eval_step, theirs.eval_loss)
    assert mine.adapter_sha256 == theirs.adapter_sha256
    assert mine.eval_loss == min(line["eval_loss"] for line in worker.metrics(run.run_id) if "eval_loss" in line)
    whole.ledger.close()


def test_held_out_rows_are_those_of_every_run_and_never_train(
    worker: OneWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[list[bytes], list[bytes]]] = {}
    member = preparing.member_of

    def look(base: Any, run: Any, rows: Any, *rest: Any) -> Any:
        held = [bytes(rows.held_out.examples[i].input_ids) for i in range(len(rows.held_out.examples))]
        trains = [bytes(rows.examples[i].input_ids) for i in range(len(rows.examples))]
        seen[run.claim.run_id] = held, trains
        return member(base, run, rows, *rest)

    monkeypatch.setattr(preparing, "member_of", look)
    worker.plan([worker.config(**MEASURED), worker.config(eval_rows=6, seed=5, learning_rate=1e-3, batch_size=3)])
    worker.work()
    one, other = seen.values()
    assert one == other
    held_out, trained = one
    assert (len(held_out), len(trained)) == (6, len(ROWS) - 6)
    assert not set(held_out) & set(trained)


def test_more_rows_than_there_are_is_refused_before_anything_starts(worker: OneWorker) -> None:
    runs = plan_runs([worker.config(eval_rows=len(ROWS))])
    (problem,) = preflight(runs, worker.paths, worker.context.settings.launch.device)
    assert f"train.eval_rows={len(ROWS)}: there are {len(ROWS)} rows" in problem
    worker.plan([worker.config(eval_rows=len(ROWS))])
    (row,) = worker.work().values()  # and by the job, where rows could not be counted before
    assert row.status is JobStatus.failed
    assert f"train.eval_rows={len(ROWS)}: there are {len(ROWS)} rows" in str(row.reason)
    split = plan_runs([worker.config(eval_rows=2, eval_source="split")])
    assert "which has no splits" in preflight(split, worker.paths, worker.context.settings.launch.device)[0]


def test_the_dataset_s_own_split(worker: OneWorker, model: Path) -> None:
    store = worker.folder / "store" / "longform"
    store.mkdir(parents=True)
    for name, rows in (("train", ROWS[:10]), ("validation", ROWS[10:16])):
        write_rows(store / f"{name}.jsonl", rows)
    worker.paths.data_store = str(store.parent)
    points = [worker.config("longform", eval_rows=rows, eval_source="split") for rows in (4, 7)]
    few, many = worker.plan(points)
    found = worker.work()
    assert worker.record(few.run_id).num_eval_examples == 4
    assert worker.record(few.run_id).num_examples == 10
    assert "the split validation of longform has 6 rows" in str(found[many.run_id].reason)


def test_bytes_are_those_of_the_targets_text() -> None:
    tokenizer = make_tokenizer()
    source, target = tokenizer("<s>Give three tips ")["input_ids"], tokenizer("für Gesundheit</s>")["input_ids"]
    example = Example(np.array(source + target, dtype=np.int32), len(source))
    assert target_bytes([example], tokenizer) == len("für Gesundheit".encode()) == 15
