"""Generating tasks: resumed answer by answer, samples by seed, one batch for all systems, refusals by name."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from eval.answers.sampling import likeliest_only, penalized
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.tasks.settings import TasksSettings
from eval.scoring.continuations import Continuation
from harness.banks.load import LoadedBase
from tests.builders import open_base
from tests.tiny import make_checkpoint

pytest.importorskip("lm_eval", reason="needs the `tasks` extra (lm-eval)")
generation = pytest.importorskip("eval.benchmarks.tasks.generation")
lm_eval_model = pytest.importorskip("eval.benchmarks.tasks.lm_eval_model")
results = pytest.importorskip("eval.benchmarks.tasks.results")
score = pytest.importorskip("eval.benchmarks.tasks.score")
local = pytest.importorskip("tests.records.generative_tasks")
MEMBERS = {"base": None, "tuned": "tuned"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("tasks")
    local.write_generative_tasks(found, ("gsm8k", "ifeval", "voted"))
    return found


def settings(folder: Path, *names: str, **changes: Any) -> TasksSettings:
    return TasksSettings(names=[f"local_{name}" for name in names], folder=str(folder), **changes)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str | None]]:
    """The members of each call of the decoder."""
    seen: list[list[str | None]] = []
    original = generation.decode

    def counting(base: LoadedBase, requests: list[Any], *rest: Any) -> Any:
        seen.append([request.member for request in requests])
        return original(base, requests, *rest)

    monkeypatch.setattr(generation, "decode", counting)
    return seen


def test_all_systems_answer_in_one_batch_and_a_killed_call_goes_on(
    base: LoadedBase, folder: Path, tmp_path: Path, batches: list[list[str | None]]
) -> None:
    asked = settings(folder, "gsm8k")
    whole = score.score_tasks(base, MEMBERS, asked)
    assert batches == [[None] * 5 + ["tuned"] * 5]
    assert whole["base"].settings_sha256 == whole["tuned"].settings_sha256  # the examples are the same ones

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score.score_tasks(base, MEMBERS, asked, kill, tmp_path)
    seen: list[tuple[int, int]] = []
    again = score.score_tasks(base, MEMBERS, asked, lambda done, total: seen.append((done, total)), tmp_path)
    assert [len(batch) for batch in batches] == [10, 10, 6]
    assert seen[0] == (5, 10)
    assert seen[-1] == (10, 10)
    assert {name: result.tasks for name, result in again.items()} == {n: r.tasks for n, r in whole.items()}


def test_each_filter_is_a_metric_and_the_answers_are_kept(base: LoadedBase, folder: Path) -> None:
    result = score.score_tasks(base, {"base": None}, settings(folder, "gsm8k", "ifeval", limit=2))["base"]
    sums = result.tasks["local_gsm8k"]
    assert list(sums.metrics) == ["exact_match,strict-match", "exact_match,flexible-extract"]
    assert sums.metrics["exact_match,strict-match"].n == len(sums.predictions) == 2
    assert set(sums.predictions[0].extracted) == {"strict-match", "flexible-extract"}
    one, two = result.tasks["local_ifeval"].predictions
    assert (one.weights, two.weights) == ({"inst_level": 2}, {"inst_level": 3})
    found = {part.metric: part for part in BENCHMARKS["tasks"].by_question(result.to_json()) if "ifeval" in part.part}
    levels = found["inst_level"]
    assert levels.weights == [2.0, 3.0]
    total = sum(v * w for v, w in zip(levels.values, levels.weights or [], strict=True)) / 5
    assert result.tasks["local_ifeval"].metrics["inst_level"].value == pytest.approx(total)
    assert found["prompt_level"].given == [one.responses[0], two.responses[0]]
    assert found["prompt_level"].expected == [["0"], ["0"]]


def test_repeats_are_samples_of_their_own_by_the_seed(base: LoadedBase, folder: Path) -> None:
    def responses(seed: int, members: dict[str, str | None]) -> list[tuple[str, ...]]:
        found = score.score_tasks(base, members, settings(folder, "voted", seed=seed))["base"]
        assert list(found.tasks["local_voted"].metrics) == ["exact_match,first", "exact_match,maj@3"]
        return [one.responses for one in found.tasks["local_voted"].predictions]

    first = responses(0, {"base": None})
    assert all(len(set(texts)) == 3 for texts in first)
    assert first == responses(0, MEMBERS)  # whoever else is asked
    assert first != responses(1, {"base": None})


def request(text: str = "Hello", **kwargs: Any) -> Any:
    return SimpleNamespace(args=(text, kwargs), task_name="t")


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"num_beams": 4}, r"task t: generation_kwargs\.num_beams=4: not served"),
        ({"min_p": 0.1}, r"generation_kwargs\.min_p=0\.1"),
        ({"max_length": 30}, r"generation_kwargs\.max_length=30"),
        ({"do_sample": True}, r"do_sample=true with temperature=0\.0"),
        ({"do_sample": True, "temperature": 1.0, "top_p": 0}, r"top_p=0\.0"),
        ({"max_gen_toks": 4096}, r"max_gen_toks=4096: this model's context of 2048"),
        ({"max_gen_toks": 0}, r"max_gen_toks=0"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0\.0"),
    ],
)
def test_a_setting_that_is_not_served_is_named(base: LoadedBase, kwargs: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        generation.generation_of(base, base.tokenizer.encode, request(**kwargs), 0, 0, None)


def test_settings_are_the_tasks_else_the_models_else_transformers(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(**kwargs: Any) -> Any:
        return generation.generation_of(base, base.tokenizer.encode, request(**kwargs), 0, 0, None)

    greedy = read(until="e", num_beams=1, temperature=0)
    assert (greedy.settings.greedy, greedy.settings.max_new_tokens, greedy.seed) == (True, 256, 0)
    assert greedy.until == ("e", "</s>")
    sampled = read(temperature=0.5, max_tokens=7)
    assert (sampled.settings.greedy, sampled.settings.temperature) == (False, 0.5)
    assert (sampled.settings.top_k, sampled.settings.top_p, sampled.settings.max_new_tokens) == (50, 1.0, 7)
    monkeypatch.setattr(base.bank.base.generation_config, "top_k", 3)
    monkeypatch.setattr(base.bank.base.generation_config, "no_repeat_ngram_size", 2)
    assert read(temperature=0.5).settings.top_k == 3
    assert read(temperature=0.5, top_k=0).settings.top_k is None
    assert generation.left_out_settings(base) == ["no_repeat_ngram_size=2"]
    shorter = generation.generation_of(base, base.tokenizer.encode, request(max_gen_toks=9), 0, 0, 4)
    assert shorter.settings.max_new_tokens == 4


@pytest.mark.parametrize(
    ("key", "values"),
    [("num_beams", (1, None)), ("num_return_sequences", (1, None)), ("use_cache", (True, False, None))],
)
def test_a_setting_that_changes_nothing_is_taken(base: LoadedBase, key: str, values: tuple[Any, ...]) -> None:
    for value in values:
        read = generation.generation_of(base, base.tokenizer.encode, request(until="e", **{key: value}), 0, 0, None)
        assert read.settings.greedy
    with pytest.raises(ValueError, match=f"generation_kwargs.{key}=2: not served"):
        generation.generation_of(base, base.tokenizer.encode, request(until="e", **{key: 2}), 0, 0, None)


def test_a_whole_text_is_scored_in_windows_that_do_not_overlap(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lm_eval_model.BankModel(replace(base, max_length=4), None, lm_eval_model.Partial(None))
    asked: list[tuple[list[int], list[int]]] = []

    def scores(windows: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        asked.extend(windows)
        return [(float(len(continuation)), True) for _, continuation in windows]

    monkeypatch.setattr(model, "_scores", scores)
    texts = ["The capital of France", "is"]
    tokens = [model.tok_encode(text) for text in texts]
    assert model.loglikelihood_rolling([SimpleNamespace(args=(text,)) for text in texts]) == [*map(len, tokens)]
    assert [token for _, continuation in asked for token in continuation] == [*tokens[0], *tokens[1]]


def test_progress_begins_at_what_is_scored_already(base: LoadedBase) -> None:
    told: list[tuple[int, int]] = []
    model = lm_eval_model.BankModel(base, None, lm_eval_model.Partial(None))
    model.on_progress = lambda done, total: told.append((done, total))
    model._score({key: Continuation(tokens=[1, 5, n], num_context=1) for n, key in enumerate("ab", 6)}, 5)
    assert told[-1] == (5, 5)
    assert sorted(model.partial.done) == ["a", "b"]


def test_a_stop_text_is_found_within_a_token_and_across_tokens(base: LoadedBase) -> None:
    has_stop = generation.stop_check(base.tokenizer, ["pit", "s a"])
    assert has_stop(base.tokenizer.encode(" The capital", add_special_tokens=False))
    assert has_stop(base.tokenizer.encode("is a", add_special_tokens=False))
    assert not has_stop(base.tokenizer.encode("is b", add_special_tokens=False))


def test_a_sharded_base_does_not_generate(base: LoadedBase, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.bank, "shards", object())
    with pytest.raises(ValueError, match="local_gsm8k: generates text, which needs the whole base"):
        score.score_tasks(base, {"base": None}, settings(folder, "gsm8k"))


def test_logits_are_changed_as_transformers_does() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[1, 4, 4], [8, 0, 2]])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(known, logits.clone())
    torch.testing.assert_close(penalized(logits, known.tolist(), 1.3), expected)
    torch.testing.assert_close(likeliest_only(logits, 4), TopKLogitsWarper(4)(known, logits.clone()))
    assert torch.equal(likeliest_only(logits, 50), logits)


def test_a_prompt_too_short_begins_with_the_prefix(base: LoadedBase) -> None:
    partial = lm_eval_model.Partial(None)
    model = lm_eval_model.BankModel(replace(base), None, partial)
    (found,) = model.generations([request("", until="e")])
    assert found.tokens == tuple(base.tokenizer.encode("")) or found.tokens == (model.prefix_token_id,)
