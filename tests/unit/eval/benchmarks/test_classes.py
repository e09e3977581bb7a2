"""Weighted F1 and Matthews of classifier-like tasks, beside scikit-learn; which tasks are none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eval.benchmarks.tasks.settings import TasksSettings
from tests.builders import open_base
from tests.tiny import make_checkpoint

pytest.importorskip("lm_eval", reason="needs the `tasks` extra (lm-eval)")
metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
classes = pytest.importorskip("eval.benchmarks.tasks.classes")
score = pytest.importorskip("eval.benchmarks.tasks.score")
local = pytest.importorskip("tests.records.generative_tasks")
MOODS = ["bad", "neutral", "good"]


def task(choices: Any, **changes: Any) -> Any:
    facts: dict[str, Any] = {"multiple_input": 0, "multiple_target": 0} | changes
    return SimpleNamespace(
        config=SimpleNamespace(doc_to_choice="choices" if choices else None),
        doc_to_choice=lambda doc: doc.get("own", choices),
        **facts,
    )


def samples(targets: list[Any], responses: list[Any], **doc: Any) -> list[dict[str, Any]]:
    return [
        {"doc": doc, "target": target, "filtered_resps": [response] if isinstance(response, str) else response}
        for target, response in zip(targets, responses, strict=True)
    ]


def test_likelihoods_choose_the_likeliest_class() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 40).tolist()
    logprobs = rng.normal(size=(40, 3))
    asked = samples(targets, [[(x, False) for x in row] for row in logprobs])
    found = classes.class_metrics(task(MOODS), asked)
    assert (
        found == classes.class_metrics(task(MOODS), asked, seed=0) != classes.class_metrics(task(MOODS), asked, seed=1)
    )
    chosen = logprobs.argmax(axis=1)
    assert found["f1_weighted"].value == pytest.approx(metrics.f1_score(targets, chosen, average="weighted"))
    assert found["matthews"].value == pytest.approx(metrics.matthews_corrcoef(targets, chosen))
    assert found["matthews"].low < found["matthews"].value < found["matthews"].high
    assert found["f1_weighted"].n == 40


def test_a_text_that_is_no_class_is_wrong() -> None:
    targets = ["good", "bad", "bad", "neutral"]
    texts = [" Good\n", "bad", "who knows", "good"]
    found = classes.class_metrics(task(MOODS), samples(targets, texts))
    right, chosen = [2, 0, 0, 1], [2, 0, 3, 2]
    expected = metrics.f1_score(right, chosen, average="weighted", zero_division=0)
    assert found["f1_weighted"].value == pytest.approx(expected)
    assert found["matthews"].value == pytest.approx(metrics.matthews_corrcoef(right, chosen))


@pytest.mark.parametrize(
    ("found", "doc"),
    [
        (task(None), {}),
        (task(["A", "B", "C"]), {}),
        (task(MOODS, multiple_input=1), {}),
        (task(MOODS, multiple_target=1), {}),
        (task(["only"]), {}),
    ],
)
def test_other_tasks_are_no_classifiers(found: Any, doc: dict[str, Any]) -> None:
    assert classes.class_metrics(found, samples([0, 0], ["x", "y"], **doc)) == {}


def test_choices_that_differ_or_targets_outside_are_none() -> None:
    differing = samples([0], ["x"]) + samples([0], ["x"], own=["p", "q"])
    assert classes.class_metrics(task(MOODS), differing) == {}
    assert classes.class_metrics(task(MOODS), samples(["great"], ["good"])) == {}
    assert classes.class_metrics(task(MOODS), samples([3], ["good"])) == {}


def test_a_task_has_them_behind_its_own_metrics(tmp_path: Path) -> None:
    base = open_base(make_checkpoint(tmp_path / "base"))
    names = local.write_generative_tasks(tmp_path / "tasks", ("mood", "said_mood"))
    asked = TasksSettings(names=names, folder=str(tmp_path / "tasks"))
    result = score.score_tasks(base, {"base": None}, asked)["base"]
    mood = result.tasks["local_mood"]
    assert list(mood.metrics) == ["acc", "f1_weighted", "matthews"]
    chosen = [int(np.argmax(prediction.logprobs)) for prediction in mood.predictions]
    expected = metrics.f1_score([n % 3 for n in range(7)], chosen, average="weighted", zero_division=0)
    assert mood.metrics["f1_weighted"].value == pytest.approx(expected)
    assert list(result.tasks["local_said_mood"].metrics) == ["exact_match", "f1_weighted", "matthews"]
