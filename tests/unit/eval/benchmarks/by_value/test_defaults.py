"""What the classes of benchmarks hold where nothing is said, field by field, and its numbers that have a name."""

import importlib
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any

import pytest

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "eval.benchmarks.answers": {
        "AnswersSettings": {"questions": "embedded", "bench": "open", "max_new_tokens": 512, "prompt_format": "auto"},
    },
    "eval.benchmarks.benchmark": {
        "Headline": {"lower_is_better": False},
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
    for name, expected in DEFAULTS[module].items():
        of_class = {one.name: one for one in fields(getattr(importlib.import_module(module), name))}
        chosen = [of_class[key] for key in expected]
        values = [one.default if one.default_factory is MISSING else one.default_factory() for one in chosen]
        assert [value.value if isinstance(value, Enum) else value for value in values] == list(expected.values()), name


# Limits, levels, seeds and sizes that readers of a page or of a record meet: a slip of a digit is noticed.
NUMBERS: dict[str, dict[str, float]] = {
    "eval.benchmarks.benchmark": {"BYTES_A_TOKEN": 4},
    "eval.benchmarks.glue.score": {"SCHEMA_VERSION": 1, "RESAMPLE_SEED": 0, "MAX_BATCH_TOKENS": 4096},
    "eval.benchmarks.intervals": {"NUM_RESAMPLES": 1000},
    "eval.benchmarks.mmlu.benchmark": {"QUESTION_BYTES": 445, "NUM_SUBJECTS": 57},
    "eval.benchmarks.mmlu.calibration": {"NUM_BINS": 15},
    "eval.benchmarks.mmlu.checkpoints": {"SCHEMA_VERSION": 1},
    "eval.benchmarks.mmlu.prompts": {"ORIGINAL_MAX_TOKENS": 2048},
    "eval.benchmarks.mmlu.questions": {"NUM_CHOICES": 4},
    "eval.benchmarks.mmlu.results": {"SCHEMA_VERSION": 1},
    "eval.benchmarks.perplexity.score": {"SCHEMA_VERSION": 1},
    "eval.benchmarks.replicates": {"POWER": 0.8, "UNEQUAL_LEVEL": 0.01},
    "eval.benchmarks.rouge.score": {"SCHEMA_VERSION": 1},
    "eval.benchmarks.super_ni.score": {"SCHEMA_VERSION": 1, "MAX_BATCH_TOKENS": 16384, "MAX_BATCH": 64},
    "eval.benchmarks.tasks.generation": {"DEFAULT_NEW_TOKENS": 256, "DEFAULT_TOP_K": 50, "LOOK_BACK": 2},
    "eval.benchmarks.tasks.results": {"SCHEMA_VERSION": 1},
}


@pytest.mark.parametrize("module", NUMBERS)
def test_numbers_that_have_a_name(module: str) -> None:
    values = vars(importlib.import_module(module))
    assert {name: values[name] for name in NUMBERS[module]} == NUMBERS[module]
