"""Perplexity of a text as a benchmark. Paper: QLoRA, table 2."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from eval.benchmarks.benchmark import BYTES_A_TOKEN, Benchmark, Contestant, Headline, Place, QuestionScores, cell
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import load_documents, source_problem, text_files
from harness.config.schema import DatasetConfig, PathsConfig
from harness.runs.estimate import Estimate

if TYPE_CHECKING:
    from eval.benchmarks.perplexity.score import PerplexityResult
    from harness.banks.load import LoadedBase


class PerplexityBenchmark(Benchmark):
    """Measures causal models' perplexity on a text."""

    name = command = "perplexity"
    title = "Perplexity"
    about = "Perplexity of a text by token, byte and word, in sliding windows, with intervals over documents."
    parts = "windows"
    settings_type = PerplexitySettings
    scores_sharded_base = True
    headline_key = "token_perplexity"
    higher_is_better = False

    def problems(self, settings: PerplexitySettings, paths: PathsConfig, key: str) -> list[str]:
        problem = source_problem(settings.text, paths.data_store)
        return [] if problem is None else [f"{key}text: {problem}"]

    def files(self, settings: PerplexitySettings) -> Mapping[str, Sequence[Path]]:
        return {"text": text_files(settings.text, None)}

    def num_tokens(
        self, settings: PerplexitySettings, paths: PathsConfig, dataset: DatasetConfig | None, num_rows: int | None
    ) -> int | None:
        """As `Benchmark.num_tokens`; where windows overlap, a token goes through once for each."""
        files = text_files(settings.text, paths.data_store)
        overlap = settings.window / settings.stride if settings.window and settings.stride else 1.0
        size = sum(file.stat().st_size for file in files if file.is_file())
        return int(size * max(1.0, overlap)) // BYTES_A_TOKEN if size else None

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: PerplexitySettings, place: Place
    ) -> "dict[str, PerplexityResult]":
        from eval.benchmarks.perplexity.score import score_perplexity

        documents = load_documents(settings.source, place.paths)
        members = {contestant.name: contestant.member for contestant in contestants}
        return score_perplexity(base, members, documents, settings, place.on_progress, place.partial)

    def headline(self, result: "PerplexityResult") -> Headline:
        estimate = Estimate.of(result.token_perplexity, result.token_perplexity_ci95, result.num_documents)
        return Headline(metric="token_perplexity", estimate=estimate)

    def by_question(self, values: Mapping[str, Any]) -> Iterator[QuestionScores]:
        """A document is a question, and its tokens are its weight."""
        rows = values["documents"]
        yield QuestionScores(
            metric="nll_per_token",
            unit="nats a token",
            higher_is_better=False,
            names=[f"document {number}" for number in range(len(rows))],
            values=[row["nll"] / row["num_tokens"] for row in rows],
            weights=[float(row["num_tokens"]) for row in rows],
        )

    def table(self, results: "Mapping[str, PerplexityResult]") -> Table:
        first = next(iter(results.values()))
        table = Table(
            title=f"Perplexity of {first.text}: {first.num_documents} documents, {first.num_tokens} tokens",
            title_justify="left",
            caption=f"window {first.window}, stride {first.stride}; 95 % intervals over documents",
        )
        for column in ("system", "by token", "bits per byte", "by word"):
            table.add_column(column, justify="left" if column == "system" else "right")
        for name, result in results.items():
            table.add_row(
                name,
                cell(Estimate.of(result.token_perplexity, result.token_perplexity_ci95), 3),
                cell(Estimate.of(result.bits_per_byte, result.bits_per_byte_ci95), 4),
                cell(Estimate(value=result.word_perplexity), 2),
            )
        return table
