"""What the classes of analysis/ hold where nothing is said, field by field, and its numbers that have a name."""

import importlib
from dataclasses import MISSING, fields
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
    for name, expected in DEFAULTS[module].items():
        of_class = {one.name: one for one in fields(getattr(importlib.import_module(module), name))}
        chosen = [of_class[key] for key in expected]
        values = [one.default if one.default_factory is MISSING else one.default_factory() for one in chosen]
        assert [value.value if isinstance(value, Enum) else value for value in values] == list(expected.values()), name


# Limits, levels, seeds and sizes that readers of a page or of a record meet: a slip of a digit is noticed.
NUMBERS: dict[str, dict[str, float]] = {
    "analysis.compare.command": {"WIDTH": 80},
    "analysis.compare.words": {"MAX_PAIRS": 15, "MAX_NAMED": 12},
    "analysis.effects.crossed": {"LEVEL": 0.05},
    "analysis.effects.grid": {"MAX_LEVELS": 12},
    "analysis.effects.measures": {"MAX_NAMED": 5},
    "analysis.effects.scaling": {"LEAST_SIZES": 4, "LEAST_SPAN": 4.0, "LEVEL": 0.05, "NO_RESIDUAL": 1e-12},
    "analysis.exports.command": {"MAX_SHOWN": 5},
    "analysis.exports.lm_eval": {"VERSION_LENGTH": 12},
    "analysis.leaderboard.child": {"PR_SET_PDEATHSIG": 1, "LAST_LINES": 3},
    "analysis.leaderboard.show": {"PLAIN_LINE_SECONDS": 5.0, "TITLE_WIDTH": 34},
    "analysis.paper.fetch": {"TIMEOUT_SECONDS": 600},
    "analysis.paper.figures": {"GIGA": 1000000000.0},
    "analysis.paper.judged": {"PROMPT_TOKENS": 1000, "REPLY_TOKENS": 200, "VICUNA_PROMPTS": 80, "RATERS": 3},
    "analysis.paper.memory": {"HALF_A_GIGABYTE": 0.5},
    "analysis.paper.own": {"SAME_FLOAT": 1e-09},
    "analysis.paper.places": {"MODELS_2": 13, "GLUE_TASKS": 8},
    "analysis.paper.released": {"DEPTH": 3},
    "analysis.paper.tables": {"ELO_TOLERANCE": 2.0, "STATED_K": 32.0, "ORDERINGS": 10000, "SEED": 0},
    "analysis.report.examples.failures": {"MIN_REPEATS": 4, "MIN_REPEATED": 12},
    "analysis.report.figures": {
        "CURVE_WIDTH": 240.0,
        "CURVE_HEIGHT": 96.0,
        "CURVE_MARGIN": 5.0,
        "MAX_CURVE_POINTS": 120,
    },
    "analysis.report.formats": {"MAX_PLAIN": 1000000000.0, "FIRST_PRINTABLE": 32, "CONTROL_PICTURES": 9216},
    "analysis.report.grid": {"MIN_RUNS": 4},
    "analysis.report.judging": {"SMALL_JUDGE_PARAMETERS": 3000000000.0},
    "analysis.report.page": {"MAX_QUESTIONS": 100, "MAX_SYSTEMS": 16, "MAX_VERDICTS": 4000, "MAX_TEXT": 1000000},
    "analysis.report.plots.axes": {"MAX_EFFECTS": 40, "HEIGHT": 320.0},
    "analysis.report.plots.charts": {
        "WIDTH": 640.0,
        "ROW": 20.0,
        "TOP": 14.0,
        "BOTTOM": 40.0,
        "CELL": 18.0,
        "LABEL_STEP": 6.6,
    },
    "analysis.report.plots.drawing": {
        "MARGIN_RIGHT": 24.0,
        "BROAD": 700.0,
        "MIN_LOG_RATIO": 20.0,
        "LABEL_WIDTH": 6.2,
        "MAX_LABEL": 44,
    },
    "analysis.report.plots.runs": {"MAX_SYSTEMS": 30, "MAX_LINES": 8, "MAX_BINS": 60, "GIB": 1073741824},
    "analysis.report.plots.tournament": {"MAX_SYSTEMS": 40},
    "analysis.report.sections": {"MMLU_CHANCE": 0.25, "MAX_MATRIX_SYSTEMS": 60, "DENSE_ABOVE": 12, "MAX_CURVES": 60},
    "analysis.report.site.data": {"MAX_QUESTION_TEXT": 160, "MAX_EXCERPT": 240, "MAX_REPLY": 4000},
    "analysis.report.site.folder": {"MAX_BOARD_ROWS": 24},
    "analysis.report.site.names": {"MAX_LENGTH": 60},
}


@pytest.mark.parametrize("module", NUMBERS)
def test_numbers_that_have_a_name(module: str) -> None:
    values = vars(importlib.import_module(module))
    assert {name: values[name] for name in NUMBERS[module]} == NUMBERS[module]
