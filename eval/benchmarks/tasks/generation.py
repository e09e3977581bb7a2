"""Answers the requests of lm-eval's generating tasks, for several adapters of one base in the same batches.

An answer is what lm-eval's HF model gives for the same request asked alone (`HFLM.generate_until` of lm-eval 0.4.13):
the prompt is cut on the left to leave room for `max_gen_toks`, a stop text may end within a token and is looked for in
the newest tokens with special ones written out, and the text is cut at it. tests/parity/test_generative_parity.py holds
answers and scores against that model's. Tasks that sample draw by a seed of each request. Needs the `tasks` extra.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import PreTrainedTokenizerBase

from eval.answers.decoding import decode
from eval.answers.generate import eos_tokens, prompt_seed
from eval.answers.sequences import DecodingRequest, DecodingSettings
from harness.banks.load import LoadedBase
from harness.progress import Progress

DEFAULT_NEW_TOKENS = 256  # as lm-eval's HF model, where a task doesn't say
DEFAULT_TOP_K = 50  # transformers' own where it samples
LOOK_BACK = 2  # tokens before a stop text's own that lm-eval decodes with it
_SERVED = frozenset({"do_sample", "temperature", "top_p", "top_k", "repetition_penalty"})
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {  # values that change nothing
    "num_beams": (1, None),
    "num_return_sequences": (1, None),
    "use_cache": (True, False, None),
}
_OF_MODEL = (  # of a model's generation_config.json: what lm-eval's HF model would follow, and ours doesn't
    *("min_length", "min_new_tokens", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "sequence_bias"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "encoder_repetition_penalty"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One request: the prompt's tokens, what ends the answer, and how tokens are chosen."""

    tokens: tuple[int, ...]
    until: tuple[str, ...]  # the end-of-sequence token's text among them
    settings: DecodingSettings
    seed: int  # of a sampled answer; 0 where the likeliest token is taken

    @property
    def key(self) -> str:
        """A digest of everything that decides the answer but the model."""
        parts = [self.tokens, self.until, asdict(self.settings), self.seed]
        return "answer-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def generation_of(
    base: LoadedBase, encode: Callable[[str], list[int]], request: Any, repeat: int, seed: int, max_new: int | None
) -> Generation:
    """Reads a request of lm-eval.

    Args:
        base: whose context and generation settings count.
        encode: makes tokens of a prompt.
        request: lm-eval's `Instance`, with the prompt and the task's `generation_kwargs`.
        repeat: which of several answers to the same request this is, from 0.
        seed: of all sampled answers.
        max_new: tokens of an answer at most, in place of what the task says.

    Raises:
        ValueError: a generation setting that isn't served; names task and key.
    """
    text, given = request.args[:2]
    where = f"task {request.task_name}: generation_kwargs"
    wanted: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), DEFAULT_NEW_TOKENS))
    eos = base.tokenizer.decode([base.tokenizer.eos_token_id])
    until = tuple(handle_stop_sequences(list(wanted.pop("until")), eos=eos))
    of_task = int(wanted.pop("max_gen_toks"))
    num_new = of_task if max_new is None else max_new
    room = base.max_length - num_new
    if num_new < 1 or room < 1:
        raise ValueError(
            f"{where}.max_gen_toks={num_new}: this model's context of {base.max_length} must hold a prompt and "
            "the answer; say max_gen_toks (--max-gen-toks)"
        )
    settings = _decoding_settings(base, wanted, num_new, where)
    tokens = tuple(encode(text)[-room:])
    if settings.greedy:
        return Generation(tokens=tokens, until=until, settings=settings, seed=0)
    digest = hashlib.sha256(json.dumps(tokens).encode()).hexdigest()
    return Generation(tokens=tokens, until=until, settings=settings, seed=prompt_seed(seed, digest, repeat))


def answer_together(
    base: LoadedBase,
    wanted: Sequence[tuple[str | None, Generation]],
    on_answer: Callable[[int, str], None],
    on_progress: Progress | None = None,
) -> None:
    """Answers requests of several members; those that are decoded alike are in the same batches.

    Args:
        base: with the members in its bank.
        wanted: member and request of each answer.
        on_answer: gets the place in `wanted` and the text of each answer as it is finished.
        on_progress: (answers done, in all).
    """
    alike: dict[tuple[tuple[str, ...], DecodingSettings], list[int]] = {}
    for place, (_, one) in enumerate(wanted):
        alike.setdefault((one.until, one.settings), []).append(place)
    done = 0
    for (until, settings), places in alike.items():
        for index, text in _texts(base, [wanted[place] for place in places], until, settings):
            on_answer(places[index], text)
            done += 1
            if on_progress is not None:
                on_progress(done, len(wanted))


def left_out_settings(base: LoadedBase) -> list[str]:
    """What the model's own generation settings ask for beyond what is served here, as `key=value`."""
    own = base.bank.base.generation_config
    values = {name: getattr(own, name, None) for name in _OF_MODEL}
    return [f"{name}={value}" for name, value in values.items() if value not in (None, 0, 1.0, [])]


def _texts(
    base: LoadedBase,
    pairs: Sequence[tuple[str | None, Generation]],
    until: tuple[str, ...],
    settings: DecodingSettings,
) -> Iterator[tuple[int, str]]:
    requests = [DecodingRequest(tokens=one.tokens, member=member, seed=one.seed) for member, one in pairs]
    for decoded in decode(base, requests, settings, eos_tokens(base), stop_check(base.tokenizer, until)):
        text = str(base.tokenizer.decode(list(decoded.tokens), skip_special_tokens=True))
        yield decoded.index, postprocess_generated_text(generation=text, stop=list(until), think_end_token=None)


def stop_check(tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether the newest tokens hold a stop text, each looked for in its own number of tokens and two more."""
    by_length: dict[int, list[str]] = {}
    for text in until:
        if text:
            by_length.setdefault(len(tokenizer.encode(text, add_special_tokens=False)) + LOOK_BACK, []).append(text)

    def has_stop(tokens: Sequence[int]) -> bool:
        for length, texts in by_length.items():
            newest = str(tokenizer.decode(list(tokens[-length:])))
            if any(text in newest for text in texts):
                return True
        return False

    return has_stop


def _decoding_settings(base: LoadedBase, wanted: Mapping[str, Any], num_new: int, where: str) -> DecodingSettings:
    """How tokens are chosen: as the task says, else as the model's own generation settings, else transformers'."""
    for key, value in wanted.items():
        if key not in _SERVED and value not in _WITHOUT_EFFECT.get(key, ()):
            raise ValueError(
                f"{where}.{key}={value}: not served here; served are max_gen_toks, until and "
                f"{', '.join(sorted(_SERVED))}: take the key out of a copy of the task (--task-folder)"
            )
    own = base.bank.base.generation_config

    def value_of(key: str, default: float) -> float:
        said = wanted.get(key)
        if said is None:
            said = getattr(own, key, None)
        return float(default if said is None else said)

    settings = DecodingSettings(
        max_new_tokens=num_new,
        greedy=not wanted["do_sample"],
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=value_of("repetition_penalty", 1.0),
    )
    if settings.repetition_penalty <= 0:
        raise ValueError(f"{where}.repetition_penalty={settings.repetition_penalty}: expected above 0")
    if settings.greedy:
        return settings
    temperature = float(wanted.get("temperature") or 0.0)
    top_p, top_k = value_of("top_p", 1.0), int(value_of("top_k", DEFAULT_TOP_K))
    if temperature <= 0 or not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(
            f"{where}: do_sample=true with temperature={temperature}, top_p={top_p}, top_k={top_k}; expected a "
            "temperature above 0, top_p above 0 and at most 1, top_k of 0 (all tokens) or more"
        )
    return replace(settings, temperature=temperature, top_p=top_p, top_k=top_k or None)
