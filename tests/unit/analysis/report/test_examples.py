"""Judged pairs, failing answers and the data that pages read: by value, from verdicts and answers made by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.report.examples.failures import failures, repeats_itself
from analysis.report.examples.items import Item, judged_items
from analysis.report.matches import Tally
from analysis.report.site import data
from analysis.report.site.names import page_name
from analysis.report.site.script_data import shown_text
from analysis.report.site.systems import category_rates, opponents, subject_scores, system_scores
from eval.answers.files import Answer
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED


def made(**values: Any) -> Any:
    return SimpleNamespace(**values)


def answer(text: str, question: str = "q", why: str | None = "eos", tokens: int | None = 3) -> Answer:
    return Answer(question_id=question, system="s", question="?", answer=text, num_tokens=tokens, finish_reason=why)


def verdict(question: str, first: str, second: str, code: int, judge: str = "j") -> Any:
    return made(question_id=question, first=first, second=second, verdict=code, judge=judge)


def items_of(*verdicts: Any, votes: tuple[Any, ...] = (), answers: Any = None) -> tuple[Item, ...]:
    return judged_items(made(verdicts=verdicts, votes=votes), ["a", "b", "c"], answers or {})


def test_verdicts_on_two_answers_are_told_of_the_higher_system() -> None:
    answers = {"a": {"q": answer("long one")}, "b": {"q": answer("short", why="length")}, "c": {"q": answer(" \n")}}
    found = items_of(
        verdict("q", "a", "b", FIRST), verdict("q", "b", "a", SECOND), verdict("q", "b", "a", FIRST),
        verdict("q", "b", "a", TIE), verdict("q", "c", "a", UNPARSED), verdict("q", "a", "nobody", FIRST),
        verdict("q2", "nobody", "a", FIRST), votes=(verdict("q", "b", "a", FIRST, judge=""),), answers=answers,
    )  # fmt: skip
    assert [(i.question_id, i.one, i.two, i.judge) for i in found] == [
        ("q", "a", "b", "j"), ("q", "a", "c", "j"), ("q", "a", "b", "people"),
    ]  # fmt: skip
    assert (found[0].forward, found[0].backward) == ((FIRST,), (FIRST, SECOND, TIE))
    assert (found[1].forward, found[1].backward) == ((), (UNPARSED,))
    assert (found[2].forward, found[2].backward) == ((), (SECOND,))
    assert [i.length_difference for i in found] == [3, 6, 3]
    assert found[0].flags == {"tied", "cut", "disagree"}
    assert found[1].flags == {"unparsed", "empty"}
    assert found[2].flags == {"cut", "disagree"}


@pytest.mark.parametrize(
    ("codes", "flags"),
    [
        ((FIRST, FIRST), {"reversed"}),  # each time the one shown first
        ((SECOND, SECOND), {"reversed"}),
        ((FIRST, SECOND), set()),
        ((FIRST, TIE), {"tied"}),
        ((TIE, TIE), {"tied"}),
        ((UNPARSED, FIRST), {"unparsed"}),
    ],
)
def test_flags_of_one_verdict_in_each_order(codes: tuple[int, int], flags: set[str]) -> None:
    [found] = items_of(verdict("q", "a", "b", codes[0]), verdict("q", "b", "a", codes[1]))
    assert (found.flags, found.length_difference) == (flags, None)


def test_two_judges_who_tie_or_agree_do_not_disagree() -> None:
    for second, disputed in ((FIRST, False), (TIE, False), (SECOND, True)):
        found = items_of(verdict("q", "a", "b", FIRST), verdict("q", "a", "b", second, judge="k"))
        assert {("disagree" in item.flags) for item in found} == {disputed}


def item(question: str, one: str, two: str, forward: tuple[int, ...], backward: tuple[int, ...] = ()) -> Item:
    return Item(
        question_id=question, one=one, two=two, judge="j", forward=forward, backward=backward,
        flags=frozenset({"tied", "empty"}), length_difference=-2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("forward", "backward", "is_lost"),
    [
        ((SECOND,), (), False),  # a single match is no rule
        ((SECOND,), (SECOND,), True),
        ((SECOND, SECOND), (TIE,), False),
        ((SECOND, UNPARSED), (), False),
        ((SECOND, SECOND, UNPARSED), (), True),
        ((FIRST,), (SECOND, SECOND), False),
    ],
)
def test_an_answer_that_lost_all_lost_twice_at_least(
    forward: tuple[int, ...], backward: tuple[int, ...], is_lost: bool
) -> None:
    answers = {"a": {"q": answer("x")}, "b": {"q": answer("y")}}
    one, two = failures(answers, [item("q", "a", "b", forward, backward)], ["q"])
    assert ("lost all" in one.kinds, "lost all" in two.kinds) == (is_lost, False)
    swapped = tuple({FIRST: SECOND, SECOND: FIRST}.get(code, code) for code in forward)
    reversed_back = tuple({FIRST: SECOND, SECOND: FIRST}.get(code, code) for code in backward)
    one, two = failures(answers, [item("q", "a", "b", swapped, reversed_back)], ["q"])
    assert ("lost all" in one.kinds, "lost all" in two.kinds) == (False, is_lost)


def test_kinds_of_failing_answers() -> None:
    texts = {
        "cut": answer("It goes on", why="length"), "empty": answer(" \n"), "refuses": answer("  I'm sorry, no."),
        "repeats": answer("The same again.\n" * 4), "good": answer("Yes."),
    }  # fmt: skip
    found = failures({name: {"q": text, "other": text} for name, text in texts.items()}, [], ["none", "q"])
    assert [(one.question_id, one.system, one.kinds) for one in found] == [
        ("q", name, frozenset() if name == "good" else frozenset({name})) for name in texts
    ]
    assert found[0].answer is texts["cut"]


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("twelve chars\n" * 4, True),
        ("twelve chars\n" * 3, False),
        ("eleven char\n" * 9, False),
        ("Twelve Chars. " * 2 + "twelve chars? " * 2, True),
        ("twelve chars\n" * 4 + "x" * 44, False),  # 48 of 96 characters
        ("twelve chars\n" * 4 + "x" * 43, True),
        ("", False),
    ],
)
def test_what_repeats_itself(text: str, repeats: bool) -> None:
    assert repeats_itself(text) is repeats


def content(**more: Any) -> Any:
    answers = {"a": {"q1": answer("one", "q1"), "q2": answer("", "q2", None, None)}}
    answers["b"] = {"q1": answer("x" * 300, "q1")}
    judgments = {("j", "q1", "a", "b"): made(raw_text="A wins", reason=None)}
    judgments |= {("j", "q1", "b", "a"): made(raw_text="", reason="no verdict")}
    judgments |= {("j", "q2", "a", "b"): made(raw_text="", reason="")}
    both = item("q1", "a", "b", (FIRST, TIE), (SECOND, UNPARSED))
    values = {
        "options": made(title="t"), "order": ["a", "b"], "questions": {"q1": "Why?" * 50, "q2": "How?"},
        "categories": {"q2": "maths"}, "answers": made(by_system=answers, texts={"q1": "Why?"}), "judges": ["j", ""],
        "items": (both, item("q2", "a", "b", (FIRST,)), item("q9", "a", "b", ())),
        "tournament": made(judgments=judgments), "ratings": {}, "runs": (),
    }  # fmt: skip
    return made(**(values | more))


def test_the_index_names_systems_questions_and_judges() -> None:
    index = data.index_data(content(), ["q2", "q1"])
    assert index["systems"] == [["a", page_name("a")], ["b", page_name("b")]]
    assert index["questions"] == [
        ["q2", "How?", "maths", "q2", 0],
        ["q1", ("Why?" * 50)[:159] + "\N{HORIZONTAL ELLIPSIS}", "", "q1", 1],
    ]
    assert (index["folder"], index["judges"]) == (False, ["j", "a judge without a name"])
    assert index["flags"] == ("reversed", "unparsed", "tied", "cut", "empty", "disagree")
    assert index["kinds"] == ("cut", "empty", "repeats", "refuses", "lost all")
    whole = data.index_data(content(answers=None), ["q2"], is_folder=True)
    assert (whole["folder"], whole["questions"][0][4]) == (True, 1)
    assert data.index_data(content(answers=None), ["q2"])["questions"][0][4] == 0
    assert len(index["site"]) == 12
    assert index["site"] == data.index_data(content(order=["b", "a"]), [])["site"]
    assert index["site"] != data.index_data(content(options=made(title="u")), [])["site"]


def test_items_failures_answers_and_pairs_by_their_places() -> None:
    found, asked = content(), ["q2", "q1"]
    flags = 1 << 2 | 1 << 4
    assert data.items_data(found, asked) == [
        [1, 0, 1, 0, "at", "b?", flags, -2], [0, 0, 1, 0, "a", "", flags, -2],
    ]  # fmt: skip
    assert data.failures_data(found, asked) == [
        [0, 0, 2, "", 0], [1, 0, 0, "one", 3], [1, 1, 0, "x" * 239 + "\N{HORIZONTAL ELLIPSIS}", 300],
    ]  # fmt: skip
    assert data.failures_data(content(answers=None), asked) == []
    assert data.answers_data(found, "a", asked) == [[1, "one", 3, "ended by itself"], [0, "", None, ""]]
    assert data.answers_data(found, "b", ["q2"]) == []
    assert data.answers_data(found, "c", asked) == []
    assert data.pairs_data(found, asked) == {
        "a": {"1": [
            [1, 0, "at", "b?", "A wins", "Not read: no verdict.", flags],
            [0, 0, "a", "", None, None, flags],
        ]}
    }  # fmt: skip
    assert data.MAX_REPLY == 4000


def test_text_is_cut_where_it_is_longer() -> None:
    dots = "\N{HORIZONTAL ELLIPSIS}"
    assert [shown_text("abcd", most) for most in (None, 4, 3, 1)] == ["abcd", "abcd", f"ab{dots}", dots]


def test_opponents_in_the_order_of_the_leaderboard_with_the_difference_from_either_side() -> None:
    played = [verdict("q", "b", "a", FIRST), verdict("q", "a", "b", FIRST), verdict("q", "a", "c", TIE)]
    pair = {"higher": "a", "lower": "b", "difference": 12.5, "p_holm": 0.01, "significant": True}
    view = content(order=["a", "b", "c"], tournament=made(verdicts=played, ratings={}), ratings={"comparisons": [pair]})
    found = opponents(view)
    assert [one.name for one in found["a"]] == ["b", "c"]
    first, second = found["a"]
    assert (first.difference, first.p_holm, first.is_separable) == (12.5, 0.01, True)
    assert (second.difference, second.p_holm, second.is_separable) == (None, None, None)
    assert first.tally == Tally(wins=1, losses=1)
    [back] = found["b"]
    assert (back.name, back.difference, back.p_holm) == ("a", -12.5, 0.01)
    assert opponents(content(tournament=None)) == {}


def test_outcomes_by_category() -> None:
    items = [("q1", (FIRST, TIE), (SECOND, FIRST)), ("q2", (SECOND,), ()), ("q3", (FIRST,), ())]
    found = [item(question, "a", "b", forward, backward) for question, forward, backward in items]
    view = content(categories={"q1": "z", "q2": "a"}, items=tuple(found))
    rates = category_rates(view)
    assert list(rates["a"]) == ["a", "z"]
    assert rates["a"] == {"z": Tally(wins=2, losses=1, ties=1), "a": Tally(losses=1)}
    assert rates["b"] == {"z": Tally(wins=1, losses=2, ties=1), "a": Tally(wins=1)}


def test_scores_of_one_run() -> None:
    run = made(mmlu=made(subjects={"z": (0.5, 4), "a": (0.25, 8)}), scores=("s",))
    assert subject_scores(run) == [("a", 0.25, 8), ("z", 0.5, 4)]
    assert subject_scores(made(mmlu=None)) == subject_scores(None) == []
    assert (system_scores(run), system_scores(None)) == (("s",), ())
