"""lm-eval's generating tasks over a few rows on disk: published prompts, filters and metrics, no network.

`gsm8k`, `nq_open` and `math` include the published files. `ifeval` has its shape (several metrics, one with a value for
each instruction), `mbpp` its prompts without the run of code, `voted` samples each answer three times.
"""

import json
from pathlib import Path
from typing import Any

import lm_eval
import yaml

_PUBLISHED = Path(lm_eval.__file__).parent / "tasks"
NEW_TOKENS = 20
SUMS = [
    {"question": f"Ann has {n} apples and buys {n + 1} more. How many are there?", "answer": f"Add. #### {2 * n + 1}"}
    for n in range(2, 7)
]
FACTS = [
    {"question": "what is the capital of france", "answer": ["Paris", "the city of Paris"]},
    {"question": "who is the human here", "answer": ["the assistant"]},
    {"question": "which of them are about astronomy", "answer": ["questions"]},
]
PROBLEMS = [
    {"problem": f"What is {n} + {n}?", "solution": f"It is $\\boxed{{{2 * n}}}$.", "level": "1", "type": "a"}
    for n in (3, 5)
]
PROMPTS = [
    {"key": 1, "prompt": "Write about healthy sleep. Give no comma.", "wanted": ["e", "t"]},
    {"key": 2, "prompt": "Hello! How can I help you today? Answer in Paris.", "wanted": ["a", "zzz", "o"]},
]
CODE = [{"text": "Write a function that adds.", "test": "assert add(1, 2) == 3"}]
MOODS = [{"text": f"The results of year {n} are what they are.", "label": n % 3} for n in range(7)]
_UTILS = """
def process_results(doc, results):
    met = [letter in results[0] for letter in doc["wanted"]]
    return {"prompt_level": all(met), "inst_level": met}


def over_instructions(items):
    flat = [one for of_prompt in items for one in of_prompt]
    return sum(flat) / len(flat)
"""
OWN: dict[str, dict[str, Any]] = {
    "gsm8k": {
        "include": str(_PUBLISHED / "gsm8k/gsm8k.yaml"),
        "num_fewshot": 2,
        "generation_kwargs": {"until": ["Question:", "e", " to"], "do_sample": False, "max_gen_toks": NEW_TOKENS},
    },
    "nq_open": {
        "include": str(_PUBLISHED / "nq_open/nq_open.yaml"),
        "validation_split": None,
        "test_split": "test",
        "num_fewshot": 1,
        "generation_kwargs": {"until": ["\n", ".", ","], "do_sample": False, "temperature": 0.0, "max_new_tokens": 12},
    },
    "math": {
        "include": str(_PUBLISHED / "hendrycks_math/hendrycks_math_algebra.yaml"),
        "generation_kwargs": {"until": ["Problem:"], "do_sample": False, "temperature": 0, "max_gen_toks": 9},
    },
    "ifeval": {
        "output_type": "generate_until",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "doc_to_target": 0,
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": NEW_TOKENS},
        "process_results": "FUNCTION utils.process_results",
        "metric_list": [
            {"metric": "prompt_level", "aggregation": "mean", "higher_is_better": True},
            {"metric": "inst_level", "aggregation": "FUNCTION utils.over_instructions", "higher_is_better": True},
        ],
    },
    "mbpp": {
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{text}} Your code should pass this test:\n\n{{test}}\n[BEGIN]\n",
        "doc_to_target": "{{test}}",
        "generation_kwargs": {"until": ["[DONE]", "s"], "do_sample": False, "max_gen_toks": NEW_TOKENS},
        "metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": False}],
    },
    "mood": {
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{text}} The mood is",
        "doc_to_target": "label",
        "doc_to_choice": ["bad", "neutral", "good"],
        "metric_list": [{"metric": "acc"}],
    },
    "said_mood": {
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{text}} The mood is",
        "doc_to_target": "label",
        "doc_to_choice": ["bad", "neutral", "good"],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match"}],
    },
    "voted": {
        "include": str(_PUBLISHED / "gsm8k/gsm8k.yaml"),
        "num_fewshot": 0,
        "repeats": 3,
        "generation_kwargs": {"until": ["Question:"], "do_sample": True, "temperature": 0.9, "max_gen_toks": 6},
        "filter_list": [
            {"name": "first", "filter": [{"function": "take_first"}]},
            {"name": "maj@3", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
        ],
    },
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": SUMS,
    "nq_open": FACTS,
    "math": PROBLEMS,
    "ifeval": PROMPTS,
    "mbpp": CODE,
    "voted": SUMS[:2],
    "mood": MOODS,
    "said_mood": MOODS,
}
GREEDY = ("gsm8k", "nq_open", "math", "ifeval", "mbpp")


def write_generative_tasks(folder: Path, names: tuple[str, ...] = GREEDY, **changes: Any) -> list[str]:
    """Writes tasks called `local_<name>` to `folder`. -> their names. Args: changes: of each task's keys."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "utils.py").write_text(_UTILS)
    for name in names:
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        task = {
            **OWN[name],
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {"train": str(data), "test": str(data)},
                "cache_dir": str(folder / "cache"),
            },
            **changes,
        }
        text = yaml.safe_dump(task).replace("FUNCTION ", "!function ")
        (folder / f"local_{name}.yaml").write_text(text)
    return [f"local_{name}" for name in names]
