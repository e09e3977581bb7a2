"""Contestants are told apart by their names: two runs of one name are refused before anything is loaded."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.answers.settings import GenerateSettings
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.benchmarks.registry import BENCHMARKS
from eval.commands.generate import run_generate
from eval.commands.score_runs import OwnRows, score_target
from eval.systems import Target
from harness.runs.record import save_record
from tests.builders import record, spec

RUN_IDS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")


def measure(runs: Path) -> Any:
    target = Target(model=None, adapters=(), quant="none", run_ids=RUN_IDS, sweep=None, runs=runs)
    options = {"checkpoints": None}
    mmlu = BENCHMARKS["mmlu"]
    return score_target(mmlu, MmluSettings(), target, OwnRows(), options, runs / "out", lambda done, total: None)


def answer(runs: Path) -> Any:
    target = Target(model=None, adapters=(), quant=None, run_ids=RUN_IDS, sweep=None, runs=runs)
    return run_generate(target, "embedded", "open", 1, GenerateSettings(), False, lambda done, total: None, runs)


@pytest.mark.parametrize("command", [measure, answer])
def test_two_runs_of_one_name_are_refused(tmp_path: Path, command: Callable[[Path], Any]) -> None:
    for run_id in RUN_IDS:
        save_record(tmp_path / run_id, dataclasses.replace(record(), run_id=run_id, label="same"))
        (tmp_path / run_id / "config.yaml").write_text(yaml.safe_dump(spec(adapter="none").to_dict()))
    with pytest.raises(ValueError, match="runs aaaaaaaaaaaa and bbbbbbbbbbbb are both called same"):
        command(tmp_path)
