"""Implements lm-eval's `LM` interface over a bank: likelihoods with shared beginnings computed once, and answers.

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
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM

from eval.answers.dialogue import prompt_tokens
from eval.benchmarks.perplexity.score import document_windows, prefix_token
from eval.benchmarks.tasks.generation import Generation, answer_together, generation_of
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
        seed: of answers that are sampled.
        max_new_tokens: of an answer, in place of what its task says; None: as the task says.
    """

    backend = "causal"

    def __init__(
        self,
        base: LoadedBase,
        member: str | None,
        partial: Partial[str],
        on_progress: Progress | None = None,
        row_tokens: int | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.base, self.member, self.partial, self.on_progress = base, member, partial, on_progress
        self.row_tokens, self.seed, self.max_new_tokens = row_tokens, seed, max_new_tokens
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

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A dialogue by the tokenizer's template, as lm-eval's HF model writes it."""
        written: list[dict[str, str]] = chat_history

        def rendered() -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    written,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        try:
            return rendered()
        except TemplateError:  # a template without a system role
            written = [message for message in chat_history if message["role"] != "system"]
            return rendered()

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
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

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """-> log-likelihood of each whole text, in windows that don't overlap."""
        windows, ends = [], []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            cut = document_windows(tokens, self.prefix_token_id, self.max_length, self.max_length)
            windows += [(piece[:num_context], piece[num_context:]) for piece, num_context in cut]
            ends.append(len(windows))
        scores = [value for value, _ in self._scores(windows)]
        return [sum(scores[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """-> the answer to each request; of one that is given several times, an answer each."""
        wanted = self.generations(requests)
        generate_missing([self], wanted, self.on_progress)
        return [str(self.partial.done[one.key]) for one in wanted]

    def generations(self, requests: Sequence[Any]) -> list[Generation]:
        """Reads requests, of which the same one may stand there several times.

        Raises:
            ValueError: a generation setting that isn't served.
        """
        times: dict[int, int] = {}
        found: list[Generation] = []
        for request in requests:
            repeat = times[id(request)] = times.get(id(request), -1) + 1
            found.append(generation_of(self.base, self._prompt, request, repeat, self.seed, self.max_new_tokens))
        return found

    def _prompt(self, text: str) -> list[int]:
        return self.tok_encode(text) or [self.prefix_token_id]

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


def generate_missing(
    models: Sequence[BankModel], wanted: Sequence[Generation], on_progress: Progress | None = None
) -> None:
    """Answers what each of several models over one base hasn't answered yet, all in the same batches.

    Args:
        models: each keeps its answers in its `partial`.
        wanted: asked of each of them.
        on_progress: (answers done, in all).
    """
    unique = {one.key: one for one in wanted}
    waiting = [(m, one) for m in models for key, one in unique.items() if key not in m.partial.done]
    total = len(models) * len(unique)
    done = total - len(waiting)

    def keep(place: int, text: str) -> None:
        model, one = waiting[place]
        model.partial.add({one.key: text})

    def advance(answered: int, _: int) -> None:
        if on_progress is not None:
            on_progress(done + answered, total)

    if waiting:
        answer_together(models[0].base, [(model.member, one) for model, one in waiting], keep, advance)
