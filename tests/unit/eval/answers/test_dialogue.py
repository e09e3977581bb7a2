"""Prompts of every kind of tokenizer and chat template, and what ends an answer to them."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from eval.answers.dialogue import (
    HUMAN_STOPS,
    NEW_CONVERSATION,
    SYSTEM_SENTENCE,
    TurnEnd,
    chat_text,
    encode_dialogue,
    fitting_prompt,
    human_text,
    prompt_tokens,
    turn_end,
)
from eval.answers.generate import cut_at_stop
from eval.answers.prompt_format import PromptFormat
from eval.benchmarks.mmlu.prompts import answer_tokens, encode_prompt
from eval.benchmarks.mmlu.questions import Question
from eval.benchmarks.mmlu.settings import Protocol
from tests.tiny import make_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role | upper }}: {{ m.content | trim }}\n{% endfor %}ASSISTANT:"
LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}"
    " {{ m.content }} </s>{% else %}{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}"
)
DEAF = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
ONE_TURN = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}"
QUESTION = Question(subject="law", question="Which?", choices=("a", "b", "c", "d"), answer=0)


def tokenizer_with(template: str | None, *tokens: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def appending_eos() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("template", "tokens", "ends", "texts"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), ["<|im_end|>"], ()),
        (CHATML, (), [], ("<|im_end|>",)),  # a template that the vocabulary doesn't know
        (LLAMA, (), ["</s>"], ()),
        (PLAIN, (), [], ("\nUSER:",)),
        (ONE_TURN, (), [], ()),
        (None, (), [], HUMAN_STOPS),
    ],
)
def test_an_answer_ends_as_its_format_says(
    template: str | None, tokens: tuple[str, ...], ends: list[str], texts: tuple[str, ...]
) -> None:
    tokenizer = tokenizer_with(template, *tokens)
    expected = TurnEnd(tokens=frozenset(tokenizer.convert_tokens_to_ids(ends)), texts=texts)
    assert turn_end(tokenizer, PromptFormat.auto) == expected
    assert turn_end(tokenizer, PromptFormat.human) == TurnEnd(texts=HUMAN_STOPS)


def test_a_chat_models_headings_stay_and_the_papers_format_is_cut_as_the_authors_did() -> None:
    text = "# Firm\n### Human Resources\nPeople.\n### Assistant: more ### Human: again"
    chat = turn_end(tokenizer_with(CHATML, "<|im_end|>"), PromptFormat.auto)
    assert cut_at_stop(text, chat.texts) == text
    assert cut_at_stop(text, HUMAN_STOPS) == "# Firm\n### Human Resources\nPeople."
    assert cut_at_stop("Yes.\n### Human: and", HUMAN_STOPS) == "Yes."
    assert cut_at_stop(f"Yes. {SYSTEM_SENTENCE} ### Human: x", HUMAN_STOPS) == "Yes."
    assert SYSTEM_SENTENCE.startswith(NEW_CONVERSATION)


@pytest.mark.parametrize("template", [LLAMA, DEAF])
def test_a_template_without_a_system_role_gets_its_text_in_the_first_user_turn(template: str) -> None:
    tokenizer = tokenizer_with(template, "<|im_start|>", "<|im_end|>")
    messages = [{"role": "system", "content": "Be kind. "}, {"role": "user", "content": "Hello?"}]
    assert "Be kind.\n\nHello?" in chat_text(tokenizer, messages)
    prompt = encode_prompt(tokenizer, Protocol.lm_eval, (), QUESTION, 500, chat=True)
    assert "questions (with answers) about law.\n\nWhich?" in tokenizer.decode(prompt.tokens)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ONE_TURN, r"refuses the dialogue \(one turn\)"),
        ("{{ messages[0].content }}", "leaves out what the user says"),
        ("{{ messages[0].content + 1 }}", r"refuses the dialogue \(TypeError: "),
        ("{{ 1 / 0 }}", r"refuses the dialogue \(ZeroDivisionError: "),
    ],
)
def test_a_template_that_cannot_serve_is_refused(template: str, message: str) -> None:
    dialogue = [("user", "a"), ("assistant", "b"), ("user", "what?")]
    with pytest.raises(ValueError, match=message):
        encode_dialogue(tokenizer_with(template), dialogue, PromptFormat.auto)


def test_a_tokenizer_that_appends_eos_asks_all_the_same() -> None:
    tokenizer, text = appending_eos(), human_text([("user", "Hello")])
    assert tokenizer.encode(text)[-1] == 2
    expected = [1, *tokenizer.encode(text, add_special_tokens=False)]
    assert encode_dialogue(tokenizer, [("user", "Hello")], PromptFormat.auto) == expected
    assert prompt_tokens(tokenizer, "a</s>", add_special_tokens=False)[-1] == 2  # the text's own
    plain = make_tokenizer()
    for protocol in Protocol:
        prompts = [encode_prompt(t, protocol, (), QUESTION, 500).tokens for t in (tokenizer, plain)]
        assert [token for token in prompts[0] if token != 1] == [token for token in prompts[1] if token != 1]
        letters = [answer_tokens(t, protocol, (), QUESTION) for t in (tokenizer, plain)]
        assert letters[0] == letters[1]


def test_a_dialogue_that_is_too_long_loses_its_oldest_turns() -> None:
    tokenizer = make_tokenizer()
    dialogue = [("user", "a" * 50), ("assistant", "b" * 50), ("user", "c"), ("assistant", "d"), ("user", "e")]
    whole = encode_dialogue(tokenizer, dialogue, PromptFormat.human)
    assert fitting_prompt(tokenizer, dialogue, PromptFormat.human, len(whole)) == (whole, 0)
    cut = encode_dialogue(tokenizer, dialogue[2:], PromptFormat.human)
    assert fitting_prompt(tokenizer, dialogue, PromptFormat.human, len(whole) - 1) == (cut, 2)
    last = encode_dialogue(tokenizer, dialogue[4:], PromptFormat.human)
    assert fitting_prompt(tokenizer, dialogue, PromptFormat.human, 0) == (last, 4)
