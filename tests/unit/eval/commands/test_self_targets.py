"""Targets that a model wrote itself: right ones are taken, wrong ones are dropped or replaced, each with its origin."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from eval.answers.generate import OnAnswer, Request
from eval.answers.sequences import Decoded
from eval.answers.settings import GenerateSettings
from eval.commands import self_targets
from eval.commands.self_targets import run_self_targets
from eval.systems import Target
from harness.banks.load import LoadedBase
from tests.lab import write_rows
from tests.tiny import make_checkpoint, make_tokenizer

ROWS = [{"input": f"What is {n} plus {n}?", "output": f"It is {2 * n}."} for n in range(1, 9)]
Make = Callable[..., tuple[dict[str, Any], Path, list[str]]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Runs the command over a model that answers rows of an odd number rightly, in the first or the second sample."""
    asked: list[str] = []

    def scripted(
        base: LoadedBase, requests: Sequence[Request], settings: GenerateSettings, on_answer: OnAnswer, _: Any
    ) -> None:
        for index, request in enumerate(requests):
            number = int(request.question_id)
            prompt = base.tokenizer.decode(list(request.prompt_tokens), skip_special_tokens=True)
            assert prompt.startswith(f"What is {number} plus {number}?")
            is_right = number % 2 == 1 and (number > 1 or settings.seed == 1)
            asked.append(f"{request.question_id}@{settings.seed}")
            reason = "length" if number == 7 else "eos"
            said = f"I say {2 * number}" if is_right else "I say 99"
            on_answer(request, said, Decoded(index=index, tokens=(5,), finish_reason=reason))

    monkeypatch.setattr(self_targets, "generate", scripted)
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)

    def run(otherwise: str = "target", samples: int = 2, limit: int | None = None, **options: Any) -> Any:
        asked.clear()
        out = tmp_path / f"{otherwise}.jsonl"
        target = Target(model=str(checkpoint), adapters=(), quant="none", run_ids=(), sweep=None, runs=tmp_path / "r")
        settings = GenerateSettings(max_new_tokens=8)
        words = {"dataset": None, "data": rows, "right": "number"} | options
        made = run_self_targets(
            target,
            words["dataset"],
            words["data"],
            words["right"],
            otherwise,
            samples,
            limit,
            settings,
            out,
            False,
            lambda done, total: None,
        )
        return made, out, list(asked)

    return run


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_wrong_targets_are_dropped_and_right_ones_say_where_they_are_from(make: Make) -> None:
    made, out, asked = make("drop")
    assert (made["num_rows"], made["num_right"], made["num_kept"]) == (8, 3, 3)
    assert read(out) == [{"input": ROWS[n - 1]["input"], "output": f"I say {2 * n}"} for n in (1, 3, 5)]
    origins = read(out.with_name("drop.jsonl.origins.jsonl"))
    assert [(row["line"], row["origin"], row["target"]) for row in origins] == [
        (n, "self", f"It is {2 * n}.") for n in (1, 3, 5)
    ]
    assert origins[0]["system"] == made["system"]
    assert asked == [*(f"{n}@0" for n in range(1, 9)), *(f"{n}@1" for n in (1, 2, 4, 6, 7, 8))]
    again, _, asked_again = make("drop")
    assert (again, asked_again) == (made, [])  # kept by model, settings and rows


def test_rows_without_a_right_answer_may_keep_their_own(make: Make) -> None:
    made, out, asked = make("target", samples=1, limit=5)
    assert (made["num_right"], made["num_kept"]) == (2, 5)
    assert [row["output"] for row in read(out)] == ["It is 2.", "It is 4.", "I say 6", "It is 8.", "I say 10"]
    origins = read(out.with_name("target.jsonl.origins.jsonl"))
    assert [row["origin"] for row in origins] == ["target", "target", "self", "target", "self"]
    assert (origins[0]["system"], origins[0]["seed"]) == (None, None)
    assert len(asked) == 5


def test_the_last_answer_of_a_dialogue_is_replaced() -> None:
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [{"a": 1}]})
    example = self_targets.Example(input="Hi", output="x", messages=messages)
    answer = self_targets.Answer(question_id="1", system="s", question="Hi", answer="Ho")
    assert self_targets._with_target(example, answer) == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    }
    assert self_targets._with_target(example, None) == {"messages": [dict(message) for message in messages]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"right": "rouge"}, "--right rouge: expected one of exact, number, contains"),
        ({"data": None}, "name the rows: a --dataset"),
        ({"otherwise": "keep"}, "--otherwise keep: expected target or drop"),
        ({"otherwise": "drop", "right": "exact"}, r"none of .* answers to 8 rows is right by --right exact"),
        ({"dataset": "glue_sst2"}, "name the rows"),
    ],
)
def test_what_gives_no_rows_is_refused(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_real_model_is_asked_by_the_tokens_of_training(checkpoint: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS[:2])
    target = Target(model=str(checkpoint), adapters=(), quant="none", run_ids=(), sweep=None, runs=tmp_path / "r")
    settings, out = GenerateSettings(max_new_tokens=4, greedy=True), tmp_path / "own.jsonl"
    made = run_self_targets(
        target, None, rows, "exact", "target", 1, None, settings, out, False, lambda done, total: None
    )
    assert (made["num_kept"], len(read(out))) == (2, 2)
    (file,) = (tmp_path / "own.jsonl.answers").glob("*-0.jsonl")
    assert {row["question"] for row in read(file)} == {row["input"] for row in ROWS[:2]}
    tokenizer, model = make_tokenizer(), LlamaForCausalLM.from_pretrained(checkpoint)
    prompt = torch.tensor([[tokenizer.bos_token_id, *tokenizer(ROWS[0]["input"]).input_ids]])
    written = model.generate(prompt, max_new_tokens=4, do_sample=False)[0, prompt.shape[1] :]
    answer = next(row["answer"] for row in read(file) if row["question_id"] == "1")
    assert answer == tokenizer.decode(written, skip_special_tokens=True).strip() != ""
