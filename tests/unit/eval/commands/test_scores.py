"""All score commands have the common options; those of a benchmark come from its settings."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.benchmarks.tasks.settings import TasksSettings
from eval.commands import scores

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


@pytest.mark.parametrize(
    ("command", "problem"),
    [
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
