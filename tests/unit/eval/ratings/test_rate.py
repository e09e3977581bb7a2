"""`rate`: what comes out, and that it says so where something can't be rated."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from eval.commands.rate import rate_command
from eval.ratings.rate import RateOptions, RatingsResult, rate_files

HEADER = "question_id,system_a,system_b,verdict\n"
QUICK = RateOptions(orderings=200, resamples=100)
KEYS = {
    "elo",
    "bradley_terry",
    "davidson",
    "relative",
    "position_bias",
    "num_matches",
    "num_unparsed",
    "win_matrix",
    "pairs",
    "comparisons",
    "ranks",
    "verdict",
    "methods",
    "notes",
    "settings",
}


def write(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def tournament(num_questions: int, strengths: dict[str, float], seed: int, nonsense: float = 0.0) -> list[str]:
    """Both orders of every pair on every question; the better wins more often; a share of verdicts is unparsed."""
    rng = np.random.default_rng(seed)
    rows = []
    for question in range(num_questions):
        for a in strengths:
            for b in strengths:
                if a != b:
                    chance = 1 / (1 + np.exp(strengths[b] - strengths[a]))
                    verdict = 3 if rng.random() < 0.1 else 1 if rng.random() < chance else 2
                    rows.append(f"{question},{a},{b},{-1 if rng.random() < nonsense else verdict}")
    return rows


def rate_rows(tmp_path: Path, rows: list[str], options: RateOptions = QUICK) -> RatingsResult:
    return rate_files([write(tmp_path / "verdicts.csv", rows)], options)


def test_json_holds_every_key_and_no_nan(tmp_path: Path) -> None:
    result = rate_rows(tmp_path, tournament(20, {"good": 1.0, "fair": 0.0, "poor": -1.0}, 0))
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(found) >= KEYS
    assert list(found["bradley_terry"]) == ["good", "fair", "poor"]
    assert set(found["elo"]["good"]) >= {"mean", "ordering_low", "ordering_high", "low", "high"}
    assert set(found["bradley_terry"]["good"]) == {"rating", "low", "high"}
    bias = {"first_wins", "second_wins", "ties", "first_win_rate", "low", "high", "swapped_reversals", "swapped_pairs"}
    assert set(found["position_bias"]) == bias
    assert found["num_matches"] == 120
    assert found["settings"]["k"] == 32.0
    assert found["win_matrix"]["good"]["poor"]["wins"] == found["win_matrix"]["poor"]["good"]["losses"]


def test_the_interval_over_prompts_is_wider_than_that_of_the_ordering(tmp_path: Path) -> None:
    result = rate_rows(tmp_path, tournament(30, {"x": 0.5, "y": 0.0, "z": -0.5}, 1), RateOptions(resamples=200))
    for system, elo in result.elo.items():
        assert elo.low is not None
        assert elo.high is not None
        assert elo.high - elo.low > 5 * (elo.ordering_high - elo.ordering_low)  # type: ignore[operator]
        strength = result.bradley_terry[system]
        assert strength.low < strength.rating < strength.high  # type: ignore[operator]


def test_bootstrap_intervals_cover_as_often_as_they_say(tmp_path: Path) -> None:
    """Bradley-Terry intervals over 60 simulated tournaments: 95 % should hold the truth, 50 or more must."""
    truth, covered = 2 * 0.5 * 400 / np.log(10), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        chance = 1 / (1 + np.exp(-1.0))
        rows = [f"{q},x,y,{1 if rng.random() < chance else 2}" for q in range(60)]
        pair = rate_rows(tmp_path, rows, RateOptions(orderings=0, resamples=200, seed=seed)).pairs[0]
        low, high = (pair.low, pair.high) if pair.higher == "x" else (-pair.high, -pair.low)  # type: ignore[operator]
        covered += low <= truth <= high
    assert 50 <= covered <= 60


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path: Path) -> None:
    rows = tournament(15, {"x": 0.5, "y": 0.0, "z": -0.5}, 2)
    one, two = (rate_rows(tmp_path, rows, RateOptions(orderings=100, resamples=50, seed=7)) for _ in range(2))
    assert one == two
    other = rate_rows(tmp_path, rows, RateOptions(orderings=100, resamples=50, seed=8))
    assert other.elo != one.elo
    assert [r.rating for r in other.bradley_terry.values()] == [r.rating for r in one.bradley_terry.values()]


def test_row_order_and_names_do_not_change_bradley_terry(tmp_path: Path) -> None:
    rows = tournament(15, {"x": 0.5, "y": 0.0, "z": -0.5}, 2)
    one = rate_rows(tmp_path, rows).bradley_terry
    two = rate_rows(tmp_path, [row.replace("x", "w") for row in reversed(rows)]).bradley_terry
    assert two["w"].rating == pytest.approx(one["x"].rating, abs=1e-6)
    assert two["y"].rating == pytest.approx(one["y"].rating, abs=1e-6)


def test_shuffled_rows_and_renamed_systems_give_the_same_digits(tmp_path: Path) -> None:
    rows = tournament(9, {"x": 0.5, "y": 0.0, "z": -0.5}, 2)
    new = {"x": "zz", "y": "a", "z": "m"}
    renamed = [f"{q},{new[a]},{new[b]},{v}" for q, a, b, v in (row.split(",") for row in rows)]
    order = np.random.default_rng(0).permutation(len(rows))
    one, two = rate_rows(tmp_path, rows), rate_rows(tmp_path, [renamed[i] for i in order])
    for name, other in new.items():
        assert one.bradley_terry[name] == two.bradley_terry[other]
        assert one.elo[name] == two.elo[other]
        assert one.ranks[name] == two.ranks[other]
    assert [(c.low, c.high, c.p_holm) for c in one.comparisons] == [(c.low, c.high, c.p_holm) for c in two.comparisons]
    assert one.position_bias == two.position_bias


def test_exchanged_sides_give_the_same_intervals(tmp_path: Path) -> None:
    rows = tournament(9, {"x": 0.5, "y": 0.0, "z": -0.5}, 2)
    other = {"1": "2", "2": "1", "3": "3"}
    exchanged = [f"{q},{b},{a},{other[v]}" for q, a, b, v in (row.split(",") for row in rows)]
    one, two = rate_rows(tmp_path, rows), rate_rows(tmp_path, exchanged)
    for name, rating in one.bradley_terry.items():
        mirrored, elo = two.bradley_terry[name], two.elo[name]
        assert (rating.low, rating.high) == pytest.approx((mirrored.low, mirrored.high), abs=1e-6)
        assert (one.elo[name].mean, one.elo[name].low) == pytest.approx((elo.mean, elo.low), abs=1e-6)
    assert one.ranks == two.ranks


def test_ranks_keep_none_apart_that_the_exact_test_does_not(tmp_path: Path) -> None:
    """4 of 4 has p = 0.125: either may be first; 6 of 6 has 0.03."""
    for num, places in ((4, [(1, 2), (1, 2)]), (6, [(1, 1), (2, 2)])):
        found = rate_rows(tmp_path, [f"{q},W,A,1" for q in range(num)]).ranks
        assert [(found[name].low, found[name].high) for name in "WA"] == places


def test_five_of_five_is_not_certain(tmp_path: Path) -> None:
    rows = [f"{q},W,A,1" for q in range(5)]
    result = rate_rows(tmp_path, rows)
    assert result.pairs[0].p_holm == pytest.approx(0.0625)
    assert result.pairs[0].low < 0 < result.pairs[0].high  # type: ignore[operator]
    for strength in (*result.bradley_terry.values(), *result.elo.values()):
        assert strength.low < strength.high  # type: ignore[operator]
    assert 0.5 < result.ranks["W"].best < 1.0  # type: ignore[operator]
    assert "it can't be told from A" in result.verdict[0]
    bias = result.position_bias
    assert bias is not None
    assert (bias.low, bias.high) == (pytest.approx(0.025**0.2), 1.0)  # Clopper & Pearson of 5 of 5


def test_five_of_five_does_not_leave_the_average_out_of_any_rating(tmp_path: Path) -> None:
    """A sign test of 5 of 5 gives 0.06 and of 6 of 6 gives 0.03: so say the intervals of all ratings."""
    for num, excluded in ((2, False), (5, False), (6, True)):
        result = rate_rows(tmp_path, [f"{q},W,A,1" for q in range(num)])
        tables = [(r["W"].low, r["A"].high) for r in (result.bradley_terry, result.davidson)]
        for low, high in (*tables, (result.elo["W"].low, result.elo["A"].high)):
            assert low is not None
            assert high is not None
            assert (low > 1000, high < 1000) == (excluded, excluded)


def test_the_same_on_every_prompt_has_an_interval(tmp_path: Path) -> None:
    result = rate_rows(tmp_path, [f"{q},{a},1" for q in range(6) for a in ("x,y", "y,x")])
    assert result.bradley_terry["x"].low < 1000 < result.bradley_terry["x"].high  # type: ignore[operator]
    assert result.elo["x"].low < result.elo["x"].high  # type: ignore[operator]
    assert result.pairs[0].p_holm == 1.0


def test_the_sentence_names_what_is_best_and_what_it_takes(tmp_path: Path) -> None:
    clear = rate_rows(tmp_path, tournament(20, {"good": 2.0, "poor": -2.0}, 0))
    assert clear.verdict[0].startswith("good is best with probability above 0.99; it is told from every other system")
    close = rate_rows(tmp_path, tournament(12, {"x": 0.1, "y": 0.0, "z": -3.0}, 5))
    assert "more prompts would decide" in close.verdict[0]
    assert sum(rank.best or 0.0 for rank in close.ranks.values()) == pytest.approx(1.0)
    console = Console(width=80, record=True)
    console.print(rate_command([tmp_path / "verdicts.csv"], QUICK)[1])
    text = console.export_text()
    assert "…" not in text
    assert text.startswith(close.verdict[0][:40])


def test_sample_size_plays_that_many_matches(tmp_path: Path) -> None:
    rows = [f"{q},x,y,1" for q in range(12)]
    elo = rate_rows(tmp_path, rows, RateOptions(orderings=40, resamples=50, sample_size=1)).elo
    assert elo["x"].mean == pytest.approx(1016.0)  # one win from even: half of K


def test_a_majority_is_within_one_judge(tmp_path: Path) -> None:
    header = "question_id,system_a,system_b,verdict,judge,rater\n"
    rows = ["1,x,y,1,j,a", "1,x,y,1,j,b", "1,x,y,2,k,a", "1,x,y,2,k,b", "1,x,y,2,k,c"]
    result = rate_files([write(tmp_path / "v.csv", rows, header)], QUICK)
    assert result.num_matches == 2
    assert result.win_matrix["x"]["y"].wins == 1


def test_a_judge_that_answers_nonsense_a_third_of_the_time(tmp_path: Path) -> None:
    rows = tournament(40, {"good": 1.5, "poor": -1.5}, 3, nonsense=0.3)
    unparsed = sum(row.endswith(",-1") for row in rows)
    result = rate_rows(tmp_path, rows)
    assert result.num_unparsed == unparsed
    assert result.num_matches == len(rows) - unparsed
    assert any(f"{unparsed} of {len(rows)} verdicts" in note for note in result.notes)
    assert list(result.bradley_terry) == ["good", "poor"]


def test_a_system_that_met_nobody_has_no_rating_and_that_is_said(tmp_path: Path) -> None:
    rows = [*tournament(12, {"x": 0.5, "y": -0.5}, 4), "0,x,ghost,-1", "1,ghost,y,-1"]
    result = rate_rows(tmp_path, rows)
    assert result.unrated == ["ghost"]
    assert "ghost" not in result.bradley_terry
    assert "ghost" not in result.elo
    assert "ghost" not in result.win_matrix
    assert any(note.startswith("ghost met nobody") for note in result.notes)


def test_disconnected_groups_are_not_ranked_together(tmp_path: Path) -> None:
    rows = tournament(12, {"a": 0.5, "b": -0.5}, 5) + tournament(12, {"x": 1.0, "y": 0.0, "z": -1.0}, 6)
    result = rate_rows(tmp_path, rows)
    assert [set(group) for group in result.groups] == [{"x", "y", "z"}, {"a", "b"}]
    assert {(pair.higher, pair.lower) for pair in result.pairs} & {("z", "a"), ("z", "b")} == set()
    assert len(result.pairs) == 3
    assert any("can't be compared" in note for note in result.notes)
    assert np.mean([result.bradley_terry[s].rating for s in "ab"]) == pytest.approx(1000.0)
    console = Console(width=200, record=True)
    console.print(rate_command([tmp_path / "verdicts.csv"], QUICK)[1])
    assert "group 2 of 2" in console.export_text()


def test_a_null_model_that_never_wins_is_last_finite_and_said(tmp_path: Path) -> None:
    rows = tournament(12, {"x": 0.3, "y": -0.3}, 7)
    rows += [f"{q},{a},null,1" for q in range(12) for a in "xy"] + [f"{q},null,{a},2" for q in range(12) for a in "xy"]
    result = rate_rows(tmp_path, rows)
    assert list(result.bradley_terry)[-1] == "null"
    assert np.isfinite(result.bradley_terry["null"].rating)
    assert any(note.startswith("null has nothing but losses") for note in result.notes)


def test_a_judge_that_ranks_the_control_above_a_system_is_not_believed(tmp_path: Path) -> None:
    strengths = {"x": 1.5, "null-model": 0.0, "y": -1.5}
    result = rate_rows(tmp_path, tournament(20, strengths, 8))
    (said,) = (note for note in result.notes if note.startswith("control"))
    assert "ranks 2 of 3, above y" in said
    assert "not to be believed" in said
    fair = rate_rows(tmp_path, tournament(20, {"x": 1.5, "y": 0.0, "null-model": -1.5}, 8))
    assert any("is last of 3" in note for note in fair.notes)
    without = rate_rows(tmp_path, tournament(20, {"x": 1.5, "y": 0.0}, 8))
    assert not any(note.startswith("control") for note in without.notes)


def test_nothing_but_unparsed_verdicts(tmp_path: Path) -> None:
    result = rate_rows(tmp_path, ["1,x,y,-1", "2,y,x,-1"])
    assert (result.num_matches, result.num_unparsed, result.elo, result.unrated) == (0, 2, {}, ["x", "y"])
    json.dumps(result.to_json(), allow_nan=False)


def test_one_prompt_has_no_interval(tmp_path: Path) -> None:
    result = rate_rows(tmp_path, ["1,x,y,1", "1,y,x,3"])
    assert result.bradley_terry["x"].low is None
    assert result.elo["x"].low is None
    assert result.pairs[0].p_value is None
    assert any("only 1 prompt:" in note for note in result.notes)
    json.dumps(result.to_json(), allow_nan=False)


def test_position_bias_by_hand(tmp_path: Path) -> None:
    rows = ["1,x,y,1", "1,y,x,1", "2,x,y,1", "2,y,x,2", "3,x,y,3", "3,y,x,1", "4,x,y,2", "4,y,x,-1"]
    bias = rate_rows(tmp_path, rows).position_bias
    assert bias is not None
    assert (bias.first_wins, bias.second_wins, bias.ties) == (4, 2, 1)
    assert bias.first_win_rate == pytest.approx(4 / 6)
    assert (bias.swapped_reversals, bias.swapped_pairs) == (1, 3)


@pytest.mark.parametrize("name", ["graded_verdicts.csv", "ensemble.csv"])
def test_where_answers_were_not_shown_in_the_rows_order_no_place_is_measured(tmp_path: Path, name: str) -> None:
    """In what follows from grades `system_a` is the first by name, so that the first place is a system's."""
    rows = [f"{question},x,y,{1 + (question % 4 == 0)}" for question in range(12)]
    texts = tmp_path / "answers.jsonl"
    answers = [
        {"question_id": q, "system": s, "answer": "z" * (9 + q % 5 * (s == "x"))} for q in range(12) for s in "xy"
    ]
    texts.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    options = RateOptions(orderings=20, resamples=20, answers=(texts,))
    usual, usual_text = rate_command([write(tmp_path / "verdicts.csv", rows)], options)
    found, found_text = rate_command([write(tmp_path / name, rows)], options)
    assert (found.position_bias, found.bradley_terry) == (None, usual.bradley_terry)
    note = "pairs stand in the order of their names, not as a judge saw them: what the place does is not measured"
    assert [n for n in found.notes if n not in usual.notes] == [f"{name}: {note}"]
    for result, shown, is_said in ((usual, usual_text, True), (found, found_text, False)):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(shown)
        text = " ".join(capture.get().split())  # a title takes several lines
        assert ("position: the first answer wins 75.0%" in text) is is_said
        assert ("style and place" in text) is is_said
        assert result.controlled is not None
        assert set(result.controlled.effects) == {"num_characters"} | ({"shown_first"} if is_said else set())
    both = rate_files([tmp_path / "verdicts.csv", write(tmp_path / name, ["1,v,w,1"])], QUICK)
    assert both.position_bias is None


def test_relative_scores_by_hand(tmp_path: Path) -> None:
    header = "question_id,system,order,score_candidate,score_chatgpt\n"
    rows = [
        "1,s,candidate_first,8,8",
        "1,s,candidate_second,6,8",
        "2,s,candidate_first,4,10",
        "2,s,candidate_second,-1,-1",
    ]
    result = rate_files([write(tmp_path / "scores.csv", rows, header)], QUICK)
    score = result.relative["s"]
    assert score.first == pytest.approx(100 * 12 / 18)
    assert score.second == pytest.approx(75.0)
    assert score.mean == pytest.approx(100 * (7 + 4) / (8 + 10))
    error = 1.96 / np.sqrt(2)
    worst, best = 5.5 - error * 1.5, 9.0 + error * 1.0
    assert score.ci95 == pytest.approx(100 * (5.5 / 9.0 - worst / best))
    residual = 7 - 11 / 18 * 8  # and its opposite on the other prompt; t with 1 degree of freedom is 12.7062
    half = 100 * 12.7062 * np.sqrt(2 * residual**2 * 2) / 18
    assert (score.low, score.high) == pytest.approx((score.mean - half, score.mean + half), rel=1e-4)
    assert (result.num_unparsed, result.num_matches, result.elo) == (1, 0, {})


def test_pairwise_and_ten_point_files_together(tmp_path: Path) -> None:
    header = "question_id,system,order,score_candidate,score_chatgpt\n"
    scores = write(tmp_path / "scores.csv", ["1,x,candidate_first,8,8"], header)
    verdicts = write(tmp_path / "verdicts.csv", tournament(12, {"x": 0.5, "y": -0.5}, 8))
    result = rate_files([scores, verdicts], QUICK)
    assert set(result.relative) == {"x"}
    assert set(result.bradley_terry) == {"x", "y"}


def test_a_judge_that_only_likes_length_is_seen_through(tmp_path: Path) -> None:
    """`long` wins because it is long; at equal length the two are equal, and the length gets the credit."""
    rng = np.random.default_rng(1)
    verdicts, answers = [], []
    for question in range(150):
        length = {"long": int(rng.integers(200, 1000)), "short": int(rng.integers(100, 600))}
        for system, num in length.items():
            answers.append(json.dumps({"question_id": question, "system": system, "answer": "x" * num}))
        gap = (length["long"] - length["short"]) / (length["long"] + length["short"])
        for a, b, sign in (("long", "short", 1), ("short", "long", -1)):
            verdicts.append(f"{question},{a},{b},{1 if rng.random() < 1 / (1 + np.exp(-6 * sign * gap)) else 2}")
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(answers), encoding="utf-8")
    result = rate_rows(tmp_path, verdicts, RateOptions(orderings=0, resamples=100, answers=(path,)))
    assert result.bradley_terry["long"].low > 1000  # type: ignore[operator]
    assert result.controlled is not None
    controlled = result.controlled.ratings["long"]
    assert controlled.low < 1000 < controlled.high  # type: ignore[operator]
    assert result.controlled.effects["num_characters"].low > 0  # type: ignore[operator]
    assert set(result.controlled.effects) == {"shown_first", "num_characters"}  # the others don't vary
    assert result.length_bias is not None
    assert result.length_bias.low > 0.6  # type: ignore[operator]


def test_a_bad_answer_file_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 1, "system": "x", "answer": "a"}\n{"question_id": 1, "system": "x"}\n')
    with pytest.raises(ValueError, match=r"answers\.jsonl: line 2"):
        rate_rows(tmp_path, ["1,x,y,1"], RateOptions(orderings=0, answers=(path,)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"orderings": -1}, "orderings=-1"),
        ({"resamples": 1}, "resamples=1"),
        ({"sample_size": 0}, "sample_size=0"),
        ({"aggregate": "mean"}, "aggregate='mean'"),
    ],
)
def test_bad_options_name_the_option(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        RateOptions(**options)  # type: ignore[arg-type]


def test_no_files_and_too_large_a_sample_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no verdict file"):
        rate_files([], QUICK)
    with pytest.raises(ValueError, match="sample_size=9: there are 1 matches"):
        rate_rows(tmp_path, ["1,x,y,1"], RateOptions(sample_size=9))


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [row.replace("x", "[red]x[/red]") for row in tournament(12, {"x": 0.5, "y": -0.5}, 9)]
    console = Console(width=200, record=True)
    console.print(rate_command([write(tmp_path / "v.csv", rows)], QUICK)[1])
    assert "[red]x[/red]" in console.export_text()


def test_ratings_import_neither_torch_nor_pandas() -> None:
    code = "import sys; from eval.ratings.rate import rate_files; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("scores", ["5,0", "-1,6"])
def test_a_system_without_a_relative_score_is_named(tmp_path: Path, scores: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f"question_id,system,order,score_candidate,score_reference\n1,x,candidate_first,{scores}\n")
    result = rate_files([path], RateOptions())
    assert result.relative == {}
    assert any(note.startswith("x has no relative score") for note in result.notes)
