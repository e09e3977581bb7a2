"""Tables of judgments from own runs: which system is which row, what they give, and what is said to be left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.paper.judged import beside, left_to_do, own_cells, own_tournament
from analysis.paper.own import GridPlan, OwnRun, OwnRuns
from analysis.paper.tables import OWN, Cell, Status, net_wins
from analysis.paper.text import to_csv, to_html, to_latex, to_markdown
from eval.verdicts.table import load_verdicts

LEFT = {name: left_to_do(name, None, "gpt-4") for name in ("1", "6", "7", "12")}
MESSAGES = ("a38b3d1c-256f-47c5-ab68-c9ab766bad84", "68489e5c-978f-4ad7-a849-39a741fb5ae7")  # as OASST1 names them


def spec(dataset: str, size: str, method: str = "lora") -> dict[str, Any]:
    return {"model": {"recipe_size": size}, "dataset": {"name": dataset}, "adapter": {"method": method}}


def runs(**labels: tuple[str, str]) -> OwnRuns:
    found = [OwnRun(run_id=label, label=label, spec=spec(*of), results={}) for label, of in labels.items()]
    return OwnRuns(where="sweep s", runs=tuple(found))


GUANACOS = runs(big=("oasst1", "65b"), small=("oasst1", "7b"), twin=("oasst1", "7b"), other=("alpaca_clean", "7b"))


def verdicts(path: Path) -> Path:
    """big wins both orders of question 1 and one of question 2; small wins the other; chatgpt-3.5 only meets small."""
    lines = ["question_id,system_a,system_b,verdict,judge"]
    lines += ["1,big,small,1,j", "1,small,big,2,j", "2,big,small,1,j", "2,small,big,1,j"]
    lines += ["1,gpt-3.5,small,3,j", "1,small,gpt-3.5,-1,j", "1,big,twin,1,j", "1,big,nobody,2,j"]
    path.write_text("\n".join(lines) + "\n")
    return path


def cell(cells: list[Cell], row: str, column: str) -> Cell:
    (found,) = [c for c in cells if (c.row, c.column) == (row, column)]
    return found


def test_a_system_is_a_row_by_its_runs_settings_or_by_its_name(tmp_path: Path) -> None:
    own = own_tournament("7", [verdicts(tmp_path / "verdicts.csv")], GUANACOS)
    assert own.rows == {"big": "guanaco-65b", "gpt-3.5": "chatgpt-3.5", "small": "guanaco-7b"}
    assert "nobody, twin" in own.notes[0]


def test_wins_less_losses_are_counted_a_question(tmp_path: Path) -> None:
    path = verdicts(tmp_path / "verdicts.csv")
    assert net_wins(load_verdicts([path]), "big", "small") == {"1": 2.0, "2": 0.0}
    assert net_wins(load_verdicts([path]), "small", "big") == {"1": -2.0, "2": 0.0}
    cells = own_cells("12", own_tournament("12", [path], GUANACOS), 2, LEFT["12"])
    assert (cell(cells, "guanaco-65b", "guanaco-7b").ours, cell(cells, "guanaco-7b", "guanaco-65b").ours) == (1, -1)
    assert cell(cells, "chatgpt-3.5", "guanaco-7b").ours == 0
    never = cell(cells, "guanaco-33b", "bard")
    assert (never.status, never.reason, never.setting) == (Status.not_run, LEFT["12"]["guanaco-65b"], OWN)
    assert len(cells) == 42


def test_elo_of_own_runs_stands_beside_the_papers(tmp_path: Path) -> None:
    own = own_tournament("7", [verdicts(tmp_path / "verdicts.csv")], GUANACOS)
    cells = own_cells("7", own, 2, LEFT["7"])
    assert cell(cells, "guanaco-65b", "rank_gpt4_vicuna").ours == 1
    assert cell(cells, "guanaco-65b", "elo_gpt4_vicuna").ours > 1000  # type: ignore[operator]
    assert cell(cells, "bard", "elo_gpt4_vicuna").reason == LEFT["7"]["elo_gpt4_vicuna"]
    made = beside("7", None, "none were released", own, cells, LEFT["7"])
    page = to_markdown(made)
    assert "| system | paper | own runs |" in page
    assert "8 verdicts of j on 2 questions (" in page
    assert "none were released" in page
    assert "own runs: left out" in page
    for text in (to_csv, to_html, to_latex):
        assert "guanaco-65b" in text(made)


def test_scores_of_own_runs_are_relative_to_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    lines = ["question_id,system,order,score_candidate,score_reference"]
    lines += ["1,other,candidate_first,6,8", "1,other,candidate_second,3,6", "2,other,candidate_first,9,8"]
    path.write_text("\n".join(lines) + "\n")
    cells = own_cells("6", own_tournament("6", [path], GUANACOS), 2, LEFT["6"])
    first, second = (cell(cells, "alpaca-7b", f"{name}_pct") for name in ("sys_vs_chatgpt", "chatgpt_vs_sys"))
    assert (first.ours, second.ours) == (93.8, 50.0)  # 15 of 16 and 3 of 6
    assert cell(cells, "guanaco-7b", "mean_pct").status is Status.not_run
    page = to_markdown(beside("6", None, "", own_tournament("6", [path], GUANACOS), cells, LEFT["6"]))
    assert "Score relative to ChatGPT, %, own runs" in page
    assert "| guanaco-7b | 84.1 / - | 89.8 / - | 87.0 / - | 5.4 / - | - | not run |" in page


def test_an_order_that_nobody_judged_is_said_beside_the_one_that_was(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("question_id,system,order,score_candidate,score_reference\n1,other,candidate_first,6,8\n")
    own = own_tournament("6", [path], GUANACOS)
    page = to_markdown(beside("6", None, "", own, own_cells("6", own, 2, LEFT["6"]), LEFT["6"]))
    (row,) = [line for line in page.splitlines() if line.startswith("| alpaca-7b | 57.3")]
    assert "| 57.3 / - | 71.2 / 75.0 | 64.4 / 75.0 |" in row
    assert "not run: ChatGPT first" in row


def test_our_interval_may_hold_the_printed_value(tmp_path: Path) -> None:
    lines = ["question_id,system_a,system_b,verdict"]
    for question, verdict in enumerate([1] * 7 + [2] + [3] * 4):
        lines.append(f"{question},big,small,{verdict}")
    path = tmp_path / "verdicts.csv"
    path.write_text("\n".join(lines) + "\n")
    cells = own_cells("12", own_tournament("12", [path], GUANACOS), 2, LEFT["12"])
    mine = cell(cells, "guanaco-65b", "guanaco-7b")
    assert mine.ours == pytest.approx(0.5)
    assert mine.low is not None
    assert mine.high is not None
    assert mine.low < 0.86 <= mine.high
    assert mine.status is Status.reproduces


def rows(questions: Sequence[str], judge: str, rater: str = "", benchmark: str = "") -> list[str]:
    """A line an order of each question: big wins both."""
    pairs = [(q, order) for q in questions for order in ("big,small,1", "small,big,2")]
    return [f"{question},{order},{judge},{rater},{benchmark}" for question, order in pairs]


def judged_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["question_id,system_a,system_b,verdict,judge,rater,benchmark", *lines]) + "\n")
    return path


def test_whose_verdict_it_is_and_on_which_question_says_its_column(tmp_path: Path) -> None:
    files = [
        judged_file(tmp_path / "verdicts.csv", *rows("12", "gpt-4"), *rows(MESSAGES, "gpt-4")),
        judged_file(tmp_path / "human.csv", *rows("1", "human", "ann"), *rows("1", "human", "bob")),
    ]
    own = own_tournament("7", files, GUANACOS)
    cells = own_cells("7", own, 2, LEFT["7"])
    for column in ("elo_human_vicuna", "elo_gpt4_vicuna", "elo_gpt4_oa"):
        assert cell(cells, "guanaco-65b", column).ours > 1000  # type: ignore[operator]
        assert cell(cells, "gpt-4", column).reason == LEFT["7"][column]
        rank = column.replace("elo", "rank")
        assert [cell(cells, row, rank).ours for row in ("guanaco-65b", "guanaco-7b")] == [1, 2]
    assert [cell(cells, row, "median_rank").ours for row in ("guanaco-65b", "guanaco-7b")] == [1, 2]
    made = beside("7", None, "", own, cells, LEFT["7"])
    assert [source.partition(" (")[0] for source in made.sources] == [
        "own runs: 4 verdicts of human on 1 question",
        "own runs: 4 verdicts of gpt-4 on 2 questions",
        "own runs: 4 verdicts of gpt-4 on 2 questions",
    ]
    (one,) = own_tournament("1", files, GUANACOS).parts
    assert one is not None
    assert len(one.verdicts) == 4


def test_a_column_of_a_benchmark_counts_before_the_look_of_an_id(tmp_path: Path) -> None:
    path = judged_file(tmp_path / "verdicts.csv", *rows("ab", "j", benchmark="oa"), *rows("c", "j", benchmark="open"))
    own = own_tournament("7", [path], GUANACOS)
    people, vicuna, open_assistant = own.parts
    assert people is None
    assert vicuna is not None
    assert open_assistant is not None
    assert (len(vicuna.verdicts), len(open_assistant.verdicts)) == (2, 4)
    made = beside("7", None, "", own, own_cells("7", own, 2, LEFT["7"]), LEFT["7"])
    assert "on 1 question that are not the Vicuna benchmark's" in made.sources[0]
    medians = [c for c in made.cells if c.column == "median_rank"]
    assert {c.reason for c in medians} == {
        "needs the ranks of all three columns; there is none by people on the Vicuna benchmark"
    }


def test_of_two_files_for_one_column_the_first_counts(tmp_path: Path) -> None:
    files = [judged_file(tmp_path / f"{name}.csv", *rows(name, "j")) for name in "12"]
    own = own_tournament("1", files, GUANACOS)
    assert own.parts[0] is not None
    assert own.parts[0].verdicts.question.values == ["1"]
    assert own.notes == (f"own runs: left out, as another file has judgments of its kind: {files[1]}",)


def test_what_is_left_has_grid_runs_hours_calls_and_price() -> None:
    plan = GridPlan(command="python -m sweeps run +grid=guanaco", points=(), num_to_do=4, gpu_hours=21.0, device="H100")
    left = left_to_do("7", plan, "gpt-4")
    vicuna, oasst, people = (left[name] for name in ("elo_gpt4_vicuna", "rank_gpt4_oa", "elo_human_vicuna"))
    for words in (vicuna, oasst, people):
        assert words.startswith("python -m sweeps run +grid=guanaco: 4 runs, about 21 GPU-hours on one H100; then ")
    assert "4,480 calls of the judge, about 188 USD by gpt-4" in vicuna  # 4,480 of 0.03 + 0.012
    assert "--judge gpt-4 --tournament tournaments/guanaco " in vicuna
    assert "40,026 calls" in oasst  # 7 systems, as Bard has no answers there: 42 pairs of 953
    assert "--bench oa --judge gpt-4 --tournament tournaments/guanaco-oa " in oasst
    assert "6,720 votes of people, 3 on each pair of answers" in people
    six = left_to_do("6", None, "my-own")["mean_pct"]
    assert "3,360 calls of the judge, whose price isn't known" in six  # 21 rows on 80 questions in both orders
    assert 'judge --reference chatgpt-3.5"' in six


def test_the_command_fills_a_table_from_a_tournament_alone(tmp_path: Path) -> None:
    verdicts(tmp_path / "verdicts.csv")
    arguments = ["tables", "12", "--no-plan", "--data", str(tmp_path / "none"), "--runs", str(tmp_path)]
    places = ["--tournament", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, *places])
    assert done.exit_code == 0, done.stderr
    assert "chatgpt-3.5" in (tmp_path / "out" / "table12.md").read_text()
    missing = CliRunner().invoke(app, [*arguments, "--tournament", str(tmp_path / "nowhere"), *places[2:]])
    assert (missing.exit_code, "no such folder" in missing.stderr) == (2, True)
