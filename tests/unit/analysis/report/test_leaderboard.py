"""The leaderboard's rows: ranks, ties, counts and what was not measured, from records in memory."""

import csv
import io
import json
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.report.leaderboard import (
    LeaderboardRow,
    inseparable,
    leaderboard_rows,
    leaderboard_table,
    to_csv,
    write_leaderboard,
)
from analysis.report.matches import Tally, count_verdicts, pair_tallies, tally_systems
from analysis.report.records import Mmlu, Run, Tournament, Verdict
from analysis.report.sections import _matrix_cell, separation_view
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED
from harness.config.schema import AdapterConfig, DatasetConfig, ModelConfig, QuantConfig, TrainConfig
from harness.runs.estimate import Estimate
from harness.runs.record import RunRecord
from harness.runs.spec import RunSpec

NAMES = ("a", "b", "c")
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)  # shared, slow cores


def verdict(first: str, second: str, code: int, question_id: str = "1") -> Verdict:
    return Verdict(question_id=question_id, first=first, second=second, verdict=code, judge="j")


def tournament(verdicts: list[Verdict] | None = None, ratings: dict[str, Any] | None = None) -> Tournament:
    return Tournament(folder=Path("t"), verdicts=tuple(verdicts or ()), ratings=ratings, judges=())


def run(label: str, run_id: str = "r1", mmlu: Mmlu | None = None) -> Run:
    spec = RunSpec(
        model=ModelConfig(name="tiny", hub_id="embedded/tiny"),
        quant=QuantConfig(name="nf4"),
        adapter=AdapterConfig(name="lora", lora_r=16, lora_dropout=0.0),
        dataset=DatasetConfig(name="concise", hub_id="embedded/concise", format="alpaca"),
        train=TrainConfig(max_steps=3, batch_size=2, learning_rate=1e-3),
    )
    record = RunRecord(
        run_id=run_id,
        label=label,
        group="g",
        spec=spec.to_dict(),
        status="done",
        num_steps=3,
        num_examples=6,
        num_truncated_sources=0,
        num_truncated_targets=0,
        target_tokens=60,
        final_loss=1.25,
        train_seconds=7.5,
        peak_memory_bytes=1,
        base_fingerprint="f",
        data_fingerprint="d",
        adapter_sha256="a",
        optimizer_used="adamw",
        device="cpu",
        notes=(),
        started="2026-11-22T10:00:00+00:00",
        finished="2026-11-22T10:01:00+00:00",
        git_commit=None,
        git_dirty=None,
    )
    return Run(folder=Path("runs") / run_id, record=record, losses=(), mmlu=mmlu, scores=(), answers={})


def mmlu(accuracy: float) -> Mmlu:
    return Mmlu(
        macro=Estimate(value=accuracy, low=accuracy - 0.25, high=accuracy + 0.25),
        micro=Estimate(value=accuracy),
        num_questions=40,
        num_subjects=2,
        num_truncated_prompts=0,
        protocol="lm_eval",
        split_name="",
        num_shots=5,
        settings_sha256="s",
        subjects={},
    )


def elo(**means: float) -> dict[str, Any]:
    return {
        name: {"mean": m, "low": m - 50, "high": m + 40, "ordering_low": m - 1, "ordering_high": m + 1}
        for name, m in means.items()
    }


def test_row_carries_every_measurement() -> None:
    ratings = {"elo": elo(a=1020.0), "bradley_terry": {"a": {"rating": 1018.0, "low": 960.0, "high": 1075.0}}}
    rows = leaderboard_rows([run("a", mmlu=mmlu(0.5))], tournament([verdict("a", "x", FIRST)], ratings))
    assert rows[0] == LeaderboardRow(
        rank=1,
        system="a",
        model="tiny",
        dataset="concise",
        quant="nf4",
        adapter="lora r=16",
        elo=1020.0,
        elo_low=970.0,
        elo_high=1060.0,
        elo_ordering_low=1019.0,
        elo_ordering_high=1021.0,
        bt_rating=1018.0,
        bt_low=960.0,
        bt_high=1075.0,
        matches=1,
        wins=1,
        losses=0,
        ties=0,
        unparsed=0,
        mmlu_macro=0.5,
        mmlu_macro_low=0.25,
        mmlu_macro_high=0.75,
        mmlu_n=40,
        final_loss=1.25,
        train_seconds=7.5,
        num_steps=3,
        peak_memory_bytes=1,
        target_tokens=60,
        run_id="r1",
    )
    assert (rows[1].system, rows[1].rank, rows[1].losses, rows[1].run_id) == ("x", None, 1, None)


def test_equal_ratings_share_a_rank_and_the_unrated_come_last() -> None:
    rows = leaderboard_rows([run("d")], tournament(ratings={"elo": elo(a=1000.0, b=1100.0, c=1000.0)}))
    assert [(row.system, row.rank) for row in rows] == [("b", 1), ("a", 2), ("c", 2), ("d", None)]


def test_bradley_terry_ranks_where_there_is_no_elo() -> None:
    strengths = {name: {"rating": r, "low": None, "high": None} for name, r in (("a", 990.0), ("b", 1010.0))}
    rows = leaderboard_rows([], tournament(ratings={"elo": {}, "bradley_terry": strengths}))
    assert [(row.system, row.rank, row.elo) for row in rows] == [("b", 1, None), ("a", 2, None)]


def test_a_system_without_elo_is_unranked_beside_those_that_have_one() -> None:
    strengths = {"z": {"rating": 2000.0, "low": None, "high": None}}
    rows = leaderboard_rows([], tournament(ratings={"elo": elo(a=1000.0), "bradley_terry": strengths}))
    assert [(row.system, row.rank) for row in rows] == [("a", 1), ("z", None)]


def test_nothing_measured_is_none() -> None:
    row = leaderboard_rows([run("a")], None)[0]
    assert (row.rank, row.elo, row.matches, row.mmlu_macro, row.not_separable_from) == (None,) * 5


def test_two_runs_of_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match="r1 and r2 are both called 'a'"):
        leaderboard_rows([run("a", "r1"), run("a", "r2")], None)


def test_inseparable_neighbours() -> None:
    pairs = [
        {"higher": "a", "lower": "b", "significant": False},
        {"higher": "b", "lower": "c", "significant": True},
        {"higher": "d", "lower": "e", "significant": None},
    ]
    assert inseparable({"pairs": pairs}) == {"a": ("b",), "b": ("a",), "c": ()}
    assert inseparable({}) == {}
    far = [*pairs[:2], {"higher": "a", "lower": "c", "significant": False}]
    assert inseparable({"pairs": pairs, "comparisons": far}) == {"a": ("b", "c"), "b": ("a",), "c": ("a",)}


def test_all_pairs_are_shaded_by_the_corrected_p() -> None:
    pairs = [
        {"higher": "a", "lower": "b", "difference": 30.0, "p_holm": 0.06, "significant": False},
        {"higher": "a", "lower": "c", "difference": 90.0, "p_holm": 0.01, "significant": True},
        {"higher": "b", "lower": "c", "difference": 60.0, "p_holm": None, "significant": None},
    ]
    view = separation_view({"comparisons": pairs}, ["c", "a", "b", "met nobody"])
    assert view is not None
    assert (view.systems, view.num_pairs, view.num_separable) == (("c", "a", "b"), 2, 1)
    (_, c_a, c_b), (a_c, _, a_b), (_, b_a, _) = view.cells
    assert c_b is None
    assert [(cell.difference, cell.side) for cell in (c_a, a_c, a_b, b_a) if cell] == [
        (-90.0, "behind"), (90.0, "ahead"), (30.0, "even"), (-30.0, "even")
    ]  # fmt: skip
    assert separation_view({"comparisons": pairs[2:]}, ["b", "c"]) is None


def test_counts_by_hand() -> None:
    verdicts = [
        verdict("a", "b", FIRST),
        verdict("b", "a", FIRST),
        verdict("a", "b", TIE, "2"),
        verdict("b", "a", SECOND, "2"),
        verdict("a", "c", UNPARSED),
    ]
    pairs = count_verdicts(verdicts)
    assert pairs["a", "b"] == Tally(wins=2, losses=1, ties=1)
    assert pairs["a", "b"].win_rate == 0.625
    assert pairs["a", "c"].win_rate is None
    assert tally_systems(pairs)["a"] == Tally(wins=2, losses=1, ties=1, unparsed=1)


def test_matrix_of_the_ratings_comes_first() -> None:
    """Three raters' votes are one match there; unparsed ones are known from the verdicts only."""
    cell = {"wins": 1, "losses": 0, "ties": 0, "win_rate": 1.0}
    matrix = {"a": {"b": cell}, "b": {"a": {**cell, "wins": 0, "losses": 1}}}
    votes = [
        verdict("a", "b", FIRST),
        verdict("a", "b", FIRST),
        verdict("a", "b", UNPARSED),
        verdict("a", "c", UNPARSED),
    ]
    pairs = pair_tallies(tournament(votes, {"win_matrix": matrix}))
    assert pairs["a", "b"] == Tally(wins=1, unparsed=1)
    assert pairs["c", "a"] == Tally(unparsed=1)


verdict_lists = st.lists(
    st.builds(
        lambda pair, code, question: verdict(pair[0], pair[1], code, question),
        st.sampled_from(list(permutations(NAMES, 2))),
        st.sampled_from((1, 2, 3, -1)),
        st.sampled_from("123"),
    ),
    max_size=30,
)


@patient
@given(verdict_lists)
def test_everybodys_wins_are_somebodys_losses(verdicts: list[Verdict]) -> None:
    tallies = tally_systems(count_verdicts(verdicts)).values()
    assert sum(t.wins for t in tallies) == sum(t.losses for t in tallies)
    assert sum(t.matches + t.unparsed for t in tallies) == 2 * len(verdicts)


@patient
@given(verdict_lists)
def test_swapping_the_sides_changes_no_count(verdicts: list[Verdict]) -> None:
    mirror = {FIRST: SECOND, SECOND: FIRST}
    swapped = [verdict(v.second, v.first, mirror.get(v.verdict, v.verdict), v.question_id) for v in verdicts]
    assert count_verdicts(swapped) == count_verdicts(verdicts)


@patient
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.floats(500, 1500), min_size=1, max_size=12))
def test_ranks_agree_with_ratings(means: dict[str, float]) -> None:
    rows = leaderboard_rows([], tournament(ratings={"elo": elo(**means)}))
    assert sorted(row.system for row in rows) == sorted(means)
    for better, worse in pairwise(rows):
        assert means[better.system] >= means[worse.system]
        assert (better.rank == worse.rank) == (means[better.system] == means[worse.system])
    assert rows[0].rank == 1


def test_csv_and_json_hold_the_same_and_leave_gaps_empty(tmp_path: Path) -> None:
    ratings = {"elo": elo(a=1020.5), "pairs": [{"higher": "a", "lower": 'odd, "name"', "significant": False}]}
    rows = leaderboard_rows([run("a")], tournament([verdict("a", 'odd, "name"', TIE)], ratings))
    write_leaderboard(tmp_path, rows)
    read = list(csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text())))
    assert [row["system"] for row in read] == ["a", 'odd, "name"']
    assert (read[0]["elo"], read[0]["mmlu_macro"], read[1]["rank"], read[1]["elo"]) == ("1020.5", "", "", "")
    assert read[0]["not_separable_from"] == 'odd, "name"'
    assert to_csv([]).splitlines()[0] == ",".join(read[0])
    values = json.loads((tmp_path / "leaderboard.json").read_text())
    assert list(values[0]) == list(read[0])
    assert values[0]["mmlu_macro"] is None


def test_terminal_table_fits_80_columns_with_dashes_and_no_markup() -> None:
    ratings = {"elo": elo(**{"[red]smollm2-stepwise-none": 1020.4})}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(leaderboard_table(leaderboard_rows([run("b", mmlu=mmlu(0.4))], tournament(ratings=ratings))))
    text = console.export_text()
    assert "[red]smollm2-stepwise-none" in text
    assert "970 to 1060" in text
    assert "15.0 to 65.0" in text
    assert (
        next(line for line in text.splitlines() if " b " in line).count("\N{EN DASH}") == 2
    )  # rank and Elo; of Bradley-Terry and matches nothing was measured
    assert "Bradley-Terry" not in text
    assert "W-L-T" not in text


@pytest.mark.parametrize(
    ("tally", "side", "strength"),
    [
        (None, "even", 0.0),
        (Tally(), "even", 0.0),
        (Tally(wins=1, losses=1), "even", 0.0),
        (Tally(wins=3, losses=1), "ahead", 50.0),
        (Tally(wins=1, losses=2), "behind", 33.3),
        (Tally(wins=0, losses=2), "behind", 100.0),
    ],
)
def test_a_cell_of_the_matrix_is_coloured_by_its_side_and_how_far_it_is(
    tally: Tally | None, side: str, strength: float
) -> None:
    cell = _matrix_cell(tally)
    assert (cell.tally, cell.side, cell.strength) == (tally, side, strength)
