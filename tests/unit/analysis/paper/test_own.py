"""Tables of the paper from runs: which cell a run fills, and how ours is held against the printed value."""

import copy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.paper import own as own_tables
from analysis.paper.memory import HALF_A_GIGABYTE, alternatives, memory_gb
from analysis.paper.own import GridPlan, OwnRun, OwnRuns, headline_of, reproduce_from_runs
from analysis.paper.places import PLACES
from analysis.paper.tables import Cell, Reproduction, Status
from analysis.paper.text import latex, plain, to_csv, to_html, to_latex, to_markdown
from analysis.paper.values import TABLES
from tests.records.reports import SYSTEMS, make_runs

SPEC: dict[str, Any] = {
    "model": {"name": "llama7b", "recipe_size": "7b"},
    "quant": {"name": "nf4", "method": "nf4", "double_quant": True, "compute_dtype": "bfloat16"},
    "adapter": {"name": "lora", "method": "lora", "lora_r": 64},
    "dataset": {
        "name": "alpaca_clean",
        "train_on_source": False,
        "max_rows": None,
        "source_max_tokens": 384,
        "target_max_tokens": 128,
    },
    "train": {"batch_size": 16, "learning_rate": 2e-4, "max_steps": 10000, "max_epochs": None},
}


def spec(**changes: Any) -> dict[str, Any]:
    """`spec(dataset__name="flan", adapter__method="none")`"""
    made = copy.deepcopy(SPEC)
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            made[part][name] = value
        else:
            made[part] = value
    return made


def run(
    value: float | None, ci95: tuple[float, float] | None = None, benchmark: str = "mmlu", **changes: Any
) -> OwnRun:
    result = {"headline": {"metric": "m", "value": value, "ci95": ci95 and list(ci95), "n": 9}}
    return OwnRun(run_id="r", label="l", spec=spec(**changes), results={benchmark: result})


def made(table: str, *runs: OwnRun, plan: GridPlan | None = None) -> Reproduction:
    return reproduce_from_runs(table, OwnRuns(where="sweep s", runs=runs), plan)


def cell(reproduction: Reproduction, row: str, column: str) -> Cell:
    (found,) = [c for c in reproduction.cells if (c.row, c.column) == (row, column)]
    return found


@pytest.mark.parametrize(
    ("table", "changes", "place"),
    [
        (
            "2",
            {"adapter__method": "none", "quant__double_quant": False, "quant__method": "fp4"},
            ("Float4 (E2M1)", "pile_cc_mean_ppl", "llama7b"),
        ),
        ("2", {"adapter__method": "none"}, ("NFloat4 + DQ", "pile_cc_mean_ppl", "llama7b")),
        ("2", {}, None),  # finetuned
        (
            "3",
            {"dataset__name": "glue_rte", "quant__method": "int8"},
            ("QLoRA Int8", "RoBERTa-large GLUE acc", "glue_rte"),
        ),
        ("3", {"dataset__name": "super_ni", "model__name": "t5_xxl"}, ("QLoRA NF4 + DQ", "T5-11B Super-NI RougeL", "")),
        (
            "3",
            {"dataset__name": "super_ni", "model__name": "t5_xl", "quant__method": "fp4"},
            None,
        ),  # fp4 doubly quantized
        ("4", {"quant__method": "none"}, ("BFloat16", "7B Alpaca", "")),
        (
            "4",
            {
                "quant__method": "fp4",
                "quant__double_quant": False,
                "dataset__name": "flan",
                "model__recipe_size": "65b",
            },
            ("Float4", "65B FLAN v2", ""),
        ),
        ("4", {"dataset__name": "chip2"}, None),
        ("4", {"adapter__method": "none"}, None),
        (
            "5",
            {"adapter__method": "none", "dataset": None, "model__recipe_size": "33b"},
            ("LLaMA no tuning", "33B", ""),
        ),
        ("5", {"dataset__name": "oasst1"}, ("Guanaco (OASST1)", "7B", "")),
        ("5", {"dataset__name": "concise"}, None),
        ("8", {"adapter__method": "none", "dataset": None}, ("", "LLaMA-65B", "")),
        ("9", {"dataset__name": "hh_rlhf", "model__recipe_size": "13b"}, ("13B HH-RLHF", "", "")),
        ("9", {"dataset__name": "flan"}, ("7B All", "", "")),
        ("10", {"dataset__train_on_source": True}, ("train on source and target", "Alpaca", "")),
        (
            "11",
            {"dataset__name": "chip2", "dataset__max_rows": 50000, "train__max_epochs": 3.0},
            ("50000", "Chip 3 epochs", ""),
        ),
        ("11", {"dataset__name": "chip2", "dataset__max_rows": 50000}, None),
    ],
)
def test_a_run_is_placed_by_what_the_table_varies(
    table: str, changes: dict[str, Any], place: tuple[str, str, str] | None
) -> None:
    assert PLACES[table].cells(spec(**changes)) == ([] if place is None else [place])


def test_full_finetuning_stands_beside_both_of_the_papers_rows() -> None:
    places = PLACES["3"].cells(spec(dataset__name="glue_cola", adapter__method="full", quant__method="none"))
    assert [row for row, _, _ in places] == ["BF16", "BF16 replication"]


def test_every_place_is_a_cell_of_its_table() -> None:
    for changes in ({}, {"adapter__method": "none"}, {"quant__method": "none"}):
        for name in ("alpaca_clean", "flan", "chip2", "unnatural_full", "oasst1", "glue_sst2"):
            for table in ("2", "3", "4", "5", "10", "11"):
                for row, column, _ in PLACES[table].cells(
                    spec(dataset__name=name, dataset__max_rows=100000, train__max_epochs=2.0, **changes)
                ):
                    assert row in TABLES[table].rows
                    assert column in TABLES[table].columns


@pytest.mark.parametrize(
    ("value", "ci95", "status"),
    [
        (0.3804, None, Status.reproduces),  # rounds to the printed 38.0
        (0.3806, None, Status.differs),
        (0.36, (0.34, 0.3799), Status.differs),  # the printed value lies outside of our interval
        (0.36, (0.34, 0.3801), Status.reproduces),
    ],
)
def test_ours_reproduces_within_the_decimal_or_the_interval(
    value: float, ci95: tuple[float, float] | None, status: Status
) -> None:
    found = cell(
        made("10", run(value, ci95, dataset__name="unnatural_full")), "train on target", "Unnatural Instructions"
    )
    assert found.status is status
    assert found.ours == pytest.approx(100 * value)
    assert found.difference == pytest.approx(100 * value - 38.0)


def test_seeds_of_a_cell_are_averaged_and_leave_no_interval_of_one_of_them() -> None:
    found = cell(made("10", run(0.30, (0.2, 0.4)), run(0.34, (0.2, 0.4))), "train on target", "Alpaca")
    assert (found.ours, found.low, found.high) == (pytest.approx(32.0), None, None)


def test_a_mean_waits_for_all_of_its_row() -> None:
    names = ("unnatural_full", "chip2", "alpaca_clean", "flan")
    runs = [run(0.30 + i / 100, dataset__name=name) for i, name in enumerate(names)]
    assert cell(made("10", *runs), "train on target", "Mean").ours == pytest.approx(31.5)
    left = cell(made("10", *runs[:3]), "train on target", "Mean")
    assert (left.ours, left.reason) == (None, "the mean of 4 cells, of which 3 were run")


def test_a_cell_of_several_tasks_waits_for_all_of_them() -> None:
    tasks = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
    runs = [
        run(0.8 + i / 100, benchmark="glue", dataset__name=f"glue_{t}", quant__method="int8")
        for i, t in enumerate(tasks)
    ]
    assert cell(made("3", *runs), "QLoRA Int8", "RoBERTa-large GLUE acc").ours == pytest.approx(83.5)
    left = cell(made("3", *runs[1:]), "QLoRA Int8", "RoBERTa-large GLUE acc")
    assert left.reason == "7 of 8 runs; python -m sweeps run +grid=table3"


def test_table_8_reads_the_categories_of_crows_pairs() -> None:
    crows = {
        "categories": {"Gender": {"value": 47.0, "ci95": [40.0, 54.0]}, "Age": {"value": 36.3, "ci95": None}},
        "average_of_pairs": {"value": 50.0, "ci95": [49.0, 51.0]},
    }
    result = {"tasks": {"crows_pairs_english": {"crows_pairs": crows}, "hellaswag": {"crows_pairs": None}}}
    own = OwnRun(run_id="r", label="l", spec=spec(dataset__name="oasst1"), results={"tasks": result})
    table = made("8", own)
    found = [cell(table, row, "Guanaco-65B") for row in ("Gender", "Age", "Average", "Religion")]
    assert [c.status for c in found] == [Status.reproduces, Status.reproduces, Status.differs, Status.not_run]
    assert cell(table, "Age", "GPT-3").reason == "another model's figure, which the paper quotes"


def test_table_9_is_the_grids_own_settings() -> None:
    points = tuple(spec(dataset__name=name) for name in ("alpaca_clean", "flan"))
    odd = spec(dataset__name="chip2", train__batch_size=8)
    plan = GridPlan(command="c", points=(*points, odd), num_to_do=0, gpu_hours=None, device="H100")
    table = made("9", plan=plan)
    assert cell(table, "7B All", "lr").status is Status.reproduces
    assert cell(table, "7B All", "steps").status is Status.reproduces
    assert cell(table, "7B All", "batch_size").reason == "its datasets differ"
    assert cell(table, "65B OASST1", "steps").reason == "the grid was not planned"


def test_what_was_not_run_says_the_command_and_its_hours() -> None:
    plan = GridPlan(command="python -m sweeps run +grid=table10", points=(), num_to_do=8, gpu_hours=79.3, device="A100")
    found = cell(made("10", plan=plan), "train on target", "Chip2")
    assert found.reason == "python -m sweeps run +grid=table10: 8 runs, about 79 GPU-hours on one A100"


def test_other_settings_than_the_grids_are_said() -> None:
    plan = GridPlan(command="c", points=(spec(),), num_to_do=1, gpu_hours=None, device="H100")
    short = run(0.3, train__max_steps=20, quant__compute_dtype="float32")
    table = made("10", short, short, plan=plan)
    assert table.missing == ("not the grid's own settings: train.max_steps 20, the grid's 10000 (2 runs)",)
    assert table.missing[0] in to_markdown(table)


def test_a_result_without_a_headline_is_refused_by_name() -> None:
    broken = OwnRun(run_id="ab", label="l", spec=spec(), results={"mmlu": {"accuracy": 1}})
    with pytest.raises(ValueError, match=r"ab: mmlu: headline.*score the run again"):
        made("10", broken)


def test_a_sweep_that_is_not_there_leaves_cells_that_were_not_run(tmp_path: Path) -> None:
    own = OwnRuns.of_sweep(tmp_path, "table10", f"sqlite:///{tmp_path}/ledger.sqlite")
    assert own.runs == ()
    assert "ledger" in own.notes[0]
    assert made("10").num == {"reproduces": 0, "differs": 0, "not run": 10}


def test_texts_hold_every_cell_and_escape_what_a_name_may_hold() -> None:
    table = made("10", run(0.39, (0.38, 0.40)))
    assert len(to_csv(table).splitlines()) == 11
    assert "| train on target | Unnatural Instructions | 38.0 | - | - | not run |" in to_markdown(table)
    assert "|  | Alpaca | 39.0 | 39.0 | 38.0 to 40.0 | reproduces |" in to_markdown(table)
    assert to_html(table).count("<tr>") == 11
    assert to_latex(table).count(r"\\") == 11
    assert latex("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"


@pytest.mark.parametrize(
    ("value", "text"), [(38.0, "38.0"), (10000, "10000"), (2e-4, "0.0002"), (None, "-"), ("4-bit", "4-bit")]
)
def test_numbers_are_written_as_the_paper_prints_them(value: object, text: str) -> None:
    assert plain(value) == text


def test_another_table_is_refused() -> None:
    with pytest.raises(ValueError, match="table '12' is not made of runs: expected one of 2, 3"):
        made("12")


def test_memory_is_that_of_the_weights_and_the_adapter() -> None:
    """13B in 16 bits: 2 bytes for each of its 13,015,864,320 parameters."""
    assert memory_gb("vicuna-13b") == pytest.approx(26.031728640, rel=1e-4)
    assert memory_gb("guanaco-65b") == pytest.approx(36.06, abs=0.01)
    assert memory_gb("gpt-4") is None
    left = {row[0]: float(row[-1]) for row in alternatives()}
    assert all(abs(left[size]) < 0.5 for size in ("33b", "65b")), "single constants, adapters in 32 bits"
    assert left["7b"] == left["13b"] == 1.2
    assert memory_gb("bloom-176b") is None


def test_the_command_makes_every_table_and_says_what_is_missing(tmp_path: Path) -> None:
    arguments = ["tables", "all", "--no-plan", "--data", str(tmp_path), "--runs", str(tmp_path), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("table ")]
    assert {path.name for path in tmp_path.glob("*.tex")} == {f"table{n}.tex" for n in (2, 3, 4, 5, 8, 9, 10, 11)}


def test_memory_of_each_size_and_how_near_it_has_to_be() -> None:
    sizes = {row: memory_gb(row) for row in ("guanaco-7b", "guanaco-13b", "guanaco-33b", "open-assistant-33b")}
    assert sizes == pytest.approx(
        {"guanaco-7b": 4.19, "guanaco-13b": 7.70, "guanaco-33b": 18.39, "open-assistant-33b": 65.06}, abs=0.05
    )
    assert HALF_A_GIGABYTE == 0.5


def test_runs_are_read_from_their_folders(tmp_path: Path) -> None:
    folder, ids = make_runs(tmp_path)
    (folder / ids[0] / "eval" / "empty").mkdir()
    read = list(own_tables._runs(folder, [*ids, "not-there"]))
    assert [(one.run_id, one.label) for one in read] == list(zip(ids, SYSTEMS, strict=True))
    assert [sorted(one.results) for one in read] == [["mmlu"], [], ["mmlu"]]
    assert read[0].results["mmlu"]["accuracy_macro"] == 0.31
    assert read[0].final_loss == pytest.approx(2.4 - 0.99 + 0.1)
    assert read[0].spec["adapter"]["lora_r"] == 16


def test_a_headline_is_scaled_and_may_lack_its_value_or_its_interval() -> None:
    def found(**headline: Any) -> Any:
        return headline_of({"headline": {"metric": "m", "n": 9, **headline}}, "w", 100.0)

    assert found(value=0.5, ci95=[0.25, 0.75]) == (50.0, 25.0, 75.0)
    assert found(value=0.5, ci95=None) == (50.0, None, None)
    assert found(value=None, ci95=None) is None


def test_tables_are_filled_in_the_papers_unit_by_their_own_grids() -> None:
    assert {name: (p.grid, p.benchmark, p.scale) for name, p in PLACES.items()} == {
        "2": ("table2", "perplexity", 1.0),
        "3": ("table3", "glue super_ni", 100.0),
        "4": ("table4", "mmlu", 100.0),
        "5": ("table5", "mmlu", 100.0),
        "8": ("table8", "tasks", 1.0),
        "9": ("table5", None, 1.0),
        "10": ("table10", "mmlu", 100.0),
        "11": ("table11", "mmlu", 100.0),
    }
    parts = {name: {column: p.num_parts(column) for column in TABLES[name].columns} for name, p in PLACES.items()}
    assert parts["2"] == {"pile_cc_mean_ppl": 13}
    assert parts["3"] == dict.fromkeys(TABLES["3"].columns, 1) | {"RoBERTa-large GLUE acc": 8}
    assert {number for name in ("4", "5", "8", "9", "10", "11") for number in parts[name].values()} == {1}
    assert {name: dict(p.elsewhere) for name, p in PLACES.items() if p.elsewhere} == {
        "2": dict.fromkeys(("Int4", "Float4 (E3M0)"), "not among bitsandbytes' data types"),
        "8": dict.fromkeys(("GPT-3", "OPT-175B"), "another model's figure, which the paper quotes"),
    }


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("3", {"dataset": None, "adapter__method": "full"}),
        ("3", {"dataset__name": "glue_rte", "quant__method": "fp4"}),
        ("4", {"dataset": None}),
        ("5", {"dataset": None}),
        ("8", {}),
        ("9", {"dataset": None}),
        ("9", {"adapter__method": "none"}),
        ("9", {"dataset__name": "concise"}),
        ("10", {"adapter__method": "none"}),
        ("10", {"dataset": None}),
        ("11", {"dataset__name": "chip2", "train__max_epochs": 3.0}),
        ("11", {"dataset__name": "alpaca_clean", "dataset__max_rows": 50000, "train__max_epochs": 3.0}),
        (
            "11",
            {
                "dataset__name": "chip2",
                "dataset__max_rows": 50000,
                "train__max_epochs": 3.0,
                "adapter__method": "none",
            },
        ),
    ],
)
def test_a_run_that_a_table_has_no_place_for(table: str, changes: dict[str, Any]) -> None:
    assert PLACES[table].cells(spec(**changes)) == []
