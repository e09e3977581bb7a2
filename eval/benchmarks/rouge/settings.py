"""The settings of RougeL on held-out rows: how many, and how long answers get."""

from dataclasses import dataclass

from eval.benchmarks.settings import require_at_least, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class RougeSettings:
    """How much is answered, and how long answers get."""

    limit: int | None = setting(None, "Answer only the first N held-out rows.")
    max_new_tokens: int = setting(256, "Tokens of an answer at most.")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "limit", "max_new_tokens")
