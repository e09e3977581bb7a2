"""What the classes of analysis/ hold where nothing is said, field by field."""

import importlib
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

import pytest

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "analysis.compare.contest": {
        "Pair": {"note": ""},
    },
    "analysis.compare.options": {
        "Options": {"correction": "holm", "select_on": "auto"},
    },
    "analysis.compare.search": {
        "Split": {"note": ""},
    },
    "analysis.effects.compare": {
        "Effect": {"along": (), "note": ""},
    },
    "analysis.effects.crossed": {
        "CrossedMean": {"note": ""},
    },
    "analysis.effects.grid": {
        "GridResults": {"left_out": ()},
    },
    "analysis.exports.lm_eval": {
        "_Task": {"higher_is_better": {}, "num_shots": 0, "version": "N/A", "config": {}, "subtasks": []},
    },
    "analysis.leaderboard.found": {
        "FoundRun": {"num_missing": 0, "has_dataset": True, "scored": frozenset(), "plays": True},
        "Found": {
            "runs": (),
            "is_whole_sweep": False,
            "others": {},
            "questions": (),
            "num_turns": 0,
            "has_verdicts": False,
            "has_ratings": False,
            "rated": (),
            "notes": (),
        },
    },
    "analysis.leaderboard.options": {
        "LeaderboardOptions": {
            "run_ids": (),
            "answers": (),
            "verdicts": (),
            "judges": (),
            "benchmarks": (),
            "bench": "open",
            "further": {},
        },
    },
    "analysis.leaderboard.plan": {
        "Step": {"inputs": (), "outputs": (), "needs": (), "there": "", "to_make": "", "pays": False, "run_ids": ()},
        "Plan": {"notes": ()},
    },
    "analysis.leaderboard.run": {
        "Outcome": {"seconds": 0.0, "output": ""},
    },
    "analysis.leaderboard.watch": {
        "WatchOptions": {"port": 0, "every_seconds": 10.0},
    },
    "analysis.paper.judged": {
        "Benchmark": {"suffix": "", "options": ""},
        "Part": {"by_people": False},
        "OwnTournament": {"parts": (), "notes": ()},
    },
    "analysis.paper.own": {
        "OwnRuns": {"runs": (), "notes": ()},
        "_Found": {"parts": {}},
    },
    "analysis.paper.places": {
        "Places": {"scale": 1.0},
    },
    "analysis.paper.values": {
        "PaperTable": {"where_else": {}, "notes": {}},
    },
    "analysis.report.content": {
        "ReportOptions": {"commands": (), "answers": ()},
        "Content": {"categories": {}, "texts": {}},
    },
    "analysis.report.grid": {
        "MeasureView": {
            "problem": "",
            "unit": "",
            "axes": (),
            "effects": (),
            "equalities": (),
            "best": (),
            "settings": (),
            "left_out": (),
        },
    },
    "analysis.report.identity": {
        "Proof": {"method": "", "family": "", "num_trained": 0, "formula": "", "checks": ()},
    },
    "analysis.report.matches": {
        "Tally": {"wins": 0, "losses": 0, "ties": 0, "unparsed": 0},
    },
    "analysis.report.plots.charts": {
        "Line": {"beside": ()},
    },
    "analysis.report.plots.drawing": {
        "Figure": {"columns": (), "rows": ()},
        "Drawing": {"marks": []},
        "Axis": {"is_log": False},
    },
    "analysis.report.records": {
        "Run": {"eval_losses": ()},
        "Tournament": {"flagged": {}, "judgments": {}, "votes": ()},
    },
    "analysis.tidy.axes": {
        "Axis": {"is_seed": False, "adapters_only": False},
    },
    "analysis.tidy.sources": {
        "FoundRun": {"evaluations": ()},
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
