"""What the commands of contests hand on, option by option, and what they print, write and exit with."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eval.__main__ import app
from eval.answers.prompt_format import PromptFormat
from eval.answers.settings import GenerateSettings
from eval.commands import agree, contests, generate, judge, rate
from eval.judges.registry import choose_judge
from eval.judging.flags import JudgeFlags
from eval.judging.options import JudgeOptions
from eval.judging.prompts import Mode
from eval.ratings.agreement import AgreeOptions
from eval.ratings.rate import RateOptions
from eval.systems import Target


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands leave a record of themselves beside what they make."""
    monkeypatch.chdir(tmp_path)


class Result:
    def to_json(self) -> dict[str, Any]:
        return {"found": 1}


class Body:
    """Stands for the body of a command: keeps what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *results: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._results = results
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        return self._results[min(len(self.calls), len(self._results)) - 1]


def call(*words: Any, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.stdout


def test_rate_hands_on_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    body = Body(monkeypatch, rate, "rate_command", (Result(), "a table"))
    assert call("rate", "v.csv", "w.csv") == "a table\n"
    assert body.calls[0] == ([Path("v.csv"), Path("w.csv")], RateOptions())
    given = ["--k", 8, "--start", 500, "--orderings", 7, "--sample-size", 5, "--seed", 3, "--resamples", 11]
    given += ["--aggregate", "each", "--answers", "a.jsonl", "--answers", "b.jsonl", "--people", "p.csv"]
    given += ["--bench", "open", "--turn", 2, "--out", tmp_path / "out.json", "--json"]
    assert json.loads(call("rate", "v.csv", *given)) == {"found": 1}
    assert json.loads((tmp_path / "out.json").read_text()) == {"found": 1}
    assert body.calls[1][1] == RateOptions(
        k=8.0, start=500.0, orderings=7, sample_size=5, seed=3, resamples=11, aggregate="each",
        answers=(Path("a.jsonl"), Path("b.jsonl")), people=(Path("p.csv"),), benchmark="open", turn=2,
    )  # fmt: skip


def test_agree_hands_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body(monkeypatch, agree, "agree_command", (Result(), "a table"))
    assert call("agree", "v.csv", "w.csv") == "a table\n"
    assert body.calls[0] == (Path("v.csv"), Path("w.csv"), AgreeOptions())
    given = ["--without", "x", "--without", "y", "--own-a", "one", "--own-b", "two", "--answers", "a.jsonl"]
    given += ["--seed", 3, "--resamples", 11, "--bench", "open", "--turn", 2, "--json"]
    assert json.loads(call("agree", "v.csv", "w.csv", *given)) == {"found": 1}
    assert body.calls[1][2] == AgreeOptions(
        without=("x", "y"), own_a="one", own_b="two", answers=(Path("a.jsonl"),), seed=3, resamples=11,
        benchmark="open", turn=2,
    )  # fmt: skip


def test_generate_hands_on_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body(monkeypatch, generate, "run_generate", [])
    call("generate", "--model", "m")
    *asked, settings, fresh, _, out = body.calls[0]
    target = Target(model="m", adapters=(), quant=None, run_ids=(), sweep=None, runs=None)
    assert asked == [target, "embedded", "open", None]
    assert (settings, fresh, out) == (GenerateSettings(), False, Path("answers"))
    given = ["--sweep", "s", "--run", "r1", "--run", "r2", "--model", "m", "--adapter", "a", "--quant", "nf4"]
    given += ["--runs", "there", "--out", "o", "--questions", "q.jsonl", "--bench", "mine", "--limit", 4, "--fresh"]
    given += ["--max-new-tokens", 5, "--greedy", "--temperature", 0.5, "--top-p", 0.25, "--seed", 9]
    given += ["--prompt-format", "human", "--slots", 3, "--engine", "vllm", "--json"]
    assert json.loads(call("generate", *given)) == []
    *asked, settings, fresh, _, out = body.calls[1]
    assert asked[0] == Target(
        model="m", adapters=(Path("a"),), quant="nf4", run_ids=("r1", "r2"), sweep="s", runs=Path("there")
    )
    assert (asked[1:], fresh, out) == (["q.jsonl", "mine", 4], True, Path("o"))
    assert settings == GenerateSettings(
        max_new_tokens=5, greedy=True, temperature=0.5, top_p=0.25, seed=9, prompt_format=PromptFormat.human,
        num_slots=3, engine="vllm",
    )  # fmt: skip


def test_judge_hands_on_its_options_and_its_exit_says_whether_every_match_has_a_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = Body(monkeypatch, judge, "run_judge", ({"judge": "j"}, "said", True), ({"judge": "j"}, "said", False))
    assert call("judge", "a.jsonl", "--tournament", "t") == "said\n"
    options, _, _, confirm = body.calls[0]
    local = choose_judge("local:smollm2", JudgeFlags())
    assert options == JudgeOptions(answers=(Path("a.jsonl"),), tournament=Path("t"), judge=local)
    assert confirm is None  # no terminal: nobody is asked
    given = ["--questions", "q.jsonl", "--bench", "mine", "--judge", "gpt-4", "--reference", "bob"]
    given += ["--no-reference-answers", "--prompts", "p.jsonl", "--null-control", "--max-questions", 5, "--seed", 3]
    given += ["--retry-unparsed", "--batch", "--max-tokens", 7, "--num-concurrent", 2, "--budget-usd", 1.5, "--json"]
    assert json.loads(call("judge", "a.jsonl", "b.jsonl", "--tournament", "t", *given, code=1)) == {"judge": "j"}
    flags = JudgeFlags(batch=True, max_tokens=7, num_concurrent=2, budget_usd=1.5)
    assert body.calls[1][0] == JudgeOptions(
        answers=(Path("a.jsonl"), Path("b.jsonl")), tournament=Path("t"), judge=choose_judge("gpt-4", flags),
        questions=Path("q.jsonl"), benchmark="mine", mode=Mode.relative, reference="bob", reference_answers=False,
        prompts=Path("p.jsonl"), null_control=True, max_questions=5, seed=3, retry_unparsed=True,
    )  # fmt: skip
    call("judge", "a.jsonl", "--tournament", "t", "--reparse", "--mode", "single", code=1)
    assert (body.calls[2][0].reparse, body.calls[2][0].mode) == (True, Mode.single)


def test_a_person_at_a_terminal_is_asked_before_anything_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body(monkeypatch, judge, "run_judge", ({"judge": "j"}, "said", True))
    asked: list[str] = []
    monkeypatch.setattr(contests.typer, "confirm", lambda question, err: asked.append(question) or err)
    where = ["a.jsonl", "--tournament", "t"]

    def confirm(*more: str, terminals: tuple[bool, bool] = (True, True)) -> Any:
        stdin, stderr = (SimpleNamespace(isatty=lambda is_one=is_one: is_one) for is_one in terminals)
        monkeypatch.setattr(contests, "sys", SimpleNamespace(stdin=stdin, stderr=stderr))
        call("judge", *where, *more)
        return body.calls[-1][3]

    assert confirm()("Go on?") is True
    assert asked == ["Go on?"]
    assert confirm("--yes") is None
    assert confirm(terminals=(True, False)) is confirm(terminals=(False, True)) is None


def test_several_judges_are_an_ensemble_and_an_estimate_is_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body(monkeypatch, judge, "run_judges", ({"judges": 2}, "both", True))
    where = ["a.jsonl", "--tournament", "t"]
    assert call("judge", *where, "--judge", "gpt-4, gpt-4o", "--judge", "o3") == "both\n"
    assert [options.judge.model for options in body.calls[0][0]] == ["gpt-4", "gpt-4o", "o3"]
    ahead = Body(monkeypatch, judge, "run_estimate", ({"calls": 1}, "one"), ({"calls": 2}, "two"))
    assert json.loads(call("judge", *where, "--judge", "gpt-4", "--estimate", "--json")) == {"calls": 1}
    found = call("judge", *where, "--judge", "gpt-4,o3", "--estimate", "--json")
    assert json.loads(found) == [{"calls": 2}, {"calls": 2}]
    assert call("judge", *where, "--judge", "gpt-4,o3", "--estimate") == "two\ntwo\n"
    assert [options[0].judge.model for options in ahead.calls] == ["gpt-4", "gpt-4", "o3", "gpt-4", "o3"]
    assert len(body.calls) == 1


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_and_every_option_says_what_it_does() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert {"mmlu", "judge", "rate", "human serve", "human raters add"} <= set(found)
    silent = [
        f"{name}: {parameter.name}"
        for name, command in found.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []
    assert [name for name, command in found.items() if not command.help] == []
