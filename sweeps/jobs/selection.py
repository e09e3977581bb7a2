"""Chooses the rows that train where `dataset.fraction` is below 1; what the base says of rows is kept in the cache.

A file in `<cache>/selection` has what was computed of a dataset's tokenized rows by a base; its name is a hash of both,
so that other rows or another base are computed anew, and a sweep computes them once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.embeddings import embed
from harness.banks.load import LoadedBase, load_base
from harness.config.schema import SHARED_BASE_METHODS, PathsConfig
from harness.data.selection.holdout import Divided, Subset, shared_lines
from harness.data.selection.orders import Floats, unit
from harness.data.selection.quality import neighbour_distances, read_rule
from harness.data.selection.rows import Selected, select_rows, selects
from harness.data.tokens import Lengths, TokenizedDataset
from harness.files.atomic import write_atomically
from harness.runs.spec import RunSpec, identity

FOLDER = "selection"  # of the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What trains, and how it was chosen."""

    parts: Divided
    selected: Selected | None = None  # None: all rows train
    lines: Lengths | None = None  # of the rows that it was chosen from


def chosen_parts(spec: RunSpec, base: LoadedBase, data: TokenizedDataset, parts: Divided, paths: PathsConfig) -> Chosen:
    """Takes the rows of `dataset.select` out of those that aren't held out. Examples of one row stay together."""
    dataset, train = spec.dataset, spec.train
    if dataset is None or train is None or not selects(dataset):
        return Chosen(parts=parts)
    places = parts.examples.kept if isinstance(parts.examples, Subset) else np.arange(len(data))
    lines = shared_lines(dataset, data)
    names, rows = np.unique(places if lines is None else lines[places], return_inverse=True)
    features = RowFeatures(spec=spec, base=base, data=data, paths=paths, places=places, rows=rows)
    selected = select_rows(dataset, features, train.data_seed)
    kept = places[np.isin(rows, selected.places)]
    examples = Subset(data, kept)
    chosen = Divided(
        examples=examples,
        num_characters=data.num_characters[kept].astype(np.int64),
        held_out=parts.held_out,
        num_twins=parts.num_twins,
    )
    return Chosen(parts=chosen, selected=selected, lines=data.lines[names] if lines is None else names)


@dataclass(frozen=True, kw_only=True)  # no slots: what is computed is kept
class RowFeatures:
    """`harness.data.selection.orders.Features` of the rows that a run may train on."""

    spec: RunSpec
    base: LoadedBase
    data: TokenizedDataset
    paths: PathsConfig
    places: Lengths  # of the examples in the data
    rows: Lengths  # the row of each of these examples, from 0

    @property
    def num_target_tokens(self) -> Lengths:
        targets = (self.data.lengths - self.data.num_source)[self.places].astype(np.float64)
        return np.bincount(self.rows, weights=targets).astype(np.int64)

    def embeddings(self) -> Floats:
        found = self._all_embeddings()
        sums = np.zeros((int(self.rows.max()) + 1, found.shape[1]))
        np.add.at(sums, self.rows, found[self.places])
        return np.asarray(sums / np.bincount(self.rows)[:, None])

    def mean_logprobs(self) -> Floats:
        found = self._all_logprobs()
        return np.asarray(np.bincount(self.rows, weights=found[self.places]) / np.bincount(self.rows))

    def predicted_losses(self) -> Floats:
        assert self.spec.dataset is not None
        rule = read_rule(self.spec.dataset.quality_rule or "")
        found = rule.predicted(self.indicators(list(rule.weights)))
        return np.asarray(np.bincount(self.rows, weights=found[self.places]) / np.bincount(self.rows))

    def indicators(self, names: Sequence[str]) -> dict[str, Floats]:
        """Of those names (`harness.data.selection.quality`), of every example of the data, held-out ones included."""
        compute = {
            "input_tokens": lambda: self.data.num_source.astype(np.float64),
            "target_tokens": lambda: (self.data.lengths - self.data.num_source).astype(np.float64),
            "perplexity": lambda: -self._all_logprobs(),
            "knn": lambda: neighbour_distances(unit(self._all_embeddings())),
        }
        return {name: compute[name]() for name in names}

    def _all_embeddings(self) -> Floats:
        return self._kept(
            "embeddings", lambda base: embed(base, [self.data[i].input_ids for i in range(len(self.data))])
        )

    def _all_logprobs(self) -> Floats:
        return self._kept("logprobs", lambda base: _mean_logprobs(base, self.data))

    def _kept(self, what: str, compute: Callable[[LoadedBase], Floats]) -> Floats:
        """What was computed before, or is computed now and kept."""
        of_base = [self.base.fingerprint, identity(self.spec.quant)]
        key = [what, self.data.path.name, of_base, self.spec.dataset is not None and self.spec.dataset.train_on_source]
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = Path(self.paths.cache) / FOLDER / f"{name}.bin"
        shape = (len(self.data), -1) if what == "embeddings" else (len(self.data),)
        if path.is_file():
            return np.frombuffer(path.read_bytes(), dtype="<f8").reshape(shape)
        found = np.ascontiguousarray(compute(self._plain_base), dtype="<f8")
        write_atomically(path, found.tobytes())
        return found

    @cached_property
    def _plain_base(self) -> LoadedBase:
        """The untouched base: the run's own, or one beside it where the run's method changes its base."""
        if self.spec.adapter.method in SHARED_BASE_METHODS:
            return self.base
        device = self.base.bank.device
        return load_base(self.base.source, self.spec.quant, device, Path(self.paths.cache))


def _mean_logprobs(base: LoadedBase, data: TokenizedDataset) -> Floats:
    """The mean log-probability of each example's target tokens, nats; with `train_on_source` of all but the first."""
    requests = []
    for index in range(len(data)):
        example = data[index]
        requests.append(Continuation(tokens=example.input_ids.tolist(), num_context=max(1, example.num_source)))
    found: NDArray[np.float64] = np.empty(len(data))
    for indices, scores in score_continuations(base, requests):
        for index, score in zip(indices, scores, strict=True):
            found[index] = float(score.logprobs.mean())
    return found
