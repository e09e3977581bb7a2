"""`agree`: labels, levels, and what is said where agreement can't be had."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from eval.__main__ import app
from eval.commands.agree import agree_command
from eval.ratings.agreement import (
    AgreementResult,
    AgreeOptions,
    _example_level,
    _rater_level,
    _statistic,
    agree_files,
)
from eval.ratings.kappa import kendall_tau, pair_order_agreement, spearman

HEADER = "question_id,system_a,system_b,verdict\n"
QUICK = AgreeOptions(resamples=100)


def write(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def agree_rows(tmp_path: Path, a: list[str], b: list[str], options: AgreeOptions = QUICK) -> AgreementResult:
    return agree_files(write(tmp_path / "a.csv", a), write(tmp_path / "b.csv", b), options)


def test_kappa_by_hand(tmp_path: Path) -> None:
    # 10 items: both say x on 4, both say y on 3, A x and B y on 2, A y and B x on 1.
    a = [f"{q},x,y,{v}" for q, v in enumerate([1] * 4 + [2] * 3 + [1] * 2 + [2])]
    b = [f"{q},x,y,{v}" for q, v in enumerate([1] * 4 + [2] * 3 + [2] * 2 + [1])]
    found = agree_rows(tmp_path, a, b).example
    chance = 0.6 * 0.5 + 0.4 * 0.5
    assert found.num == 10
    assert found.statistics["percent_agreement"].value == pytest.approx(0.7)
    assert found.statistics["cohen_kappa"].value == pytest.approx((0.7 - chance) / (1 - chance))
    pooled = 0.55**2 + 0.45**2
    assert found.statistics["fleiss_kappa"].value == pytest.approx((0.7 - pooled) / (1 - pooled))
    kappa = found.statistics["cohen_kappa"]
    assert kappa.low < kappa.value < kappa.high  # type: ignore[operator]


def test_sides_and_orders_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    verdicts = [(q, p, int(rng.integers(1, 4))) for q in range(30) for p in (("x", "y"), ("y", "z"), ("x", "z"))]
    a = [f"{q},{p[0]},{p[1]},{v}" for q, p, v in verdicts]
    swapped = [f"{q},{p[1]},{p[0]},{ {1: 2, 2: 1, 3: 3}[v] }" for q, p, v in verdicts]
    same = agree_rows(tmp_path, a, swapped)
    assert same.example.statistics["percent_agreement"].value == 1.0
    assert same.example.statistics["cohen_kappa"].value == pytest.approx(1.0)
    assert same.system.statistics["kendall_tau"].value == pytest.approx(1.0)
    assert same.system.num == 3


def test_both_orders_add_up_to_one_label(tmp_path: Path) -> None:
    a = ["1,x,y,1", "1,y,x,1", "2,x,y,1", "2,y,x,3", "3,x,y,1", "3,y,x,-1"]  # a tie, x, x
    b = ["1,x,y,3", "2,x,y,1", "3,x,y,1"]
    assert agree_rows(tmp_path, a, b).example.statistics["percent_agreement"].value == 1.0


def test_raters_of_one_file_are_compared_among_themselves(tmp_path: Path) -> None:
    header = HEADER.replace("\n", ",rater\n")
    votes = {1: "11", 2: "12", 3: "22", 4: "33"}
    rows = [f"{q},x,y,{v},{r}" for q, pair in votes.items() for r, v in enumerate(pair)]
    people = write(tmp_path / "people.csv", rows, header)
    other = write(tmp_path / "other.csv", [f"{q},x,y,1" for q in votes])
    raters = agree_files(people, other, QUICK).judges[0].raters
    pooled = (3 / 8) ** 2 + (3 / 8) ** 2 + (2 / 8) ** 2
    assert raters["all"].num == 4
    assert raters["all"].statistics["fleiss_kappa"].value == pytest.approx((0.75 - pooled) / (1 - pooled))
    assert raters["no_tie_vote"].num == 3
    assert agree_files(people, other, QUICK).judges[1].raters == {}


def test_one_label_only_leaves_kappa_undefined_not_one(tmp_path: Path) -> None:
    rows = [f"{q},x,y,1" for q in range(5)]
    found = agree_rows(tmp_path, rows, rows).example.statistics
    assert found["percent_agreement"].value == 1.0
    for name in ("cohen_kappa", "fleiss_kappa", "krippendorff_alpha", "kendall_tau"):
        assert found[name].value is None


def test_no_shared_item_and_unknown_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share no item"):
        agree_rows(tmp_path, ["1,x,y,1"], ["2,x,y,1"])
    with pytest.raises(ValueError, match="no system w; there are x, y"):
        agree_rows(tmp_path, ["1,x,y,1"], ["1,x,y,1"], AgreeOptions(without=("w",)))
    with pytest.raises(ValueError, match="own system 'w' is not judged"):
        agree_rows(tmp_path, ["1,x,y,1"], ["1,x,y,1"], AgreeOptions(own_a="w"))


def test_few_systems_have_no_rank_correlation_and_json_has_no_nan(tmp_path: Path) -> None:
    result = agree_rows(tmp_path, ["1,x,y,1", "2,x,y,2"], ["1,x,y,1", "2,x,y,2"])
    assert result.system.statistics == {}
    assert any("fewer than three" in note for note in result.notes)
    json.dumps(result.to_json(), allow_nan=False)


def test_self_preference_is_the_excess_over_the_other_judge(tmp_path: Path) -> None:
    a = [f"{q},me,you,1" for q in range(10)]
    b = [f"{q},me,you,{1 if q < 6 else 2}" for q in range(10)]
    own = agree_rows(tmp_path, a, b, AgreeOptions(resamples=50, own_a="me")).judges[0].self_preference
    assert own is not None
    assert (own.by_itself.rate, own.by_the_other.rate) == (1.0, 0.6)
    assert own.excess == pytest.approx(0.4)


def test_leaving_a_system_out_leaves_its_rows_out(tmp_path: Path) -> None:
    rows = [f"{q},{a},{b},1" for q in range(4) for a, b in (("x", "y"), ("y", "z"), ("x", "z"))]
    result = agree_rows(tmp_path, rows, rows, AgreeOptions(resamples=20, without=("z",)))
    assert result.example.num == 4
    assert result.judges[0].num_verdicts == 4


def test_the_table_shows_every_level(tmp_path: Path) -> None:
    rows = [f"{q},{a},{b},{1 + q % 3}" for q in range(9) for a, b in (("x", "y"), ("y", "z"), ("x", "z"))]
    console = Console(width=200, record=True)
    paths = write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", rows)
    console.print(agree_command(*paths, QUICK)[1])
    text = console.export_text()
    assert all(
        name in text for name in ("items", "items without a tie", "systems", "kendall tau", "krippendorff alpha")
    )


def test_rank_statistics_by_hand() -> None:
    x, y = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1.0, 3.0, 2.0, 4.0]])
    assert kendall_tau(x, y)[0] == pytest.approx(4 / 6)
    assert spearman(x, y)[0] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert pair_order_agreement(x, y)[0] == pytest.approx(5 / 6)


def test_the_command_has_self_preference_length_bias_and_ranks_without_a_system(tmp_path: Path) -> None:
    pairs = [(q, one, two) for q in range(12) for one in "xyz" for two in "xyz" if one < two]
    a = write(tmp_path / "a.csv", [f"{q},{one},{two},1" for q, one, two in pairs])  # A is x, and says so
    b = write(tmp_path / "b.csv", [f"{q},{one},{two},{2 if one == 'x' and q % 2 else 1}" for q, one, two in pairs])
    texts = {"x": "long answer", "y": "short", "z": "s"}
    rows = [{"question_id": q, "system": name, "answer": text} for q in range(12) for name, text in texts.items()]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ["agree", str(a), str(b), "--resamples", "20", "--own-a", "x", "--answers", str(answers)]
    found = json.loads(CliRunner().invoke(app, [*common, "--json"]).stdout)
    own = found["judges"][0]["self_preference"]
    assert (own["by_itself"]["rate"], own["by_the_other"]["rate"], own["excess"]) == (1.0, 0.5, 0.5)
    assert found["judges"][1]["self_preference"] is None
    assert found["judges"][0]["length_bias"]["rate"] == 1.0
    shown = " ".join(CliRunner().invoke(app, common).stdout.split())
    assert "self-preference: x wins 100.0% of its decisive verdicts here" in shown
    assert "length: the longer answer wins 100.0% of 36 decisive verdicts" in shown
    fewer = CliRunner().invoke(app, [*common[:5], "--without", "z", "--json"])
    assert json.loads(fewer.stdout)["system"]["num"] == 2
    unknown = CliRunner().invoke(app, [*common[:5], "--without", "w"])
    assert (unknown.exit_code, "no system w; there are x, y, z" in " ".join(unknown.stderr.split())) == (2, True)


def test_an_interval_holds_95_of_100_resamples() -> None:
    found = _statistic(np.array([0.5, *np.arange(101.0) / 100]), 1_000_000)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975), abs=1e-5)
    few = _statistic(np.array([0.5, *np.arange(101.0) / 1000 + 0.45]), 5)  # t of 4 degrees of freedom, sqrt(5 / 4)
    half = 0.0475 * 2.776445 / 1.959964 * np.sqrt(5 / 4)
    assert (found.low, few.low, few.high) == pytest.approx((0.025, 0.5 - half, 0.5 + half), abs=1e-5)
    same = _statistic(np.full(9, 0.5), 9)
    assert (same.value, same.low) == (0.5, None)


def test_fleiss_by_hand_leaves_out_items_with_other_numbers_of_raters() -> None:
    counts = np.array([[2.0, 0, 0], [0, 0, 2], [1, 0, 1], [0, 0, 3]])  # the last has three raters, not two
    level = _rater_level(counts, np.arange(4, dtype=np.int32), 50, np.random.default_rng(0))
    assert level.num == 4
    assert level.statistics["percent_agreement"].value == pytest.approx(2 / 3)
    assert level.statistics["fleiss_kappa"].value == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2))


def test_judges_that_always_agree_are_not_certain_to() -> None:
    level = _example_level(np.tile(np.diag([1.0, 0, 1]), (3, 1, 1)), 50, np.random.default_rng(0))
    share, kappa = level.statistics["percent_agreement"], level.statistics["cohen_kappa"]
    assert (share.low, share.high) == (pytest.approx(0.025 ** (1 / 3)), 1.0)  # Clopper & Pearson, 3 of 3 questions
    assert kappa.value == 1.0
    assert kappa.low is not None
    assert kappa.low < 1.0
