"""Which cell of a table of the paper a run belongs to, told from the run's own settings.

    PLACES["4"].cells(spec)    # [("NFloat4 + DQ", "7B Alpaca", "")] for a run of LLaMA 7B, Alpaca, nf4

A run is placed by what the table varies, whatever else it was told: a model of another size in its column, or a run
that was cut short, is compared all the same, and `analysis.paper.own` says in what it differs from the grid's own run.
Source: QLoRA (arXiv 2305.14314), Tables 1 to 12; the grids of these tables are sweeps/grid/.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]  # a run's resolved settings, as record.json has them
Target = tuple[str, str, str]  # row, column, and which part of a cell that is the mean of several runs

DATASETS_5 = {
    "self_instruct": "Self-Instruct",
    "longform": "Longform",
    "chip2": "Chip2",
    "hh_rlhf": "HH-RLHF",
    "unnatural_full": "Unnatural Instruct",
    "oasst1": "Guanaco (OASST1)",
    "alpaca_clean": "Alpaca",
    "flan": "FLAN v2",
}
DATASETS_4 = {"alpaca_clean": "Alpaca", "flan": "FLAN v2"}
DATASETS_10 = {
    "unnatural_full": "Unnatural Instructions",
    "chip2": "Chip2",
    "alpaca_clean": "Alpaca",
    "flan": "FLAN v2",
}
DATASETS_11 = {"chip2": "Chip", "unnatural_full": "Unnatural Instructions", "flan": "FLAN v2"}
DATASETS_9 = {"oasst1": "OASST1", "hh_rlhf": "HH-RLHF", "longform": "Longform"}  # the table's "All" is every other
T5 = {"t5_small": "T5-80M", "t5_base": "T5-250M", "t5_large": "T5-780M", "t5_xl": "T5-3B", "t5_xxl": "T5-11B"}
ROWS_6 = {
    "oasst1": "guanaco",
    "alpaca_clean": "alpaca",
    "flan": "flan",
    "hh_rlhf": "hh-rlhf",
    "unnatural_full": "unnatural-instructions",
    "chip2": "chip2",
    "longform": "longform",
    "self_instruct": "self-instruct",
}
MODELS_2 = 13  # of the grid
GLUE_TASKS = 8
MEAN = "Mean"  # of the row's other cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """How a table is filled from the runs of its grid."""

    grid: str  # of sweeps/grid/
    benchmark: str | None  # whose headline is compared; None: the settings themselves are
    scale: float = 1.0  # of ours to the paper's unit
    place: Callable[[Spec], Iterator[Target]]
    num_parts: Callable[[str], int] = lambda column: 1  # runs that a cell of a column is the mean of
    elsewhere: Mapping[str, str] | None = None  # rows and columns that no run can fill -> why

    def cells(self, spec: Spec) -> list[Target]:
        """The cells that a run with these settings belongs to; none where the table has no place for it."""
        return list(self.place(spec))


def _size(spec: Spec) -> str:
    return str(spec["model"]["recipe_size"]).upper()


def _dataset(spec: Spec) -> str | None:
    dataset = spec.get("dataset")
    return None if dataset is None else str(dataset["name"])


def _is_base(spec: Spec) -> bool:
    return bool(spec["adapter"]["method"] == "none")


def data_type_of(spec: Spec) -> str:
    """How a run's base is stored: BF16, int8, fp4, nf4 or nf4 + DQ (double quantization)."""
    quant = spec["quant"]
    if quant["method"] == "none":
        return "BF16"
    doubly = " + DQ" if quant["method"] in ("nf4", "fp4") and quant["double_quant"] else ""
    return f"{quant['method']}{doubly}"


def _table_2(spec: Spec) -> Iterator[Target]:
    row = {"fp4": "Float4 (E2M1)", "nf4 + DQ": "NFloat4 + DQ"}.get(data_type_of(spec))
    if row and _is_base(spec):
        yield row, "pile_cc_mean_ppl", str(spec["model"]["name"])


def _table_3(spec: Spec) -> Iterator[Target]:
    rows = {"BF16": ["LoRA BF16"], "int8": ["QLoRA Int8"], "fp4": ["QLoRA FP4"], "nf4 + DQ": ["QLoRA NF4 + DQ"]}
    mine = rows.get(data_type_of(spec), [])
    if spec["adapter"]["method"] == "full":
        mine = ["BF16", "BF16 replication"]
    dataset = _dataset(spec) or ""
    for row in mine:
        if dataset.startswith("glue_"):
            yield row, "RoBERTa-large GLUE acc", dataset
        elif (size := T5.get(spec["model"]["name"])) and dataset.startswith("super_ni"):
            yield row, f"{size} Super-NI RougeL", ""


def _table_4(spec: Spec) -> Iterator[Target]:
    row = {"BF16": "BFloat16", "fp4": "Float4", "nf4 + DQ": "NFloat4 + DQ"}.get(data_type_of(spec))
    dataset = DATASETS_4.get(_dataset(spec) or "")
    if row and dataset and not _is_base(spec):
        yield row, f"{_size(spec)} {dataset}", ""


def _table_5(spec: Spec) -> Iterator[Target]:
    if _is_base(spec):
        yield "LLaMA no tuning", _size(spec), ""
    elif row := DATASETS_5.get(_dataset(spec) or ""):
        yield row, _size(spec), ""


def _table_8(spec: Spec) -> Iterator[Target]:
    column = "LLaMA-65B" if _is_base(spec) else "Guanaco-65B" if _dataset(spec) == "oasst1" else None
    if column is not None:
        yield "", column, ""  # every row: the categories of one result


def _table_9(spec: Spec) -> Iterator[Target]:
    dataset = _dataset(spec)
    if dataset is not None and dataset in DATASETS_5 and not _is_base(spec):
        yield f"{_size(spec)} {DATASETS_9.get(dataset, 'All')}", "", ""  # every column: the settings of one run


def _table_10(spec: Spec) -> Iterator[Target]:
    column = DATASETS_10.get(_dataset(spec) or "")
    if column and not _is_base(spec):
        on_source = spec["dataset"]["train_on_source"]
        yield ("train on source and target" if on_source else "train on target"), column, ""


def _table_11(spec: Spec) -> Iterator[Target]:
    column = DATASETS_11.get(_dataset(spec) or "")
    epochs = (spec["train"] or {}).get("max_epochs")  # an untouched base and a merged run have no training
    if column and epochs is not None and spec["dataset"]["max_rows"] is not None and not _is_base(spec):
        yield str(spec["dataset"]["max_rows"]), f"{column} {epochs:g} epochs", ""


def judged_row(spec: Spec) -> str | None:
    """The row of Tables 1, 6, 7 and 12 that a finetuned run's answers belong to, as guanaco-65b; None: no row."""
    name = ROWS_6.get(_dataset(spec) or "")
    return f"{name}-{_size(spec).lower()}" if name and not _is_base(spec) else None


def settings_of_table_9(spec: Spec) -> dict[str, float | None]:
    """Its columns of one run."""
    dataset, train = spec["dataset"], spec["train"]
    return {
        "batch_size": train["batch_size"],
        "lr": train["learning_rate"],
        "steps": train["max_steps"],
        "source_len": dataset["source_max_tokens"],
        "target_len": dataset["target_max_tokens"],
    }


NOT_IN_BITSANDBYTES = "not among bitsandbytes' data types"
OTHERS_FIGURES = "another model's figure, which the paper quotes"
PLACES: Mapping[str, Places] = {
    "2": Places(
        grid="table2",
        benchmark="perplexity",
        place=_table_2,
        num_parts=lambda column: MODELS_2,
        elsewhere={"Int4": NOT_IN_BITSANDBYTES, "Float4 (E3M0)": NOT_IN_BITSANDBYTES},
    ),
    "3": Places(
        grid="table3",
        benchmark="glue super_ni",
        scale=100.0,
        place=_table_3,
        num_parts=lambda column: GLUE_TASKS if "GLUE" in column else 1,
    ),
    "4": Places(grid="table4", benchmark="mmlu", scale=100.0, place=_table_4),
    "5": Places(grid="table5", benchmark="mmlu", scale=100.0, place=_table_5),
    "8": Places(
        grid="table8",
        benchmark="tasks",
        place=_table_8,
        elsewhere={"GPT-3": OTHERS_FIGURES, "OPT-175B": OTHERS_FIGURES},
    ),
    "9": Places(grid="table5", benchmark=None, place=_table_9),
    "10": Places(grid="table10", benchmark="mmlu", scale=100.0, place=_table_10),
    "11": Places(grid="table11", benchmark="mmlu", scale=100.0, place=_table_11),
}


def mean_columns(columns: Sequence[str]) -> list[str]:
    """The columns whose cells are the mean of the row's others."""
    return [column for column in columns if column == MEAN]
