"""Records extract.json beside this file: the shapes of a few rows of each real data set, without their words.

python -m tests.golden.rows.record ../shared/data/datasets
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

FILES = {  # -> rows kept: of the trees, which are long, the two shortest
    "alpaca.jsonl": 4,
    "chip2_format_derived.jsonl": 3,
    "flan_v2_hf_fields_derived.jsonl": 4,
    "hh_rlhf.jsonl": 4,
    "oasst1_qlora_pairs.jsonl": 4,
    "oasst1_trees.jsonl": 2,
    "openassistant_guanaco_text_derived.jsonl": 4,
    "self_instruct_repo_t0_prompt_completion.jsonl": 4,
    "self_instruct_seed_tasks.jsonl": 2,
}
TSV = {"flan_v2_cot.tsv": "flan_v2_hf_fields_derived.jsonl"}  # -> the file with the same rows
KEPT_KEYS = {"role", "lang", "tree_state", "task_source", "task_name", "template_type", "source"}
KEPT = re.compile(  # the marks of formats; all else is text
    r"### (?:Human|Assistant|Instruction|Input|Response):|\n\n(?:Human|Assistant):|<human>:|\n<bot>:|\\n|"
    r"The answer is |<\|endoftext\|>|Below is an instruction that describes a task(?:, paired with an input that "
    r"provides further context)?\. Write a response that appropriately completes the request\."
)


def masked(text: str) -> str:
    """The text without its words."""
    parts, end = [], 0
    for mark in KEPT.finditer(text):
        parts += [_without_words(text[end : mark.start()]), mark[0]]
        end = mark.end()
    return "".join([*parts, _without_words(text[end:])])


def _without_words(text: str) -> str:
    return "".join(
        "0" if c.isdigit() else c if not c.isalpha() else "é" if not c.isascii() else "X" if c.isupper() else "x"
        for c in text
    )


def shape(value: Any, ids: dict[str, str], key: str = "") -> Any:
    """A row without its words, and with numbers for ids."""
    if isinstance(value, dict):
        return {name: shape(found, ids, name) for name, found in value.items()}
    if isinstance(value, list):
        return [shape(found, ids, key) for found in value]
    if not isinstance(value, str) or key in KEPT_KEYS:
        return value
    return ids.setdefault(value, f"id-{len(ids)}") if key.endswith("id") else masked(value)


def chosen(rows: list[str], num: int) -> list[int]:
    """The places of the shortest rows, with one that has letters beyond ASCII where there is one."""
    by_size = sorted(range(len(rows)), key=lambda place: (len(rows[place]), place))
    foreign = [place for place in by_size if "é" in masked(str(json.loads(rows[place])))]
    return sorted({*by_size[: num - 1], (foreign or by_size[num - 1 :])[0]})


def main(folder: Path) -> None:
    """Writes the extract."""

    def lines(name: str) -> list[str]:
        return (folder / name).read_text(encoding="utf-8").splitlines()

    places = {name: chosen(lines(name), num) for name, num in FILES.items()}
    extract: dict[str, list[Any]] = {}
    for name, kept in places.items():
        ids: dict[str, str] = {}
        extract[name] = [shape(json.loads(lines(name)[place]), ids) for place in kept]
    for name, same in TSV.items():
        extract[name] = [masked(lines(name)[place]) for place in places[same]]
    shown = {name: ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) for name, rows in extract.items()}
    text = ",\n".join(f"{json.dumps(name)}: [\n{rows}\n]" for name, rows in shown.items())
    Path(__file__).with_name("extract.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
