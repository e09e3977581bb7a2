"""Every sentence and table of a comparison, by value, from contests made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from analysis.compare import words
from analysis.compare.contest import Contest, Pair, Standing
from analysis.compare.options import Correction
from analysis.compare.words import as_json, notes, pair_sentence, sentence, shown
from harness.console import TextTable

PAIR = Pair(
    first="b", second="a", block="", difference=1.25, low=0.5, high=2.0, p_value=0.01, p_corrected=0.03, p_equal=None,
    detectable=0.75, detectable_corrected=0.9, freedom=4.0,
)  # fmt: skip
STANDING = Standing(
    level="b", block="", setting="", value=51.25, low=50.0, high=52.5, uncorrected=None, num_settings=1, num_seeds=3,
    num_runs=3, num_compared_runs=2, problems=(),
)  # fmt: skip
OPEN = replace(PAIR, first="c", p_value=0.5, p_corrected=1.0, difference=-0.25, low=-1.0, high=0.5)


def contest(*pairs: Pair, **more: Any) -> Contest:
    values: dict[str, Any] = {
        "measure": "mmlu", "unit": "points", "higher_is_better": True, "axis": "adapter", "standings": (),
        "pairs": pairs, "num_questions": 60, "margin": None, "correction": Correction.holm, "source": "",
        "budget_note": "", "notes": (),
    }  # fmt: skip
    return Contest(**(values | more))


@pytest.mark.parametrize(
    ("pair", "more", "said"),
    [
        (PAIR, {}, "b is better than a on mmlu: +1.2 points, 95 % 0.5 to 2.0, p = 0.03; this design detects 0.8"),
        (PAIR, {"unit": "", "higher_is_better": None, "axis": "lora_r"},
         "r b is different from r a on mmlu: +1.2500, 95 % 0.5000 to 2.0000, p = 0.03; this design detects 0.7500"),
        (replace(PAIR, p_equal=0.01, block="model 7b", note="one run", detectable=None), {"margin": 2.5},
         "b is better than a on mmlu (model 7b): +1.2 points, 95 % 0.5 to 2.0, p = 0.03, though equal within 2.5 "
         "points (one run)"),
        (OPEN, {"margin": 2.5}, "c and a can't be told apart on mmlu: -0.2 points, 95 % -1.0 to 0.5; this design "
         "detects 0.8"),
        (replace(OPEN, p_equal=0.04), {"margin": 2.5, "unit": ""},
         "c and a are equal within 2.5 on mmlu: -0.2500, 95 % -1.0000 to 0.5000; this design detects 0.7500"),
        (replace(OPEN, p_equal=0.04), {}, "c and a are equal on mmlu: -0.2 points, 95 % -1.0 to 0.5; this design "
         "detects 0.8"),
        (replace(OPEN, low=None, high=None, p_value=None, p_corrected=None, detectable=None, note="no interval"), {},
         "c and a can't be told apart on mmlu: -0.2 points (no interval)"),
        (replace(OPEN, high=None), {}, "c and a can't be told apart on mmlu: -0.2 points; this design detects 0.8"),
    ],
)  # fmt: skip
def test_two_levels_in_a_sentence(pair: Pair, more: dict[str, Any], said: str) -> None:
    assert pair_sentence(contest(pair, **more), pair) == sentence(contest(pair, **more)) == said


@pytest.mark.parametrize(
    ("pair", "different", "equal"),
    [
        (replace(PAIR, p_corrected=0.05, p_equal=0.05), False, False),
        (replace(PAIR, p_corrected=0.049, p_equal=0.049), True, True),
        (replace(PAIR, p_corrected=None), False, False),
    ],
)
def test_different_and_equal_are_below_five_percent(pair: Pair, different: bool, equal: bool) -> None:
    assert (pair.is_different, pair.is_equal) == (different, equal)


def test_several_levels_in_a_sentence() -> None:
    other = replace(PAIR, second="c", detectable=0.5, detectable_corrected=0.6)
    far = replace(PAIR, first="c", second="a", p_equal=0.01, detectable=2.0, detectable_corrected=3.0)
    unknown = replace(OPEN, detectable=None, detectable_corrected=None)
    found = contest(PAIR, other, far, OPEN, margin=2.0)
    assert sentence(found) == (
        "3 of 4 pairs of methods differ on mmlu; 1 are equal within 2 points; b is better than 2; this design "
        "detects 0.8 points in one pair, among all pairs 0.9"
    )
    assert sentence(replace(found, correction=Correction.none, unit="", axis="lora_r", higher_is_better=None)) == (
        "3 of 4 pairs of rs differ on mmlu; 1 are equal within 2; this design detects 0.7500 in one pair"
    )
    assert sentence(contest(OPEN, unknown)) == (
        "No two methods can be told apart on mmlu (2 pairs); this design detects 0.8 points in one pair, among "
        "all pairs 0.9"
    )
    assert sentence(contest(unknown, unknown)) == (
        "No two methods can be told apart on mmlu (2 pairs); nothing says what this design detects"
    )


def test_nothing_to_compare_says_why() -> None:
    lost = replace(STANDING, problems=("no setting was run", "no seed"))
    assert sentence(contest(standings=(lost, STANDING))) == (
        "mmlu: nothing could be compared (no setting was run; no seed)"
    )
    assert sentence(contest(standings=(STANDING,))) == "mmlu: nothing could be compared"


def test_notes_name_how_settings_were_chosen_and_every_run_that_is_left_out() -> None:
    lost = replace(STANDING, level=8, block="model 7b", problems=("no seed", "no value"))
    found = contest(
        source="the held-out loss of seed 0", budget_note="unequal budgets", standings=(STANDING, lost),
        notes=("2 runs left out, not done: x", "1 run left out, without mmlu: y", "methods differ in r, too"),
    )  # fmt: skip
    left_out = [{"label": None if n else "mine", "run_id": f"id{n}", "reason": "why"} for n in range(14)]
    said = list(notes(found, left_out))
    assert said[:4] == [
        "the best setting of each was chosen by the held-out loss of seed 0; what is compared is the rest, so that no "
        "maximum is reported (Cawley & Talbot 2010)",
        "unequal budgets",
        "8 (model 7b): no seed; no value",
        "methods differ in r, too",
    ]
    assert said[4:] == [
        "left out: mine: why", *(f"left out: id{n}: why" for n in range(1, 12)),
        "left out: 2 more, which --json names",
    ]  # fmt: skip
    assert list(notes(contest(), left_out[:12])) == said[4:16]
    assert list(notes(contest(), [])) == []


def parts_of(found: Contest, left_out: Any = ()) -> list[Any]:
    return list(shown(found, list(left_out)).renderables)  # type: ignore[attr-defined]


def test_the_table_of_levels() -> None:
    rows = (
        replace(STANDING, setting="r 8", num_settings=4),
        replace(STANDING, level=None, block="model 7b", value=None, low=None, num_compared_runs=0),
    )
    [said, gap, table, note, end] = parts_of(contest(PAIR, standings=rows, budget_note="unequal"))
    assert (str(said), str(gap), str(note), str(end)) == (pair_sentence(contest(PAIR), PAIR), "", "note: unequal", "")
    assert isinstance(table, TextTable)
    assert table.title == "mmlu, points, 60 questions"
    assert list(table.columns) == ["method", "mean", "95 %", "tried", "runs", "setting"]
    assert list(table.rows) == [
        ["b", "51.2", "50.0 to 52.5", "4", "2", "r 8"],
        ["not set (model 7b)", "-", "-", "1", "0", ""],
    ]
    assert (table.numbers, table.prose) == (("mean", "95 %", "tried", "runs"), ("setting",))
    assert (
        table.caption
        == "mean and interval over seeds and questions; tried: settings it chose from; runs: compared ones"
    )
    plain = contest(PAIR, standings=(STANDING,), unit="", num_questions=1, axis="lora_r")
    table = parts_of(plain)[2]
    assert table.caption.startswith("mean and interval over seeds; tried")
    assert (table.title, table.columns) == ("mmlu, no unit", ["r", "mean", "95 %", "tried", "runs"])
    assert table.rows == [["b", "51.2500", "50.0000 to 52.5000", "1", "2"]]
    assert parts_of(replace(plain, num_questions=2))[2].title == "mmlu, no unit, 2 questions"


def test_the_table_of_pairs_has_the_smallest_p_first() -> None:
    both = replace(PAIR, p_corrected=0.00009, p_value=0.001, p_equal=0.001, block="model 7b")
    equal = replace(OPEN, p_equal=0.001, p_value=0.9)
    bare = replace(OPEN, first="d", p_value=None, p_corrected=None, low=None, detectable=None)
    found = contest(bare, PAIR, equal, both, margin=2.0)
    table = parts_of(found)[3]
    assert list(table.columns) == ["pair", "difference", "95 %", "p", "verdict", "detects"]
    assert table.rows == [
        ["b - a (model 7b)", "+1.2", "0.5 to 2.0", "<0.0001", "differ, equal", "0.8"],
        ["b - a", "+1.2", "0.5 to 2.0", "0.03", "differ", "0.8"],
        ["c - a", "-0.2", "-1.0 to 0.5", "1", "equal", "0.8"],
        ["d - a", "-0.2", "-", "-", "open", "-"],
    ]
    assert (table.numbers, table.prose) == (("difference", "95 %", "p", "detects"), ("pair",))
    caption = (
        "p corrected for 4 pairs by Holm (1979); 95 % intervals of each pair alone; detects: what one such pair finds "
        "with 80 % power at 5 %"
    )
    assert table.caption == caption
    by_bh, alone = replace(found, correction=Correction.bh), replace(found, correction=Correction.none)
    assert parts_of(by_bh)[3].caption == caption.replace("Holm (1979)", "Benjamini and Hochberg (1995)")
    assert parts_of(alone)[3].caption == caption.replace(
        "corrected for 4 pairs by Holm (1979)", "not corrected for 4 pairs"
    )
    assert [len(part.rows) for part in parts_of(contest(PAIR, OPEN)) if isinstance(part, TextTable)] == [0, 2]
    assert [len(part.rows) for part in parts_of(contest(PAIR)) if isinstance(part, TextTable)] == [0]
    many = contest(*(replace(PAIR, p_value=n / 100) for n in range(16)))
    assert len(parts_of(many)[3].rows) == 15
    assert parts_of(many)[3].caption.endswith("at 5 %; the 15 of the smallest p, --json has all")
    assert parts_of(contest(*many.pairs[:15]))[3].caption.endswith("at 5 %")
    assert words._p(0.0001) == "0.0001"
    assert words._number(float("inf"), found) == words._number(None, found) == "-"


def test_the_whole_result_as_plain_values() -> None:
    found = contest(replace(PAIR, p_equal=0.01), standings=(STANDING,), margin=2.0, correction=Correction.bh)
    values = as_json(found, [{"run_id": "x"}])
    assert (values["correction"], values["left_out"], values["margin"]) == ("bh", [{"run_id": "x"}], 2.0)
    assert values["sentence"] == sentence(found)
    [pair] = values["pairs"]
    assert (pair["first"], pair["p_equal"], pair["is_different"], pair["is_equal"]) == ("b", 0.01, True, True)
    assert values["standings"][0]["num_compared_runs"] == 2
    assert as_json(contest(PAIR), [])["pairs"][0]["is_equal"] is None
