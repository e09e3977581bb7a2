"""Runs lm-eval's own task `mmlu` with its own HF model on questions from local files.

The task's text comes from the YAML files in the installed package; only the place of the data is changed.
Used by benchmarks/evaluation/mmlu.py and tests/parity/test_mmlu_parity.py; needs the `parity` extra.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from eval.benchmarks.mmlu.questions import Question

_TASKS = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One question, as lm-eval asks and scores it."""

    subject: str
    prompt: str
    logprobs: tuple[float, ...]


def write_tasks(
    folder: Path, questions: Sequence[Question], shots: Sequence[Question], num_shots: int
) -> dict[str, list[int]]:
    """Writes lm-eval tasks over the given questions to `folder`. -> task name -> places of its questions"""
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(question.subject, []).append(place)
    tasks = {}
    for subject, found in places.items():
        data = {"test": [questions[p] for p in found], "dev": [shot for shot in shots if shot.subject == subject]}
        for split, rows in data.items():
            lines = [json.dumps(asdict(row)) for row in rows]
            (folder / f"{subject}_{split}.jsonl").write_text("\n".join(lines) + "\n")
        published = yaml.safe_load((_TASKS / f"mmlu_{subject}.yaml").read_text())
        name = f"local_mmlu_{subject}"
        task = {
            **yaml.safe_load((_TASKS / "_default_template_yaml").read_text()),
            "task": name,
            "description": published["description"],
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: str(folder / f"{subject}_{split}.jsonl") for split in data},
                "cache_dir": str(folder / "cache"),
            },
            "num_fewshot": num_shots,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
        tasks[name] = found
    return tasks


def hf_model(model: Any, tokenizer: Any, batch_size: int) -> HFLM:
    """lm-eval's own HF model around a loaded transformers model."""
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def score(lm: HFLM, folder: Path, tasks: dict[str, list[int]]) -> dict[int, Reference]:
    """Runs tasks that `write_tasks` wrote. -> by the question's place"""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=lm, tasks=list(tasks), task_manager=manager, log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    found = {}
    for name, places in tasks.items():
        for sample in results["samples"][name]:
            found[places[sample["doc_id"]]] = Reference(
                subject=sample["doc"]["subject"],
                prompt=sample["arguments"][0][0],
                logprobs=tuple(float(response[0]) for response in sample["filtered_resps"]),
            )
    return found
