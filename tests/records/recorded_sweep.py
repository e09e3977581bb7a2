"""A small sweep as its files: a ledger, run folders with records, steps, scores and answers, and a tournament.

Two data types, two r, two seeds, and an untouched base; one run failed, one waits, one has no scores yet.
"""

import csv
import json
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.intervals import wilson_interval
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    DType,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.files.atomic import write_json
from harness.ledger.ledger import Ledger
from harness.runs.record import RunRecord, save_record
from harness.runs.spec import RunSpec
from sweeps.plan.jobs import train_job

SWEEP = "grid"
QUESTIONS = 40
FAILED, WAITING, UNSCORED = 6, 7, 5  # places in the grid
PROMPTS = ("p1", "p2", "p3", "p4", "p5", "p6")


@cache
def grid_specs() -> tuple[RunSpec, ...]:
    """bf16 and nf4 by r 8 and 64 by seeds 0 and 1; the last is an untouched base."""
    model = ModelConfig(name="llama7b", hub_id="huggyllama/llama-7b")
    nf4 = QuantConfig(name="nf4", compute_dtype=DType.bfloat16)
    bf16 = QuantConfig(name="bf16", method=QuantMethod.none, compute_dtype=DType.bfloat16)
    lora = AdapterConfig(name="lora", lora_dropout=0.1)
    train = TrainConfig(max_steps=3, max_epochs=4.0, batch_size=16, learning_rate=2e-4)
    dataset = DatasetConfig(name="oasst1", hub_id="timdettmers/openassistant-guanaco", format="oasst1")
    runs = [
        RunSpec(
            model=model,
            quant=quant,
            adapter=replace(lora, lora_r=r),
            dataset=dataset,
            train=replace(train, seed=seed),
        )
        for quant, r, seed in product((bf16, nf4), (8, 64), (0, 1))
    ]
    none = AdapterConfig(name="none", method=AdapterMethod.none)
    return *runs, RunSpec(model=model, quant=nf4, adapter=none, dataset=None, train=None)


def label_of(number: int) -> str:
    """The label of a run of the grid."""
    found = grid_specs()[number]
    seed = "" if found.train is None else f"-r{found.adapter.lora_r}-s{found.train.seed}"
    return f"{found.label}{seed}"


def write_sweep(runs: Path) -> None:
    """Fills a folder of runs. The run that waits is added last."""
    runs.mkdir(parents=True)
    ledger = Ledger.open(runs / "ledger.sqlite")
    jobs = [train_job(found, label_of(number)) for number, found in enumerate(grid_specs())]
    ledger.add([job for number, job in enumerate(jobs) if number != WAITING], sweep=SWEEP)
    places = {job.job_id: number for number, job in enumerate(jobs)}
    while claims := ledger.claim("host:1", ["train"], max_jobs=9, lease_seconds=60, max_attempts=1):
        for claim in claims:
            number = places[claim.job_id]
            if number == FAILED:
                ledger.fail(claim, "out of memory", retry=False)
                continue
            write_run(runs / claim.run_id, grid_specs()[number], label_of(number), number, number != UNSCORED)
            ledger.finish(claim, {"final_loss": 1.0}, 10.0)
    ledger.add([jobs[WAITING], replace(jobs[0], kind="mmlu", spec_hash="mmlu0", priority=0)], sweep=SWEEP)
    ledger.close()


def write_run(
    folder: Path, found: RunSpec, label: str, number: int, has_scores: bool = True, num_questions: int = QUESTIONS
) -> None:
    """The folder of a finished run."""
    loss = None if found.train is None else 1.0 + number / 10
    save_record(folder, record_of(folder.name, found, label, loss))
    steps = [{"step": step, "loss": 2.0 - step / 10, "learning_rate": 2e-4, "grad_norm": 0.3} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    if has_scores:
        write_json(folder / "eval" / "mmlu" / "mmlu.json", mmlu_values(label, number, num_questions))
        write_json(folder / "eval" / "perplexity" / "perplexity.json", perplexity_values(label, number))
    rows = [
        {"question_id": prompt, "system": label, "question": "Why?", "answer": f"{label} {prompt}", "num_tokens": 3}
        for prompt in PROMPTS
    ]
    (folder / "answers").mkdir(exist_ok=True)
    (folder / "answers" / "open.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def record_of(run_id: str, found: RunSpec, label: str, loss: float | None) -> RunRecord:
    """The record of a finished run."""
    return RunRecord(
        run_id=run_id,
        label=label,
        group=found.group,
        spec=found.to_dict(),
        status="done",
        num_steps=3,
        num_examples=30,
        num_truncated_sources=0,
        num_truncated_targets=0,
        target_tokens=300,
        final_loss=loss,
        train_seconds=12.5,
        peak_memory_bytes=5_000_000_000,
        base_fingerprint="f" * 64,
        data_fingerprint="d" * 64,
        adapter_sha256="e" * 64,
        optimizer_used="adamw",
        device="cpu",
        notes=("resumed at step 1",),
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
        git_commit="0123456789abcdef",
        git_dirty=False,
    )


def mmlu_values(system: str, number: int, num_questions: int = QUESTIONS) -> dict[str, Any]:
    """The content of a run's mmlu.json: r 64 (`number` 2, 3, 6, 7) is right a little more often."""
    rng = np.random.default_rng(number)
    easy = np.random.default_rng(99).random(num_questions)
    right = rng.random(num_questions) < np.clip(easy + 0.1 * (number // 2 % 2), 0, 1)
    correct = int(right.sum())
    rows = [
        {
            "subject": "astronomy",
            "index": i,
            "logprobs": [-1.0] * 4,
            "choice": int(ok),
            "answer": 1,
            "num_shots": 5,
            "num_truncated": 0,
        }
        for i, ok in enumerate(right)
    ]
    share, interval = correct / num_questions, wilson_interval(correct, num_questions)
    return {
        "system": system,
        **{
            "accuracy_macro": share,
            "accuracy_macro_ci95": interval,
            "accuracy_micro": share,
            "accuracy_micro_ci95": interval,
        },
        **{
            "n": num_questions,
            "num_subjects": 1,
            "num_truncated_prompts": 0,
            "num_dropped_shots": 0,
            "protocol": "original",
        },
        **{"split_name": "test", "num_shots": 5, "chat": False},
        "per_subject": {"astronomy": {"n": num_questions, "num_correct": correct, "accuracy": share}},
        "per_category": {},
        **{"settings_sha256": "a" * 64, "model_sha256": f"{number:064x}", "predictions": rows, "schema_version": 1},
        "headline": {
            "metric": "accuracy_macro",
            "value": share,
            "ci95": interval,
            "n": num_questions,
            "higher_is_better": True,
        },
    }


def perplexity_values(system: str, number: int) -> dict[str, Any]:
    """The content of a run's perplexity.json: two documents of 10 and 30 tokens."""
    documents = [
        {"nll": 20.0 + number, "num_tokens": 10, "num_bytes": 40, "num_words": 8},
        {"nll": 30.0 + number, "num_tokens": 30, "num_bytes": 120, "num_words": 24},
    ]
    value = float(np.exp((50 + 2 * number) / 40))
    return {
        "system": system,
        "text": "pile_cc",
        **{"token_perplexity": value, "token_perplexity_ci95": [value - 0.5, value + 0.5]},
        **{"bits_per_byte": 0.5, "bits_per_byte_ci95": None, "num_documents": 2, "num_tokens": 40},
        **{"settings_sha256": "b" * 64, "documents": documents, "schema_version": 1},
        "headline": {
            "metric": "token_perplexity",
            "value": value,
            "ci95": [value - 0.5, value + 0.5],
            "n": 2,
            "higher_is_better": False,
        },
    }


def write_tournament(folder: Path) -> None:
    """A tournament of the first four runs of the grid; r 64 wins a little more often."""
    rng = np.random.default_rng(0)
    with_header = [["question_id", "system_a", "system_b", "verdict", "judge"]]
    for prompt, one, other in product(PROMPTS, range(4), range(4)):
        if one != other:
            edge = 0.15 * (one // 2 - other // 2)
            verdict = rng.choice([1, 2, 3, -1], p=[0.4 + edge, 0.4 - edge, 0.15, 0.05])
            with_header.append([prompt, label_of(one), label_of(other), str(verdict), "judge"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "verdicts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(with_header)
