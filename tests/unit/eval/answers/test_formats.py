"""Every file of questions, answers and verdicts that others write is read, and what fits nothing is said."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.report.records import load_tournament
from eval.answers.files import contest_dialogues, read_answers, read_contestants, unmatched_notes
from eval.answers.questions import OpenQuestion, load_open_questions, shown_question, text_identity
from eval.judges.registry import JUDGES, JudgeKind, choose_judge
from eval.judges.replay import ReplayJudge
from eval.judges.tournament import open_tournament, run
from eval.judging.flags import JudgeFlags
from eval.judging.options import ApiOptions, JudgeOptions, ReplayOptions
from eval.verdicts.table import load_verdicts
from tests.builders import ScriptedJudge

BOM = "\ufeff"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


FASTCHAT = [
    {"question_id": 81, "answer_id": "x", "model_id": name, "choices": [{"index": 0, "turns": ["a", "b"]}], "tstamp": 1}
    for name in ("ann", "bob")
]
AUTHORS = {"question_id": 1, "text": "Why?", "category": "generic", "prompt": "...", "generation": "So.### Human: no"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", lines({"question_id": "1.0", "system": "ann", "answer": "x"}), {"ann": {"1": "x"}}),
        ("a.jsonl", BOM + lines({" Question_ID": 1.0, "System ": "ann", "ANSWER": "x"}), {"ann": {"1": "x"}}),
        ("a.jsonl.gz", lines({"question_id": 1, "system": "ann", "answer": "x"}), {"ann": {"1": "x"}}),
        ("a.csv", BOM + "Question ID, System ,answer\n1.0,ann,x\n", {"ann": {"1": "x"}}),
        ("a.csv.gz", 'question_id;system;answer\n1;ann;"x\ny"\n', {"ann": {"1": "x\ny"}}),
        ("a.jsonl", lines(*FASTCHAT), {n: {"81": "Turn 1:\na\n\nTurn 2:\nb"} for n in ("ann", "bob")}),
        (
            "a.jsonl",
            lines({"question_id": 1, "system": "s", "turns": ["x", "y"]}),
            {"s": {"1": "Turn 1:\nx\n\nTurn 2:\ny"}},
        ),
        ("a.jsonl", lines({"question_id": 1, "model_id": "gpt-4:2023", "text": "x"}), {"gpt-4:2023": {"1": "x"}}),
        ("a.jsonl", lines({**AUTHORS, "generation_truncated": "So."}), {"a": {"1": "So."}}),
        ("7b-topp0.9-temp0.7.jsonl", lines(AUTHORS), {"7b-topp0.9-temp0.7": {"1": "So.### Human: no"}}),
        (
            "a.json",
            json.dumps([{"dataset": "d", "instruction": "Name a fruit", "output": "apple", "generator": "ann"}]),
            {"ann": {text_identity("Name a fruit"): "apple"}},
        ),
        (
            "a.jsonl",
            lines({"parent_id": "p", "message_id": "m", "input": "### Human: Hi", "output": "o", "generation": "g"}),
            {"a": {"p": "g"}},
        ),
    ],
)
def test_answers_of_every_kind(tmp_path: Path, name: str, text: str, expected: dict[str, Any]) -> None:
    assert read_contestants([write(tmp_path / name, text)]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question_id": 1, "system": "a", "answer": "\\ud83d b"}\n', "line 1: holds half of a surrogate pair"),
        ('{"question_id": 1, "system": "a", "answer": "x"}\n{"question_id"', "line 2: not JSON"),
        ("[1]", "entry 1: expected a JSON object"),
        ("[{,}]", "line 1: not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"question_id": 1, "Question_id": 2, "system": "a", "answer": "x"}', "field question_id appears twice"),
        ('{"question_id": 1, "system": "a", "choices": []}', "line 1: choices is"),
        ('{"question_id": 1, "system": "a", "turns": ["x", 2]}', "line 1: turns is"),
        ('{"question_id": 1, "system": "a", "answer": "x", "turn": 1}', "turn 1 of question 1 without turn 0"),
        ('{"question_id": 1.5, "system": "a", "answer": "x"}', "line 1: question_id is 1.5"),
    ],
)
def test_broken_answers_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.jsonl: .*{message}"):
        read_contestants([write(tmp_path / "a.jsonl", text)])


def test_a_run_without_these_answers_says_which_it_has(tmp_path: Path) -> None:
    write(tmp_path / "answers" / "mt.jsonl", lines({"question_id": 1, "system": "a", "answer": "x"}))
    with pytest.raises(
        ValueError, match=r"open\.jsonl: no such answer file; .* the run has answers of mt: name the file"
    ):
        read_contestants([tmp_path])


def test_a_file_that_is_no_text_or_no_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question_id": 1}\n"\xff"\n')
    with pytest.raises(ValueError, match=r"a\.jsonl: line 2 is not text in UTF-8"):
        read_answers(path)
    torn = tmp_path / "a.jsonl.gz"
    torn.write_bytes(gzip.compress(b"{}")[:-4])
    with pytest.raises(ValueError, match="not a whole gzip file"):
        read_answers(torn)


def test_a_line_under_way_is_left_out_only_where_the_writer_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines({"question_id": 1, "system": "a", "answer": "x"}) + '{"question')
    assert len(read_answers(path, may_end_torn=True)) == 1
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_answers(path)


QUESTIONS = [
    OpenQuestion(question_id="1", turns=("Name a fruit ",), aliases=("m1", text_identity("Name a fruit"))),
    OpenQuestion(question_id="2", turns=("a", "b"), aliases=("m2", "both")),
    OpenQuestion(question_id="3", turns=("c",), aliases=("both",)),
]


def test_answers_find_their_question_by_any_of_its_names_and_the_rest_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        lines(
            {"instruction": "Name a fruit", "generator": "ann", "output": "apple"},
            {"message_id": "m1", "system": "bob", "answer": "pear"},
            {"question_id": 2, "system": "bob", "answer": "one turn"},
            {"question_id": "both", "system": "bob", "answer": "whose?"},
            {"question_id": 2, "model_id": "cyd", "choices": [{"turns": ["p", "q"]}]},
        ),
    )
    answers, notes = contest_dialogues([path], QUESTIONS)
    assert answers == {"ann": {"1": ("apple",)}, "bob": {"1": ("pear",)}, "cyd": {"2": ("p", "q")}}
    assert notes == [
        "bob: 1 answers match no question and are left out: both",
        "bob: 1 answers have other turns than their question and are left out: 2",
    ]
    twice = write(tmp_path / "b.jsonl", lines(*({key: "1", "system": "a", "answer": "x"} for key in ("question_id",))))
    more = write(tmp_path / "c.jsonl", lines({"message_id": "m1", "system": "a", "answer": "y"}))
    with pytest.raises(ValueError, match=r"a answers question 1 again, after .*b.jsonl: line 1; .*one identifier"):
        contest_dialogues([twice, more], QUESTIONS)


def test_answers_beside_verdicts_that_they_do_not_fit_are_said() -> None:
    notes = unmatched_notes({("ann", "1"): "x", ("eve", "9"): "y"}, ["ann", "bob"], ["1", "2"])
    assert notes == [
        "1 systems of the answers are in no verdict: eve",
        "1 systems of the verdicts have no answers: bob",
        "1 questions of the answers are in no verdict: 9",
        "1 questions of the verdicts have no answers: 2",
    ]


def test_questions_of_every_kind(tmp_path: Path) -> None:
    dialogue = "### Human: Hi ### Assistant: Hello ### Human: And in French? ### Assistant:"
    path = write(
        tmp_path / "q.jsonl",
        BOM
        + lines(
            {"question_id": 81.0, "category": "writing", "turns": ["Write.", "Again."]},
            {"parent_id": "p1", "message_id": "m1", "input": dialogue, "output": "Bonjour"},
            {"Question_ID": "x", "text": dialogue, "input": dialogue, "category": "oa"},
            {"instruction": "Name a fruit", "dataset": "helpful"},
        ),
    )
    asked = load_open_questions(str(path))
    assert [question.question_id for question in asked] == ["81", "p1", "x", text_identity("Name a fruit")]
    assert asked[1].history == asked[2].history == (("user", "Hi"), ("assistant", "Hello"))
    assert asked[1].turns == ("And in French?",)
    assert "m1" in asked[1].aliases
    shown = [shown_question(question) for question in asked]
    assert shown[0].text == "Turn 1:\nWrite.\n\nTurn 2:\nAgain."
    assert shown[1].text == "User: Hi\n\nAssistant: Hello\n\nUser: And in French?"
    assert [question.category for question in shown] == ["writing", "open-assistant", "oa", "general"]
    with pytest.raises(ValueError, match=r"q\.jsonl: line 1: holds half of a surrogate pair"):
        load_open_questions(str(write(path, '{"question_id": 1, "text": "a \\ud83d b"}')))


FASTCHAT_PAIR = {
    "question_id": 81,
    "model_1": "x",
    "model_2": "y",
    "g1_winner": "model_1",
    "g2_winner": "tie",
    "judge": ["gpt-4", "pair-v2"],
    "turn": 1,
}
ALPACA_EVAL = {"instruction": "i", "generator_1": "x", "generator_2": "y", "annotator": "gpt"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("v.csv", BOM + "Question_ID, System_A ,system_b,Verdict\n1.0,x,y,1.0\n", [("1", "x", "y", 1, "")]),
        ("v.csv.gz", "question_id,system_a,system_b,verdict\n1,x,y,2\n", [("1", "x", "y", 2, "")]),
        ("v.csv", "question_id,system_a,system_b,verdict\n1.0,1.0 ,1,2.0\n", [("1", "1.0", "1", 2, "")]),
        ("v.csv", "question_id;model_a;model_b;winner\n1;x;y;Model_B\n", [("1", "x", "y", 2, "")]),
        (
            "v.csv",
            "question_id,model_a,model_b,winner,judge\n1,x,y,model_a,j\n2,x,y,tie (bothbad),j\n3,x,y,tie,j\n",
            [("1", "x", "y", 1, "j"), ("2", "x", "y", 3, "j"), ("3", "x", "y", 3, "j")],
        ),
        (
            "v.json",
            json.dumps([{"question_id": "q", "model_a": "x", "model_b": "y", "winner": "model_b", "judge": "arena_1"}]),
            [("q", "x", "y", 2, "arena_1")],
        ),
        (  # people's verdicts on MT-Bench: the same person on both turns
            "v.jsonl",
            lines(
                {
                    "question_id": 81,
                    "model_a": "x",
                    "model_b": "y",
                    "winner": "tie (both bad)",
                    "judge": "p",
                    "turn": 1,
                },
                {"question_id": 81, "model_a": "x", "model_b": "y", "winner": "model_a", "judge": "p", "turn": 2},
                {"question_id": 82, "model_a": "x", "model_b": "y", "winner": "both_bad", "judge": "p", "turn": 2},
            ),
            [("81", "x", "y", 3, "p"), ("81", "x", "y", 1, "p"), ("82", "x", "y", 3, "p")],
        ),
        (
            "v.jsonl",
            lines(FASTCHAT_PAIR, {**FASTCHAT_PAIR, "turn": 2, "g1_winner": "error", "g2_winner": "model_1"}),
            [
                ("81", "x", "y", 1, "gpt-4 pair-v2"),
                ("81", "y", "x", 3, "gpt-4 pair-v2"),
                ("81", "x", "y", -1, "gpt-4 pair-v2"),
                ("81", "y", "x", 2, "gpt-4 pair-v2"),
            ],
        ),
        (
            "v.json",
            json.dumps(
                [
                    {**ALPACA_EVAL, "instruction": str(n), "preference": p}
                    for n, p in enumerate((1, 2.0, 1.5, None, 1.2))
                ]
            ),
            [(text_identity(str(n)), "x", "y", v, "gpt") for n, v in enumerate((1, 2, 3, -1, 1))],
        ),
    ],
)
def test_verdicts_of_every_kind_by_ratings_replay_and_report(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, str, str, int, str]]
) -> None:
    path = write(tmp_path / name, text)
    rows = load_verdicts([path])
    found = [
        (
            rows.question.values[rows.question.codes[at]],
            rows.system_names[rows.first[at]],
            rows.system_names[rows.second[at]],
            int(rows.verdict[at]),
            rows.judge.values[rows.judge.codes[at]],
        )
        for at in range(len(rows))
    ]
    assert found == expected
    if name == "v.csv":
        path.rename(tmp_path / "verdicts.csv")
        reported = load_tournament(tmp_path).verdicts
        assert [(v.question_id, v.first, v.second, v.verdict, v.judge) for v in reported] == expected
        ReplayJudge([tmp_path / "verdicts.csv"])


def test_a_foreign_verdict_that_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "v.jsonl", lines(FASTCHAT_PAIR, {**FASTCHAT_PAIR, "g1_winner": "nobody"}))
    with pytest.raises(ValueError, match=r"1 bad row: line 2: verdict 'nobody'"):
        load_verdicts([path])
    single = write(tmp_path / "s.jsonl", lines({"question_id": 1, "model": "x", "score": 8}))
    with pytest.raises(ValueError, match=r"s\.jsonl: line 1: a grade of a single answer, which compares no two"):
        load_verdicts([single])


def test_dialogues_go_from_answers_to_verdicts(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.jsonl", lines({"question_id": 81, "turns": ["Write.", "Again."]}))
    rows = [
        {"question_id": "81", "system": name, "question": "q", "answer": f"{name} {turn}", "turn": turn}
        for name in ("ann", "bob")
        for turn in (0, 1)
    ]
    strange = {"question_id": "82", "system": "ann", "answer": "?"}
    options = JudgeOptions(
        answers=(write(tmp_path / "a.jsonl", lines(*rows, strange)),),
        questions=questions,
        tournament=tmp_path / "t",
        judge=ReplayOptions(files=()),
    )
    (one, _) = open_tournament(options).matches
    assert {one.answer_a, one.answer_b} == {f"Turn 1:\n{n} 0\n\nTurn 2:\n{n} 1" for n in ("ann", "bob")}
    summary = run(options, judge=ScriptedJudge(lambda prompt, match: "1"))
    assert (summary.num_judged, summary.num_unparsed) == (2, 0)
    assert summary.notes == ("ann: 1 answers match no question and are left out: 82",)


def test_a_judge_is_added_by_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LongerOptions:
        kind = "longer"

    kind = JudgeKind(
        choose=lambda name, flags: LongerOptions(),
        build=lambda chosen, options, store, say: ScriptedJudge(
            lambda prompt, match: "1" if len(match.answer_a) > len(match.answer_b) else "2", name="longer"
        ),
    )
    monkeypatch.setitem(JUDGES, "longer", kind)
    answers = lines(
        *({"question_id": 1, "system": name, "answer": name * size} for size, name in enumerate("ab", start=1))
    )
    options = JudgeOptions(
        answers=(write(tmp_path / "a.jsonl", answers),),
        questions=write(tmp_path / "q.jsonl", lines({"question_id": 1, "text": "Why?"})),
        tournament=tmp_path / "t",
        judge=choose_judge("longer:any", JudgeFlags()),
    )
    assert run(options).num_judged == 2
    assert "1,a,b,2,longer" in (tmp_path / "t" / "verdicts.csv").read_text()


def test_a_judges_name_is_read_in_one_place() -> None:
    tuned = choose_judge("ft:gpt-4o:lab::x1", JudgeFlags(temperature=0.0, max_tokens=7, reasoning_effort="low"))
    assert isinstance(tuned, ApiOptions)
    assert (tuned.model, tuned.temperature, tuned.max_tokens, tuned.reasoning_effort) == (
        "ft:gpt-4o:lab::x1",
        0,
        7,
        "low",
    )
    assert choose_judge("replay:v.csv", JudgeFlags()) == ReplayOptions(files=(Path("v.csv"),))
    with pytest.raises(ValueError, match="no name of a judge"):
        choose_judge("local:", JudgeFlags())
    with pytest.raises(ValueError, match="--batch"):
        choose_judge("replay:v.csv", JudgeFlags(batch=True))
