"""What a plan learns from the rows: their number, and with it steps and tokens; dialogues without a template."""

from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import Device, PathsConfig
from harness.models.locate import ModelSource, locate_model
from sweeps.plan.estimate import estimate_all
from sweeps.plan.jobs import plan_runs
from sweeps.plan.preflight import preflight
from sweeps.plan.table import _steps
from tests.builders import config, evals
from tests.lab import write_rows
from tests.tiny import make_checkpoint

ROWS: list[dict[str, Any]] = [{"input": f"{n}", "output": "Yes." if n else ""} for n in range(20)]
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_rows(folder / "data" / "longform.jsonl", ROWS)
    write_rows(folder / "chat.jsonl", [{"messages": [USER, ANSWER]}])
    write_rows(folder / "prompts.jsonl", [{"prompt": [USER], "completion": "r"}])
    make_checkpoint(folder / "models" / "llama7b")
    return folder


def paths(place: Path) -> PathsConfig:
    return PathsConfig(
        runs=str(place / "runs"),
        cache=str(place / "cache"),
        model_store=str(place / "models"),
        data_store=str(place / "data"),
    )


@pytest.mark.parametrize(
    ("dataset", "train", "steps", "shown"),
    [
        ({}, {"max_epochs": 3.0, "batch_size": 4}, 15, "3 epochs = 15"),
        ({"max_rows": 8}, {"max_epochs": 3.0, "batch_size": 4}, 6, "3 epochs = 6"),
        ({"max_rows": 800}, {"max_epochs": 1.0, "batch_size": 4}, 5, "1 epochs = 5"),
        ({"empty_targets": "drop"}, {"max_epochs": 4.0, "batch_size": 1}, 76, "4 epochs = 76"),
        ({}, {"max_epochs": 1.0, "batch_size": 1, "original_eval_carve": 4}, 16, "1 epochs = 16"),
        ({}, {"max_steps": 500, "batch_size": 4}, 500, "500"),
        ({}, {"max_steps": 500, "max_epochs": 2.0, "batch_size": 4}, 10, "10"),
        ({"max_rows_per_task": 3}, {"max_epochs": 2.0, "batch_size": 4}, None, "2 epochs"),
    ],
)
def test_local_rows_say_steps_and_tokens(
    place: Path, dataset: dict[str, Any], train: dict[str, Any], steps: int | None, shown: str
) -> None:
    (run,) = plan_runs([config(dataset=("longform", dataset), train=("default", train))])
    counted: dict[str, int] = {}
    preflight([run], paths(place), Device.cpu, counted)
    needs = estimate_all([run.spec], place / "runs", Device.cpu, num_examples=counted)[run.run_id]
    assert needs.num_steps == steps
    assert needs.max_tokens == (None if steps is None else steps * train["batch_size"] * (512 + 1024))
    assert _steps(run.spec.train, needs.num_steps) == shown


def test_a_warm_up_beyond_the_last_step_is_refused_in_the_plan(place: Path) -> None:
    train = {"max_epochs": 1.0, "batch_size": 4, "warmup_steps": 6}
    (problem,) = preflight(plan_runs([config(dataset="longform", train=("default", train))]), paths(place), Device.cpu)
    assert problem.startswith("longform: train.warmup_steps=6: the run has 5 steps on 20 examples")


@pytest.mark.parametrize("where", ["store", "cache", "path"])
@pytest.mark.parametrize("file", ["chat.jsonl", "prompts.jsonl"])
def test_dialogues_want_a_template_wherever_the_model_lies(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, file: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = paths(place)
    model: Any = "llama7b"
    if where == "cache":
        commit = "0" * 40
        found.model_store = None
        make_checkpoint(tmp_path / "models--huggyllama--llama-7b" / "snapshots" / commit)
        (tmp_path / "models--huggyllama--llama-7b" / "refs").mkdir()
        (tmp_path / "models--huggyllama--llama-7b" / "refs" / "main").write_text(commit)
    elif where == "path":
        model = ("local", {"path": str(place / "models" / "llama7b")})
    for template, problems in ((None, 1), ("{{ messages }}", 0)):
        data = {"path": str(place / file), "format": "auto", "chat_template": template}
        runs = plan_runs([config(model=model, dataset=("local", data))])
        source = locate_model(runs[0].spec.model, found)
        assert isinstance(source, ModelSource)
        found_problems = preflight(runs, found, Device.cpu)
        assert len(found_problems) == problems, found_problems
        assert all("has no chat template" in problem for problem in found_problems)


def test_an_evaluation_through_a_template_wants_one(place: Path) -> None:
    asked = evals("mmlu", mmlu={"chat": True})
    runs = plan_runs([config(dataset="longform", train=("default", {"max_steps": 1}), eval=asked)])
    (problem,) = preflight(runs, paths(place), Device.cpu)
    assert problem == "eval.mmlu: asks through a chat template, and the tokenizer of llama7b has none"


def test_a_broken_tokenizer_config_is_named(place: Path, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llama7b")
    (folder / "tokenizer_config.json").write_text("{")
    found = paths(place)
    found.model_store = str(tmp_path)
    (problem,) = preflight(plan_runs([config(dataset="longform")]), found, Device.cpu)
    assert problem.startswith(f"{folder / 'tokenizer_config.json'}: not JSON")
