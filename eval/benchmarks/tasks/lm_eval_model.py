"""Implements lm-eval's `LM` interface over a bank: likelihoods only, with shared beginnings computed once.

Tokenization of a pair, truncation and the empty context are those of lm-eval's `TemplateLM` and HF model, so that
choices and log-likelihoods are those of its HF model (tests/parity/test_tasks_parity.py). What is scored is kept by
request, tied to model and adapter: lm-eval's own `--use_cache` leaves the model out of its key and isn't used.
Needs the `tasks` extra.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM

from eval.answers.dialogue import prompt_tokens
from eval.benchmarks.perplexity.score import document_windows, prefix_token
from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.partial import Partial
from harness.banks.load import LoadedBase
from harness.progress import Progress

_Tokens = list[int]


class BankModel(TemplateLM):  # type: ignore[misc]  # lm-eval is not looked into
    """One member of a bank, or the untouched base, in the form of an lm-eval model.

    Args:
        base: with the member in its bank.
        member: whose adapter answers; None: the untouched base.
        partial: finished requests of this model, by a digest of their tokens.
        on_progress: (requests done, in all).
        row_tokens: of one pass; None: by device and free memory.
    """

    backend = "causal"

    def __init__(
        self,
        base: LoadedBase,
        member: str | None,
        partial: Partial[str],
        on_progress: Progress | None = None,
        row_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.base, self.member, self.partial, self.on_progress = base, member, partial, on_progress
        self.row_tokens = row_tokens
        self.tokenizer = base.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token at the end of a text; lm-eval wants this name."""
        return int(self.base.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        return prefix_token(self.base)

    @property
    def max_length(self) -> int:
        return self.base.max_length

    @property
    def tokenizer_name(self) -> str:
        return self.base.source.location

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """-> token ids; None leaves BOS to the tokenizer, unless the text begins with it."""
        if add_special_tokens is None:
            bos = self.base.tokenizer.decode([self.prefix_token_id])
            options = {"add_special_tokens": False} if string.startswith(str(bos)) else {}
        else:
            options = {"add_special_tokens": add_special_tokens}
        return prompt_tokens(self.base.tokenizer, string, **options)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """-> log-likelihood, and whether greedy decoding would say the same, of each continuation.

        Args:
            requests: lm-eval's `Instance`s; those of one question share what they begin with.
        """
        pairs = [self._pair(*request.args) for request in requests]
        return self._scores(pairs, [f"{request.task_name}/{request.doc_id}" for request in requests])

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, _Tokens, _Tokens]], **_: Any) -> list[Any]:
        """As `loglikelihood`, for pairs that are tokens already."""
        return self._scores([(context, continuation) for _text, context, continuation in requests])

    def _pair(self, context: str, continuation: str) -> tuple[_Tokens, _Tokens]:
        """Tokenizes a pair as lm-eval does; the prefix token stands for an empty context."""
        if context:
            found: tuple[_Tokens, _Tokens] = self._encode_pair(context, continuation)
            return found
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        if tokens[:1] == [self.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _scores(
        self, pairs: Sequence[tuple[_Tokens, _Tokens]], groups: Sequence[str] | None = None
    ) -> list[tuple[float, bool]]:
        keys, unique = [], dict[str, Continuation]()
        for place, (context, continuation) in enumerate(pairs):
            tokens = (context + continuation)[-(self.max_length + 1) :]  # too long: cut on the left
            key = hashlib.sha256(json.dumps([tokens, len(continuation)]).encode()).hexdigest()[:24]
            keys.append(key)
            unique[key] = Continuation(
                tokens=tokens,
                num_context=len(tokens) - len(continuation),
                member=self.member,
                group=groups[place] if groups else None,
            )
        self._score({key: request for key, request in unique.items() if key not in self.partial.done}, len(unique))
        return [(float(value), bool(greedy)) for value, greedy in (self.partial.done[key] for key in keys)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """-> log-likelihood of each whole text, in windows that don't overlap."""
        windows, ends = [], []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            cut = document_windows(tokens, self.prefix_token_id, self.max_length, self.max_length)
            windows += [(piece[:num_context], piece[num_context:]) for piece, num_context in cut]
            ends.append(len(windows))
        scores = [value for value, _ in self._scores(windows)]
        return [sum(scores[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Raises ValueError: tasks that generate are refused before anything is scored."""
        raise ValueError("tasks that generate text aren't served; `python -m eval generate` answers prompts")

    def _score(self, waiting: dict[str, Continuation], total: int) -> None:
        names = list(waiting)
        done = total - len(names)
        for places, scores in score_continuations(self.base, list(waiting.values()), self.row_tokens):
            finished = {
                names[place]: [float(score.logprobs.sum(dtype=np.float64)), score.is_greedy]
                for place, score in zip(places, scores, strict=True)
            }
            self.partial.add(finished)
            done += len(finished)
            if self.on_progress is not None:
                self.on_progress(done, total)
