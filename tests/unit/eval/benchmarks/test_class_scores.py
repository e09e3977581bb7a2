"""Classification metrics beside scikit-learn and scipy; intervals that hold their value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from eval.benchmarks.glue.class_scores import OFFICIAL, class_scores, number_scores, official_metrics
from eval.benchmarks.intervals import mean_score, wilson_interval
from harness.data.formats import GLUE_FIELDS


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=40)
@given(
    st.integers(2, 4).flatmap(
        lambda k: st.tuples(st.just(k), st.lists(st.tuples(*[st.integers(0, k - 1)] * 2), min_size=1, max_size=30))
    )
)
def test_class_metrics_are_scikit_learns(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    num_labels, rows = drawn
    answers, choices = [a for a, _ in rows], [c for _, c in rows]
    found = class_scores(answers, choices, num_labels, rng())
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(answers, choices))
    assert found["matthews"].value == pytest.approx(metrics.matthews_corrcoef(answers, choices), abs=1e-9)
    for average in ("weighted", "macro"):
        expected = metrics.f1_score(answers, choices, average=average, zero_division=0.0)
        assert found[f"f1_{average}"].value == pytest.approx(expected)
    assert ("f1" in found) == (num_labels == 2)
    if num_labels == 2:
        assert found["f1"].value == pytest.approx(metrics.f1_score(answers, choices, zero_division=0.0))


def test_correlations_are_scipys() -> None:
    answers = rng().normal(size=50).round(1)  # with ties
    guesses = answers + np.random.default_rng(1).normal(size=50)
    found = number_scores(answers.tolist(), guesses.tolist(), rng())
    assert found["pearson"].value == pytest.approx(pearsonr(answers, guesses).statistic)
    assert found["spearman"].value == pytest.approx(spearmanr(answers, guesses).statistic)
    for score in found.values():
        assert score.value is not None
        assert score.ci95 is not None
        assert score.ci95[0] < score.value < score.ci95[1]


def test_a_correlation_with_a_constant_is_missing() -> None:
    found = number_scores([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], rng())
    assert {name: (score.value, score.ci95) for name, score in found.items()} == {
        "pearson": (None, None),
        "spearman": (None, None),
    }


def test_intervals_hold_the_value_and_narrow_with_rows() -> None:
    one = class_scores([0, 1] * 20, [0, 1, 0, 0] * 10, 2, rng())
    many = class_scores([0, 1] * 2000, [0, 1, 0, 0] * 1000, 2, rng())
    for name, score in many.items():
        assert score.value == pytest.approx(one[name].value)
        assert score.ci95 is not None
        assert score.ci95[0] < (score.value or 0) < score.ci95[1]
        wide = one[name].ci95
        assert wide is not None
        assert score.ci95[1] - score.ci95[0] < 0.2 * (wide[1] - wide[0])
    again = class_scores([0, 1] * 20, [0, 1, 0, 0] * 10, 2, rng())
    assert again == one, "the same generator, the same interval"


def test_wilson_by_hand() -> None:
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_a_mean_over_clusters_is_less_sure_than_over_values() -> None:
    clusters = [[0.0] * 50, [1.0] * 50, [0.0] * 50, [1.0] * 50]
    clustered, alone = mean_score(clusters), mean_score([[v for c in clusters for v in c]])
    assert clustered.value == alone.value == 0.5
    assert clustered.ci95 is not None
    assert alone.ci95 is not None
    assert clustered.ci95[1] - clustered.ci95[0] > 3 * (alone.ci95[1] - alone.ci95[0])
    assert mean_score([[0.3]]).ci95 is None


def test_each_glue_task_reports_its_official_metrics() -> None:
    assert set(OFFICIAL) <= set(GLUE_FIELDS)
    assert official_metrics("glue_cola", False) == ("matthews",)
    assert official_metrics("glue_sst2", False) == ("accuracy",)
    assert official_metrics("classification", False) == ("accuracy", "f1_weighted", "matthews")
    assert official_metrics("classification", True) == ("pearson", "spearman")
