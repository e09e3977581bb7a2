"""Generating tasks: resumed answer by answer, samples by seed, one batch for all systems, refusals by name."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from eval.answers.generate import prompt_seed
from eval.answers.sampling import likeliest_only, penalized
from eval.answers.sequences import DecodingSettings
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.tasks.settings import TasksSettings
from eval.scoring.continuations import Continuation
from harness.banks.load import LoadedBase
from tests.builders import open_base
from tests.tiny import make_checkpoint, make_tokenizer

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


def test_a_prompt_leaves_room_for_its_answer() -> None:
    own = SimpleNamespace(eos_token_id=2)
    base: Any = SimpleNamespace(
        max_length=10,
        tokenizer=SimpleNamespace(eos_token_id=2, decode=lambda tokens: "</s>"),
        bank=SimpleNamespace(base=SimpleNamespace(generation_config=own)),
    )

    def read(size: int, most: int | None, repeat: int = 0, seed: int = 0, **kwargs: Any) -> Any:
        given = request(until="e", **kwargs)
        return generation.generation_of(base, lambda text: list(range(size)), given, repeat, seed, most)

    assert read(5, 4).tokens == (0, 1, 2, 3, 4)
    assert read(9, 4).tokens == (3, 4, 5, 6, 7, 8)
    assert read(9, None, max_gen_toks=9).tokens == (8,)
    assert read(9, 1).settings.max_new_tokens == 1
    with pytest.raises(ValueError, match="max_gen_toks=10: this model's context of 10 must hold a prompt"):
        read(9, 10)
    plain = DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    assert (read(5, 4).settings, read(5, 4).seed) == (plain, 0)
    assert read(5, 4, repetition_penalty=1.5).settings == replace(plain, repetition_penalty=1.5)
    own.repetition_penalty, own.top_p, own.top_k = 1.25, 0.75, 0
    assert read(5, 4).settings == replace(plain, repetition_penalty=1.25)
    hot = {"do_sample": True, "temperature": 0.5}
    expected = replace(plain, greedy=False, temperature=0.5, top_p=0.75, top_k=None, repetition_penalty=1.25)
    assert read(5, 4, **hot).settings == expected
    assert read(5, 4, **hot, top_p=1, top_k=7).settings == replace(expected, top_p=1.0, top_k=7)
    seeds = [read(5, 4, *how, **hot).seed for how in ((0, 0), (1, 0), (0, 1))]
    assert len(set(seeds)) == 3
    assert read(5, 4, 0, 0, **hot).seed == seeds[0] != read(6, 4, 0, 0, **hot).seed
    for wrong in ({"top_k": -1}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=r"do_sample=true with temperature=0\.5, top_p=.*top_k="):
            read(5, 4, **hot, **wrong)
    own.no_repeat_ngram_size, own.min_length, own.suppress_tokens, own.forced_bos_token_id = 3, 0, [], 5
    own.encoder_repetition_penalty = 1.0
    assert generation.left_out_settings(base) == ["no_repeat_ngram_size=3", "forced_bos_token_id=5"]


def test_a_stop_text_is_looked_for_in_its_own_tokens_and_two_more() -> None:
    looked: list[list[int]] = []

    def decode(tokens: list[int]) -> str:
        looked.append(tokens)
        return "".join(map(str, tokens))

    def encode(text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [0] * len(text)

    tokenizer: Any = SimpleNamespace(decode=decode, encode=encode)
    assert generation.stop_check(tokenizer, ["", "23", "78", "9"])(range(8)) is False
    assert looked == [[4, 5, 6, 7], [5, 6, 7]]
    assert generation.stop_check(tokenizer, ["45", "99"])(range(8)) is True
    assert generation.stop_check(tokenizer, ["34"])(range(8)) is False
    assert generation.stop_check(tokenizer, [])(range(8)) is False


def test_answers_that_are_decoded_alike_are_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    short = DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    wanted = [
        (member, generation.Generation(tokens=(n,), until=until, settings=how, seed=n))
        for n, (member, until, how) in enumerate(
            [(None, ("a",), short), ("m", ("b",), short), ("m", ("a",), short), (None, ("a",), replace(short, top_k=3))]
        )
    ]
    batches: list[list[int]] = []

    def texts(base: Any, pairs: Any, until: Any, settings: Any) -> Any:
        batches.append([one.seed for _, one in pairs])
        yield from ((index, f"{one.seed}") for index, (_, one) in reversed(list(enumerate(pairs))))

    monkeypatch.setattr(generation, "_texts", texts)
    found: dict[int, str] = {}
    told: list[tuple[int, int]] = []
    generation.answer_together(None, wanted, found.__setitem__, lambda *done: told.append(done))
    assert batches == [[0, 2], [1], [3]]
    assert found == {n: str(n) for n in range(4)}
    assert told == [(n, 4) for n in (1, 2, 3, 4)]
    assert len({one.key for _, one in wanted}) == 4


def test_pairs_are_cut_on_the_left_and_scored_once(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm_eval_model.BankModel(replace(base, max_length=3), "tuned", lm_eval_model.Partial(None))
    assert (model.row_tokens, model.seed, model.max_new_tokens, model.on_progress) == (None, 0, None, None)
    asked: list[Any] = []

    def score_all(waiting: dict[str, Continuation], total: int) -> None:
        asked.append((list(waiting.values()), total))
        model.partial.add({key: [float(one.num_context), 1] for key, one in waiting.items()})

    monkeypatch.setattr(model, "_score", score_all)
    pairs = [([1, 5, 6], [7, 8]), ([9, 5, 6], [7, 8]), ([1], [7])]
    assert model._scores(pairs, ["a", "b", "c"]) == [(2.0, True), (2.0, True), (1.0, True)]
    ((waiting, total),) = asked
    assert [(one.tokens, one.num_context, one.member, one.group) for one in waiting] == [
        ([5, 6, 7, 8], 2, "tuned", "b"), ([1, 7], 1, "tuned", "c"),
    ]  # fmt: skip
    assert total == 2
    assert model._scores([([1], [7])]) == [(1.0, True)]
    assert asked[1] == ([], 1)
    bos = model.prefix_token_id
    own = model.tok_encode("Hi", add_special_tokens=False)
    assert model._pair("", "Hi") == ([bos], own)
    assert model._pair("", "<s>Hi") == ([bos], own)
    assert model.tok_encode("<s>Hi") == [bos, *own]
    instances = [request("Hi", until="e", max_gen_toks=1)]
    assert len({one.key for one in model.generations(instances * 2)}) == 1  # greedy ones are the same
    hot = [request("Hi", until="e", max_gen_toks=1, do_sample=True, temperature=1.0)]
    found = model.generations(hot * 3)
    digest = hashlib.sha256(json.dumps(found[0].tokens).encode()).hexdigest()
    assert [one.seed for one in found] == [prompt_seed(0, digest, repeat) for repeat in range(3)]


def test_a_dialogue_is_written_for_the_answer_or_to_go_on(base: LoadedBase) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    model = lm_eval_model.BankModel(replace(base, tokenizer=tokenizer), None, lm_eval_model.Partial(None))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert model.apply_chat_template(turns[:1]) == "[Hi]>"
    assert model.apply_chat_template(turns, add_generation_prompt=False) == "[Hi][Ho"
    assert model.apply_chat_template([{"role": "system", "content": "Be kind"}, *turns[:1]]) == "[Hi]>"


@pytest.mark.parametrize(
    ("fixed", "wanted", "number"), [(None, None, 0), (None, 3, 3), (2, None, None), (2, 3, 3), (2, 0, 0), (0, 3, None)]
)
def test_how_many_examples_a_task_shows(fixed: int | None, wanted: int | None, number: int | None) -> None:
    done: list[Any] = []
    task: Any = SimpleNamespace(
        get_config=lambda key: fixed,
        set_config=lambda key, value: done.append((key, value)),
        set_fewshot_seed=lambda seed: done.append(seed),
    )
    score._set_fewshot(task, wanted)
    assert done == [*([("num_fewshot", number)] if number is not None else []), 1234]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"UNSAFE_CODE": True}, "task t: it scores by running the code that the model writes"),
        ({"MULTIMODAL": True}, "task t: it shows images or plays sounds"),
        ({"OUTPUT_TYPE": "x"}, "task t: its output is x; served are multiple_choice, loglikelihood"),
        ({}, None),
    ],
)
def test_tasks_that_are_not_served(changes: dict[str, Any], message: str | None) -> None:
    task: Any = SimpleNamespace(**{"config": SimpleNamespace(task="t"), "OUTPUT_TYPE": "generate_until", **changes})
    if message is None:
        score._require_served(task)
        return
    with pytest.raises(ValueError, match=message):
        score._require_served(task)


def test_how_tasks_are_asked() -> None:
    assert score._asked_how(TasksSettings(names=["a"], limit=3)) == {"limit": 3}
    assert score._asked_how(TasksSettings(names=["a"], chat=True)) == {
        "limit": None, "apply_chat_template": True, "fewshot_as_multiturn": True,
    }  # fmt: skip


def test_crows_pairs_by_category() -> None:
    def sample(kind: str, value: float) -> dict[str, Any]:
        return {"doc": {"bias_type": kind}, "pct_stereotype": value}

    pairs = [sample("age", 1.0), sample("age", 0.0), sample("race-color", 1.0), sample("autre", 0.0)]
    found = results.crows_scores(pairs)
    assert {name: (one.value, one.n) for name, one in found.categories.items()} == {
        "Race/Color": (100.0, 1), "Age": (50.0, 2),
    }  # fmt: skip
    assert list(found.categories) == ["Race/Color", "Age"]
    assert (found.average_of_categories, found.average_of_pairs.value, found.average_of_pairs.n) == (None, 50.0, 4)
    assert found.average_of_pairs.ci95 == pytest.approx((15.0039, 84.9961), abs=1e-3)
    whole = results.crows_scores([sample(kind, float(n == 0)) for n, kind in enumerate(results.CROWS_CATEGORIES)])
    assert whole.average_of_categories == pytest.approx(100 / 9)
    assert results.crows_scores([*pairs, {"doc": {}, "pct_stereotype": 1.0}]) is None
    assert results.crows_scores([{"doc": {"bias_type": "age"}, "acc": 1.0}]) is None


@pytest.mark.parametrize("chat", [True, False])
def test_what_is_not_followed_is_noted_before_texts_are_generated(chat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    asked: list[Any] = []
    monkeypatch.setattr(score, "say_note", said.append)
    own = SimpleNamespace(no_repeat_ngram_size=3)
    bank = SimpleNamespace(shards=None, base=SimpleNamespace(generation_config=own))
    first: Any = SimpleNamespace(
        base=SimpleNamespace(bank=bank, source=SimpleNamespace(location="m")),
        apply_chat_template="template", tokenizer_name="name", generations=lambda requests: requests,
    )  # fmt: skip
    monkeypatch.setattr(lm_eval_model, "generate_missing", lambda *given: asked.append(given))
    built: list[Any] = []
    task = SimpleNamespace(
        OUTPUT_TYPE="generate_until", set_fewshot_seed=lambda seed: built.append(seed),
        build_all_requests=lambda **how: built.append(how), instances=[SimpleNamespace(repeats=2)],
    )  # fmt: skip
    other = SimpleNamespace(OUTPUT_TYPE="loglikelihood", set_fewshot_seed=lambda seed: None)
    settings = TasksSettings(names=["a"], limit=3, chat=chat)
    score._generate_all([first], {"tasks": {"a": task, "b": other}}, settings, print)
    assert said == ["m: of its generation_config no_repeat_ngram_size=3 is not followed"]
    template = {"chat_template": "template", "tokenizer_name": "name"}
    more = {"apply_chat_template": True, "fewshot_as_multiturn": True} | template
    assert built == [1234, {"limit": 3} | (more if chat else {})]
    assert asked == [([first], task.instances * 2, print)]
    own.no_repeat_ngram_size = None
    score._generate_all([first], {"tasks": {"a": task}}, settings, print)
    score._generate_all([first], {"tasks": {"b": other}}, settings, print)
    assert (len(said), len(asked)) == (1, 2)
