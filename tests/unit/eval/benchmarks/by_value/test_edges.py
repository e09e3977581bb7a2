"""Edges of the benchmarks: ends of texts, digests of what is kept, orders of files, resamples, tiny spreads."""

import hashlib
import importlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from eval.benchmarks import changes, dataset_rows, held_out_rows
from eval.benchmarks.benchmark import Contestant, Headline, Place, QuestionScores
from eval.benchmarks.glue import class_scores
from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.mmlu import score as mmlu_score
from eval.benchmarks.mmlu.questions import parse_question
from eval.benchmarks.perplexity import texts
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.replicates import NO_SPREAD, Spreads
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.super_ni import score as super_ni_score
from eval.benchmarks.super_ni.settings import SuperNiSettings
from eval.benchmarks.tasks import classes, generation, lm_eval_model
from eval.benchmarks.tasks import results as task_results
from eval.benchmarks.tasks import score as tasks_score
from eval.benchmarks.tasks.benchmark import TasksBenchmark
from eval.benchmarks.tasks.settings import TasksSettings
from harness.config.schema import EvalSource, ModelKind, PathsConfig
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
    def task(*values: float | None) -> Any:
        return made(metrics={f"m{n}": Estimate(value=value) for n, value in enumerate(values)}, crows_pairs=None)

    result = made(tasks={"p": task(0.5, 0.9), "q": task(0.25), "r": task(None), "s": task()})
    benchmark = TasksBenchmark()
    assert benchmark.summary(result) == {"p": 0.5, "q": 0.25, "mean_over_tasks": 0.375}
    assert benchmark.headline(result) == Headline(metric="mean_over_tasks", estimate=Estimate(value=0.375, n=2))
    assert benchmark.headline(made(tasks={"r": task(None)})) is None


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
