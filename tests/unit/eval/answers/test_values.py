"""Values of answering by hand: what rows, settings and records say, and which sequences share a pass."""

import json
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval.answers import decoding, generate, sampling
from eval.answers.decoding import _sequences
from eval.answers.dialogue import chat_text, encode_dialogue, prompt_tokens
from eval.answers.files import (
    Answer,
    AnswerFile,
    contest_dialogues,
    load_answers,
    read_answers,
    read_contestants,
    unmatched_notes,
)
from eval.answers.generate import (
    Request,
    cut_at_stop,
    eos_tokens,
    plain_settings,
    prompt_seed,
    question_digests,
    stored_answers,
)
from eval.answers.key_value_cache import Decode, Shelf, Slots, _masks
from eval.answers.padded_batch import PaddedBatch
from eval.answers.prompt_format import PromptFormat
from eval.answers.questions import OpenQuestion, parse_open_question, shown_question, split_dialogue, text_identity
from eval.answers.rows import delimiter_of, field_name, identifier_text, is_table, read_rows
from eval.answers.sampling import TokenPicker, greedy_tokens, nucleus_tokens
from eval.answers.sequences import (
    DecodingRequest,
    DecodingSettings,
    UnderWay,
    member_ranks,
    numbers_ahead,
    uniform_numbers,
)
from eval.answers.settings import GenerateSettings
from eval.scoring.row_sizes import PREFILL_TOKENS, RowSizes
from harness.runs.record import save_record
from tests.builders import record
from tests.tiny import make_tokenizer


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def under_way(index: int, num_prompt: int, *new: int, most: int = 4, member: str | None = None) -> UnderWay:
    return UnderWay(index, DecodingRequest(tokens=[0] * num_prompt, member=member), most, None, list(new))


def test_where_nothing_is_said_answers_are_sampled_as_in_the_paper() -> None:
    assert GenerateSettings() == GenerateSettings(
        max_new_tokens=512, greedy=False, temperature=0.7, top_p=0.9, seed=0, stop=None,
        prompt_format=PromptFormat.auto, num_slots=None, engine="own",
    )  # fmt: skip
    for wrong in ({"top_p": 0.0}, {"temperature": -0.1}, {"num_slots": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GenerateSettings(**wrong)  # type: ignore[arg-type]
    bare = DecodingSettings(max_new_tokens=1, greedy=True, temperature=1.0, top_p=1.0)
    assert (bare.num_slots, bare.top_k, bare.repetition_penalty) == (None, None, 1.0)
    assert DecodingRequest(tokens=(), member=None).seed == 0
    answer = Answer(question_id="1", system="s", question="q", answer="a")
    assert (answer.turn, answer.num_dropped_turns) == (0, 0)


def test_what_stored_answers_are_tied_to() -> None:
    own = {"max_new_tokens": 512, "greedy": False, "temperature": 0.7, "top_p": 0.9, "seed": 0, "stop": None}
    own |= {"prompt_format": "auto"}
    assert plain_settings(GenerateSettings(num_slots=3)) == own
    assert plain_settings(GenerateSettings(engine="vllm", stop=("a",))) == own | {"engine": "vllm", "stop": ["a"]}
    question = OpenQuestion(question_id="7", turns=("a",), history=(("user", "b"),))
    assert question_digests([question]) == {"7": "817beb16b9416bc172bcd025bf8dd0e1e7014a0d710b4d755eb7618809a64c36"}
    assert [prompt_seed(*given) for given in ((0, "1", 0), (0, "1", 1), (1, "1", 0))] == [
        4647901070583256920,
        928868129704327324,
        8128906925085352365,
    ]
    assert text_identity(" Name a fruit\n") == text_identity("Name a fruit") == "text-ecfba0ce1ce46905"


def test_stored_answers_serve_while_nothing_that_decides_them_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"s": "run"}
    monkeypatch.setattr(generate, "run_sha256", lambda system: digests.get(system.name))
    monkeypatch.setattr(generate, "own_template", lambda system: None)
    system: Any = made(name="s", folder=tmp_path)
    one, two = (OpenQuestion(question_id=name, turns=turns) for name, turns in (("1", ("a",)), ("2", ("b", "c"))))
    settings = GenerateSettings(seed=3)
    rows = [
        {"question_id": n, "system": "s", "answer": f"{n} {t}", "turn": t} for n, t in (("2", 0), ("1", 0), ("2", 1))
    ]
    path, beside = tmp_path / "answers" / "open.jsonl", tmp_path / "answers" / "open.settings.json"

    def found(asked: Any = (one, two), how: Any = settings, tokenizer: Any = "t", bench: str = "open") -> Any:
        answers = stored_answers([system], asked, bench, how, tokenizer)
        return None if answers is None else [answer.answer for answer in answers["s"]]

    assert found() is None
    lines(path, *rows)
    assert found() is None
    stored = {"settings": plain_settings(settings), "run_sha256": "run", "tokenizer_sha256": "t"}
    stored |= {"questions": question_digests([one, two])}
    beside.write_text(json.dumps(stored))
    assert found() == ["1 0", "2 0", "2 1"]
    assert found(asked=(two,)) == ["2 0", "2 1"]
    assert found(tokenizer=None) == found(how=replace(settings, num_slots=2)) == ["1 0", "2 0", "2 1"]
    assert found(tokenizer="u") is None
    assert found(how=replace(settings, seed=4)) is None
    assert found(asked=(one, replace(two, turns=("b", "d")))) is None
    assert found(asked=(one, OpenQuestion(question_id="3", turns=("a",)))) is None
    assert found(bench="other") is None
    lines(path, *rows[:2])
    assert found() is None
    lines(path, *rows)
    digests["s"] = "another run"
    assert found() is None
    digests.clear()
    beside.write_text(json.dumps(stored | {"run_sha256": None}))
    assert found() is None


def test_what_is_handed_to_the_decoder_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def decode(*given: Any) -> Any:
        calls.append(given)
        yield made(index=1, tokens=(5, 6))
        yield made(index=0, tokens=(7,))

    decoded: list[Any] = []

    def read(tokens: list[int], **how: Any) -> str:
        decoded.append((tokens, how))
        return f" said {tokens} END more"

    monkeypatch.setattr(generate, "decode", decode)
    monkeypatch.setattr(generate, "turn_end", lambda *_: made(tokens=frozenset({9}), texts=("END",)))
    base: Any = made(
        max_length=10,
        tokenizer=made(decode=read, eos_token_id=2),
        bank=made(base=made(generation_config=made(eos_token_id=[3, None]))),
    )
    requests = [
        Request(system=name, member=member, question_id="1", prompt_tokens=[1] * size, seed=size)
        for name, member, size in (("ann", None, 1), ("bob", "b", 9))
    ]
    said: list[Any] = []
    done: list[Any] = []
    settings = GenerateSettings(max_new_tokens=4, greedy=True, temperature=0.5, top_p=0.25, num_slots=6)
    generate.generate(base, requests, settings, lambda *one: said.append(one[:2]), lambda *n: done.append(n))
    assert said == [(requests[1], "said [5, 6]"), (requests[0], "said [7]")]
    assert done == [(1, 2), (2, 2)]
    ((_, asked, how, eos, should_stop),) = calls
    assert asked == [
        DecodingRequest(tokens=[1], member=None, seed=1, system="ann"),
        DecodingRequest(tokens=[1] * 9, member="b", seed=9, system="bob"),
    ]
    assert how == DecodingSettings(max_new_tokens=4, greedy=True, temperature=0.5, top_p=0.25, num_slots=6)
    assert eos == {2, 3, 9}
    assert all(kept == {"skip_special_tokens": True} for _, kept in decoded)
    assert should_stop(list(range(20))) is True
    assert decoded[-1] == (list(range(9, 20)), {"skip_special_tokens": True})  # END has 3 bytes
    generate.generate(base, requests, replace(settings, stop=()), lambda *_: None)
    assert calls[1][4] is None
    generate.generate(base, requests, replace(settings, stop=("a", "END")), lambda *_: None)
    assert calls[2][4]([1]) is True
    generate.generate(base, requests, replace(settings, stop=("b", "c")), lambda *_: None)
    assert calls[3][4]([1]) is False


@pytest.mark.parametrize(("configured", "own", "ends"), [(3, 4, {3, 4}), ([3, 5], 3, {3, 5}), (None, None, set())])
def test_tokens_that_end_an_answer(configured: Any, own: int | None, ends: set[int]) -> None:
    bank = made(base=made(generation_config=made(eos_token_id=configured)))
    assert eos_tokens(made(bank=bank, tokenizer=made(eos_token_id=own))) == ends


def test_a_prompt_may_fill_all_but_one_token_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Request]] = []
    monkeypatch.setattr(generate, "generate", lambda base, requests, *_: asked.append(requests))
    budgets: list[int] = []

    def fitting(tokenizer: Any, dialogue: Any, prompt_format: Any, budget: int) -> tuple[list[int], int]:
        budgets.append(budget)
        return [1] * len(dialogue[-1][1]), 2

    monkeypatch.setattr(generate, "fitting_prompt", fitting)
    questions = [OpenQuestion(question_id=str(size), turns=("x" * size,)) for size in (8, 9, 10, 11)]
    system = made(name="ann", member="a")
    generate._answer_turn(
        made(max_length=10, tokenizer=None), [system], questions, 0, {"ann": made(answers={})},
        GenerateSettings(max_new_tokens=3, seed=5), None,
    )  # fmt: skip
    assert [len(request.prompt_tokens) for request in asked[0]] == [8, 9]
    assert set(budgets) == {7}
    assert asked[0][0] == Request(
        system="ann", member="a", question_id="8", prompt_tokens=[1] * 8, seed=prompt_seed(5, "8", 0), turn=0,
        num_dropped_turns=2,
    )  # fmt: skip

    def refused(*_: Any) -> Any:
        raise ValueError("why")

    monkeypatch.setattr(generate, "fitting_prompt", refused)
    with pytest.raises(ValueError, match="ann, question 8: why"):
        generate._request(
            made(max_length=10, tokenizer=None), system, questions[0], 0, made(answers={}), GenerateSettings()
        )


@pytest.mark.parametrize(
    ("text", "kept"), [("### Human: x", ""), ("a ### Human:", "a"), (" a ", "a"), ("a x b ### Human:", "a")]
)
def test_an_answer_may_be_nothing_but_what_ends_it(text: str, kept: str) -> None:
    assert cut_at_stop(text, ("### Human:", "x")) == kept


def test_a_new_token_needs_room_in_the_context() -> None:
    base: Any = made(max_length=4)
    requests = [DecodingRequest(tokens=[1] * size, member=None, seed=size) for size in (1, 3, 2)]
    found = _sequences(base, requests, DecodingSettings(max_new_tokens=2, greedy=False, temperature=1.0, top_p=1.0))
    assert [(one.index, one.max_new_tokens) for one in found] == [(1, 1), (2, 2), (0, 2)]
    assert found[0].uniform_T is not None
    assert torch.equal(found[0].uniform_T, uniform_numbers(3, 1))
    assert found[0].uniform_T.dtype is torch.float64
    with pytest.raises(ValueError, match="request 0 has a prompt of 0 tokens; this model's context of 4"):
        _sequences(base, [DecodingRequest(tokens=[], member=None)], requests[0])  # type: ignore[arg-type]
    assert member_ranks(["b", None, "b", "a"]) == {"b": 0, None: 1, "a": 2}


def test_prompts_are_read_together_up_to_a_row() -> None:
    def placed(limit: int, halvings: int = 0) -> list[int]:
        sizes = RowSizes(row_tokens=limit, kept_tokens=10**6)
        batch = decoding._Batch(made(bank=None, settings=made(num_slots=None)), [None], sizes)
        waiting = deque([under_way(0, 5), under_way(1, 3, 7), under_way(2, 1)])
        started = batch._place(waiting, 8, halvings)
        assert [one.index for _, _, one in started] + [one.index for one in waiting] == [0, 1, 2]
        return [one.index for _, _, one in started]

    assert [placed(limit) for limit in (1, 8, 9, 10)] == [[0], [0], [0, 1], [0, 1, 2]]
    assert placed(19, halvings=1) == [0, 1]


@pytest.mark.parametrize(("own", "num", "least"), [(None, 5, 5), (3, 5, 3), (9, 5, 5), (None, 40, 32)])
def test_as_many_sequences_as_there_are_prompts_slots_or_room(
    own: int | None, num: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def backoff(*given: Any) -> Any:
        raise Seen(given)

    monkeypatch.setattr(decoding, "Backoff", backoff)
    settings = DecodingSettings(max_new_tokens=1, greedy=True, temperature=1.0, top_p=1.0, num_slots=own)
    requests = [DecodingRequest(tokens=[1], member=None)] * num
    with pytest.raises(Seen) as seen:
        list(decoding.decode(made(max_length=9, bank=made(device="cpu")), requests, settings, frozenset()))
    assert seen.value.args[0] == (
        least, "cpu", "prompt with its answer", "shorten the prompts or take a lower max_new_tokens",
    )  # fmt: skip


def test_rows_of_new_prompts_have_a_size_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def sizes(bank: Any, usual: Any) -> Any:
        asked.append(usual)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "row_sizes", sizes)
    settings = DecodingSettings(max_new_tokens=1, greedy=True, temperature=1.0, top_p=1.0)
    with pytest.raises(KeyboardInterrupt):
        list(
            decoding.decode(
                made(max_length=9, bank=made(device="cpu")), [DecodingRequest(tokens=[1], member=None)], settings,
                frozenset(),
            )
        )  # fmt: skip
    assert asked == [PREFILL_TOKENS]


def padded_batch(own: int | None = None, keeps: bool = True, row: int = 99, kept: int = 99) -> PaddedBatch:
    bank = made(layout=made(keeps_cache=keeps))
    sizes = RowSizes(row_tokens=row, kept_tokens=kept)
    return PaddedBatch(made(bank=bank, settings=made(num_slots=own)), ["b", None, "a"], sizes)


def test_a_padded_batch_is_as_wide_as_its_longest() -> None:
    def taken(num_slots: int = 9, halvings: int = 0, **how: Any) -> list[int]:
        waiting = deque([under_way(0, 6, member="a"), under_way(1, 8, member="b"), under_way(2, 1, member="b")])
        return [one.index for one in padded_batch(**how)._take(waiting, num_slots, halvings)]

    assert taken() == [1, 2, 0]  # those of one member together
    assert [taken(num_slots) for num_slots in (1, 2)] == [[0], [1, 0]]
    assert [taken(kept=limit) for limit in (1, 23, 24, 35, 36)] == [[0], [0], [1, 0], [1, 0], [1, 2, 0]]
    assert [taken(keeps=False, row=limit) for limit in (23, 24)] == [[0], [1, 0]]
    assert [taken(halvings=1, kept=limit) for limit in (47, 48)] == [[0], [1, 0]]
    assert taken(own=3, kept=1) == [1, 2, 0]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_padded_batch_reads_each_sequence_to_its_end(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []
    picked: list[Any] = []

    def bank(row: Any, segments: Any, plan: Any) -> Any:
        rows.append((row, [(one.num_tokens, one.member) for one in segments], plan))
        return torch.arange(row.shape[1], device=device)[None, :, None]

    bank.device, bank.base = torch.device(device), "base"  # type: ignore[attr-defined]
    bank.layout = made(keeps_cache=True)  # type: ignore[attr-defined]
    monkeypatch.setattr("eval.answers.padded_batch.BatchCache", made(of=lambda base: f"cache of {base}"))
    picker = made(bank=bank, settings=made(num_slots=None), pick=lambda *given: picked.append(given))
    batch = PaddedBatch(picker, ["b", None], RowSizes(row_tokens=99, kept_tokens=99))
    waiting = deque([under_way(0, 3), under_way(1, 2, member="b")])
    stepped = batch.advance(waiting, 2, 0)
    assert [one.index for one in stepped] == [1, 0]
    (row, segments, plan), (hidden, _, numbers) = rows[0], picked[0]
    assert (segments, plan, numbers) == ([(2, "b"), (3, None)], "cache of base", None)
    assert (row.device.type, hidden.device.type, tuple(row.shape), tuple(hidden.shape)) == (
        device, device, (1, 5), (2, 1),
    )  # fmt: skip
    if device == "cpu":
        assert hidden[:, 0].tolist() == [1, 4]
    for one in stepped:
        one.new_tokens.append(7)
    batch.advance(waiting, 2, 0)
    assert (rows[1][1], tuple(rows[1][0].shape)) == ([(1, "b"), (1, None)], (1, 2))
    bank.layout.keeps_cache = False  # type: ignore[attr-defined]
    whole = PaddedBatch(picker, [None], RowSizes(row_tokens=99, kept_tokens=99))
    whole.advance(deque([under_way(0, 2)]), 1, 0)
    whole._rows[0].new_tokens.append(7)
    whole.advance(waiting, 1, 0)
    assert [(one[1], one[2]) for one in rows[2:]] == [([(2, None)], None), ([(3, None)], None)]


def test_what_a_pass_needs_lies_on_the_device_of_the_cache() -> None:
    device = torch.device("meta")
    slots = Slots([Shelf(num_slots=2, max_tokens=9, lengths=[4, 6])], [1, 0], device)
    assert {one.device.type for one in (slots.slot_of_row, slots.row_of_slot, slots.ends)} == {"meta"}
    assert (
        numbers_ahead([UnderWay(0, DecodingRequest(tokens=[1], member=None), 4, torch.ones(4))], 2, device) is not None
    )
    ((_, mask),) = _masks([4, 6], slots.ends, torch.zeros(1, device=device), 3)
    assert (mask.device.type, tuple(mask.shape)) == ("meta", (2, 1, 1, 7))


def test_a_padded_batch_keeps_the_cache_of_those_that_go_on() -> None:
    batch = padded_batch()
    kept: list[list[int]] = []
    batch._cache = made(keep=kept.append)
    batch._rows = [under_way(n, 1, 5, 6) for n in range(3)]
    assert batch.retire({}) == []
    assert [(one.index, one.tokens) for one in batch.retire({1: "eos"})] == [(1, (5,))]
    assert (kept, [row.index for row in batch._rows], batch.is_empty) == ([[0, 2]], [0, 2], False)
    assert [one.index for one in batch.retire({0: "length", 2: "stop"})] == [0, 2]
    assert (kept, batch.is_empty) == ([[0, 2]], True)
    batch._rows = [under_way(3, 1)]
    waiting = deque([under_way(4, 2)])
    batch.give_up(waiting)
    assert ([one.index for one in waiting], batch._cache, batch.is_empty) == ([4, 3], None, True)


def test_the_longest_sequence_has_one_token_more_after_a_pass() -> None:
    shelves = [Shelf(num_slots=2, max_tokens=9, lengths=[4, 6]), Shelf(num_slots=1, max_tokens=9)]
    assert Decode(Slots(shelves, [1, 0], torch.device("cpu"))).longest == 7
    empty = [Shelf(num_slots=1, max_tokens=9)]
    assert Decode(Slots(empty, [], torch.device("cpu"))).longest == 1


def test_marks_of_rows_without_a_token_are_no_tokens() -> None:
    assert (sampling._WIDE, sampling._NOT_FINITE) == (-1, -2)
    nan = torch.full((1, 300), float("nan"))
    flat = torch.linspace(0, -0.1, 300)[None]
    number = torch.tensor([0.0, 0.999], dtype=torch.float64)
    on_device, found = nucleus_tokens(torch.cat([nan, flat]), number, 1.0, 0.9)
    assert found == on_device.tolist()
    assert found[0] == -2
    assert 256 <= found[1] < 280  # the last of the nucleus, which 256 tokens don't fill
    assert greedy_tokens(torch.tensor([[1.0, float("inf")], [2.0, 1.0]]))[1] == [-2, 0]


def test_a_nucleus_ends_where_its_tokens_reach_top_p() -> None:
    numbers = torch.linspace(0, 0.99, 50, dtype=torch.float64)
    for top_p, num in ((0.5, 2), (0.51, 3), (0.25, 1), (1.0, 4)):
        assert len(set(nucleus_tokens(torch.zeros(50, 4), numbers, 1.0, top_p)[1])) == num
    row = UnderWay(0, DecodingRequest(tokens=[1], member=None), 4, uniform_numbers(3, 4), [7])
    ahead = numbers_ahead([row], 2, torch.device("cpu"))
    assert ahead is not None
    assert torch.equal(ahead[0], uniform_numbers(3, 4)[1:3])


@pytest.mark.parametrize(
    ("system", "member", "who"),
    [
        ("ann", "a", "m with adapter ann"),
        (None, "a", "m with adapter a"),
        (None, None, "m with no adapter"),
        ("m", None, "m with no adapter"),
    ],
)
def test_logits_that_are_no_numbers_are_whose(system: str | None, member: str | None, who: str) -> None:
    settings = DecodingSettings(max_new_tokens=1, greedy=True, temperature=1.0, top_p=1.0)
    picker = TokenPicker(bank=made(logits=lambda hidden: hidden), settings=settings, model="m")
    request = DecodingRequest(tokens=[1, 2], member=member, system=system)
    with pytest.raises(ValueError, match=f"^{who}: its logits are NaN or infinite after 3 tokens"):
        picker.pick(torch.tensor([[float("nan"), 1.0]]), [UnderWay(0, request, 4, None, [5])], None)


def test_a_picker_weighs_and_limits_tokens_before_it_draws() -> None:
    logits = torch.tensor([[2.0, 1.9, 0.0]])
    row = UnderWay(0, DecodingRequest(tokens=[0], member=None), 4, None)
    number = torch.tensor([[0.999]], dtype=torch.float64)

    def picked(uniform: Any = None, top_p: float = 1.0, **how: Any) -> int:
        settings = DecodingSettings(max_new_tokens=1, greedy=True, temperature=1.0, top_p=top_p, **how)
        picker = TokenPicker(bank=made(logits=lambda hidden: hidden), settings=settings, model="m")
        return int(picker.pick(logits, [row], uniform)[0])

    assert picked() == 0
    row.new_tokens.clear()
    assert picked(repetition_penalty=1.2) == 1
    row.new_tokens.clear()
    assert [picked(number), picked(number, top_k=2), picked(number, top_k=1)] == [2, 1, 0]
    assert row.new_tokens == [2, 1, 0]


CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_chat_template_writes_the_whole_prompt() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    tokens = encode_dialogue(tokenizer, [("user", "Hi"), ("assistant", "Ho"), ("user", "So?")], PromptFormat.chat)
    assert tokenizer.decode(tokens) == "<|user|>Hi\n<|assistant|>Ho\n<|user|>So?\n<|assistant|>"


def test_a_system_sentence_stands_before_the_first_of_several_turns() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}"
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, ("Be kind.", "a", "b", "c"), strict=True)]
    assert chat_text(tokenizer, messages) == "[Be kind.\n\na][b][c]"


@pytest.mark.parametrize(
    ("whole", "own", "kept"),
    [
        ([1, 5, 6, 2], [5, 6], [1, 5, 6]),
        ([5, 6, 2], [5, 6], [5, 6]),
        ([1, 5, 6], [5, 6], [1, 5, 6]),
        ([1, 7, 8, 2], [5, 6], [1, 7]),  # not to be found in it
        ([], [], []),
        ([1, 2], [], [1, 2]),
    ],
)
def test_a_token_that_is_appended_to_a_prompt_is_left_out(whole: list[int], own: list[int], kept: list[int]) -> None:
    tokenizer: Any = made(
        all_special_ids=[1, 2], encode=lambda text, add_special_tokens: whole if add_special_tokens else own
    )
    assert prompt_tokens(tokenizer, "text") == kept


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("### Human: a ### Assistant: b", [("user", "a"), ("assistant", "b")]),
        ("### Assistant: ", []),
        ("### Human: a ### Human:", [("user", "a"), ("user", "")]),
        (None, []),
    ],
)
def test_a_dialogue_ends_where_the_model_goes_on(text: Any, turns: list[tuple[str, str]]) -> None:
    assert split_dialogue(text) == turns


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"reference": "r"}, {"references": ("r",)}),
        ({"reference": ["r", ""], "turns": ["a", "b"]}, {"references": ("r", "")}),
        ({"reference": ["", " "]}, {"references": ()}),
        ({"reference": ""}, {"references": ()}),
        ({"reference": None}, {"references": ()}),
        ({"turns": ["b", "c"]}, {"turns": ("b", "c")}),
        ({"turns": []}, {"turns": ("a",)}),
        ({"message_id": "m", "parent_id": 3.0}, {"aliases": ("3", "m", text_identity("a"))}),
        ({"message_id": "7"}, {"aliases": ("7", text_identity("a"))}),
        ({"instruction": "b"}, {"turns": ("a",)}),
    ],
)
def test_a_questions_fields(row: dict[str, Any], expected: dict[str, Any]) -> None:
    question = parse_open_question({"question_id": 7, "text": "a"} | row, "w")
    assert {key: getattr(question, key) for key in expected} == expected
    assert question.question_id == "7"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "reference": 3}, "w: reference is '3'; expected a text, or one text a turn in a list"),
        ({"text": "a", "reference": ["r", 2]}, "w: reference is"),
        ({"turns": []}, r"w: turns is \[\]; expected text"),
        ({"text": "a", "parent_id": False}, "w: parent_id is False"),
    ],
)
def test_questions_fields_that_cannot_be(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_open_question({"question_id": 7} | row, "w")


def test_a_question_without_a_name_is_known_by_its_instruction() -> None:
    question = parse_open_question({"instruction": " b "}, "w")
    assert (question.question_id, question.aliases) == (text_identity("b"), (text_identity("b"),))
    shown = shown_question(replace(question, references=("r",)))
    assert (shown.references, shown.category, shown.text, shown.turns) == (("r",), "general", " b ", (" b ",))


AUTHORS = {"question_id": 1, "text": "Why?", "generation": "So."}
WHOLE = {"question_id": 1, "system": " s ", "question": "q", "answer": "", "num_tokens": "3", "finish_reason": "eos"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (WHOLE | {"seed": 4.0, "turn": 0, "num_dropped_turns": 2},
         {"system": "s", "question": "q", "answer": "", "num_tokens": 3, "finish_reason": "eos", "seed": 4, "turn": 0,
          "num_dropped_turns": 2}),
        (WHOLE | {"finish_reason": 3, "num_tokens": None, "turn": 2},
         {"finish_reason": None, "num_tokens": None, "seed": None, "turn": 2, "num_dropped_turns": 0}),
        (AUTHORS, {"system": "a", "question": "Why?", "answer": "So."}),
        (AUTHORS | {"question": "q"}, {"question": "Why?"}),
        (AUTHORS | {"text": None}, {"question": ""}),
        ({"instruction": "i", "generator": "g", "output": "o"}, {"system": "g", "question": "i", "answer": "o"}),
        ({"question_id": 1, "model": "m", "text": "t"}, {"system": "m", "question": "", "answer": "t"}),
    ],
)  # fmt: skip
def test_an_answers_fields(tmp_path: Path, row: dict[str, Any], expected: dict[str, Any]) -> None:
    (answer,) = read_answers(lines(tmp_path / "a.jsonl", row))
    assert {key: getattr(answer, key) for key in expected} == expected


def test_turns_of_a_row_are_numbered_on(tmp_path: Path) -> None:
    row = {"question_id": 1, "system": "s", "turns": ["x", "y"], "turn": 1}
    assert [(answer.turn, answer.answer) for answer in read_answers(lines(tmp_path / "a.jsonl", row))] == [
        (1, "x"),
        (2, "y"),
    ]


def test_a_file_of_answers_is_begun_gone_on_with_and_thrown_away(tmp_path: Path) -> None:
    path, beside = tmp_path / "open.jsonl", tmp_path / "open.settings.json"
    wanted = {"settings": {"seed": 1}, "model_sha256": "m", "tokenizer_sha256": "t", "questions": {"1": "d"}}
    more = wanted | {"questions": {"2": "e"}}

    def known() -> dict[str, str]:
        questions: dict[str, str] = json.loads(beside.read_text())["questions"]
        return questions

    assert AnswerFile.open(path, "s", wanted, fresh=False).answers == {}
    AnswerFile.open(path, "s", more, fresh=False)
    assert known() == {"2": "e"}  # there are no answers to the first
    file = AnswerFile.open(path, "s", wanted, fresh=False)
    answer = Answer(question_id="1", system="s", question="q", answer="a")
    file.add(answer)
    assert AnswerFile.open(path, "s", more, fresh=False).answers == {("1", 0): answer}
    assert known() == {"1": "d", "2": "e"}
    lines(path, *({"question_id": n, "system": name, "answer": "a"} for n, name in ((1, "s"), (2, "old"))))
    renamed = AnswerFile.open(path, "s", more, fresh=False)
    assert {one.system for one in renamed.answers.values()} == {one.system for one in read_answers(path)} == {"s"}
    beside.unlink()
    with pytest.raises(ValueError, match=r"holds answers made otherwise \(no settings are stored beside them\)"):
        AnswerFile.open(path, "s", more, fresh=False)
    assert AnswerFile.open(path, "s", more, fresh=True).answers == {}
    assert (path.exists(), known()) == (False, {"2": "e"})


def test_answers_that_stand_twice(tmp_path: Path) -> None:
    row = {"question_id": 1, "system": "s", "answer": "a"}
    path = lines(tmp_path / "a.jsonl", row, row)
    assert load_answers([path]) == {("s", "1"): "a"}
    lines(path, row, row | {"answer": "b"})
    with pytest.raises(ValueError, match=r"line 2: s answers question 1 again, after .*line 1"):
        read_contestants([path])
    run = tmp_path / "run"
    lines(run / "answers" / "open.jsonl", row, row)
    with pytest.raises(ValueError, match=r"line 2: s answers question 1 again"):
        read_contestants([run])
    lines(run / "answers" / "open.jsonl", row)
    save_record(run, replace(record(), label="now"))
    assert read_contestants([run, lines(path, row)]) == {"now": {"1": "a"}, "s": {"1": "a"}}
    assert read_contestants([lines(path, row | {"turn": 1, "answer": "b"}, row | {"turn": 0})]) == {
        "s": {"1": "Turn 1:\na\n\nTurn 2:\nb"}
    }
    lines(path, row | {"answer": " "})
    assert contest_dialogues([path], [OpenQuestion(question_id="1", turns=("q",))]) == ({"s": {"1": (" ",)}}, [])
    with pytest.raises(ValueError, match="line 1: the answer of s to question 1 is empty"):
        read_contestants([path], may_be_empty=False)
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no answers"):
        read_contestants([path])
    with pytest.raises(ValueError, match=r"c\.jsonl: no such answer file; make it with `python -m eval generate`$"):
        read_contestants([tmp_path / "c.jsonl"])


def test_names_that_fit_nothing_are_said_in_order() -> None:
    answers = {(system, question): "x" for system in "zya" for question in "321"}
    assert unmatched_notes(answers, "adcb", "9871") == [
        "2 systems of the answers are in no verdict: y, z",
        "3 systems of the verdicts have no answers: b, c, d",
        "2 questions of the answers are in no verdict: 2, 3",
        "3 questions of the verdicts have no answers: 7, 8, 9",
    ]
    assert unmatched_notes(answers, "zya", "321") == []


def test_tables_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("A b,,\n1,2,3\n\n4,5,6\n")
    assert [(row.place, row.where, dict(row.values)) for row in read_rows(path)] == [
        ("line 2", f"{path}: line 2", {"a_b": "1", "": "3"}),
        ("line 4", f"{path}: line 4", {"a_b": "4", "": "6"}),
    ]
    long = "x" * 200_000
    path.write_text(f"a\tb\n{long}\t1\n")
    assert read_rows(path)[0].values == {"a": long, "b": "1"}
    for text, message in (("a,b,A\n", "column a appears twice"), ("a,b\n1\n", "line 2: 1 fields, the header has 2")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_rows(path)
    path.write_text("")
    assert read_rows(path) == []
    assert [is_table(Path(name)) for name in ("a.TSV", "a.csv.gz", "a.json", "csv")] == [True, True, False, False]
    assert [delimiter_of(text) for text in ("a;b,c", "a\tb;c", "a\tb", "a")] == [",", ";", "\t", ","]
    assert [identifier_text(text) for text in (" 1.00", "-2.0", "1.5", "1.0.0", "a ")] == [
        "1",
        "-2",
        "1.5",
        "1.0.0",
        "a",
    ]
    assert field_name("\ufeff Question  ID ") == "question_id"


def test_lines_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"a": 1}\n \n{"a": "\u2028"}\n')
    assert [(row.place, row.values["a"]) for row in read_rows(path)] == [("line 2", 1), ("line 4", "\u2028")]
    path.write_text('{"a": 1}\n{"a"\n{"a": 2}')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_rows(path, may_end_torn=True)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="entry 1: expected a JSON object, found int"):
        read_rows(path)
    path.write_text(' [{"a": 1}, {"a": 2}]')
    assert [(row.where, row.place) for row in read_rows(path)] == [(f"{path}: entry {n}", f"entry {n}") for n in (1, 2)]
