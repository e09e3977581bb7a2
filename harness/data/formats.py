"""The formats: how a row of each dataset becomes an input and an output.

A rule takes one row (a mapping of published field names) and returns its examples; `DATASETS` names the
rules. A dataset of your own needs one entry here and one YAML in `conf/dataset`.

Source: `make_data_module` of artidoro/qlora (qlora.py); the two templates are Stanford Alpaca's with the
space that qlora.py adds after "Response:". FLAN v2 and Unnatural Instructions, which that code leaves out,
follow the fields their authors published (google-research/FLAN, orhonovich/unnatural-instructions). GLUE's
fields are those of nyu-mll/glue; Super-NaturalInstructions is prompted as yizhongw/Tk-Instruct does (ni_collator.py).
"""

import string
from collections.abc import Mapping
from difflib import get_close_matches

from harness.data.dialogues import chat, prompt_completion, sharegpt
from harness.data.fields import Example, Row, RowError, RowRule, listed, present, text_field
from harness.data.trees import is_tree, top_reply_path

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response: "
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response: "
)

# FLAN's cot_data files are .tsv without a header, and escape newlines as "\n".
HEADERLESS_TSV: dict[str, tuple[str, ...]] = {"flan": ("question", "answer", "rationale")}

# Which fields of nyu-mll/glue hold the texts of each task.
GLUE_FIELDS: dict[str, tuple[str, ...]] = {
    "glue_cola": ("sentence",),
    "glue_sst2": ("sentence",),
    "glue_mrpc": ("sentence1", "sentence2"),
    "glue_qqp": ("question1", "question2"),
    "glue_stsb": ("sentence1", "sentence2"),
    "glue_mnli": ("premise", "hypothesis"),
    "glue_qnli": ("question", "sentence"),
    "glue_rte": ("sentence1", "sentence2"),
    "glue_wnli": ("sentence1", "sentence2"),
}
NUM_POSITIVE_EXAMPLES = 2  # of each task, in Tk-Instruct's prompts ("def + pos (2)", the rows of QLoRA's table 3)

# The same columns under each publisher's names: google-research/FLAN's Hub form, then SirNeural/flan_v2's card.
_FLAN_PAIRS = (("inputs", "targets"), ("input", "target"))


def alpaca(row: Row) -> list[Example]:
    """instruction, input (may be empty or absent), output."""
    instruction, output = text_field(row, "instruction"), text_field(row, "output")
    context = text_field(row, "input") if row.get("input") is not None else ""
    template = ALPACA_WITH_INPUT if context != "" else ALPACA_WITHOUT_INPUT
    return [Example(template.format(instruction=instruction, input=context), output)]


def chip2(row: Row) -> list[Example]:
    """One `text` of "<human>: ...\\n<bot>: ..."; what follows a second "<bot>: " is dropped, as in qlora.py."""
    parts = text_field(row, "text").split("\n<bot>: ")
    if len(parts) < 2:
        raise RowError("text", r"holds no '\n<bot>: ' to split the question from the answer at")
    return [Example(parts[0].replace("<human>: ", ""), parts[1], "text")]


def self_instruct(row: Row) -> list[Example]:
    """Reads prompt and completion."""
    return [Example(text_field(row, "prompt"), text_field(row, "completion"), "completion")]


def hh_rlhf(row: Row) -> list[Example]:
    """Takes the whole preferred transcript as the target, human turns included."""
    return [Example("", text_field(row, "chosen"), "chosen")]


def oasst1(row: Row) -> list[Example]:
    """Takes the whole conversation as the target, human turns included: `text`, or a tree's best-ranked replies."""
    if is_tree(row):
        return [Example("", top_reply_path(row), "prompt")]
    return [Example("", text_field(row, "text"), "text")]


def input_output(row: Row) -> list[Example]:
    """Reads input and output as they are, without a template."""
    return [Example(text_field(row, "input"), text_field(row, "output"))]


def super_ni(row: Row) -> list[Example]:
    """Reads `definition`, `inputs` and `targets`; shows the definition only, as to Tk-Instruct's "def" models."""
    return [Example(_tk_instruct(row, 0), text_field(row, "targets").strip(), "targets")]


def super_ni_pos2(row: Row) -> list[Example]:
    """As `super_ni`, with as many of `pos_0_input`, `pos_0_output`, ... (jayelm/natural-instructions) as fit."""
    prompts = [_tk_instruct(row, count) for count in range(NUM_POSITIVE_EXAMPLES, -1, -1)]
    return [Example(prompts[0], text_field(row, "targets").strip(), "targets", shorter=tuple(prompts[1:]))]


def _tk_instruct(row: Row, num_examples: int) -> str:
    parts = [f"Definition: {_ended(text_field(row, 'definition'))}\n\n"]
    for number in range(num_examples):
        source, target = f"pos_{number}_input", f"pos_{number}_output"
        if number and row.get(source) in (None, ""):  # a task with one example
            break
        shown = f"Input: {_ended(text_field(row, source))}\n Output: {_ended(text_field(row, target))}\n\n"
        parts.append(f" Positive Example {number + 1} -\n{shown}")
    return f"{''.join(parts)}Now complete the following example -\nInput: {_ended(text_field(row, 'inputs'))}\nOutput: "


def _ended(text: str) -> str:
    """Strips a text and adds a full stop unless it ends in punctuation, as ni_collator.py does with each part."""
    text = text.strip()
    return text if text.endswith(tuple(string.punctuation)) else text + "."


def classification(row: Row) -> list[Example]:
    """Reads `text`, `label`, and `text_pair` where the class is one of two texts together."""
    pair = text_field(row, "text_pair") if row.get("text_pair") is not None else None
    return [Example(text_field(row, "text"), "", "label", pair=pair, label=_label(row))]


def _glue(fields: tuple[str, ...]) -> RowRule:
    def rule(row: Row) -> list[Example]:
        first, *second = (text_field(row, field) for field in fields)
        return [Example(first, "", "label", pair=second[0] if second else None, label=_label(row))]

    return rule


def _label(row: Row) -> int | float | str:
    value = present(row, "label")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise RowError(
            "label", f"expected a number or a class's name, found {type(value).__name__} {str(value)[:60]!r}"
        )
    if isinstance(value, str) and not value.strip():
        raise RowError("label", "empty: every row needs its class")
    return value


def text(row: Row) -> list[Example]:
    """Takes the whole `text` as the target, as in further pretraining."""
    return [Example("", text_field(row, "text"), "text")]


def unnatural(row: Row) -> list[Example]:
    """Makes an example of each instance: `instruction_with_input` is read, `output` is learned."""
    return _instances(row, "instances")


def unnatural_reformulations(row: Row) -> list[Example]:
    """As `unnatural`, and also an example of each paraphrase of the instruction, where the row has any."""
    paraphrases = _instances(row, "reformulations") if row.get("reformulations") else []
    return unnatural(row) + paraphrases


def flan(row: Row) -> list[Example]:
    """Reads inputs and targets (the hub's form), or question, answer and rationale (the cot_data files)."""
    for source, target in _FLAN_PAIRS:
        if source in row and target in row:
            return [Example(text_field(row, source), text_field(row, target), target)]
    if "question" not in row:
        raise RowError("inputs", f"missing (the row has: {listed(row) or 'nothing'})")
    question, answer, rationale = (
        text_field(row, name).replace("\\n", "\n") for name in ("question", "answer", "rationale")
    )
    return [Example(question, f"{rationale} The answer is {answer}." if answer else rationale, "rationale")]


def _instances(row: Row, field: str) -> list[Example]:
    instances = row.get(field)
    if not isinstance(instances, list) or not instances:
        raise RowError(field, f"expected a list of instances, found {type(instances).__name__}")
    examples = []
    for number, instance in enumerate(instances):
        where = f"{field}[{number}]."
        if not isinstance(instance, Mapping):
            raise RowError(where.rstrip("."), f"expected fields with values, found {type(instance).__name__}")
        source, target = (text_field(instance, name, where) for name in ("instruction_with_input", "output"))
        examples.append(Example(source, target, where + "output"))
    return examples


def step_by_step(row: Row) -> list[Example]:
    """input, output, rationale: two examples, told apart by the paper's prefixes; ask by "[label] " for the output.

    Source: Hsieh et al. 2023, Distilling Step-by-Step (arXiv 2305.02301), section 3.2.
    """
    source = text_field(row, "input")
    return [
        Example(f"[label] {source}", text_field(row, "output")),
        Example(f"[rationale] {source}", text_field(row, "rationale"), "rationale", is_rationale=True),
    ]


DATASETS: dict[str, RowRule] = {
    "alpaca": alpaca,
    "chip2": chip2,
    "self_instruct": self_instruct,
    "hh_rlhf": hh_rlhf,
    "longform": input_output,
    "oasst1": oasst1,
    "unnatural": unnatural,
    "unnatural_reformulations": unnatural_reformulations,
    "flan": flan,
    "input_output": input_output,
    "step_by_step": step_by_step,
    "super_ni": super_ni,
    "super_ni_pos2": super_ni_pos2,
    "chat": chat,
    "sharegpt": sharegpt,
    "prompt_completion": prompt_completion,
    "text": text,
    "classification": classification,
    **{name: _glue(fields) for name, fields in GLUE_FIELDS.items()},
}
RULE_VERSIONS = {"super_ni": 2, "chat": 2}  # rules that changed, so that data tokenized by the old one isn't used
ALWAYS_DIALOGUES = frozenset({"chat", "sharegpt"})  # formats whose every row needs a chat template
DIALOGUES = ALWAYS_DIALOGUES | {"prompt_completion"}  # formats whose rows may need one
STEP_BY_STEP = "step_by_step"  # whose rows are learned twice, as label and as rationale
LABELLED = frozenset({"classification", *GLUE_FIELDS})  # formats whose target is a class or a number, not text


def row_rule(name: str) -> RowRule:
    """The rule called `name`.

    Raises:
        ValueError: there is none; near names and all names are listed.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = get_close_matches(name, DATASETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"dataset.format={name}: no such format.{hint} There are: {', '.join(DATASETS)}")


def fitting_formats(row: Row) -> list[str]:
    """The formats whose rule reads this row, for a message to someone who chose another."""
    return [name for name, rule in DATASETS.items() if _reads(rule, row)]


def _reads(rule: RowRule, row: Row) -> bool:
    try:
        rule(row)
    except RowError:
        return False
    return True
