"""Writes a dialogue by the tokenizer's chat template, and drops its oldest turns until it fits.

    source, target, was_cut = render(example, tokenizer, max_tokens)

The system message, the last question and the assistant's header stay. A template that leaves a message out is not
used in silence: system text moves into the first user turn, anything else is refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.fields import Example, Message, RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def no_template_problem(model: str, format: str) -> str:
    """The message for a model without a chat template, with the remedies."""
    return (
        f"dataset.format={format}: the tokenizer of {model} has no chat template: take an instruct model, give "
        "dataset.chat_template (a Jinja file), or take dataset.format=input_output with texts of your own"
    )


def folder_has_template(folder: Path) -> bool:
    """Whether a checkpoint's files hold a chat template; reads no tokenizer, so that a plan can ask.

    Raises:
        ValueError: its tokenizer_config.json is no JSON.
    """
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    config = folder / "tokenizer_config.json"
    try:
        saved = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{config}: not JSON ({error}); copy the checkpoint anew") from error
    return isinstance(saved, dict) and bool(saved.get("chat_template"))


def render(example: Example, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> tuple[str, str, bool]:
    """-> the source text, of at most `max_tokens` tokens; the target text, uncut; whether any turn was dropped.

    Raises:
        RowError: the template can't show the dialogue, or its frame alone is too long.
    """
    from jinja2.exceptions import TemplateError

    messages = _shown(list(example.messages), example, tokenizer)
    try:
        fitting = _fitted(messages, example, tokenizer, max_tokens)
    except TemplateError as error:
        problem = f"{_template(tokenizer)} can't show a shorter dialogue: {error}"
        raise RowError(example.target_field, problem) from error
    source, whole = _source(fitting, example, tokenizer), _rendered(fitting, example, tokenizer)
    if not whole.startswith(source):
        raise RowError(
            example.target_field,
            f"{_template(tokenizer)} renders a dialogue with its answer otherwise than without; take another model, "
            "give dataset.chat_template, or take dataset.format=input_output with texts of your own",
        )
    return source, whole[len(source) :], fitting != messages


def _shown(messages: list[Message], example: Example, tokenizer: "PreTrainedTokenizerBase") -> list[Message]:
    """The messages in a form that the template shows whole."""
    from jinja2.exceptions import TemplateError

    try:
        missing = _missing(messages, example, tokenizer)
        if not missing:
            return messages
        problem = f"leaves out the text of its {missing}"
    except TemplateError as error:
        problem, missing = f"refuses it: {error}", None
    if messages[0]["role"] == "system" and missing in (None, "system"):
        folded = _folded(messages)
        if folded is not None:
            return _shown(folded, example, tokenizer)
    raise RowError(example.target_field, f"{_template(tokenizer)} can't show this dialogue: it {problem}")


def _missing(messages: Sequence[Message], example: Example, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Names a role, tool or reasoning that the template leaves out; None where it shows all.

    Earlier answers, and the reasoning before them, may be left out or shortened, as templates of reasoning models do.
    """
    source, whole = _source(messages, example, tokenizer), _rendered(messages, example, tokenizer)
    for message in messages:
        if message["role"] != "assistant" and message["content"].strip() not in source:
            return str(message["role"])
        for call in message.get("tool_calls", ()):
            if call.get("function", call)["name"] not in whole:
                return "tool_calls"
    for key in ("reasoning_content", "thinking", "content"):  # of the answer that is learned
        if str(messages[-1].get(key) or "").strip() not in whole:
            return "answer" if key == "content" else key
    names = [tool.get("function", tool).get("name") for tool in example.tools]
    return "tools" if any(str(name) not in source for name in names) else None


def _folded(messages: Sequence[Message]) -> list[Message] | None:
    """Moves the system text to the start of the first user turn, for templates without a system role."""
    system, *rest = messages
    for place, message in enumerate(rest):
        if message["role"] == "user":
            rest[place] = {**message, "content": f"{system['content']}\n\n{message['content']}"}
            return rest
    return None


def _fitted(
    messages: list[Message], example: Example, tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> list[Message]:
    def fits(candidate: Sequence[Message]) -> bool:
        return _num_tokens(_source(candidate, example, tokenizer), tokenizer) <= max_tokens

    if fits(messages):
        return messages
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = [turn for turn in range(len(system), len(messages) - 1) if messages[turn]["role"] == "user"]
    shortest = messages
    for start in turns[1:] if turns and turns[0] == len(system) else turns:
        shortest = [*system, *messages[start:]]
        if fits(shortest):
            return shortest
    question = max((turn for turn, message in enumerate(shortest[:-1]) if message["role"] == "user"), default=None)
    if question is None:
        raise RowError(example.target_field, f"no user turn to keep within dataset.source_max_tokens={max_tokens}")

    def cut(num_characters: int) -> list[Message]:
        text = shortest[question]["content"][:num_characters]
        return [*shortest[:question], {**shortest[question], "content": text}, *shortest[question + 1 :]]

    low, high = 0, len(shortest[question]["content"])  # `high` does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(cut(middle)) else (low, middle)
    if low == 0:
        problem = f"the system message and the template's frame take more than dataset.source_max_tokens={max_tokens}"
        raise RowError(example.target_field, f"{problem}; raise it")
    return cut(low)


def _num_tokens(text: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _source(messages: Sequence[Message], example: Example, tokenizer: "PreTrainedTokenizerBase") -> str:
    return _rendered(messages[:-1], example, tokenizer, add_generation_prompt=True)


def _rendered(
    messages: Sequence[Message], example: Example, tokenizer: "PreTrainedTokenizerBase", **options: Any
) -> str:
    from jinja2.exceptions import TemplateError, TemplateRuntimeError

    turns: Any = [dict(message) for message in messages]  # transformers' annotations leave content parts and tools out
    tools: Any = [dict(tool) for tool in example.tools] or None
    try:
        return str(tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, **options))
    except TemplateError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:  # of the template's own code
        raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


def _template(tokenizer: "PreTrainedTokenizerBase") -> str:
    return f"the chat template of {tokenizer.name_or_path or 'this tokenizer'}"
