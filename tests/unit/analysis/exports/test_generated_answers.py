"""Scores of filtered answers in the exports: under lm-eval's keys, each question with the answer that was given."""

from pathlib import Path

from analysis.exports.every_eval_ever import every_eval_ever_record, instance_records
from analysis.exports.lm_eval import lm_eval_results
from analysis.tidy.sources import Source, found_runs
from eval.benchmarks.benchmark import result_values
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.tasks.results import TaskPrediction, TaskScore, TasksResult
from harness.files.atomic import write_json
from harness.runs.estimate import Estimate
from harness.runs.scores import eval_file
from tests.records.recorded_sweep import SWEEP, write_sweep

METRIC = "exact_match,strict-match"


def prediction(doc_id: int, text: str, is_right: float) -> TaskPrediction:
    return TaskPrediction(
        doc_id=doc_id,
        target="#### 7",
        logprobs=(),
        metrics={METRIC: is_right},
        responses=(text,),
        extracted={"strict-match": "7"},
    )


def test_a_filters_score_and_the_answers_are_exported(tmp_path: Path) -> None:
    write_sweep(tmp_path / "runs")
    run = found_runs(Source(runs_folder=tmp_path / "runs", sweep=SWEEP))[0]
    score = TaskScore(
        version="3.0",
        num_fewshot=5,
        metrics={METRIC: Estimate.of(0.5, (0.1, 0.9), 2)},
        higher_is_better={METRIC: True},
        crows_pairs=None,
        predictions=(prediction(0, "3 + 4 = 7 #### 7", 1.0), prediction(1, "who knows", 0.0)),
    )
    result = TasksResult(
        system="run", tasks={"gsm8k": score}, lm_eval_version="0", settings_sha256="a" * 64, model_sha256="b" * 64
    )
    write_json(eval_file(run.folder, "tasks"), result_values(BENCHMARKS["tasks"], result))
    values = lm_eval_results(run)
    assert values is not None
    assert values["results"]["gsm8k"]["exact_match,strict-match"] == 0.5
    assert "exact_match_stderr,strict-match" in values["results"]["gsm8k"]
    record = every_eval_ever_record(run, "c", "o", 0.0)
    assert record is not None
    lines = [line for line in instance_records(run, record) if line["evaluation_name"] == "gsm8k"]
    assert [line["output"]["raw"] for line in lines] == [["3 + 4 = 7 #### 7"], ["who knows"]]
    assert [line["evaluation"]["is_correct"] for line in lines] == [True, False]
    assert lines[0]["input"]["reference"] == ["#### 7"]
