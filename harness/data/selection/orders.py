"""Orders rows by which of them train first: at random, the longest, diverse ones, or those the base is sure of.

Every way is one function that orders the rows, and `dataset.fraction` takes the first of that order, so that the rows
at 10 % are among those at 25 % (`harness.data.selection.rows`).

    random      an order drawn by train.data_seed
    length      the most target tokens first (Zhao et al. 2024, Long Is More for Alignment, arXiv 2402.04833)
    kmeans      a row of each cluster in turn, so that clusters are balanced: k-means over the base's mean hidden
                states, one cluster for every `ROWS_A_CLUSTER` rows, at most `MAX_CLUSTERS` (Diversify and Conquer,
                arXiv 2409.11378; QDIT, arXiv 2311.14736, has the same end by another way)
    confidence  the rows first whose target the untouched base finds likeliest: the mean log-probability of its tokens.
                It is a filter of targets that don't fit their input (the idea of CLEAR, arXiv 2403.12776; its own
                score asks a model several times, which this doesn't)
    quality     the rows first of which a rule that was fitted on finished runs predicts the lowest held-out loss
                (InstructMining, arXiv 2307.06290: `harness.data.selection.quality`)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.config.schema import Select
from harness.data.tokens import Lengths

ROWS_A_CLUSTER, MAX_CLUSTERS = 20, 100
_ITERATIONS = 50  # of k-means at most
Floats = NDArray[np.float64]


class Features(Protocol):
    """What is known of the rows; what the base computes is computed when it is asked for."""

    @property
    def num_target_tokens(self) -> Lengths:
        """Of each row."""
        ...

    def embeddings(self) -> Floats:
        """(num_rows, hidden) of the base."""
        ...

    def mean_logprobs(self) -> Floats:
        """(num_rows,) of the targets' tokens by the base, nats."""
        ...

    def predicted_losses(self) -> Floats:
        """(num_rows,) logs of held-out losses by `dataset.quality_rule`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """All rows in the order in which they are taken."""

    places: Lengths  # of the rows, the first to be taken first
    scores: Floats | None = None  # by which, a value a row in the order of the rows
    clusters: Lengths | None = None  # likewise


def by_chance(features: Features, rng: np.random.Generator) -> Order:
    """An order that says nothing of the rows."""
    return Order(places=rng.permutation(len(features.num_target_tokens)))


def by_length(features: Features, rng: np.random.Generator) -> Order:
    """The longest targets first; equal ones by chance."""
    scores = features.num_target_tokens.astype(np.float64)
    return Order(places=_largest_first(scores, rng), scores=scores)


def by_confidence(features: Features, rng: np.random.Generator) -> Order:
    """The likeliest targets first."""
    scores = features.mean_logprobs()
    return Order(places=_largest_first(scores, rng), scores=scores)


def by_quality(features: Features, rng: np.random.Generator) -> Order:
    """The lowest predicted losses first; the score is minus the log of the loss."""
    scores = -features.predicted_losses()
    return Order(places=_largest_first(scores, rng), scores=scores)


def by_cluster(features: Features, rng: np.random.Generator) -> Order:
    """A row of each cluster in turn, within a cluster by chance; the score is the distance to its centre."""
    points = unit(features.embeddings())
    num_clusters = min(MAX_CLUSTERS, max(1, len(points) // ROWS_A_CLUSTER))
    clusters, distances = k_means(points, num_clusters, rng)
    turn = np.empty(len(points), dtype=np.int64)  # of a row: in which round it is taken
    shuffled = rng.permutation(len(points))
    for cluster in range(num_clusters):
        members = shuffled[clusters[shuffled] == cluster]
        turn[members] = np.arange(len(members))
    chance = rng.permutation(len(points))
    return Order(places=np.lexsort((chance, turn)), scores=distances, clusters=clusters)


ORDERS: Mapping[Select, Callable[[Features, np.random.Generator], Order]] = {
    Select.random: by_chance,
    Select.length: by_length,
    Select.kmeans: by_cluster,
    Select.confidence: by_confidence,
    Select.quality: by_quality,
}


def k_means(points: Floats, num_clusters: int, rng: np.random.Generator) -> tuple[Lengths, Floats]:
    """Lloyd's algorithm from k-means++ centres (Arthur & Vassilvitskii 2007). -> cluster, squared distance."""
    centres = _first_centres(points, num_clusters, rng)
    clusters = np.full(len(points), -1)
    for _ in range(_ITERATIONS):
        distances = _distances(points, centres)
        nearest = distances.argmin(axis=1)
        if (nearest == clusters).all():
            break
        clusters = nearest
        for cluster in np.unique(clusters):
            centres[cluster] = points[clusters == cluster].mean(axis=0)
    distances = _distances(points, centres)
    clusters = distances.argmin(axis=1)
    return clusters.astype(np.int64), distances[np.arange(len(points)), clusters]


def _first_centres(points: Floats, num_clusters: int, rng: np.random.Generator) -> Floats:
    chosen = [int(rng.integers(len(points)))]
    nearest = _distances(points, points[chosen])[:, 0]
    while len(chosen) < num_clusters:
        total = float(nearest.sum())
        place = int(rng.choice(len(points), p=nearest / total)) if total > 0 else int(rng.integers(len(points)))
        chosen.append(place)
        nearest = np.minimum(nearest, _distances(points, points[[place]])[:, 0])
    return points[chosen].copy()


def _distances(points: Floats, centres: Floats) -> Floats:
    """(num_points, num_centres) squared."""
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2.0 * points @ centres.T
    return np.asarray(np.maximum(squares, 0.0), dtype=np.float64)


def unit(points: Floats) -> Floats:
    """The vectors, each of length 1; zeros stay."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.where(lengths > 0, lengths, 1.0))


def _largest_first(scores: Floats, rng: np.random.Generator) -> Lengths:
    return np.lexsort((rng.permutation(len(scores)), -scores))
