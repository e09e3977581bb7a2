"""Lists the methods of finetuning, their keys and the weights that they work on.

python -m harness.methods            # a line a method
python -m harness.methods OFT        # one of them, with the fields of PEFT's config
"""

import sys
from collections.abc import Sequence

from harness.config.choices import choices
from harness.config.schema import AdapterConfig, AdapterMethod
from harness.methods.keys import free_fields
from harness.methods.table import METHODS, Entry


def main(arguments: Sequence[str]) -> int:
    """-> the exit code"""
    if not arguments:
        print("\n".join(overview()))
        return 0
    for name in arguments:
        entry = METHODS.get(name.lower())
        if entry is None:
            print(f"error: {name}: no such method; known: {', '.join(METHODS)}", file=sys.stderr)
            return 2
        print("\n".join(described(entry)))
    return 0


def overview() -> list[str]:
    """A line for each method, its columns apart by at least two blanks."""
    rows = [("adapter", "keys of ours", "weights", "trained numbers")]
    rows += [(command(row), keys(row), weights(row), row.formula) for row in METHODS.values() if not row.refused]
    lines = [f"{row[0]:<38}  {row[1]:<32}  {row[2]:<20}  {row[3]}".rstrip() for row in rows]
    refused = [f"not here: {row.name}: {row.refused}" for row in METHODS.values() if row.refused]
    return [*lines, "", *refused]


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
    return ", ".join(key for key, field in ours.items() if field is not None) or "none"


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
    sys.exit(main(sys.argv[1:]))
