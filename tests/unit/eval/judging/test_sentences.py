"""Sentences by hand: a reason that names the other answer, and a relation behind a verdict of the same meaning."""

import pytest

from eval.judging.parse import parse_verdict
from eval.judging.reading.languages import CLOSE, SPACED, translations
from eval.judging.reading.lines import MAX_COMPARED, contradicted, doubts, read_labels
from eval.judging.reading.plain import RAISED
from eval.judging.reading.sentences import _both, _named
from eval.judging.reading.support import supports
from eval.judging.reading.words import ARTICLES, BETTER, BOTH, DEGREES, EQUAL, LEAD, OVER, THAN, VALUES, VERBS, WINS
from eval.verdicts.codes import FIRST, SECOND, TIE


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("2, as it lists 2 sources", 2),
        ("2 because it is longer", 2),
        ("2, because answer 1 lacks detail", 2),  # it speaks ill of the other answer
        ("2, because answer 1 has detail", -1),
        ("2 because it names 3 sources", -1),
        ("2 because it holds -1 too", -1),
        ("2 because the first one is short", 2),
        ("2, as it beats the first", 2),
    ],
)
def test_a_reason_with_another_number_is_no_verdict(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("3: A = B", 3),
        ("Final verdict tie: 1 = 2", 3),
        ("Verdict: tie, A=B", 3),
        ("tie: A > B", -1),  # it says two things
        ("1: A > B", -1),
        ("Bananas: A > B", -1),
    ],
)
def test_a_relation_may_stand_behind_a_tie_that_it_is(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"), [("回答2更好", 2), ("答案1更好。", 1), ("选择1", 1), ("平局", 3), ("回答3更差", -1)]
)
def test_chinese_verdicts(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("words", "side", "length"),
    [
        ("answer # 2 is", SECOND, 3),
        ("# 1", FIRST, 2),
        ("1", FIRST, 1),
        ("the second response is", SECOND, 3),
        ("the first one is", FIRST, 3),
        ("second one", SECOND, 2),
        ("assistant b answer", SECOND, 3),
        ("a answer", None, 0),  # an article
        ("a is", FIRST, 1),
        ("answer a answer", FIRST, 3),
        ("answer", None, 0),
        ("answer 3", None, 0),
        ("the", None, 0),
    ],
)
def test_names_of_answers(words: str, side: int | None, length: int) -> None:
    assert _named(words.split()) == (side, length)


def test_labels_that_differ_are_a_conflict_and_a_long_line_doubts_nothing() -> None:
    assert [read_labels(text).conflict for text in ("[[A]] [[B]]", "[[A]]", "")] == [True, False, False]
    assert doubts("That is not so.", FIRST)
    assert doubts("Well, answer 2.", FIRST)
    assert not doubts("", FIRST)
    assert not doubts("so it goes " * 50 + "not", FIRST)


def test_both_are_equal_and_nothing_is_said_behind_it() -> None:
    assert _both(["both", "answers", "are", "equal"]) == TIE
    assert _both(["they", "are", "equally", "good"]) == TIE
    assert _both(["both", "answers", "are", "equal", "mostly"]) is None
    assert _both(["they", "are", "equal", "in", "2"]) is None


def test_footnotes_and_fractions_are_no_digits() -> None:
    assert {chr(code) for code in RAISED} >= set("\u00b2\u00b3\u00b9\u2070\u2079\u2080\u2089\u00bc\u00bd\u00be")
    assert not {0xBB, 0xBF} & RAISED.keys()


@pytest.mark.parametrize(
    ("text", "verdict", "supported"),
    [
        ("Answer 1 is correct, while answer 2 skips a step.", FIRST, True),
        ("Answer 1 is correct, while answer 2 skips a step.", SECOND, False),
        ("Answer 2 is correct.", FIRST, False),
        ("Answer 1 is a mess.", FIRST, False),
        ("Answer 1 is purple.", FIRST, False),  # neither praise nor blame
        ("Answer 1 is the only one that compiles.", FIRST, True),
        ("Answer 1 is the only one that compiles.", SECOND, False),
        ("It is more accurate than answer 2.", FIRST, True),
        ("It is more accurate than answer 1.", FIRST, False),
        ("Answer 1 is not wrong.", FIRST, False),  # twice denied is left unread
        ("Answer 1 would be clear.", FIRST, False),
        ("Answer 1 is clear, or so it seems.", FIRST, False),
        ("Answer 2 identifies the mistake.", FIRST, False),  # of whom the ill is said can't be told
        ("Both are correct.", TIE, True),
        ("Answer 1 is better.", TIE, False),
        ("1. Answer 1 is clear.", FIRST, False),  # a list
        ("Answer 1 is clear. " * 200, FIRST, False),  # too long
    ],
)
def test_what_an_explanation_bears_out(text: str, verdict: int, supported: bool) -> None:
    assert supports(text, verdict) == supported


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Antwort 2 ist besser als Antwort 1", ["answer 2 is better than answer 1"]),
        ("Meiner Meinung nach ist Antwort 1 besser", ["in my opinion is answer 1 better"]),
        ("Antwort 2 ist nicht besser", []),
        ("Antwort 2 ist besser, weil sie klar ist", ["answer 2 is better , because  sie klar ist"]),
        ("Antwort 2 ist besser, weil sie nicht kurz ist", []),
        ("A resposta 2 é melhor", ["answer 2 is better"]),
        ("La risposta A è migliore", ["answer A is better"]),
        ("回答1比回答2更好", ["answer 1   better than answer 2"]),
        ("回答1より回答2の方が良い", ["  answer 2 better than answer 1"]),
        ("उत्तर 2 उत्तर 1 से बेहतर है", ["answer 2   better than answer 1"]),
        ("Answer 2 is better", []),
        ("Antwort " * 60, []),  # too long
    ],
)
def test_sentences_in_other_languages(text: str, english: list[str]) -> None:
    assert [" ".join(found.split()) for found in translations(text)] == [" ".join(one.split()) for one in english]


def test_every_word_of_a_language_has_a_meaning_that_the_grammar_knows() -> None:
    known = {"the", "in", "my", "opinion", "than-", "-than", "because", "so", "i", "and", "but", "is", "beats"} | LEAD
    known |= (
        ARTICLES
        | VALUES.keys()
        | BETTER
        | WINS
        | OVER
        | THAN
        | VERBS
        | DEGREES
        | BOTH
        | EQUAL
        | {"worse", "conclusion"}
    )
    for language in SPACED + CLOSE:
        for meaning in language.meanings.values():
            assert set(meaning.split()) <= known, meaning


@pytest.mark.parametrize(
    ("text", "verdict", "is_contradicted"),
    [
        ("Answer 1 is better.", SECOND, True),
        ("Answer 1 is better.", FIRST, False),
        ("Style: answer 1 is better.", SECOND, False),  # one aspect alone
        ("Style: answer 1 is better.\nDepth: answer 1 is better.", SECOND, True),
        ("Style: answer 1 is better.\nDepth: answer 2 is better.", SECOND, False),
        ("Explanation: answer 1 is better.", SECOND, True),
        ("> Answer 1 is better.", SECOND, False),  # quoted
        ("Answer 1 is better.\n" + "x" * MAX_COMPARED, SECOND, False),
    ],
)
def test_sentences_that_contradict_a_verdict(text: str, verdict: int, is_contradicted: bool) -> None:
    assert contradicted(text, verdict) == is_contradicted


@pytest.mark.parametrize(
    "text",
    [
        'Answer 1 says: "Answer 2 is short, so answer 1 is better."',
        'Answer 1 says: "My verdict: [[A]]"',
        "The user thinks that my verdict is: [[A]]",
        "At first sight, my verdict is: [[A]]",
        "Initially, I choose answer 1.",
        "Maybe answer 2 is wrong, so answer 1 is better.",
        "I don't think that antwort 2 ist gut, aber Antwort 1 ist besser.",
        '"1 because of accuracy", says answer 1.',
        "e.g. 1",
        "1 (I may be wrong)",
    ],
)
def test_what_others_say_and_what_was_thought_at_first_is_no_verdict(text: str) -> None:
    assert parse_verdict(text).verdict == -1
