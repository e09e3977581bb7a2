"""What benchmarks hand on, part by part: settings of later versions, questions, headlines, spreads, cut rows."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eval.benchmarks.glue import score as glue_score
from eval.benchmarks.mmlu.calibration import calibration_of
from eval.benchmarks.mmlu.settings import MmluSettings
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import TextSource
from eval.benchmarks.registry import BENCHMARKS, eval_config
from eval.benchmarks.replicates import Components, Spreads
from eval.benchmarks.settings import identity_of
from eval.benchmarks.tasks import results as task_results
from eval.benchmarks.tasks.settings import TasksSettings
from harness.config.schema import PathsConfig
from harness.runs.estimate import Estimate
from tests.unit.eval.benchmarks.test_by_hand import justified


def test_settings_of_later_versions_stay_out_of_the_hash_at_their_defaults() -> None:
    later = {"mmlu": {"chat"}, "perplexity": {"field", "only", "joined"}, "tasks": {"chat", "max_gen_toks", "seed"}}
    for name, expected in later.items():
        declared = fields(BENCHMARKS[name].settings_type)
        assert expected <= {one.name for one in declared if "identity_since" in one.metadata}, name
    assert set(identity_of(PerplexitySettings(text="t"))) == {"text", "window", "stride", "limit"}
    required = {
        name: {one.name for one in fields(benchmark.settings_type) if one.metadata.get("is_required")}
        for name, benchmark in BENCHMARKS.items()
    }
    assert (required["perplexity"], required["tasks"], required["mmlu"]) == ({"text"}, {"names"}, set())
    source = PerplexitySettings(text="t", field="f", only="a=b", joined=True, limit=3).source
    assert source == TextSource(where="t", field="f", only="a=b", joined=True, limit=3)
    assert "__slots__" in vars(eval_config())


def test_headlines_and_what_stands_at_each_question() -> None:
    result = SimpleNamespace(score_name="f1", score=0.5, score_ci95=(0.25, 0.75), n=4)
    found = BENCHMARKS["glue"].headline(result)
    assert found is not None
    assert (found.metric, found.estimate) == ("f1", Estimate(value=0.5, low=0.25, high=0.75, n=4))
    for num_labels, kind in ((1, ("squared_error", "", False, [0.25])), (2, ("accuracy", "share", True, [0.0]))):
        values = {"num_labels": num_labels, "predictions": [{"line": 3, "choice": 1.5, "answer": 1.0}]}
        (one,) = BENCHMARKS["glue"].by_question(values)
        assert (one.metric, one.unit, one.higher_is_better, one.values) == kind
    own = SimpleNamespace(rouge_l=0.5, rouge_l_ci95=(0.25, 0.75), n=4)
    for name in ("super_ni", "rouge"):
        top = BENCHMARKS[name].headline(own)
        assert top is not None
        assert (top.metric, top.estimate) == ("rouge_l", Estimate(value=0.5, low=0.25, high=0.75, n=4))
    row = {"task": "t", "instance_id": "i", "answer": "a", "rouge_l": 0.5, "exact_match": False}
    (said, _) = BENCHMARKS["super_ni"].by_question({"predictions": [row]})
    assert (said.names, said.values, said.categories, said.given) == (["t i"], [0.5], ["t"], ["a"])
    held = {"name": "r", "answer": "a", "reference": "b", "rouge_l": 0.5, "exact_match": False}
    (said, exact) = BENCHMARKS["rouge"].by_question({"predictions": [held]})
    assert (said.given, said.expected, exact.values) == (["a"], [["b"]], [0.0])
    asked = {"subject": "law", "index": 3, "choice": 1, "answer": 2}
    chosen = next(iter(BENCHMARKS["mmlu"].by_question({"predictions": [asked]})))
    assert (chosen.names, chosen.values, chosen.categories) == (["law 3"], [0.0], ["law"])
    assert (chosen.given, chosen.expected) == (["B"], [["C"]])
    for name in ("mmlu", "super_ni", "rouge", "glue", "tasks"):
        table = BENCHMARKS[name].table({})
        assert (table.title_justify, justified(table)[0]) == ("left", "system:left")


def test_what_is_missing_is_named_and_files_are_those_of_the_settings() -> None:
    absent = MmluSettings(questions="none.jsonl", num_shots=0)
    (problem,) = BENCHMARKS["mmlu"].problems(absent, PathsConfig(), "k.")
    assert problem.startswith("k.questions: ")
    files = BENCHMARKS["mmlu"].files(absent)
    assert (files["questions"], [path.name for path in files["shots_file"]]) == ([], ["mmlu_shots.jsonl"])
    (problem,) = BENCHMARKS["perplexity"].problems(PerplexitySettings(text="none.txt"), PathsConfig(), "k.")
    assert problem.startswith("k.text: ")
    assert BENCHMARKS["perplexity"].problems(PerplexitySettings(text="hub:a:test"), PathsConfig(), "k.") == []


def test_a_hole_in_one_of_several_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="a table has a hole"):
        Spreads.of([np.array([[1.0], [2.0]]), np.array([[1.0], [np.nan]])])


def test_parts_without_variance_are_left_out_and_cochrans_ratio_is_a_ratio() -> None:
    assert [s.freedom for s in Spreads.of([np.array([[1.0, 3.0], [1.0, 3.0]])]).mean(0).sources] == [1]
    calm, wild = np.array([[0.0], [2.0], [4.0]]), np.array([[0.0], [10.0], [20.0]])
    assert Spreads.of([calm, wild]).unequal_p == pytest.approx(2 * stats.f.sf(25.0, 2, 2))
    flat = np.zeros((3, 1))
    assert Spreads.of([flat, wild]).unequal_p == 0.0


def test_a_systems_own_way_with_questions_by_hand() -> None:
    """Means of questions 1 5 and 4 2 apart from their systems' -2 2 and 1 -1: halves apart 1.5, squares sum to 9."""
    one, two = np.array([[1.0, 5.0], [1.0, 5.0]]), np.array([[4.0, 2.0], [4.0, 2.0]])
    found = Components.of([one, two])
    assert found is not None
    assert (found.question, found.rest, found.run) == (9.0, 0.0, 0.0)
    three = Components.of([one, two + 10.0])
    assert three is not None
    assert three.question == 9.0  # whatever the systems' levels


def test_values_of_a_question_are_of_one_kind_and_sure_scores_do_not_overflow() -> None:
    assert task_results.sample_values([True, 2]) == []
    sure: Any = calibration_of([[2000.0, 0.0], [0.0, 2000.0]], [0, 1])
    assert [one.n for one in sure.reliability.bins][-1] == 2
    assert sure.reliability.bins[-1].confidence == pytest.approx(1.0)
    with pytest.raises(ValueError, match="row_tokens=0"):
        TasksSettings(names=["a"], row_tokens=0)


def test_a_row_of_a_classifier_counts_as_cut_only_where_tokens_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    row = SimpleNamespace(example=SimpleNamespace(input="a", pair=None), line=1, answer=0.0)
    told: list[Any] = []
    for name, value in {
        "_classifier": lambda base, rows: SimpleNamespace(base=SimpleNamespace(config=SimpleNamespace(num_labels=2))),
        "_labelled_rows": lambda *_: [row] * 3,
        "encode_texts": lambda tokenizer, texts, most: (told.append(most), ([[1]] * 3, [0, 2, 0]))[1],
        "model_sha256": lambda *_: "m",
        "_settings_sha256": lambda *_: "s",
        "read_by": lambda base: "r",
        "_score": lambda bank, ids, waiting: iter([(waiting, [[0.0, 1.0]] * 3)]),
        "require_finite": lambda base, members, scores: told.append((members, scores.dtype)),
        "_result": lambda name, rows, predictions, num_labels, num_truncated, *rest: num_truncated,
    }.items():
        monkeypatch.setattr(glue_score, name, value)
    base: Any = SimpleNamespace(tokenizer=None, max_length=9)
    rows: Any = SimpleNamespace(dataset=SimpleNamespace(source_max_tokens=7))
    assert glue_score.score_glue(base, "n", "a", rows, SimpleNamespace(limit=None)) == 1  # type: ignore[arg-type,comparison-overlap]
    assert told == [7, (["a"] * 3, np.float32)]
