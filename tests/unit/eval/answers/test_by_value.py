"""Values that other tests run past: ends of nuclei and notes, defaults, devices, what a message is cut to."""

import dataclasses
import json
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval.answers import decoding, files, generate, rows, vllm
from eval.answers.dialogue import TurnEnd, chat_text, turn_end
from eval.answers.files import named, read_answers, read_contestants
from eval.answers.generate import Request, run_sha256
from eval.answers.key_value_cache import Shelf
from eval.answers.prompt_format import PromptFormat
from eval.answers.rows import read_rows
from eval.answers.sampling import _draw, nucleus_tokens
from eval.answers.sequences import DecodingRequest, UnderWay, longest_first, numbers_ahead, uniform_numbers
from eval.scoring.row_sizes import RowSizes
from harness.config.schema import PathsConfig
from harness.runs.record import save_record
from tests.builders import record, spec
from tests.tiny import make_tokenizer


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def test_a_number_of_1_draws_the_last_token_of_the_nucleus() -> None:
    """A product may be rounded up to the whole mass; no token beyond the nucleus is drawn then."""
    probs, tokens = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]), torch.tensor([[8, 6, 4], [3, 5, 7]])
    ones = torch.ones(2, 1, dtype=torch.float64)
    assert _draw(probs, tokens, ones, 0.6).tolist() == [8, 5]
    assert _draw(probs.flip(0), tokens.flip(0), ones, 0.6).tolist() == [5, 8]
    assert _draw(probs, tokens, ones, 0.99).tolist() == [4, 7]


@pytest.mark.parametrize(("number", "token"), [(0.0, 8), (0.49, 8), (0.5, 6), (0.75, 4), (0.99, 4)])
def test_a_number_between_two_tokens_draws_the_next(number: float, token: int) -> None:
    numbers = torch.tensor([[number]], dtype=torch.float64)
    assert _draw(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[8, 6, 4]]), numbers, 1.0).tolist() == [token]


def test_wide_rows_are_drawn_from_all_their_tokens() -> None:
    """400 equal tokens and one row that is sure: only the first is sorted as a whole."""
    logits = torch.zeros(2, 400)
    logits[1, 7] = 50.0
    numbers = torch.tensor([0.9, 0.9], dtype=torch.float64)
    tokens, found = nucleus_tokens(logits, numbers, 1.0, 1.0)
    assert found == tokens.tolist()
    assert found[1] == 7
    assert 0 <= found[0] < 400


def test_numbers_ahead_are_as_many_as_asked_for() -> None:
    sequence = UnderWay(0, DecodingRequest(tokens=[1], member=None), 3, uniform_numbers(3, 3), [7])
    one, more = (numbers_ahead([sequence], ahead, torch.device("cpu")) for ahead in (1, 4))
    assert one is not None
    assert more is not None
    assert (tuple(one.shape), tuple(more.shape), more[0, 2:].tolist()) == ((1, 1), (1, 4), [0.0, 0.0])
    assert [one.request.seed for one in longest_first([sequence])] == [0]


def test_started_sequences_are_read_on_the_banks_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def bank(row: Any, segments: Any, plan: Any, read_at: Any) -> Any:
        seen.append((row.device.type, tuple(row.shape), [(s.num_tokens, s.member) for s in segments], read_at))
        return torch.zeros(1, len(read_at), 2, device="meta")

    bank.device = torch.device("meta")  # type: ignore[attr-defined]
    picked: list[Any] = []
    picker = made(bank=bank, settings=made(num_slots=None), pick=lambda *given: picked.append(given))
    batch = decoding._Batch(picker, ["b", None], RowSizes(row_tokens=9, kept_tokens=9))
    sequences = [
        UnderWay(0, DecodingRequest(tokens=[1, 2], member=None), 3, uniform_numbers(0, 3)),
        UnderWay(1, DecodingRequest(tokens=[3], member="b"), 3, uniform_numbers(1, 3), [4, 5]),
    ]
    batch._prefill([(Shelf(num_slots=1, max_tokens=9), 0, one) for one in sequences])
    assert seen == [("meta", (1, 5), [(3, "b"), (2, None)], [2, 4])]
    ((hidden, order, numbers),) = picked
    assert (tuple(hidden.shape), [one.index for one in order]) == ((2, 2), [1, 0])
    assert (numbers.device.type, tuple(numbers.shape)) == ("meta", (2, 1))


def chat(template: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


EACH = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def test_a_template_with_a_system_role_keeps_it() -> None:
    turns = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Why?"}]
    assert chat_text(chat(EACH), turns) == "[system] Be brief. [user]Why?"
    users = "{% for m in messages %}{% if m.role == 'user' %}[user]{{ m.content }}{% endif %}{% endfor %}"
    assert chat_text(chat(users), turns) == "[user]Be brief.\n\nWhy?"
    with pytest.raises(ValueError, match="leaves out what the user says; take prompt format human"):
        chat_text(chat("[user]"), turns[1:])


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}{{ m.content }} {% endfor %}", TurnEnd()),
        (EACH, TurnEnd(texts=("[user]",))),
        ("{% for m in messages %}{{ m.content }}</s>{% endfor %}", TurnEnd(tokens=frozenset({2}))),
        ("{% if messages[2] is defined %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}", TurnEnd()),
    ],
)
def test_what_ends_a_turn_by_its_template(template: str, end: TurnEnd) -> None:
    assert turn_end(chat(template), PromptFormat.chat) == end


def test_a_chats_special_tokens_are_the_templates_own() -> None:
    asked: list[Any] = []

    def encode(text: str, **how: Any) -> list[int]:
        asked.append((text, how))
        return [5]

    tokenizer: Any = made(
        chat_template="t",
        name_or_path="n",
        encode=encode,
        apply_chat_template=lambda turns, **how: turns[-1]["content"],
    )
    assert generate.fitting_prompt(tokenizer, [("user", "Why?")], PromptFormat.chat, 9) == ([5], 0)
    assert asked == [("Why?", {"add_special_tokens": False})]


@pytest.mark.parametrize(("num", "end"), [(5, "e"), (6, "e and 1 more"), (9, "e and 4 more")])
def test_five_of_many_names_are_told(num: int, end: str) -> None:
    assert named(list("abcdefghi")[:num]) == f"a, b, c, d, {end}"


def test_other_answers_of_a_run_are_named_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "answers").mkdir(parents=True)
    save_record(folder, record())
    names = [f"{letter}{number}" for letter in "dbca" for number in (2, 1, 3)]
    for name in names:
        (folder / "answers" / f"{name}.jsonl").write_text("")
    with pytest.raises(ValueError, match=f"the run has answers of {', '.join(sorted(names))}: name the file"):
        read_contestants([folder])


def test_turns_may_stand_in_any_order_and_none_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    def contestants(*turns: int) -> Any:
        written = [{"question_id": "1", "system": "s", "answer": f"t{turn}", "turn": turn} for turn in turns]
        path.write_text("".join(json.dumps(row) + "\n" for row in written))
        return read_contestants([path])["s"]["1"]

    assert contestants(1, 0) == contestants(0, 1)
    with pytest.raises(ValueError, match=r"turn 2 of question 1 without turn 1 \(they begin at 0\)"):
        contestants(2, 0)


def test_a_row_that_names_nobody_or_has_no_texts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question_id": 1, "answer": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1: system is None"):
        read_answers(path)
    path.write_text(json.dumps({"question_id": 1, "system": "s", "choices": "x" * 100}) + "\n")
    with pytest.raises(ValueError, match=rf"choices is '{'x' * 80}'; expected the texts of the turns in a list"):
        read_answers(path)
    assert (files.SYSTEMS[0], files.TEXTS[0], files.MAX_NAMED) == ("system", "answer", 5)


def test_a_request_is_of_the_first_turn_and_drops_none() -> None:
    request = Request(system="s", member=None, question_id="1", prompt_tokens=[1], seed=2)
    assert (request.turn, request.num_dropped_turns) == (0, 0)
    answer = generate._answer(request, "text", made(tokens=(1, 2), finish_reason="eos"), "q")
    assert dataclasses.asdict(answer) == {
        "question_id": "1", "system": "s", "question": "q", "answer": "text", "num_tokens": 2, "finish_reason": "eos",
        "seed": 2, "turn": 0, "num_dropped_turns": 0,
    }  # fmt: skip


def test_a_runs_digest_does_not_depend_on_the_order_of_its_record(tmp_path: Path) -> None:
    digests = set()
    for place, quant in enumerate(({"a": 1, "b": 2}, {"b": 2, "a": 1})):
        save_record(tmp_path / str(place), dataclasses.replace(record(), spec={"quant": quant}))
        digests.add(run_sha256(made(folder=tmp_path / str(place))))
    assert len(digests) == 1
    assert run_sha256(made(folder=tmp_path / "none")) is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_of_any_system_are_read(end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["question_id,answer", '1,"a\r\nb"', "2,c", ""]).encode())
    found = read_rows(path)
    assert [row.values["answer"] for row in found] == ["a\r\nb", "c"]
    assert [row.values["question_id"] for row in found] == ["1", "2"]
    assert rows.MAX_FIELD_CHARACTERS == 2_147_483_647


@pytest.mark.parametrize(
    ("tokens", "reason", "stop", "found"),
    [
        ((5, 2, 7), "stop", None, ((5, 2, 7), "eos")),
        ((5, 7, 2), "stop", 2, ((5, 7), "eos")),
        ((), "stop", None, ((), "eos")),
        ((5, 2), "length", None, ((5, 2), "length")),
        ((5, 2), "stop", "END", ((5, 2), "stop")),
    ],
)
def test_what_vllm_says_of_an_end(tokens: tuple[int, ...], reason: str, stop: Any, found: Any) -> None:
    one = vllm._decoded(3, made(token_ids=tokens, finish_reason=reason, stop_reason=stop), frozenset({2}))
    assert (one.index, (one.tokens, one.finish_reason)) == (3, found)


def test_the_highest_rank_decides_and_tokenizers_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()
    given: list[Any] = []
    options: list[Any] = []
    source = made(location="x", max_length=64)
    for name, value in {
        "missing_vllm": lambda: None,
        "locate_model": lambda model, paths: source,
        "checkpoint_folder": lambda source, cache: tmp_path,
        "folder_fingerprint": lambda folder: "weights",
        "tokenizer_fingerprint": lambda folder: "words",
        "require_same_base": lambda *asked: given.append(asked[1:]),
        "require_same_tokenizer": lambda *asked: given.append(asked[1:]),
        "AutoConfig": made(from_pretrained=lambda folder: made(eos_token_id=3)),
        "AutoTokenizer": made(from_pretrained=lambda folder: made(eos_token_id=None)),
    }.items():
        monkeypatch.setattr(vllm, name, value)
    monkeypatch.setitem(sys.modules, "vllm", made(LLM=lambda **asked: options.append(asked)))
    monkeypatch.setitem(sys.modules, "vllm.lora", made())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", made(LoRARequest=lambda *asked: asked))
    systems: Any = [
        made(name="s", spec=spec(adapter=("lora", {"lora_r": rank})), member=f"m{next(numbers)}", folder=tmp_path)
        for rank in (4, 60, 16)
    ]
    base = vllm.load_vllm(systems, PathsConfig(cache=str(tmp_path)))
    assert (options[0]["max_lora_rank"], options[0]["max_model_len"], base.eos_tokens) == (64, 64, {3})
    assert given == [("weights", "x"), ("words", "x")]
    bare = {field.name: None for field in dataclasses.fields(base) if field.name != "loras"}
    assert vllm.VllmBase(**bare).loras == {}  # type: ignore[arg-type]
