"""Edges of the benchmarks: resamples, tiny spreads, rows that are nowhere, what is held out."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from eval.benchmarks import changes, dataset_rows, held_out_rows
from eval.benchmarks.benchmark import Contestant, Place, QuestionScores
from eval.benchmarks.glue import class_scores
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.replicates import NO_SPREAD, Spreads
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.settings import RougeSettings
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
