"""Writes the prompt of an MMLU question by each protocol, byte for byte.

- lm_eval: lm-evaluation-harness 0.4.13, task `mmlu`. Too long: cut on the left, as lm-eval's HF model does.
- qlora_callback: artidoro/qlora's data/mmlu and MMLUEvalCallback: two spaces before the subject, BOS set apart.
  Too long: cut on the right at 2,048 tokens, as it was (this cuts off "Answer:").
- hendrycks: hendrycks/test evaluate.py: two spaces. Too long: shots dropped until it fits 2,048 tokens; the
  original counts GPT-2's tokens, we the model's.

Differences from the originals: the answer's token is found by tokenizing in context (the callback takes the letter
tokenized alone: the same in LLaMA's vocabulary), and text is taken as written (hendrycks/test reads its CSVs
through pandas, which rewrites choices that look like numbers). tests/golden holds a prompt of each protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

from eval.answers.dialogue import chat_text as through_template
from eval.answers.dialogue import prompt_tokens
from eval.benchmarks.mmlu.questions import LETTERS, Question
from eval.benchmarks.mmlu.settings import Protocol

ORIGINAL_MAX_TOKENS = 2048  # qlora.py's mmlu_source_max_len, and the window of hendrycks/test's crop.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A prompt as tokens, and what was cut to make it fit."""

    tokens: list[int]
    num_shots: int  # examples that are in it
    num_truncated: int = 0  # tokens cut off


def prompt_text(protocol: Protocol, shots: Sequence[Question], question: Question) -> str:
    """The whole prompt, up to and with "Answer:"; an answer follows as a space and its letter."""
    return (
        _description(protocol, question.subject)
        + "".join(f"{_ask(protocol, shot)} {LETTERS[shot.answer]}\n\n" for shot in shots)
        + _ask(protocol, question)
    )


def chat_text(
    tokenizer: PreTrainedTokenizerBase, protocol: Protocol, shots: Sequence[Question], question: Question
) -> str:
    """As lm-eval with --apply_chat_template: the description is the system's, shots and question one user turn."""
    description = _description(protocol, question.subject)
    user = prompt_text(protocol, shots, question).removeprefix(description)
    turns = [{"role": "system", "content": description}, {"role": "user", "content": user}]
    return through_template(tokenizer, turns)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    protocol: Protocol,
    shots: Sequence[Question],
    question: Question,
    max_length: int,
    chat: bool = False,
) -> Encoded:
    """Tokenizes a prompt and makes it fit as its protocol does.

    Raises:
        ValueError: even without shots it is longer than the context (hendrycks).
    """
    if protocol is Protocol.hendrycks:
        limit = min(ORIGINAL_MAX_TOKENS, max_length)
        for num_shots in range(len(shots), -1, -1):
            tokens = _tokens(tokenizer, protocol, shots[:num_shots], question, chat)
            if len(tokens) <= limit:
                return Encoded(tokens=tokens, num_shots=num_shots)
        raise ValueError(
            f"subject {question.subject}: {question.question[:60]!r}... has {len(tokens)} tokens without any example; "
            f"{limit} fit. Take protocol lm_eval, which cuts on the left, or leave the question out"
        )
    tokens = _tokens(tokenizer, protocol, shots, question, chat)
    if protocol is Protocol.qlora_callback:
        kept = tokens[: min(ORIGINAL_MAX_TOKENS, max_length)]
    else:
        kept = tokens[-max_length:]
    return Encoded(tokens=kept, num_shots=len(shots), num_truncated=len(tokens) - len(kept))


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase,
    protocol: Protocol,
    shots: Sequence[Question],
    question: Question,
    chat: bool = False,
) -> list[int]:
    """The token of each letter where it follows this prompt, [4].

    Raises:
        ValueError: a letter is not one token of its own there.
    """
    text = _text(tokenizer, protocol, shots, question, chat)
    before = _encode(tokenizer, protocol, text, chat)
    tokens = []
    for letter in LETTERS:
        whole = _encode(tokenizer, protocol, text + ("" if chat else " ") + letter, chat)
        if whole[:-1] != before:
            raise ValueError(
                f"subject {question.subject}: this tokenizer doesn't make one token of its own of the answer {letter}: "
                f"the prompt ends in {before[-3:]}, with the answer in {whole[-4:]}; letter scoring can't serve it"
            )
        tokens.append(whole[-1])
    return tokens


def _tokens(
    tokenizer: PreTrainedTokenizerBase, protocol: Protocol, shots: Sequence[Question], question: Question, chat: bool
) -> list[int]:
    return _encode(tokenizer, protocol, _text(tokenizer, protocol, shots, question, chat), chat)


def _text(
    tokenizer: PreTrainedTokenizerBase, protocol: Protocol, shots: Sequence[Question], question: Question, chat: bool
) -> str:
    return chat_text(tokenizer, protocol, shots, question) if chat else prompt_text(protocol, shots, question)


def _encode(tokenizer: PreTrainedTokenizerBase, protocol: Protocol, text: str, chat: bool) -> list[int]:
    """Special tokens: the callback sets BOS itself, a chat template holds them, lm-eval leaves it to the tokenizer."""
    if protocol is Protocol.qlora_callback and not chat:
        bos = [] if tokenizer.bos_token_id is None else [cast(int, tokenizer.bos_token_id)]
        return bos + list(tokenizer.encode(text, add_special_tokens=False))
    has_bos = bool(tokenizer.bos_token) and text.startswith(cast(str, tokenizer.bos_token))
    return prompt_tokens(tokenizer, text, add_special_tokens=not has_bos)


def _description(protocol: Protocol, subject: str) -> str:
    gap = " " if protocol is Protocol.lm_eval else "  "
    return f"The following are multiple choice questions (with answers) about{gap}{subject.replace('_', ' ')}.\n\n"


def _ask(protocol: Protocol, question: Question) -> str:
    """The question, its choices and the cue. lm-eval strips the question only."""
    text = question.question.strip() if protocol is Protocol.lm_eval else question.question
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True))
    return f"{text}\n{choices}\nAnswer:"
