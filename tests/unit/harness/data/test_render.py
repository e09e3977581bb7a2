"""Dialogues by a chat template: what is dropped or cut to fit, system text without a role, what may not be lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.data.dialogues import chat, every_answer
from harness.data.fields import Example, RowError
from harness.data.render import folder_has_template, no_template_problem, render

SHOWN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TEMPLATE = SHOWN + "{% if add_generation_prompt %}[assistant]{% endif %}"
WITH_TOOLS = "{% for t in tools or [] %}<{{ t.name }}>{% endfor %}" + TEMPLATE
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


class Words:
    """A tokenizer of letters: as many tokens as characters."""

    name_or_path = "toy"

    def __init__(self, template: str) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self._compiled = _compile_jinja_template(template)

    def apply_chat_template(self, turns: Any, tools: Any, tokenize: bool, add_generation_prompt: bool = False) -> str:
        assert not tokenize
        text: str = self._compiled.render(messages=turns, tools=tools, add_generation_prompt=add_generation_prompt)
        return text

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(text)))}


def dialogue(*contents: str, **columns: Any) -> Example:
    """`u:...`, `a:...`, `s:...` and `t:...` are what a user, the assistant, the system and a tool say."""
    roles = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    messages = [{"role": roles[text[0]], "content": text[2:]} for text in contents]
    return every_answer(chat({"messages": messages, **columns})[0])[-1]


def rendered(example: Example, max_tokens: int = 1000, template: str = TEMPLATE) -> tuple[str, str, bool]:
    tokenizer: Any = Words(template)
    return render(example, tokenizer, max_tokens)


LONG = dialogue("s:S", "u:one", "a:two", "u:three", "a:four", "t:five", "u:six", "a:seven")
WHOLE = "[system]S[user]one[assistant]two[user]three[assistant]four[tool]five[user]six[assistant]"


@pytest.mark.parametrize(
    ("spare", "source"),
    [
        (0, WHOLE),
        (-1, "[system]S[user]three[assistant]four[tool]five[user]six[assistant]"),
        (len("[user]three[assistant]four[tool]five[user]six[assistant]") - len(WHOLE), "[system]S[user]six[assistant]"),
    ],
)
def test_the_oldest_turns_go_whole(spare: int, source: str) -> None:
    assert rendered(LONG, len(WHOLE) + spare) == (source, "seven", spare < 0)


def test_a_greeting_goes_before_the_first_question() -> None:
    example = dialogue("a:hello there", "u:one", "a:two", "u:three", "a:four")
    kept = "[user]one[assistant]two[user]three[assistant]"
    assert rendered(example, len(kept) + 5) == (kept, "four", True)
    assert rendered(example, len(kept) - 1) == ("[user]three[assistant]", "four", True)


@pytest.mark.parametrize("fitting", [1, 2, 5, 8])
def test_the_last_question_is_cut_at_its_end(fitting: int) -> None:
    example = dialogue("s:S", "u:one", "a:two", "u:question", "a:four")
    frame = len("[system]S[user][assistant]")
    expected = f"[system]S[user]{'question'[:fitting]}[assistant]"
    assert rendered(example, frame + fitting) == (expected, "four", True)
    with pytest.raises(
        RowError, match=rf"the template's frame take more than dataset\.source_max_tokens={frame}; raise"
    ):
        rendered(example, frame)


def test_a_dialogue_without_a_user_is_not_cut() -> None:
    example = dialogue("t:result of a tool", "a:four")
    assert rendered(example)[0] == "[tool]result of a tool[assistant]"
    with pytest.raises(RowError, match=r"no user turn to keep within dataset\.source_max_tokens=20"):
        rendered(example, 20)


def test_system_text_without_a_role() -> None:
    example = dialogue("s:S", "a:hi", "u:one", "a:two")
    for template in (
        NO_SYSTEM,
        TEMPLATE.replace("[{{ m.role }}]", "{% if m.role == 'system' %}{% continue %}{% endif %}[{{ m.role }}]"),
    ):
        assert rendered(example, template=template) == ("[assistant]hi[user]S\n\none[assistant]", "two", False)
    with pytest.raises(RowError, match="the chat template of toy can't show this dialogue: it refuses it: no system"):
        rendered(dialogue("s:S", "t:one", "a:two"), template=NO_SYSTEM)


@pytest.mark.parametrize(
    ("example", "template", "problem"),
    [
        (dialogue("u:one", "a:two"), "{{ messages | length }}", "leaves out the text of its user"),
        (
            dialogue("u:one", "a:x", "t:five", "u:y", "a:two"),
            TEMPLATE.replace("[{{ m.role }}]", "{% if m.role == 'tool' %}{% continue %}{% endif %}"),
            "leaves out the text of its tool",
        ),
        (dialogue("u:one", "a:two", tools=[{"name": "f"}]), TEMPLATE, "leaves out the text of its tools"),
        (dialogue("s:S", "u:one", "a:two", tools=[{"name": "f"}]), TEMPLATE, "leaves out the text of its tools"),
        (dialogue("u:one", "a:two"), "{{ raise_exception('never') }}", "it refuses it: never"),
        (dialogue("u:one", "a:two"), "{{ messages.nothing() }}", "it refuses it: UndefinedError|no attribute"),
        (
            dialogue("u:one", "a:two"),
            SHOWN + "{% if add_generation_prompt %}?{% endif %}",
            "renders a dialogue with its answer otherwise than without",
        ),
    ],
)
def test_what_a_template_may_not_do(example: Example, template: str, problem: str) -> None:
    with pytest.raises(RowError, match=problem) as caught:
        rendered(example, template=template)
    assert caught.value.field == "messages"


def test_tools_and_their_calls_are_shown() -> None:
    tools = [{"name": "f"}]
    assert rendered(dialogue("u:one", "a:two", tools=tools), template=WITH_TOOLS)[0] == "<f>[user]one[assistant]"
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "g", "arguments": "{}"}}]}
    [example] = chat({"messages": [{"role": "user", "content": "one"}, call]})
    with pytest.raises(RowError, match="leaves out the text of its tool_calls"):
        rendered(example)
    named = TEMPLATE.replace(
        "{% endfor %}", "{% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %}{% endfor %}"
    )
    assert rendered(example, template=named)[1] == "(g)"


def test_a_shorter_dialogue_may_be_one_that_the_template_refuses() -> None:
    template = "{% if messages | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + TEMPLATE
    with pytest.raises(RowError, match="the chat template of toy can't show a shorter dialogue: too short"):
        rendered(LONG, 40, template)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"chat_template.jinja": ""}, True),
        ({"chat_template.json": "{}"}, True),
        ({"tokenizer_config.json": {"chat_template": TEMPLATE}}, True),
        ({"tokenizer_config.json": {"chat_template": None}}, False),
        ({"tokenizer_config.json": {}}, False),
        ({"tokenizer_config.json": [1]}, False),
    ],
)
def test_whether_a_checkpoint_has_a_template(tmp_path: Path, files: dict[str, Any], expected: bool) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert folder_has_template(tmp_path) is expected
    (tmp_path / "tokenizer_config.json").write_text("{")
    if not expected:
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: not JSON"):
            folder_has_template(tmp_path)
    assert "dataset.format=chat: the tokenizer of lab/base has no chat template" in no_template_problem(
        "lab/base", "chat"
    )
