"""What a model reads when it is asked an open question, and what ends its answer.

A tokenizer with a chat template gets its turns through it; any other model the paper's prompt, a system sentence, then
"### Human: ... ### Assistant:" on one line. An answer of the chat format ends where the template ends an assistant's
turn; one of the paper's format where the next turn or a new conversation begins, as the authors cut theirs.

Source: artidoro/qlora answer_prompts.py, `get_prompt_for_generation_eval` and `generation_truncated`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from jinja2 import TemplateError, TemplateRuntimeError
from transformers import PreTrainedTokenizerBase

from eval.answers.prompt_format import PromptFormat
from eval.answers.questions import NEW_CONVERSATION, ROLES

SYSTEM_SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN_STOPS = ("### Human:", "### Assistant:", NEW_CONVERSATION)  # the marks at which the released answers are cut
_ANSWER, _NEXT = "Certainly", "Goodbye"  # stand for an answer and the turn that follows it

Messages = Sequence[Mapping[str, str]]  # role and content of each turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """What ends an answer beside the model's own end-of-sequence tokens."""

    tokens: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()


def encode_dialogue(
    tokenizer: PreTrainedTokenizerBase, dialogue: Sequence[tuple[str, str]], prompt_format: PromptFormat
) -> list[int]:
    """Tokens of a dialogue whose last turn is the user's, ready for the assistant's.

    Raises:
        ValueError: format chat, and the tokenizer has no template, or one that refuses the dialogue.
    """
    if not _is_chat(tokenizer, prompt_format):
        return prompt_tokens(tokenizer, human_text(dialogue))
    text = chat_text(tokenizer, [{"role": role, "content": text} for role, text in dialogue])
    return list(tokenizer.encode(text, add_special_tokens=False))


def fitting_prompt(
    tokenizer: PreTrainedTokenizerBase,
    dialogue: Sequence[tuple[str, str]],
    prompt_format: PromptFormat,
    max_tokens: int,
) -> tuple[list[int], int]:
    """`encode_dialogue` without the oldest turns that make it longer than `max_tokens`. -> tokens, turns left out.

    The last user turn always stays, whatever its length.
    """
    users = [place for place, (role, _) in enumerate(dialogue) if role == "user"]
    for start in users[:-1]:
        tokens = encode_dialogue(tokenizer, dialogue[start:], prompt_format)
        if len(tokens) <= max_tokens:
            return tokens, start
    return encode_dialogue(tokenizer, dialogue[users[-1] :], prompt_format), users[-1]


def human_text(dialogue: Sequence[tuple[str, str]]) -> str:
    """The paper's prompt, on one line except for newlines within the texts."""
    names = {role: name for name, role in ROLES.items()}
    turns = "".join(f" ### {names[role]}: {text}" for role, text in dialogue)
    return f"{SYSTEM_SENTENCE}{turns} ### Assistant:"


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """A dialogue through the tokenizer's chat template, ready for the assistant's turn.

    A template without a system role gets the system's text as the beginning of the first user turn.

    Raises:
        ValueError: the template refuses the dialogue, or leaves the last turn's text out.
    """
    first, *rest = messages
    name = tokenizer.name_or_path
    try:
        text = _rendered(tokenizer, messages)
    except TemplateError as error:
        if first["role"] != "system":
            raise ValueError(
                f"the chat template of {name} refuses the dialogue ({error}); take prompt format human"
            ) from None
        text = ""
    if first["role"] == "system" and first["content"].strip() not in text:
        asked = {"role": rest[0]["role"], "content": f"{first['content'].strip()}\n\n{rest[0]['content']}"}
        return chat_text(tokenizer, [asked, *rest[1:]])
    if messages[-1]["content"].strip() not in text:
        raise ValueError(f"the chat template of {name} leaves out what the user says; take prompt format human")
    return text


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, text: str, add_special_tokens: bool = True) -> list[int]:
    """Tokens of a text that is to be gone on with: an end-of-sequence token that the tokenizer appends is left out."""
    tokens = list(tokenizer.encode(text, add_special_tokens=add_special_tokens))
    if not tokens or tokens[-1] not in tokenizer.all_special_ids:
        return tokens
    own = list(tokenizer.encode(text, add_special_tokens=False))
    places = range(len(tokens) - len(own), -1, -1)
    start = next((place for place in places if tokens[place : place + len(own)] == own), 0)
    return tokens[: start + len(own)]


def turn_end(tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> TurnEnd:
    """What the format ends an answer with: a token of its own where the tokenizer has one, else a text."""
    if not _is_chat(tokenizer, prompt_format):
        return TurnEnd(texts=HUMAN_STOPS)
    roles = (("user", "Hello"), ("assistant", _ANSWER), ("user", _NEXT))
    try:
        text = _rendered(tokenizer, [{"role": role, "content": content} for role, content in roles])
    except TemplateError:  # a template of one turn says nothing of what follows it
        return TurnEnd()
    after = text.partition(_ANSWER)[2].partition(_NEXT)[0].rstrip()
    mark = after.lstrip()
    if not mark:
        return TurnEnd()
    token = tokenizer.encode(mark, add_special_tokens=False)[0]
    if token in tokenizer.added_tokens_decoder:
        return TurnEnd(tokens=frozenset([token]))
    return TurnEnd(texts=(after[: len(after) - len(mark)] + mark.splitlines()[0].rstrip(),))


def _is_chat(tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> bool:
    has_template = tokenizer.chat_template is not None
    if prompt_format is PromptFormat.chat and not has_template:
        raise ValueError("prompt format chat: this tokenizer has no chat template; take auto or human")
    return has_template and prompt_format is not PromptFormat.human


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    turns = [dict(message) for message in messages]
    try:
        return cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from error  # of the template's own code
