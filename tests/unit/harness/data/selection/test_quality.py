"""The quality rule: planted weights are found, what can't be told is refused, a rule's text is its identity."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.selection.orders import unit
from harness.data.selection.quality import fit_rule, neighbour_distances, read_rule, rule_text
from harness.runs.spec import identity
from tests.builders import spec

WEIGHTS = {"target_tokens": -0.01, "perplexity": 0.5}


def planted(num_runs: int, noise: float = 0.0) -> tuple[dict[str, list[float]], list[float]]:
    rng = np.random.default_rng(0)
    means = {
        "target_tokens": rng.uniform(20, 200, num_runs).tolist(),
        "perplexity": rng.uniform(1, 4, num_runs).tolist(),
    }
    logs = 0.3 + sum(weight * np.array(means[name]) for name, weight in WEIGHTS.items())
    return means, np.exp(logs + noise * rng.normal(size=num_runs)).tolist()


def test_planted_weights_are_found() -> None:
    fitted = fit_rule(*planted(5))
    assert dict(fitted.rule.weights) == pytest.approx(WEIGHTS)
    assert (fitted.rule.intercept, fitted.r2) == pytest.approx((0.3, 1.0))
    rows = {"target_tokens": np.array([100.0, 10.0]), "perplexity": np.array([2.0, 2.0])}
    assert fitted.rule.predicted(rows) == pytest.approx([0.3, 1.2])


def test_noise_is_within_the_standard_errors() -> None:
    means, losses = planted(400, noise=0.2)
    fitted = fit_rule(means, losses)
    for name, weight in WEIGHTS.items():
        assert abs(fitted.rule.weights[name] - weight) < 4 * fitted.standard_errors[name]
    x = np.column_stack([np.ones(400), *(means[name] for name in WEIGHTS)])
    left = np.log(losses) - x @ np.linalg.lstsq(x, np.log(losses), rcond=None)[0]
    wanted = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * (left @ left) / 397)[1:]
    assert list(fitted.standard_errors.values()) == pytest.approx(wanted.tolist())


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ({"knn": [1, 2]}, "2 runs for 1 indicators: take 3 runs"),
        ({"knn": [1, 2, 3, 4], "perplexity": [5, 5, 5, 5]}, "perplexity: equal in all runs"),
        ({"knn": [1, 2, 3, 4], "perplexity": [2, 4, 6, 8]}, "knn, perplexity: they vary together"),
    ],
)
def test_what_cannot_be_told_is_refused(means: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_rule(means, [1.0 + number for number in range(len(means["knn"]))])


def test_a_neighbours_distance_is_that_of_all_pairs() -> None:
    points = unit(np.random.default_rng(0).normal(size=(40, 5)))
    distances = np.sort(np.linalg.norm(points[:, None] - points[None], axis=-1), axis=1)
    assert neighbour_distances(points) == pytest.approx(distances[:, 6], abs=1e-6)
    assert neighbour_distances(points[:3]) == pytest.approx(
        np.sort(np.linalg.norm(points[:3, None] - points[None, :3], axis=-1), axis=1)[:, 2], abs=1e-6
    )


def by_rule(rule: str | None, fraction: float = 0.5, select: str = "quality") -> Any:
    return spec(dataset=("oasst1", {"fraction": fraction, "select": select, "quality_rule": rule}))


def test_a_rules_content_is_its_identity(tmp_path: Path) -> None:
    file = tmp_path / "rule.json"
    file.write_text(json.dumps({"weights": WEIGHTS, "r2": 0.5, "intercept": 0.3}))
    chosen = by_rule(str(file))
    assert read_rule(chosen.dataset.quality_rule).weights == WEIGHTS
    assert by_rule(rule_text(str(file))).run_id == chosen.run_id
    file.write_text(json.dumps({"weights": WEIGHTS | {"knn": 1.0}, "intercept": 0.3}))
    assert by_rule(str(file)).run_id != chosen.run_id
    assert by_rule(str(file), fraction=1.0).run_id == spec().run_id
    assert "quality_rule" not in identity(spec())["dataset"]


@pytest.mark.parametrize(
    ("rule", "select", "message"),
    [
        (None, "quality", "fit one by `python -m sweeps quality-rule`"),
        ('{"intercept": 0, "weights": {"knn": 1}}', "length", "chooses by a rule, and nothing else does"),
        ("nowhere.json", "quality", "dataset.quality_rule=nowhere.json: no such file"),
        ("{}", "quality", "no rule .KeyError"),
        ('{"intercept": 0, "weights": {"reward": 1}}', "quality", r"indicators \['reward'\]; there are input_tokens"),
        ('{"intercept": 0, "weights": {"knn": NaN}}', "quality", "a number that is none"),
        ('{"intercept": 0, "weights": {}}', "quality", "indicators"),
    ],
)
def test_what_is_no_rule_is_refused(rule: str | None, select: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_rule(rule, select=select)
