"""The settings of Super-NaturalInstructions: which instances are answered, and how long answers get."""

from dataclasses import dataclass

from eval.benchmarks.settings import require_at_least, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperNiSettings:
    """The rows to answer, how many of each task, and the longest answer."""

    data: str | None = setting(None, "A local file of tasks' rows; default: the dataset's evaluation split.")
    limit_per_task: int | None = setting(
        100, "Ask only the first N instances of each task; 0 (in a config: null) asks all."
    )
    max_new_tokens: int = setting(128, "An answer's longest length, in tokens.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "limit_per_task", "max_new_tokens")
