"""How does a row of each dataset become an input and an output?

A rule takes one row (a mapping of published field names) and returns its examples; `DATASETS` names the
rules. A dataset of your own needs one entry here and one YAML in `conf/dataset`.

Source: `make_data_module` of artidoro/qlora (qlora.py); the two templates are Stanford Alpaca's with the
space that qlora.py adds after "Response:". FLAN v2 and Unnatural Instructions, which that code leaves out,
follow the fields their authors published (google-research/FLAN, orhonovich/unnatural-instructions). GLUE's
fields are those of nyu-mll/glue; Super-NaturalInstructions is prompted as yizhongw/Tk-Instruct does (ni_collator.py).
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

Row = Mapping[str, object]

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


class RowError(ValueError):
    """A row that its format's rule can't read: which field, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Example:
    """What one training example reads (`input`) and writes (`output`); `target_field` names the output's origin."""

    input: str
    output: str
    target_field: str = "output"
    messages: tuple[
        tuple[str, str], ...
    ] = ()  # role and content; `harness.data.tokens` renders them by the chat template
    shorter: tuple[str, ...] = ()  # inputs with less shown, taken in turn where `input` doesn't fit
    pair: str | None = None  # the second text of a labelled pair
    label: int | float | str | None = (
        None  # of a labelled row, as it stands there; `harness.data.labels` makes it a class
    )


RowRule = Callable[[Row], list[Example]]


def text_field(row: Row, field: str, prefix: str = "") -> str:
    """The text in `row[field]`; `prefix` says in errors where a nested row lies.

    Raises:
        RowError: the field is missing (near names are listed) or not text.
    """
    value = _present(row, field, prefix)
    if not isinstance(value, str):
        raise RowError(prefix + field, f"expected text, found {type(value).__name__} {str(value)[:60]!r}")
    return value


def _present(row: Row, field: str, prefix: str = "") -> object:
    if field not in row:
        near = get_close_matches(field, [str(name) for name in row], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RowError(prefix + field, f"missing (the row has: {', '.join(map(str, row)) or 'nothing'}{hint})")
    return row[field]


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
    return [Example(text_field(row, "prompt"), text_field(row, "completion"), "completion")]


def hh_rlhf(row: Row) -> list[Example]:
    """The whole preferred transcript is the target, human turns included."""
    return [Example("", text_field(row, "chosen"), "chosen")]


def oasst1(row: Row) -> list[Example]:
    """The whole conversation is the target, human turns included."""
    return [Example("", text_field(row, "text"), "text")]


def input_output(row: Row) -> list[Example]:
    return [Example(text_field(row, "input"), text_field(row, "output"))]


def super_ni(row: Row) -> list[Example]:
    """`definition`, `inputs`, `targets`; definition only, as Tk-Instruct's "def" models."""
    return [Example(_tk_instruct(row, 0), text_field(row, "targets").strip(), "targets")]


def super_ni_pos2(row: Row) -> list[Example]:
    """The same with `pos_0_input`, `pos_0_output`, `pos_1_...` (jayelm/natural-instructions), as many as fit."""
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
    """Stripped, with a full stop unless it ends in punctuation: ni_collator.py does so to each part."""
    text = text.strip()
    return text if text.endswith(tuple(string.punctuation)) else text + "."


def classification(row: Row) -> list[Example]:
    """`text`, `label`, and `text_pair` where two texts are judged."""
    pair = text_field(row, "text_pair") if row.get("text_pair") is not None else None
    return [Example(text_field(row, "text"), "", "label", pair=pair, label=_label(row))]


def _glue(fields: tuple[str, ...]) -> RowRule:
    def rule(row: Row) -> list[Example]:
        first, *second = (text_field(row, field) for field in fields)
        return [Example(first, "", "label", pair=second[0] if second else None, label=_label(row))]

    return rule


def _label(row: Row) -> int | float | str:
    value = _present(row, "label")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise RowError(
            "label", f"expected a number or a class's name, found {type(value).__name__} {str(value)[:60]!r}"
        )
    if isinstance(value, str) and not value.strip():
        raise RowError("label", "empty: every row needs its class")
    return value


def chat(row: Row) -> list[Example]:
    """`messages` of role and content that end with the assistant's; loss on that last answer."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("messages", "expected a list of messages, each with a role and a content")
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RowError(f"messages[{number}]", f"expected role and content, found {type(message).__name__}")
        turn = [text_field(message, key, f"messages[{number}].") for key in ("role", "content")]
        turns.append((turn[0], turn[1]))
    if turns[-1][0] != "assistant":
        raise RowError("messages", f"the last message is the {turns[-1][0]}'s; the assistant's is what is learned")
    question = "\n".join(content for _, content in turns[:-1])
    return [Example(question, turns[-1][1], "messages", tuple(turns))]


def unnatural(row: Row) -> list[Example]:
    """An example per instance: `instruction_with_input` -> `output`."""
    return _instances(row, "instances")


def unnatural_reformulations(row: Row) -> list[Example]:
    """The instances and, where the row has them, the paraphrases of its instruction."""
    paraphrases = _instances(row, "reformulations") if row.get("reformulations") else []
    return unnatural(row) + paraphrases


def flan(row: Row) -> list[Example]:
    """inputs, targets (the Hub's form), or question, answer, rationale (the cot_data files)."""
    for source, target in _FLAN_PAIRS:
        if source in row and target in row:
            return [Example(text_field(row, source), text_field(row, target), target)]
    if "question" not in row:
        raise RowError("inputs", f"missing (the row has: {', '.join(map(str, row)) or 'nothing'})")
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
    "super_ni": super_ni,
    "super_ni_pos2": super_ni_pos2,
    "chat": chat,
    "classification": classification,
    **{name: _glue(fields) for name, fields in GLUE_FIELDS.items()},
}
RULE_VERSIONS = {"super_ni": 2}  # rules that changed, so that data tokenized by the old one isn't used
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
