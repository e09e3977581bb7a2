"""How a plan's numbers read: units, bounds, what is unknown, totals and warnings, from estimates that a test states."""

from dataclasses import replace
from typing import Any

import pytest

from harness.config.schema import EvalConfig, TrainConfig
from sweeps.plan import table
from sweeps.plan.estimate import ARITHMETIC, NO_DEVICE, NO_SPEED, RECORDS, Estimate
from sweeps.plan.jobs import PlannedRun
from sweeps.plan.table import (
    FEW_PROBLEMS,
    SCREEN_LINES,
    SHOWN_NAMES,
    condensed,
    describe,
    disk_warning,
    grids_table,
    listed_grids,
    money_and_time,
    runs_table,
    totals_table,
    warnings,
)
from tests.builders import spec

KNOWN = Estimate(
    num_steps=10, row_tokens=512, memory_bytes=10**9, least_memory_bytes=10**8, max_tokens=2_000_000,
    target_tokens=None, seconds=7200.0, seconds_from=RECORDS, seconds_unknown=None, eval_seconds=0.0,
    eval_seconds_from=RECORDS, gpu_hours=2.0, disk_bytes=5 * 10**7, checkpoint_bytes=0, too_large_for=(), tight_on=(),
    paged_bytes={},
)  # fmt: skip
NOT_KNOWN = replace(KNOWN, seconds=None, seconds_from=None, seconds_unknown=NO_SPEED, gpu_hours=None, max_tokens=None)


def run(label: str, model: str = "a", **changes: Any) -> PlannedRun:
    """A run of 10 steps; what two runs differ in is their seed."""
    made = spec(**changes)
    made = replace(
        made, model=replace(made.model, name=model), train=replace(made.train, seed=len(label) * 100 + ord(label[0]))
    )
    return PlannedRun(spec=made, label=label, evals=EvalConfig())


def rows(runs: list[PlannedRun], finished: set[str], *needs: Estimate) -> list[tuple[str, ...]]:
    estimates = {one.run_id: estimate for one, estimate in zip(runs, needs, strict=True)}
    return [tuple(row) for row in runs_table(runs, finished, estimates).rows]


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "?"), (0, "0.0 MB"), (99_999_999, "100.0 MB"), (10**8, "0.1 GB"), (1_500_000_000, "1.5 GB")],
)
def test_sizes(number: int | None, text: str) -> None:
    assert table._size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0.0, "0 s"),
        (59.4, "59 s"),
        (60.0, "1.0 min"),
        (3599.0, "60.0 min"),
        (3600.0, "1.0 h"),
        (5400, "1.5 h"),
    ],
)
def test_times(seconds: float | None, text: str) -> None:
    assert table._time(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.0k"), (1_500_000, "1.5M"), (2 * 10**9, "2.0G")]
)
def test_counts(number: int, text: str) -> None:
    assert table._count(number) == text


@pytest.mark.parametrize(
    ("length", "resolved", "text"),
    [
        ({"max_steps": None, "max_epochs": 2.0}, None, "2 epochs"),
        ({"max_steps": None, "max_epochs": 1.5}, 30, "1.5 epochs = 30"),
        ({"max_steps": 40, "max_epochs": None}, 40, "40"),
        ({"max_steps": 40, "max_epochs": 2.0}, 30, "30"),
        ({"max_steps": 40, "max_epochs": 2.0}, 40, "<= 40"),
        ({"max_steps": 40, "max_epochs": 2.0}, None, "<= 40"),
    ],
)
def test_lengths(length: dict[str, Any], resolved: int | None, text: str) -> None:
    assert table._steps(TrainConfig(**length), resolved) == text
    assert table._steps(None, 7) == "0"


def test_a_row_says_bounds_and_misfits() -> None:
    one, two = run("one"), run("other")
    tight = replace(
        KNOWN, memory_bytes=None, too_large_for=("T4",), max_tokens=0, seconds=90.0, seconds_from=ARITHMETIC
    )
    first, second = rows([one, two], {two.run_id}, KNOWN, tight)
    assert first[:2] == (one.run_id, "one")
    assert first[-5:] == ("1.0 GB", "<= 2.0M", "2.0 h", "50.0 MB", "to do")
    assert second[-5:] == (">= 0.1 GB !", "0", "<= 1.5 min", "50.0 MB", "done")
    (unknown,) = rows([one], set(), replace(NOT_KNOWN, memory_bytes=None, least_memory_bytes=None, disk_bytes=None))
    assert unknown[-5:] == ("?", "?", "?", "?", "to do")


def test_totals_are_of_what_is_left_and_say_what_is_unknown() -> None:
    runs = [run("a1", "a"), run("a22", "a"), run("a333", "a"), run("b4444", "b")]
    needs = [KNOWN, NOT_KNOWN, replace(KNOWN, memory_bytes=3 * 10**9), replace(KNOWN, seconds_from=ARITHMETIC)]
    estimates = {one.run_id: estimate for one, estimate in zip(runs, needs, strict=True)}
    first, second, third = totals_table(runs, {runs[2].run_id}, estimates).rows
    assert first == ("a", "3", "2", "1", "1.0 GB", "<= 2.0M, more", "2.0 h, 1 runs unknown", "0.1 GB")
    assert second == ("b", "1", "1", "1", "1.0 GB", "<= 2.0M", "<= 2.0 h", "50.0 MB")
    assert third[:3] == ("all", "4", "3")
    assert len(totals_table(runs[:1], set(), estimates).rows) == 1, "one model needs no sum"
    (done,) = totals_table(runs[:1], {runs[0].run_id}, estimates).rows
    assert done == ("a", "1", "0", "0", "?", "0", "0 s", "0.0 MB")
    totals = describe(runs, {runs[2].run_id}, ["p"], estimates)
    assert totals["problems"] == ["p"]
    assert [one["status"] for one in totals["runs"]] == ["to do", "to do", "done", "to do"]
    left = totals["totals"]["to_do"]
    assert (totals["totals"]["num_runs"], totals["totals"]["num_done"], left["num_runs"]) == (4, 1, 3)
    assert (left["seconds"], left["gpu_hours"], left["disk_bytes"]) == (14400.0, 4.0, 15 * 10**7)
    assert (left["num_runs_of_unknown_time"], left["num_runs_of_arithmetic_time"]) == (1, 1)
    assert (left["max_tokens"], left["num_runs_of_unknown_tokens"]) == (4_000_000, 1)
    assert totals["totals"]["to_do_by_model"]["b"]["num_runs"] == 1


def test_money_is_that_of_what_is_known_and_says_what_is_not() -> None:
    runs = [run("a1"), run("a22"), run("a333")]
    needs = [KNOWN, NOT_KNOWN, replace(KNOWN, eval_seconds=None, eval_seconds_from=None)]
    lines = money_and_time(runs, {one.run_id: need for one, need in zip(runs, needs, strict=True)}, 1000.5)
    assert lines == [
        "what is left: 4.0 GPU-hours, 4,002.00 at 1000.5 an hour",
        "not in it: 1 runs of unknown time",
        "not in it: the evaluations of 1 runs, as none like them were recorded, and how many tokens they read isn't "
        "known here",
    ]
    assert money_and_time(runs[1:2], {runs[1].run_id: NOT_KNOWN}, 1.0) == []
    assert money_and_time(runs[:1], {runs[0].run_id: KNOWN}, None) == ["what is left: 2.0 GPU-hours"]


def test_warnings_name_devices_runs_and_reasons() -> None:
    runs = [run("a1"), run("a22"), run("a333", "b")]
    needs = [
        replace(KNOWN, too_large_for=("T4",), least_memory_bytes=3 * 10**9),
        replace(KNOWN, too_large_for=("T4",), least_memory_bytes=2 * 10**9, tight_on=("L4",)),
        replace(NOT_KNOWN, paged_bytes={"L4": 10**8}, row_tokens=1024),
    ]
    estimates = {one.run_id: need for one, need in zip(runs, needs, strict=True)}
    lines = warnings(runs, set(), estimates)
    label = runs[0].spec.quant.label
    assert lines[0] == f"does not fit T4: 2 of 3 runs (a {label}); they need 2.0 GB or more"
    assert lines[1].startswith(f"tight on L4: 1 of 3 runs (a {label}); rows will be shorter there")
    assert lines[2].startswith(f"pages on L4: 1 of 3 runs (b {label}); each moves up to 0.1 GB")
    assert f"time unknown: {NO_SPEED}" in lines
    assert warnings(runs, {one.run_id for one in runs}, estimates) == [], "what is done needs nothing"
    elsewhere = {runs[0].run_id: replace(NOT_KNOWN, seconds_unknown=NO_DEVICE)}
    assert "--device H100 tells what fits" in warnings(runs[:1], set(), elsewhere)[-1]
    large = {run_id: replace(need, disk_bytes=10**9) for run_id, need in estimates.items()}
    assert disk_warning(runs, large, 3 * 10**9) == []
    (full,) = disk_warning(runs, large, 25 * 10**8)
    assert full == "does not fit the disk of paths.runs: 3.0 GB of adapters, 2.5 GB are free"


def test_problems_of_one_kind_share_a_line_once_there_are_many() -> None:
    few = [f"weights of m{n} (x/m{n}): not found" for n in range(FEW_PROBLEMS)]
    assert condensed(few) == few
    names = SHOWN_NAMES + 2
    many = [f"weights of m{n}: not found\n    remedy: put them there" for n in range(names)] * FEW_PROBLEMS
    (line,) = condensed(many)
    shown = ", ".join(f"m{n}" for n in range(SHOWN_NAMES))
    assert line == f"weights of {shown} and 2 more: not found\n    remedy: put them there"
    kinds = [f"problem {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(SCREEN_LINES + 3 + FEW_PROBLEMS)]
    found = condensed(kinds)
    assert found[:SCREEN_LINES] == kinds[:SCREEN_LINES]
    assert found[SCREEN_LINES:] == [f"... and {3 + FEW_PROBLEMS} more kinds of problems"]


def test_the_named_grids_are_listed_with_their_sizes() -> None:
    listed = {grid["name"]: grid for grid in listed_grids()}
    assert listed["thousand"]["num_runs"] == 1799
    assert ("thousand", "1799", listed["thousand"]["title"]) in [tuple(row) for row in grids_table().rows]
