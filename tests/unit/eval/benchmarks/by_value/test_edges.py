"""Edges of the benchmarks: ends of texts, digests of what is kept, orders of files, resamples, tiny spreads."""

import gzip
import hashlib
import importlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from eval.benchmarks import changes, dataset_rows, held_out_rows, intervals, registry
from eval.benchmarks.answers import AnswersSettings, PromptFormat
from eval.benchmarks.benchmark import Contestant, Headline, Place, QuestionScores
from eval.benchmarks.glue import class_scores
from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.mmlu import calibration
from eval.benchmarks.mmlu import score as mmlu_score
from eval.benchmarks.mmlu.questions import Role, load_questions, parse_question
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.perplexity import texts
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.replicates import NO_SPREAD, ONE_RUN, Difference, Source, Spreads, _as_wide_as_exact
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.super_ni import score as super_ni_score
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.benchmarks.tasks import classes, generation, lm_eval_model
from eval.benchmarks.tasks import results as task_results
from eval.benchmarks.tasks import score as tasks_score
from eval.benchmarks.tasks.benchmark import TasksBenchmark
from eval.benchmarks.tasks.settings import TasksSettings
from eval.scoring.partial import Partial
from harness.config.schema import EvalConfig, EvalSource, ModelKind, PathsConfig
from harness.runs.estimate import Estimate

# what only type checkers read of other modules: a plan or a command imports these without loading torch or lm-eval
NAMED_ONLY = {
    "eval.benchmarks.answers": "LoadedBase",
    "eval.benchmarks.benchmark": "LoadedBase",
    "eval.benchmarks.held_out_rows": "LoadedBase",
    "eval.benchmarks.own_rows": "LoadedBase",
    "eval.benchmarks.glue.benchmark": "LoadedBase",
    "eval.benchmarks.mmlu.benchmark": "LoadedBase",
    "eval.benchmarks.perplexity.benchmark": "LoadedBase",
    "eval.benchmarks.rouge.benchmark": "LoadedBase",
    "eval.benchmarks.super_ni.benchmark": "LoadedBase",
    "eval.benchmarks.tasks.benchmark": "LoadedBase",
    "eval.benchmarks.tasks.score": "BankModel",
}


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.mark.parametrize(("module", "name"), NAMED_ONLY.items())
def test_types_alone_are_not_imported(module: str, name: str) -> None:
    assert not hasattr(importlib.import_module(module), name)


class Words:
    """A tokenizer of words: 1 begins a text, 2 ends it and is left out where special tokens are; `seen` tells how."""

    bos_token_id, eos_token_id, all_special_ids = 1, 2, (1, 2)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        self.seen.append((text, add_special_tokens))
        begun = [1] if add_special_tokens or text.startswith("<s>") else []
        return [*begun, *(len(word) + 2 for word in text.removeprefix("<s>").split())]

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        names = {1: "<s>", 2: "</s>"}
        kept = [token for token in tokens if not (skip_special_tokens and token in names)]
        return " ".join(names.get(token, "x" * (token - 2)) for token in kept)


def base_of(tokenizer: Any, **more: Any) -> Any:
    return made(tokenizer=tokenizer, max_length=9, source=made(location="org/model"), **more)


def bank_model(**more: Any) -> lm_eval_model.BankModel:
    return lm_eval_model.BankModel(base_of(Words()), "tuned", lm_eval_model.Partial(None), **more)


def test_a_model_of_lm_eval_says_its_ends_and_its_name() -> None:
    model = bank_model()
    assert (model.eot_token_id, model.prefix_token_id, model.max_length) == (2, 1, 9)
    assert model.tokenizer_name == "org/model"


@pytest.mark.parametrize(
    ("text", "given", "tokens"),
    [
        ("a bb", None, [1, 3, 4]),  # as the tokenizer says
        ("<s>a bb", None, [1, 3, 4]),  # begins with it already: not twice
        ("a bb", True, [1, 3, 4]),
        ("a bb", False, [3, 4]),
    ],
)
def test_a_text_begins_once(text: str, given: bool | None, tokens: list[int]) -> None:
    model = bank_model()
    assert model.tok_encode(text, add_special_tokens=given) == tokens
    is_begun = text.startswith("<s>")
    assert model.tokenizer.seen[0] == (text, not is_begun if given is None else given)


def test_an_answer_without_a_question_follows_the_prefix_alone() -> None:
    """BOS stands for the empty context; the continuation has none of its own, unless its text has."""
    model = bank_model()
    assert model._pair("", "a bb") == ([1], [3, 4])
    assert model._pair("", "<s>a bb") == ([1], [3, 4])
    assert [special for _, special in model.tokenizer.seen] == [False, False]


def test_likelihoods_of_tokens_and_what_is_kept_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a request is the digest of its tokens and of the continuation's length: later versions find it."""
    model = bank_model()
    tiny = 1.0 + 2.0**-20
    monkeypatch.setattr(
        lm_eval_model,
        "score_continuations",
        lambda base, waiting, row_tokens: [
            ([place], [made(logprobs=np.array([tiny, 2.0**14], dtype=np.float32), is_greedy=True)])
            for place in range(len(waiting))
        ],
    )
    (one,) = model._loglikelihood_tokens([("text", [1, 3], [4])])
    assert one == (tiny + 2.0**14, True)  # summed in 64 bits: 32 would lose the small part
    key = hashlib.sha256(json.dumps([[1, 3, 4], 1]).encode()).hexdigest()[:24]
    assert list(model.partial.done) == [key]


def test_answers_are_asked_for_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    model = bank_model(on_progress=lambda *done: told.append(done))
    how = generation.DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    wanted = [generation.Generation(tokens=(n,), until=("e",), settings=how, seed=0) for n in (5, 6)]
    monkeypatch.setattr(model, "generations", lambda requests: wanted)

    def together(base: Any, asked: Any, keep: Any, advance: Any) -> None:
        for place, (member, one) in enumerate(asked):
            keep(place, f"{member} {one.tokens}")
            advance(place + 1, len(asked))

    monkeypatch.setattr(lm_eval_model, "answer_together", together)
    assert model.generate_until(["first", "second"]) == ["tuned (5,)", "tuned (6,)"]
    assert told == [(1, 2), (2, 2)]
    assert model.generate_until(["first", "second"]) == ["tuned (5,)", "tuned (6,)"]  # kept
    assert len(told) == 2


def test_the_key_of_an_answer_is_a_digest_of_all_that_decides_it() -> None:
    how = generation.DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    one = generation.Generation(tokens=(5, 6), until=("e",), settings=how, seed=3)
    parts = [[5, 6], ["e"], generation.asdict(how), 3]
    assert one.key == "answer-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def test_a_prompt_and_what_else_a_request_has() -> None:
    """lm-eval's `args` may hold more than the text and its settings: they are not read."""
    own = made(eos_token_id=2)
    base = base_of(Words(), bank=made(base=made(generation_config=own)))
    asked = made(args=("a bb", {"until": ["e"], "max_gen_toks": 3}, "more"), task_name="t")
    found = generation.generation_of(base, lambda text: [3, 4], asked, 0, 0, None)
    assert (found.tokens, found.settings.max_new_tokens) == ((3, 4), 3)


def test_generated_texts_have_no_special_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "decode", lambda *given: iter([made(index=0, tokens=(3, 2))]))
    monkeypatch.setattr(generation, "eos_tokens", lambda base: (2,))
    how = generation.DecodingSettings(max_new_tokens=4, greedy=True, temperature=1.0, top_p=1.0)
    pair = ("tuned", generation.Generation(tokens=(1,), until=("zz",), settings=how, seed=0))
    assert list(generation._texts(base_of(Words()), [pair], ("zz",), how)) == [(0, "x")]


def test_classes_are_those_of_every_question() -> None:
    choices = iter([["bad", "good"], ["bad", "good"], ["bad", "fine"]])
    task = made(
        config=made(doc_to_choice="c"), multiple_input=0, multiple_target=0, doc_to_choice=lambda doc: next(choices)
    )
    assert classes.classes_of(task, [{"doc": n} for n in range(3)]) is None


def test_tasks_over_a_folder_depend_on_its_files(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["tasks"]
    for name in ("b.yaml", "a.yaml", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    files = benchmark.files(TasksSettings(names=["t"], folder=str(tmp_path)))
    assert {key: [path.name for path in paths] for key, paths in files.items()} == {
        "folder": ["a.yaml", "b.yaml", "c.txt"]
    }
    assert benchmark.files(TasksSettings(names=["t"])) == {}
    missing = benchmark.problems(TasksSettings(names=["t"], folder=str(tmp_path / "none")), PathsConfig(), "k.")
    assert missing == [f"k.folder={tmp_path / 'none'}: no such folder"]
    assert benchmark.problems(TasksSettings(names=["t"], folder=str(tmp_path)), PathsConfig(), "k.") == []


def test_the_order_of_a_folder_does_not_change_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file in files:
        file.touch()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(files[::-1]))
    assert BENCHMARKS["tasks"].files(TasksSettings(names=["t"], folder=str(tmp_path))) == {"folder": files}


def test_systems_of_two_templates_are_scored_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three systems, of which one is read by another template: the progress is that of all three."""
    told: list[Any] = []
    groups = [("base", {"a": None, "b": "m"}), ("read anew", {"c": "n"})]
    monkeypatch.setattr("eval.benchmarks.templates.members_by_template", lambda base, who, chat: iter(groups))

    def score(read: Any, members: Any, settings: Any, progress: Any, partial: Any) -> Any:
        progress(1, 2 * len(members))
        return {name: (read, member, partial) for name, member in members.items()}

    monkeypatch.setattr(tasks_score, "score_tasks", score)
    who = [Contestant(name=name, member=None) for name in "abc"]
    place = Place(paths=PathsConfig(), partial=Path("p"), on_progress=lambda *done: told.append(done))
    base: Any = "base"
    found: Any = BENCHMARKS["tasks"].score(base, who, TasksSettings(names=["t"]), place)
    assert found == {"a": ("base", None, Path("p")), "b": ("base", "m", Path("p")), "c": ("read anew", "n", Path("p"))}
    assert told == [(1, 6), (5, 6)]


def test_a_summary_has_each_task_and_their_mean() -> None:
    """Of metrics of which more is better; where no task has one, of the others, and it says so."""

    def task(*values: float | None, less_is_better: tuple[int, ...] = ()) -> Any:
        metrics = {f"m{n}": Estimate(value=value) for n, value in enumerate(values)}
        better = {f"m{n}": False for n in less_is_better}
        return made(metrics=metrics, crows_pairs=None, higher_is_better=better)

    lambada, words = task(8.0, 0.75, less_is_better=(0,)), task(20.0, less_is_better=(0,))
    result = made(tasks={"p": task(0.5, 0.9), "q": task(0.25), "r": task(None), "s": task(), "l": lambada, "w": words})
    benchmark = TasksBenchmark()
    assert benchmark.summary(result) == {"p": 0.5, "q": 0.25, "l": 8.0, "w": 20.0, "mean_over_tasks": 0.5}
    assert benchmark.headline(result) == Headline(metric="mean_over_tasks", estimate=Estimate(value=0.5, n=3))
    assert benchmark.headline(made(tasks={"r": task(None)})) is None
    lower = Headline(metric="mean_over_tasks", estimate=Estimate(value=20.0, n=1), lower_is_better=True)
    assert benchmark.headline(made(tasks={"w": words})) == lower


def test_the_table_of_tasks_has_a_title_and_a_line_a_metric() -> None:
    metrics = {"acc": Estimate(value=0.5, low=0.25, high=0.75, n=4), "loss": Estimate(value=None)}
    average = Estimate(value=60.0, n=3)
    crows = made(categories={"Age": Estimate(value=50.0, n=2)}, average_of_categories=55.0, average_of_pairs=average)
    result = made(tasks={"t": made(metrics=metrics, crows_pairs=crows)})
    table = BENCHMARKS["tasks"].table({"sys": result})
    assert (table.title, table.caption) == ("Tasks", "95 % intervals; CrowS-Pairs rows in percent, as Table 8")
    rows = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert rows == [
        ("sys", "t", "acc", "0.5000 [0.2500, 0.7500]", "4"), ("sys", "t", "loss", "-", ""),
        ("sys", "t", "Age", "50.0", "2"), ("sys", "t", "Average of categories", "55.0", ""),
        ("sys", "t", "Average of pairs", "60.0", "3"),
    ]  # fmt: skip


def test_answers_to_held_out_rows_have_no_special_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    row = made(prompt=(1, 3))
    asked = made(rows=[row, row], contestant=made(name="sys", member="m"))
    asked.partial = made(done={}, add=lambda parts: kept.append(parts))
    answers = [made(index=1, tokens=(3, 2), finish_reason="eos"), made(index=0, tokens=(4,), finish_reason="length")]
    seen: list[Any] = []

    def decode(base: Any, requests: Any, settings: Any, ends: Any) -> Iterator[Any]:
        seen.append((requests, settings, ends))
        yield from answers

    monkeypatch.setattr(rouge, "_asked", lambda *given: asked)
    monkeypatch.setattr(rouge, "decode", decode)
    monkeypatch.setattr(rouge, "eos_tokens", lambda base: (2,))
    monkeypatch.setattr(rouge, "_result", lambda *given: "result")
    told: list[Any] = []
    place = Place(paths=PathsConfig(), partial=None, on_progress=lambda *done: told.append(done))
    contestant = Contestant(name="sys", member="m")
    found: Any = rouge.score_rouge(base_of(Words()), [contestant], RougeSettings(max_new_tokens=5), place)
    assert found == {"sys": "result"}
    assert kept == [{1: ("x", False)}, {0: ("xx", True)}]
    [(requests, settings, ends)] = seen
    assert [(one.tokens, one.member, one.system) for one in requests] == [((1, 3), "m", "sys")] * 2
    assert (settings.max_new_tokens, settings.greedy, settings.temperature, settings.top_p) == (5, True, 1.0, 1.0)
    assert (ends, told) == ((2,), [(1, 2), (2, 2)])


def test_a_spread_is_rounding_beside_the_larger_of_two_means() -> None:
    """1e-8 between runs that are around a million is what their last digits round; around 1 it would be a spread."""
    large, small = np.array([[1e6], [1e6 + 1e-8]]), np.array([[1.0], [1.0]])
    for pair in ((large, small), (small, large)):
        found = Spreads.of(pair).difference(0, 1)
        assert (found.sources, found.note) == ((), NO_SPREAD)
    assert Spreads.of([large / 1e6, small]).difference(0, 1).note == NO_SPREAD
    near = np.array([[1.0], [1.0 + 1e-8]])
    assert Spreads.of([near, small]).difference(0, 1).note == ""


@pytest.mark.parametrize(
    ("at_once", "passes"),
    [(2000, [2, 2, 1]), (2999, [2, 2, 1]), (3000, [3, 2]), (5000, [5]), (10**6, [5]), (999, [1] * 5), (1, [1] * 5)],
)
def test_correlations_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch, at_once: int, passes: list[int]) -> None:
    """1000 rows, 5 resamples: as many at once as `at_once` numbers hold, one at least, five in all."""
    monkeypatch.setattr(class_scores, "NUM_RESAMPLES", 5)
    monkeypatch.setattr(class_scores, "_RESAMPLED_AT_ONCE", at_once)
    drawn: list[tuple[int, int]] = []
    real = np.random.default_rng(0)

    def integers(high: int, size: tuple[int, int]) -> Any:
        drawn.append(size)
        return real.integers(high, size=size)

    draws: list[int] = []
    monkeypatch.setattr(class_scores, "percentile_interval", lambda values: draws.append(len(values)))
    rows = np.arange(1000.0)
    rng: Any = made(integers=integers)
    class_scores.number_scores(rows.tolist(), (rows**2).tolist(), rng)
    assert drawn == [(count, 1000) for count in passes]
    assert draws == [5, 5]
    assert class_scores.NUM_RESAMPLES == 5


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e-60, 1e60])
def test_a_correlation_does_not_depend_on_the_unit(scale: float) -> None:
    one, two = np.array([1.0, 2.0, 4.0, 3.0]), np.array([2.0, 1.0, 5.0, 4.0])
    expected = pearsonr(one, two).statistic
    assert class_scores._pearson(scale * one[None], two[None]) == pytest.approx([expected])
    assert class_scores._pearson(two[None], scale * one[None]) == pytest.approx([expected])


@pytest.mark.filterwarnings("error")
def test_a_row_of_equal_numbers_has_no_correlation() -> None:
    """0.1 three times has a mean a digit off 0.1: equality is asked, not a small spread."""
    vary = np.array([1.0, 2.0, 4.0])
    rows = np.array([[0.1] * 3, [0.1, 0.1, 0.2], [5.0] * 3])
    found = class_scores._pearson(rows, np.stack([vary] * 3))
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == pytest.approx(pearsonr(rows[1], vary).statistic)
    assert np.isnan(class_scores._pearson(np.stack([vary] * 3), rows)).tolist() == [True, False, True]


def test_a_prediction_of_a_question() -> None:
    """Texts are given only where every response is one; a prediction has no extracts and no weights of its own."""
    bare = task_results.TaskPrediction(doc_id=1, target="t", logprobs=(), metrics={})
    assert (bare.extracted, bare.weights, bare.responses) == ({}, {}, ())
    sample = {"doc_id": 0, "target": 1, "metrics": ["acc"], "acc": 1.0, "filtered_resps": [(-1.5, True), (-2.5, False)]}
    mixed = sample | {"resps": [["x"], [(-2.5, False)]]}
    (found,) = task_results.predictions_of([mixed], ["acc"])
    assert (found.responses, found.logprobs) == ((), (-1.5, -2.5))
    (found,) = task_results.predictions_of([mixed | {"resps": [["x"], ["y"]]}], ["acc"])
    assert (found.responses, found.logprobs) == (("x", "y"), ())


def result_of(sample: dict[str, Any], **output: Any) -> Any:
    """The result of a task `t` with one sample, of which lm-eval says nothing but its metric."""
    whole = {"doc_id": 0, "target": 1, "resps": [["x"]], "filtered_resps": ["x"], "metrics": ["acc"], "acc": 1.0}
    facts = {"samples": {"t": [whole | {"arguments": "q", "doc": {}} | sample]}, "results": {"t": {"acc,none": 1.0}}}
    bare: dict[str, Any] = {"versions": {}, "higher_is_better": {}, "n-shot": {}}
    task = made(config=made(doc_to_choice=None))
    return tasks_score._result("sys", "m", {"t": task}, facts | bare | output, TasksSettings(names=["t"]))


def test_what_lm_eval_does_not_say_of_a_task() -> None:
    """No version, no examples, and more is better."""
    score = result_of({}).tasks["t"]
    assert (score.version, score.num_fewshot, score.higher_is_better) == ("", 0, {"acc": True})
    said = result_of({}, versions={"t": 2}, higher_is_better={"t": {"acc": False}}).tasks["t"]
    assert (said.version, said.higher_is_better) == ("2", {"acc": False})


def test_questions_of_any_kind_decide_the_digest() -> None:
    """Arguments that JSON has no form for count by their text."""
    paths = [result_of({"arguments": (Path(name), {"until": Path("x")})}).settings_sha256 for name in "aab"]
    assert paths[0] == paths[1] != paths[2]


def test_lm_eval_and_datasets_are_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet: list[str] = []
    monkeypatch.setattr("datasets.disable_progress_bars", lambda: quiet.append("bars"))
    logger = logging.getLogger("lm_eval")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    with pytest.raises(ValueError, match="no such folder"):
        tasks_score.load_tasks(TasksSettings(names=["t"], folder=str(tmp_path / "none")))
    assert (quiet, logger.level) == (["bars"], logging.ERROR)


def test_a_class_score_is_of_the_rows_and_its_interval_of_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[Any] = []
    monkeypatch.setattr(class_scores, "percentile_interval", lambda values: draws.append(len(values)))
    found = class_scores.class_scores([0, 1, 1, 2], [0, 1, 2, 2], 3, np.random.default_rng(0))
    assert draws == [class_scores.NUM_RESAMPLES] * 3 == [1000] * 3
    assert found["accuracy"].value == 0.75
    assert found["f1_macro"].value == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_the_mean_over_glue_tasks_stands_below_a_line() -> None:
    def result(task: str, score: float) -> Any:
        metric = {"accuracy": Estimate(value=score), "f1": Estimate(value=None)}
        return made(task=task, split_name="dev", official=("accuracy", "f1"), metrics=metric, n=4, score=score)

    glue = BENCHMARKS["glue"]
    table = glue.table({"a": result("cola", 0.5), "b": result("rte", 0.7)})
    rows = list(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert rows == [
        ("a", "cola", "dev", "accuracy 50.0", "f1 not defined", "4"),
        ("b", "rte", "dev", "accuracy 70.0", "f1 not defined", "4"),
        ("mean over 2 tasks", "", "", "60.0", "", ""),
    ]
    assert [row.end_section for row in table.rows] == [False, True, False]
    assert len(glue.table({"a": result("cola", 0.5), "b": result("cola", 0.7)}).rows) == 2
    assert len(glue.table({"a": result("cola", 0.5)}).rows) == 1


def question_scores(names: list[str], values: list[float], **more: Any) -> QuestionScores:
    return QuestionScores(metric="acc", unit="share", higher_is_better=True, names=names, values=values, **more)


def test_a_change_is_over_the_same_questions() -> None:
    """Weights 1 and 3: before (0 + 3) / 4, after (1 + 1.5) / 4."""
    before = question_scores(["a", "b"], [0.0, 1.0], weights=[1.0, 3.0], part="p")
    after = question_scores(["a", "b"], [1.0, 0.5], weights=[2.0, 2.0], part="p")
    found = changes._change("sys", "base", before, after)
    assert (found.system, found.base, found.measure, found.higher_is_better) == ("sys", "base", "p acc", True)
    assert (found.before, found.after, found.change.value, found.change.n) == (0.75, 0.625, -0.125, 2)
    with pytest.raises(ValueError, match=r"^sys and base were asked other questions \(p acc\); score both anew"):
        changes._change("sys", "base", before, question_scores(["b", "a"], [0.0, 1.0], part="p"))


class Nowhere(str):
    """Stands for `harness.data.source.Missing`."""


def test_rows_that_are_nowhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_rows, "Missing", Nowhere)
    monkeypatch.setattr(dataset_rows, "locate_dataset", lambda config, paths: Nowhere("no rows: look there"))
    config: Any = made(name="d")
    with pytest.raises(ValueError, match="no rows: look there"):
        dataset_rows._found(config, "dev", PathsConfig())
    monkeypatch.setattr(dataset_rows, "locate_dataset", lambda config, paths: "source")
    monkeypatch.setattr(dataset_rows, "fingerprint", lambda source: f"sha of {source}")
    found = dataset_rows._found(config, "dev", PathsConfig())
    assert (found.dataset, found.source, found.split_name, found.sha256) == (config, "source", "dev", "sha of source")


def run_spec(source: EvalSource = EvalSource.split, **dataset: Any) -> Any:
    facts = {"path": None, "split": "train", "eval_split": "dev", "name": "d", "empty_targets": made(value="keep")}
    train = made(eval_source=source, eval_rows=3)
    return made(train=train, dataset=made(**(facts | dataset)), model=made(kind=ModelKind.seq2seq), run_id="r")


def test_held_out_rows_of_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of `eval_rows` of the split, each of which fits; refused where the split has fewer or is none."""
    seen: list[Any] = []

    class Rows(list[int]):
        def require_fits(self, most: int, apart: bool) -> None:
            seen.append((most, apart))

    @dataclass
    class Config:
        max_rows: int | None = None

    tokenized = [Rows([1, 2, 3])]
    rows = made(dataset=Config(), source="source", split_name="dev")
    monkeypatch.setattr(held_out_rows, "evaluation_rows", lambda *given: seen.append(given) or rows)
    monkeypatch.setattr(
        held_out_rows, "tokenize_dataset", lambda *given, **more: seen.append((given, more)) or tokenized[0]
    )
    base: Any = made(tokenizer="tokenizer", max_length=9)
    paths = PathsConfig(cache="c")
    spec = run_spec()
    Config.empty_targets = made(value="keep")  # type: ignore[attr-defined]
    assert held_out_rows.split_examples(spec, base, paths) == [1, 2, 3]
    assert seen == [
        (spec.dataset, None, None, paths),
        ((Config(max_rows=3), "source", "tokenizer", Path("c/tokenized")), {"empty_targets": "keep"}), (9, True),
    ]  # fmt: skip
    assert held_out_rows.held_out_examples(spec, Path("f"), base, paths) == [1, 2, 3]
    tokenized[0] = Rows([1, 2])
    with pytest.raises(ValueError, match=r"train.eval_rows=3: the split dev of d has 2 rows; give fewer"):
        held_out_rows.split_examples(spec, base, paths)
    for changes_of, said in (({"path": "f"}, "is the file f"), ({"eval_split": "train"}, "is the split that d trains")):
        with pytest.raises(ValueError, match=said):
            held_out_rows.split_examples(run_spec(**changes_of), base, paths)
    assert held_out_rows.split_examples(run_spec(EvalSource.holdout), base, paths) is None
    for lacking in ("train", "dataset"):
        bare = run_spec()
        setattr(bare, lacking, None)
        assert held_out_rows.split_examples(bare, base, paths) is None


def test_rows_of_a_finished_run_are_those_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_rows, "Missing", Nowhere)
    found: list[Any] = [Nowhere("nowhere")]
    record: list[Any] = [made(data_fingerprint="sha")]
    data = made(num_characters=np.array([1, 2]))
    seen: list[Any] = []
    for name, value in {
        "locate_dataset": lambda dataset, paths: found[0],
        "fingerprint": lambda source: "sha",
        "load_record": lambda folder: record[0],
        "tokenize_dataset": lambda *given, **more: seen.append((given, more)) or data,
        "shared_lines": lambda dataset, data: "lines",
        "divided": lambda *given: seen.append(given) or made(held_out="held out"),
    }.items():
        monkeypatch.setattr(held_out_rows, name, value)
    spec, base, paths = run_spec(EvalSource.holdout), made(tokenizer="t"), PathsConfig(cache="c")
    with pytest.raises(ValueError, match="nowhere"):
        held_out_rows.divided_rows(spec, Path("f"), base, paths)
    found[0] = "source"
    assert held_out_rows.held_out_examples(spec, Path("f"), base, paths) == "held out"
    (tokenizing, (of_data, characters, train, lines)) = seen
    assert tokenizing == ((spec.dataset, "source", "t", Path("c/tokenized")), {"empty_targets": "keep"})
    assert (of_data, characters.dtype, train, lines) == (data, np.int64, spec.train, "lines")
    for other in (None, made(data_fingerprint="other")):
        record[0] = other
        with pytest.raises(ValueError, match="d: its rows have changed since run r was trained"):
            held_out_rows.divided_rows(spec, Path("f"), base, paths)


@pytest.mark.parametrize(
    ("changes_of", "said"),
    [
        (None, "expected an object with subject, question, choices, answer"),
        ({"subject": " "}, "subject is ' '; expected text"),
        ({"question": 5}, "question is 5; expected text"),
        ({"choices": "abcd"}, "choices is 'abcd'; expected a list of 4 texts"),
        ({"choices": ["a", "b", "c", 4]}, "expected a list of 4 texts"),
        ({"choices": ["a", "b", "c"]}, "choices has 3 entries; expected 4"),
        ({"choices": list("abcde")}, "choices has 5 entries; expected 4"),
        ({"answer": True}, "answer is True; expected 0 to 3, the place of the right choice"),
        ({"answer": 4}, "answer is 4; expected 0 to 3"),
        ({"answer": -1}, "answer is -1; expected 0 to 3"),
        ({"answer": "A"}, "answer is 'A'; expected 0 to 3"),
    ],
)
def test_what_is_no_question_of_mmlu_is_named(changes_of: dict[str, Any] | None, said: str) -> None:
    row = {"subject": "law", "question": "Who?", "choices": list("abcd"), "answer": 3}
    with pytest.raises(ValueError, match=rf"^f, line 3: .*{re.escape(said)}"):
        parse_question(5 if changes_of is None else row | changes_of, "f, line 3")
    assert [parse_question(row | {"answer": n}, "f").answer for n in (0, 3)] == [0, 3]
    assert parse_question(row, "f").choices == ("a", "b", "c", "d")


def test_prompts_are_scored_packed_padded_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmlu_score, "score_padded", lambda *given: iter([("padded", *given[1:])]))
    monkeypatch.setattr(mmlu_score, "score_rows", lambda *given: iter([("rows", *given[1:])]))
    for is_packed, name in ((True, "rows"), (False, "padded")):
        base: Any = made(bank=made(layout=made(is_packed=is_packed)))
        prompts: Any = ["p"]
        assert list(mmlu_score._score(base, prompts, [[1]], 7)) == [(name, ["p"], [[1]], 7)]
        assert list(mmlu_score._score(base, [], [[1]], 7)) == []


def test_a_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    (file := tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8 \(invalid start byte at byte 2\): save the file as UTF-8"):
        texts._read_text(file)
    file.write_bytes("\u00e9\r\n".encode())
    assert texts._read_text(file) == "\u00e9\n"


@pytest.mark.parametrize("name", ["perplexity", "rouge"])
def test_a_benchmark_hands_all_on_to_its_scores(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    place = Place(paths=PathsConfig(), partial=Path("p"), on_progress=lambda *done: None)
    who = [Contestant(name="a", member="m"), Contestant(name="b", member=None)]
    base: Any = "base"
    if name == "rouge":
        monkeypatch.setattr(rouge, "score_rouge", lambda *given: given)
        settings: Any = RougeSettings()
        assert BENCHMARKS[name].score(base, who, settings, place) == (base, who, settings, place)
        return
    monkeypatch.setattr("eval.benchmarks.perplexity.benchmark.load_documents", lambda source, paths: (source, paths))
    monkeypatch.setattr("eval.benchmarks.perplexity.score.score_perplexity", lambda *given: given)
    settings = PerplexitySettings(text="t")
    members = {"a": "m", "b": None}
    documents = (settings.source, place.paths)
    found: Any = BENCHMARKS[name].score(base, who, settings, place)
    assert found == (base, members, documents, settings, place.on_progress, Path("p"))


@pytest.mark.parametrize(
    ("name", "scorer"),
    [("glue", "eval.benchmarks.glue.score.score_glue"), ("super_ni", "eval.benchmarks.super_ni.score.score_super_ni")],
)
def test_each_run_is_scored_on_its_own_rows(monkeypatch: pytest.MonkeyPatch, name: str, scorer: str) -> None:
    monkeypatch.setattr(scorer, lambda *given: given)
    place = Place(paths=PathsConfig(), partial=Path("p"), on_progress=lambda *done: None)
    rows: Any = ["r1", "r2"]
    who = [Contestant(name=n, member=m, rows=r) for n, m, r in zip("ab", ("m", None), rows, strict=True)]
    base: Any = "base"
    found: Any = BENCHMARKS[name].score(base, who, "settings", place)
    assert found == {
        n: (base, n, m, r, "settings", place.on_progress, Path("p"))
        for n, m, r in zip("ab", ("m", None), rows, strict=True)
    }


def test_rows_and_tokens_of_an_own_rows_benchmark(tmp_path: Path) -> None:
    (file := tmp_path / "rows.jsonl").touch()
    dataset: Any = made(source_max_tokens=100)
    for name, written, settings in (("super_ni", 7, SuperNiSettings(max_new_tokens=7)), ("glue", 0, GlueSettings())):
        benchmark = BENCHMARKS[name]
        assert benchmark.num_tokens(settings, PathsConfig(), dataset, 5) == 5 * (100 + written)
        assert benchmark.num_tokens(settings, PathsConfig(), None, 5) is None
        assert benchmark.num_tokens(settings, PathsConfig(), dataset, None) is None
        assert benchmark.scores_own_dataset is True
        assert benchmark.files(made(data=str(file))) == {"data": [file]}
        assert benchmark.files(made(data=str(tmp_path / "none"))) == {"data": []}
        assert benchmark.files(made(data=None)) == {}


def test_what_is_no_classifier_or_has_no_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Any = made(dataset=made(format="glue_rte", name="rte"), split_name="dev", source="s")
    with pytest.raises(ValueError, match=r"^org/model: trained to write text, not to classify; `eval glue` scores"):
        glue_score._classifier(base_of(Words(), bank="a causal bank"), rows)
    monkeypatch.setattr(glue_score, "declared_labels", lambda dataset: None)
    monkeypatch.setattr(glue_score, "read_rows", lambda source: [])
    with pytest.raises(ValueError, match=r"^rte, dev: no rows to score$"):
        glue_score._labelled_rows(rows, None, 2)
    monkeypatch.setattr(super_ni_score, "read_rows", lambda source: [])
    with pytest.raises(ValueError, match=r"^rte, dev: no rows to score$"):
        super_ni_score.read_instances(rows, None)


def test_an_exact_test_that_asks_for_less_changes_nothing() -> None:
    """Four of four for one system: McNemar's exact p is 2/16; of equal halves it is 1, which widens nothing."""
    ones, zeros = np.ones((1, 4)), np.zeros((1, 4))
    halves = np.array([[1.0, 0.0, 1.0, 0.0]])
    assert Spreads.of([ones, zeros]).difference(0, 1).p_two_sided() is None  # all differ alike: nothing to measure by
    balanced = Spreads.of([halves, 1.0 - halves]).difference(0, 1)
    assert balanced.p_two_sided() == pytest.approx(1.0)
    found = Spreads.of([np.array([[1.0, 1.0, 1.0, 0.0]]), zeros]).difference(0, 1)
    assert found.p_two_sided() == pytest.approx(2 / 8)


@pytest.mark.parametrize(
    ("at_once", "passes"), [(8, [2, 2, 1]), (11, [2, 2, 1]), (12, [3, 2]), (3, [1] * 5), (1, [1] * 5), (10**6, [5])]
)
def test_calibration_is_resampled_in_parts(monkeypatch: pytest.MonkeyPatch, at_once: int, passes: list[int]) -> None:
    """Four questions, five resamples of each question once: all are the scores themselves."""
    monkeypatch.setattr(calibration, "NUM_RESAMPLES", 5)
    monkeypatch.setattr(calibration, "_AT_ONCE", at_once)
    drawn: list[Any] = []

    def multinomial(n: int, shares: Any, size: int) -> Any:
        drawn.append((n, shares.tolist(), size))
        return np.ones((size, n))

    gaps = np.array([[0.5, 0.0], [-0.25, 0.0], [0.0, -0.5], [0.0, 0.25]])
    rng: Any = made(multinomial=multinomial)
    ece, brier = calibration._resampled(gaps, np.array([0.0, 1.0, 2.0, 0.5]), rng)
    assert drawn == [(4, [0.25] * 4, count) for count in passes]
    assert (ece.tolist(), brier.tolist()) == ([0.125] * 5, [0.875] * 5)


def cells_of(table: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


def test_tables_of_results_row_by_row() -> None:
    ci = (0.25, 0.75)
    mmlu = made(
        accuracy_macro=0.5, accuracy_macro_ci95=ci, accuracy_micro=0.6, accuracy_micro_ci95=None, ece=0.1, ece_ci95=ci,
        brier=0.75, brier_ci95=None, n=9,
    )  # fmt: skip
    table = BENCHMARKS["mmlu"].table({"a": mmlu})
    assert cells_of(table) == [("a", "50.0 [25.0, 75.0]", "60.0", "10.0 [25.0, 75.0]", "0.750", "9")]
    assert table.caption == "percent, ECE too; 95 % intervals; Brier: 0 is perfect, 2 sure and wrong"
    rows = made(dataset="d", rouge_l=0.5, rouge_l_ci95=ci, exact_match=0.25, num_cut=2, n=9)
    table = BENCHMARKS["rouge"].table({"a": rows})
    assert cells_of(table) == [("a", "d", "50.0 [25.0, 75.0]", "25.0", "2", "9")]
    assert (table.title, table.caption) == ("RougeL on held-out rows", "95 % intervals over rows")
    own = made(split_name="s", rouge_l=0.5, rouge_l_ci95=ci, rouge_l_macro=0.4, exact_match=0.25, num_tasks=3, n=9)
    table = BENCHMARKS["super_ni"].table({"a": own})
    assert cells_of(table) == [("a", "s", "50.0 [25.0, 75.0]", "40.0", "25.0", "3", "9")]
    assert (table.title, table.caption) == ("Super-NaturalInstructions", "95 % intervals over tasks")
    text = made(
        text="t", num_documents=2, num_tokens=30, window=8, stride=4, token_perplexity=5.0,
        token_perplexity_ci95=(4, 6),
        bits_per_byte=1.0, bits_per_byte_ci95=None, word_perplexity=99.0,
    )  # fmt: skip
    table = BENCHMARKS["perplexity"].table({"a": text})
    assert cells_of(table) == [("a", "5.000 [4.000, 6.000]", "1.0000", "99.00")]
    assert (table.title, table.title_justify) == ("Perplexity of t: 2 documents, 30 tokens", "left")
    assert table.caption == "window 8, stride 4; 95 % intervals over documents"
    for name, result in (("mmlu", mmlu), ("rouge", rows), ("super_ni", own), ("perplexity", text)):
        justify = [column.justify for column in BENCHMARKS[name].table({"a": result}).columns]
        num_left = {"rouge": 2, "super_ni": 2}.get(name, 1)
        assert justify == ["left"] * num_left + ["right"] * (len(justify) - num_left)


def test_how_many_tokens_a_text_has(tmp_path: Path) -> None:
    """4 bytes each; through overlapping windows as often as they overlap; windows without overlap once."""
    (file := tmp_path / "t.txt").write_text("x" * 4000)
    benchmark, paths = BENCHMARKS["perplexity"], PathsConfig()

    def tokens(**settings: Any) -> int | None:
        return benchmark.num_tokens(PerplexitySettings(text=str(file), **settings), paths, None, None)

    sizes = [tokens(), tokens(window=8), tokens(window=8, stride=2), tokens(window=8, stride=8)]
    assert sizes == [1000, 1000, 4000, 1000]
    assert benchmark.num_tokens(PerplexitySettings(text="hub:a:test"), paths, None, None) is None


def test_how_many_tokens_and_questions_mmlu_asks() -> None:
    benchmark, paths = BENCHMARKS["mmlu"], PathsConfig()
    hub: dict[str, Any] = {"questions": "hub:validation", "shots_file": "hub:dev"}

    def asked(**settings: Any) -> tuple[int | None, int | None]:
        chosen = MmluSettings(**(hub | settings))
        return benchmark.num_questions(chosen, None), benchmark.num_tokens(chosen, paths, None, None)

    assert asked() == (1531, (1531 * 445 + 285 * 445) // 4)
    assert asked(limit=100, num_shots=0) == (100, 100 * 445 // 4)
    assert asked(limit_per_subject=2, num_shots=1) == (114, (114 * 445 + 57 * 445) // 4)
    assert asked(limit=50, limit_per_subject=2, num_shots=9) == (50, (50 * 445 + 285 * 445) // 4)
    assert asked(questions="hub:nobodys") == (None, None)
    assert asked(questions="none.jsonl") == (None, None)
    embedded = MmluSettings(num_shots=0, limit=3)
    chosen = load_questions("embedded", Role.questions)[:3]
    size = sum(len(text.encode()) for one in chosen for text in (one.question, *one.choices))
    assert benchmark.num_tokens(embedded, paths, None, None) == size // 4
    assert benchmark.num_questions(embedded, None) == 3


def test_the_front_is_of_those_that_nobody_is_better_than_everywhere() -> None:
    """a gains most and forgets most; b between; c is b, less; d lacks a measure, and of the other has more than b."""

    def change(system: str, measure: str, value: float, higher: bool = True) -> Any:
        return made(system=system, measure=measure, higher_is_better=higher, change=Estimate(value=value))

    found = [
        change("a", "acc", 3.0), change("a", "loss", 3.0, False), change("b", "acc", 2.0),
        change("b", "loss", 1.0, False), change("c", "acc", 1.0), change("c", "loss", 1.0, False),
        change("d", "acc", 2.5),
    ]  # fmt: skip
    assert changes.front(found) == ["a"]
    assert changes.front(found[:6]) == ["a", "b"]
    assert changes.front(found[:2] * 2) == ["a"]
    one, other = {"acc": 2.0, "loss": 0.0}, {"acc": 1.0, "loss": 1.0}
    assert changes._is_better(one, other) is changes._is_better(other, one) is changes._is_better(one, one) is False
    assert changes._is_better(one, {"acc": 1.0, "loss": 0.0})
    assert not changes._is_better(one, {"other": 1.0})


def test_how_many_tokens_answers_take(tmp_path: Path) -> None:
    """4 bytes of a turn are a token; each turn is answered by as many as are allowed."""
    rows = [{"question_id": 1, "turns": ["x" * 40, "\u00e9" * 10]}, {"question_id": 2, "turns": ["x" * 21]}]
    (file := tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark, paths = BENCHMARKS["answers"], PathsConfig()
    settings = AnswersSettings(questions=str(file), max_new_tokens=100)
    assert benchmark.num_tokens(settings, paths, None, None) == (40 + 20 + 21) // 4 + 3 * 100
    one = AnswersSettings(questions=str(file), max_new_tokens=7, limit=1)
    assert benchmark.num_tokens(one, paths, None, None) == 15 + 2 * 7
    assert benchmark.files(settings) == {"questions": [file]}
    missing = AnswersSettings(questions=str(tmp_path / "none.jsonl"))
    assert benchmark.num_tokens(missing, paths, None, None) is None
    assert benchmark.files(missing) == {"questions": []}
    [problem] = benchmark.problems(missing, paths, "k.")
    assert problem.startswith("k.questions: ")
    assert benchmark.problems(settings, paths, "k.") == []
    assert [benchmark.wants_template(AnswersSettings(prompt_format=f)) for f in PromptFormat] == [
        f is PromptFormat.chat for f in PromptFormat
    ]


def test_answers_of_runs_are_counted_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def generate(base: Any, systems: Any, questions: Any, bench: str, how: Any, on_progress: Any) -> Any:
        seen.append(([one.name for one in systems], len(questions), bench, how.max_new_tokens, how.prompt_format))
        return {"s1": ["x", "y"], "s2": []}

    monkeypatch.setattr("eval.answers.generate.generate_answers", generate)
    who = [Contestant(name=n, member=None, system=s) for n, s in (("a", made(name="s1")), ("b", made(name="s2")))]
    who.append(Contestant(name="c", member=None))
    settings = AnswersSettings(bench="mine", max_new_tokens=7, limit=2, prompt_format=PromptFormat.human)
    place = Place(paths=PathsConfig(), partial=None, on_progress=lambda *done: None)
    base: Any = "base"
    found: Any = BENCHMARKS["answers"].score(base, who, settings, place)
    assert {name: (one.num_answers, one.path) for name, one in found.items()} == {
        "a": (2, "answers/mine.jsonl"), "b": (0, "answers/mine.jsonl"),
    }  # fmt: skip
    assert seen == [(["s1", "s2"], 2, "mine", 7, PromptFormat.human)]
    assert BENCHMARKS["answers"].summary(found["a"]) == {"num_answers": 2}
    assert BENCHMARKS["answers"].headline(found["a"]) is None


def test_intervals_of_shares_stay_between_nothing_and_all() -> None:
    """Of 16 of 16 rounding alone would reach beyond 1, of 0 of 21 below 0; several strata reach beyond by far."""
    for n in range(1, 100):
        assert intervals.wilson_interval(n, n)[1] <= 1.0
        assert intervals.wilson_interval(0, n)[0] >= 0.0
    assert intervals.stratified_interval([(1, 1)]) == pytest.approx(intervals.wilson_interval(1, 1))
    low, high = intervals.stratified_interval([(16, 16), (40, 40)])
    assert high == 1.0
    assert 0.0 < low < 1.0
    assert intervals.stratified_interval([(0, 21), (0, 37)])[0] == 0.0
    one, other = intervals.wilson_interval(1, 4), intervals.wilson_interval(3, 6)
    low, high = intervals.stratified_interval([(1, 4), (3, 6)])
    assert low == pytest.approx(0.375 - ((0.25 - one[0]) ** 2 + (0.5 - other[0]) ** 2) ** 0.5 / 2)
    assert high == pytest.approx(0.375 + ((one[1] - 0.25) ** 2 + (other[1] - 0.5) ** 2) ** 0.5 / 2)


def test_an_interval_of_a_mean_is_wilsons_of_shares_and_students_of_others() -> None:
    assert intervals.mean_interval([0.0, 1.0, 1.0]) == intervals.wilson_interval(2, 3)
    assert intervals.mean_interval([1.0]) == intervals.wilson_interval(1, 1)
    assert intervals.mean_interval([0.5]) is intervals.mean_interval([0.5, 0.5]) is None
    low, high = intervals.mean_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    draws = np.array([np.nan, *np.arange(101.0), np.inf])
    assert intervals.percentile_interval(draws) == (2.5, 97.5)
    assert intervals.percentile_interval(np.array([np.nan])) is intervals.percentile_interval(np.ones(3)) is None


def test_what_scoring_mmlu_asks_keeps_and_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two systems, three questions, one answered before: five are asked, in groups of what begins alike."""
    questions = [made(subject=s, answer=n) for n, s in enumerate(("law", "law", "art"))]
    encoded = [
        made(tokens=[7, 8], num_shots=5, num_truncated=0), made(tokens=[9], num_shots=5, num_truncated=3),
        made(tokens=[7, 1], num_shots=4, num_truncated=0),
    ]  # fmt: skip
    data = made(questions=questions, indices=(4, 5, 9), sha256="d")
    parts = {"a": Partial[int](None, {0: [0.0] * 4}), "b": Partial[int](None)}
    seen: list[Any] = []
    told: list[Any] = []

    def score(base: Any, prompts: Any, letters: Any, row_tokens: int | None) -> Iterator[Any]:
        seen.append((prompts, letters, row_tokens))
        yield [4, 0], np.array([[4.0] * 4, [0.5] * 4], dtype=np.float32)
        yield [1, 2, 3], np.array([[float(n)] * 4 for n in (1, 2, 3)], dtype=np.float32)

    for name, value in {
        "load_set": lambda settings: data,
        "encode_set": lambda *given: encoded,
        "_letter_tokens": lambda *given: [[1], [2], [3]],
        "_open_job": lambda base, name, member, *rest: mmlu_score._Job(name, member, "sha", parts[name]),
        "_score": score,
        "_result": lambda job, *rest: sorted((at, found[0]) for at, found in job.logprobs.items()),
    }.items():
        monkeypatch.setattr(mmlu_score, name, value)
    base: Any = "base"
    found: Any = mmlu_score.score_mmlu(
        base, {"a": None, "b": "m"}, MmluSettings(row_tokens=9), lambda *done: told.append(done)
    )
    [(prompts, letters, row_tokens)] = seen
    assert [(one.tokens, one.member, one.group) for one in prompts] == [
        ([9], None, "law/1"), ([7, 1], None, "art/shots=4"), ([7, 8], "m", "law/shots=5"), ([9], "m", "law/1"),
        ([7, 1], "m", "art/shots=4"),
    ]  # fmt: skip
    assert (letters, row_tokens, told) == ([[2], [3], [1], [2], [3]], 9, [(3, 6), (6, 6)])
    assert found == {"a": [(0, 0.0), (1, 0.5), (2, 1.0)], "b": [(0, 2.0), (1, 3.0), (2, 4.0)]}


def test_letters_are_found_once_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(mmlu_score, "answer_tokens", lambda *given: asked.append(given) or [len(asked)])
    questions = [made(subject=s) for s in ("law", "art", "law")]
    data: Any = made(questions=questions, shots={"law": "l", "art": "a"})
    settings = MmluSettings(protocol=Protocol.hendrycks, chat=True, num_shots=1)
    assert mmlu_score._letter_tokens(base_of("t"), data, settings) == [[1], [2], [1]]
    assert asked == [("t", Protocol.hendrycks, s, q, True) for s, q in (("l", questions[0]), ("a", questions[1]))]


def test_a_question_that_does_not_fit_is_named_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(tokenizer: Any, protocol: Any, shots: Any, question: Any, most: int, chat: bool) -> Any:
        if question.subject == "art":
            raise ValueError("too long")
        return protocol, shots, most, chat

    monkeypatch.setattr(mmlu_score, "encode_prompt", encode)
    questions = [made(subject=s) for s in ("law", "art")]
    data: Any = made(indices=(3, 7), questions=questions, shots={"law": "l", "art": "a"})
    settings = MmluSettings(questions="f.jsonl", chat=True, num_shots=0)
    with pytest.raises(ValueError, match=r"^f.jsonl, question 8: too long$"):
        mmlu_score.encode_set(base_of("t"), data, settings)
    data.questions = questions[:1] * 2
    assert mmlu_score.encode_set(base_of("t"), data, settings) == [(settings.protocol, "l", 9, True)] * 2


def test_a_result_of_mmlu_counts_cut_prompts_and_dropped_examples() -> None:
    questions = [made(subject=s, answer=a) for s, a in (("astronomy", 1), ("astronomy", 0), ("anatomy", 3))]
    logprobs = [[0.0, 1.0, -1.0, -1.0], [0.0, 1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 2.0]]
    encoded: Any = [made(num_shots=n, num_truncated=cut) for n, cut in ((5, 0), (3, 2), (4, 1))]
    job = mmlu_score._Job("sys", None, "sha", Partial(None, dict(enumerate(logprobs))))
    data: Any = made(questions=questions, indices=(4, 5, 9), sha256="d")
    found = mmlu_score._result(job, data, encoded, MmluSettings(split_name="s"))
    assert (found.num_truncated_prompts, found.num_dropped_shots, found.num_shots, found.chat) == (2, 3, 5, False)
    assert (found.accuracy_macro, found.accuracy_micro) == (0.75, pytest.approx(2 / 3))
    assert (found.n, found.num_subjects) == (3, 2)
    assert [(p.subject, p.index, p.choice, p.answer, p.num_shots, p.num_truncated) for p in found.predictions] == [
        ("astronomy", 4, 1, 1, 5, 0), ("astronomy", 5, 1, 0, 3, 2), ("anatomy", 9, 3, 3, 4, 1),
    ]  # fmt: skip
    assert (found.system, found.model_sha256, found.settings_sha256, found.split_name) == ("sys", "sha", "d", "s")
    assert found.protocol == "lm_eval"


def test_only_single_runs_of_whole_numbers_are_as_wide_as_the_exact_test() -> None:
    """Four questions of five for one system: McNemar's p is 2/16, whoever is first; a second run is no single one."""
    ones, last = np.ones((1, 5)), np.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
    found = Difference(value=0.8, sources=(Source(variance=0.04, freedom=4),), note=ONE_RUN)
    wide = _as_wide_as_exact(found, ones, last)
    assert wide.p_two_sided() == pytest.approx(2 / 16)
    assert wide.note == ONE_RUN
    other_way = replace(found, value=-0.8)
    assert _as_wide_as_exact(other_way, last, ones).p_two_sided() == pytest.approx(2 / 16)
    twice = np.concatenate([ones, ones])
    assert _as_wide_as_exact(found, twice, last) is _as_wide_as_exact(found, ones, np.concatenate([last] * 2)) is found
    assert _as_wide_as_exact(replace(found, note=""), ones, last).note == ""
    assert _as_wide_as_exact(found, ones * 0.5, last * 0.5) is found
    wider = replace(found, sources=(Source(variance=0.4, freedom=4),))
    assert _as_wide_as_exact(wider, ones, last) is wider  # it says less than the exact test already
    assert _as_wide_as_exact(replace(found, sources=()), ones, last).sources == ()


def test_the_config_of_evaluations_is_made_of_each_benchmarks_settings() -> None:
    made_of: Any = registry._eval_config.__wrapped__((("glue", GlueSettings), ("rouge", RougeSettings)))
    config = made_of()
    assert isinstance(config, EvalConfig)
    assert (config.glue, config.rouge, config.after_training) == (GlueSettings(), RougeSettings(), [])
    assert not hasattr(config, "__dict__")
    with pytest.raises(TypeError, match="positional"):
        made_of([])
    assert made_of(glue=GlueSettings(limit=3)).glue.limit == 3
    assert registry.settings_of(config, "rouge") == RougeSettings()
    assert registry.settings_of(EvalConfig(), "rouge") == RougeSettings()


def test_lines_of_a_packed_text_are_counted_from_one(tmp_path: Path) -> None:
    (file := tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n\n{"text": "b"}'))
    assert list(texts._packed_rows(file)) == [(f"{file}, line 1", {"text": "a"}), (f"{file}, line 2", {"text": "b"})]
    for content, said in ((b"[1]\n", "expected an object a line"), (b"{\n", "can't be unpacked into JSON lines")):
        file.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=said):
            list(texts._packed_rows(file))
    file.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"a.jsonl.gz: can't be unpacked into JSON lines .*fetch the file again"):
        list(texts._packed_rows(file))


def test_words_of_one_stem_are_equal_for_rouge() -> None:
    scorer = super_ni_score._scorer.__wrapped__()
    assert scorer.score("he runs quickly", "he run quickly")["rougeL"].fmeasure == 1.0
    assert scorer.score("he walks", "he run")["rougeL"].fmeasure == 0.5
    assert super_ni_score.rouge_l("he runs", ["they walk", "he run"]) == 1.0
