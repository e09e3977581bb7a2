"""One sequence of a packed row: how long it is and whose adapter serves it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One sequence of a packed row."""

    num_tokens: int
    member: str | None  # whose adapter serves it; None: the untouched base
    dropout_key: int = 0  # identifies (step, example) to the member's dropout stream
