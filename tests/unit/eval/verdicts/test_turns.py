"""Turns of a dialogue and sets of questions: told apart, never overwritten, pooled only where that is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.judges.replay import ReplayJudge
from eval.ratings.agreement import AgreeOptions, agree_files
from eval.ratings.bias import position_bias
from eval.ratings.people import people_ratings
from eval.ratings.rate import RateOptions, RatingsResult, rate_files
from eval.ratings.relative import load_scores, relative_scores
from eval.verdicts.columns import VerdictError
from eval.verdicts.table import Matches, items_question, load_judged, load_verdicts, to_matches

TURNS = "question_id,turn,system_a,system_b,verdict\n"
BENCHES = "question_id,benchmark,system_a,system_b,verdict\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def rated(path: Path, **options: object) -> RatingsResult:
    return rate_files([path], RateOptions(orderings=0, resamples=50, **options))  # type: ignore[arg-type]


def test_two_turns_are_two_matches_on_one_prompt(tmp_path: Path) -> None:
    rows = "81,1,a,b,1\n81,2,a,b,2\n82,1,a,b,1\n82,2.0,a,b,3\n83,,a,b,1\n"
    path = write(tmp_path / "v.csv", TURNS + rows)
    verdicts = load_verdicts([path])
    assert verdicts.turn.tolist() == [1, 2, 1, 2, 1]
    found = rated(path)
    record = found.win_matrix["a"]["b"]
    assert (record.wins, record.losses, record.ties) == (3, 1, 1)
    assert found.comparisons[0].num_prompts == 3
    assert any("3 on turn 1, 2 on turn 2; --turn takes one" in note for note in found.notes)
    second = rated(path, turn=2)
    record = second.win_matrix["a"]["b"]
    assert (second.num_matches, record.losses, record.ties) == (2, 1, 1)
    assert not any("--turn" in note for note in second.notes)


def test_a_question_with_one_turn_each_gets_no_note(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", TURNS + "1,3,a,b,1\n2,1,a,b,2\n")  # Chatbot Arena: how many turns there were
    assert not any("--turn" in note for note in rated(path).notes)


@pytest.mark.parametrize("turn", ["0", "-1", "1.5", "two", "1000", "²"])
def test_a_turn_that_is_none_is_named(tmp_path: Path, turn: str) -> None:
    with pytest.raises(VerdictError, match=r"line 3: turn '.*'; expected a whole number from 1 to 999"):
        load_verdicts([write(tmp_path / "v.csv", TURNS + f"1,1,a,b,1\n2,{turn},a,b,1\n")])


def test_the_same_turn_twice_is_refused_and_a_turn_that_is_not_there(tmp_path: Path) -> None:
    again = write(tmp_path / "again.csv", TURNS + "1,1,a,b,1\n1,2,a,b,1\n1,2,a,b,2\n")
    with pytest.raises(VerdictError, match=r"line 4 repeats .* line 3: .*a against b, turn 2"):
        load_verdicts([again])
    assert len(load_verdicts([again], turn=1)) == 1
    with pytest.raises(VerdictError, match=r"--turn 3: .*again.csv hold no verdicts on that turn"):
        load_verdicts([again], turn=3)


def test_a_majority_and_a_swapped_pair_are_taken_turn_by_turn(tmp_path: Path) -> None:
    """Turn 1: a, a, b; turn 2: b, b, b. Pooled, that would be one match, which b wins."""
    votes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 2), (2, 2)]
    rows = "".join(f"9,{turn},a,b,{verdict},r{n % 3}\n" for n, (turn, verdict) in enumerate(votes))
    verdicts = load_verdicts([write(tmp_path / "v.csv", TURNS.replace("\n", ",rater\n") + rows)])
    matches = to_matches(verdicts)
    assert sorted(zip(matches.turn.tolist(), matches.half_points.tolist(), strict=True)) == [(1, 2), (2, 0)]
    swapped = write(tmp_path / "s.csv", TURNS + "9,1,a,b,1\n9,1,b,a,2\n9,2,a,b,1\n9,2,b,a,1\n")
    bias = position_bias(load_verdicts([swapped]))
    assert (bias.swapped_pairs, bias.swapped_reversals) == (2, 1)


def test_judges_agree_turn_by_turn(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", TURNS + "1,1,a,b,1\n1,2,a,b,2\n2,1,a,b,1\n2,2,a,b,2\n")
    other = write(tmp_path / "other.csv", TURNS + "1,2,a,b,2\n1,1,b,a,2\n2,2,a,b,1\n2,1,a,b,1\n")
    found = agree_files(one, other, AgreeOptions(resamples=20))
    assert (found.example.num, found.example.statistics["percent_agreement"].value) == (4, 0.75)
    first = agree_files(one, other, AgreeOptions(resamples=20, turn=1))
    assert (first.example.num, first.example.statistics["percent_agreement"].value) == (2, 1.0)


def test_people_correct_the_turn_that_they_voted_on(tmp_path: Path) -> None:
    judged = write(tmp_path / "judged.csv", TURNS + "".join(f"{n},1,a,b,1\n{n},2,a,b,2\n" for n in range(6)))
    votes = write(
        tmp_path / "votes.csv", TURNS + "".join(f"{n},2,a,b,2\n" for n in range(4)) + "9,3,a,b,1\n5,3,a,b,1\n"
    )
    found = people_ratings(load_verdicts([judged]), load_verdicts([votes]), 20, np.random.default_rng(0))
    assert (found.num_votes, found.num_unmatched) == (4, 2)


def test_mt_bench_judgments_of_fastchat_keep_their_judge_and_both_turns(tmp_path: Path) -> None:
    row = {"question_id": 81, "model_1": "a", "model_2": "b", "judge": ["gpt-4", "pair-v2"]}
    rows = [
        row | {"g1_winner": "model_1", "g2_winner": "model_1", "turn": 1},
        row | {"g1_winner": "model_2", "g2_winner": "tie", "turn": 2},
    ]
    path = write(tmp_path / "gpt-4_pair.jsonl", "\n".join(map(json.dumps, rows)))
    verdicts = load_verdicts([path])
    assert verdicts.judge.values == ["gpt-4 pair-v2"]
    assert verdicts.turn.tolist() == [1, 1, 2, 2]
    assert verdicts.verdict.tolist() == [1, 2, 2, 3]


def test_a_replay_of_two_turns_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", TURNS + "1,1,a,b,1\n1,2,a,b,2\n")
    with pytest.raises(ValueError, match="question 1, a against b: several raters or turns"):
        ReplayJudge([path])


def test_ten_point_scores_of_two_turns(tmp_path: Path) -> None:
    header = "question_id,turn,system,order,score_candidate,score_chatgpt\n"
    path = write(tmp_path / "s.csv", header + "1,1,a,candidate_first,8,10\n1,2,a,candidate_first,4,10\n")
    assert relative_scores(load_scores([path]))["a"].mean == pytest.approx(60.0)
    assert relative_scores(load_scores([path], turn=2))["a"].mean == pytest.approx(40.0)
    assert any("turns are averaged" in note for note in rated(path).notes)


def test_a_benchmark_is_chosen_and_two_with_equal_ids_are_not_pooled(tmp_path: Path) -> None:
    rows = "1,vicuna,a,b,1\n2,vicuna,a,b,1\n1,oa,a,b,2\n2,oa,b,a,1\n"
    path = write(tmp_path / "v.csv", BENCHES + rows)
    with pytest.raises(VerdictError, match=r"question 1 is in several of the benchmarks oa, vicuna.*--bench NAME"):
        rated(path)
    assert rated(path, benchmark="vicuna").win_matrix["a"]["b"].wins == 2
    assert rated(path, benchmark="oa").win_matrix["a"]["b"].losses == 2
    with pytest.raises(VerdictError, match=r"--bench mt: .*they are of oa, vicuna"):
        rated(path, benchmark="mt")
    plain = write(tmp_path / "plain.csv", "question_id,system_a,system_b,verdict\n1,a,b,1\n")
    with pytest.raises(VerdictError, match="no column `benchmark` says what they are of"):
        rated(plain, benchmark="oa")


def test_benchmarks_of_different_ids_are_pooled_and_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", BENCHES.replace("benchmark", " Bench ") + "1,vicuna,a,b,1\n81,mt,a,b,1\n")
    found = rated(path)
    assert found.num_matches == 2
    assert "2 benchmarks are pooled: mt, vicuna; --bench takes one" in found.notes


def test_files_of_different_benchmarks_do_not_meet(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", BENCHES + "1,vicuna,a,b,1\n2,vicuna,a,b,1\n")
    other = write(tmp_path / "other.csv", BENCHES + "1,oa,a,b,1\n2,oa,a,b,1\n")
    with pytest.raises(
        VerdictError, match=r"question \d is of the benchmark vicuna in one file and of oa in the other"
    ):
        agree_files(one, other, AgreeOptions(resamples=20))
    with pytest.raises(ValueError, match="of the benchmark vicuna in one file"):
        rated(one, people=(other,))
    unnamed = write(tmp_path / "votes.csv", "question_id,system_a,system_b,verdict\n1,a,b,1\n2,a,b,2\n")
    assert agree_files(one, unnamed, AgreeOptions(resamples=20)).example.num == 2
    people = rated(one, people=(unnamed,), benchmark="vicuna").people
    assert people is not None
    assert people.num_votes == 2


def test_two_columns_for_one_thing_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", "question_id,bench,benchmark,system_a,system_b,verdict\n1,a,b,x,y,1\n")
    with pytest.raises(VerdictError, match="has both benchmark and bench"):
        load_verdicts([path])


def test_items_tell_questions_turns_and_pairs_apart() -> None:
    question, turn, first, second = np.array(
        [(0, 999, 0, 1), (1, 1, 0, 1), (1, 1, 1, 0), (1, 2, 0, 2), (7, 999, 2, 1)]
    ).T
    matches = Matches(
        question=question.astype(np.int32),
        first=first.astype(np.int32),
        second=second.astype(np.int32),
        half_points=np.ones(5, dtype=np.int8),
        turn=turn.astype(np.int16),
    )
    items = matches.items(3)
    assert len(set(items.tolist())) == 4
    assert items[1] == items[2]  # whichever is shown first
    assert items_question(items, 3).tolist() == question.tolist()
    assert (items % 9).tolist() == [1, 1, 1, 2, 5]  # the pair: lower system times 3, plus the higher
    assert replace(matches, turn=None).items(3)[1] == items[1]


def test_a_row_of_json_without_a_verdict_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "v.jsonl", '{"question_id": 1, "model_a": "x", "model_b": "y"}\n')
    with pytest.raises(VerdictError, match="line 1: verdict is None; expected 1, 2, 3, -1 or who won"):
        load_verdicts([path])


def test_rows_that_name_no_benchmark_are_not_left_out_in_silence(tmp_path: Path) -> None:
    named = write(tmp_path / "v.csv", BENCHES + "1,mt,a,b,1\n2,oa,a,b,1\n")
    silent = write(tmp_path / "w.csv", "question_id,system_a,system_b,verdict\n1,b,a,1\n3,a,b,1\n")
    with pytest.raises(VerdictError, match=r"--bench mt: 2 rows of .*w.csv don't say what they are of"):
        load_verdicts([named, silent], benchmark="mt")
    assert len(load_judged([silent], "mt")) == 2, "no file names a benchmark"


@pytest.mark.parametrize("name", ["benchmark", "bench"])
def test_the_judged_rows_of_a_benchmark(tmp_path: Path, name: str) -> None:
    rows = [
        {"question_id": 1, "system_a": "a", "system_b": "b", "verdict": n, name: of} for n, of in ((1, "mt"), (2, "oa"))
    ]
    write(tmp_path / "v.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(
        tmp_path / "v.csv", ",".join(rows[0]) + "\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
    )
    for file in ("v.jsonl", "v.csv"):
        assert load_judged([tmp_path / file], "oa").verdict.tolist() == [2]
