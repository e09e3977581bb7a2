"""All score commands have the common options; those of a benchmark come from its settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.benchmarks.tasks.settings import TasksSettings
from eval.commands import scores
from eval.commands.beside import Beside
from eval.commands.score_runs import OwnRows
from eval.systems import Target

COMMON = {"--run", "--sweep", "--model", "--adapter", "--quant", "--out", "--runs", "--in-runs", "--fresh", "--json"}
BESIDE = {"--with-base", "--adapter-scale", "--serving-gap"}
OWN = {
    "mmlu": BESIDE
    | {"--questions", "--shots", "--num-shots", "--protocol", "--chat", "--no-chat", "--limit"}
    | {"--limit-per-subject", "--split-name", "--checkpoints", "--row-tokens"},
    "perplexity": BESIDE
    | {"--text", "--window", "--stride", "--field", "--only", "--joined", "--no-joined", "--limit"}
    | {"--row-tokens"},
    "tasks": BESIDE
    | {"--tasks", "--num-fewshot", "--limit", "--task-folder", "--row-tokens"}
    | {"--chat", "--no-chat", "--max-gen-toks", "--seed"},
    "glue": {"--dataset", "--data", "--split", "--limit"},
    "super_ni": {"--dataset", "--data", "--split", "--limit-per-task", "--max-new-tokens"},
    "rouge": {"--limit", "--max-new-tokens"},
}


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    scores.add_commands(made)
    return made


def test_every_command_has_its_options(app: typer.Typer) -> None:
    group: Any = typer.main.get_command(app)
    options = {
        name: {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }
    assert {name: found - {"--help"} for name, found in options.items()} == {n: COMMON | own for n, own in OWN.items()}


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("mmlu", MmluSettings()),
        ("mmlu --questions hub:test --chat", MmluSettings(questions="hub:test", shots_file="hub:dev", chat=True)),
        ("mmlu --questions q.csv --shots s.csv", MmluSettings(questions="q.csv", shots_file="s.csv")),
        ("mmlu --protocol hendrycks --limit 3", MmluSettings(protocol=Protocol.hendrycks, limit=3)),
        ("tasks --tasks piqa,arc_easy --task-folder f", TasksSettings(names=["piqa", "arc_easy"], folder="f")),
        ("super_ni", SuperNiSettings()),
        ("super_ni --limit-per-task 0 --data d.jsonl", SuperNiSettings(limit_per_task=None, data="d.jsonl")),
    ],
)
def test_options_become_settings(
    app: typer.Typer, command: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def score_target(benchmark: Any, asked: Any, *_: Any) -> tuple[dict[str, Any], str]:
        assert benchmark is BENCHMARKS[command.split()[0]]
        found.append(asked)
        return {}, ""

    monkeypatch.setattr("eval.commands.score_runs.score_target", score_target)
    done = CliRunner().invoke(app, [*command.split(), "--json"])
    assert done.exit_code == 0, done.output
    assert found == [settings]


def test_a_command_hands_on_its_systems_and_prints_what_was_found(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def scored(*args: Any) -> tuple[dict[str, Any], str]:
        calls.append(args)
        return {"run": {"n": 3}}, "a table"

    monkeypatch.setattr("eval.commands.score_runs.score_target", scored)
    monkeypatch.setattr("eval.commands.score_runs.score_in_runs", scored)

    def call(words: str) -> str:
        done = CliRunner().invoke(app, words.split())
        assert done.exit_code == 0, done.output
        return done.stdout

    assert call("mmlu") == "a table\n"
    nothing = Target(model=None, adapters=(), quant=None, run_ids=(), sweep=None, runs=None)
    _, _, *rest, _, beside = calls[0]
    assert rest == [nothing, OwnRows(), {"checkpoints": None}, Path("scores")]
    assert beside == Beside()
    systems = "--model m --adapter a --adapter b --quant nf4 --run r --run s --sweep w --runs there"
    more = "--out o --checkpoints 1,2 --with-base --adapter-scale 0,0.5 --json"
    assert json.loads(call(f"mmlu {systems} {more}")) == {"run": {"n": 3}}
    _, _, *rest, _, beside = calls[1]
    target = Target(
        model="m", adapters=(Path("a"), Path("b")), quant="nf4", run_ids=("r", "s"), sweep="w", runs=Path("there")
    )
    assert rest == [target, OwnRows(), {"checkpoints": "1,2"}, Path("o")]
    assert beside == Beside(with_base=True, scales=(0.0, 0.5))
    call("perplexity --text t --run r --serving-gap")
    assert calls[2][-1] == Beside(serving_gap=True)
    call("glue --run r --dataset d --split s --in-runs --fresh")
    assert calls[3][0] is BENCHMARKS["glue"]
    assert calls[3][3:5] == (OwnRows(dataset="d", split="s"), True)
    call("glue --run r --in-runs")
    assert calls[4][3:5] == (OwnRows(), False)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("mmlu --run x --in-runs --with-base", "--in-runs: keeps the score of a whole run; leave out --with-base"),
        ("mmlu --run x --adapter-scale a", "--adapter-scale a: expected different numbers"),
        ("glue --adapter x", "--adapter needs --model: the base that the adapter was trained on"),
        ("mmlu --protocol hendricks", "--protocol hendricks: expected one of lm_eval, qlora_callback, hendrycks"),
        ("mmlu --fresh", "--fresh: goes with --in-runs"),
        (
            "mmlu --in-runs --run x --checkpoints all",
            "--in-runs: keeps the score of a whole run; leave out --checkpoints",
        ),
        ("mmlu --num-shots -1", "num_shots=-1: expected 0 or more"),
        ("perplexity --text nowhere.txt --model smollm2", "--text: nowhere.txt: no such file"),
        ("tasks --tasks ,", "names=[]: name at least one"),
        ("mmlu --checkpoints all", "--checkpoints goes with exactly one --run"),
        ("glue", "nothing to measure: name a --sweep or a --run"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(app: typer.Typer, command: str, problem: str) -> None:
    done = CliRunner().invoke(app, command.split())
    assert (done.exit_code, done.output.startswith(f"error: {problem}")) == (2, True), done.output
