"""The list prices of usual judges with their date, for the plan that is shown before anything is paid.

Prices are US dollars a million tokens, (prompt, completion), of single calls without a cache. They were written down as
remembered of `PRICES_DATE`, without a look at the makers' pages: look there before a large bill. They change:
`--prices FILE` (JSON: {"model": [prompt, completion]}) goes before this list, and
`--usd-per-million-prompt-tokens` and `-completion-tokens` before both.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRICES_DATE = "2025-10-01"
PRICES: Mapping[str, tuple[float, float]] = {
    "gpt-3.5-turbo": (0.5, 1.5),
    "gpt-4": (30.0, 60.0),
    "gpt-4-32k": (60.0, 120.0),
    "gpt-4-turbo": (10.0, 30.0),
    "gpt-4-1106-preview": (10.0, 30.0),
    "gpt-4-0125-preview": (10.0, 30.0),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-2024-05-13": (5.0, 15.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
    "gpt-5": (1.25, 10.0),
    "gpt-5-mini": (0.25, 2.0),
    "gpt-5-nano": (0.05, 0.4),
    "o1": (15.0, 60.0),
    "o1-mini": (1.1, 4.4),
    "o3": (2.0, 8.0),
    "o3-mini": (1.1, 4.4),
    "o4-mini": (1.1, 4.4),
    "claude-3-haiku": (0.25, 1.25),
    "claude-3-5-haiku": (0.8, 4.0),
    "claude-haiku-4-5": (1.0, 5.0),
    "claude-3-5-sonnet": (3.0, 15.0),
    "claude-3-7-sonnet": (3.0, 15.0),
    "claude-sonnet-4": (3.0, 15.0),
    "claude-sonnet-4-5": (3.0, 15.0),
    "claude-3-opus": (15.0, 75.0),
    "claude-opus-4": (15.0, 75.0),
    "claude-opus-4-1": (15.0, 75.0),
    "gemini-2.0-flash": (0.1, 0.4),
    "gemini-2.5-flash": (0.3, 2.5),
    "gemini-2.5-flash-lite": (0.1, 0.4),
    "gemini-2.5-pro": (1.25, 10.0),
    "deepseek-chat": (0.28, 0.42),
    "deepseek-reasoner": (0.28, 0.42),
    "mistral-large": (2.0, 6.0),
}
_SNAPSHOT = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)")  # after a model's name


_REASONS = re.compile(
    r"(?:.*/)?(?:o\d|gpt-5(?!-chat)|deepseek-reasoner|gemini-2\.5(?!-flash-lite)|grok-4|qwq|.*\b(?:thinking|reasoning|r1)\b)",
    re.IGNORECASE,
)
THOUGHT_TOKENS = 8192  # of a reasoning model about one match, at most


def thought_tokens(model: str, reasoning_effort: str | None) -> int:
    """Room for a model's thoughts: some where it is told to reason, or is known to; a server refuses nothing by it."""
    return THOUGHT_TOKENS if reasoning_effort not in (None, "none") or _REASONS.match(model) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price in US dollars for a million tokens."""

    prompt: float
    completion: float
    source: str  # whose price it is, for a reader


def price_of(model: str, file: Path | None = None) -> Price | None:
    """The price of a model, or of one that it is a dated snapshot of; None where none is known.

    Args:
        model: as the server names it; "openai/gpt-4o" is gpt-4o.
        file: prices that go before the list.

    Raises:
        ValueError: the file is no list of prices.
    """
    tables = [(PRICES, f"list price of {PRICES_DATE}")]
    if file is not None:
        tables.insert(0, (load_prices(file), f"price of {file.name}"))
    for table, source in tables:
        for name in (model, model.rpartition("/")[2]):
            key = name if name in table else next((k for k in table if _is_snapshot(name, k)), None)
            if key is not None:
                return Price(prompt=table[key][0], completion=table[key][1], source=source)
    return None


def load_prices(path: Path) -> dict[str, tuple[float, float]]:
    """Reads a file of prices.

    Raises:
        ValueError: it is missing, or an entry is no pair of prices; names the model.
    """
    if not path.is_file():
        raise ValueError(f"prices={path}: no such file")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"prices={path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f'prices={path}: expected {{"model": [prompt, completion]}}, US dollars a million tokens')
    prices = {}
    for model, pair in found.items():
        numbers = pair if isinstance(pair, list) else []
        if len(numbers) != 2 or not all(_is_price(number) for number in numbers):
            raise ValueError(f"prices={path}: {model} is {pair!r}; expected [prompt, completion] in US dollars")
        prices[model] = (float(numbers[0]), float(numbers[1]))
    return prices


def _is_snapshot(name: str, model: str) -> bool:
    return name.startswith(model) and _SNAPSHOT.fullmatch(name, len(model)) is not None


def _is_price(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
