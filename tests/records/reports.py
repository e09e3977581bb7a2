"""Records of small sweeps and tournaments, and a reader of pages, for tests of the report."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

from analysis.report.content import ReportOptions
from analysis.report.page import write_report
from analysis.report.records import load_runs, load_tournament
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DatasetConfig,
    ModelConfig,
    QuantConfig,
    QuantMethod,
    TrainConfig,
)
from harness.files.atomic import append_jsonl, write_json
from harness.ledger.finished import SweepRuns
from harness.runs.record import RunRecord, save_record
from harness.runs.spec import RunSpec

EVIL = "<script>alert('x')</script>"
SYSTEMS = ("smollm2-concise-nf4", "smollm2-stepwise-nf4", "smollm2-base")
QUESTIONS = {
    "1": "How can a busy person build a lasting habit of reading?",
    "2": "How does a refrigerator keep food cold? Explain it to a curious adult.",
    "3": "Write a limerick about a lighthouse.",
}
ANSWERS = (
    "Start small: two pages a day, at the same time and in the same place. Keep a book where you already sit, and "
    "count days, not pages.",
    "1. Pick a fixed time.\n2. Put the phone in another room.\n3. Read two pages.\nIn short: make it easy and daily.",
    f"Reading is a great habit!\n\n    indented   text\n{EVIL} & more \x1b[31mred",
)


class Page(HTMLParser):
    """What a browser would do with the page: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: dict[str, Any] = {}  # that the page holds for its script
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.texts.append(data)
            return
        attrs = self.elements[-1][1]
        if attrs.get("type") == "application/json":
            self.data[str(attrs["id"]).removeprefix("data-")] = json.loads(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))  # no-break spaces too

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    @property
    def num_running(self) -> int:
        """Scripts that run; those of type application/json are data."""
        return sum(name == "script" and "type" not in attrs for name, attrs in self.elements)


def make_spec(dataset: str | None, seed: int = 0) -> RunSpec:
    model = ModelConfig(name="smollm2", hub_id="embedded/smollm2-135m-instruct")
    if dataset is None:
        return RunSpec(
            model=model,
            quant=QuantConfig(name="none", method=QuantMethod.none),
            adapter=AdapterConfig(name="none", method=AdapterMethod.none),
            dataset=None,
            train=None,
        )
    return RunSpec(
        model=model,
        quant=QuantConfig(name="nf4"),
        adapter=AdapterConfig(name="lora", lora_r=16, lora_alpha=32, lora_dropout=0.05),
        dataset=DatasetConfig(name=dataset, hub_id=f"embedded/{dataset}", format="alpaca"),
        train=TrainConfig(max_steps=12, batch_size=8, learning_rate=5e-4, seed=seed),
    )


def make_run(runs: Path, label: str, spec: RunSpec, losses: list[float], accuracy: float | None) -> str:
    """A run folder as training and evaluating leave it. -> its run_id"""
    folder = runs / spec.run_id
    for step, loss in enumerate(losses, start=1):
        append_jsonl(folder / "metrics.jsonl", {"step": step, "loss": loss, "learning_rate": 5e-4, "seconds": 4.1})
    if accuracy is not None:
        write_json(folder / "eval" / "mmlu" / "mmlu.json", mmlu_json(label, accuracy))
    for question_id, question in QUESTIONS.items():
        answer = ANSWERS[SYSTEMS.index(label) if label in SYSTEMS else -1]
        row = {"question_id": int(question_id), "system": label, "question": question, "answer": answer}
        append_jsonl(folder / "answers" / "open.jsonl", {**row, "num_tokens": 48, "finish_reason": "stop", "seed": 0})
    trained = bool(losses)
    save_record(
        folder,
        RunRecord(
            run_id=spec.run_id,
            label=label,
            group=spec.group,
            spec=spec.to_dict(),
            status="done",
            num_steps=len(losses),
            num_examples=96 if trained else 0,
            num_truncated_sources=0,
            num_truncated_targets=3 if trained else 0,
            target_tokens=3120 if trained else 0,
            final_loss=losses[-1] if trained else None,
            train_seconds=61.7 if trained else 0.0,
            peak_memory_bytes=1_288_490_188,
            base_fingerprint="5f2c" * 16,
            data_fingerprint="a0b1" * 16 if trained else None,
            adapter_sha256="77aa" * 16 if trained else None,
            optimizer_used="adamw" if trained else None,
            device="cpu",
            notes=("paged_adamw_32bit needs CUDA: adamw was used",) if trained else (),
            started="2026-11-22T10:00:00+00:00",
            finished="2026-11-22T10:01:02+00:00",
            git_commit="0123456789abcdef",
            git_dirty=False,
            packages={"torch": "2.11.0", "peft": "0.21.0"},
            python="3.11.9",
        ),
    )
    return spec.run_id


def make_grid(tmp_path: Path) -> tuple[Path, list[str]]:
    """Runs of two datasets, two data types and two seeds; the second dataset is better by 0.2, a seed by 0.01."""
    runs, ids = tmp_path / "runs", []
    for place, (dataset, quant, seed) in enumerate(product(("a", "b"), ("nf4", "fp4"), (0, 1))):
        spec = make_spec(dataset, seed=seed)
        spec = replace(spec, quant=replace(spec.quant, name=quant, method=QuantMethod(quant)))
        accuracy = {"a": 0.3, "b": 0.5}[dataset] + 0.01 * seed
        ids.append(make_run(runs, f"run-{place}", spec, [2.0, 1.0 + 0.1 * seed], None))
        subjects = {name: {"n": 24, "num_correct": 0, "accuracy": accuracy} for name in ("anatomy", "law", "virology")}
        scores = {**mmlu_json(f"run-{place}", accuracy), "per_subject": subjects}
        write_json(runs / ids[-1] / "eval" / "mmlu" / "mmlu.json", scores)
    return runs, ids


def mmlu_json(system: str, accuracy: float) -> dict[str, Any]:
    return {
        "system": system,
        "accuracy_macro": accuracy,
        "accuracy_macro_ci95": [accuracy - 0.11, accuracy + 0.11],
        "accuracy_micro": accuracy + 0.01,
        "accuracy_micro_ci95": [accuracy - 0.1, accuracy + 0.12],
        "n": 48,
        "num_subjects": 2,
        "num_truncated_prompts": 0,
        "protocol": "lm_eval",
        "split_name": "embedded",
        "num_shots": 5,
        "settings_sha256": "c" * 64,
        "per_subject": {"anatomy": {"n": 24, "num_correct": 7, "accuracy": 7 / 24}},
    }


def ratings_json(names: tuple[str, ...] = SYSTEMS) -> dict[str, Any]:
    """What `python -m eval rate --json` prints; test_real_ratings holds this shape against eval.ratings.rate."""
    points = (1052.4, 1003.1, 944.5)
    pairs = zip(names, names[1:], points, points[1:], strict=False)
    return {
        "elo": {
            name: {
                "mean": mean,
                "ordering_sd": 9.0,
                "ordering_low": mean - 1.3,
                "ordering_high": mean + 1.3,
                "low": mean - 62,
                "high": mean + 58,
            }
            for name, mean in zip(names, points, strict=True)
        },
        "bradley_terry": {
            name: {"rating": mean + 4, "low": mean - 71, "high": mean + 80}
            for name, mean in zip(names, points, strict=True)
        },
        "position_bias": {
            "first_wins": 11,
            "second_wins": 3,
            "ties": 3,
            "first_win_rate": 11 / 14,
            "low": 0.61,
            "high": 0.93,
            "swapped_reversals": 5,
            "swapped_pairs": 8,
        },
        "num_matches": 17,
        "num_unparsed": 1,
        "win_matrix": {},
        "pairs": [
            {
                "higher": a,
                "lower": b,
                "difference": x - y,
                "low": -30.0,
                "high": 140.0,
                "low_unadjusted": -20.0,
                "high_unadjusted": 130.0,
                "p_value": 0.2,
                "p_holm": 0.4,
                "significant": b == names[2],
                "num_prompts": 3,
                "num_prompts_needed": 96,
            }
            for a, b, x, y in pairs
        ],
        "length_bias": None,
        "notes": ["1 of 18 verdicts (5.6%) are unparsed and left out"],
        "settings": {"k": 32.0, "start": 1000.0, "orderings": 10000, "sample_size": None, "resamples": 1000},
    }


def make_verdicts(folder: Path, names: tuple[str, ...] = SYSTEMS, judge: str = "smollm2-135m") -> None:
    """Every pair on every question in both orders: the earlier name wins mostly, and the place helps."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["question_id,system_a,system_b,verdict,judge"]
    for question in QUESTIONS:
        for i, one in enumerate(names):
            for j, two in enumerate(names):
                if i != j:
                    verdict = 1 if i < j else 3 if question == "1" else 1 if question == "3" else 2
                    verdict = -1 if (question, i, j) == ("2", 0, 1) else verdict
                    lines.append(f'{question},"{one}","{two}",{verdict},{judge}')
    (folder / "verdicts.csv").write_text("\n".join(lines) + "\n")


def make_runs(tmp_path: Path) -> tuple[Path, list[str]]:
    """A runs folder with two trained systems and the untouched base, without MMLU for the second."""
    folder = tmp_path / "runs"
    falling = [2.4 - 0.09 * step + 0.05 * (step % 3) for step in range(12)]
    return folder, [
        make_run(folder, SYSTEMS[0], make_spec("concise"), falling, 0.31),
        make_run(folder, SYSTEMS[1], make_spec("stepwise"), [loss * 0.8 for loss in falling], None),
        make_run(folder, SYSTEMS[2], make_spec(None), [], 0.29),
    ]


def make_tournament(tmp_path: Path) -> Path:
    folder = tmp_path / "tournament"
    make_verdicts(folder)
    write_json(folder / "ratings.json", ratings_json())
    return folder


def build(out: Path, runs: tuple[Path, list[str]], tournament: Path | None, **options: Any) -> str:
    opened = load_runs(*runs)
    played = load_tournament(tournament) if tournament else None
    sweep = SweepRuns(run_ids=tuple(runs[1]), command="python -m harness.run -m +experiment=demo")
    write_report(out, sweep, opened, played, ReportOptions(title="demo", **options))
    return (out / "index.html").read_text()


def write_perplexity(run: Path, bits: float, settings: str) -> None:
    values = {"bits_per_byte": bits, "bits_per_byte_ci95": [bits - 0.1, bits + 0.1], "num_documents": 7}
    write_json(run / "eval" / "perplexity" / "perplexity.json", values | {"text": EVIL, "settings_sha256": settings})
