"""Every evaluation's file, as it is written, gives its numbers to the model card and the report."""

import json
from pathlib import Path

import pytest

from eval.benchmarks.glue.score import GlueResult
from eval.benchmarks.perplexity.score import PerplexityResult
from eval.benchmarks.super_ni.score import SuperNiResult
from eval.benchmarks.tasks.results import TaskScore, TasksResult
from harness.files.atomic import write_json
from harness.runs.estimate import Estimate
from harness.runs.scores import eval_file, measured_scores
from tests.records.recorded_sweep import mmlu_values


def glue() -> GlueResult:
    accuracy, matthews = Estimate.of(0.75, (0.6, 0.9)), Estimate(value=None)
    return GlueResult(
        system="roberta-rte",
        task="rte",
        split_name="validation",
        score_name="accuracy",
        score=0.75,
        score_ci95=(0.6, 0.9),
        official=("accuracy",),
        metrics={"accuracy": accuracy, "matthews": matthews},
        n=40,
        num_labels=2,
        label_names=None,
        num_truncated=0,
        data_sha256="d",
        settings_sha256="s",
        model_sha256="m",
        predictions=(),
    )


def super_ni() -> SuperNiResult:
    return SuperNiResult(
        system="t5",
        dataset="super_ni",
        split_name="test",
        rouge_l=0.41,
        rouge_l_ci95=None,
        rouge_l_macro=0.4,
        exact_match=0.2,
        n=100,
        num_tasks=1,
        num_truncated=0,
        max_new_tokens=128,
        per_task={},
        data_sha256="d",
        settings_sha256="s",
        model_sha256="m",
        predictions=(),
    )


def perplexity(text: str) -> PerplexityResult:
    return PerplexityResult(
        system="smollm2",
        text=text,
        token_perplexity=None,
        token_perplexity_ci95=None,
        bits_per_byte=1.2,
        bits_per_byte_ci95=(1.1, 1.3),
        byte_perplexity=2.3,
        word_perplexity=None,
        num_documents=7,
        num_tokens=70,
        num_bytes=300,
        num_words=50,
        window=512,
        stride=512,
        settings_sha256="s",
        model_sha256="m",
        documents=(),
    )


def tasks() -> TasksResult:
    acc, perplexity = Estimate.of(0.3, (0.2, 0.4), 60), Estimate.of(9.5, None, 60)
    metrics = {"acc": acc, "perplexity": perplexity}
    piqa = TaskScore(
        version="1.0",
        num_fewshot=0,
        metrics=metrics,
        higher_is_better={"acc": True, "perplexity": False},
        crows_pairs=None,
        predictions=(),
    )
    return TasksResult(
        system="smollm2", tasks={"piqa": piqa}, lm_eval_version="0.4", settings_sha256="s", model_sha256="m"
    )


def test_every_evaluation_says_its_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "glue" / "glue.json", glue().to_json())
    write_json(tmp_path / "perplexity" / "perplexity.json", perplexity("/somewhere/of/mine/pile.jsonl").to_json())
    write_json(tmp_path / "super_ni" / "super_ni.json", super_ni().to_json())
    write_json(tmp_path / "tasks" / "tasks.json", tasks().to_json())
    found = [(s.evaluation, s.metric, s.value, s.low, s.high, s.n) for s in measured_scores(tmp_path)]
    assert found == [
        ("glue rte", "accuracy", 0.75, 0.6, 0.9, 40),
        ("perplexity pile.jsonl", "bits_per_byte", 1.2, 1.1, 1.3, 7),
        ("super_ni", "rouge_l", 0.41, None, None, 100),
        ("tasks piqa", "acc", 0.3, 0.2, 0.4, 60),
        ("tasks piqa", "perplexity", 9.5, None, None, 60),
    ]
    assert {s.settings_sha256 for s in measured_scores(tmp_path)} == {"s"}
    assert measured_scores(tmp_path, leave_out=("glue", "tasks", "perplexity", "super_ni")) == []


def test_nothing_was_measured(tmp_path: Path) -> None:
    assert measured_scores(tmp_path / "eval") == []


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "glue.json").write_text('{"score": 0.')
    with pytest.raises(ValueError, match=r"glue\.json: not JSON"):
        measured_scores(tmp_path)


def test_a_headline_is_told_once(tmp_path: Path) -> None:
    """Where the file gives its metric with an interval of its own, the headline says nothing new."""
    headline = {"metric": "rouge_l", "value": 0.4, "ci95": [0.3, 0.5], "n": 100, "higher_is_better": True}
    write_json(tmp_path / "one" / "one.json", {"headline": headline, "rouge_l": 0.4, "rouge_l_ci95": [0.3, 0.5]})
    write_json(tmp_path / "two" / "two.json", {"headline": headline, "rouge_l": 0.4})
    one, two = measured_scores(tmp_path)
    assert (one.evaluation, one.metric, one.low, one.n) == ("one", "rouge_l", 0.3, None)
    assert (two.evaluation, two.metric, two.low, two.n) == ("two", "rouge_l", 0.3, 100)
    write_json(tmp_path / "two" / "two.json", {"headline": {**headline, "value": None, "ci95": None}})
    assert [score.evaluation for score in measured_scores(tmp_path)] == ["one"]
    write_json(tmp_path / "two" / "two.json", {"headline": headline, "metrics": {"rouge_l": {"value": 0.4, "n": 7}}})
    two = measured_scores(tmp_path)[1]
    assert (two.metric, two.low, two.n) == ("rouge_l", None, 7)
    assert len(measured_scores(tmp_path)) == 2


def test_what_a_score_can_be_compared_by(tmp_path: Path) -> None:
    """Settings in words, a number of shots of 0 among them; what isn't set is left out."""
    about = {"protocol": "hendrycks", "split_name": "", "num_shots": 0, "chat": False, "num_documents": 9}
    write_json(tmp_path / "mmlu.json", {**about, "text": "mmlu", "accuracy": 1, "accuracy_ci95": [0.5]})
    write_json(tmp_path / "tasks.json", {**about, "n": "many", "tasks": {"piqa": {"metrics": {"acc": {"value": 0.5}}}}})
    write_json(tmp_path / "list.json", [1])
    one, two = measured_scores(tmp_path)
    assert (one.evaluation, one.value, one.low, one.high, one.n) == ("mmlu", 1, None, None, 9)
    assert one.settings == two.settings == "protocol hendrycks, num_shots 0"
    assert (two.evaluation, two.settings_sha256) == ("tasks piqa", None)
    few = {"num_fewshot": 0, "metrics": {"acc": {"value": 0.5, "ci95": [0.4, 0.6]}, "odd": {}, "text": "x"}}
    write_json(tmp_path / "tasks.json", {**about, "tasks": {"a": "text", "piqa": few, "none": {"metrics": []}}})
    (three,) = measured_scores(tmp_path, leave_out=("mmlu.json", "list.json"))
    assert (three.settings, three.low, three.high) == ("num_fewshot 0", 0.4, 0.6)


@pytest.mark.parametrize("num_questions", [3, 3000])
def test_scores_are_the_same_whether_or_not_a_long_files_questions_are_read(tmp_path: Path, num_questions: int) -> None:
    """3,000 questions are 600 kB, of which only the ends are read; a list that ends otherwise is read in whole."""
    values = mmlu_values("x", 1, num_questions)
    path = tmp_path / "mmlu" / "mmlu.json"
    write_json(path, values)
    found = measured_scores(tmp_path)
    assert [score.value for score in found] == [values["accuracy_macro"], values["accuracy_micro"]]
    assert [score.is_headline for score in found] == [True, False]
    later = [{"other": 1.5, "name": "x" * 40} for _ in range(num_questions)]
    write_json(path, {**values, "further": later, "late": 0.5, "late_ci95": [0.25, 0.75]})
    assert [score.value for score in measured_scores(tmp_path)][-1] == 0.5
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match="not JSON"):
        measured_scores(tmp_path)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf")])
def test_a_number_that_is_no_score_is_named(tmp_path: Path, value: float) -> None:
    file = eval_file(tmp_path, "mmlu")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"headline": {"metric": "accuracy_macro", "value": value}}))
    with pytest.raises(ValueError, match=r"mmlu: accuracy_macro is .{3,40}: no score; score the run again"):
        list(measured_scores(tmp_path / "eval"))


def test_bounds_that_are_no_numbers_are_open(tmp_path: Path) -> None:
    file = eval_file(tmp_path, "mmlu")
    file.parent.mkdir(parents=True)
    headline = {"metric": "accuracy_macro", "value": 0.5, "ci95": [10**400, ["x"]]}
    file.write_text(json.dumps({"headline": headline, "tasks": {"x": 5}}))
    (score,) = measured_scores(tmp_path / "eval")
    assert (score.value, score.low, score.high) == (0.5, None, None)
