"""What the benchmarks share that score each run on the evaluation rows of the dataset it was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from eval.benchmarks.benchmark import Benchmark, Contestant, Place
from eval.benchmarks.dataset_rows import EvalRows, data_files, evaluation_rows
from harness.config.schema import DatasetConfig, PathsConfig

if TYPE_CHECKING:
    from harness.banks.load import LoadedBase


class OwnRowsBenchmark(Benchmark, Protocol):
    """A benchmark whose settings name a file of rows (`data`), or None for the evaluation split of the dataset."""

    scores_own_dataset: ClassVar[bool] = True

    def files(self, settings: Any) -> Mapping[str, Sequence[Path]]:
        return data_files(settings.data)

    def rows(self, settings: Any, dataset: DatasetConfig, paths: PathsConfig) -> EvalRows:
        return evaluation_rows(dataset, settings.data, None, paths)

    def num_tokens(
        self, settings: Any, paths: PathsConfig, dataset: DatasetConfig | None, num_rows: int | None
    ) -> int | None:
        """As `Benchmark.num_tokens`, with rows as long as they may be."""
        if dataset is None or num_rows is None:
            return None
        return num_rows * (dataset.source_max_tokens + self.written_tokens(settings))

    def written_tokens(self, settings: Any) -> int:
        """The longest answer to a row; 0 where none is written."""
        return 0

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: Any, place: Place
    ) -> dict[str, Any]:
        results = {}
        for contestant in contestants:
            assert contestant.rows is not None
            results[contestant.name] = self.score_rows(base, contestant, contestant.rows, settings, place)
        return results

    def score_rows(
        self, base: "LoadedBase", contestant: Contestant, rows: EvalRows, settings: Any, place: Place
    ) -> Any:
        """-> the `Result` of one contestant on its rows."""
        ...
