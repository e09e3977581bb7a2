"""Labels say what tells runs apart, and are the same word wherever a run is named."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config.schema import DType
from harness.runs.spec import RunSpec
from sweeps.plan.labels import unique_labels
from tests.builders import spec


def endings(*specs: RunSpec) -> list[str]:
    """What each label has after the part that all of them share."""
    labels = unique_labels(specs)
    return [labels[found.run_id].removeprefix(found.label).removeprefix("-") for found in specs]


def train(**values: Any) -> RunSpec:
    return spec(train=("default", values))


def targets(*names: str) -> RunSpec:
    return spec(adapter=("lora", {"targets": list(names)}))


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([train(), train(seed=1)], ["s0", "s1"]),
        ([train(max_epochs=1.0), train(max_epochs=2.0)], ["e1", "e2"]),
        ([train(weight_decay=0.1), train(weight_decay=0.25)], ["weight_decay0.1", "weight_decay0.25"]),
        ([train(optimizer="adamw"), train()], ["optimizer=adamw", "optimizer=paged_adamw_32bit"]),
        ([spec(DType.bfloat16), spec(DType.float16)], ["bf16", "fp16"]),
        ([targets("q_proj", "v_proj"), targets("all-linear")], ["q+v", "all-linear"]),
        ([spec(quant="nf4"), spec(quant=("nf4", {"double_quant": False}))], ["double", "single"]),
        ([spec(quant=("nf4", {"block_size": 128})), spec()], ["block_size128", "block_size64"]),
        ([spec(dataset=("oasst1", {"train_on_source": True})), spec()], ["on-source", ""]),
    ],
)
def test_a_label_names_what_differs(specs: list[RunSpec], expected: list[str]) -> None:
    assert endings(*specs) == expected


def test_numbers_are_whole_where_short_ones_are_equal() -> None:
    assert endings(train(learning_rate=1e-4), train(learning_rate=1.0000001e-4)) == ["lr0.0001", "lr0.00010000001"]


def test_drawn_numbers_have_four_digits_where_these_tell_them_apart() -> None:
    drawn = [0.07963234721775597, 0.00012345678901234, 3e-4, 0.000123456]
    short = ["lr0.07963", "lr0.0001235", "lr0.0003", "lr0.000123456"]
    assert endings(*(train(learning_rate=rate) for rate in drawn)) == short
    assert endings(*(train(learning_rate=rate, weight_decay=0.1234567890123) for rate in drawn)) == short
    close = [0.07963234721775597, 0.07963111111111111]
    assert endings(*(train(learning_rate=rate) for rate in close)) == [f"lr{rate}" for rate in close]
    assert endings(train(adam_beta2=0.98765432109), train(adam_beta2=0.5)) == ["adam_beta20.9877", "adam_beta20.5"]


def test_a_hash_is_the_last_resort() -> None:
    texts = [f"{'{{ messages }}' * 9}{n}" for n in range(2)]
    templates = [spec(dataset=("oasst1", {"format": "chat", "chat_template": text})) for text in texts]
    assert all(re.fullmatch(r"chat_templat-[0-9a-f]{6}", ending) for ending in endings(*templates))


def test_local_files_are_told_apart_by_their_names(tmp_path: Path) -> None:
    files = [tmp_path / "first.jsonl", tmp_path / "se cond.jsonl"]
    for file in files:
        file.write_text(f'{{"instruction": "{file.name}", "output": "b"}}\n')
    assert endings(*(spec(dataset=("local", {"path": str(file)})) for file in files)) == ["first", "se_cond"]


def test_local_models_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    def of(*folders: str) -> list[str]:
        models = [spec(model=("local", {"path": str(tmp_path / folder)})) for folder in folders]
        return endings(*(replace(found, base_sha256=folder) for found, folder in zip(models, folders, strict=True)))

    assert of("llama-3.1", "llama-3.2") == ["llama-3.1", "llama-3.2"]
    assert of("one/final", "two/final") == ["one_final", "two_final"]
    assert of("one/final", "two/last") == ["final", "last"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    files = [tmp_path / folder / "rows.jsonl" for folder in ("v1", "v2")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(f'{{"instruction": "a", "output": "{number}"}}\n')
    assert endings(*(spec(dataset=("local", {"path": str(file)})) for file in files)) == ["v1_rows", "v2_rows"]


def test_unquantized_weights_are_called_by_their_data_type() -> None:
    assert spec(quant="none").label == spec(quant="fp32").label == "llama7b-oasst1-fp32"
    assert spec(quant="none").quant.label == "fp32"
    assert spec(DType.bfloat16, quant="none").quant.label == "bf16"


def test_order_and_repeats_of_targets_are_one_run() -> None:
    one = targets("q_proj", "k_proj", "v_proj", "o_proj")
    assert one.adapter.targets == ["q_proj", "k_proj", "v_proj", "o_proj"], "as the named grids have them"
    assert targets("o_proj", "v_proj", "q_proj", "k_proj", "q_proj").run_id == one.run_id
    assert targets("q_proj", "all-linear").run_id == targets("all-linear").run_id == spec().run_id
    assert targets("fc2", "fc1").run_id == targets("fc1", "fc2").run_id != one.run_id
