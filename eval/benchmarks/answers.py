"""Answers to open prompts as an evaluation: they are written after training, and judges compare them later.

`python -m eval generate` writes them by hand; it has options of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.answers.prompt_format import PromptFormat
from eval.benchmarks.benchmark import BYTES_A_TOKEN, Benchmark, Contestant, Place
from eval.benchmarks.settings import require_at_least, setting
from harness.config.schema import DatasetConfig, PathsConfig

if TYPE_CHECKING:
    from harness.banks.load import LoadedBase


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersSettings:
    """The settings of answers as an evaluation."""

    questions: str = setting("embedded", "Open prompts: embedded, or a jsonl file with question_id and text.")
    bench: str = setting("open", "What the answers' file in each run folder is called.")
    limit: int | None = setting(None, "Answer only the first N prompts.")
    max_new_tokens: int = setting(512, "An answer's longest length, in tokens.")
    prompt_format: PromptFormat = setting(
        PromptFormat.auto, "auto (chat where the tokenizer has a template), chat or human.", since=True
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "limit", "max_new_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersResult:
    """How many answers a system gave, and the file that has them."""

    num_answers: int
    path: str  # in the run's folder

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class AnswersBenchmark(Benchmark):
    """Lets runs answer open prompts."""

    name = "answers"
    title = "Answers"
    about = "Answers of runs to open prompts."
    parts = "answers"
    settings_type = AnswersSettings
    headline_key = "num_answers"
    higher_is_better = None
    command = "generate"

    def wants_template(self, settings: AnswersSettings) -> bool:
        return settings.prompt_format is PromptFormat.chat

    def reads_own_template(self) -> bool:
        return True

    def problems(self, settings: AnswersSettings, paths: PathsConfig, key: str) -> list[str]:
        from eval.answers.questions import load_open_questions  # reads the tokenizers' library: others needn't wait

        try:
            load_open_questions(settings.questions, settings.limit)
        except ValueError as error:
            return [f"{key}questions: {error}"]
        return []

    def files(self, settings: AnswersSettings) -> Mapping[str, Sequence[Path]]:
        path = Path(settings.questions)
        return {"questions": [path] * path.is_file()}

    def num_tokens(
        self, settings: AnswersSettings, paths: PathsConfig, dataset: DatasetConfig | None, num_rows: int | None
    ) -> int | None:
        """As `Benchmark.num_tokens`, with answers as long as they may be."""
        from eval.answers.questions import load_open_questions

        try:
            questions = load_open_questions(settings.questions, settings.limit)
        except ValueError:
            return None  # `problems` says so
        asked = sum(len(turn.encode()) for question in questions for turn in question.turns) // BYTES_A_TOKEN
        return asked + settings.max_new_tokens * sum(len(question.turns) for question in questions)

    def score(
        self, base: "LoadedBase", contestants: Sequence[Contestant], settings: AnswersSettings, place: Place
    ) -> dict[str, AnswersResult]:
        from eval.answers.generate import generate_answers
        from eval.answers.questions import load_open_questions
        from eval.answers.settings import GenerateSettings

        systems = {one.name: one.system for one in contestants if one.system is not None}
        questions = load_open_questions(settings.questions, settings.limit)
        how = GenerateSettings(max_new_tokens=settings.max_new_tokens, prompt_format=settings.prompt_format)
        written = generate_answers(base, list(systems.values()), questions, settings.bench, how, place.on_progress)
        path = f"answers/{settings.bench}.jsonl"
        return {
            name: AnswersResult(num_answers=len(written[system.name]), path=path) for name, system in systems.items()
        }

    def headline(self, result: AnswersResult) -> None:
        return None

    def summary(self, result: AnswersResult) -> dict[str, Any]:
        return {"num_answers": result.num_answers}
