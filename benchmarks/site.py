"""Measures the report of a large sweep: 1,000 runs, 40,000 verdicts on 36 systems; seconds, bytes and files.

    python -m benchmarks.site [--runs 1000] [--verdicts 40000] [--systems 36] [--questions 80] [--keep FOLDER]

The records are made up, and made before the clock starts. Read and build are timed apart. The first view is what a
browser loads for the first page: index.html, site.css and site.js.
"""

import dataclasses
import json
import random
import sqlite3
import tempfile
import time
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.report.content import ReportOptions
from analysis.report.page import write_report
from analysis.report.records import load_runs, load_tournament
from eval.judging.store import SCHEMA
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from harness.config.schema import AdapterConfig, DatasetConfig, ModelConfig, QuantConfig, TrainConfig
from harness.files.atomic import csv_text, write_json
from harness.ledger.finished import SweepRuns
from harness.runs.record import METRICS_FILE, RECORD_FILE, RunRecord
from harness.runs.spec import RunSpec

FIRST_VIEW = ("index.html", "site.css", "site.js")
JUDGE = "gpt-4"
CATEGORIES = ("generic", "knowledge", "writing", "coding", "math", "roleplay", "fermi", "common-sense")
SUBJECTS = tuple(f"subject {number:02d}" for number in range(57))
WORDS = [
    "the",
    "model",
    "answers",
    "a",
    "question",
    "about",
    "light",
    "water",
    "and",
    "heat",
    "in",
    "plain",
    "words",
    "so",
    "that",
    "a",
    "curious",
    "reader",
    "can",
    "follow",
    "each",
    "step",
    "of",
    "the",
    "argument",
    "and",
    "then",
    "check",
    "it",
    "at",
    "home",
    "with",
    "a",
    "kettle",
    "a",
    "mirror",
    "and",
    "some",
    "patience",
]
MODELS = ("llama-7b", "llama-13b", "pythia-2.8b")
DATASETS = ("alpaca", "oasst1", "flan-v2")
RATES = (1e-4, 2e-4)
RANKS = (16, 64)


def main(
    runs: Annotated[int, typer.Option(min=1)] = 1000,
    verdicts: Annotated[int, typer.Option(min=2)] = 40_000,
    systems: Annotated[int, typer.Option(min=2)] = 36,
    questions: Annotated[int, typer.Option(min=1)] = 80,
    keep: Annotated[Path | None, typer.Option(help="Where records and site stay; default: a temporary folder.")] = None,
) -> None:
    """Makes records, builds the site and prints what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        ids = make_records(folder, runs, verdicts, systems, questions)
        start, began = time.perf_counter(), time.process_time()
        opened, played = load_runs(folder / "runs", ids), load_tournament(folder / "tournament")
        read = time.perf_counter()
        options = ReportOptions(title=f"{runs:,} runs", questions=folder / "questions.jsonl")
        write_report(folder / "site", SweepRuns(run_ids=tuple(ids)), opened, played, options)
        built, cpu = time.perf_counter(), time.process_time() - began
        files = [path for path in (folder / "site").rglob("*") if path.is_file()]
        first_view = sum((folder / "site" / name).stat().st_size for name in FIRST_VIEW)
        whole = sum(path.stat().st_size for path in files)
        print(f"{runs} runs, {verdicts} verdicts on {systems} systems and {questions} questions")
        print(f"read {read - start:.1f} s, built {built - read:.1f} s, processor {cpu:.1f} s")
        print(f"first view {first_view / 1e6:.2f} MB; {len(files)} files, {whole / 1e6:.0f} MB")


def make_records(folder: Path, num_runs: int, num_verdicts: int, num_systems: int, num_questions: int) -> list[str]:
    """Run folders and a rated tournament of the first runs. -> run ids"""
    rng = random.Random(0)
    texts = [f"Question {number}: {_sentence(rng, 12)}?" for number in range(1, num_questions + 1)]
    asked = [
        {"question_id": n, "category": CATEGORIES[n % len(CATEGORIES)], "text": text} for n, text in enumerate(texts, 1)
    ]
    _write_lines(folder / "questions.jsonl", asked)
    made = [_run(folder / "runs", rng, place, texts if place < num_systems else []) for place in range(num_runs)]
    _tournament(folder / "tournament", rng, [label for _, label in made[:num_systems]], num_questions, num_verdicts)
    return [run_id for run_id, _ in made]


def _run(runs: Path, rng: random.Random, place: int, texts: list[str]) -> tuple[str, str]:
    """One run's folder. -> run id, label"""
    dataset, model = DATASETS[place % 3], MODELS[place // 3 % 3]
    rate, lora_r, seed = RATES[place // 9 % 2], RANKS[place // 18 % 2], place // 36
    spec = RunSpec(
        model=ModelConfig(name=model, hub_id=f"huggyllama/{model}"),
        quant=QuantConfig(name="nf4"),
        adapter=AdapterConfig(name="lora", lora_r=lora_r),
        dataset=DatasetConfig(name=dataset, hub_id=f"embedded/{dataset}", format="alpaca"),
        train=TrainConfig(max_steps=100, batch_size=16, learning_rate=rate, seed=seed),
    )
    label = f"{model}-{dataset}-r{lora_r}-{rate:g}-s{seed}"
    folder = runs / spec.run_id
    losses = [0.9 + 1.4 / (1 + step / 8) + rng.gauss(0, 0.04) for step in range(100)]
    _write_lines(
        folder / METRICS_FILE, [{"step": n, "loss": loss, "seconds": 4.1} for n, loss in enumerate(losses, start=1)]
    )
    write_json(folder / "eval" / "mmlu" / "mmlu.json", _mmlu(label, 0.25 + 0.2 * rng.random(), rng))
    answers = [
        {"question_id": n, "system": label, "question": text, "answer": _answer(rng), "num_tokens": 180,
         "finish_reason": "length" if rng.random() < 0.05 else "eos"}
        for n, text in enumerate(texts, start=1)
    ]  # fmt: skip
    if answers:
        _write_lines(folder / "answers" / "open.jsonl", answers)
    record = _record(spec, label, sum(losses[-10:]) / 10, 600 * (1 + rng.random()))
    (folder / RECORD_FILE).write_text(json.dumps(dataclasses.asdict(record)))
    return spec.run_id, label


def _record(spec: RunSpec, label: str, final_loss: float, seconds: float) -> RunRecord:
    return RunRecord(
        run_id=spec.run_id, label=label, group=spec.group, spec=spec.to_dict(), status="done", num_steps=100,
        num_examples=9846, num_truncated_sources=0, num_truncated_targets=3, target_tokens=812_344,
        final_loss=final_loss, train_seconds=seconds, peak_memory_bytes=6_288_490_188, base_fingerprint="5f2c" * 16,
        data_fingerprint="a0b1" * 16, adapter_sha256="77aa" * 16, optimizer_used="adamw", device="cuda:0", notes=(),
        started="2026-11-22T10:00:00+00:00", finished="2026-11-22T10:10:02+00:00", git_commit="0123456789abcdef",
        git_dirty=False, packages={"torch": "2.11.0", "peft": "0.21.0"}, python="3.11.9",
    )  # fmt: skip


def _mmlu(label: str, accuracy: float, rng: random.Random) -> dict[str, Any]:
    subjects = {name: {"n": 27, "accuracy": min(1.0, max(0.0, rng.gauss(accuracy, 0.08)))} for name in SUBJECTS}
    around = [accuracy - 0.03, accuracy + 0.03]
    return {
        "system": label, "accuracy_macro": accuracy, "accuracy_macro_ci95": around, "accuracy_micro": accuracy,
        "accuracy_micro_ci95": around, "n": 1531, "num_subjects": 57, "num_truncated_prompts": 0,
        "protocol": "lm_eval", "split_name": "validation", "num_shots": 5, "settings_sha256": "c" * 64,
        "per_subject": subjects,
    }  # fmt: skip


def _tournament(folder: Path, rng: random.Random, names: list[str], num_questions: int, num_verdicts: int) -> None:
    """Verdicts in both orders with the judge's words, and their ratings."""
    items = [(question, pair) for question in range(1, num_questions + 1) for pair in combinations(names, 2)]
    strength = {name: rng.gauss(0, 1) for name in names}
    rows = []
    for question, (one, two) in rng.sample(items, min(num_verdicts // 2, len(items))):
        for first, second in ((one, two), (two, one)):
            margin = strength[first] - strength[second] + 0.3 + rng.gauss(0, 1.5)
            verdict = UNPARSED if rng.random() < 0.01 else TIE if abs(margin) < 0.3 else FIRST if margin > 0 else SECOND
            rows.append((str(question), first, second, verdict, JUDGE))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdicts.csv").write_text(csv_text(("question_id", "system_a", "system_b", "verdict", "judge"), rows))
    _store(folder / "judgments.sqlite", rng, rows)
    rated = rate_files([folder / "verdicts.csv"], RateOptions(orderings=200, resamples=200))
    write_json(folder / "ratings.json", rated.to_json())


def _store(path: Path, rng: random.Random, rows: list[tuple[str, str, str, int, str]]) -> None:
    path.unlink(missing_ok=True)
    columns = (
        "settings_sha256, prompt_sha256, judge, question_id, system_a, system_b, verdict, raw_text, reason, cost_usd, "
        "created"
    )
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA)
        db.execute(
            "INSERT INTO judges VALUES ('s', ?, ?, '2026')", (JUDGE, json.dumps({"kind": "api", "model": JUDGE}))
        )
        for number, (question, one, two, verdict, judge) in enumerate(rows):
            key, words = str(number), f"{_sentence(rng, 40)}.\n{verdict}"
            reason = "no verdict in the last line" if verdict == UNPARSED else None
            db.execute(
                "INSERT INTO matches (judge, mode, question_id, system_a, system_b, settings_sha256, prompt_sha256, "
                "benchmark) VALUES (?, 'pairwise', ?, ?, ?, 's', ?, 'open')",
                (judge, question, one, two, key),
            )
            db.execute(
                f"INSERT INTO judgments ({columns}) VALUES ('s', ?, ?, ?, ?, ?, ?, ?, ?, 0.012, '2026')",
                (key, judge, question, one, two, verdict, words, reason),
            )
        db.commit()


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _sentence(rng: random.Random, num_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words)).capitalize()


def _answer(rng: random.Random) -> str:
    if rng.random() < 0.02:
        return rng.choice(("", "I'm sorry, but I can't help with that.", "It is hot. It is very very hot.\n" * 30))
    return "\n\n".join(_sentence(rng, rng.randint(20, 90)) + "." for _ in range(rng.randint(1, 4)))


if __name__ == "__main__":
    typer.run(main)
