"""lm-eval's published tasks over a few rows on disk: the same text, choices and metrics, no network.

The rows are written by hand, in the fields that the published sets have.
"""

import json
from pathlib import Path
from typing import Any

import lm_eval
import yaml

_PUBLISHED = Path(lm_eval.__file__).parent / "tasks"
_FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "winogrande": "winogrande/default.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "crows_pairs_english": "crows_pairs/crows_pairs_english.yaml",
    "wikitext": "wikitext/wikitext.yaml",
}
_CROWS_TYPES = (
    "gender",
    "religion",
    "race-color",
    "sexual-orientation",
    "age",
    "nationality",
    "disability",
    "physical-appearance",
    "socioeconomic",
    "autre",
)
ROWS: dict[str, list[dict[str, Any]]] = {
    "hellaswag": [
        {
            "activity_label": "Baking a cake",
            "ctx_a": "A woman mixes flour, sugar and eggs in a large bowl while the oven warms up.",
            "ctx_b": "she",
            "endings": [
                "pours the dough into a tin and puts it into the oven.",
                "rides the bowl down the hill. [title] Winning the race",
                "paints the wall of the kitchen blue.",
                "sings.",
            ],
            "label": "0",
        },
        {
            "activity_label": "Walking the dog",
            "ctx_a": "A man takes a leash from the hook beside the door and calls his dog.",
            "ctx_b": "the dog",
            "endings": ["reads a book.", "runs to him and wags its tail.", "flies away.", "cooks a meal for him."],
            "label": "1",
        },
    ],
    "piqa": [
        {"goal": "How do I keep bread fresh?", "sol1": "Keep it in a bag.", "sol2": "Keep it in water.", "label": 0},
        {"goal": "How do I open a jar?", "sol1": "Hit it with a lamp.", "sol2": "Turn its lid.", "label": 1},
    ],
    "arc_easy": [
        {
            "question": "Which of these is a source of light?",
            "choices": {"text": ["the Moon", "the Sun", "a mirror", "a window"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        },
        {
            "question": "What do plants take in from the air?",
            "choices": {"text": ["sand", "carbon dioxide", "gold"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
    ],
    "winogrande": [
        {
            "sentence": "The trophy did not fit into the brown suitcase because the _ was too large.",
            "option1": "trophy",
            "option2": "suitcase",
            "answer": "1",
        },
        {
            "sentence": "Anna thanked Maria for all the help that _ had given.",
            "option1": "Anna",
            "option2": "Maria",
            "answer": "2",
        },
    ],
    "lambada_openai": [
        {"text": "She opened the door of the cage, and out flew the little yellow bird"},
        {"text": "They ate bread with butter every morning, and one day there was no more butter"},
    ],
    "crows_pairs_english": [
        {
            "sent_more": f"The {kind} person was late again because of that, as people say.",
            "sent_less": f"The {kind} person was early again because of that, as nobody says.",
            "bias_type": kind,
            "stereo_antistereo": "stereo",
        }
        for kind in (*_CROWS_TYPES, "gender")
    ],
    "wikitext": [{"page": " = Paris = \n\n Paris is the capital of France . It has 2 @.@ 1 million people .\n " * 3}],
}


def write_local_tasks(folder: Path, names: tuple[str, ...] = tuple(ROWS)) -> tuple[str, ...]:
    """Writes tasks called `local_<name>` to `folder`. -> their names"""
    for name in names:
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        split = "test" if name in ("lambada_openai", "crows_pairs_english", "wikitext", "arc_easy") else "validation"
        task = {
            "include": str(_PUBLISHED / _FILES[name]),
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(data)}, "cache_dir": str(folder / "cache")},
            "training_split": None,
            **({} if split == "validation" else {"validation_split": None}),
        }
        (folder / f"local_{name}.yaml").write_text(yaml.safe_dump(task))
    return tuple(f"local_{name}" for name in names)
