"""Exports: lm-eval's results files, Every Eval Ever's records, tables, wandb's tables and hub folders."""

import contextlib
import hashlib
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.exports import every_eval_ever
from analysis.exports.every_eval_ever import every_eval_ever_record, write_every_eval_ever
from analysis.exports.hub import write_hub
from analysis.exports.lm_eval import lm_eval_results, standard_error
from analysis.exports.wandb_tables import write_wandb
from analysis.tidy.sources import Source, found_runs
from eval.ratings.rate import RateOptions, rate_files
from harness.files.atomic import sha256_files, write_json
from harness.runs.record import load_record, save_record
from tests.records.recorded_sweep import (
    FAILED,
    QUESTIONS,
    SWEEP,
    UNSCORED,
    WAITING,
    label_of,
    write_sweep,
    write_tournament,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    write_sweep(folder / "runs")
    write_tournament(folder / "tournament")
    rated = rate_files([folder / "tournament" / "verdicts.csv"], RateOptions(orderings=0, resamples=20))
    write_json(folder / "tournament" / "ratings.json", rated.to_json())
    for run in found_runs(Source(runs_folder=folder / "runs", sweep=SWEEP))[:2]:
        _write_adapter(run.folder)
    return folder


def _write_adapter(folder: Path) -> None:
    record = load_record(folder)
    assert record is not None
    (folder / "adapter").mkdir()
    save_file({"lora_A": np.zeros((8, 2), dtype=np.float32)}, folder / "adapter" / "adapter_model.safetensors")
    config = {"r": record.spec["adapter"]["lora_r"], "lora_alpha": record.spec["adapter"]["lora_alpha"]}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    digest = sha256_files([folder / "adapter" / "adapter_model.safetensors"])
    save_record(folder, replace(record, adapter_sha256=digest))


def _export(place: Path, out: Path, *options: str) -> Any:
    command = ["export", "--sweep", SWEEP, "--runs", str(place / "runs"), "--out", str(out), *options]
    return CliRunner().invoke(app, command)


def test_lm_evals_shape_has_what_its_readers_read(place: Path) -> None:
    found = found_runs(Source(runs_folder=place / "runs", sweep=SWEEP))
    values = lm_eval_results(found[0])
    assert values is not None
    mmlu = values["results"]["mmlu"]
    right = round(mmlu["acc,none"] * QUESTIONS)
    p = right / QUESTIONS
    assert mmlu["acc_stderr,none"] == pytest.approx(math.sqrt(p * (1 - p) / (QUESTIONS - 1)))
    assert mmlu["acc_macro_stderr,none"] == "N/A"
    assert values["results"]["mmlu_astronomy"]["acc,none"] == mmlu["acc,none"]
    assert values["group_subtasks"]["mmlu"] == ["mmlu_astronomy"]
    assert (values["n-shot"]["mmlu"], values["n-samples"]["mmlu"]["effective"]) == (5, QUESTIONS)
    assert values["higher_is_better"]["perplexity_pile_cc"]["token_perplexity"] is False
    assert set(values["versions"]) == set(values["results"]) == set(values["configs"])
    assert values["config"]["model_args"].startswith("pretrained=huggyllama/llama-7b")
    assert lm_eval_results(next(run for run in found if run.label == label_of(FAILED))) is None


def test_a_standard_error_needs_two_questions() -> None:
    assert standard_error([1.0]) == "N/A"
    assert standard_error([0.0, 1.0]) == 0.5


def test_a_record_of_every_eval_ever_has_what_its_schema_requires(place: Path) -> None:
    run = found_runs(Source(runs_folder=place / "runs", sweep=SWEEP))[0]
    values = every_eval_ever_record(run, "grid", "lab", now=1.5e9)
    assert values is not None
    required = {"schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info"}
    assert set(values) == required | {"eval_library", "evaluation_results"}
    assert (values["schema_version"], values["retrieved_timestamp"]) == ("0.3.0", "1500000000")
    details = values["model_info"]["additional_details"]
    assert (details["deployment_type"], details["model_availability"]) == ("self_deployed", "unknown")
    assert all(isinstance(value, str) for value in details.values())
    results = {result["metric_config"]["metric_name"]: result for result in values["evaluation_results"]}
    for result in results.values():
        config, score = result["metric_config"], result["score_details"]
        assert {"evaluation_name", "source_data", "metric_config", "score_details"} < set(result)
        assert config["min_score"] <= score["score"]
        assert score["uncertainty"]["num_samples"] in (2, QUESTIONS)
    assert results["token_perplexity"]["metric_config"]["lower_is_better"] is True
    assert results["accuracy_micro"]["metric_config"]["metric_id"] == "accuracy"
    interval = results["accuracy_micro"]["score_details"]["uncertainty"]["confidence_interval"]
    assert interval["lower"] < results["accuracy_micro"]["score_details"]["score"] < interval["upper"]
    assert "confidence_interval" not in results["bits_per_byte"]["score_details"]["uncertainty"]


INSTANCE_KEYS = {  # of instance_level_eval.schema.json 0.3.0, which allows no others; the first nine are required
    *("schema_version", "evaluation_id", "model_id", "evaluation_name", "sample_id", "interaction_type", "input"),
    *("answer_attribution", "evaluation", "output", "messages", "evaluation_result_id", "sample_hash", "token_usage"),
    *("performance", "error", "metadata"),
}


def test_each_question_is_a_line_that_points_to_its_result(place: Path, tmp_path: Path) -> None:
    run = found_runs(Source(runs_folder=place / "runs", sweep=SWEEP))[0]
    (path,) = write_every_eval_ever([run], tmp_path, "grid", "lab", now=1.5e9)
    values = json.loads(path.read_text())
    samples = path.with_name(f"{path.stem}_samples.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    detail = values["detailed_evaluation_results"]
    assert detail["file_path"] == samples.relative_to(tmp_path).as_posix()
    assert detail["file_path"].startswith("data/grid/lab/")
    assert detail["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert (detail["format"], detail["hash_algorithm"], detail["total_rows"]) == ("jsonl", "sha256", QUESTIONS)
    (result,) = {line["evaluation_result_id"] for line in lines}
    scores = {r["evaluation_result_id"]: r["score_details"]["score"] for r in values["evaluation_results"]}
    assert scores[result] == pytest.approx(sum(line["evaluation"]["score"] for line in lines) / QUESTIONS)
    for line in lines:
        assert set(line) <= INSTANCE_KEYS
        assert (line["evaluation_id"], line["model_id"]) == (values["evaluation_id"], values["model_info"]["id"])
        assert line["evaluation"]["is_correct"] is (line["evaluation"]["score"] == 1.0)
        assert (line["output"]["raw"] == line["input"]["reference"]) is line["evaluation"]["is_correct"]
        assert line["answer_attribution"][0]["extracted_value"] == line["output"]["raw"][0]
        assert all(isinstance(value, str) for value in line["metadata"].values())
    assert len({line["sample_id"] for line in lines}) == QUESTIONS
    (again,) = write_every_eval_ever([run], tmp_path, "grid", "lab", now=1.6e9)
    assert again == path


@pytest.mark.parametrize("name", ["lm-eval", "every-eval-ever"])
def test_a_run_that_cannot_be_read_is_left_out_by_name(place: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(place / "runs", tmp_path / "runs")
    runs = found_runs(Source(runs_folder=tmp_path / "runs", sweep=SWEEP))
    (runs[0].folder / "eval" / "mmlu" / "mmlu.json").write_text('{"torn')
    result = _export(tmp_path, tmp_path / "out", "--format", name)
    assert result.exit_code == 0, result.output
    assert "5 of 9 runs written" in result.output
    assert runs[0].name in result.output
    assert "not JSON" in result.output


@pytest.mark.parametrize("name", ["lm-eval", "every-eval-ever"])
def test_the_command_writes_a_file_a_run_and_names_those_left_out(place: Path, tmp_path: Path, name: str) -> None:
    result = _export(place, tmp_path, "--format", name)
    assert result.exit_code == 0, result.output
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 6
    assert "6 of 9 runs written" in result.output
    for number in (FAILED, WAITING, UNSCORED):
        assert label_of(number) in result.output
    _export(place, tmp_path, "--format", name)
    assert sorted(tmp_path.rglob("*.json")) == files  # the same again, no second set


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_frames_are_written_with_what_their_columns_are(place: Path, tmp_path: Path, name: str) -> None:
    result = _export(place, tmp_path, "--format", name, "--tournament", str(place / "tournament"))
    assert result.exit_code == 0, result.output
    names = {path.stem for path in tmp_path.glob(f"*.{name}")}
    frames = {"runs", "scores", "questions", "metrics", "answers", "verdicts", "ratings"}
    assert names == (frames | {"columns"} if name == "csv" else frames)
    if name == "csv":
        columns = pd.read_csv(tmp_path / "columns.csv").set_index(["frame", "name"])
        assert columns.loc[("runs", "peak_memory_bytes"), "unit"] == "bytes"
        assert pd.read_csv(tmp_path / "runs.csv")["final_loss"].tolist() == [1.0, 1.1, 1.2, 1.3]


def test_a_hub_folder_has_every_adapter_and_a_card_of_them_all(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "hub"
    result = _export(place, out, "--format", "hub", "--license", "mit")
    assert result.exit_code == 0, result.output
    names = [label_of(0), label_of(1)]
    assert sorted(path.name for path in out.iterdir()) == sorted(["README.md", *names])
    for name in names:
        assert {path.name for path in (out / name).iterdir()} == {
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert all(f"[{name}](./{name})" in card for name in names)
    assert "| seed |" in card
    assert "mmlu accuracy_macro" in card
    assert str(place) not in "".join(path.read_text() for path in out.rglob("*.md"))
    assert f"{label_of(2)} (" in result.output
    again = _export(place, out, "--format", "hub", "--license", "mit")
    assert again.exit_code == 0, again.output
    assert "2 adapters" in again.output
    other = _export(place, out, "--format", "hub", "--base", "lab/base")
    assert other.exit_code == 2
    assert "is there from before, with the base" in other.output
    fresh = _export(place, tmp_path / "fresh", "--format", "hub", "--base", "lab/base")
    assert fresh.exit_code == 0, fresh.output
    configs = [json.loads(path.read_text()) for path in (tmp_path / "fresh").glob("*/adapter_config.json")]
    assert {config["base_model_name_or_path"] for config in configs} == {"lab/base"}


def test_one_base_is_not_that_of_runs_on_several(place: Path, tmp_path: Path) -> None:
    found = found_runs(Source(runs_folder=place / "runs", sweep=SWEEP))[:2]
    assert found[1].record is not None
    strange = replace(found[1], record=replace(found[1].record, base_fingerprint="0" * 64))
    with pytest.raises(ValueError, match="--base lab/base: these runs were trained on 2 bases"):
        write_hub([found[0], strange], tmp_path / "hub", "t", base="lab/base")


def test_wandb_gets_plain_values() -> None:
    from analysis.exports.wandb_tables import table_of

    frame = pd.DataFrame(
        {
            "model": pd.Categorical(["a", None]),
            "n": pd.array([1, None], dtype="Int64"),
            "started": pd.to_datetime(["2026-01-01T00:00:00Z", None], utc=True),
        }
    )
    table = table_of(frame)
    assert table.columns == ["model", "n", "started"]
    assert table.data == [["a", 1, "2026-01-01T00:00:00+00:00"], [None, None, None]]


def test_a_sweep_without_scores_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").mkdir()
    (tmp_path / "runs" / "a" / "config.yaml").write_text("{}")
    command = ["export", "--runs", str(tmp_path / "runs"), "--format", "lm-eval", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "no finished run has a score" in result.output


def test_a_records_id_is_a_random_uuid_of_its_content_but_not_of_its_time(place: Path) -> None:
    run = found_runs(Source(runs_folder=place / "runs", sweep=SWEEP))[0]
    ids = [every_eval_ever._uuid({"a": 1, "retrieved_timestamp": when}) for when in ("1", "2")]
    assert ids[0] == ids[1] != every_eval_ever._uuid({"a": 2})
    assert (ids[0].version, str(ids[0])) == (4, "f9d86028-c6e0-464e-a251-86f96acb6933")
    values = every_eval_ever_record(run, "grid", "lab", now=1.5e9)
    assert values is not None
    for result in values["evaluation_results"]:
        interval = result["score_details"].get("uncertainty", {}).get("confidence_interval", {"confidence_level": 0.95})
        assert interval["confidence_level"] == 0.95
    assert every_eval_ever._texts({"a": None, "b": {}, "c": 1, "d": "t", "e": {"z": 1, "a": 2}}) == {
        "c": "1",
        "d": "t",
        "e": '{"a": 2, "z": 1}',
    }


def test_wandb_is_offline_silent_and_told_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    run = MagicMock(dir=str(tmp_path / "wandb" / "offline-1" / "files"))

    def init(**options: Any) -> Any:
        asked.update(options)
        return contextlib.nullcontext(run)

    fake = SimpleNamespace(init=init, Settings=dict, Table=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    moments = pd.to_datetime(pd.Series(["2026-01-02T03:04:05Z", None]))
    frame = pd.DataFrame({"n": pd.Series([1, None], dtype="Int64"), "at": moments})
    folder = write_wandb({"runs": frame}, tmp_path / "new" / "out", "demo")
    assert folder == tmp_path / "wandb" / "offline-1"
    assert (tmp_path / "new" / "out").is_dir()
    settings = asked.pop("settings")
    assert asked == {
        "project": "qlora-harness", "name": "demo", "dir": str(tmp_path / "new" / "out"), "mode": "offline",
        "job_type": "tables",
    }  # fmt: skip
    assert settings == {
        "silent": True, "console": "off", "save_code": False, "disable_git": True, "x_disable_meta": True,
        "x_disable_stats": True, "x_save_requirements": False,
    }  # fmt: skip
    ((logged,), _) = run.log.call_args
    assert logged == {
        "runs": {
            "columns": ["n", "at"],
            "data": [[1, "2026-01-02T03:04:05+00:00"], [None, None]],
            "allow_mixed_types": True,
        }
    }
