"""What each axis and column is, and how values become columns: by value."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.tidy import axes, rows
from analysis.tidy.axes import (
    AXES,
    Kind,
    axis_values,
    column,
    data_type,
    kind_of,
    other_values,
    seed_columns,
    title_of,
    trained_runs,
    varying_axes,
)
from analysis.tidy.columns import describe, meaning_of, ordered, unit_of
from analysis.tidy.rows import RunRows, higher_is_better, joined, score_unit


def test_what_is_known_of_each_axis() -> None:
    assert [title_of(name) for name in ("seed", "max_rows", "x")] == ["seed", "rows", "x"]
    units = {"block_size": "weights", "lora_dropout": "probability", "max_rows": "rows", "batch_size": "examples"}
    units |= {"max_steps": "steps", "max_epochs": "epochs"}
    assert {axis.name: axis.unit for axis in AXES if axis.unit is not None} == units
    assert {name: unit_of(name) for name in units} == units
    assert {axis.name: axis.follows for axis in AXES if axis.follows} == {
        "double_quant": "data_type",
        "block_size": "data_type",
    }
    assert [axis.name for axis in AXES if axis.adapters_only] == ["lora_r", "lora_alpha", "lora_dropout", "targets"]
    assert [axis.name for axis in AXES if axis.is_seed] == ["seed", "data_seed"]
    assert {axis.kind for axis in AXES if axis.name in ("lora_r", "seed", "max_steps", "block_size")} == {Kind.whole}
    assert [unit_of(name) for name in ("final_loss", "label", "started", "learning_rate")] == [
        "nats a token",
        None,
        "UTC",
        None,
    ]


def spec(**adapter: Any) -> dict[str, Any]:
    lora = {"method": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "targets": ["q", "v"]}
    return {
        "model": {"name": "m"},
        "quant": {"method": "nf4", "double_quant": True, "block_size": 64, "compute_dtype": "bfloat16"},
        "adapter": lora | adapter,
        "train": {"learning_rate": 0.1, "weight_decay": 0.5},
    }


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ({}, ("lora", 8, 16, 0.1, "q+v")),
        ({"method": "none"}, ("none", None, None, None, None)),
        ({"method": "full"}, ("full", None, None, None, None)),
        ({"method": "hft"}, ("hft", None, None, None, None)),
        ({"method": "allora"}, ("allora", 8, None, None, "q+v")),
        ({"method": "s2ft"}, ("s2ft", None, None, None, "q+v")),
        ({"method": "peft", "peft_type": "miss"}, ("miss", 8, None, 0.1, "q+v")),
        ({"method": "peft", "peft_type": "gralora"}, ("gralora", 8, 16, 0.1, "q+v")),
        ({"method": "peft", "peft_type": "nobodys"}, ("nobodys", 8, 16, 0.1, "q+v")),
    ],
)
def test_what_a_method_has_of_rank_alpha_and_dropout(adapter: dict[str, Any], expected: tuple[Any, ...]) -> None:
    values = axis_values(spec(**adapter))
    assert tuple(values[name] for name in ("method", "lora_r", "lora_alpha", "lora_dropout", "targets")) == expected
    assert (values["double_quant"], values["block_size"], values["data_type"]) == (True, 64, "nf4")
    assert (values["model"], values["seed"]) == ("m", None)


@pytest.mark.parametrize(("method", "is_kept"), [("nf4", True), ("fp4", True), ("int8", False), ("none", False)])
def test_blocks_belong_to_weights_of_4_bits(method: str, is_kept: bool) -> None:
    values = axis_values(spec() | {"quant": {"method": method, "double_quant": False, "block_size": 64}})
    assert (values["double_quant"], values["block_size"]) == ((False, 64) if is_kept else (None, None))
    bare = axis_values(spec() | {"quant": {"method": method, "block_size": 64}})
    assert (bare["double_quant"], bare["block_size"]) == (None, 64)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, None),
        ({"method": "nf4"}, "nf4"),
        ({"method": "fp4", "double_quant": False}, "fp4_single"),
        ({"method": "nf4", "block_size": 128}, "nf4_b128"),
        ({"method": "nf4", "block_size": 64, "double_quant": True}, "nf4"),
        ({"method": "int8"}, "int8"),
        ({"method": "none", "compute_dtype": "bfloat16"}, "bf16"),
    ],
)
def test_names_of_data_types(values: dict[str, Any], name: str | None) -> None:
    assert data_type({f"quant.{key}": value for key, value in values.items()}) == name


def test_other_keys_of_a_config() -> None:
    assert other_values(spec(name="x", extra=[1, 2])) == {"adapter.extra": "1+2", "train.weight_decay": 0.5}


def test_columns_of_each_kind() -> None:
    named = column(["13b", None, "7b", 7, "7b", "a10", "a9"], Kind.choice)
    assert list(named.cat.categories) == ["7", "7b", "13b", "a9", "a10"]
    assert named.isna().tolist() == [False, True] + [False] * 5
    assert str(named.cat.categories.dtype) == "str"
    types = {kind: str(column([None], kind).dtype) for kind in Kind}
    assert types == {kind: kind.value for kind in Kind}
    every = ([True, None], [1, 2], [1, 2.5], [1, True], [True, 1.5], ["a", 1], [None], [])
    found = [kind_of(values) for values in every]
    assert found == [Kind.flag, Kind.whole, Kind.number] + [Kind.choice] * 5


def test_axes_in_which_trained_runs_differ() -> None:
    frame = pd.DataFrame(
        {
            "method": ["lora", "lora", "none"], "lora_r": [8, None, 8], "max_rows": [1, None, 1],
            "batch_size": [1, 1, 2], "block_size": [1, 2, 3], "seed": [0, 1, 0], "data_seed": [0, 0, 1],
            "train.x": [1, 2, 1], "other.x": [1, 2, 1],
        }
    )  # fmt: skip
    assert varying_axes(frame) == ["max_rows", "train.x"]
    assert seed_columns(frame) == ["seed"]
    assert trained_runs(frame).index.tolist() == [0, 1]
    unknown = frame.assign(method=pd.Series(["lora", None, "none"], dtype="string"))
    assert trained_runs(unknown).index.tolist() == [0, 1]
    assert trained_runs(frame[["lora_r"]]).index.tolist() == [0, 1, 2]
    assert [axes._is_of_adapters(name) for name in ("lora_r", "seed", "x")] == [True, False, False]
    assert (title_of("lora_r"), title_of("train.x")) == ("r", "train.x")


def test_a_frame_is_described_column_by_column() -> None:
    frame = pd.DataFrame({"final_loss": [1.0], "train.x": [1], "started": pd.to_datetime(["2026-01-01"], utc=True)})
    found = describe(frame)
    assert found["name"].tolist() == ["final_loss", "train.x", "started"]
    assert found["unit"].tolist()[0::2] == ["nats a token", "UTC"]
    assert found["type"].tolist()[:2] == ["float64", "int64"]
    assert found["about"].tolist()[1:] == ["A key of the run's config.", "When it was, in UTC."]
    assert {str(dtype) for dtype in found.dtypes} == {"string"}
    assert meaning_of("lora_r") == "Rank of the low-rank factors."
    assert list(ordered(frame, ["started"])) == ["started", "final_loss", "train.x"]


def test_units_and_directions_of_scores() -> None:
    assert [score_unit(name) for name in ("accuracy", "exact_match,strict-match", "bits_per_byte", "x")] == [
        "share",
        "share",
        "bits a byte",
        None,
    ]
    assert [higher_is_better(name) for name in ("mmlu", "perplexity pile_cc", "nobodys x")] == [True, False, None]
    assert higher_is_better("mmlu", "ece") is False
    assert higher_is_better("mmlu", "accuracy") is True


def run(name: str, **more: Any) -> Any:
    values = {"run_id": name, "label": f"l{name}", "state": "done", "reason": None, "spec": {}, "record": None} | more
    return SimpleNamespace(**values)


def test_rows_of_several_runs_are_joined_with_their_runs() -> None:
    table, a, b = RunRows(), run("a"), run("b", state="failed", reason="why")
    table.add_many(a, 2, {"question": ["x", "y"], "value": [1.0, 2.0]}, {"unit": "share"})
    table.add(b, {"value": 3.0}, None)
    table.add(None, {"question": "z"}, "no run")
    table.add(a, {}, "unread", "unreadable")
    frame = joined(table, [a, b], ("question", "value", "unit"), renamed={"value": "score"})
    assert list(frame) == ["run_id", "label", "state", "reason", "question", "score", "unit"]
    assert len(table) == 4
    shown = frame.astype("object").where(frame.notna(), None)
    assert shown["run_id"].tolist() == ["a", "a", "b", None, "a"]
    assert shown["label"].tolist() == ["la", "la", "lb", None, "la"]
    assert shown["state"].tolist() == ["done", "done", "failed", None, "unreadable"]
    assert shown["reason"].tolist() == [None, None, "why", "no run", "unread"]
    assert shown["question"].tolist() == ["x", "y", None, "z", None]
    assert shown["score"].tolist() == [1.0, 2.0, 3.0, None, None]
    assert shown["unit"].tolist() == ["share", "share", None, None, None]
    nobody = RunRows()
    nobody.add(None, {"question": "z"}, "no run")
    alone = joined(nobody, [], ("question",))
    assert (alone["run_id"].isna().tolist(), alone["question"].tolist()) == ([True], ["z"])


def test_values_at_places_keep_their_type() -> None:
    numbers = pd.Series([1, 2], dtype="Int64")
    assert rows._taken(numbers, np.array([1, 0])).tolist() == [2, 1]
    lacking = rows._taken(numbers, np.array([0, -1]))
    assert (lacking.isna().tolist(), str(lacking.dtype)) == ([False, True], "Int64")
    named = rows._taken(column(["a", "b"], Kind.choice), np.array([1, -1, 0]))
    assert (named.astype("object").tolist()[::2], named.isna().tolist()) == (["b", "a"], [False, True, False])


def test_times_states_and_others_as_columns() -> None:
    moments = rows._column("started", ["2026-11-30T01:02:03+00:00", None, "2026-11-30T01:02:03.5+01:00"])
    assert str(moments.dt.tz) == "UTC"
    assert (moments[1] is pd.NaT, moments[2].hour) == (True, 0)
    states = rows._column("state", ["zebra", "done", None, "apple"])
    assert list(states.cat.categories)[-2:] == ["apple", "zebra"]
    assert states.isna().tolist() == [False, False, True, False]
    assert rows._recorded(run("a", record=SimpleNamespace(notes=("x", "y"), device="d")), "notes") == "x; y"
    assert rows._recorded(run("a"), "device") is None
