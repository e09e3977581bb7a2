"""What the classes of benchmarks hold where nothing is said, field by field."""

import importlib
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

import pytest

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "eval.benchmarks.answers": {
        "AnswersSettings": {"questions": "embedded", "bench": "open", "max_new_tokens": 512, "prompt_format": "auto"},
    },
    "eval.benchmarks.benchmark": {
        "QuestionScores": {"part": ""},
    },
    "eval.benchmarks.glue.score": {
        "GlueResult": {"schema_version": 1},
    },
    "eval.benchmarks.mmlu.checkpoints": {
        "CheckpointsResult": {"schema_version": 1},
    },
    "eval.benchmarks.mmlu.prompts": {
        "Encoded": {"num_truncated": 0},
    },
    "eval.benchmarks.mmlu.results": {
        "Prediction": {"num_truncated": 0},
        "MmluResult": {"schema_version": 1},
    },
    "eval.benchmarks.mmlu.settings": {
        "MmluSettings": {
            "questions": "embedded",
            "shots_file": "embedded",
            "num_shots": 5,
            "protocol": "lm_eval",
            "chat": False,
            "split_name": "",
        },
    },
    "eval.benchmarks.perplexity.score": {
        "PerplexityResult": {"schema_version": 1},
    },
    "eval.benchmarks.perplexity.settings": {
        "PerplexitySettings": {"text": "pile_cc", "field": "text", "only": "", "joined": False},
    },
    "eval.benchmarks.perplexity.texts": {
        "TextSet": {"where": "", "joined": False},
        "TextSource": {"field": "text", "only": "", "joined": False},
    },
    "eval.benchmarks.replicates": {
        "Difference": {"note": ""},
    },
    "eval.benchmarks.rouge.score": {
        "RougeResult": {"schema_version": 1},
    },
    "eval.benchmarks.rouge.settings": {
        "RougeSettings": {"max_new_tokens": 256},
    },
    "eval.benchmarks.super_ni.score": {
        "SuperNiResult": {"schema_version": 1},
    },
    "eval.benchmarks.super_ni.settings": {
        "SuperNiSettings": {"limit_per_task": 100, "max_new_tokens": 128},
    },
    "eval.benchmarks.tasks.results": {
        "TaskPrediction": {"responses": (), "extracted": {}, "weights": {}},
        "TasksResult": {"schema_version": 1},
    },
    "eval.benchmarks.tasks.settings": {
        "TasksSettings": {
            "names": ["hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande"],
            "chat": False,
            "seed": 0,
        },
    },
}


@pytest.mark.parametrize("module", DEFAULTS)
def test_what_stands_where_nothing_is_said(module: str) -> None:
    """Of each class the fields that need not be given, but for those that are then None."""
    found: dict[str, dict[str, Any]] = {}
    for name, kind in vars(importlib.import_module(module)).items():
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module:
            values = {
                one.name: one.default if one.default_factory is MISSING else one.default_factory()
                for one in fields(kind)
                if (one.default, one.default_factory) != (MISSING, MISSING)
            }
            plain = {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}
            found[name] = {k: v for k, v in plain.items() if v is not None and not callable(v) and not is_dataclass(v)}
    assert {name: values for name, values in found.items() if values} == DEFAULTS[module]
