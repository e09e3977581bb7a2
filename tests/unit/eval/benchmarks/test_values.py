"""Values of benchmarks by hand: settings and their digests, changes, spreads, windows, checkpoints, rows of tasks."""

import json
import math
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eval.answers.prompt_format import PromptFormat
from eval.benchmarks import dataset_rows, held_out_rows
from eval.benchmarks.answers import AnswersSettings
from eval.benchmarks.benchmark import Benchmark, Contestant, Headline, Place, QuestionScores
from eval.benchmarks.by_question import read_questions
from eval.benchmarks.changes import changes_from, changes_table, front, of_groups
from eval.benchmarks.dataset_rows import EvalRows, data_files, evaluation_rows
from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.glue.class_scores import official_metrics
from eval.benchmarks.glue.settings import GlueSettings
from eval.benchmarks.intervals import NUM_RESAMPLES, mean_score, mean_share
from eval.benchmarks.mmlu import checkpoints
from eval.benchmarks.mmlu import score as mmlu_score
from eval.benchmarks.mmlu.benchmark import training_settings
from eval.benchmarks.mmlu.calibration import NUM_BINS, _basic_interval, calibration_of
from eval.benchmarks.mmlu.prompts import Encoded, encode_prompt
from eval.benchmarks.mmlu.questions import Question, Role, content_sha256, load_questions, question_files, select
from eval.benchmarks.mmlu.settings import MmluSettings, Protocol
from eval.benchmarks.perplexity import score as perplexity
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import TextSource, load_documents, text_files, texts_sha256
from eval.benchmarks.registry import (
    BENCHMARKS,
    eval_config,
    other_settings,
    planned_settings,
    settings_from,
    settings_of,
)
from eval.benchmarks.replicates import (
    ONE_RUN,
    Components,
    Difference,
    Source,
    Spreads,
    detectable,
    freedom_of,
)
from eval.benchmarks.rouge import score as rouge
from eval.benchmarks.rouge.settings import RougeSettings
from eval.benchmarks.settings import default_of, identity_of, require_at_least, row_tokens, setting
from eval.benchmarks.super_ni import score as super_ni
from eval.benchmarks.super_ni.score import SuperNiSettings, exact_match, read_instances, rouge_l
from eval.benchmarks.tasks import results as task_results
from eval.benchmarks.tasks.settings import TasksSettings
from harness.config.choices import dataset_choice
from harness.config.schema import EvalConfig, EvalSource, ModelKind, PathsConfig, TrainConfig
from harness.runs.estimate import Estimate
from harness.runs.record import CONFIG_FILE, save_record
from tests.builders import record
from tests.tiny import make_tokenizer
from tests.unit.eval.benchmarks.test_by_hand import justified, printed


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    names: list[str] = setting(["a"], "Names.")
    size: int = setting(3, "Size.", option="--n", is_required=True)
    later: bool = setting(False, "Later.", since=True)
    speed: int | None = row_tokens()


def test_settings_say_what_decides_a_result() -> None:
    names, size, later, speed = fields(Words)
    assert dict(names.metadata) == {
        "sentence": "Names.", "option": None, "is_required": False, "option_default": None, "identity": True,
    }  # fmt: skip
    assert dict(size.metadata) == {
        "sentence": "Size.", "option": "--n", "is_required": True, "option_default": None, "identity": True,
    }  # fmt: skip
    assert (later.metadata["identity_since"], speed.metadata["identity"]) == (False, False)
    assert [default_of(one) for one in (names, size, later, speed)] == [["a"], 3, False, None]
    assert default_of(names) is not default_of(names)
    assert identity_of(Words()) == {"names": ["a"], "size": 3}
    assert identity_of(Words(later=True, speed=9)) == {"names": ["a"], "size": 3, "later": True}


def test_settings_of_jobs_are_flat_and_come_back() -> None:
    settings = MmluSettings(num_shots=2, limit=7, row_tokens=64, protocol=Protocol.hendrycks)
    plan = planned_settings("mmlu", settings)
    assert plan == {
        "mmlu_questions": "embedded", "mmlu_shots_file": "embedded", "mmlu_num_shots": 2,
        "mmlu_limit_per_subject": None, "mmlu_protocol": "hendrycks", "mmlu_limit": 7,
    }  # fmt: skip
    assert other_settings("mmlu", settings) == {"mmlu_row_tokens": 64}
    assert other_settings("mmlu", MmluSettings()) == {}
    assert settings_from("mmlu", plan | {"mmlu_strange": 1}) == replace(settings, row_tokens=None)
    config: Any = eval_config()()
    assert settings_of(replace(config, mmlu=settings), "mmlu") is settings
    assert settings_of(EvalConfig(), "mmlu") == MmluSettings()
    assert config.perplexity == PerplexitySettings()


class Bare(Benchmark):
    """States only what has no default."""

    name = command = "bare"
    title = "Bare"
    headline_key = "value"

    def score(self, base: Any, contestants: Any, settings: Any, place: Any) -> dict[str, Any]:
        return {}

    def headline(self, result: Any) -> Headline | None:
        return None if result is None else Headline(metric="m", estimate=Estimate(value=result, low=0.0, high=1.0, n=4))


def test_what_a_benchmark_is_where_it_says_nothing_else() -> None:
    bare = Bare()
    assert (bare.kind, bare.scores_own_dataset, bare.scores_sharded_base, bare.higher_is_better) == (
        ModelKind.causal, False, False, True,
    )  # fmt: skip
    assert (bare.wants_template(None), bare.reads_own_template(), bare.run_problem(None)) == (False, False, None)
    assert (bare.problems(None, PathsConfig(), "k."), bare.files(None), list(bare.by_question({}))) == ([], {}, [])
    assert (bare.num_tokens(None, PathsConfig(), None, 3), bare.num_questions(None, 3)) == (None, 3)
    assert (bare.summary(0.5), bare.summary(None)) == ({"value": 0.5}, {})
    table = bare.table({"one": 0.5, "none": None})
    assert justified(table) == ["system:left", "metric:left", "value:right", "n:right"]
    assert (table.title_justify, printed(table)[0], printed(table)[-1]) == ("left", ["Bare"], ["95", "%", "intervals"])
    assert printed(table)[-2] == ["one", "m", "0.5000", "[0.0000,", "1.0000]", "4"]
    which = {
        "kind": {"glue": ModelKind.classifier, "super_ni": ModelKind.seq2seq},
        "higher_is_better": {"perplexity": False, "answers": None},
        "scores_own_dataset": {"glue": True, "super_ni": True},
        "scores_sharded_base": {"mmlu": True, "perplexity": True, "tasks": True},
        "lower_is_better": {"mmlu": {"ece", "brier"}},
    }
    for key, others in which.items():
        usual = getattr(bare, key)
        assert {n: getattr(b, key) for n, b in BENCHMARKS.items() if getattr(b, key) != usual} == others, key
    own = {name for name, benchmark in BENCHMARKS.items() if benchmark.reads_own_template()}
    assert own == {"mmlu", "tasks", "answers"}


def test_answers_as_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = BENCHMARKS["answers"]
    assert (AnswersSettings().limit, AnswersSettings().max_new_tokens) == (None, 512)
    for wrong in ({"limit": 0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            AnswersSettings(**wrong)
    path = tmp_path / "q.jsonl"
    rows = [{"question_id": 1, "turns": ["x" * 39, "y"]}, {"question_id": 2, "text": "z" * 8}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = AnswersSettings(questions=str(path), max_new_tokens=5)
    assert benchmark.num_tokens(settings, PathsConfig(), None, None) == 48 // 4 + 3 * 5
    assert benchmark.num_tokens(replace(settings, limit=1), PathsConfig(), None, None) == 40 // 4 + 2 * 5
    assert (benchmark.problems(settings, PathsConfig(), "k."), benchmark.files(settings)) == ([], {"questions": [path]})
    none = replace(settings, questions="none.jsonl")
    assert benchmark.num_tokens(none, PathsConfig(), None, None) is None
    assert benchmark.files(none) == {"questions": []}
    (problem,) = benchmark.problems(none, PathsConfig(), "k.")
    assert problem.startswith("k.questions: none.jsonl: no such file")
    calls: list[Any] = []

    def generate(base: Any, systems: Any, questions: Any, bench: str, how: Any, on_progress: Any) -> Any:
        calls.append((systems, len(questions), bench, how.max_new_tokens, on_progress))
        return {system.name: [1] * len(questions) for system in systems}

    monkeypatch.setattr("eval.answers.generate.generate_answers", generate)
    run = made(name="run")
    contestants = [Contestant(name="shown", member="r", system=run), Contestant(name="base", member=None)]
    place = Place(paths=PathsConfig(), partial=None, on_progress=print)
    found = benchmark.score(None, contestants, settings, place)  # type: ignore[arg-type]
    assert {name: result.to_json() for name, result in found.items()} == {
        "shown": {"num_answers": 2, "path": "answers/open.jsonl"}
    }
    assert calls == [([run], 2, "open", 5, print)]
    assert (benchmark.headline(None), benchmark.summary(found["shown"])) == (None, {"num_answers": 2})


def test_which_benchmarks_ask_through_a_template() -> None:
    chat = {
        "mmlu": MmluSettings(chat=True),
        "tasks": TasksSettings(names=["a"], chat=True),
        "answers": AnswersSettings(prompt_format=PromptFormat.chat),
    }
    plain = {"mmlu": MmluSettings(), "tasks": TasksSettings(names=["a"]), "answers": AnswersSettings()}
    assert [BENCHMARKS[name].wants_template(settings) for name, settings in chat.items()] == [True] * 3
    assert [BENCHMARKS[name].wants_template(settings) for name, settings in plain.items()] == [False] * 3


def test_checkpoints_are_those_of_the_runs_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []

    def scored(*given: Any) -> Any:
        calls.append(given)
        return made(to_json=lambda: {"a": 1})

    monkeypatch.setattr(checkpoints, "score_checkpoints", scored)
    monkeypatch.setattr(checkpoints, "checkpoints_table", lambda result: "a table")
    target: Any = made(run_ids=("r",), model=None, sweep=None, runs=tmp_path)
    settings = MmluSettings()
    found = BENCHMARKS["mmlu"].by_options(target, settings, {"checkpoints": "last"}, Path("o"), print)
    assert found == ({"a": 1}, "a table")
    ((folder, which, asked, out, _, on_progress),) = calls
    assert (folder, which, asked, out, on_progress) == (tmp_path / "r", "last", settings, Path("o"), print)


def test_a_plan_counts_rows_as_long_as_they_may_be() -> None:
    dataset = replace(dataset_choice("glue_sst2"), source_max_tokens=50)
    for name, settings, each in (("glue", None, 50), ("super_ni", SuperNiSettings(max_new_tokens=7), 57)):
        benchmark = BENCHMARKS[name]
        assert benchmark.num_tokens(settings, PathsConfig(), dataset, 3) == 3 * each
        assert benchmark.num_tokens(settings, PathsConfig(), None, 3) is None
        assert benchmark.num_tokens(settings, PathsConfig(), dataset, None) is None


def test_which_rows_of_a_dataset_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Path] = []
    monkeypatch.setattr(
        dataset_rows, "_found", lambda config, name, paths: made(config=config, name=name, source=made(files=files))
    )
    dataset = replace(dataset_choice("glue_sst2"), max_rows=5, max_rows_per_task=2)

    def rows(config: Any = dataset, data: str | None = None, split: str | None = None) -> tuple[Any, ...]:
        found: Any = evaluation_rows(config, data, split, PathsConfig())
        return found.name, found.config.split, found.config.path, found.config.max_rows, found.config.max_rows_per_task

    assert rows() == ("validation", "validation", None, None, None)
    assert rows(split="test") == ("test", "test", None, None, None)
    assert rows(data="x/mine.jsonl") == ("mine.jsonl", "train", "x/mine.jsonl", None, None)
    files.append(tmp_path / "validation-0.jsonl")
    assert rows()[0] == "validation"
    files.append(tmp_path / "all.jsonl")
    with pytest.raises(ValueError, match=r"all\.jsonl: doesn't say that it holds the validation split"):
        rows()
    with pytest.raises(ValueError, match=r"dataset glue_sst2 is the file x\.jsonl, which has no splits"):
        rows(replace(dataset, path="x.jsonl"))
    (tmp_path / "a").write_text("")
    for name, kind in (("glue", GlueSettings), ("super_ni", SuperNiSettings)):
        assert BENCHMARKS[name].files(kind(data=str(tmp_path / "a"))) == {"data": [tmp_path / "a"]}
        assert BENCHMARKS[name].files(kind()) == {}
    assert (data_files(None), data_files(str(tmp_path / "a")), data_files("none")) == (
        {}, {"data": [tmp_path / "a"]}, {"data": []},
    )  # fmt: skip


def test_held_out_rows_of_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_choice("glue_sst2")
    train = TrainConfig(eval_rows=3, eval_source=EvalSource.split)
    spec: Any = made(dataset=dataset, train=train, model=made(kind=ModelKind.seq2seq))
    calls: list[Any] = []

    class Rows(list[int]):
        def require_fits(self, most: int, apart: bool) -> None:
            calls.append((most, apart))

    found = Rows([1, 2, 3])
    monkeypatch.setattr(
        held_out_rows, "evaluation_rows", lambda *_: made(dataset=dataset, source="s", split_name="validation")
    )

    def tokenize(config: Any, source: Any, tokenizer: Any, cache: Path, empty_targets: str) -> Rows:
        calls.append((config.max_rows, source, tokenizer, cache, empty_targets))
        return found

    monkeypatch.setattr(held_out_rows, "tokenize_dataset", tokenize)
    base: Any = made(tokenizer="t", max_length=9)
    paths = PathsConfig(cache="c")
    assert held_out_rows.split_examples(spec, base, paths) is found
    assert calls == [(3, "s", "t", Path("c/tokenized"), dataset.empty_targets.value), (9, True)]
    found.pop()
    with pytest.raises(ValueError, match="eval_rows=3: the split validation of glue_sst2 has 2 rows; give fewer"):
        held_out_rows.split_examples(spec, base, paths)
    for other in (
        made(dataset=None, train=train),
        made(dataset=dataset, train=None),
        made(dataset=dataset, train=replace(train, eval_source=EvalSource.holdout)),
    ):
        assert held_out_rows.split_examples(other, base, paths) is None


def test_held_out_rows_can_be_told_while_the_file_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_choice("glue_sst2")
    spec: Any = made(dataset=dataset, train=TrainConfig(eval_rows=3), run_id="r")
    data: Any = made(num_characters=np.array([1, 2], dtype=np.int32))
    kept: list[Any] = [made(data_fingerprint="f")]
    for name, value in {
        "locate_dataset": lambda *_: "s",
        "load_record": lambda folder: kept[0],
        "fingerprint": lambda source: "f",
        "tokenize_dataset": lambda *_, empty_targets: data,
        "shared_lines": lambda *_: "lines",
        "divided": lambda *given: made(held_out=given),
    }.items():
        monkeypatch.setattr(held_out_rows, name, value)
    base: Any = made(tokenizer="t")
    found: Any = held_out_rows.held_out_examples(spec, Path("r"), base, PathsConfig())
    assert (found[0], found[1].dtype, found[2], found[3]) == (data, np.int64, spec.train, "lines")
    for other in (made(data_fingerprint="g"), None):
        kept[0] = other
        with pytest.raises(ValueError, match="glue_sst2: its rows have changed since run r was trained"):
            held_out_rows.held_out_examples(spec, Path("r"), base, PathsConfig())


def test_means_of_shares_stay_within_0_and_1() -> None:
    assert NUM_RESAMPLES == 1000
    assert mean_share([[0.1, 0.9]]).ci95 == (0.0, 1.0)
    inner = mean_share([[0.4, 0.5, 0.6]])
    assert (inner.value, inner.ci95) == (pytest.approx(0.5), mean_score([[0.4, 0.5, 0.6]]).ci95)
    assert mean_share([[0.5]]).ci95 is None


class Parts(Benchmark):
    name = "parts"

    def by_question(self, values: Any) -> Any:
        for part, (numbers, weights, higher) in values.items():
            names = [f"q{place}" for place in range(len(numbers))]
            yield QuestionScores(
                metric="m", unit="", higher_is_better=higher, names=names, values=numbers, weights=weights, part=part
            )


def test_the_table_of_changes() -> None:
    def values(gain: float, loss: float) -> dict[str, Any]:
        return {"gain": ([gain, gain + 1], None, True), "loss": ([loss, loss + 1], None, False)}

    results = {"base": values(0, 0), "good": values(1, 0), "bad": values(0, 1), "other base": values(5, 5)}
    bases = {"base": "base", "good": "base", "bad": "base", "other base": "other base"}
    changes = list(of_groups(Parts(), results, bases))
    assert [(change.system, change.base, change.measure) for change in changes] == [
        (name, "base", measure) for name in ("good", "bad") for measure in ("gain m", "loss m")
    ]
    table = changes_table(changes)
    assert justified(table) == ["system:left", "gain m:right", "loss m:right", "front:right"]
    assert " ".join(printed(table)[0]) == "Change from the untouched base"
    assert [row for row in printed(table) if row[0] in ("good", "bad")] == [
        ["good", "1.0000", "0.0000", "yes"], ["bad", "0.0000", "1.0000"],
    ]  # fmt: skip
    assert "front: no other row is as good" in " ".join(word for row in printed(table) for word in row)
    one = changes_table(changes_from(Parts(), ("base", results["base"]), {"good": results["good"]}), "the run")
    assert justified(one) == ["system:left", "gain m:right", "loss m:right"]
    assert (one.title, one.title_justify) == ("Change from the run", "left")
    assert "front" not in str(one.caption)
    lone = {"gain": ([1.0], None, True)}
    only = changes_from(Parts(), ("base", lone), {"a": lone, "b": values(1, 1) | {"gain": ([2.0], None, True)}})
    assert [(change.system, change.measure) for change in only] == [("a", "gain m"), ("b", "gain m")]
    assert changes[0].to_json()["before"] == 0.5
    fewer = changes_from(
        Parts(), ("base", results["base"]), {"a": values(1, 1), "b": {"gain": ([0.0, 1.0], None, True)}}
    )
    assert front(fewer) == ["a"]  # by what both have


def test_questions_are_read_from_the_files_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    rows = [{"doc_id": 0, "metrics": {"acc": 1.0}, "target": "t"}]
    (tmp_path / "tasks" / "a.json").write_text(
        json.dumps({"tasks": {"piqa": {"predictions": rows}}, "settings_sha256": "s"})
    )
    (tmp_path / "glue.json").write_text(
        json.dumps({"num_labels": 2, "predictions": [{"line": 1, "choice": 1.0, "answer": 1.0}], "task": "sst2"})
    )
    (tmp_path / "other.json").write_text("{")
    found = list(read_questions(tmp_path))
    assert [(one.settings_sha256, one.scores.names) for one in found] == [(None, ["row 1"]), ("s", ["document 0"])]
    assert found[1].evaluation.endswith(" piqa")
    assert not found[0].evaluation.endswith(" ")
    assert (found[0].scores.given, found[0].scores.expected) == (["1"], [["1"]])
    for broken in ("{", '{"num_labels": 2}'):
        (tmp_path / "glue.json").write_text(broken)
        with pytest.raises(ValueError, match=r"glue\.json: its questions can't be read .*; score the run again"):
            list(read_questions(tmp_path))


def test_questions_of_tasks_have_weights_and_texts_where_all_have_them() -> None:
    rows: list[dict[str, Any]] = [
        {"doc_id": 3, "metrics": {"acc": 0.5}, "weights": {"acc": 2}, "responses": ["x"], "target": "y"},
        {"doc_id": 4, "metrics": {"acc": 1.0}, "responses": ["z"], "target": "w"},
    ]
    better = {"higher_is_better": {"acc": False}}
    (found,) = BENCHMARKS["tasks"].by_question({"tasks": {"t": {"predictions": rows} | better}})
    assert (found.weights, found.higher_is_better) == ([2.0, 1.0], False)
    assert (found.given, found.expected) == (["x", "z"], [["y"], ["w"]])
    (bare,) = BENCHMARKS["tasks"].by_question(
        {"tasks": {"t": {"predictions": [rows[1], {"doc_id": 5, "metrics": {"acc": 1.0}}]}}}
    )
    assert (bare.weights, bare.given, bare.expected, bare.higher_is_better) == (None, None, None, True)


def test_a_mean_and_its_spread_by_hand() -> None:
    """Runs 2 8 / 6 12: means 5 and 9, a spread of 8; questions 4 and 10, a spread of 18, a rest of 0."""
    spreads = Spreads.of([np.array([[2.0, 8.0], [6.0, 12.0]])])
    found = spreads.mean(0)
    assert (found.value, found.note) == (7.0, "")
    assert [(source.variance, source.freedom) for source in found.sources] == [(4.0, 1), (9.0, 1)]
    assert found.error == pytest.approx(13**0.5)
    freedom = 1 / ((4 / 13) ** 1.25 + (9 / 13) ** 1.25)
    assert found.freedom == pytest.approx(freedom)
    half = stats.t.ppf(0.95, freedom) * 13**0.5
    assert found.interval(0.1) == pytest.approx((7 - half, 7 + half))
    assert found.p_two_sided() == pytest.approx(2 * stats.t.sf(7 / 13**0.5, freedom))
    assert Difference(value=0.0, sources=found.sources).p_two_sided() == 1.0
    assert Spreads.of([np.array([[2.0, 8.0]])]).mean(0).note == ONE_RUN


def test_one_spread_is_larger_by_cochrans_test() -> None:
    calm, wild = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [10.0], [20.0]])
    p_value = 2 * stats.f.sf(100.0, 2, 2)
    spreads = Spreads.of([calm, wild])
    assert (spreads.unequal_p, spreads.are_pooled) == (pytest.approx(p_value), True)  # 2 % is not below 1 %
    wilder = Spreads.of([calm, 10 * wild])
    assert (wilder.unequal_p, wilder.are_pooled) == (pytest.approx(2 * stats.f.sf(10_000.0, 2, 2)), False)
    assert [source and source.variance for source in wilder.of_runs] == [1.0, 10_000.0]
    parts = wilder.difference(0, 1).sources
    assert [source.variance for source in parts] == pytest.approx([1 / 3, 10_000 / 3])
    assert [source.freedom for source in parts] == [2, 2]
    assert Spreads.of([calm, calm]).unequal_p == 1.0
    assert Spreads.of([calm, calm[:1]]).unequal_p is None


def test_the_sources_of_a_design() -> None:
    planned = Components(run=1.0, question=9.0, rest=24.0)

    def sources(*design: int) -> list[tuple[float, float]]:
        return [(source.variance, source.freedom) for source in planned.sources(*design)]

    assert sources(4, 12, 3) == [(2 * (1 + 2) / 4, 9), (1.5, 11)]
    assert sources(1, 12, 3) == [(1.5 + 4.0, 11)]
    assert sources(2, 1, 3) == [(2 * (1 + 24) / 2, 3)]
    assert sources(1, 1, 3) == []
    assert [s.variance for s in Components(run=0.0, question=9.0, rest=0.0).sources(2, 3, 2)] == [6.0]
    table = np.array([[2.0, 8.0], [6.0, 13.0]])
    alone = Components.of([table])
    assert alone is not None
    assert (alone.question, alone.rest) == (alone.rest, pytest.approx(0.25))
    assert alone.run == pytest.approx((9.5 - 5.0) ** 2 / 2 - 0.25 / 2)
    assert Components.of([table[:1]]) is None
    assert freedom_of([Source(variance=0.0, freedom=3)]) == math.inf
    assert freedom_of([Source(variance=1.0, freedom=math.inf)]) == math.inf
    critical = stats.norm.ppf(0.975)
    assert detectable(2.0, math.inf, 0.05, 0.5) == pytest.approx(2 * critical, rel=1e-3)
    found = Difference(value=1.0, sources=(Source(variance=4.0, freedom=math.inf),))
    assert found.detectable(0.05, 0.5) == pytest.approx(2 * critical, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "is_number", "names"),
    [
        ("glue_cola", False, ("matthews",)),
        ("glue_stsb", True, ("pearson", "spearman")),
        ("glue_sst2", False, ("accuracy",)),
        ("mine", True, ("pearson", "spearman")),
        ("mine", False, ("accuracy", "f1_weighted", "matthews")),
    ],
)
def test_what_a_labelled_task_reports(kind: str, is_number: bool, names: tuple[str, ...]) -> None:
    assert official_metrics(kind, is_number) == names


def test_rows_of_a_classifier_go_together_up_to_a_limit() -> None:
    ids = [[0] * size for size in (5, 4, 1)]
    assert [glue_score._next_batch([0, 1, 2], ids, limit) for limit in (1, 8, 9, 10)] == [[0], [0], [0, 1], [0, 1, 2]]
    assert (glue_score.MAX_BATCH_TOKENS, glue_score.RESAMPLE_SEED) == (4096, 0)
    assert [glue_score._classes(count) for count in (1, 2)] == ["a number to predict", "2 classes"]
    row: Any = made(line=7, answer=2.0)
    assert glue_score._prediction(row, [0.5], 1).choice == 0.5
    assert glue_score._prediction(row, [0.5, 0.9, 0.9], 3).choice == 1.0


def test_a_label_beyond_the_head_is_named_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glue_score, "label_value", lambda example, row, dataset: example.label)
    row: Any = made(where="f.jsonl", line=7)

    def answer(label: float, num_labels: int) -> float:
        return glue_score._answer(made(label=label), row, made(dataset=None), num_labels)  # type: ignore[arg-type]

    assert [answer(1.0, 2), answer(2.0, 3), answer(9.0, 1), answer(1.0, 1)] == [1.0, 2.0, 9.0, 1.0]
    with pytest.raises(ValueError, match=r"f\.jsonl, line 7, .*label.*label 2.0 is out of range: .* classes 0 to 1"):
        answer(2.0, 2)


def test_means_of_instructions_by_hand() -> None:
    def said(task: str, score: float) -> super_ni.TextPrediction:
        return super_ni.TextPrediction(
            task=task, instance_id="i", answer="", rouge_l=score, exact_match=score == 1, num_references=1
        )

    predictions = (said("t", 0.0), said("u", 1.0), said("t", 0.0))
    rows: Any = made(dataset=made(name="d"), split_name="test", sha256="r")
    found = super_ni._result("sys", rows, predictions, SuperNiSettings(max_new_tokens=9), 2, "s", "m")
    assert (found.rouge_l, found.rouge_l_macro, found.exact_match) == (pytest.approx(1 / 3), 0.5, pytest.approx(1 / 3))
    assert (found.n, found.num_tasks, found.num_truncated, found.max_new_tokens) == (3, 2, 2, 9)
    assert {task: (one.n, one.exact_match, one.rouge_l.value) for task, one in found.per_task.items()} == {
        "t": (2, 0.0, 0.0), "u": (1, 1.0, 1.0),
    }  # fmt: skip
    assert found.rouge_l_ci95 == mean_share([[0.0, 0.0], [1.0]]).ci95


def test_calibration_by_bins_and_its_basic_interval() -> None:
    assert NUM_BINS == 15
    draws = np.arange(101.0) / 1000
    assert _basic_interval(0.1, draws) == pytest.approx((0.2 - 0.0975, 0.2 - 0.0025))
    assert _basic_interval(0.01, draws) == pytest.approx((0.0, 0.0175))
    assert _basic_interval(0.0, draws) == (0.0, 0.0)
    some = np.random.default_rng(0).normal(size=(40, 4)).tolist(), [0, 1, 2, 3] * 10
    assert calibration_of(*some) == calibration_of(*some, seed=0) != calibration_of(*some, seed=1)
    bins = calibration_of([[0.0, -1.0]], [0]).reliability.bins
    assert [(one.low, one.high) for one in bins] == [
        (pytest.approx(place / 15), pytest.approx((place + 1) / 15)) for place in range(15)
    ]
    assert [one.n for one in bins] == [0] * 10 + [1] + [0] * 4
    assert (bins[0].confidence, bins[0].accuracy, bins[10].accuracy) == (None, None, 1.0)


QUESTION = Question(subject="law", question="Which?", choices=("a", "b", "c", "d"), answer=0)


def test_a_prompt_fits_where_it_is_as_long_as_the_context() -> None:
    tokenizer = make_tokenizer()
    whole = len(encode_prompt(tokenizer, Protocol.hendrycks, [QUESTION] * 2, QUESTION, 10_000).tokens)
    fit = [encode_prompt(tokenizer, Protocol.hendrycks, [QUESTION] * 2, QUESTION, whole + more) for more in (0, -1)]
    assert [(one.num_shots, one.num_truncated) for one in fit] == [(2, 0), (1, 0)]
    cut = [encode_prompt(tokenizer, Protocol.lm_eval, [QUESTION] * 2, QUESTION, whole + more) for more in (0, -9)]
    assert len(cut[1].tokens) == whole - 9
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m.content }}{% endfor %}"
    for protocol in Protocol:
        chat = encode_prompt(tokenizer, protocol, [], QUESTION, 10_000, chat=True)
        assert (chat.tokens[0], chat.tokens.count(1)) == (1, 1)
    assert encode_prompt(tokenizer, Protocol.qlora_callback, [], QUESTION, 10_000).tokens.count(1) == 1
    tokenizer.bos_token = None
    assert encode_prompt(tokenizer, Protocol.qlora_callback, [], QUESTION, 10_000).tokens.count(1) == 0


def test_questions_of_the_hub_and_their_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def load(*where: str, split: str) -> list[dict[str, Any]]:
        asked.append((*where, split))
        row = {"subject": "law", "question": "Which?", "choices": list("abcd"), "answer": 0}
        return [row, row | {"answer": 9}][: 1 + (split == "bad")]

    monkeypatch.setitem(sys.modules, "datasets", made(load_dataset=load))
    assert load_questions("hub:dev", Role.shots) == [QUESTION]
    assert asked == [("cais/mmlu", "all", "dev")]
    with pytest.raises(ValueError, match="cais/mmlu bad, row 1: answer is 9; expected 0 to 3"):
        load_questions("hub:bad", Role.questions)
    assert content_sha256([QUESTION]) == "81451eb8fede0b018cc6e88c1c0061215f12b51ef94244a072f766a372819f6f"
    assert question_files("hub:dev", Role.shots) == question_files(str(tmp_path / "none"), Role.shots) == []
    for name in ("b_test.csv", "a_dev.csv", "c.txt"):
        (tmp_path / name).write_text("Why?,a,b,c,d, B \n")
    assert [path.name for path in question_files(str(tmp_path), Role.questions)] == ["a_dev.csv", "b_test.csv"]
    assert [(q.subject, q.answer) for q in load_questions(str(tmp_path), Role.questions)] == [("a", 1), ("b", 1)]
    for row, message in (("Why?,a,b,c,B\n", "5 columns"), ("Why?,a,b,c,d,AB\n", "the answer is 'AB'")):
        (tmp_path / "a_dev.csv").write_text("Why?,a,b,c,d,A\n" + row)
        with pytest.raises(ValueError, match=rf"a_dev\.csv, line 2: .*{message}"):
            load_questions(str(tmp_path), Role.questions)
    assert select([QUESTION] * 3, None, None) == [0, 1, 2]


def test_what_a_result_of_mmlu_counts() -> None:
    encoded = [Encoded(tokens=[1], num_shots=shots, num_truncated=cut) for shots, cut in ((2, 0), (1, 0), (2, 3))]
    data = mmlu_score.MmluSet(indices=(4, 5, 6), questions=(QUESTION,) * 3, shots={}, sha256="s")
    scores = {0: [-1.0, -2.0, -3.0, -4.0], 1: [-1.0, -1.0, -3.0, -4.0], 2: [-3.0, -2.0, -1.0, -4.0]}
    job: Any = made(name="sys", logprobs=scores, model_sha256="m")
    found = mmlu_score._result(job, data, encoded, MmluSettings(num_shots=2, split_name="val", chat=True))
    assert (found.num_truncated_prompts, found.num_dropped_shots, found.n, found.num_subjects) == (1, 1, 3, 1)
    assert [(one.index, one.choice, one.is_correct) for one in found.predictions] == [
        (4, 0, True), (5, 0, True), (6, 2, False),
    ]  # fmt: skip
    assert (found.accuracy_micro, found.split_name, found.chat, found.num_shots) == (
        pytest.approx(2 / 3),
        "val",
        True,
        2,
    )
    assert [mmlu_score._group(QUESTION, one, 7) for one in (encoded[1], encoded[2])] == ["law/shots=1", "law/7"]


def test_the_adapters_that_a_run_keeps(tmp_path: Path) -> None:
    def steps(which: str) -> list[tuple[int, str]]:
        return [(one.step, one.folder.name) for one in checkpoints.find_snapshots(tmp_path, which)]

    with pytest.raises(ValueError, match="no such run"):
        steps("all")
    (tmp_path / CONFIG_FILE).write_text("")
    with pytest.raises(ValueError, match="it isn't done and keeps no adapter"):
        steps("all")
    for step in (20, 3):
        checkpoints.snapshot_folder(tmp_path, step).mkdir(parents=True)
    assert steps("all") == [(3, "step-00000003"), (20, "step-00000020")]
    assert steps("last") == [(20, "step-00000020")]
    save_record(tmp_path, replace(record(), num_steps=30))
    assert steps("last") == [(30, "adapter")]
    assert steps("30,3") == [(3, "step-00000003"), (30, "adapter")]
    with pytest.raises(ValueError, match="keeps no adapter of step 4, 5; there are 3, 20, 30"):
        steps("3,5,4")


def test_adapters_fill_half_of_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, size in ((1, 10), (2, 4), (3, 0)):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"x" * size)
    snapshots = [checkpoints.Snapshot(step=step, folder=tmp_path / str(step)) for step in (1, 2, 3)]

    def groups(free: int, shares: bool = True, chosen: Any = snapshots) -> list[int]:
        monkeypatch.setattr(checkpoints, "free_bytes", lambda device: free)
        base: Any = made(bank=made(device="cpu"))
        return [len(group) for group in checkpoints._in_memory(base, chosen, shares)]

    assert [groups(free) for free in (0, 39, 40, 59, 60, 999)] == [[1, 1, 1], [1, 1, 1], [2, 1], [2, 1], [3], [3]]
    assert groups(999, shares=False) == [1, 1, 1]
    assert groups(4, chosen=snapshots[2:]) == [1]


def test_the_table_of_checkpoints() -> None:
    score = checkpoints.StepScore(
        step=7, accuracy_macro=0.5, accuracy_macro_ci95=(0.25, 0.75), accuracy_micro=0.125,
        accuracy_micro_ci95=(0.0, 0.5), n=9, model_sha256="m",
    )  # fmt: skip
    result = checkpoints.CheckpointsResult(
        run_id="r", system="sys", protocol="lm_eval", settings_sha256="s", steps=(score,)
    )
    table = checkpoints.checkpoints_table(result)
    assert {column.justify for column in table.columns} == {"right"}
    assert (table.title, table.title_justify, table.caption) == ("MMLU of sys by step", "left", "95 % intervals")
    assert printed(table)[-2] == ["7", "0.500", "[0.250,", "0.750]", "0.125", "[0.000,", "0.500]", "9"]


def test_mmlu_in_training_and_its_checkpoints_by_hand() -> None:
    train = TrainConfig(mmlu_questions="q", mmlu_shots_file="s", mmlu_num_shots=3, mmlu_limit=9)
    assert training_settings(train) == MmluSettings(
        questions="q", shots_file="s", num_shots=3, limit=9, protocol=Protocol.qlora_callback
    )
    one = made(run_ids=("r",), model=None, sweep=None, runs=None)
    for change in ({"run_ids": ()}, {"run_ids": ("r", "s")}, {"model": "m"}, {"sweep": "w"}):
        target = made(**{**vars(one), **change})
        with pytest.raises(ValueError, match="--checkpoints goes with exactly one --run"):
            BENCHMARKS["mmlu"].by_options(target, MmluSettings(), {"checkpoints": "all"}, Path("o"), print)
    assert BENCHMARKS["mmlu"].by_options(one, MmluSettings(), {"checkpoints": None}, Path("o"), print) is None
    counted = BENCHMARKS["mmlu"].num_questions
    assert counted(MmluSettings(questions="hub:validation", limit=9), None) == 9
    assert counted(MmluSettings(questions="hub:validation"), None) == 1531
    assert counted(MmluSettings(questions="hub:none"), None) is None
    assert counted(MmluSettings(questions="none"), None) is None
    assert counted(MmluSettings(limit=4), None) == 4


def test_a_text_is_cut_into_windows_that_predict_each_token_once() -> None:
    def windows(size: int, window: int, stride: int) -> list[tuple[list[int], int]]:
        return list(perplexity.document_windows(list(range(1, size + 1)), 0, window, stride))

    assert windows(0, 4, 2) == []
    assert windows(3, 4, 2) == [([0, 1, 2, 3], 1)]
    assert windows(4, 4, 2) == [([0, 1, 2, 3, 4], 1)]
    assert windows(7, 4, 2) == [([0, 1, 2, 3, 4], 1), ([2, 3, 4, 5, 6], 3), ([3, 4, 5, 6, 7], 4)]
    assert windows(9, 4, 4) == [([0, 1, 2, 3, 4], 1), ([4, 5, 6, 7, 8], 1), ([5, 6, 7, 8, 9], 4)]


def test_windows_have_their_ends() -> None:
    base: Any = made(max_length=8)
    resolved = perplexity._resolved
    assert resolved(base, PerplexitySettings(text="t")) == (8, 8)
    assert resolved(base, PerplexitySettings(text="t", window=8, stride=8)) == (8, 8)
    assert resolved(base, PerplexitySettings(text="t", window=4)) == (4, 4)
    for wrong, message in (
        ({"window": 9}, "window=9: this model takes at most 8"),
        ({"stride": 9}, "at most the window, 8"),
    ):
        with pytest.raises(ValueError, match=message):
            resolved(base, PerplexitySettings(text="t", **wrong))  # type: ignore[arg-type]
    assert (perplexity._exp(699.0), perplexity._exp(700.0)) == (math.exp(699), None)
    assert perplexity._exp_interval((0.0, 700.0)) is perplexity._exp_interval(None) is None
    assert perplexity._exp_interval((0.0, 1.0)) == (1.0, math.e)
    for bos, eos, token in ((1, 2, 1), (0, 2, 0), (None, 2, 2)):
        assert perplexity.prefix_token(made(tokenizer=made(bos_token_id=bos, eos_token_id=eos))) == token
    with pytest.raises(ValueError, match="m: its tokenizer has neither BOS nor EOS"):
        perplexity.prefix_token(made(tokenizer=made(bos_token_id=None, eos_token_id=None), source=made(location="m")))


def test_documents_of_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pile_cc.jsonl"
    rows: list[dict[str, Any]] = [{"text": text, "meta": {"pile_set_name": name}, "other": "o"} for text, name in (
        ("a", "Pile-CC"), ("b", "Books"), (" ", "Pile-CC"), ("c", "Pile-CC"), ("d", "Pile-CC"),
    )]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = PathsConfig(data_store=str(tmp_path))

    def documents(where: str = str(path), **how: Any) -> list[str]:
        return load_documents(TextSource(where=where, **how), paths)

    assert documents() == ["a", "b", "c", "d"]
    assert documents(limit=3) == ["a", "b", "c"]
    assert documents(joined=True, limit=2) == ["a\n\nb"]
    assert documents(only="meta.pile_set_name=Books") == ["b"]
    assert documents("pile_cc") == ["a", "c", "d"]
    assert documents("pile_cc", only="other=o", limit=2) == ["a", "b"]
    assert documents(field="other", limit=1) == ["o"]
    with pytest.raises(ValueError, match="holds no text with other=x"):
        documents(only="other=x")
    with pytest.raises(ValueError, match="line 1: none is None; expected text"):
        documents(field="none")
    for wrong in ({"limit": 0}, {"only": "x"}):
        with pytest.raises(ValueError, match="expected"):
            TextSource(where="t", **wrong)  # type: ignore[arg-type]
    assert text_files("pile_cc", str(tmp_path)) == [path]
    assert text_files("pile_cc", None) == text_files("wikitext2", str(tmp_path)) == []
    asked: list[Any] = []

    def load(*where: str, split: str, streaming: bool) -> list[dict[str, str]]:
        asked.append((*where, split, streaming))
        return [{"text": "x"}, {"text": "y"}]

    monkeypatch.setitem(sys.modules, "datasets", made(load_dataset=load))
    assert load_documents(TextSource(where="wikitext2"), PathsConfig(data_store=None)) == ["x\n\ny"]
    assert documents("hub:id:test", limit=1) == ["x"]
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test", True), ("id", "test", True)]
    assert texts_sha256(["a", "\u00e9"]) == "3cfa89335744ad95c75227994aabbdb229dbdde691fc2d9ed875d248b410a2b7"


def test_rows_of_rouge_by_hand() -> None:
    benchmark = BENCHMARKS["rouge"]
    assert benchmark.run_problem(TrainConfig(eval_rows=1)) is None
    assert "add train.eval_rows=N" in str(benchmark.run_problem(TrainConfig(eval_rows=0)))
    assert "an untouched base has none" in str(benchmark.run_problem(None))
    texts = {1: "<s>", 5: "ask", 6: " say ", 7: "more"}
    tokenizer = made(
        decode=lambda tokens, skip_special_tokens: "".join(texts[t] for t in tokens if t > 1 or not skip_special_tokens)
    )
    base: Any = made(tokenizer=tokenizer)
    examples: Any = [made(input_ids=np.array(ids), num_source=num) for ids, num in (([1, 5, 6, 1], 2), ([5, 6, 7], 1))]
    rows = rouge._rows(base, examples, None, "w")
    assert [(row.prompt, row.reference, len(row.name)) for row in rows] == [((1, 5), "say", 16), ((5,), "say more", 16)]
    assert [len(rouge._rows(base, examples, limit, "w")) for limit in (1, 2, 9)] == [1, 2, 2]
    with pytest.raises(ValueError, match="w: held-out row 1 has no prompt"):
        rouge._rows(base, [examples[0], made(input_ids=np.array([5]), num_source=0)], None, "w")  # type: ignore[arg-type]
    asked: Any = made(
        rows=rows, partial=made(done={0: ("Say!", False), 1: ("say", True)}), contestant=made(name="sys"), dataset="d",
        data_sha256="a", settings_sha256="b", model_sha256="c",
    )  # fmt: skip
    found = rouge._result(asked, RougeSettings(max_new_tokens=9))
    assert [one.rouge_l for one in found.predictions] == [1.0, pytest.approx(2 / 3)]
    assert (found.rouge_l, found.exact_match, found.n, found.num_cut) == (pytest.approx(5 / 6), 0.5, 2, 1)
    table = benchmark.table({"sys": found})
    assert justified(table) == [f"{name}:left" for name in ("system", "dataset")] + [
        f"{name}:right" for name in ("RougeL", "exact match", "cut", "n")
    ]
    row = printed(table)[-2]
    assert (row[:3], row[-3:]) == (["sys", "d", "83.3"], ["50.0", "1", "2"])


def test_instances_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"task_name": task, "inputs": ask, "targets": say, "id": name} | more
        for task, ask, say, name, more in (
            ("t", "a", "1", "x", {}), ("t", "a", "2", "x", {}), ("t", "b", "3", "y", {}), ("t", "c", "4", "z", {}),
            ("u", "a", "5", "x", {"eval": False}), ("u", "d", "6", "v", {"eval": True}),
        )
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluation_rows(replace(dataset_choice("super_ni"), format="flan"), str(path), None, PathsConfig())

    def instances(limit: int | None) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(one.task, one.instance_id, one.references) for one in read_instances(found, limit)]

    first, second = ("t", "x", ("1", "2")), ("t", "y", ("3",))
    assert instances(2) == [first, second, ("u", "v", ("6",))]
    assert instances(1) == [first, ("u", "v", ("6",))]
    assert instances(None) == [first, second, ("t", "z", ("4",)), ("u", "v", ("6",))]
    assert (rouge_l("running", ["run"]), rouge_l("a b", ["c", "a"])) == (1.0, pytest.approx(2 / 3))
    assert [exact_match("A  b!", texts) for texts in (["a b"], ["the a b"], ["x", "a b"])] == [True, False, True]


def test_samples_of_lm_eval_become_metrics() -> None:
    assert task_results.sample_values([True, False]) == [1.0, 0.0]
    assert task_results.sample_values((np.bool_(True),)) == [1.0]
    assert [task_results.sample_values(value) for value in (1, np.float64(0.5), "x", [1, 2], None)] == [
        [1.0], [0.5], [], [], [],
    ]  # fmt: skip
    shared = {"target": 3, "resps": [["say"]], "metrics": ["em"]}
    samples: list[dict[str, Any]] = [
        shared | {"doc_id": 7, "filter": "strict", "filtered_resps": ["s"], "em": 1.0},
        shared | {"doc_id": 7, "filter": "none", "filtered_resps": ["say"], "em": [True, False]},
    ]
    reported = {"em,strict": 1.0, "em,none": 0.5, "em_stderr,none": 9.0, "alias": 3, "text,none": "x"}
    scores = task_results.filtered_metrics(reported, samples)
    assert {name: (score.value, score.n) for name, score in scores.items()} == {"em,strict": (1.0, 1), "em": (0.5, 1)}
    (one,) = task_results.predictions_of(samples, ["em,strict", "em"])
    assert (one.doc_id, one.target, one.metrics, one.weights) == (7, "3", {"em,strict": 1.0, "em": 0.5}, {"em": 2})
    assert (one.responses, one.logprobs, one.extracted) == (("say",), (), {"strict": "s"})
    scored = shared | {"doc_id": 8, "resps": [[(-1.0, True)]], "filtered_resps": [(-1.0, True), -2.0], "em": 1.0}
    (two,) = task_results.predictions_of([scored], ["other"])
    assert (two.logprobs, two.metrics, two.responses) == ((-1.0, -2.0), {}, ())
    mean = task_results._interval_of_mean
    assert mean([[1.0], [0.0]], 3, 0.5) is mean([[1.0], [0.0]], 2, 0.6) is None
    assert mean([[1.0], [0.0]], 2, 0.5) == pytest.approx((0.0945312, 0.9054688), abs=1e-6)  # Wilson's
    several = mean_score([[1.0, 0.0], [0.0], [1.0]])
    assert mean([[1.0, 0.0], [0.0], [1.0]], 3, 0.5) == several.ci95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": []}, "name at least one"),
        ({"names": ["a"], "num_fewshot": -1}, "num_fewshot=-1"),
        ({"names": ["a"], "limit": 0}, "limit=0"),
        ({"names": ["a"], "max_gen_toks": 0}, "max_gen_toks=0"),
    ],
)
def test_settings_of_tasks_have_their_ends(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TasksSettings(**settings)
    assert TasksSettings(names=["a"], num_fewshot=0, limit=1, max_gen_toks=1).names == ["a"]
    with pytest.raises(ValueError, match="n=0: expected 1 or more"):
        require_at_least(made(n=0), 1, "n")


def test_rows_of_an_evaluation_are_known_by_their_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"sentence": "a", "label": 1}\n')
    found = evaluation_rows(dataset_choice("glue_sst2"), str(path), None, PathsConfig())
    assert isinstance(found, EvalRows)
    assert (found.split_name, found.source.files) == ("rows.jsonl", (path,))
    labelled = glue_score._labelled_rows(found, None, 2)
    assert [(row.line, row.answer) for row in labelled] == [(1, 1.0)]
    with pytest.raises(ValueError, match="this model's head 3 classes: it was trained on another task"):
        glue_score._labelled_rows(found, None, 3)
    path.write_text('{"sentence": "a", "label": 1}\n' * 3)
    assert [len(glue_score._labelled_rows(found, limit, 2)) for limit in (1, 2, 9)] == [1, 2, 3]
