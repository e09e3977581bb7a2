"""`python -m analysis compare` on a sweep of files, and its choice of settings on grids whose truth is known."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.compare.contest import compare_levels
from analysis.compare.levels import ADAPTER, Layout, layout_of, with_choices
from analysis.compare.options import Correction, Options, SelectOn
from analysis.compare.search import halves
from analysis.compare.words import sentence
from analysis.effects.grid import GridResults
from analysis.tidy.rows import runs_frame
from analysis.tidy.sources import Source, found_runs
from benchmarks.compare_simulation import LAYOUT, Design, by_maximum, contest_of, drawn, grid_of
from harness.config.schema import AdapterConfig, AdapterMethod
from harness.files.atomic import write_json
from harness.runs.record import save_record
from harness.runs.spec import RunSpec
from tests.records.recorded_sweep import grid_specs, mmlu_values, record_of

METHODS = ("lora", "dora", "rslora")
RATES, SEEDS, QUESTIONS = (1e-4, 2e-4), (0, 1, 2), 60


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods by two rates by three seeds: dora is far ahead at the higher rate; one run was cut off."""
    folder: Path = tmp_path_factory.mktemp("methods") / "runs"
    for number, (method, rate, seed) in enumerate(product(METHODS, RATES, SEEDS)):
        spec = _spec(method, rate, seed)
        if (method, rate, seed) == ("rslora", 1e-4, 2):
            (folder / spec.run_id).mkdir()
            (folder / spec.run_id / "config.yaml").write_text(yaml.safe_dump(spec.to_dict()))
            continue
        share = 0.9 if (method, rate) == ("dora", 2e-4) else 0.5
        label, loss = f"{method}-{rate:g}-s{seed}", 2.0 - share + seed / 100
        save_record(folder / spec.run_id, replace(record_of(spec.run_id, spec, label, 1.0), eval_loss=loss))
        write_json(folder / spec.run_id / "eval" / "mmlu" / "mmlu.json", _mmlu(label, number, share))
    return folder


def _spec(method: str, rate: float, seed: int) -> RunSpec:
    first = grid_specs()[0]
    assert first.train is not None
    adapter = AdapterConfig(name=method, method=AdapterMethod(method), lora_dropout=0.1)
    return replace(first, adapter=adapter, train=replace(first.train, learning_rate=rate, seed=seed))


def _mmlu(label: str, number: int, share: float) -> dict[str, Any]:
    values = mmlu_values(label, number, QUESTIONS)
    right = np.random.default_rng([7, number]).random(QUESTIONS) < share
    for row, is_right in zip(values["predictions"], right, strict=True):
        row["choice"] = int(is_right)
    return values


def _compare(folder: Path, *options: str) -> dict[str, Any]:
    found = CliRunner().invoke(app, ["compare", "--runs", str(folder), "--json", *options])
    assert found.exit_code == 0, found.output
    values: dict[str, Any] = json.loads(found.stdout)
    return values


def test_the_best_setting_of_each_is_chosen_by_the_held_out_loss_of_other_seeds(runs_folder: Path) -> None:
    [found] = _compare(runs_folder, "--axis", "adapter", "--on", "mmlu", "--margin", "5")["scores"]
    assert (found["unit"], found["axis"], found["num_questions"]) == ("points", "adapter", QUESTIONS)
    assert "the held-out loss of seed 0" in found["source"]
    best = found["standings"][0]
    assert (best["level"], best["setting"], best["num_settings"]) == ("dora", "learning rate 0.0002", 2)
    assert best["num_compared_runs"] == 2  # seeds 1 and 2
    rights = [_right("dora", 2e-4, seed) for seed in (1, 2)]
    assert best["value"] == pytest.approx(100 * np.mean(rights))
    assert {(pair["first"], pair["second"]) for pair in found["pairs"] if pair["is_different"]} == {
        ("dora", "lora"),
        ("dora", "rslora"),
    }
    assert all(pair["is_equal"] is False for pair in found["pairs"])
    assert re.match(r"2 of 3 pairs of methods differ on mmlu accuracy; dora is better than 2; ", found["sentence"])


def _right(method: str, rate: float, seed: int) -> list[bool]:
    number = list(product(METHODS, RATES, SEEDS)).index((method, rate, seed))
    share = 0.9 if (method, rate) == ("dora", 2e-4) else 0.5
    return [row["choice"] == row["answer"] for row in _mmlu("", number, share)["predictions"]]


def test_runs_without_a_score_and_unequal_budgets_are_named(runs_folder: Path) -> None:
    [found] = _compare(runs_folder, "--on", "mmlu")["scores"]
    [cut] = found["left_out"]
    assert cut["run_id"] == _spec("rslora", 1e-4, 2).run_id
    assert (cut["state"], "record.json: no such file" in cut["reason"]) == ("cut", True)
    assert "rslora 2 settings in 5 runs" in found["budget_note"]
    assert found["pairs"][0]["is_equal"] is None  # no margin was stated


def test_a_margin_belongs_to_scores_in_points_unless_it_names_another(runs_folder: Path) -> None:
    found = _compare(runs_folder, "--on", "mmlu,eval_loss", "--margin", "1.5", "--margin", "eval_loss=0.02")["scores"]
    assert [score["margin"] for score in found] == [1.5, 0.02]
    loss = found[1]
    assert (loss["unit"], loss["higher_is_better"], loss["num_questions"]) == ("nats a token", False, 1)
    assert loss["standings"][0]["level"] == "dora"
    pair = next(pair for pair in loss["pairs"] if pair["second"] == "lora")
    assert pair["first"] == "dora"
    assert pair["difference"] == pytest.approx(-0.4)


def test_the_text_reads_at_80_columns_and_is_written(runs_folder: Path, tmp_path: Path) -> None:
    arguments = ["compare", "--runs", str(runs_folder), "--on", "mmlu", "--margin", "1", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    text = (tmp_path / "out" / "compare.txt").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("2 of 3 pairs of methods differ on mmlu accuracy")
    for words in ("dora - lora", "left out: ", "corrected for 3 pairs by Holm", "tried"):
        assert words in text
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["scores"][0]["axis"] == "adapter"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--on", "mmlu", "--axis", "lora_r"], "all runs have the same; they differ in adapter, method, learning_rate"),
        (["--on", "mmlu", "--axis", "learning_rat"], "no axis of these runs"),
        (["--on", "gsm8k"], "--on gsm8k: no run has such a score"),
        (["--on", ","], "--on: name a score"),
        (["--on", "mmlu", "--margin", "0"], "a number above 0"),
        (["--on", "mmlu", "--margin", "loss=1"], "--on names mmlu"),
        (["--on", "eval_bits_per_byte"], "train with train.eval_rows=N"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_remedy(
    runs_folder: Path, options: Sequence[str], said: str
) -> None:
    found = CliRunner().invoke(app, ["compare", "--runs", str(runs_folder), *options])
    assert found.exit_code == 2
    assert said in " ".join(found.output.split())


def test_axes_are_sorted_into_search_space_context_and_what_a_level_gives(runs_folder: Path) -> None:
    found = found_runs(Source(runs_folder=runs_folder))
    frame = with_choices(runs_frame(found), found)
    layout = layout_of(frame, "adapter")
    assert (layout.searched, layout.within, layout.along) == (("learning_rate",), (), ("method",))
    assert layout_of(frame, "adapter", ["learning_rate"]).within == ("learning_rate",)
    by_rate = layout_of(frame, "train.learning_rate")
    assert (by_rate.axis, by_rate.searched) == ("learning_rate", ("method",))


def _grid(values: Sequence[Sequence[float]], rows: Sequence[dict[str, Any]], **more: Any) -> GridResults:
    runs = pd.DataFrame(list(rows), index=[f"run{number}" for number in range(len(rows))])
    names = [f"q{number}" for number in range(len(values[0]))] if len(values[0]) > 1 else [""]
    table = np.array(values, dtype=np.float64)
    return GridResults.of(runs, table, measure="score", questions=names, axes=LAYOUT.columns, seeds=("seed",), **more)


def _rows(methods: Sequence[str], rates: Sequence[float], seeds: Sequence[int]) -> list[dict[str, Any]]:
    named = [
        dict(zip((ADAPTER, "learning_rate", "seed"), values, strict=True)) for values in product(methods, rates, seeds)
    ]
    return named


def test_what_chooses_is_not_what_is_compared() -> None:
    """Seed 0 says rate 1, where seeds 1 and 2 are worse: the result is theirs, and the maximum is beside it."""
    rows = _rows(["a", "b"], [1.0, 2.0], [0, 1, 2])
    values = [[9.0], [1.0], [2.0], [5.0], [6.0], [7.0]] * 2
    found = compare_levels(_grid(values, rows), LAYOUT, {}, Options())
    standing = found.standings[0]
    assert (standing.setting, standing.value, standing.uncorrected) == ("learning rate 1", 1.5, 6.0)
    assert found.source == "score of seed 0"


def test_questions_that_choose_are_not_compared() -> None:
    chosen = halves([f"q{number}" for number in range(9)])
    assert chosen.sum() == 5
    rows = _rows(["a", "b"], [1.0, 2.0], [0, 1])
    first, second = np.where(chosen, 0.0, 9.0), np.where(chosen, 1.0, 0.0)  # the first is better where it is chosen
    grid = _grid([first.tolist(), first.tolist(), second.tolist(), second.tolist()] * 2, rows)
    found = compare_levels(grid, LAYOUT, {}, Options(select_on=SelectOn.questions))
    assert [standing.setting for standing in found.standings] == ["learning rate 1"] * 2
    assert found.num_questions == 5
    assert found.standings[0].value == 0.0


def test_other_models_are_compared_apart() -> None:
    rows = [row | {"model": model} for model in ("7b", "13b") for row in _rows(["a", "b"], [1.0], [0, 1, 2])]
    rng = np.random.default_rng(0)
    values = [[rng.normal() + 10 * (row["model"] == "13b") + 5 * (row[ADAPTER] == "b")] for row in rows]
    layout = Layout(axis=ADAPTER, within=("model",), searched=(), along=(), seeds=("seed",))
    runs = pd.DataFrame(rows, index=[f"run{number}" for number in range(len(rows))])
    grid = GridResults.of(runs, np.array(values), measure="score", axes=layout.columns, seeds=("seed",))
    found = compare_levels(grid, layout, {}, Options())
    assert [(pair.first, pair.second, pair.block) for pair in found.pairs] == [
        ("b", "a", "model 7b"),
        ("b", "a", "model 13b"),
    ]
    assert all(pair.difference < 10 for pair in found.pairs)


def test_a_run_that_was_measured_otherwise_is_left_out_and_named() -> None:
    rows = _rows(["a", "b"], [1.0], [0, 1, 2])
    grid = _grid([[1.0], [2.0], [3.0], [1.5], [2.5], [99.0]], rows, settings=["x"] * 5 + ["y"])
    found = compare_levels(grid, LAYOUT, {}, Options())
    assert any("left out: run5" in note for note in found.notes)
    assert next(s for s in found.standings if s.level == "b").value == 2.0


def test_what_goes_along_with_a_level_is_said_and_points_end_at_a_hundred() -> None:
    rows = _rows(["a", "b"], [1.0], [0, 1, 2])
    grid = replace(_grid([[99.0], [100.0], [97.0], [50.0], [52.0], [51.0]], rows), unit="points")
    found = compare_levels(grid, replace(LAYOUT, along=("method", "lora_r", "adapter.peft_type")), {}, Options())
    assert "methods differ in r, too: it is a part of each" in found.notes
    assert found.standings[0].high == 100.0


def test_one_seed_with_a_search_says_what_stays_and_one_number_is_refused() -> None:
    rows = _rows(["a", "b"], [1.0, 2.0], [0])
    rng = np.random.default_rng(0)
    found = compare_levels(_grid(rng.normal(size=(4, 20)).tolist(), rows), LAYOUT, {}, Options())
    assert any("the luck of the run that was chosen stays" in note for note in found.notes)
    with pytest.raises(ValueError, match="one seed and one number a run"):
        compare_levels(_grid([[1.0], [2.0], [3.0], [4.0]], rows), LAYOUT, {}, Options())


@pytest.mark.parametrize(
    ("ahead", "correction", "said"),
    [
        (0.0, Correction.holm, r"[ab] and [ab] are equal within 3 on score: .*; this design detects \d"),
        (0.0, Correction.none, r"[ab] and [ab] are equal within 3 on score: "),
        (9.0, Correction.bh, r"b is better than a on score: \+\S+, 95 % \S+ to \S+, p = "),
    ],
)
def test_two_levels_are_a_plain_sentence(ahead: float, correction: Correction, said: str) -> None:
    rows, rng = _rows(["a", "b"], [1.0], range(6)), np.random.default_rng(0)
    values = [[rng.normal() + ahead * (row[ADAPTER] == "b")] for row in rows]
    found = compare_levels(_grid(values, rows), LAYOUT, {}, Options(margin=3.0, correction=correction))
    assert re.match(said, sentence(found)), sentence(found)
    assert asdict(found.pairs[0])["p_corrected"] == found.pairs[0].p_value  # a single pair


def test_twelve_tuned_methods_without_a_difference_keep_the_error() -> None:
    """Seeded; the study is `python -m benchmarks.compare_simulation`."""
    design = Design(name="small", num_methods=12, num_rates=5, num_questions=24, sd_run=5.0)
    grid, rng, trials = grid_of(design), np.random.default_rng(0), 24
    found = [contest_of(drawn(grid, design, rng, 0.0), margin=None) for _ in range(trials)]
    errors = [pair.p_value is not None and pair.p_value < 0.05 for contest in found for pair in contest.pairs]
    assert len(errors) == 66 * trials
    assert 0.02 <= np.mean(errors) <= 0.08  # pairs of a trial share methods, so that it varies
    assert sum(any(pair.is_different for pair in contest.pairs) for contest in found) <= 0.1 * trials


def test_more_rates_are_no_advantage_where_a_maximum_would_be_one() -> None:
    """The best of 12 rates is ahead of a single one nearly always; what is compared is ahead as often as behind."""
    design = Design(name="", num_rates=12, num_rates_of_first=1, num_seeds=6, num_questions=1, sd_rest=0.0)
    grid, rng = grid_of(design), np.random.default_rng(0)
    tables = [drawn(grid, design, rng, 0.0) for _ in range(80)]
    assert np.mean([by_maximum(table).value > 0 for table in tables]) > 0.8
    assert 0.35 < np.mean([contest_of(table, None).pairs[0].first == "m01" for table in tables]) < 0.65
