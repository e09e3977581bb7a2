"""Verdict files: what is read, and that every row that is not a verdict is named by its line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.ratings.relative import load_scores
from eval.verdicts.columns import VerdictError, combined_key
from eval.verdicts.table import load_verdicts, to_matches

HEADER = "question_id,system_a,system_b,verdict\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_every_spelling_of_a_verdict(tmp_path: Path) -> None:
    rows = "".join(f"{i},x,y,{v}\n" for i, v in enumerate(["1", "2", "3", "-1", "a", "b", "tie", "TIE"]))
    verdicts = load_verdicts([write(tmp_path / "v.csv", HEADER + rows)])
    assert verdicts.verdict.tolist() == [1, 2, 3, -1, 1, 2, 3, 3]
    assert verdicts.parsed.sum() == 7
    assert verdicts.judge.values == [""]


def test_ignores_other_columns_their_order_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffraw,verdict,system_b,system_a,question_id\n"said: a, b\nand more",2,y,x,q1\n'
    verdicts = load_verdicts([write(tmp_path / "v.csv", text)])
    assert [verdicts.system_names[code] for code in (*verdicts.first, *verdicts.second)] == ["x", "y"]
    assert verdicts.question.values == ["q1"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("1,x,y,1\n2,x,y,7\n", r"line 3: verdict '7'; expected 1, 2, 3, -1, a, b, tie, model_a, model_b or"),
        ("1,x,y,\n", r"line 2: verdict ''"),
        ("1,x,y,1.5\n", r"line 2: verdict '1\.5'"),
        ("1,x,x,1\n", r"line 2: system_a and system_b are the same"),
        (",x,y,1\n", r"line 2: question_id is empty"),
        ("1,,y,1\n", r"line 2: system_a is empty"),
        ("1,x,y,1\n2,x,y\n", r"line 3: 3 fields, the header has 4"),
        ("1,x,y,1\n2,x,y,1,9\n", r"line 3: 5 fields, the header has 4"),
        (
            "1,x,y,1\n2,y,x,1\n1,x,y,2\n",
            r"line 4 repeats .*line 2: same judge, rater, order and question \(question 1, x",
        ),
        ("", r"no rows below the header"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, body: str, expected: str) -> None:
    with pytest.raises(VerdictError, match=expected):
        load_verdicts([write(tmp_path / "v.csv", HEADER + body)])


def test_all_bad_rows_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    body = "".join(f"{i},x,y,{7 if i % 2 else 1}\n" for i in range(40))
    with pytest.raises(VerdictError, match=r"20 bad rows: line 3: .*line 11: ") as caught:
        load_verdicts([write(tmp_path / "v.csv", HEADER + body)])
    assert str(caught.value).count("line ") == 5


def test_lines_are_counted_through_quoted_line_breaks_and_blank_lines(tmp_path: Path) -> None:
    text = 'question_id,system_a,system_b,verdict,raw\n1,x,y,1,"two\nlines"\n\n2,x,y,9,short\n'
    with pytest.raises(VerdictError, match=r"line 5: verdict '9'"):
        load_verdicts([write(tmp_path / "v.csv", text)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question,system_a,system_b,verdict\n1,x,y,1\n", r"no column question_id; it has question, system_a"),
        ("question_id,system_a,system_b,verdict,verdict\n1,x,y,1,2\n", r"column verdict appears twice"),
        ("question_id,system_a,system_b,verdict,rater,rater_slot\n1,x,y,1,2,3\n", r"both rater and rater_slot"),
        ("", r"empty; expected a header"),
    ],
)
def test_wrong_columns_are_said(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(VerdictError, match=expected):
        load_verdicts([write(tmp_path / "v.csv", text)])


def test_a_missing_or_binary_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match="no such file"):
        load_verdicts([tmp_path / "none.csv"])
    (tmp_path / "b.csv").write_bytes(HEADER.encode() + b"1,\xff\xfe,y,1\n")
    with pytest.raises(VerdictError, match="UTF-8"):
        load_verdicts([tmp_path / "b.csv"])


def test_duplicates_are_found_across_files_and_told_apart_by_judge_and_rater(tmp_path: Path) -> None:
    plain = write(tmp_path / "one.csv", HEADER + "1,x,y,1\n")
    again = write(tmp_path / "two.csv", HEADER + "2,x,y,1\n1,x,y,2\n")
    with pytest.raises(VerdictError, match=r"two\.csv line 3 repeats .*one\.csv line 2"):
        load_verdicts([plain, again])
    judged = write(tmp_path / "three.csv", HEADER.replace("\n", ",judge\n") + "1,x,y,1,gpt-4\n1,x,y,1,local\n")
    assert len(load_verdicts([plain, judged])) == 3
    raters = write(tmp_path / "four.csv", HEADER.replace("\n", ",rater_slot\n") + "1,x,y,1,1\n1,x,y,2,2\n")
    assert len(load_verdicts([plain, raters])) == 3


@pytest.mark.parametrize(
    ("votes", "half_points"),
    [("1 1 2", 2), ("1 2 3", 1), ("3 3 1", 1), ("2 2 1", 0), ("1 3 3", 1), ("1 2", 1), ("1", 2), ("1 -1 -1", 2)],
)
def test_majority_is_more_than_half_of_the_votes_else_a_tie(tmp_path: Path, votes: str, half_points: int) -> None:
    rows = "".join(f"1,x,y,{vote},{rater}\n" for rater, vote in enumerate(votes.split()))
    verdicts = load_verdicts([write(tmp_path / "v.csv", HEADER.replace("\n", ",rater\n") + rows)])
    matches = to_matches(verdicts, "majority")
    assert matches.half_points.tolist() == [half_points]
    each = to_matches(verdicts, "each")
    assert len(each) == sum(vote != "-1" for vote in votes.split())


def test_majority_counts_votes_for_systems_whichever_side_they_were_shown_on(tmp_path: Path) -> None:
    rows = "1,x,y,1,r1\n1,y,x,2,r2\n1,y,x,1,r3\n"  # x, x, y
    verdicts = load_verdicts([write(tmp_path / "v.csv", HEADER.replace("\n", ",rater\n") + rows)])
    matches = to_matches(verdicts, "majority")
    assert (matches.first.tolist(), matches.second.tolist(), matches.half_points.tolist()) == ([0], [1], [2])


def test_rows_without_a_rater_stay_matches_of_their_own(tmp_path: Path) -> None:
    verdicts = load_verdicts([write(tmp_path / "v.csv", HEADER + "1,x,y,1\n1,y,x,1\n2,x,y,-1\n")])
    assert len(to_matches(verdicts, "majority")) == 2
    with pytest.raises(ValueError, match="aggregate='some'"):
        to_matches(verdicts, "some")


ARENA = "id,model_a,model_b,winner_model_a,winner_model_b,winner_tie\n"


def test_arenas_layout_with_a_column_for_each_outcome(tmp_path: Path) -> None:
    rows = "1,x,y,1,0,0\n2,x,y,0,1.0,0\n3,x,y,0,0,1\n"
    assert load_verdicts([write(tmp_path / "v.csv", ARENA + rows)]).verdict.tolist() == [1, 2, 3]
    columns = ARENA.strip().split(",")
    objects = [dict(zip(columns, [1, "x", "y", *won], strict=True)) for won in ((1, 0, 0),)]
    assert load_verdicts([write(tmp_path / "v.jsonl", json.dumps(objects[0]))]).verdict.tolist() == [1]
    for bad in ("1,0,1", "0,0,0", "yes,0,0", "1,,0", "2,0,0"):
        with pytest.raises(VerdictError, match=r"1 bad row: line 3: of winner_model_a, .* one has to be 1"):
            load_verdicts([write(tmp_path / "v.csv", f"{ARENA}1,x,y,1,0,0\n2,x,y,{bad}\n")])
    objects[0]["winner_tie"] = 1
    with pytest.raises(VerdictError, match="verdict is None"):
        load_verdicts([write(tmp_path / "v.jsonl", json.dumps(objects[0]))])


@pytest.mark.parametrize(
    ("word", "code"), [("Model A", 1), ("model b", 2), ("\uff11", 1), ("Assistant_B", 2), ("tie (both good)", 3)]
)
def test_words_of_others_files(tmp_path: Path, word: str, code: int) -> None:
    assert load_verdicts([write(tmp_path / "v.csv", HEADER + f"1,x,y,{word}\n")]).verdict.tolist() == [code]


SCORES = "question_id,system,order,score_candidate,score_chatgpt\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("1,x,first,8,9\n", r"line 2: order 'first'; expected candidate_first or candidate_second"),
        ("1,x,candidate_first,11,9\n", r"line 2: score_candidate '11'"),
        ("1,x,candidate_first,8,nine\n", r"line 2: score_reference 'nine'"),
        ("1,x,candidate_first,8,nan\n", r"line 2: score_reference 'nan'"),
        ("1,x,candidate_first,8,9\n1,x,candidate_first,8,9\n", r"line 3 repeats .*line 2"),
    ],
)
def test_a_bad_score_is_named(tmp_path: Path, body: str, expected: str) -> None:
    with pytest.raises(VerdictError, match=expected):
        load_scores([write(tmp_path / "s.csv", SCORES + body)])


def test_score_files_need_their_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "question_id,system,order,score_candidate\n")
    with pytest.raises(VerdictError, match="no column score_chatgpt"):
        load_scores([path])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30))
def test_combined_keys_are_equal_only_where_all_columns_are(rows: list[tuple[int, int]]) -> None:
    key = combined_key([np.array([row[0] for row in rows]), np.array([row[1] for row in rows])])
    assert len(set(key.tolist())) == len(set(rows))


def test_a_winner_may_be_a_systems_name(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("question_id,model_a,model_b,winner\n1,gpt,llama,llama\n2,llama,gpt,llama\n3,gpt,llama,tie\n")
    assert load_verdicts([path]).verdict.tolist() == [2, 1, 3]
    path.write_text("question_id,model_a,model_b,winner\n1,gpt,llama,bard\n")
    with pytest.raises(ValueError, match=r"line 2: verdict 'bard'; expected 1, .* or a system's name"):
        load_verdicts([path])
    row = '{"question_id": 1, "model_1": "x", "model_2": "y", "g1_winner": "x", "g2_winner": "model_2"}\n'
    (tmp_path / "v.jsonl").write_text(row)
    assert load_verdicts([tmp_path / "v.jsonl"]).verdict.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("1,a,b,a\n2,b,c,2\n", [1, 2]),  # both mean the first
        ("1,b,a,a\n", "line 2: verdict 'a' is a code and the name of system_b; write 1, 2 or 3"),
        ("1,B,A,a\n", "line 2: verdict 'a' is a code and the name of system_b"),
        ("1,x,tie,tie\n", "line 2: verdict 'tie' is a code and the name of system_b"),
        ("1,tie,x,3\n2,x,tie,1\n3,x,y,tie\n", [3, 1, 3]),
        ("1,both bad,x,both bad\n", "verdict 'both bad' is a code and the name of system_a"),
        ("1,model_b,model_a,model_a\n", "verdict 'model_a' is a code and the name of system_b"),
        ("1,2,1,1\n2,1,2,1\n3,2,3,3\n", [1, 1, 3]),  # digits are codes in a file of codes
        ("1,2,1,1\n2,x,y,x\n", "line 2: verdict '1' is a code and the name of system_b"),
    ],
)
def test_a_verdict_that_is_a_code_and_a_name(tmp_path: Path, rows: str, expected: list[int] | str) -> None:
    path = write(tmp_path / "v.csv", HEADER + rows)
    if isinstance(expected, str):
        with pytest.raises(VerdictError, match=expected):
            load_verdicts([path])
    else:
        assert load_verdicts([path]).verdict.tolist() == expected


def test_a_file_in_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_bytes((HEADER + "1,x,y,1\n").encode("utf-16-le"))
    with pytest.raises(VerdictError, match="line 1 holds a NUL character, as a file in UTF-16 does; save it as UTF-8"):
        load_verdicts([path])
    path.write_text(HEADER + "1,x,y,1\n2,x\0,y,1\n")
    with pytest.raises(VerdictError, match="line 3 holds a NUL character"):
        load_verdicts([path])
