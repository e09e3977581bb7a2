"""Verdicts and scores out of free text: what judges write, what the released files hold, what must stay unread."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eval.judging.injection import neutralise
from eval.judging.parse import parse_grade, parse_scores, parse_verdict

GOLDEN = Path(__file__).resolve().parents[3] / "golden"
SHARED = Path(__file__).resolve().parents[4].parent / "shared" / "data"


def shared_rows(name: str) -> list[dict[str, str]]:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"reference data {name} is not on this machine")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Both are fine, but the first is deeper.\n1", 1),
        ("Reasons.\n\n2\n\n", 2),
        ("Reasons.\n3.", 3),
        ("Reasons.\n**2**", 2),
        ("Reasons.\n\n**Verdict: 2**", 2),
        ("Final verdict: [[1]]", 1),
        ("Verdict: 3 (tie)", 3),
        ("2 - answer 2 is more complete", 2),
        ("[2]", 2),
        ("The best answer is Assistant 2.", 2),
        ("Answer: B", 2),
        ("tie", 3),
        ("$\\boxed{1}$", 1),
        ('{"explanation": "x", "verdict": 2}', 2),
        ('```json\n{"verdict": "3"}\n```', 3),
        ("<think>The last line could be 2\n2</think>\nFine.\n1", 1),
        ("I would choose option 3, as both assistants are equivalent.", 3),
        ("Therefore, I choose 3 as both assistants are equivalent in their incorrectness.", 3),
        ("Both equal.", 3),
        ("This is a tie.", 3),
        ("Tie between Answer 1 and Answer 2.", 3),
        ("They're tied.", 3),
        ("Beide sind gleich gut.", 3),
        ("Les deux réponses sont équivalentes.", 3),
        ("Die zweite Antwort ist besser.", 2),
        ("Answer 1 beats answer 2.", 1),
        ("I would pick Answer 1 over Answer 2.", 1),
        ("Response B > Response A", 2),
        ("Rank: 2 > 1", 2),
        ("Verdict (1, 2 or 3): 2", 2),
        ("Option (1)", 1),
        ("1: Answer 1 is better", 1),
        ("Winner: 1 🎉", 1),
        ("✅ Answer 1", 1),
        ("'2'", 2),
        ("1\n\nHope that helps!", 1),
        ("{'verdict': 2}", 2),
        ("{verdict: 2}", 2),
        ('{"result": {"verdict": 2}}', 2),
    ],
)
def test_reads_what_judges_write(text: str, verdict: int) -> None:
    parsed = parse_verdict(text)
    assert parsed.verdict == verdict
    assert parsed.reason is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n\n",
        "error",
        "7",
        "0",
        "1.5",
        "-1",
        "12",
        "1 or 2",
        "1 2",
        "Assistant 1 is worse.",
        "Answer 1 is not better",
        "I cannot choose between Assistant 1 and Assistant 2 as both of their answers are incorrect.",
        "I do not choose 1.",
        "I choose 1, but others would choose 2",
        "1\nBut then again, who knows.",
        "1. Answer 1\n2. Answer 2",
        "- Answer 1\n- Answer 2",
        "✅ Answer 2\n❌ Answer 1",
        "Answer 2 over answer 2",
        "Assistant A is better than Assistant A.",
        "Tie between Answer 1 and Answer 1",
        "+2",
        '{"verdict": 4}',
        '{"verdict": true}',
        '{"verdict": null}',
        '{"chance": 1}',
        "<think>Let me see. 1",
    ],
)
def test_guesses_nothing(text: str) -> None:
    parsed = parse_verdict(text)
    assert parsed.verdict == -1
    assert parsed.reason


def test_released_tails_read_as_a_person_reads_them() -> None:
    tails = [row for row in shared_rows("qlora/vicuna_gpt4_pairwise.csv") if row["raw_tail"]]
    assert len(tails) > 10
    for row in tails:
        expected = int(row["recovered_verdict"] or row["verdict"])
        assert parse_verdict("Assessment.\n" + row["raw_tail"]).verdict == expected, row["raw_tail"]


@given(st.text(), st.sampled_from([1, 2, 3]))
def test_a_last_line_in_the_papers_format_is_always_read(reasoning: str, verdict: int) -> None:
    reasoning = reasoning.replace("<think>", "").replace("{", "")
    assume(reasoning.strip() not in ("1", "2", "3"))  # two verdicts and nothing else are none
    assert parse_verdict(f"{reasoning}\n{verdict}").verdict == verdict


@given(st.text())
def test_any_text_gives_a_verdict_or_a_reason(text: str) -> None:
    parsed = parse_verdict(text)
    assert (parsed.verdict == -1) == (parsed.reason is not None)
    scores = parse_scores(text)
    assert (scores.score_a is None) == (scores.score_b is None) == (scores.reason is not None)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 9\nThe first ...", (8, 9)),
        ("8, 9\n...", (8, 9)),
        ("8/10 9/10", (8, 9)),
        ("**7.5 10**", (7.5, 10)),
        ("8 and 9", (8, 9)),
        ("\n\n 10 1", (10, 1)),
        ("First, solve it: 3 + 4 = 7.\nAssistant 1 errs in step 2.\n(1, 10)", (1, 10)),
        ("I solved it.\n\n(3, 10)\n\nAssistant 2 shows each step.", (3, 10)),
        ("Assistant 1: 8\nAssistant 2: 9\nBoth ...", (8, 9)),
        ("**Answer 1**: 8/10\n**Answer 2**: 6/10", (8, 6)),
        ('{"score_1": 4, "score_2": 5}', (4, 5)),
    ],
)
def test_reads_scores(text: str, scores: tuple[float, float]) -> None:
    parsed = parse_scores(text)
    assert (parsed.score_a, parsed.score_b) == scores
    assert parsed.verdict == (1 if scores[0] > scores[1] else 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "0 9",
        "8 11",
        "-3 4",
        "8 9 7",
        "Both do well.",
        "Two views.\n(1, 10)\n(2, 10)\nHm.",
        '{"score_1": 4}',
        "Assistant 1: 8",
    ],
)
def test_scores_that_are_no_scores(text: str) -> None:
    parsed = parse_scores(text)
    assert parsed.score_a is None
    assert parsed.verdict == -1
    assert parsed.reason


def test_released_scores_survive_every_layout() -> None:
    rows = [row for row in shared_rows("qlora/vicuna_gpt4_relative.csv") if row["status"] != "unparsed"]
    seen: dict[tuple[str, str], str] = {(r["score_candidate"], r["score_chatgpt"]): r["status"] for r in rows}
    assert len(seen) > 50
    for (one, two), status in seen.items():
        for layout in ("{} {}\nA comment on 3 points.", "{}, {}", "{}/10 {}/10\nx", "Long thoughts on 7.\n\n({}, {})"):
            parsed: Any = parse_scores(layout.format(one, two))
            expected = (None, None) if status == "parsed_out_of_range" else (float(one), float(two))
            assert (parsed.score_a, parsed.score_b) == expected, layout.format(one, two)


# Written by hand; benchmarks/results/judge-replies-2026-11-30.md says how, and what was read at first.
SETS = ["", "_third", "_fourth", "_fifth", "_sixth", "_seventh", "_eighth"]


def read_and_expected(reply: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(what the parser reads, what a person reads, what stands for an unread reply)."""
    if "verdict" in reply:
        return parse_verdict(reply["text"]).verdict, reply["verdict"], -1
    if "grade" in reply:
        return parse_grade(reply["text"]).score_a, reply["grade"], None
    scores = parse_scores(reply["text"])
    return [scores.score_a, scores.score_b], reply["scores"], [None, None]


@pytest.mark.parametrize("name", SETS)
def test_no_reply_is_read_otherwise_than_a_person_reads_it(name: str) -> None:
    """Replies with what a person reads in them. Unread is the lesser fault, and rare."""
    replies = [
        json.loads(line) for line in (GOLDEN / f"judge_replies{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    found = [(reply, *read_and_expected(reply)) for reply in replies]
    assert not [(reply, read) for reply, read, expected, unread in found if read not in (expected, unread)]
    readable = [read == unread for _, read, expected, unread in found if expected != unread]
    assert len(readable) > 80
    assert sum(readable) < len(readable) / 7


@pytest.mark.parametrize(
    "unit",
    [" ", "<think>", "[[A]]", "{", '{"a":', "1 ", "8 6\n", "(", "\n", "[ ", "answer 1 is ", "the latter ", "\ufdfa"],
)
def test_a_long_reply_is_read_to_its_end(unit: str) -> None:
    """A hundred thousand characters, each of which costs a fixed amount of work, before the paper's last line."""
    text = unit * (100_000 // len(unit))
    if unit not in ("<think>", "{", '{"a":', "[[A]]"):
        assert parse_verdict(f"{text}\n2").verdict == 2
    assert parse_verdict(text).reason or parse_verdict(text).verdict in (1, 2, 3)
    assert parse_scores(text).verdict in (-1, 1)
    assert neutralise(f"[{text}]").strip()


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Rating: 8\nNo, 7", None),
        ("8\nThe answer is correct: it gives 42.", 8.0),
        ("[[8]] [[7]]", None),
        ("Rating: [[8-9]]", None),
        ("[[٨]]", 8.0),
        ("Rating: [[8/10]]", 8.0),
        ("4/5", None),
        ("80%", None),
        ("between 7 and 8", None),
        ("Grade: A", None),
        ("[[0]]", None),
        ('{"score": 8, "rating": 7}', None),
    ],
)
def test_grades_are_not_guessed(text: str, grade: float | None) -> None:
    assert parse_grade(text).score_a == grade


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Both answers are equally good.", 3),
        ("They are equally helpful", 3),
        ("Both are equal.", 3),
        ("The two responses were equivalent", 3),
        ("Both answers are good.", -1),
        ("Answers are good", -1),
        ("Both equally good", 3),
        ("They were the same", 3),
        ("2\u00ad", 2),
        ("A\u00adnswer 2 wins", 2),
        ("The second answer wins", 2),
        ("Assistant B's answer is better", 2),
        ("So, in conclusion, my final verdict is answer 1", 1),
    ],
)
def test_replies_that_have_to_be_read(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8\nBecause it is good.", None),
        ("Good.\n8\nBetter.\n9", None),
        ("Good.\n8\n9", (8.0, 9.0)),
        ("Good.\n8\n9\nBetter.\n7\n6", None),
        ("A comment.\n8 9", (8.0, 9.0)),
        ("A comment.\n8 9\n\nIn short:\n7 9", None),
        ("A: 7/10, B: 9.5/10", (7.0, 9.5)),
        ("B: 9, A: 7", (7.0, 9.0)),
        ("A: 7, A: 9", None),
        ("8 9\nWait, 9 8", None),
        ("8 9\nWait, again: 8 9", (8.0, 9.0)),
        ("8 * 9", None),
    ],
)
def test_scores_that_have_to_be_read_or_not(text: str, scores: tuple[float, float] | None) -> None:
    found = parse_scores(text)
    assert (None if found.score_a is None else (found.score_a, found.score_b)) == scores


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("| Assistant | Score |\n|---|---|\n| 1 | 8 |\n| 2 | 6 |", (8, 6)),
        ("| | Score |\n|---|---|\n| Assistant 2 | 8/10 |\n| Assistant 1 | 6/10 |", (6, 8)),
        ("| Assistant 2 | Assistant 1 |\n|---|---|\n| 8 | 6 |", (6, 8)),
        ("| | A | B |\n|---|---|---|\n| Style | 3 | 4 |\n| **Overall** | 8 | 6.5 |", (8, 6.5)),
        ("| | A | B |\n|---|---|---|\n| Style | 3 | 4 |\n| Depth | 8 | 6 |", None),
        ("| A | 8 | 9 |\n| B | 6 | 7 |", None),
        ("| A | 8 |\n| A | 6 |", None),
        ('{"scores": [8, 6]}', (8, 6)),
        ('{"scores": [8, 6, 7]}', None),
        ('{"assistant_1": 8, "assistant_2": "6/10"}', (8, 6)),
        ("Assistant 1 (8) vs Assistant 2 (6)", (8, 6)),
        ("Assistant 1 - 8\nAssistant 2 - 6", (8, 6)),
        ("Second: 8\nFirst: 6", (6, 8)),
        ("8 6\nOn reflection 7 7", None),
        ("Assistant 1 scores 8; Assistant 2 scores 9, no: 7", None),
        ("Scores of answer 2 and answer 1: (6, 8)", None),
    ],
)
def test_reads_tables_and_takes_nothing_that_is_taken_back(text: str, scores: tuple[float, float] | None) -> None:
    parsed = parse_scores(text)
    assert (parsed.score_a, parsed.score_b) == (scores or (None, None))


@pytest.mark.parametrize("given", ["[[A]]", '{"verdict": 1}', "Winner: [[Answer 1]]"])
@pytest.mark.parametrize(
    "behind",
    [
        *(
            "\nEdit: B",
            "\nOr rather B",
            "\nStrike that, B",
            "\nDisregard that: B",
            "\nI meant B",
            "\nI take that back.",
        ),
        *(
            "\nThat label is wrong.",
            "\nIgnore the above.",
            "\nAfter checking again, B is right.",
            "\nB wins after all.",
        ),
        *(" unless style matters", " - not!", "\nThis is not my final verdict.", "\nUpon review, [[B]]"),
    ],
)
def test_a_verdict_that_is_taken_back_is_none(given: str, behind: str) -> None:
    assert parse_verdict(given).verdict == 1
    assert parse_verdict(given + behind).verdict == -1


@pytest.mark.parametrize("given", ["8 6", "(8, 6)", "Assistant 1: 8\nAssistant 2: 6", '{"score_1": 8, "score_2": 6}'])
@pytest.mark.parametrize(
    "behind",
    [
        *("Or rather 6 8", "Edit: 6 8", "Oops, I mixed them up: 6 8", "I meant 6 and 8, in that order"),
        *("Strike that, 6, 8", "Upon review: 6, 8", "These scores are for the swapped order.", "Sorry, 6 8."),
        *("Scores are (assistant 2, assistant 1).", "Retracted.", "I take these back.", "Mixed these up!"),
    ],
)
def test_scores_that_are_taken_back_are_none(given: str, behind: str) -> None:
    assert parse_scores(given).score_a == 8.0
    assert parse_scores(f"{given}\n{behind}").score_a is None


@pytest.mark.parametrize("given", ["[[8]]", "8", "Rating: 8", '{"score": 8}'])
@pytest.mark.parametrize("behind", ["Or rather 6", "Edit: 6", "I meant 6.", "Upon review, 6", "On second thought, 6"])
def test_a_grade_that_is_taken_back_is_none(given: str, behind: str) -> None:
    assert parse_grade(given).score_a == 8.0
    assert parse_grade(f"{given}\n{behind}").score_a is None


def test_scores_under_two_names_must_agree() -> None:
    twice = '{"assistant_1": 8, "assistant_2": 6, "score_1": %d, "score_2": 6}'
    assert parse_scores(twice % 8).score_a == 8.0
    assert parse_scores(twice % 1).score_a is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        *(
            ("2, not 1", 2),
            ("I pick 2, not 1.", 2),
            ("1 not 1", -1),
            ("Not 2, not 1", -1),
            ("2, not better than 1", -1),
        ),
        *(("Assistant 1 wins over Assistant 2.", 1), ("Answer 1 wins over nothing", -1), ("Going with 2.", 2)),
        *(("The first one is better.", 1), ("I'd say it's 2", 2), ("I wouldn't say 1", -1), ("I lean towards 2", 2)),
        *(("=> 2", 2), ("→ Answer 2", 2), ("1 -> 2", -1), ("Preferred: B", 2), ("Not preferred: B", -1)),
        *(("Output format: [[A]]", -1), ("Clear, for example the dates. [[A]]", 1), ("e.g. [[A]]", -1)),
        *(('{"verdict": 1, "winner": "A"}', 1), ('{"verdict": 1, "winner": "B"}', -1)),
        *(("<del>1</del>", -1), ("Better answer²", -1), ("½", -1), ("[[B]]\nIt is a good answer", 2)),
    ],
)
def test_short_sentences(text: str, verdict: int) -> None:
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        *(("A 8, B 6", (8, 6)), ("B 6 A 8", (8, 6)), ("A 8 A 6", None)),
        ("The scores are 8 and 6, respectively.", (8, 6)),
        ("Assistant 1: 8 points\nAssistant 2: 6 points", (8, 6)),
        ("Assistant 1: 8 points lower\nAssistant 2: 6 points", None),
    ],
)
def test_scores_that_name_their_side(text: str, scores: tuple[float, float] | None) -> None:
    found = parse_scores(text)
    assert (found.score_a, found.score_b) == (scores or (None, None))


def test_a_final_line_of_scores() -> None:
    assert parse_scores("Accuracy: 9 3\nOverall: 5 7").verdict == 2
    assert parse_scores("8 6\nFinal: 5 9").score_a is None
    assert parse_scores("8 6\nAssistant 1: 5\nAssistant 2: 9").score_a is None
