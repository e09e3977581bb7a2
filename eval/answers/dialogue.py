"""Writes an open question in the form that a model reads.

If the tokenizer has a chat template, the turns go through it. Any other model reads the paper's prompt: a system
sentence, then "### Human: ... ### Assistant:" on one line.

Source: artidoro/qlora answer_prompts.py, `get_prompt_for_generation_eval`.
"""

from collections.abc import Sequence
from enum import Enum
from typing import cast

from transformers import PreTrainedTokenizerBase

from eval.answers.questions import ROLES

SYSTEM_SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN_STOP = "### Human"


class PromptFormat(Enum):
    """How a dialogue becomes a prompt."""

    auto = "auto"  # chat where the tokenizer has a template, else human
    chat = "chat"
    human = "human"


def encode_dialogue(
    tokenizer: PreTrainedTokenizerBase, dialogue: Sequence[tuple[str, str]], prompt_format: PromptFormat
) -> list[int]:
    """Tokens of a dialogue whose last turn is the user's, ready for the assistant's.

    Raises:
        ValueError: format chat, and the tokenizer has no template.
    """
    has_template = tokenizer.chat_template is not None
    if prompt_format is PromptFormat.chat and not has_template:
        raise ValueError("prompt format chat: this tokenizer has no chat template; take auto or human")
    if prompt_format is PromptFormat.human or not has_template:
        return list(tokenizer.encode(human_text(dialogue)))
    turns = [{"role": role, "content": text} for role, text in dialogue]
    text = cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return list(tokenizer.encode(text, add_special_tokens=False))


def human_text(dialogue: Sequence[tuple[str, str]]) -> str:
    """The paper's prompt, on one line except for newlines within the texts."""
    names = {role: name for name, role in ROLES.items()}
    turns = "".join(f" ### {names[role]}: {text}" for role, text in dialogue)
    return f"{SYSTEM_SENTENCE}{turns} ### Assistant:"
