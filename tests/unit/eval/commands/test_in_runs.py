"""`--in-runs`: each result lies in its run's folder, and runs that have one are left out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.benchmark import Benchmark, Contestant, Place
from eval.commands import score_runs
from eval.commands.score_runs import OwnRows, score_in_runs
from eval.systems import System, Target
from harness.runs.scores import eval_file
from tests.unit.analysis.report.test_page import make_spec


@dataclass
class Words:
    """A result: how long a system's name is."""

    number: int

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number}


class NameLength(Benchmark):
    """Needs no model."""

    name = command = "mmlu"
    title = about = parts = "words"
    headline_key = "number"

    def __init__(self) -> None:
        self.scored: list[list[str]] = []

    def score(self, base: Any, contestants: Sequence[Contestant], settings: Any, place: Place) -> Mapping[str, Words]:
        self.scored.append([one.name for one in contestants])
        return {one.name: Words(len(one.name)) for one in contestants}

    def headline(self, result: Any) -> None:
        return None


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[System]:
    """Two runs of one base, and an untouched one of another."""
    specs = {name: make_spec(name) for name in ("concise", "stepwise")} | {"base": make_spec(None)}
    made = [System(name=n, run_id=s.run_id, spec=s, folder=tmp_path / s.run_id) for n, s in specs.items()]

    @contextmanager
    def loaded(*_: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(score_runs, "chosen_systems", lambda *_: made)
    monkeypatch.setattr(score_runs, "loaded", loaded)
    return made


def scored(fresh: bool, model: str | None = None) -> NameLength:
    benchmark = NameLength()
    target = Target(model=model, adapters=(), quant=None, run_ids=(), sweep="demo", runs=None)
    score_in_runs(benchmark, None, target, OwnRows(), fresh, lambda done, total: None)
    return benchmark


def test_results_lie_in_the_runs_and_are_made_once(systems: list[System]) -> None:
    assert scored(fresh=False).scored == [["concise", "stepwise"], ["base"]]
    for system in systems:
        assert json.loads(eval_file(system.folder, "mmlu").read_text()) == {
            "number": len(system.name),
            "system": system.name,
        }
    eval_file(systems[1].folder, "mmlu").unlink()
    assert scored(fresh=False).scored == [["stepwise"]]
    assert scored(fresh=False).scored == []
    assert scored(fresh=True).scored == [["concise", "stepwise"], ["base"]]


def test_a_model_has_no_run_folder(systems: list[System]) -> None:
    with pytest.raises(ValueError, match="--in-runs: results go to run folders"):
        scored(fresh=False, model="smollm2")
