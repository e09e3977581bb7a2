"""Every dataset of conf/: its place on the hub, and a row in the fields published there, read by its format.

Checked against the dataset cards in November 2026; the rows are written by hand, none is taken from the datasets.
"""

from pathlib import Path
from typing import Any

import pytest

from harness.config.choices import dataset_choice
from harness.data.formats import LABELLED
from harness.data.labels import label_value
from harness.data.source import SourceRow, row_examples
from tests.tiny_encoders import super_ni_rows

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"
INSTANCE = {"instruction_with_input": "Name its colour: sky", "input": "sky", "constraints": "None.", "output": "Blue"}
INSTRUCTION = {"instruction": "Name a colour.", "input": "", "output": "Blue."}

# stem: (hub id, subset, split, evaluation split, row)
PUBLISHED: dict[str, tuple[str, str | None, str, str, dict[str, Any]]] = {
    "alpaca": ("tatsu-lab/alpaca", None, "train", "validation", {**INSTRUCTION, "text": "Below is ..."}),
    "alpaca_clean": ("yahma/alpaca-cleaned", None, "train", "validation", INSTRUCTION),
    "chip2": (
        "laion/OIG",
        "unified_chip2.jsonl",
        "train",
        "validation",
        {"text": "<human>: Hi\n<bot>: Hello", "metadata": ""},
    ),
    "concise": ("embedded/concise", None, "train", "validation", INSTRUCTION),
    "flan": (
        "SirNeural/flan_v2",
        None,
        "train",
        "validation",
        {"inputs": "2 + 2?", "targets": "4", "task": "cot"},
    ),
    "glue_cola": ("nyu-mll/glue", "cola", "train", "validation", {"sentence": "He go.", "label": 0, "idx": 0}),
    "glue_sst2": ("nyu-mll/glue", "sst2", "train", "validation", {"sentence": "good fun", "label": 1, "idx": 0}),
    "glue_mrpc": (
        "nyu-mll/glue",
        "mrpc",
        "train",
        "validation",
        {"sentence1": "He left.", "sentence2": "He went.", "label": 1, "idx": 0},
    ),
    "glue_qqp": (
        "nyu-mll/glue",
        "qqp",
        "train",
        "validation",
        {"question1": "Why?", "question2": "How?", "label": 0, "idx": 0},
    ),
    "glue_stsb": (
        "nyu-mll/glue",
        "stsb",
        "train",
        "validation",
        {"sentence1": "He left.", "sentence2": "He went.", "label": 3.8, "idx": 0},
    ),
    "glue_mnli": (
        "nyu-mll/glue",
        "mnli",
        "train",
        "validation_matched",
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 2, "idx": 0},
    ),
    "glue_qnli": (
        "nyu-mll/glue",
        "qnli",
        "train",
        "validation",
        {"question": "Who?", "sentence": "He did.", "label": 0, "idx": 0},
    ),
    "glue_rte": (
        "nyu-mll/glue",
        "rte",
        "train",
        "validation",
        {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1, "idx": 0},
    ),
    "glue_wnli": (
        "nyu-mll/glue",
        "wnli",
        "train",
        "validation",
        {"sentence1": "It fell.", "sentence2": "The cup fell.", "label": 0, "idx": 0},
    ),
    "hh_rlhf": (
        "Anthropic/hh-rlhf",
        None,
        "train",
        "validation",
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    ),
    "longform": (
        "akoksal/LongForm",
        None,
        "train",
        "validation",
        {"input": "Write about rain.", "output": "Rain falls.", "source": "C4", "subset": "c4"},
    ),
    "oasst1": (
        "timdettmers/openassistant-guanaco",
        None,
        "train",
        "validation",
        {"text": "### Human: Hi### Assistant: Hello"},
    ),
    "self_instruct": (
        "yizhongw/self_instruct",
        "self_instruct/train/*.parquet",
        "train",
        "validation",
        {"prompt": "Add 2 and 3.\n\nOutput:", "completion": " 5"},
    ),
    "stepwise": ("embedded/stepwise", None, "train", "validation", INSTRUCTION),
    "super_ni": ("jayelm/natural-instructions", None, "train", "test", super_ni_rows(1)[0]),
    "super_ni_def": ("jayelm/natural-instructions", None, "train", "test", super_ni_rows(1)[0]),
    "unnatural": (
        "mrm8488/unnatural-instructions-core",
        None,
        "train",
        "validation",
        {"instruction": "Name the colour.", "instances": [INSTANCE]},
    ),
    "unnatural_full": (
        "mrm8488/unnatural-instructions-full",
        None,
        "train",
        "validation",
        {
            "instruction": "Name the colour.",
            "instances": [INSTANCE],
            "reformulations": [{**INSTANCE, "instruction": "Which colour is it?"}],
        },
    ),
}


def test_every_dataset_is_here() -> None:
    assert set(PUBLISHED) == {path.stem for path in CONF.glob("*.yaml")} - {"local", "none"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_row_is_read(name: str) -> None:
    hub_id, subset, split, eval_split, fields = PUBLISHED[name]
    dataset = dataset_choice(name)
    assert (dataset.hub_id, dataset.subset, dataset.split, dataset.eval_split) == (hub_id, subset, split, eval_split)
    row = SourceRow(hub_id, 1, fields)
    examples = row_examples(row, dataset.format)
    assert examples
    for example in examples:
        if dataset.format in LABELLED:
            assert label_value(example, row, dataset) == fields["label"]
        else:
            assert example.output.strip()
