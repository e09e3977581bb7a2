"""Orders of rows on features with a planted structure: nested, balanced, and corrupted rows last."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.config.schema import DatasetConfig, Select
from harness.data.selection.orders import ORDERS, k_means
from harness.data.selection.rows import num_kept, select_rows, write_selected
from harness.runs.spec import identity
from tests.builders import spec


@dataclass
class Planted:
    """Three clusters of 140, 40 and 20 rows; every tenth row's target doesn't fit its input."""

    cluster: NDArray[np.int64] = field(default_factory=lambda: np.repeat([0, 1, 2], [140, 40, 20]))

    @property
    def num_target_tokens(self) -> NDArray[np.int64]:
        return np.arange(len(self.cluster)) % 50

    @property
    def is_corrupted(self) -> NDArray[np.bool_]:
        return np.arange(len(self.cluster)) % 10 == 0

    def embeddings(self) -> NDArray[np.float64]:
        rng, centres = np.random.default_rng(0), np.eye(8)[:3]
        return np.asarray(centres[self.cluster] + 0.01 * rng.normal(size=(len(self.cluster), 8)))

    def mean_logprobs(self) -> NDArray[np.float64]:
        rng = np.random.default_rng(0)
        return np.asarray(rng.normal(-1.0, 0.2, len(self.cluster)) - 3.0 * self.is_corrupted)

    def predicted_losses(self) -> NDArray[np.float64]:
        return np.asarray(0.1 * np.arange(len(self.cluster)) + 5.0 * self.is_corrupted)


def dataset(**changes: object) -> DatasetConfig:
    return DatasetConfig(**({"name": "mine", "hub_id": "me/mine", "format": "alpaca"} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("select", list(Select))
def test_smaller_fractions_are_nested_and_a_seed_gives_one_order(select: Select) -> None:
    found = {
        fraction: select_rows(dataset(select=select, fraction=fraction), Planted(), 42).places
        for fraction in (0.1, 0.25, 0.5, 0.25)
    }
    assert [len(found[fraction]) for fraction in (0.1, 0.25, 0.5)] == [20, 50, 100]
    assert set(found[0.1]) < set(found[0.25]) < set(found[0.5])
    again = select_rows(dataset(select=select, fraction=0.25), Planted(), 42).places
    assert again.tolist() == found[0.25].tolist()
    assert (np.diff(again) > 0).all()  # in the order of the rows
    if select is Select.random:
        assert select_rows(dataset(select=select, fraction=0.25), Planted(), 43).places.tolist() != again.tolist()


def test_the_longest_targets_are_taken() -> None:
    kept = select_rows(dataset(select=Select.length, fraction=0.1), Planted(), 42)
    assert set(Planted().num_target_tokens[kept.places]) == {45, 46, 47, 48, 49}


def test_clusters_are_found_and_balanced() -> None:
    planted = Planted()
    clusters, _ = k_means(planted.embeddings(), 3, np.random.default_rng(1))
    assert len({(mine, theirs) for mine, theirs in zip(clusters, planted.cluster, strict=True)}) == 3
    kept = select_rows(dataset(select=Select.kmeans, fraction=0.2), planted, 42)
    assert kept.order.clusters is not None
    num_clusters = kept.order.clusters.max() + 1
    assert num_clusters == len(planted.cluster) // 20
    counts = np.bincount(kept.order.clusters[kept.places], minlength=num_clusters)
    sizes = np.bincount(kept.order.clusters, minlength=num_clusters)
    fullest = counts.max()
    assert all(count >= min(size, fullest - 1) for count, size in zip(counts, sizes, strict=True))


def test_rows_whose_target_is_unlikely_are_left_out() -> None:
    planted = Planted()
    kept = select_rows(dataset(select=Select.confidence, fraction=0.9), planted, 42)
    assert not planted.is_corrupted[kept.places].any()
    assert len(kept.places) == 180


def test_rows_of_the_lowest_predicted_loss_are_taken() -> None:
    planted = Planted()
    kept = select_rows(dataset(select=Select.quality, fraction=0.1), planted, 42)
    assert set(kept.places) == set(np.argsort(planted.predicted_losses())[:20])
    assert kept.order.scores == pytest.approx(-planted.predicted_losses())


def test_every_way_to_choose_is_in_the_registry() -> None:
    assert set(ORDERS) == set(Select)


@pytest.mark.parametrize(("fraction", "rows", "kept"), [(1.0, 7, 7), (0.5, 7, 4), (0.001, 7, 1), (0.25, 100, 25)])
def test_one_row_is_left_at_least(fraction: float, rows: int, kept: int) -> None:
    assert num_kept(dataset(fraction=fraction), rows) == kept


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected a share above 0"):
        dataset(fraction=fraction)


def test_runs_without_a_fraction_keep_their_ids_whatever_would_choose() -> None:
    plain = spec()
    assert not {"fraction", "select"} & set(identity(plain)["dataset"])
    assert spec(dataset=("oasst1", {"fraction": 1.0, "select": "length"})).run_id == plain.run_id
    parts = {spec(dataset=("oasst1", {"fraction": 0.5, "select": how})).run_id for how in ("random", "length")}
    assert len(parts | {plain.run_id}) == 3


def test_what_asks_a_causal_base_is_refused_for_other_models() -> None:
    with pytest.raises(ValueError, match=r"dataset.select=confidence with model.kind=seq2seq"):
        spec(model="t5_base", dataset=("alpaca", {"fraction": 0.5, "select": "confidence"}))


def test_each_kept_row_is_written_with_its_score_and_cluster(tmp_path: Path) -> None:
    kept = select_rows(dataset(select=Select.kmeans, fraction=0.02), Planted(), 42)
    write_selected(tmp_path, kept, np.arange(200) + 1000)
    rows = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert kept.order.clusters is not None
    assert [row["line"] for row in rows] == (kept.places + 1000).tolist()
    assert [row["cluster"] for row in rows] == kept.order.clusters[kept.places].tolist()
    plain = replace(kept, order=replace(kept.order, scores=None, clusters=None))
    write_selected(tmp_path, plain, np.arange(200))
    assert json.loads((tmp_path / "selected.jsonl").read_text().splitlines()[0])["score"] is None
