"""The settings of perplexity: on which text it is measured, and how."""

from dataclasses import dataclass

from eval.benchmarks.perplexity.texts import TextSource
from eval.benchmarks.settings import require_at_least, row_tokens, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexitySettings:
    """The text, the windows it is cut into, and which rows of it count."""

    text: str = setting(
        "pile_cc", "pile_cc, wikitext2, hub:ID[:SUBSET]:SPLIT, .jsonl, .txt, or a folder.", is_required=True
    )
    window: int | None = setting(None, "Tokens of context at most; default: the model's longest.")
    stride: int | None = setting(None, "Tokens that each further window predicts; default: the window.")
    limit: int | None = setting(None, "Score only the first N documents.")
    field: str = setting("text", "Which column of a row is the text.", since=True)
    only: str = setting("", "key=value: only such rows; dots reach into objects.", since=True)
    joined: bool = setting(False, "All rows are one text, a blank line between them.", since=True)
    row_tokens: int | None = row_tokens()

    def __post_init__(self) -> None:
        require_at_least(self, 1, "window", "stride", "limit", "row_tokens")
        self.source  # noqa: B018  # refuses an `only` that is no key=value

    @property
    def source(self) -> TextSource:
        """The source of the documents. Raises ValueError for an `only` that isn't key=value."""
        return TextSource(where=self.text, field=self.field, only=self.only, joined=self.joined, limit=self.limit)
