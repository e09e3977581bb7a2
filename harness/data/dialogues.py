"""Reads dialogues: OpenAI's `messages`, ShareGPT's `conversations`, TRL's `prompt` and `completion`.

Each becomes messages in the form that a chat template takes (role, content, tool calls). `harness.data.render`
turns them into text. A part that is neither used here nor by the template is refused by name.
"""

import json
from collections.abc import Mapping
from typing import Any

from harness.data.fields import Example, Message, Row, RowError, text_field

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "claude": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
_KEPT_TEXTS = ("name", "tool_call_id", "reasoning_content", "thinking")  # fields that some templates show
_REFUSED = ("function_call", "audio", "images", "refusal")  # fields with content that no template gets from us
_LOSS_FLAGS = ("weight", "train", "training", "loss")  # of OpenAI's and others' files; 1 and true are the default
_SYSTEM_COLUMNS = ("system", "system_prompt")


def chat(row: Row) -> list[Example]:
    """Reads `messages`, each with role and content, of which the last is the assistant's answer."""
    return [_dialogue(_with_system(read_messages(row, "messages"), row), "messages", row)]


def sharegpt(row: Row) -> list[Example]:
    """Reads `conversations`, each with from and value, of which the last is the assistant's answer."""
    return [_dialogue(_with_system(read_messages(row, "conversations"), row), "conversations", row)]


def prompt_completion(row: Row) -> list[Example]:
    """TRL's `prompt` and `completion`: two texts, or messages; a text beside messages is the user's or the answer."""
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return [Example(text_field(row, "prompt"), text_field(row, "completion"), "completion")]
    prompt, completion = _side(row, "prompt", "user"), _side(row, "completion", "assistant")
    whole = _with_system((*prompt, *completion), row)
    first = len(whole) - len(completion)
    answers = every_answer(_dialogue(whole, "completion", row))
    return [answer for answer in answers if len(answer.messages) > first]


def _side(row: Row, field: str, role: str) -> tuple[Message, ...]:
    """The messages of one column; a text is one message of `role`."""
    if isinstance(row.get(field), list):
        return read_messages(row, field)
    return ({"role": role, "content": text_field(row, field)},)


def every_answer(example: Example) -> list[Example]:
    """Makes an example of each of the assistant's turns, with all turns before it as input."""
    answers = [at for at, message in enumerate(example.messages) if message["role"] == "assistant"]
    first = next(at for at, message in enumerate(example.messages) if message["role"] not in ("system", "assistant"))
    answers = [at for at in answers if at > first]  # a greeting answers nothing
    return [_example(example.messages[: at + 1], example.target_field, example.tools) for at in answers]


def read_messages(row: Row, field: str) -> tuple[Message, ...]:
    """The messages in `row[field]`, with one spelling of roles and contents.

    Raises:
        RowError: no list of messages, an unknown role, or content that can't be shown as text.
    """
    values = row.get(field)
    if not isinstance(values, list) or not values:
        raise RowError(field, "expected a list of messages, each with a role and a content")
    return tuple(_message(value, f"{field}[{number}]") for number, value in enumerate(values))


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(where, f"expected role and content, found {type(value).__name__}")
    keys = ("from", "value") if "from" in value and "role" not in value else ("role", "content")
    spelled = text_field(value, keys[0], f"{where}.")
    role = ROLES.get(spelled.strip().lower())
    if role is None:
        raise RowError(f"{where}.{keys[0]}", f"unknown role {spelled[:60]!r}; known: {', '.join(ROLES)}")
    refused = [name for name in _REFUSED if value.get(name)]
    if refused:
        raise RowError(f"{where}.{refused[0]}", "not read here; write it as tool_calls or as text, or delete it")
    unequal = next((name for name in _LOSS_FLAGS if value.get(name) not in (None, 1)), None)
    if unequal is not None:
        problem = f"{value[unequal]!r}: loss on single messages is not set by the row; see dataset.assistant_turns"
        raise RowError(f"{where}.{unequal}", problem)
    message: dict[str, Any] = {"role": role}
    calls = _tool_calls(value, where)
    message["content"] = "" if calls and value.get(keys[1]) is None else _content(value, keys[1], where)
    message |= {"tool_calls": calls} if calls else {}
    return message | {name: value[name] for name in _KEPT_TEXTS if value.get(name)}


def _content(message: Mapping[str, object], key: str, where: str) -> str:
    """The text of a message. Parts of text are joined without a space, as templates that know parts do."""
    value = message.get(key)
    if not isinstance(value, list):
        return text_field(message, key, f"{where}.")
    texts = []
    for number, part in enumerate(value):
        place = f"{where}.{key}[{number}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            raise RowError(place, f"expected a part with a type, found {type(part).__name__}")
        if part.get("type") != "text":
            raise RowError(place, f"a part of type {str(part.get('type'))[:40]!r}; only text can be read")
        texts.append(text_field(part, "text", f"{place}."))
    return "".join(texts)


def _tool_calls(message: Mapping[str, object], where: str) -> list[dict[str, Any]]:
    """OpenAI's tool calls, their arguments parsed from JSON text, because templates print objects."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowError(f"{where}.tool_calls", f"expected a list of calls, found {type(calls).__name__}")
    read = []
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(f"{where}.tool_calls[{number}]", "expected a call with a function's name and arguments")
        arguments = function.get("arguments")
        read.append({**call, "function": {**function, "arguments": _parsed(arguments)}})
    return read


def _parsed(value: object) -> object:
    """The value of a text that is JSON; any other text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _with_system(messages: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
    """Puts the system text of a column of its own (`system`, `system_prompt`) before the dialogue."""
    for column in _SYSTEM_COLUMNS:
        if row.get(column) in (None, ""):
            continue
        if messages[0]["role"] == "system":
            raise RowError(column, "the dialogue has a system message as well; keep one of them")
        return ({"role": "system", "content": text_field(row, column)}, *messages)
    return messages


def _dialogue(messages: tuple[Message, ...], field: str, row: Row) -> Example:
    last = messages[-1]["role"]
    if last != "assistant":
        raise RowError(field, f"the last message is the {last}'s; the assistant's is what is learned")
    if not any(message["role"] not in ("system", "assistant") for message in messages[:-1]):
        raise RowError(field, "no user's message comes before the assistant's answer")
    return _example(messages, field, _tools(row))


def _example(messages: tuple[Message, ...], field: str, tools: tuple[Mapping[str, Any], ...]) -> Example:
    question = "\n".join(message["content"] for message in messages[:-1])
    calls = messages[-1].get("tool_calls")
    answer = messages[-1]["content"] or (json.dumps(calls) if calls else "")
    return Example(question, answer, field, messages, tools=tools)


def _tools(row: Row) -> tuple[Mapping[str, Any], ...]:
    """Reads the `tools` column: a list of functions, or the same as JSON text."""
    tools = _parsed(row.get("tools"))
    if tools in (None, "", []):
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowError("tools", "expected a list of functions, or such a list as JSON text")
    for number, tool in enumerate(tools):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(f"tools[{number}]", "expected a function with its name")
    return tuple(tools)
