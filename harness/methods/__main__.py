"""Lists the methods of finetuning, their keys and the weights that they work on.

    python -m harness.methods            # a line a method
    python -m harness.methods OFT        # one of them, with the fields of PEFT's config
    python -m harness.methods --json     # all of them, or those named, for programs
    python -m harness.methods --markdown > docs/methods.md

The table itself is `harness.methods.table`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from harness.config.choices import choices
from harness.config.schema import AdapterConfig, AdapterMethod
from harness.console import friendly_errors, new_parser
from harness.methods.keys import free_fields
from harness.methods.table import METHODS, Entry

_PAGE = """# Methods of finetuning

`python -m harness.methods --markdown` writes this page from [harness/methods/table.py](../harness/methods/table.py),
and a test holds it against the table. A run proves its method before its first step
([harness/identity/proof.py](../harness/identity/proof.py)): the number of trained parameters by the formula below, the
function at step 0, that every trained tensor learns, that no layer computes plain LoRA under another name, that nothing
frozen moves, and that what is saved and read again is equal to the last bit. A run whose method fails is refused by the
check's name; what passed stands in its record (`identity`) and in its model card. Not made, and said so there: the
function at step 0 of methods that change their base (PiSSA, OLoRA, CorDA, LoRA-GA, LQ-LoRA); everything but the count
on a base that is sharded over ranks; all of it for full finetuning. What is frozen is sampled, 4,096 elements or more
a tensor.

In formulas a layer has `i` inputs and `o` outputs. "Weights" are the values of `quant.method` on which the method works
with PEFT 0.21; others are refused when a run is planned. A method of PEFT takes further fields of its config by
`+adapter.peft.KEY=VALUE`; a key that it doesn't have is refused, not dropped.

Every method but trainable tokens, IA3 and QST takes `adapter.layers=[10,11]`: only these blocks, counted from 0, learn.
And all take `train.layer_lr_decay=0.9`: a block learns at 0.9 times the rate of the next one, the last one at the
run's (ULMFiT, arXiv 1801.06146, section 3.2), embeddings at 0.9 times the first block's.

Verified, **steps**: its losses over several steps, on NF4 and in float32, are those of transformers' and PEFT's own
model, or by the paper's equation where the method is our own (in `harness/variants`), and its saved adapter gives
PEFT's own model the same losses (QST's files only this program reads). **proof**: its proof of identity passes on NF4,
of half finetuning in float32 and bfloat16. **tried**: it started, trained and was read again on a tiny model, on each
of the weights named but FP4. A run's own proof, in its record, is what counts. Papers of OFTv2, OLoRA, SHiRA, OSF,
WaveFT, GraLoRA, GLoRA, Cartridges and prompt methods are not named in PEFT's sources; their numbers are from memory. Of
ALLoRA, HFT and S2FT only the abstracts were at hand: sections and what they say beyond them are from memory, too, as
are LQ-LoRA's sections; its formats, weights and errors were held against the authors' code.

A layer that LQ-LoRA stores in a format of its own (`adapter.bits`) is simulated: rounded to the numbers that the format
has, and held in the compute dtype, whose memory it takes. The record (`storage`) says what the formats would take,
scales, constants and an offset of 32 bits a matrix included, and how many layers have which; `residual.json` beside the
adapter says which layer has which, and by it the base is the same again wherever the adapter is loaded.

{table}

## Not here

{refused}

On 4 bits PEFT 0.21 trains plain LoRA under the names QA-LoRA, KaSA and MonteCLoRA (`LoraConfig`; BdLoRA too, which no
test here tries), and nothing at all under Uni-LoRA. `adapter=peft adapter.peft_type=LORA +adapter.peft.use_qalora=true`
is refused by its proof.
"""


def main(arguments: Sequence[str]) -> None:
    """Prints the table, or what is known of the methods that are named. Ends with status 2 for an unknown one."""
    options = _parser().parse_args(arguments)
    with friendly_errors():
        entries = [_entry(name) for name in options.methods]
        if options.markdown:
            if entries:
                raise ValueError("--markdown: writes the page of all methods; leave the names out")
            print(markdown(), end="")
        elif options.json:
            print(json.dumps([values_of(entry) for entry in entries or METHODS.values()], allow_nan=False))
        else:
            print("\n".join(line for entry in entries for line in described(entry)) or "\n".join(overview()))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("python -m harness.methods", __doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="such as oft; without any: a line a method")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="a list of objects, one a method")
    shape.add_argument("--markdown", action="store_true", help="the page docs/methods.md")
    return parser


def _entry(name: str) -> Entry:
    if name.lower() not in METHODS:
        raise ValueError(f"{name}: no such method; known: {', '.join(METHODS)}")
    return METHODS[name.lower()]


def overview() -> list[str]:
    """A line for each method, its columns apart by at least two blanks."""
    rows = [("adapter", "keys of ours", "weights", "trained numbers")]
    rows += [(command(row), keys(row), weights(row), row.formula) for row in METHODS.values() if not row.refused]
    lines = [f"{row[0]:<38}  {row[1]:<32}  {row[2]:<20}  {row[3]}".rstrip() for row in rows]
    refused = [f"not here: {row.name}: {row.refused}" for row in METHODS.values() if row.refused]
    return [*lines, "", *refused]


def markdown() -> str:
    """The page docs/methods.md."""
    head = ("method", "paper", "command", "keys", "trained numbers", "weights", "verified", "differs from the paper")
    rows = [
        (row.title, row.paper, f"`{command(row)}`", keys(row), row.formula, weights(row), row.verified, row.differs)
        for row in METHODS.values()
        if not row.refused
    ]
    table = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    refused = [f"- {row.title} ({row.paper}): {row.refused}." for row in METHODS.values() if row.refused]
    return _PAGE.format(table="\n".join(table), refused="\n".join(refused))


def described(entry: Entry) -> list[str]:
    """What is known of one method."""
    values = {
        "paper": entry.paper,
        "command": command(entry),
        "keys": keys(entry),
        "weights": weights(entry),
        "trained numbers": entry.formula,
        "function at step 0": entry.start.value,
        "differs from the paper": entry.differs,
        "not here": entry.refused,
        "+adapter.peft.KEY=VALUE": ", ".join(sorted(_fields(entry))),
    }
    return [entry.title, *(f"  {name}: {value}" for name, value in values.items() if value)]


def values_of(entry: Entry) -> dict[str, Any]:
    """What is known of one method, for programs."""
    return {
        "name": entry.name,
        "title": entry.title,
        "paper": entry.paper,
        "command": None if entry.refused else command(entry),
        "keys": [] if keys(entry) == "none" else keys(entry).split(", "),
        "weights": sorted(method.value for method in entry.works_on),
        "trained_numbers": entry.formula,
        "start": entry.start.value,
        "verified": entry.verified,
        "differs": entry.differs or None,
        "refused": entry.refused or None,
        "peft_fields": sorted(_fields(entry)),
    }


def command(entry: Entry) -> str:
    """The choice on the command line."""
    if not is_of_peft(entry) or entry.name in choices("adapter"):
        return f"adapter={entry.name}"
    return f"adapter=peft adapter.peft_type={entry.name.upper()}"


def keys(entry: Entry) -> str:
    """Our keys that the method has."""
    if entry.name == "full":
        return "none"
    ours = {"lora_r": entry.rank, "lora_alpha": entry.alpha, "lora_dropout": entry.dropout}
    return ", ".join([*(key for key, field in ours.items() if field is not None), *entry.keys]) or "none"


def weights(entry: Entry) -> str:
    """How the base's weights may be stored."""
    return ", ".join(sorted(method.value for method in entry.works_on))


def is_of_peft(entry: Entry) -> bool:
    """Whether it is trained by `adapter.method=peft`."""
    return entry.name not in {method.value for method in AdapterMethod}


def _fields(entry: Entry) -> set[str]:
    if not is_of_peft(entry):
        return set()
    return free_fields(AdapterConfig(name="", method=AdapterMethod.peft, peft_type=entry.name), entry)


if __name__ == "__main__":
    main(sys.argv[1:])
