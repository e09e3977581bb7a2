"""Rows that a run trains on by `dataset.fraction`: beside one holdout, by what the base says, named in its folder."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from eval.scoring.embeddings import embed
from harness.banks.load import LoadedBase
from harness.config.schema import AdapterMethod
from harness.data.selection.orders import Floats
from harness.data.selection.rows import SELECTED_FILE
from harness.data.tokens import TokenizedDataset
from harness.ledger.tables import JobStatus
from harness.runs.record import save_record
from sweeps.jobs import selection
from sweeps.jobs.quality_rule import fit_quality_rule
from sweeps.plan.planned import estimated, planned
from tests.builders import open_base
from tests.lab import write_rows
from tests.tiny import make_checkpoint, make_tokenizer
from tests.worker import ROWS, OneWorker

NUM_CORRUPTED = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base that has learned what the rows of `ROWS` are like."""
    folder = make_checkpoint(tmp_path_factory.mktemp("model"))
    tokenizer, base = make_tokenizer(), LlamaForCausalLM.from_pretrained(folder)
    texts = [f"{row['input']}{row['output']}" for row in ROWS]
    optimizer = torch.optim.AdamW(base.parameters(), lr=1e-2)
    for text in texts * 3:
        ids = torch.tensor([tokenizer(text).input_ids])
        base(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    base.save_pretrained(folder)
    return folder


@pytest.fixture
def worker(tmp_path: Path, model: Path) -> Iterator[OneWorker]:
    worker = OneWorker(tmp_path, model)
    yield worker
    worker.ledger.close()


def chosen(worker: OneWorker, fraction: float, select: str = "random", **train: Any) -> Any:
    mine = ("local", {"path": str(worker.rows), "format": "input_output", "fraction": fraction, "select": select})
    return worker.config(dataset=mine, **train)


def kept_lines(worker: OneWorker, run_id: str) -> list[int]:
    text = (worker.folder / "runs" / run_id / SELECTED_FILE).read_text(encoding="utf-8")
    return [json.loads(line)["line"] for line in text.splitlines()]


def test_fractions_are_nested_beside_one_holdout(worker: OneWorker) -> None:
    runs = worker.plan([chosen(worker, fraction, eval_rows=6) for fraction in (1.0, 0.5, 0.25)])
    assert all(row.status is JobStatus.done for row in worker.work().values())
    whole, half, quarter = (run.run_id for run in runs)
    assert not (worker.folder / "runs" / whole / SELECTED_FILE).exists()
    assert (len(kept_lines(worker, half)), len(kept_lines(worker, quarter))) == (9, 4)  # of the 18 that aren't held out
    assert set(kept_lines(worker, quarter)) < set(kept_lines(worker, half))
    drawn = np.random.default_rng([42, 0x6865_6C64]).permutation(len(ROWS))[:6] + 1
    assert not set(kept_lines(worker, half)) & set(drawn.tolist())
    assert {worker.record(run_id).num_eval_examples for run_id in (whole, half, quarter)} == {6}
    assert "9 of 18 rows train, chosen by dataset.select=random: selected.jsonl" in worker.record(half).notes


def test_the_plan_counts_the_kept_rows(worker: OneWorker) -> None:
    configs = [chosen(worker, fraction, max_steps=None, max_epochs=1.0) for fraction in (1.0, 0.5)]
    plan = planned(configs)
    estimates, _ = estimated(plan, configs[0])
    assert [estimates[run.run_id].num_steps for run in plan.runs] == [12, 6]


def test_corrupted_rows_are_left_out_by_the_bases_confidence_which_is_computed_once(
    worker: OneWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [dict(row) for row in ROWS]
    places = list(range(3, 24, 6))[:NUM_CORRUPTED]
    for place in places:
        rows[place]["output"] = "zq!x kv#w 7_7 Jj"
    write_rows(worker.rows, rows)
    compute, calls = selection._mean_logprobs, list[int]()

    def counted(base: LoadedBase, data: TokenizedDataset) -> Floats:
        calls.append(len(data))
        return compute(base, data)

    monkeypatch.setattr(selection, "_mean_logprobs", counted)
    first, second = worker.plan([chosen(worker, fraction, "confidence") for fraction in (20 / 24, 0.5)])
    assert all(row.status is JobStatus.done for row in worker.work().values())
    corrupted = {place + 1 for place in places}
    assert set(kept_lines(worker, first.run_id)) == set(range(1, 25)) - corrupted
    assert set(kept_lines(worker, second.run_id)) < set(kept_lines(worker, first.run_id))
    assert calls == [24]


def test_a_method_that_owns_its_base_chooses_by_an_untouched_one(worker: OneWorker) -> None:
    shared, owned = chosen(worker, 0.5, "kmeans"), chosen(worker, 0.5, "kmeans")
    owned.adapter.method = AdapterMethod.dora
    runs = worker.plan([shared, owned])
    rows = worker.work()
    assert all(row.status is JobStatus.done for row in rows.values()), [row.reason for row in rows.values()]
    assert kept_lines(worker, runs[0].run_id) == kept_lines(worker, runs[1].run_id)


def test_an_embedding_is_the_mean_of_the_last_hidden_states(model: Path) -> None:
    base, plain = open_base(model), LlamaForCausalLM.from_pretrained(model)
    sequences = [np.arange(3, 3 + length, dtype=np.int32) for length in (5, 9, 2)]
    found = embed(base, sequences, row_tokens=12)
    for row, tokens in zip(found, sequences, strict=True):
        with torch.no_grad():
            hidden = plain.model(torch.from_numpy(tokens.astype(np.int64))[None]).last_hidden_state
        assert row == pytest.approx(hidden[0].mean(dim=0).numpy(), abs=1e-4)


def test_a_rule_fitted_on_runs_finds_what_made_their_losses_and_chooses_by_it(worker: OneWorker) -> None:
    """Losses are planted in the records; one indicator is read off the rows' file, the other is the base's."""
    points = [("random", 0.5), ("random", 0.3), ("length", 0.4), ("kmeans", 0.4), ("confidence", 0.3)]
    configs = [chosen(worker, fraction, how, eval_rows=4, max_steps=1) for how, fraction in points]
    runs = [run.run_id for run in worker.plan(configs)]
    worker.work()
    folder = worker.folder / "runs"
    indicators = ["target_tokens", "perplexity"]
    first = fit_quality_rule(None, runs, folder, indicators, worker.folder / "first.json")
    for run, found in zip(runs, first["runs"], strict=True):
        loss = float(np.exp(0.2 - 0.03 * found["means"]["target_tokens"] + 0.7 * found["means"]["perplexity"]))
        save_record(folder / run, replace(worker.record(run), eval_loss=loss))
        texts = [ROWS[line - 1]["output"] for line in kept_lines(worker, run)]
        lengths = [len(make_tokenizer()(text, add_special_tokens=False).input_ids) + 1 for text in texts]
        assert found["means"]["target_tokens"] == pytest.approx(np.mean(lengths))
    fitted = fit_quality_rule(None, runs, folder, indicators, worker.folder / "rule.json")
    assert fitted["weights"] == pytest.approx({"target_tokens": -0.03, "perplexity": 0.7})
    (worker.folder / "long.json").write_text(json.dumps({"intercept": 0.0, "weights": {"target_tokens": -1.0}}))
    by_rule = [chosen(worker, 0.4, "quality", eval_rows=4, max_steps=1) for _ in range(2)]
    by_rule[0].dataset.quality_rule = str(worker.folder / "rule.json")
    by_rule[1].dataset.quality_rule = str(worker.folder / "long.json")
    one, long = (run.run_id for run in worker.plan(by_rule, "quality"))
    assert all(row.status is JobStatus.done for row in worker.work().values())
    scores = [json.loads(line)["score"] for line in (folder / long / SELECTED_FILE).read_text().splitlines()]
    assert sorted(scores) == sorted(
        json.loads(line)["score"] for line in (folder / runs[2] / SELECTED_FILE).read_text().splitlines()
    )
    assert len(kept_lines(worker, one)) == 8
    other = worker.plan([chosen(worker, 0.5, eval_rows=4, max_steps=1, learning_rate=1e-3)], "other")[0].run_id
    worker.work()
    with pytest.raises(ValueError, match=r"they differ in train.learning_rate, so their losses"):
        fit_quality_rule(None, [*runs, other], folder, indicators, worker.folder / "rule.json")
