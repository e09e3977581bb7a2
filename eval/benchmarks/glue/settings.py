"""The settings of GLUE: which labelled rows a classifier is scored on."""

from dataclasses import dataclass

from eval.benchmarks.settings import require_at_least, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueSettings:
    """The rows to score, and how many of them."""

    data: str | None = setting(None, "A local file of labelled rows; default: the dataset's evaluation split.")
    limit: int | None = setting(None, "Score only the first N rows.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "limit")
