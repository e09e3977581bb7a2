"""Measures the perplexity of a text by token, by byte and by word, over sliding windows.

    results = score_perplexity(base, {"base": None, "tuned": run_id}, documents, PerplexitySettings(text="pile_cc"))

As `python -m eval perplexity --model NAME --text FILE`. Each document is scored apart, from BOS (EOS where the
tokenizer has no BOS): a first window of `window` tokens, then windows that each predict `stride` more with a full
context before them. stride = window is lm-eval's `loglikelihood_rolling` (get_rolling_token_windows,
context_len 1), whose definitions of word, byte and bits these are too; smaller strides are transformers' guide
"Perplexity of fixed-length models", but for the last window, which is moved back so that its context is full.
One difference from lm-eval: where a tokenizer sets BOS itself, lm-eval has it twice and counts the second; here it
stands once and isn't counted. Intervals: bootstrap over documents; a single document has none.
Paper: QLoRA Table 2, which is the mean of several models' perplexities on Pile-CC.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import texts_sha256
from eval.ratings.intervals import ratio_interval
from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.model_key import model_sha256, read_by
from eval.scoring.partial import Partial
from harness.banks.load import LoadedBase
from harness.progress import Progress
from harness.runs.estimate import Interval

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentScore:
    """The negative log-likelihood of one document, and its size."""

    nll: float  # of all its tokens, nats
    num_tokens: int
    num_bytes: int  # UTF-8
    num_words: int  # as lm-eval counts them: pieces between runs of blanks


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityResult:
    """The perplexity of one system on one text; None if too large for a float, or for one document's interval."""

    system: str
    text: str
    token_perplexity: float | None
    token_perplexity_ci95: Interval | None
    bits_per_byte: float
    bits_per_byte_ci95: Interval | None
    byte_perplexity: float | None
    word_perplexity: float | None
    num_documents: int
    num_tokens: int
    num_bytes: int
    num_words: int
    window: int
    stride: int
    settings_sha256: str  # of the documents, window and stride
    model_sha256: str  # of base, quantization and adapter
    documents: tuple[DocumentScore, ...]  # in the text's order
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def score_perplexity(
    base: LoadedBase,
    members: Mapping[str, str | None],
    documents: list[str],
    settings: PerplexitySettings,
    on_progress: Progress | None = None,
    partial_dir: Path | None = None,
) -> dict[str, PerplexityResult]:
    """Scores systems that share a base.

    Args:
        base: with the members loaded in its bank.
        members: system's name -> its member of the bank, None for the untouched base.
        documents: each scored apart.
        on_progress: (windows done, in all), over all systems.
        partial_dir: where finished windows are kept, tied to model, adapter, text and protocol. None keeps nothing.

    Raises:
        ValueError: a window longer than the model's context, or a stride longer than the window.
    """
    window, stride = _resolved(base, settings)
    tied_to = _digest(texts_sha256(documents), window, stride)
    cut = [list(document_windows(_tokens(base, text), prefix_token(base), window, stride)) for text in documents]
    windows = [one for of_document in cut for one in of_document]
    models = {name: model_sha256(base, member) for name, member in members.items()}
    partials: dict[str, Partial[int]] = {
        name: Partial.open(partial_dir, "perplexity", models[name], tied_to, read_by(base)) for name in members
    }
    waiting = [(name, at) for name in members for at in range(len(windows)) if at not in partials[name].done]
    requests = [
        Continuation(tokens=windows[at][0], num_context=windows[at][1], member=members[name]) for name, at in waiting
    ]
    total = len(members) * len(windows)
    done = total - len(waiting)
    for places, scores in score_continuations(base, requests, settings.row_tokens):
        for name in members:
            mine = {
                waiting[place][1]: float(score.logprobs.sum(dtype=np.float64))
                for place, score in zip(places, scores, strict=True)
                if waiting[place][0] == name
            }
            partials[name].add(mine)
        done += len(places)
        if on_progress is not None:
            on_progress(done, total)
    return {
        name: _result(name, documents, cut, partials[name].done, settings.text, window, stride, tied_to, models[name])
        for name in members
    }


def document_windows(tokens: Sequence[int], prefix: int, window: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """Cuts a document into windows in which each token is predicted once.

    Yields:
        A window's tokens, context first, and how many of them are context.
    """
    if not tokens:
        return
    yield [prefix, *tokens[:window]], 1
    predicted = min(window, len(tokens))
    while predicted < len(tokens):
        end = min(predicted + stride, len(tokens))
        yield list(tokens[end - window - 1 : end]), window + 1 - (end - predicted)
        predicted = end


def prefix_token(base: LoadedBase) -> int:
    """The token before a document's first token: BOS, else EOS.

    Raises:
        ValueError: the tokenizer has neither.
    """
    tokenizer = base.tokenizer
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(token, int):
        raise ValueError(f"{base.source.location}: its tokenizer has neither BOS nor EOS for a text to begin with")
    return token


def _resolved(base: LoadedBase, settings: PerplexitySettings) -> tuple[int, int]:
    window = settings.window or base.max_length
    if window > base.max_length:
        raise ValueError(f"window={window}: this model takes at most {base.max_length} tokens")
    stride = settings.stride or window
    if stride > window:
        raise ValueError(f"stride={stride}: expected at most the window, {window}; beyond it tokens would be left out")
    return window, stride


def _tokens(base: LoadedBase, text: str) -> list[int]:
    return list(base.tokenizer.encode(text, add_special_tokens=False))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _result(
    name: str,
    documents: Sequence[str],
    cut: Sequence[Sequence[tuple[list[int], int]]],
    logprobs: Mapping[int, float],
    text: str,
    window: int,
    stride: int,
    settings_sha256: str,
    model: str,
) -> PerplexityResult:
    scores, first_window = [], 0
    for document, windows in zip(documents, cut, strict=True):
        scores.append(
            DocumentScore(
                nll=-sum(logprobs[first_window + i] for i in range(len(windows))),
                num_tokens=sum(len(tokens) - num_context for tokens, num_context in windows),
                num_bytes=len(document.encode()),
                num_words=len(re.split(r"\s+", document)),
            )
        )
        first_window += len(windows)
    nll = np.array([score.nll for score in scores])
    tokens, num_bytes, words = (
        np.array([getattr(score, key) for score in scores], dtype=np.float64)
        for key in ("num_tokens", "num_bytes", "num_words")
    )
    if tokens.sum() == 0:
        raise ValueError(f"{text}: its documents hold no token")
    by_token = _interval(nll, tokens)
    by_byte = _interval(nll, num_bytes)
    return PerplexityResult(
        system=name,
        text=text,
        token_perplexity=_exp(nll.sum() / tokens.sum()),
        token_perplexity_ci95=_exp_interval(by_token),
        bits_per_byte=float(nll.sum() / num_bytes.sum() / math.log(2)),
        bits_per_byte_ci95=None if by_byte is None else (by_byte[0] / math.log(2), by_byte[1] / math.log(2)),
        byte_perplexity=_exp(nll.sum() / num_bytes.sum()),
        word_perplexity=_exp(nll.sum() / words.sum()),
        num_documents=len(scores),
        num_tokens=int(tokens.sum()),
        num_bytes=int(num_bytes.sum()),
        num_words=int(words.sum()),
        window=window,
        stride=stride,
        settings_sha256=settings_sha256,
        model_sha256=model,
        documents=tuple(scores),
    )


def _interval(nll: NDArray[np.float64], counts: NDArray[np.float64]) -> Interval | None:
    return ratio_interval(nll, counts)


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None


def _exp_interval(interval: Interval | None) -> Interval | None:
    return None if interval is None or interval[1] >= 700 else (math.exp(interval[0]), math.exp(interval[1]))
