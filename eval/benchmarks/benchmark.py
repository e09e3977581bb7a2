"""The protocol of benchmarks, by which config, plan, jobs, commands, search and report use them.

A benchmark is one class in one module (or folder) of this folder and one entry in `eval.benchmarks.registry`; nothing
else names it. A benchmark imports torch only when it scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rich.console import RenderableType
from rich.table import Table

from eval.benchmarks.dataset_rows import EvalRows
from harness.config.schema import DatasetConfig, ModelKind, PathsConfig, TrainConfig
from harness.files.atomic import write_json
from harness.files.names import file_name
from harness.progress import Progress
from harness.runs.estimate import Estimate, Interval

if TYPE_CHECKING:
    from eval.systems import System, Target
    from harness.banks.load import LoadedBase


BYTES_A_TOKEN = 4  # about, of English text: what a plan counts by, before anything is tokenized


class Result(Protocol):
    """What a benchmark measured of one system."""

    def to_json(self) -> dict[str, Any]:
        """The content of the result's file, as plain values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One system to be scored."""

    name: str  # in the results
    member: str | None  # of the loaded base's bank; None: the untouched base
    rows: EvalRows | None = None  # of a benchmark that scores each system on its own dataset
    system: "System | None" = None  # the run; None for a model or adapter that a command names


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The paths of a benchmark's data, the folder of its finished parts, and the callback for its progress."""

    paths: PathsConfig
    partial: Path | None  # folder of finished parts, so that a killed call goes on; None keeps nothing
    on_progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The number that stands for a whole result."""

    metric: str  # as the result's file calls it
    estimate: Estimate
    lower_is_better: bool = False  # although more is better in other headlines of the benchmark: no goal of a search


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of a benchmark's command that is no setting of it."""

    name: str  # with underscores
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionScores:
    """One metric of a result, question by question. The lists have one length; None: all alike, or none."""

    metric: str
    unit: str  # of the values: "share", "nats a token"; "" where it has none
    higher_is_better: bool
    names: list[str]  # of the questions, each once
    values: list[float]  # what each adds to the result's mean
    categories: list[str] | None = None  # subject or task of each
    weights: list[float] | None = None  # of each in the mean
    part: str = ""  # of the evaluation that they belong to, as one of several tasks
    given: list[str] | None = None  # the system's answer to each, where it is kept
    expected: list[list[str]] | None = None  # the right answers of each, where they are kept


class Benchmark(Protocol):
    """Settings, needs, scoring, headline and table. A subclass states what differs from the defaults."""

    name: ClassVar[str]  # of the evaluation, its config key, its command and its files
    title: ClassVar[str]  # in tables and in the report
    about: ClassVar[str]  # one sentence, for --help
    parts: ClassVar[str]  # what its progress counts: questions, rows, windows
    settings_type: ClassVar[type]  # a frozen dataclass of `eval.benchmarks.settings.setting` fields
    kind: ClassVar[ModelKind] = ModelKind.causal  # what it scores; of others than causal ones one member at a time
    scores_own_dataset: ClassVar[bool] = False  # of each run, the evaluation rows of the dataset that it was trained on
    scores_sharded_base: ClassVar[bool] = False  # over a base of which each rank holds a part
    headline_key: ClassVar[str]  # of the headline in a job's result, which search reads
    higher_is_better: ClassVar[bool | None] = True  # None: its number is no measure of quality
    lower_is_better: ClassVar[frozenset[str]] = frozenset()  # those of its scores that say the opposite
    command: ClassVar[str]  # what measures it by hand: python -m eval COMMAND
    options: ClassVar[tuple[Option, ...]] = ()  # of the command, beside those of its settings

    def problems(self, settings: Any, paths: PathsConfig, key: str) -> list[str]:
        """Names what is missing or broken, before anything starts. Args: key: the text before a setting's name."""
        return []

    def run_problem(self, train: TrainConfig | None) -> str | None:
        """Why runs that are trained so can't be scored; None if they can. Args: train: None: an untouched base."""
        return None

    def files(self, settings: Any) -> Mapping[str, Sequence[Path]]:
        """-> {setting: local files that it names}; their content decides the result"""
        return {}

    def wants_template(self, settings: Any) -> bool:
        """Whether it asks through the model's chat template."""
        return False

    def reads_own_template(self) -> bool:
        """Whether a run is asked by the chat template that its dataset gave, where there is one."""
        return False

    def rows(self, settings: Any, dataset: DatasetConfig, paths: PathsConfig) -> EvalRows | None:
        """The rows of a run's dataset that are scored, where `scores_own_dataset`. Raises ValueError: none there."""
        return None

    def num_tokens(
        self, settings: Any, paths: PathsConfig, dataset: DatasetConfig | None, num_rows: int | None
    ) -> int | None:
        """About how many tokens go through the model to score one system; None: not known before the job.

        Args:
            dataset: that the run was trained on.
            num_rows: of its evaluation rows, where `scores_own_dataset`; None: not counted.
        """
        return None

    def num_questions(self, settings: Any, num_rows: int | None) -> int | None:
        """How many questions each system is scored on; None: not known before the job. Args: as `num_tokens`."""
        return num_rows

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: Any, place: Place
    ) -> Mapping[str, Any]:
        """-> a `Result` of each contestant, by its name. Args: base: with the members loaded in its bank."""
        ...

    def headline(self, result: Any) -> Headline | None:
        """The one number of a result, for search, report and model card; None where it has none."""
        ...

    def summary(self, result: Any) -> dict[str, Any]:
        """What the ledger keeps of a result."""
        headline = self.headline(result)
        if headline is None or headline.lower_is_better:
            return {}
        return {self.headline_key: headline.estimate.value}

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        """What a result's file says of each question, for effects over questions. Args: values: the file's content."""
        return iter(())

    def table(self, results: Mapping[str, Any]) -> Table:
        """The results of several systems, for a person."""
        table = Table(title=self.title, title_justify="left", caption="95 % intervals")
        for column in ("system", "metric", "value", "n"):
            table.add_column(column, justify="right" if column in ("value", "n") else "left")
        for name, result in results.items():
            found = self.headline(result)
            if found is not None:
                table.add_row(name, found.metric, cell(found.estimate, 4), str(found.estimate.n or ""))
        return table

    def settings_of_options(self, values: Mapping[str, Any]) -> Any:
        """Turns the command's options into settings. Raises ValueError for values that can't be settings."""
        return self.settings_type(**values)

    def by_options(
        self, target: "Target", settings: Any, options: Mapping[str, Any], out: Path, on_progress: Progress
    ) -> tuple[dict[str, Any], RenderableType] | None:
        """Does what the benchmark's own options ask for instead of scoring the target. None: they ask for nothing."""
        return None


def result_values(benchmark: Benchmark, result: Result) -> dict[str, Any]:
    """The content of a result's file: its own values, and its headline in a shape that all benchmarks share."""
    headline = benchmark.headline(result)
    if headline is None:
        return result.to_json()
    is_better = False if headline.lower_is_better else benchmark.higher_is_better
    shown = {"metric": headline.metric, **headline.estimate.to_json(), "higher_is_better": is_better}
    return result.to_json() | {"headline": shown}


def save_results(benchmark: Benchmark, results: Mapping[str, Result], out: Path) -> None:
    """Writes `<out>/<benchmark>.json`, of several systems in a folder each."""
    for name, result in results.items():
        folder = out if len(results) == 1 else out / file_name(name, "system")
        write_json(folder / f"{benchmark.name}.json", result_values(benchmark, result))


def cell(estimate: Estimate, digits: int) -> str:
    """A value with its interval in a table."""
    if estimate.value is None:
        return "-"
    return f"{estimate.value:.{digits}f}" + _bounds(estimate.ci95, digits)


def percent(estimate: Estimate) -> str:
    """A share in hundredths, as the papers print it."""
    if estimate.value is None:
        return "not defined"
    return cell(hundredfold(estimate), 1)


def hundredfold(estimate: Estimate) -> Estimate:
    """A share as a percentage."""
    value, low, high = (None if x is None else 100 * x for x in (estimate.value, estimate.low, estimate.high))
    return Estimate(value=value, low=low, high=high, n=estimate.n)


def _bounds(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
