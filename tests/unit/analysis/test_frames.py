"""Frames of a folder, a sweep and a tournament: one row for each thing, what failed too, types, units, Parquet."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pyarrow import parquet

from analysis.effects.compare import effect_of
from analysis.effects.measures import of_column, of_questions, of_scores, of_verdicts, rating_values
from analysis.frames import answers, describe, metrics, questions, ratings, runs, scores, to_parquet, unit_of, verdicts
from analysis.leaderboard.rating import rate_missing
from analysis.report.records import load_tournament
from analysis.tidy import sources
from analysis.tidy.rows import RunRows, joined
from analysis.tidy.sources import Source, tournament_verdicts
from eval.benchmarks.by_question import read_questions
from eval.ratings.rate import RateOptions, rate_files
from eval.verdicts.table import load_verdicts
from harness.ledger.tables import JobStatus
from tests.builders import spec
from tests.records.recorded_sweep import (
    FAILED,
    QUESTIONS,
    SWEEP,
    UNSCORED,
    WAITING,
    grid_specs,
    label_of,
    write_run,
    write_sweep,
    write_tournament,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder / "runs")
    write_tournament(folder / "tournament")
    return folder


@pytest.fixture
def source(place: Path) -> dict[str, Any]:
    return {"runs_folder": place / "runs", "sweep": SWEEP}


def test_a_run_is_a_row_with_its_axes_whatever_became_of_it(source: dict[str, Any]) -> None:
    frame = runs(**source)
    assert frame["label"].tolist() == [label_of(number) for number in (0, 1, 2, 3, 4, 5, 6, 8, 7)]  # as they were added
    frame = frame.set_index("label", drop=False).loc[[label_of(number) for number in range(9)]].reset_index(drop=True)
    assert frame["state"].tolist() == ["done"] * 6 + ["failed", "queued", "done"]
    assert frame["reason"][FAILED] == "out of memory"
    assert frame["reason"].isna().tolist() == [True] * 6 + [False, False, True]
    assert frame["lora_r"].tolist()[:8] == [8, 8, 64, 64] * 2
    assert frame["seed"].tolist()[:8] == [0, 1] * 4
    assert frame["data_type"].tolist() == ["bf16"] * 4 + ["nf4"] * 5
    assert frame["final_loss"].isna().tolist() == [False] * 6 + [True] * 3
    base = frame.iloc[8]
    assert (base["method"], bool(base[["dataset", "lora_r", "learning_rate"]].isna().all())) == ("none", True)


def test_columns_have_the_types_of_what_they_hold(source: dict[str, Any]) -> None:
    types = {name: str(kind) for name, kind in runs(**source).dtypes.items()}
    assert types["lora_r"] == types["seed"] == types["peak_memory_bytes"] == "Int64"
    assert types["learning_rate"] == types["final_loss"] == "Float64"
    assert types["data_type"] == types["model"] == types["state"] == "category"
    assert types["started"].startswith("datetime64")
    assert list(runs(**source)["data_type"].cat.categories) == ["bf16", "nf4"]


def test_every_column_has_a_meaning_and_numbers_have_a_unit(source: dict[str, Any]) -> None:
    for frame in (runs(**source), scores(**source), metrics(**source), questions(**source), answers(**source)):
        assert not describe(frame)["about"].eq("A key of the run's config.").any()
    assert unit_of("peak_memory_bytes") == "bytes"
    assert unit_of("final_loss") == "nats a token"
    assert unit_of("model") is None


def test_a_key_without_an_axis_of_its_own_is_a_column_where_runs_differ(tmp_path: Path) -> None:
    first = grid_specs()[0]
    assert first.train is not None
    for decay in (0.0, 0.1):
        found = replace(first, train=replace(first.train, weight_decay=decay))
        write_run(tmp_path / found.run_id, found, f"decay {decay}", 0)
    frame = runs(runs_folder=tmp_path)
    assert sorted(frame["train.weight_decay"]) == [0.0, 0.1]
    assert "train.adam_beta1" not in frame
    assert "train.weight_decay" in scores(runs_folder=tmp_path)


def test_a_folder_without_a_ledger_tells_what_was_cut_and_what_cannot_be_read(tmp_path: Path) -> None:
    found = grid_specs()[0]
    write_run(tmp_path / "a", found, "whole", 0)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(grid_specs()[2].to_dict()))
    write_run(tmp_path / "c", found, "bad", 0)
    (tmp_path / "c" / "record.json").write_text("{")
    (tmp_path / "slurm").mkdir()
    frame = runs(runs_folder=tmp_path)
    assert frame["state"].tolist() == ["done", "cut", "unreadable"]
    assert "no such file" in frame["reason"][1]
    assert "not JSON" in frame["reason"][2]
    assert frame["lora_r"].tolist()[:2] == [8, 64]
    assert not [name for name in frame if "." in name]  # what can't be read differs in no key


def test_scores_say_what_was_measured_and_what_was_not(source: dict[str, Any]) -> None:
    frame = scores(**source)
    done = frame[frame["value"].notna()]
    assert set(done["metric"]) == {"accuracy_macro", "accuracy_micro", "token_perplexity", "bits_per_byte"}
    headline = done[done["is_headline"]]
    assert headline.groupby("evaluation", observed=True)["higher_is_better"].first().to_dict() == {
        "mmlu": True,
        "perplexity pile_cc": False,
    }
    assert set(headline["unit"]) == {"share", "perplexity"}
    missing = frame[frame["value"].isna()].set_index("label")
    assert missing["state"].to_dict() == {
        label_of(0): "queued",  # a second evaluation of it
        label_of(UNSCORED): "done",
        label_of(FAILED): "failed",
        label_of(WAITING): "queued",
    }
    assert missing.loc[label_of(UNSCORED), "reason"] == "nothing was measured"
    assert missing.loc[label_of(0), "evaluation"] == "mmlu"
    assert {"data_type", "lora_r", "seed"} <= set(frame)


def test_scores_by_question_add_up_to_the_score(source: dict[str, Any]) -> None:
    frame, whole = questions(**source), scores(**source)
    mmlu = frame[frame["evaluation"] == "mmlu"]
    assert len(mmlu) == 6 * QUESTIONS
    means = mmlu.groupby("label", observed=True)["value"].mean()
    micro = whole[whole["metric"] == "accuracy_micro"].set_index("label")["value"]
    assert means.to_dict() == pytest.approx(micro.to_dict())
    texts = frame[frame["evaluation"] == "perplexity pile_cc"]
    nll = (texts["value"] * texts["weight"]).groupby(texts["label"], observed=True).sum() / 40
    perplexity = whole[whole["metric"] == "token_perplexity"].set_index("label")["value"]
    assert np.exp(nll.astype(float)).to_dict() == pytest.approx(perplexity.to_dict())


def test_steps_and_answers(source: dict[str, Any]) -> None:
    steps = metrics(**source)
    assert steps.groupby("label", observed=True)["step"].count()[label_of(0)] == 3
    assert steps["loss"].isna().sum() == 2
    assert steps["reason"].dropna().iloc[0] == "out of memory"
    found = answers(**source)
    assert found["answer"].notna().sum() == 7 * 6
    assert set(found["system"]) == {label_of(number) for number in range(9)}
    assert found["prompt"].dropna().unique().tolist() == ["Why?"]


def test_a_step_that_was_made_again_counts_once_and_a_torn_line_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a", grid_specs()[0], "one", 0)
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 2, "loss": 2.0}', '{"step": 2, "loss": 1.0}', '{"step": 3, "lo']
    (tmp_path / "a" / "metrics.jsonl").write_text("\n".join(lines))
    assert metrics(runs_folder=tmp_path)["loss"].tolist() == [3.0, 1.0]
    for wrong in ('{"step": 1, "loss": "x"}', '{"step": 1, "loss": NaN}', '{"step": 1}', '{"step": 1.5, "loss": 1.0}'):
        (tmp_path / "a" / "metrics.jsonl").write_text(f"{wrong}\n")
        with pytest.raises(ValueError, match=r"metrics.jsonl: .*(loss|step)|metrics.jsonl: .*NaN"):
            metrics(runs_folder=tmp_path)


def test_answers_of_other_systems_need_no_runs(tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"question_id": 7, "system": "gpt", "answer": "Yes."}\n')
    frame = answers(files=[file])
    assert frame[["system", "bench", "question_id", "answer"]].to_numpy().tolist() == [["gpt", "other", "7", "Yes."]]
    assert frame["run_id"].isna().all()


def test_a_tournament_has_verdicts_ratings_and_the_runs_that_play(
    place: Path, source: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = partial(RateOptions, orderings=0, resamples=50)
    monkeypatch.setattr("analysis.tidy.ratings.RateOptions", quick)
    tournament = place / "tournament"
    rows = verdicts(tournament=tournament)
    loaded = load_verdicts([tournament / "verdicts.csv"])
    assert len(rows) == len(loaded)
    assert rows["verdict"].eq("unparsed").sum() == (~loaded.parsed).sum() > 0
    assert rows["rater"].isna().all()
    players = runs(runs_folder=place / "runs", tournament=tournament)["label"]
    assert set(players) == {label_of(number) for number in range(4)}
    rated = ratings(tournament=tournament, **source)
    whole = rate_files([tournament / "verdicts.csv"], quick())
    mine = rated[rated["rating"] == "bradley_terry"].set_index("system")
    assert mine["value"].to_dict() == pytest.approx({name: r.rating for name, r in whole.bradley_terry.items()})
    assert mine["lora_r"][label_of(3)] == 64
    assert mine["rank"].min() == 1
    left = rated[rated["value"].isna()].set_index("system")
    assert left["state"][label_of(FAILED)] == "failed"
    assert left["reason"][label_of(4)] == "no verdict names it"


def test_verdicts_keep_their_turn_and_benchmark(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("question_id,system_a,system_b,verdict,turn,bench\n1,x,y,1,1,mt\n1,x,y,2,2,mt\n")
    frame = verdicts(files=[tmp_path / "v.csv"])
    assert (frame["judged_turn"].tolist(), frame["benchmark"].tolist()) == ([1, 2], ["mt", "mt"])


def test_a_tournament_of_grades_is_read_by_frames_and_report(tmp_path: Path) -> None:
    """As `judge --mode single` leaves it: without verdicts.csv."""
    (tmp_path / "graded_verdicts.csv").write_text("question_id,system_a,system_b,verdict,judge\n1,x,y,1,j\n2,x,y,2,j\n")
    assert tournament_verdicts(tmp_path).verdict.tolist() == [1, 2]
    assert "graded_verdicts.csv" in (rate_missing(tmp_path, (), tmp_path / "site") or "")
    played = load_tournament(tmp_path)
    assert [(verdict.question_id, verdict.verdict) for verdict in played.verdicts] == [("1", 1), ("2", 2)]
    assert set((played.ratings or {})["bradley_terry"]) == {"x", "y"}
    (tmp_path / "verdicts.csv").write_text("question_id,system_a,system_b,verdict,judge\n1,x,y,3,j\n")
    assert tournament_verdicts(tmp_path).verdict.tolist() == [3], "the pairwise ones come first"


def test_a_frame_comes_back_from_parquet_with_its_categories_and_units(source: dict[str, Any], tmp_path: Path) -> None:
    for frame in (runs(**source), scores(**source), metrics(**source)):
        to_parquet(frame, tmp_path / "frame.parquet")
        back = pd.read_parquet(tmp_path / "frame.parquet")
        pd.testing.assert_frame_equal(back, frame, check_categorical=False)
        kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
        assert {name: str(kind) for name, kind in back.dtypes.items()} == kinds
    to_parquet(runs(**source), tmp_path / "frame.parquet")
    assert list(pd.read_parquet(tmp_path / "frame.parquet")["state"].cat.categories) == list(
        runs(**source)["state"].cat.categories
    )
    assert parquet.read_schema(tmp_path / "frame.parquet").field("final_loss").metadata[b"unit"] == b"nats a token"


def test_the_folder_of_the_environment_is_the_default(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS", str(place / "runs"))
    monkeypatch.delenv("HARNESS_LEDGER_URL", raising=False)
    assert len(runs()) == len(runs(sweep=SWEEP)) == 9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sweep": "other"}, "no such sweep"),
        ({"runs_folder": "nowhere"}, "no such folder of runs"),
        ({"sweep": None, "tournament": "nowhere"}, "no such folder"),
    ],
)
def test_a_source_that_is_not_there_is_named(source: dict[str, Any], wrong: dict[str, Any], message: str) -> None:
    chosen = {"runs_folder": wrong["runs_folder"]} if "runs_folder" in wrong else source | wrong
    with pytest.raises(ValueError, match=message):
        runs(**chosen)


def test_effects_of_questions_of_single_numbers_and_of_ratings(place: Path, source: dict[str, Any]) -> None:
    frame = runs(**source)
    by_question = effect_of(of_questions(frame, questions(**source), "mmlu"), "lora_r", 64, 8)
    as_one = effect_of(of_scores(frame, scores(**source), "mmlu", "accuracy_micro"), "lora_r", 64, 8)
    assert by_question.difference == pytest.approx(as_one.difference)
    assert (by_question.num_pairs, by_question.num_questions, as_one.num_questions) == (2, QUESTIONS, 1)
    with pytest.raises(ValueError, match="twice"):
        of_questions(frame, pd.concat([questions(**source)] * 2), "mmlu")
    losses = of_column(frame, "final_loss")
    assert losses.higher_is_better is False
    assert effect_of(losses, "lora_r", 64, 8).difference == pytest.approx(0.2)
    assert "1 untouched base left out" in losses.left_out[0]
    assert "2 runs left out, not done" in losses.left_out[1]
    nats = of_questions(frame, questions(**source), "perplexity pile_cc")
    assert effect_of(nats, "lora_r", 64, 8).difference == pytest.approx(2 * 2 / 40)
    loaded = load_verdicts([place / "tournament" / "verdicts.csv"])
    rated = rate_files([place / "tournament" / "verdicts.csv"], RateOptions(orderings=0))
    points = {name: rating.rating for name, rating in rated.bradley_terry.items()}
    effect = effect_of(of_verdicts(frame, loaded), "lora_r", 64, 8)
    assert effect.difference == pytest.approx(sum(points[label_of(n)] * (1 if n > 1 else -1) for n in range(4)) / 2)
    assert effect.num_pairs == 2


def test_ratings_by_prompt_spread_as_the_bootstrap_says(place: Path) -> None:
    """Six prompts: the jackknife's error is within a third of the bootstrap's."""
    loaded = load_verdicts([place / "tournament" / "verdicts.csv"])
    prompts, values, _ = rating_values(loaded)
    assert len(prompts) == values.shape[1] == 6
    rated = rate_files([place / "tournament" / "verdicts.csv"], RateOptions(orderings=0))
    for name, row in zip(loaded.system_names, values, strict=True):
        found = rated.bradley_terry[name]
        assert row.mean() == pytest.approx(found.rating)
        assert found.low is not None
        assert found.high is not None
        half = 2.571 * row.std(ddof=1) / np.sqrt(6)  # t of 5 degrees of freedom
        assert half == pytest.approx((found.high - found.low) / 2, rel=0.34)


def test_the_folder_of_a_tournament_is_named_or_that_of_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs_folder = tmp_path / "runs"
    assert Source(runs_folder=runs_folder).tournament_folder() is None
    assert Source(runs_folder=runs_folder, tournament=tmp_path).tournament_folder() == tmp_path
    with pytest.raises(ValueError, match="tournament=nowhere: no such folder"):
        Source(runs_folder=runs_folder, tournament="nowhere").tournament_folder()
    source = Source(runs_folder=runs_folder, sweep="demo")
    with pytest.raises(ValueError, match=r"sweep=demo: neither tournaments/demo/verdicts.csv nor .*runs/tournaments"):
        source.tournament_folder()
    beside = runs_folder / "tournaments" / "demo"
    for folder in (beside, Path("tournaments/demo")):
        folder.mkdir(parents=True)
        (folder / "verdicts.csv").write_text("")
        assert source.tournament_folder() == folder
    with pytest.raises(ValueError, match=r"verdicts.csv: no such file; make it with `python -m eval judge`"):
        tournament_verdicts(tmp_path)


def test_rows_of_nothing_and_of_runs_that_are_not_known_have_gaps() -> None:
    rows = RunRows()
    rows.add(None, {"value": 1.5}, "why", state="failed")
    rows.add_many(None, 2, {"value": [2.5, 3.5]}, {"name": "x"})
    assert len(rows) == 2
    assert rows.column("name") == [None, "x", "x"]
    frame = joined(rows, [], ("value", "name"), {"name": "called"})
    assert frame.columns.tolist() == ["run_id", "label", "state", "reason", "value", "called"]
    assert frame["value"].tolist() == [1.5, 2.5, 3.5]
    assert frame["state"].tolist()[0] == "failed"
    assert frame[["run_id", "label"]].isna().all().all()
    assert frame["reason"].isna().tolist() == [False, True, True]


def test_a_run_that_is_done_but_lies_nowhere_keeps_its_label_and_its_plan(tmp_path: Path) -> None:
    row = SimpleNamespace(run_id="ab", status=JobStatus.done, label="l", payload='{"spec": {"a": 1}}', reason=None)
    found = sources._of_job(tmp_path, row)  # type: ignore[arg-type]
    assert (found.label, found.spec, found.state) == ("l", {"a": 1}, "cut")
    assert found.reason == f"{tmp_path / 'ab' / 'record.json'}: no such file"
    waiting = SimpleNamespace(run_id="ab", status=JobStatus.queued, label="l", payload='{"spec": 1}', reason=None)
    planned = sources._of_job(tmp_path, waiting)  # type: ignore[arg-type]
    assert (planned.state, planned.reason, planned.spec) == ("queued", "queued: not trained yet", {})
    assert (planned.folder, planned.record) == (tmp_path / "ab", None)
    failed = SimpleNamespace(run_id="ab", status=JobStatus.failed, label="l", payload="{}", reason="memory")
    assert sources._of_job(tmp_path, failed).reason == "memory"  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b"", b"- 1", b"a: [", b"a: \xff\xfe"])
def test_a_config_that_is_no_mapping_says_nothing(text: bytes, tmp_path: Path) -> None:
    assert sources._written_spec(tmp_path) == {}
    (tmp_path / "config.yaml").write_bytes(text)
    assert sources._written_spec(tmp_path) == {}
    (tmp_path / "config.yaml").write_text("a: 1")
    assert sources._written_spec(tmp_path) == {"a": 1}


def test_questions_that_can_not_be_read_are_refused_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "mmlu" / "mmlu.json").write_text('{"per_subject": 1}')
    with pytest.raises(ValueError, match=r"mmlu.json: its questions can't be read \(.*\); score the run again"):
        list(read_questions(tmp_path))


def test_what_a_frame_lacks_is_said_with_what_there_is(source: dict[str, Any]) -> None:
    table, scored, asked = runs(**source), scores(**source), questions(**source)
    with pytest.raises(ValueError, match=r"nothing: no such column; the runs have run_id, label"):
        of_column(table, "nothing")
    with pytest.raises(ValueError, match=r"mmlu nothing: no run has such a score; there is .*mmlu accuracy_macro"):
        of_scores(table, scored, "mmlu", "nothing")
    with pytest.raises(ValueError, match=r"glue : no run has such results by question; there is .*mmlu"):
        of_questions(table, asked, "glue")
    with pytest.raises(ValueError, match=r"mmlu nothing: no run has such results by question"):
        of_questions(table, asked, "mmlu", "nothing")
    other = asked[asked["evaluation"] == "mmlu"].assign(metric="other")
    with pytest.raises(ValueError, match="mmlu: name a metric; there are "):
        of_questions(table, pd.concat([asked, other]), "mmlu")
    mmlu = asked[asked["evaluation"] == "mmlu"]
    with pytest.raises(ValueError, match=r"mmlu: run \w+ has question .* twice; score it again"):
        of_questions(table, pd.concat([mmlu, mmlu]), "mmlu")
    loss = of_column(table, "final_loss")
    assert (loss.measure, loss.higher_is_better, loss.unit) == ("final_loss", False, unit_of("final_loss"))
    assert of_column(table, "final_loss", higher_is_better=True).higher_is_better is True
    assert of_column(table, "lora_r").higher_is_better is True


def found(name: str, **changes: Any) -> sources.FoundRun:
    values = {"run_id": name, "folder": Path(name), "label": name, "state": "done", "reason": None, "spec": {}}
    return sources.FoundRun(**{**values, "record": None, **changes})


def test_a_row_of_no_run_has_nothing_of_the_runs_columns_and_no_rows_have_no_lines() -> None:
    small, large = (spec(adapter=("lora", {"lora_r": r})).to_dict() for r in (8, 64))
    known = [found("a", spec=small), found("b", spec=large, state="failed", reason="memory")]
    rows = RunRows()
    for run in (known[1], None, known[0]):
        rows.add(run, {"value": 1.0}, None)
    frame = joined(rows, known, ("value",))
    for name in ("run_id", "label"):
        assert frame[name].astype("object").where(frame[name].notna(), None).tolist() == ["b", None, "a"]
    assert frame["lora_r"].astype("object").where(frame["lora_r"].notna(), None).tolist() == [64, None, 8]
    assert frame["reason"].isna().tolist() == [False, True, True]
    assert frame["state"].astype("object").where(frame["state"].notna(), None).tolist() == ["failed", None, "done"]
    empty = joined(RunRows(), known, ("value",))
    assert (len(empty), empty.columns.tolist()) == (0, frame.columns.tolist())


@pytest.mark.parametrize(
    ("file", "frame"),
    [
        ("metrics.jsonl", metrics),
        ("answers/open.jsonl", answers),
        ("eval/mmlu/mmlu.json", scores),
        ("eval/mmlu/mmlu.json", questions),
    ],
)
def test_one_unreadable_run_is_a_row_with_its_reason(
    place: Path, tmp_path: Path, file: str, frame: Callable[..., pd.DataFrame]
) -> None:
    shutil.copytree(place / "runs", tmp_path / "runs")
    ids = {row.label: row.run_id for row in runs(runs_folder=tmp_path / "runs", sweep=SWEEP).itertuples()}
    (tmp_path / "runs" / ids[label_of(0)] / file).write_text('{"torn\n{"again\n')
    found = frame(runs_folder=tmp_path / "runs", sweep=SWEEP)
    row = found[found["label"] == label_of(0)]
    assert len(row) == 1
    assert row["state"].iloc[0] == "unreadable"
    assert Path(file).name in row["reason"].iloc[0]
    assert len(found[found["label"] == label_of(1)]) == len(
        frame(runs_folder=place / "runs", sweep=SWEEP).query(f"label == '{label_of(1)}'")
    )
