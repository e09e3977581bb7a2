"""Parts of answering by hand: where a sequence goes, which token is drawn, why an answer ends, what a row says."""

from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval.answers import decoding
from eval.answers.decoding import _finish_reasons, _OnShelf
from eval.answers.files import _difference, _number, named
from eval.answers.generate import Request, _is_next, generate
from eval.answers.key_value_cache import Shelf, Slots, _masks
from eval.answers.questions import OpenQuestion, parse_open_question
from eval.answers.rows import Row
from eval.answers.sampling import _NOT_FINITE, greedy_tokens, likeliest_only, nucleus_tokens, penalized
from eval.answers.sequences import DecodingRequest, UnderWay, numbers_ahead, wait_again
from eval.answers.settings import GenerateSettings
from eval.scoring.row_sizes import RowSizes


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def shelf(num_slots: int, max_tokens: int, *used: int) -> _OnShelf:
    return _OnShelf(Shelf(num_slots=num_slots, max_tokens=max_tokens, lengths=list(used)))


def test_a_shelf_holds_what_fits_and_suits_what_takes_half_of_a_slot() -> None:
    first, full = shelf(2, 10, 3), shelf(1, 10, 3)
    assert [first.holds(made(num_tokens=n)) for n in (1, 10, 11)] == [True, True, False]
    assert not full.holds(made(num_tokens=1))
    assert [first.suits(made(num_tokens=n)) for n in (4, 5, 10)] == [False, True, True]
    assert (first.cache.num_free, first.cache.num_tokens) == (1, 20)


def placed(
    shelves: Sequence[_OnShelf],
    sizes: Sequence[int],
    num_slots: int,
    kept: int = 10**6,
    halvings: int = 0,
    own: int | None = None,
) -> tuple[int, int, int] | None:
    """(its place, slots, tokens a slot) of the shelf that the first of these sizes goes to."""
    batch = decoding._Batch(
        made(bank=None, settings=made(num_slots=own)), [None], RowSizes(row_tokens=9, kept_tokens=kept)
    )
    batch.shelves = list(shelves)
    found = batch._shelf_for(deque(made(num_tokens=n) for n in sizes), num_slots, halvings)
    return None if found is None else (batch.shelves.index(found), found.cache.num_slots, found.cache.max_tokens)


def test_which_shelf_a_sequence_goes_to() -> None:
    waiting = [100, 60, 50, 49]
    assert placed([], waiting, 8) == (0, 3, 100)  # as many slots as sequences that take half of one
    assert placed([], waiting, 2) == (0, 2, 100)
    assert placed([], waiting, 8, kept=299) == (0, 2, 100)
    assert placed([], waiting, 8, kept=599, halvings=1) == (0, 2, 100)
    assert placed([], waiting, 8, kept=99) == (0, 1, 100)  # one is tried in any case
    assert placed([], waiting, 8, kept=99, own=8) == (0, 3, 100)  # what the user asked for
    wide, full = shelf(3, 100, 100), shelf(2, 100, 9, 9)
    assert placed([wide], [50], 9) == (0, 3, 100)
    assert placed([wide], [49], 4) == (1, 1, 49)  # a shelf of its own while slots are left
    assert placed([wide], [49], 3) == (0, 3, 100)  # then any
    assert placed([full], [49], 2) is None
    assert placed([full], [49], 3, kept=249) == (1, 1, 49)
    assert placed([full], [49], 3, kept=248) is None  # until longer ones give their memory back
    assert placed([wide, shelf(2, 60, 60)], [50], 9) == (1, 2, 60)  # the closest


def test_why_an_answer_ends() -> None:
    def rows(*found: tuple[list[int], int]) -> list[Any]:
        return [made(index=at, new_tokens=tokens, max_new_tokens=most) for at, (tokens, most) in enumerate(found)]

    stepped = rows(([5, 2], 2), ([5, 6], 2), ([5], 2), ([2, 5], 3), ([7], 9), ([7], 1))
    assert _finish_reasons(stepped, frozenset({2}), None) == {0: "eos", 1: "length", 5: "length"}
    stops = _finish_reasons(stepped, frozenset({2}), lambda tokens: 7 in tokens)
    assert stops == {0: "eos", 1: "length", 4: "stop", 5: "stop"}


def test_a_token_is_drawn_from_the_smallest_set_of_likely_ones() -> None:
    logits = torch.log(torch.tensor([0.15, 0.5, 0.05, 0.3]))

    def drawn(*numbers: float, top_p: float = 0.75, temperature: float = 1.0) -> list[int]:
        uniform = torch.tensor(numbers, dtype=torch.float64)
        on_device, found = nucleus_tokens(logits.expand(len(numbers), 4), uniform, temperature, top_p)
        assert on_device.tolist() == found
        return found

    assert drawn(0.0, 0.62, 0.63, 0.999999) == [1, 1, 3, 3]  # 0.5 and 0.3 of 0.8
    assert drawn(0.49, 0.51, 0.79, 0.81, 0.94, 0.96, top_p=1.0) == [1, 3, 3, 0, 0, 2]
    assert drawn(0.999999, top_p=0.4) == [1]
    cold = 0.25 / (0.25 + 0.09)  # at half the temperature chances are squared
    assert drawn(cold - 0.01, cold + 0.01, temperature=0.5) == [1, 3]


def test_other_ways_to_weigh_tokens() -> None:
    assert greedy_tokens(torch.tensor([[1.0, 3.0, 3.0], [float("nan"), 1.0, 2.0]]))[1] == [1, _NOT_FINITE]
    weighed = penalized(torch.tensor([[2.0, -2.0, 1.0]]), [[0, 1, 0]], 2.0)
    assert weighed.tolist() == [[1.0, -4.0, 1.0]]
    kept = likeliest_only(torch.tensor([[1.0, 3.0, 2.0]]), 2)
    assert kept.tolist() == [[float("-inf"), 3.0, 2.0]]
    assert likeliest_only(torch.tensor([[1.0, 3.0]]), 9).tolist() == [[1.0, 3.0]]


def under_way(index: int, num_prompt: int, *new: int, numbers: int | None = 4) -> UnderWay:
    uniform = None if numbers is None else torch.arange(numbers, dtype=torch.float64)
    return UnderWay(index, DecodingRequest(tokens=[0] * num_prompt, member=None), 4, uniform, list(new))


def test_random_numbers_follow_the_tokens_that_are_there() -> None:
    ahead = numbers_ahead([under_way(0, 3, 7), under_way(1, 3), under_way(2, 3, 7, 7, 7)], 3, torch.device("cpu"))
    assert ahead is not None
    assert ahead.tolist() == [[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]
    assert numbers_ahead([under_way(0, 3, numbers=None)], 3, torch.device("cpu")) is None


def test_what_was_under_way_waits_again_the_longest_prompt_first() -> None:
    waiting = deque([under_way(2, 5), under_way(3, 1)])
    wait_again(waiting, [under_way(0, 3, 7, 7, 7, 7), under_way(1, 9)])
    assert [(one.index, one.num_tokens, len(one.known)) for one in waiting] == [
        (1, 13, 9), (2, 9, 5), (0, 7, 7), (3, 5, 1),
    ]  # fmt: skip
    assert under_way(0, 1, 7, 2).finished("eos").tokens == (7,)
    assert under_way(0, 1, 7, 2).finished("length").tokens == (7, 2)


def test_each_slot_sees_its_own_tokens_and_no_more() -> None:
    query, ends = torch.zeros(1), torch.tensor([2, 0, 1])
    ((part, mask),) = _masks([2, 0, 1], ends, query, None)
    assert (part.start, part.stop, mask.shape) == (0, 3, (3, 1, 1, 3))
    assert (mask[:, 0, 0] == 0).tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    ((_, near),) = _masks([2, 0, 1], ends, query, 2)
    assert (near[:, 0, 0] == 0).tolist() == [[False, True, True], [True, False, False], [True, True, False]]
    parts = _masks([1] * 10, torch.ones(10, dtype=torch.long), query, None)
    assert [(part.start, part.stop) for part, _ in parts] == [(0, 8), (8, 10)]
    slots = Slots([Shelf(num_slots=2, max_tokens=9, lengths=[4, 6]), Shelf(num_slots=1, max_tokens=9, lengths=[5])],
                  [2, 0, 1], torch.device("cpu"))  # fmt: skip
    assert (slots.positions_1B.tolist(), slots.row_of_slot.tolist()) == ([[5, 4, 6]], [1, 2, 0])


def test_prompts_have_to_leave_room_for_an_answer() -> None:
    base: Any = made(max_length=4)
    for size in (0, 4):
        request = Request(system="ann", member=None, question_id="7", prompt_tokens=[1] * size, seed=0)
        with pytest.raises(ValueError, match=f"ann, question 7: a prompt of {size} tokens; the context of 4 must hold"):
            generate(base, [request], GenerateSettings(), lambda *_: None)


def test_a_turn_waits_for_the_one_before_it() -> None:
    question = OpenQuestion(question_id="1", turns=("a", "b"))
    answered: Any = [made(answers=dict.fromkeys(keys)) for keys in ([], [("1", 0)], [("1", 0), ("1", 1)])]
    assert [[_is_next(question, turn, file) for file in answered] for turn in (0, 1, 2)] == [
        [True, False, False], [False, True, False], [False, False, False],
    ]  # fmt: skip


def test_many_names_are_cut() -> None:
    assert (named([]), named("abcde"), named("abcdefg")) == ("", "a, b, c, d, e", "a, b, c, d, e and 2 more")


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, None), ("", None), (0, 0), ("7", 7), ("7.0", 7), (7.0, 7), (2**63, 2**63)],
)
def test_whole_numbers_of_a_row(value: Any, found: int | None) -> None:
    assert _number(Row(values={"seed": value}, where="x: line 1"), "seed") == found


@pytest.mark.parametrize("value", [-1, "a", 1.5, True, [1], 2**64, "nan", "inf"])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"x: line 1: seed is .*; expected a whole number of at least 0"):
        _number(Row(values={"seed": value}, where="x: line 1"), "seed")


def test_how_stored_answers_differ() -> None:
    wanted = {"settings": {"seed": 1, "top_p": 0.9}, "model_sha256": "m", "tokenizer_sha256": "t", "questions": {}}
    questions = {str(n): "d" for n in range(5)}
    assert _difference(None, wanted) == "no settings are stored beside them"
    assert _difference({**wanted, "questions": {"9": "x"}}, {**wanted, "questions": questions}) == ""
    assert _difference({**wanted, "tokenizer_sha256": None}, wanted) == ""
    stored = {
        "settings": {"seed": 2},
        "model_sha256": "n",
        "tokenizer_sha256": "u",
        "questions": dict.fromkeys(questions, "e"),
    }
    assert _difference(stored, {**wanted, "questions": questions}) == (
        "seed, top_p, the model, the tokenizer or its chat template, the text of question 0, the text of question 1, "
        "the text of question 2"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "w: question_id is None; expected a text or a number"),
        ({"question_id": True, "text": "a"}, "w: question_id is True; expected a whole number or a text"),
        ({"question_id": " ", "text": "a"}, "w: question_id is ' '"),
        ({"question_id": 1, "turns": ["a", " "]}, r"w: turns is \['a', ' '\]; expected text"),
        ({"question_id": 1, "turns": ["a", 2]}, "w: turns is"),
        ({"question_id": 1, "turns": "a"}, "w: turns is 'a'"),
        ({"question_id": 1, "text": " "}, "w: text is ' '"),
        ({"question_id": 1}, "w: has neither text nor turns"),
    ],
)
def test_what_is_no_question_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_open_question(row, "w")


def test_a_question_has_the_category_that_its_row_names() -> None:
    dialogue = "### Human: Hi ### Assistant:"
    assert parse_open_question({"question_id": 1, "text": "a"}, "w").category is None
    assert parse_open_question({"question_id": 1, "text": "a", "category": " x "}, "w").category == "x"
    assert parse_open_question({"question_id": 1, "input": dialogue}, "w").category == "open-assistant"
    assert parse_open_question({"question_id": 1, "input": dialogue, "category": " "}, "w").category == "open-assistant"
    with pytest.raises(ValueError, match="stop: an empty text would end every answer"):
        GenerateSettings(stop=("a", ""))
    assert GenerateSettings(stop=("a",), max_new_tokens=1, top_p=1.0, num_slots=1).stop == ("a",)
