"""Dialogues and trees of every shape, as messages and text; what can't be read names its place."""

from collections.abc import Iterable
from typing import Any

import pytest

from harness.data.dialogues import ROLES, chat, every_answer, prompt_completion, read_messages, sharegpt
from harness.data.fields import RowError
from harness.data.trees import assembled, top_reply_path

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
FUNCTION = {"name": "f", "arguments": {"x": 1}}


def message(**fields: Any) -> dict[str, Any]:
    [read] = read_messages({"messages": [fields]}, "messages")
    return dict(read)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"from": " Human", "value": "q"}, USER),
        ({"from": "x", "role": "user", "value": "no", "content": "q"}, USER),
        ({"role": "user", "content": ["q", {"type": "text", "text": "r"}, ""]}, {"role": "user", "content": "qr"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        ({**USER, "weight": 1, "train": True, "loss": None, "function_call": None, "audio": []}, USER),
        ({**USER, "name": "ann", "thinking": "", "other": 1}, USER | {"name": "ann"}),
        (ANSWER | {"reasoning_content": "hm"}, ANSWER | {"reasoning_content": "hm"}),
        (ANSWER | {"tool_calls": []}, ANSWER),
        (ANSWER | {"tool_calls": [FUNCTION]}, ANSWER | {"tool_calls": [FUNCTION | {"function": FUNCTION}]}),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": 1, "function": {"name": "f"}}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": 1, "function": {"name": "f", "arguments": None}}],
            },
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        ),
        (
            ANSWER | {"tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]},
            ANSWER | {"tool_calls": [{"function": FUNCTION}]},
        ),
        ({"role": "tool", "content": "1", "tool_call_id": "c"}, {"role": "tool", "content": "1", "tool_call_id": "c"}),
    ],
)
def test_a_message(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert message(**fields) == expected


@pytest.mark.parametrize("role", ROLES)
def test_roles(role: str) -> None:
    assert message(role=f" {role.upper()} ", content="x")["role"] == ROLES[role]


@pytest.mark.parametrize(
    ("fields", "place", "problem"),
    [
        ({"role": "alien" * 20, "content": "x"}, ".role", f"unknown role '{('alien' * 20)[:60]}'; known: system, "),
        ({"from": "alien", "value": "x"}, ".from", "unknown role"),
        ({"content": "x"}, ".role", "missing"),
        ({**USER, "images": ["x"]}, ".images", "not read here"),
        ({**USER, "refusal": "no", "audio": "x"}, ".audio", "not read here"),
        ({**USER, "weight": 0}, ".weight", "0: loss on single messages"),
        ({**USER, "loss": False}, ".loss", "False: loss on single messages"),
        ({**USER, "training": 2}, ".training", "2: loss on single messages"),
        ({"role": "user", "content": [3]}, ".content[0]", "expected a part with a type, found int"),
        ({"role": "user", "content": ["a", {"type": "image"}]}, ".content[1]", "a part of type 'image'"),
        ({"role": "user", "content": [{"text": "a"}]}, ".content[0]", "a part of type 'None'"),
        ({"role": "user", "content": [{"type": "x" * 50}]}, ".content[0]", f"a part of type '{'x' * 40}'"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text", "missing"),
        ({**ANSWER, "tool_calls": {"a": 1}}, ".tool_calls", "expected a list of calls, found dict"),
        ({**ANSWER, "tool_calls": [FUNCTION, 3]}, ".tool_calls[1]", "expected a call with"),
        ({**ANSWER, "tool_calls": [{"function": 3}]}, ".tool_calls[0]", "expected a call with"),
        ({**ANSWER, "tool_calls": [{"function": {"name": 3}}]}, ".tool_calls[0]", "expected a call with"),
    ],
)
def test_a_message_that_cannot_be_read_names_its_place(fields: dict[str, Any], place: str, problem: str) -> None:
    with pytest.raises(RowError) as caught:
        read_messages({"messages": [USER, fields]}, "messages")
    assert caught.value.field == f"messages[1]{place}"
    assert problem in caught.value.problem


@pytest.mark.parametrize("values", [None, [], "text", {"a": 1}])
def test_no_list_of_messages(values: Any) -> None:
    with pytest.raises(RowError, match="expected a list of messages"):
        read_messages({"messages": values}, "messages")


def test_a_dialogue_and_its_parts() -> None:
    [example] = chat({"messages": [SYSTEM, USER, ANSWER]})
    assert (example.input, example.output, example.target_field, example.tools) == ("s\nq", "a", "messages", ())
    [example] = sharegpt({"conversations": [USER, ANSWER], "system_prompt": "s", "system": ""})
    assert example.messages == (SYSTEM, USER, ANSWER)
    assert example.target_field == "conversations"
    calls = [{"function": FUNCTION}]
    [example] = chat({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": calls}]})
    assert example.output == '[{"function": {"name": "f", "arguments": {"x": 1}}}]'
    [example] = chat({"messages": [USER, {"role": "assistant", "content": ""}]})
    assert example.output == ""


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("[]", ()),
        ([FUNCTION], (FUNCTION,)),
        ('[{"function": {"name": "f"}}]', ({"function": {"name": "f"}},)),
    ],
)
def test_tools(tools: Any, expected: tuple[Any, ...]) -> None:
    [example] = chat({"messages": [USER, ANSWER], "tools": tools})
    assert example.tools == expected


@pytest.mark.parametrize(
    ("tools", "field"),
    [({"name": "f"}, "tools"), ("text", "tools"), ([FUNCTION, 1], "tools"), ([FUNCTION, {"name": 1}], "tools[1]")],
)
def test_tools_that_are_none(tools: Any, field: str) -> None:
    with pytest.raises(RowError) as caught:
        chat({"messages": [USER, ANSWER], "tools": tools})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([USER, ANSWER, USER], "the last message is the user's"),
        ([ANSWER], "no user's message comes before"),
        ([SYSTEM, ANSWER, ANSWER], "no user's message comes before"),
    ],
)
def test_dialogues_without_a_question_or_an_answer(messages: list[Any], problem: str) -> None:
    with pytest.raises(RowError, match=problem):
        chat({"messages": messages})


def test_a_tools_result_is_a_question_too() -> None:
    assert len(chat({"messages": [{"role": "tool", "content": "1"}, ANSWER]})) == 1


@pytest.mark.parametrize(
    ("roles", "lengths"),
    [("uaua", [2, 4]), ("suaaua", [3, 4, 6]), ("saua", [4]), ("auta", [4]), ("ta", [2])],
)
def test_every_answer_after_the_first_question(roles: str, lengths: list[int]) -> None:
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    messages = [{"role": names[role], "content": f"{role}{place}"} for place, role in enumerate(roles)]
    [example] = chat({"messages": messages, "tools": [FUNCTION]})
    found = every_answer(example)
    assert [len(answer.messages) for answer in found] == lengths
    assert [answer.output for answer in found] == [f"a{length - 1}" for length in lengths]
    assert all(answer.tools == (FUNCTION,) and answer.target_field == "messages" for answer in found)


@pytest.mark.parametrize(
    ("prompt", "completion", "counts"),
    [
        ([USER], "a", [2]),
        ("q", [ANSWER], [2]),
        ([USER, ANSWER, USER], [ANSWER], [4]),
        ([USER], [ANSWER, USER, ANSWER], [2, 4]),
        ([SYSTEM, USER], [ANSWER], [3]),
    ],
)
def test_the_completions_answers_are_learned(prompt: Any, completion: Any, counts: list[int]) -> None:
    found = prompt_completion({"prompt": prompt, "completion": completion})
    assert [len(example.messages) for example in found] == counts
    assert {example.target_field for example in found} == {"completion"}
    [example] = prompt_completion({"prompt": [USER], "completion": "a", "system": "s"})
    assert example.messages == (SYSTEM, USER, ANSWER)


def node(role: str, text: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **more}


@pytest.mark.parametrize(
    ("replies", "best"),
    [
        ([node("assistant", "x", rank=1), node("assistant", "y", rank=0)], "y"),
        ([node("assistant", "x", rank=0.5), node("assistant", "y", rank=0.5)], "x"),
        ([node("assistant", "x"), node("assistant", "y", rank=5)], "y"),
        ([node("assistant", "x"), node("assistant", "y", rank="0")], "x"),
        ([node("assistant", "x", rank=0, deleted=True), node("assistant", "y", rank=1)], "y"),
        ([node("assistant", "x", node("prompter", "p", node("assistant", "z")))], "x### Human: p### Assistant: z"),
        ([node("assistant", "x", node("prompter", "p"))], "x"),
    ],
)
def test_the_best_reply_of_a_tree(replies: list[Any], best: str) -> None:
    assert top_reply_path({"prompt": node("prompter", "q", *replies)}) == f"### Human: q### Assistant: {best}"


@pytest.mark.parametrize(
    ("tree", "field", "problem"),
    [
        (node("prompter", "q"), "prompt", "a tree without an answer"),
        (node("prompter", "q", node("assistant", "x", deleted=True)), "prompt", "a tree without an answer"),
        (node("alien" * 20, "q"), "prompt.role", f"unknown role '{('alien' * 20)[:60]}'; known: prompter, assistant"),
        (node("prompter", "q", node("assistant", None)), "prompt.replies[0].text", "expected text"),
        (node("prompter", "q", node("assistant", "x", rank=1), {"rank": 0}), "prompt.replies[1].role", "missing"),
        ({"role": "prompter", "text": "q", "replies": "x"}, "prompt.replies", "expected a list of messages"),
        ({"role": "prompter", "text": "q", "replies": [1]}, "prompt.replies", "expected a list of messages"),
    ],
)
def test_a_tree_that_cannot_be_read_names_its_place(tree: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(RowError) as caught:
        top_reply_path({"prompt": tree})
    assert caught.value.field == field
    assert problem in caught.value.problem


def join(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(assembled(rows, lambda row: row, lambda row, fields: {"from": row["message_id"], **fields}))


def test_messages_are_joined_into_trees() -> None:
    def row(name: str, parent: Any, **more: Any) -> dict[str, Any]:
        return {"message_id": name, "parent_id": parent, "text": name, **more}

    other = {"text": "passes"}
    rows = [row("b", "a"), row("x", ""), other, row("a", None), row("c", "b"), row("lost", "nobody"), row("d", "a")]
    passed, first, second = join(rows)
    assert passed is other
    assert (first["from"], first["message_tree_id"], first["prompt"]["replies"]) == ("x", "x", [])
    assert (second["from"], [reply["text"] for reply in second["prompt"]["replies"]]) == ("a", ["b", "d"])
    assert [reply["text"] for reply in second["prompt"]["replies"][0]["replies"]] == ["c"]
    whole = {"message_id": "t", "parent_id": None, "text": "t", "replies": []}
    assert join([whole]) == [whole]
