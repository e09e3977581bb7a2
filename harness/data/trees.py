"""Reads Open Assistant's message trees: one conversation a tree, the best-ranked reply at each level.

QLoRA trained on these paths (arXiv 2305.14314, section 5: "the top reply at each level in the conversation tree");
timdettmers/openassistant-guanaco holds them as text. A file has whole trees (`prompt` with `replies`), or one message
a row with its `parent_id`, which `assembled` joins.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from harness.data.fields import Row, RowError, text_field

_HEADERS = {"prompter": "### Human: ", "assistant": "### Assistant: "}
_T = TypeVar("_T")


def is_tree(row: Row) -> bool:
    """Whether a row is a whole tree."""
    prompt = row.get("prompt")
    return isinstance(prompt, Mapping) and "replies" in prompt


def is_message(row: Row) -> bool:
    """Whether a row is one message of a tree."""
    return "message_id" in row and "parent_id" in row and "text" in row and "replies" not in row


def top_reply_path(row: Row) -> str:
    """The conversation as text in openassistant-guanaco's form, without a last prompt that has no answer.

    Raises:
        RowError: a message without text or with an unknown role, or a tree without an answer.
    """
    texts: list[str] = []
    answered = 0
    node, where = row["prompt"], "prompt"
    while isinstance(node, Mapping):
        role = text_field(node, "role", f"{where}.")
        if role not in _HEADERS:
            raise RowError(f"{where}.role", f"unknown role {role[:60]!r}; known: {', '.join(_HEADERS)}")
        texts.append(_HEADERS[role] + text_field(node, "text", f"{where}."))
        answered = len(texts) if role == "assistant" else answered
        place = _best(node, where)
        if place is None:
            break
        node, where = node["replies"][place], f"{where}.replies[{place}]"
    if not answered:
        raise RowError("prompt", "a tree without an answer")
    return "".join(texts[:answered])


def _best(node: Mapping[str, Any], where: str) -> int | None:
    """The index of the best-ranked reply (rank 0 is best); the first one if ranks are equal or missing."""
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, Mapping) for reply in replies):
        raise RowError(f"{where}.replies", "expected a list of messages")
    places = [place for place, reply in enumerate(replies) if not reply.get("deleted")]
    return min(places, key=lambda place: _rank(replies[place]), default=None)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, (int, float)) else float("inf")


def assembled(
    rows: Iterable[_T], fields: Callable[[_T], Mapping[str, Any]], with_fields: Callable[[_T, dict[str, Any]], _T]
) -> Iterator[_T]:
    """Joins rows of single messages into trees, in the order of the first prompts; other rows pass.

    Replies whose parent is not in the file are left out, because their conversation is incomplete.
    """
    nodes: dict[str, dict[str, Any]] = {}
    roots: list[tuple[_T, dict[str, Any]]] = []
    for row in rows:
        values = fields(row)
        if not is_message(values):
            yield row
            continue
        node = {**values, "replies": []}
        nodes[str(values["message_id"])] = node
        if values["parent_id"] in (None, ""):
            roots.append((row, node))
    for node in nodes.values():
        parent = nodes.get(str(node["parent_id"]))
        if parent is not None:
            parent["replies"].append(node)
    for row, node in roots:
        yield with_fields(row, {"message_tree_id": node["message_id"], "prompt": node})
