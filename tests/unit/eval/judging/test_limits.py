"""Readings at their limits: lengths on both sides, each kind of sentence, JSON and table, and why a reply is unread."""

from typing import Any

import pytest

from eval.judging.parse import judgment_of, parse_grade, parse_reply, parse_scores, parse_verdict, read_anew
from eval.judging.prompts import Mode
from eval.judging.reading.lines import (
    _is_listed,
    doubts,
    read_labels,
    read_line,
    verdicts_before,
    verdicts_behind,
)
from eval.judging.reading.scores import MAX_ROWS, Pair, contradicts, grades_after, read_grades, read_pair
from eval.judging.reading.sentences import (
    _named,
    _related,
    _starts,
    _worse,
    is_reason,
    names_other,
    read_phrase,
)
from eval.verdicts.codes import FIRST, SECOND, TIE

TWO = "the reply says two things"
NO_LINE = "the last line is no verdict"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        (" \n", "empty reply"),
        ("Sorry, I can't do that.\n1", "the judge refused in words"),
        ("<think>1", "the thoughts never end"),
        ("Both try.", NO_LINE),
        ("[[A]] or [[B]]", TWO),
        ("Answer 1 is better. Answer 2 is better.", TWO),
        ("Verdict: 1\n2", TWO),
        ("[[A]]\n2", TWO),
        ('{"verdict": 1, "score_1": 3, "score_2": 5}', TWO),
        ('{"explanation": "x"}', "the reply has no verdict"),
        ('{"verdict": 1, "winner": 2}', "the reply has several verdicts"),
        ('{"verdict": 7}', "verdict 7 is none of 1, 2, 3"),
        ('{"verdict": "neither of these two answers"}', "verdict neither of these two is none of 1, 2, 3"),
    ],
)
def test_why_a_verdict_is_unread(text: str, reason: str) -> None:
    assert (parse_verdict(text).verdict, parse_verdict(text).reason) == (-1, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        ("Well.", "no two scores"),
        ("0 5", "score 0 is out of range: 1 to 10"),
        ("5 10.5", "score 10.5 is out of range: 1 to 10"),
        ('{"score_1": 8, "score_2": "?"}', "the reply lacks a score"),
        ('{"score_1": 8}', "the reply lacks a score"),
        ('{"score_1": 8, "score_2": 6, "order": "2, 1"}', TWO),
        ('{"score_1": 8, "score_2": 6, "verdict": 2}', TWO),
        ('{"score_1": 8, "score_2": 6, "answer_1": 7, "answer_2": 6}', TWO),
        ("8 6\nAnswer 2 is better.", TWO),
        ("8 6\n[[B]]", TWO),
    ],
)
def test_why_scores_are_unread(text: str, reason: str) -> None:
    found = parse_scores(text)
    assert (found.score_a, found.score_b, found.verdict, found.reason) == (None, None, -1, reason)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("1 10", (1, 10)),
        ("8 6\nAnswer 1 is better.", (8, 6)),
        ("8 6\n[[A]]", (8, 6)),
        ("7 7\nAnswer 1 is better.", (7, 7)),  # a little better, by less than a point
        ('{"score_1": 7, "score_2": 7, "verdict": 1}', (7, 7)),
        ('{"score_1": 8, "score_2": 6, "verdict": 1}', (8, 6)),
        ('{"why": "x", "scores": {"1": 8, "2": 6}}', (8, 6)),
        ('{"why": "x", "scores": {"a": 8, "b": 6}}', (8, 6)),
        ('{"scores": {"assistant_1": 8, "assistant_2": 6}}', (8, 6)),
        ('{"scores": {"first": 8, "last": 6}}', None),
        ('{"scores": [8, 6]}', (8, 6)),
        ('{"scores": [8]}', None),
        ('{"model_a": {"score": 8}, "model_b": {"rating": 6}}', (8, 6)),
        ('{"model_a": {"score": 8, "grade": 7}, "model_b": {"rating": 6}}', None),
        ('{"Score A": "8 out of 10", "score-b": "6,5"}', (8, 6.5)),
        ('{"score_1": true, "score_2": 6}', None),
        ('{"score_1": "8/100", "score_2": 6}', None),
        ('{"score_1": 8, "score_1": 7, "score_2": 6}', None),
        ('Here: {"score_1": 8, "score_2": 6} "done', (8, 6)),
        ('8 6 was it\n{"score_1": 8, "score_2": 6}', (8, 6)),
        ('Scores: 6 8\n{"score_1": 8, "score_2": 6}', None),
    ],
)
def test_scores_in_words_and_json(text: str, scores: tuple[float, float] | None) -> None:
    found = parse_scores(text)
    assert (found.score_a, found.score_b) == (scores or (None, None))


def test_a_last_line_compares_within_its_first_200_characters() -> None:
    for length, unread in ((200, True), (201, False)):
        words = "2, because "
        line = words + "x" * (length - len(words) - len(" better")) + " better"
        assert len(line) == length
        assert (parse_scores(f"8 6\n{line}").reason == TWO) is unread


@pytest.mark.parametrize(
    ("text", "grade", "reason"),
    [
        ("1", 1.0, None),
        ("10", 10.0, None),
        ("[[10.5]]", None, "grade 10.5 is out of range: 1 to 10"),
        ("[[0.5]]", None, "grade 0.5 is out of range: 1 to 10"),
        ('{"score": "8,5"}', 8.5, None),
        ('{"rating": 8, "grade": 8}', 8.0, None),
        ('{"score": true}', None, "the grade is no number"),
        ('I say {"score": 8} and\nRating: 7', None, TWO),
        ('Rating: 7\n{"score": 8}', None, TWO),
        ("It could be [[8]].", None, "the grade is no number"),
        ("Fine.\nI'd give it an 8", 8.0, None),
        ("Fine.\nFor style I'd give it an 8", None, "no grade"),
        ("Confidence: 8", None, "no grade"),
    ],
)
def test_grades_and_why_they_are_unread(text: str, grade: float | None, reason: str | None) -> None:
    found = parse_grade(text)
    assert (found.score_a, found.score_b, found.reason) == (grade, None, reason)


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        ("Rating: 8\nFine.", {"8"}),
        ("Fine.\nRating: 8\nDone.", set()),  # neither the first line nor the last
        ("[[8]]\nActually, 7", {"8", "7"}),
        ("8\nI'd say 7", {"8", "7"}),
        ("Not [[8]]", {"denied"}),
        ("[[good]]", {"good"}),
        ("x" * 120 + "\n8", {"8"}),
    ],
)
def test_all_grades_of_a_reply(text: str, grades: set[str]) -> None:
    assert read_grades(text) == grades


def test_grades_beside_another() -> None:
    assert grades_after("So it is.\nRating: 7") == {"7"}
    assert grades_after("7\nSo it is.") == set()
    assert grades_after("[[6]]\nSorry, 5\nIn all I say 4\nEnd.") == {"6", "5", "4"}


def test_replies_by_mode() -> None:
    assert parse_reply("1", Mode.pairwise)[0] == FIRST
    verdict, scores, reason = parse_reply("4 7", Mode.relative)
    assert (verdict, scores.score_a, scores.score_b, reason) == (SECOND, 4.0, 7.0, None)
    verdict, scores, reason = parse_reply("[[7]]", Mode.single)
    assert (verdict, scores.score_a, reason) == (TIE, 7.0, None)
    assert parse_reply("?", Mode.single)[::2] == (-1, "no grade")
    for mode in Mode:
        verdict, scores, reason = parse_reply("1", mode, "cut")
        assert (verdict, scores.score_a, scores.reason, reason) == (-1, None, "cut", "cut")


def test_stored_replies_are_read_anew_unless_they_can_not_be() -> None:
    made = judgment_of(("q", "a", "b"), "p", Mode.pairwise, "2 \ud83d\n2", cost_usd=0.5)
    assert (made.question_id, made.system_a, made.system_b, made.prompt_sha256) == ("q", "a", "b", "p")
    assert (made.verdict, made.raw_text, made.cost_usd, made.score_a) == (SECOND, "2 ?\n2", 0.5, None)
    facts: dict[str, Any] = {"verdict": -1, "score_a": None, "score_b": None}

    def again(text: str | None, reason: str, mode: Mode = Mode.pairwise) -> tuple[int, float | None, str | None]:
        found = read_anew(type(made)(**_fields(made, raw_text=text, reason=reason, **facts)), mode)
        return found.verdict, found.score_a, found.reason

    assert again("1", "of old") == (FIRST, None, None)
    assert again("8 6", "of old", Mode.relative) == (FIRST, 8.0, None)
    assert again("Hm.", "of old") == (-1, None, NO_LINE)
    for text, reason in (
        (None, "x"),
        ("1 [key]\n1", "x"),
        ("1", "the judge refused"),
        ("1", "the reply was cut at 5 tokens"),
    ):
        assert again(text, reason) == (-1, None, reason)


def _fields(judgment: Any, **changes: Any) -> dict[str, Any]:
    return {name: getattr(judgment, name) for name in judgment.__dataclass_fields__} | changes


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>\n2\n</think>\n1", 1),
        ("2 it may be\n</think>\n1", 1),  # the server left the first tag out
        ("<think>2</think>1", 1),
        ("I use <think> tags </think>\n1", 1),
        ("<think>a</think>\n<thinking>2\n2</thinking>\n3", 3),
        ("<think>\n<think>\n2</think>\n1", 1),
        ("1\n<think>\nnever", -1),
        ("<THINK>2\n</THINK> \n1", 1),
    ],
)
def test_thoughts_are_left_out(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('[{"verdict": 2}]', 2),
        ('[{"verdict": 2}, {"verdict": 1}]', -1),
        ('[{"verdict": 2}, {"verdict": 2}]', 2),
        ('{"result": {"verdict": 2}}', 2),
        ('{"result": 2}', 2),
        ('{"rest": 2}', -1),
        ('{"a": {"verdict": 2}, "b": 1}', -1),
        ('{"verdict": 2.0}', 2),
        ('{"verdict": 2.5}', -1),
        ('{"verdict": [2]}', -1),
        ('{"Final Verdict": "Answer 2"}', 2),
        ('{"verdict": 1, "score_1": 5, "score_2": 5}', 1),
        ('{"verdict": 3, "score_1": 6, "score_2": 5}', -1),
        ('{"verdict": 1, "score_1": 6, "score_2": 11}', 1),
        ('{"explanation": "say "so"", "verdict": 2}', 2),
        ('{"explanation": "say "so"", "verdict": 2} but no', -1),
        ('{"explanation": "say "so"", "verdict": 2} Answer 1 wins.', -1),
        ("Set {1, 2}.\n1", 1),
        ("{1, 2}\n1", -1),
        ("```json\n{'winner': 'B'}\n```", 2),
    ],
)
def test_verdicts_in_json(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


def test_an_object_without_double_quotes_is_short() -> None:
    for length, verdict in ((500, 2), (501, -1)):
        text = "{'verdict': 2, 'why': '%s'}"
        assert parse_verdict(text % ("x" * (length - len(text % "")))).verdict == verdict


# Sentences


def test_words_against_a_label_count_within_80_characters() -> None:
    for before, verdict in ((76, None), (77, FIRST)):
        assert read_labels(f"not {'w' * before}[[A]]").verdict == verdict
    for behind, verdict in ((74, None), (75, FIRST)):
        found = read_labels(f"[[A]] {'w' * behind} lost")
        assert (found.verdict, found.conflict) == (verdict, verdict is None)
        assert parse_verdict(f"[[A]] {'w' * behind} lost").verdict == (verdict or -1)
    assert read_labels("not so\n[[A]]\nnot so").verdict == FIRST  # other lines
    assert read_labels("[[A]] isn't it").conflict
    assert read_labels("Is it [[A]]?").conflict
    assert read_labels("such as: [[A]]").conflict
    assert read_labels("[[A]] [[?]]") == read_labels("[[B]] [[A]]")
    assert read_labels("[[?]]").conflict is False
    assert read_labels("[[A]] so [[1]] it is").rest == " it is"


def test_phrases_and_lines_have_a_length() -> None:
    assert (read_phrase("2" + " " * 79), read_phrase("2" + " " * 80)) == (SECOND, None)
    for length, verdict in ((2000, SECOND), (2001, None)):
        words = "2, because "
        line = words + "w" * (length - len(words))
        assert read_line(line).verdict == verdict
        reason = "Reason: "
        assert read_line("Verdict: 2\n" + reason + "w" * (length - len(reason))).verdict == verdict
    assert read_line(f"Verdict: 2{' ' * 70}\nReason: long").verdict == SECOND
    assert read_line(f"Verdict: 2{' ' * 71}\nReason: long").verdict is None


@pytest.mark.parametrize(
    ("text", "verdict", "conflict"),
    [
        ("", None, False),
        ("Is it answer 2?", None, False),
        ("Answer 2 is better. Thank you for reading", None, False),
        ("Answer 2 wins.\nThanks!", SECOND, False),
        ("Answer 2 wins.\nThanks for 2 hours", None, False),
        ("2\nConfidence: 9", SECOND, False),
        ("Answer 2 wins. Answer 2 is better.", SECOND, False),
        ("Answer 1 wins. Answer 2 is better.", None, True),
        ("Hm. Answer 2 wins.", SECOND, False),
        ("1. Answer 1\n2. Answer 2", None, False),
        ("[x] Answer 1\n[ ] Answer 2", FIRST, False),
        ("[ ] Answer 1\n\n[x] Answer 2", SECOND, False),
        ("[x] Answer 1\n[x] A tie", None, True),
        ("[ ] Answer 1\n[ ] Answer 2", None, False),
        ("\u2611 Answer 1\n\u2610 Answer 2", FIRST, False),
        ("Verdict: 2\nReason: it is longer", SECOND, False),
        ("2\nReason: it is longer", SECOND, False),
        ("Verdict: 2\nReason: answer 1 is longer", None, False),
        ("Both are good\nReason: it is longer", None, False),
    ],
)
def test_last_lines(text: str, verdict: int | None, conflict: bool) -> None:
    found = read_line(text)
    assert (found.verdict, found.conflict) == (verdict, conflict)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("2 (answer 2)", 2),
        ("2 (answer 1)", None),
        ("2 (not 1)", 2),
        ("2 (or 1)", None),
        ("2 (sure?)", None),
        ("2 (confidence: high)", 2),
        ("2 (with confidence)", 2),
        ("2 (it is longer)", 2),
        ("2 (longer than 1)", None),
        ("Verdict: (2)", 2),
        ("Nonsense (2)", None),
        ("Both try hard, so answer 2", 2),
        ("Both try hard, so 2", None),
        ("Both try, so fine, so answer 2", 2),
        ("If both try, so answer 2", None),
        ("Both try hard, but answer 2 is better", 2),
        ("Both try hard, but answer 2", None),
        ("Both try hard, I would choose 2", 2),
        ("Answer 1 is better, so answer 2", None),
        ("Answer 2 is better, so answer 2", 2),
        ("Both fail, therefore a tie", 3),
        ("In my opinion, answer 2", 2),
        ("My vote goes to answer 2", 2),
        ("It goes to 2", None),
        ("It is a tie", 3),
        ("It is a clear win for answer 1", 1),
        ("It is a 2", None),
        ("Rank 2", None),
        ("Top 2", None),
        ("Top answer: 2", 2),
        ("Verdict:", None),
        ("(2)", 2),
        ("2;", 2),
        ("2.,!", 2),
        ("\u2610 2", None),
    ],
)
def test_clauses(text: str, verdict: int | None) -> None:
    assert read_line(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("answer 2 clearly wins", 2),
        ("answer 2 wins over answer 1", 2),
        ("answer 2 wins over answer 2", None),
        ("answer 2 wins over answer 1 today", None),
        ("answer 2 wins because it is longer", 2),
        ("answer 2 wins today", None),
        ("answer 2 beats answer 1", 2),
        ("answer 2 beats it", None),
        ("answer 2 is", None),
        ("answer 2 is slightly", None),
        ("answer 2 is slightly better", 2),
        ("answer 2 is the better one by far", 2),
        ("answer 2 is the better of the two", 2),
        ("answer 2 is the better of two", None),
        ("answer 2 is better than", None),
        ("answer 2 is better than 1", 2),
        ("answer 2 is better than 2", None),
        ("answer 2 is better than the other one", 2),
        ("answer 2 is better than most", None),
        ("answer 1 is better than a answer", 1),
        ("answer 2 is better than answer 1 because it is longer", 2),
        ("answer 2 is better than answer 1 however", None),
        ("answer 2 better", 2),
        ("a better", None),
        ("a is better", 1),
        ("a wins", 1),
        ("answer 1 is worse than answer 2", 2),
        ("answer 1 is slightly worse than answer 2", 2),
        ("answer 1 loses to 2", 2),
        ("answer 1 loses to 1", None),
        ("answer 1 loses to 2 mostly", None),
        ("answer 1 is worse", None),
        ("neither answer is better than the other", 3),
        ("neither of the two is better than the other", 3),
        ("neither is better", None),
        ("neither is worse than other", None),
        ("equally good", 3),
        ("equally long", None),
        ("good equally", None),
        ("both are equal", 3),
        ("both are good", None),
        ("the two answers are equally good", 3),
        ("the answers equally good", None),
        ("are equal", 3),
        ("tie", 3),
        ("tie because both are long", 3),
        ("tie between 1 and 2", 3),
        ("tie between 2 and 1", 3),
        ("tie between 1 and 1", None),
        ("tie between 1 or 2", None),
        ("tie between 1 and 2 now", None),
        ("3 = tie", 3),
        ("3: equally good", 3),
        ("3: equally long", None),
        ("3 = 1", None),
        ("2, not 1", 2),
        ("2, not 3", None),
        ("2, not 2", None),
        ("2, not sure", None),
        ("2: answer 2", 2),
        ("2: answer 1", None),
        ("2: answer 2 is better", 2),
        ("2: answer 1 is better", None),
        ("2 because", None),
        ("2 because it isn't short", None),
        ("2 because it is not short", None),
        ("2 because of 2 examples", 2),
        ("2 because of 4 examples", None),
        ("2 it is", None),
    ],
)
def test_sentences_of_known_words(text: str, verdict: int | None) -> None:
    assert read_phrase(text) == verdict


def test_a_verdict_is_said_again_in_twelve_words_at_most() -> None:
    for degrees, verdict in ((8, 1), (9, None)):
        assert read_line(f"1: answer 1 is {'clearly ' * degrees}better").verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A>B", 1),
        ("A < B", 2),
        ("A = B", 3),
        ("1 >> 2", 1),
        ("2 \u226b 1", 2),
        ("1 \u2248 2", 3),
        ("A >< B", None),
        ("A > A", None),
        ("Answer 2 > Answer 1!", 2),
        ("Verdict: A > B", 1),
        ("cats: A > B", None),
        ("2: A > B", None),
        ("tie: A = B", 3),
        ("tie: A > B", None),
        ("A > B here", None),
    ],
)
def test_relations(text: str, verdict: int | None) -> None:
    assert _related(text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("回答1比回答2更好", 1),
        ("回答1不如回答2", 2),
        ("回答1比回答1更好", None),
        ("两个答案一样好。", 3),
        ("最终答案: B", 2),
        ("回答A更好, 因为更长", 1),
        ("回答1很长", None),
    ],
)
def test_chinese_sentences(text: str, verdict: int | None) -> None:
    assert read_phrase(text) == verdict


def test_relations_and_chinese_sentences_are_short() -> None:
    for blanks, verdict in ((1, 1), (2, None)):
        assert read_line("so " * 24 + "so" + " " * blanks + "A > B").verdict == verdict
    for words, verdict in ((295, 2), (296, None)):
        assert read_line("的" * words + "回答2更好").verdict == verdict


def test_parts_of_sentences() -> None:
    assert _named(["answer", "one"]) == (FIRST, 2)
    assert _named(["one"]) == (None, 0)
    assert _named(["answer", "two", "reply", "is"]) == (SECOND, 3)
    assert _named(["second", "two"]) == (SECOND, 1)
    assert _worse(["is", "much", "worse", "than", "answer", "2"], FIRST) == SECOND
    assert _worse(["worse", "than", "answer", "1"], FIRST) is None
    assert is_reason([], FIRST)
    assert is_reason([",", "."], FIRST)
    assert not is_reason(["because"], FIRST)
    assert is_reason(["as", "it", "is"], FIRST)
    assert _starts(["so", "my", "verdict", "is", "2"]) == [4, 3, 2, 0]
    assert _starts(["2"]) == [0, 0]
    assert [names_other(words.split(), SECOND) for words in ("2 b", "3", "-2", "- a c", "one", "two", "1")] == [
        False, True, True, False, True, False, True,
    ]  # fmt: skip


def test_lists_of_answers_choose_none() -> None:
    assert _is_listed("2. Answer 2", "1. Answer 1")
    assert _is_listed("- B", "- A")
    assert not _is_listed("2", "1")
    assert not _is_listed("- B", "- B")
    assert not _is_listed("- B", "- A" + " " * 78)
    assert _is_listed("- B", "- A" + " " * 77)
    assert not _is_listed("Fine", "Good")


def test_verdicts_before_and_behind_another() -> None:
    assert verdicts_before("1\n2") == {1, 2}
    assert verdicts_before("1\nFine.\n2") == set()
    assert verdicts_before("Verdict: 1\nFine.\n2") == {1}
    assert verdicts_before(f"Verdict: 1{' ' * 71}\nFine.\n2") == set()
    assert verdicts_before(f"Verdict: 1{' ' * 70}\nFine.\n2") == {1}
    assert verdicts_before("[x] Answer 1\n[ ] Answer 2\nFine.") == {1}
    assert verdicts_behind("so.\nAnswer 2 wins. Fine.") == {2}
    assert verdicts_behind("Is it answer 2?") == set()
    assert verdicts_behind("Reason: answer 2 wins") == {2}
    assert verdicts_behind("Note: b wins") == set()
    assert verdicts_behind("w" * 1990 + ". Answer 2 wins") == set()


def test_doubts_are_short() -> None:
    assert doubts("w" * 76 + " not", FIRST)
    assert not doubts("w" * 77 + " not", FIRST)
    assert doubts("It isn't.", FIRST)
    assert not doubts("Not so.\nHope this helps!\nIt is.", FIRST)
    assert doubts("2 words", FIRST)


# Scores


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8 6", ("8", "6")),
        ("8,5", ("8", "5")),
        ("8,5 6,5", ("8,5", "6,5")),
        ("8,5,6,5", None),
        ("A: 8, B: 6", ("8", "6")),
        ("B 6 and A 8", ("8", "6")),
        ("8\n6", ("8", "6")),
        ("8\n6\n7", None),
        ("8\n6\n3: 7", None),
        ("8\n6\n3 of 4 are right.", ("8", "6")),
        ("8\n6\nFine.\n7", ("8", "6")),
        ("B: 6\nA: 8", ("8", "6")),
        ("1: 8\n1: 6", None),
        ("Fine.\n8 6", ("8", "6")),
        ("Fine.\n8 6\n7 6", None),
        ("Fine.\n8\n6", ("8", "6")),
        ("So (8, 6) it is", ("8", "6")),
        ("(8, 6)\nor (7, 6)", None),
        ("Scores (8, 6).\nSo (7, 5) it was.\nFine.", ("8", "6")),
        ("Both answers get 7.", ("7", "7")),
        ("Both get 7\nFine.\nBoth get 6", None),
        ("Assistant 2: 6\nAssistant 1: 8", ("8", "6")),
        ("Assistant 1: 8\nAssistant 1: 7\nAssistant 2: 6", None),
        ("8 for assistant 1, 6 for assistant 2", ("8", "6")),
        ("6 (assistant 2) and 8 (assistant 1)", ("8", "6")),
        ("First: 8\nSecond: 6", ("8", "6")),
        ("Answer 1:\nWell put.\nScore: 8\nAnswer 2:\nShort.\nScore: 6", ("8", "6")),
        ("Answer 1:\nScore: 8\nOf style:\nScore: 7\nAnswer 2:\nScore: 6", None),
        ("Score: 8\nAnswer 1:\nAnswer 2:\nScore: 6", None),
        ("8 6\nWait, it should be 7.", None),
        ("8 6\nThat was in the other order.", None),
        ("8 6\nThe order is assistant 2, assistant 1.", None),
        ("8 6\nI lowered it to 7 for that.", None),
        ("8 * 6", None),
        ("", None),
    ],
)
def test_pairs_of_scores(text: str, pair: tuple[str, str] | None) -> None:
    assert read_pair(text) == (None if pair is None else Pair(*pair))


def test_lines_of_scores_have_a_length() -> None:
    for blanks, found in ((108, Pair("8", "6")), (109, None)):
        assert read_pair("8 6 (" + "w" * (blanks + 5) + ").") == found
    assert contradicts("7 6", Pair("8", "6"))
    assert not contradicts("8 6", Pair("8", "6"))
    assert contradicts("These were swapped", Pair("8", "6"))
    assert not contradicts("w" * 120 + " swapped", Pair("8", "6"))
    assert contradicts("(7, 6).", Pair("8", "6"))


@pytest.mark.parametrize(
    ("rows", "pair"),
    [
        (["| A | B |", "|---|---|", "| 8 | 6 |"], ("8", "6")),
        (["| B | A |", "| 8 | 6 |"], ("6", "8")),
        (["| Trait | A | B |", "| Style | 5 | 5 |", "| Total | 8 | 6 |"], ("8", "6")),
        (["| Trait | A | B |", "| Style | 5 | 5 |", "| Depth | 8 | 6 |"], None),
        (["| Trait | A | B |", "| Total | 8 |"], None),
        (["| Answer | Style | Score |", "| 1 | 5 | 8 |", "| 2 | 4 | 6 |"], ("8", "6")),
        (["| Answer | Style | Depth |", "| 1 | 5 | 8 |", "| 2 | 4 | 6 |"], None),
        (["| Answer | Mark |", "| 1 | 8 |", "| 2 | 6 |"], ("8", "6")),
        (["| Answer | Mark |", "| 1 | 8 |", "| 1 | 6 |"], None),
        (["| 1 | 8 |", "| 2 | 6 |", "| 3 | 5 |"], None),
        (["| A | B |", "| 8 | 6 |", "Sorry, 7 6"], None),
        (["| A | B |", "| 8 | 6 |", "Fine."], ("8", "6")),
    ],
)
def test_tables_of_scores(rows: list[str], pair: tuple[str, str] | None) -> None:
    assert read_pair("\n".join(rows)) == (None if pair is None else Pair(*pair))


def test_tables_have_forty_rows_at_most() -> None:
    for num, found in ((MAX_ROWS, Pair("8", "6")), (MAX_ROWS + 1, None)):
        rows = ["| A | B |", *["| so | so |"] * (num - 2), "| 8 | 6 |"]
        assert read_pair("\n".join(rows)) == found
