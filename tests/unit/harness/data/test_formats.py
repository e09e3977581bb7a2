"""Each format's rule, on rows in the published fields (written by hand here) and on real rows (tests/golden/rows)."""

import csv
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.columns import UnusedColumn, detect_format, other_training, unused_column
from harness.data.fields import Example, RowError
from harness.data.formats import DATASETS, GLUE_FIELDS, fitting_formats, row_rule
from tests.golden.rows.extract import real_lines, real_rows

BY_HAND: dict[str, tuple[dict[str, Any], list[Example]]] = {
    "chip2": (
        {"text": "<human>: Why is snow white?\n<bot>: It scatters all colours.", "metadata": {"source": "x"}},
        [Example("Why is snow white?", "It scatters all colours.", "text")],
    ),
    "self_instruct": (
        {"prompt": "Add 2 and 3.\n\nOutput:", "completion": " 5"},
        [Example("Add 2 and 3.\n\nOutput:", " 5", "completion")],
    ),
    "hh_rlhf": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
        [Example("", "\n\nHuman: Hi\n\nAssistant: Hello", "chosen")],
    ),
    "longform": (
        {"input": "Write about rain.", "output": "Rain falls.", "source": "C4", "subset": "c4"},
        [Example("Write about rain.", "Rain falls.")],
    ),
    "oasst1": (
        {"text": "### Human: Hi### Assistant: Hello"},
        [Example("", "### Human: Hi### Assistant: Hello", "text")],
    ),
    "unnatural": (
        {
            "instruction": "Name the colour of a thing.",
            "instances": [
                {
                    "instruction_with_input": "Name its colour: grass",
                    "input": "grass",
                    "constraints": "None.",
                    "output": "Green",
                },
                {
                    "instruction_with_input": "Name its colour: sky",
                    "input": "sky",
                    "constraints": "None.",
                    "output": "Blue",
                },
            ],
            "reformulations": [
                {
                    "instruction": "Which colour?",
                    "instruction_with_input": "Which colour? grass",
                    "input": "grass",
                    "output": "Green",
                }
            ],
        },
        [
            Example("Name its colour: grass", "Green", "instances[0].output"),
            Example("Name its colour: sky", "Blue", "instances[1].output"),
        ],
    ),
    "flan": (
        {"inputs": "2 + 2?", "targets": "4", "task_source": "CoT", "task_name": "x", "template_type": "zs_noopt"},
        [Example("2 + 2?", "4", "targets")],
    ),
    "prompt_completion": ({"prompt": "a", "completion": "b"}, [Example("a", "b", "completion")]),
    "text": ({"text": "a"}, [Example("", "a", "text")]),
    "input_output": ({"input": "a", "output": "b"}, [Example("a", "b")]),
    "step_by_step": (
        {"input": "2 + 2?", "output": "4", "rationale": "1 + 1 + 1 + 1"},
        [
            Example("[label] 2 + 2?", "4"),
            Example("[rationale] 2 + 2?", "1 + 1 + 1 + 1", "rationale", is_rationale=True),
        ],
    ),
    "classification": (
        {"text": "a", "text_pair": "b", "label": "yes"},
        [Example("a", "", "label", pair="b", label="yes")],
    ),
    **{
        name: (
            {**dict(zip(fields, ("One.", "Two."), strict=False)), "label": 1, "idx": 0},
            [Example("One.", "", "label", pair="Two." if len(fields) == 2 else None, label=1)],
        )
        for name, fields in GLUE_FIELDS.items()
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_published_fields(name: str) -> None:
    row, expected = BY_HAND[name]
    assert DATASETS[name](row) == expected


def test_every_format_is_covered() -> None:
    elsewhere = {"alpaca", "unnatural_reformulations", "chat", "sharegpt", "super_ni", "super_ni_pos2"}
    assert set(BY_HAND) | elsewhere == set(DATASETS)


def test_alpaca_with_input() -> None:
    [example] = DATASETS["alpaca"]({"instruction": "Sort.", "input": "b {a}", "output": "{a} b"})
    assert example == Example(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Input:\nb {a}\n\n### Response: ",
        "{a} b",
    )


@pytest.mark.parametrize("extra", [{"input": ""}, {"input": None}, {}])
def test_alpaca_without_input(extra: dict[str, Any]) -> None:
    [example] = DATASETS["alpaca"]({"instruction": "Name a colour.", "output": "Red", **extra})
    assert example.input == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a colour.\n\n### Response: "
    )


def test_reformulations_follow_the_instances() -> None:
    row, core = BY_HAND["unnatural"]
    paraphrase = Example("Which colour? grass", "Green", "reformulations[0].output")
    assert DATASETS["unnatural_reformulations"](row) == [*core, paraphrase]
    without = {name: value for name, value in row.items() if name != "reformulations"}
    assert DATASETS["unnatural_reformulations"](without) == core


def test_flan_reads_escaped_newlines_of_the_tsv_only() -> None:
    tsv = {"question": "1\\n2?", "answer": "3", "rationale": "1 + 2\\nis 3."}
    assert DATASETS["flan"](tsv) == [Example("1\n2?", "1 + 2\nis 3. The answer is 3.", "rationale")]
    assert DATASETS["flan"]({"inputs": "a\\nb", "targets": "c"})[0].input == "a\\nb"


def test_chip2_keeps_the_first_turn_only() -> None:
    [example] = DATASETS["chip2"]({"text": "<human>: A\n<bot>: B\n<human>: C\n<bot>: D"})
    assert (example.input, example.output) == ("A", "B\n<human>: C")


@pytest.mark.parametrize(
    ("name", "row", "field", "problem"),
    [
        ("alpaca", {"instruction": "x", "ouput": "y"}, "output", "did you mean 'ouput'"),
        ("alpaca", {"instruction": 5, "output": "y"}, "instruction", "found int '5'"),
        ("chip2", {"text": "no turns"}, "text", "<bot>: "),
        ("self_instruct", {}, "prompt", "the row has: nothing"),
        ("unnatural", {"instances": []}, "instances", "expected a list"),
        ("unnatural", {"instances": ["x"]}, "instances[0]", "found str"),
        ("unnatural", {"instances": [{"instruction_with_input": "x"}]}, "instances[0].output", "missing"),
        ("flan", {"text": "x"}, "inputs", "missing"),
        ("oasst1", {"text": None}, "text", "expected text"),
    ],
)
def test_a_broken_row_names_its_field(name: str, row: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(RowError) as caught:
        DATASETS[name](row)
    assert caught.value.field == field
    assert problem in caught.value.problem


def test_unknown_format_lists_near_names() -> None:
    with pytest.raises(ValueError, match=r"dataset.format=alpacca.*Did you mean 'alpaca'.*oasst1"):
        row_rule("alpacca")


def test_fitting_formats() -> None:
    assert fitting_formats({"prompt": "a", "completion": "b"}) == ["self_instruct", "prompt_completion"]
    assert fitting_formats({"x": 1}) == []


@settings(max_examples=25)  # each through 24 rules, and the search for near names in every refusal
@given(st.dictionaries(st.sampled_from(["text", "input", "output", "instances", "inputs", "targets"]), st.text()))
def test_rules_answer_or_say_which_field(row: dict[str, Any]) -> None:
    for name, rule in DATASETS.items():
        if name not in fitting_formats(row):
            with pytest.raises(RowError):
                rule(row)
            continue
        examples = rule(row)
        assert examples
        assert all(isinstance(text, str) for example in examples for text in (example.input, example.output))


def test_real_alpaca_rows_match_their_own_rendering() -> None:
    """The `text` column is the publisher's rendering; qlora.py's template differs by the space after "Response:"."""
    for row in real_rows("alpaca.jsonl"):
        [example] = DATASETS["alpaca"](row)
        assert example.input.endswith("### Response: ")
        assert f"{example.input.removesuffix(' ')}\n{row['output']}" == row["text"]


def test_real_flan_tsv_matches_the_hub_form() -> None:
    hub = real_rows("flan_v2_hf_fields_derived.jsonl")
    lines = list(csv.reader(real_lines("flan_v2_cot.tsv"), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(lines) == len(hub)
    for cells, row in zip(lines, hub, strict=True):
        [ours] = DATASETS["flan"](dict(zip(("question", "answer", "rationale"), cells, strict=True)))
        [theirs] = DATASETS["flan"](row)
        assert ours.input == theirs.input
        assert ours.output == theirs.output.replace("\\n", "\n")  # the derived file left the targets escaped


@pytest.mark.parametrize(
    ("file", "name", "field"),
    [
        ("hh_rlhf.jsonl", "hh_rlhf", "chosen"),
        ("openassistant_guanaco_text_derived.jsonl", "oasst1", "text"),
        ("oasst1_qlora_pairs.jsonl", "input_output", "output"),
        ("self_instruct_repo_t0_prompt_completion.jsonl", "self_instruct", "completion"),
    ],
)
def test_real_rows_keep_their_target_whole(file: str, name: str, field: str) -> None:
    for row in real_rows(file):
        [example] = DATASETS[name](row)
        assert example.output == row[field]


def test_real_chip2_rows_join_back() -> None:
    for row in real_rows("chip2_format_derived.jsonl"):
        [example] = DATASETS["chip2"](row)
        assert f"<human>: {example.input}\n<bot>: {example.output}" == row["text"]


def test_real_rows_of_no_format_fit_none() -> None:
    assert fitting_formats(real_rows("self_instruct_seed_tasks.jsonl")[0]) == []


def test_real_trees_have_a_top_reply_path() -> None:
    for row in real_rows("oasst1_trees.jsonl"):
        [example] = DATASETS["oasst1"](row)
        best = min(row["prompt"]["replies"], key=lambda reply: reply.get("rank", 99))
        assert example.output.startswith(f"### Human: {row['prompt']['text']}### Assistant: {best['text']}")


# Which format a row's columns name, and which filled column a format would drop.

TURNS: list[dict[str, str]] = []


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": {"text": "q", "replies": []}}, "oasst1"),
        ({"message_id": "a", "parent_id": None, "text": "q"}, "oasst1"),
        ({"message_id": "a", "parent_id": None, "text": "q", "replies": []}, "text"),
        ({"message_id": "a", "text": "q"}, "text"),
        ({"parent_id": "a", "text": "q"}, "text"),
        ({"message_id": "a", "parent_id": "b"}, None),
        ({"messages": TURNS, "prompt": "q", "completion": "a"}, "chat"),
        ({"messages": "text"}, None),
        ({"conversations": TURNS, "instruction": "q", "output": "a"}, "sharegpt"),
        ({"conversations": None, "instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"instruction": "q", "output": None}, None),
        ({"instruction": "q", "instances": TURNS}, "unnatural"),
        ({"prompt": "q", "completion": "a"}, "prompt_completion"),
        ({"prompt": "q", "completion": None}, None),
        ({"input": "q", "output": "a"}, "input_output"),
        ({"input": "q", "output": "a", "text": "t"}, "input_output"),
        ({"prompt": "q", "completion": "a", "id": 1}, "prompt_completion"),
        ({"inputs": "q", "targets": "a", "id": 1}, "flan"),
        ({"chosen": "a", "rejected": "b", "id": 1}, "hh_rlhf"),
        ({"text": "t", "label": 0, "id": 1}, "classification"),
        ({"definition": "d", "inputs": "q", "targets": "a", "id": 1}, "super_ni"),
        ({"definition": "d", "inputs": "q", "targets": "a"}, "super_ni"),
        ({"inputs": "q", "targets": "a"}, "flan"),
        ({"inputs": "q", "output": "a"}, None),
        ({"chosen": "a", "rejected": "b"}, "hh_rlhf"),
        ({"chosen": "a"}, None),
        ({"chosen": "a", "rejected": "b", "prompt": "q"}, None),
        ({"chosen": TURNS, "rejected": TURNS}, None),
        ({"text": "t", "label": 0}, "classification"),
        ({"text": "<human>: q\n<bot>: a"}, "chip2"),
        ({"text": "<bot>: a"}, "text"),
        ({"text": None}, None),
        ({"text": 3}, None),
        ({}, None),
    ],
)
def test_the_format_that_columns_name(row: dict[str, Any], format: str | None) -> None:
    assert detect_format(row) == format


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "b", "prompt": "q"}, "preference rows"),
        ({"chosen": TURNS, "rejected": TURNS}, "preference rows"),
        ({"chosen": "a", "rejected": "b"}, None),
        ({"chosen": "a", "rejected": "b", "prompt": None}, None),
        ({"prompt": "q", "completion": "a", "label": True}, "unpaired preference rows"),
        ({"prompt": "q", "completion": "a", "label": 1}, None),
        ({"prompt": "q", "completion": "a", "label": True, "id": 1}, "unpaired preference rows"),
        ({"prompt": "q", "label": True}, None),
        ({"prompt": "q", "completions": TURNS, "labels": TURNS}, "stepwise supervision"),
        ({"prompt": "q", "completions": TURNS, "labels": TURNS, "id": 1}, "stepwise supervision"),
        ({"prompt": "q", "completions": TURNS}, None),
        ({"chosen": TURNS, "rejected": TURNS, "id": 1}, "preference rows"),
        ({"prompt": "q"}, "prompts alone"),
        ({"prompt": "q", "source": None}, "prompts alone"),
        ({"prompt": "q", "source": "s"}, None),
    ],
)
def test_the_other_training_that_a_row_is_for(row: dict[str, Any], said: str | None) -> None:
    found = other_training(row)
    assert found is None if said is None else said in (found or "")


READS = {  # of the columns that hold a part of the question
    "alpaca": {"instruction", "input"},
    "input_output": {"input"},
    "longform": {"input"},
    "flan": {"input"},
    "chat": {"system", "system_prompt", "tools"},
    "sharegpt": {"system", "system_prompt", "tools"},
    "prompt_completion": {"system", "system_prompt", "tools"},
    "unnatural": {"instruction"},
    "unnatural_reformulations": {"instruction"},
    "text": set(),
    "oasst1": set(),
}
OF_THE_QUESTION = ("instruction", "input", "context", "history", "system", "system_prompt", "tools", "functions")


@pytest.mark.parametrize("format", READS)
@pytest.mark.parametrize("column", [*OF_THE_QUESTION, "documents"])
def test_a_filled_column_of_the_question_is_read_or_named(format: str, column: str) -> None:
    found = unused_column({"id": 1, column: "x"}, format)
    assert found == (None if column in READS[format] else UnusedColumn(column, ""))
    for empty in (None, "", [], {}, "  "):
        assert unused_column({column: empty}, format) is None
    assert unused_column({column: "x"}, format, ignored=[column]) is None


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        ({"Input": "x"}, "alpaca", UnusedColumn("Input", " to 'input'")),
        ({"\ufeffinput ": "x"}, "alpaca", UnusedColumn("\ufeffinput ", " to 'input'")),
        ({"System": "x"}, "alpaca", UnusedColumn("System", "")),
        ({"prompt": "x"}, "hh_rlhf", UnusedColumn("prompt", "")),
        ({"prompt": "x"}, "oasst1", None),
        ({"definition": "x"}, "flan", UnusedColumn("definition", "")),
        ({"definition": "x"}, "super_ni", None),
        ({"label": 0}, "text", UnusedColumn("label", "")),
        ({"label": False}, "prompt_completion", UnusedColumn("label", "")),
        ({"label": 0}, "classification", None),
        ({"source": "x", "context": "y", "system": "z"}, "alpaca", UnusedColumn("context", "")),
        ({"context": "", "system": "z"}, "alpaca", UnusedColumn("system", "")),
        ({"prompt": "q", "completion": "a", "tools": "t"}, "prompt_completion", UnusedColumn("tools", "")),
        ({"prompt": "q", "completion": "a", "tools": []}, "prompt_completion", None),
        ({"prompt": TURNS, "completion": "a", "tools": "t"}, "prompt_completion", None),
        ({"prompt": "q", "completion": TURNS, "system": "t"}, "prompt_completion", None),
        ({"prompt": "q", "completion": "a", "system": "t"}, "chat", None),
    ],
)
def test_columns_by_their_spelling_and_their_format(
    row: dict[str, Any], format: str, expected: UnusedColumn | None
) -> None:
    assert unused_column(row, format) == expected
