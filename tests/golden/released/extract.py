"""The extract of the released judgments as the CSVs that this project reads."""

import json
from pathlib import Path
from typing import Any

EXTRACT: dict[str, Any] = json.loads(Path(__file__).with_name("extract.json").read_text())


def write_extract(folder: Path) -> Path:
    """Writes the three files into a folder. -> the folder"""
    judged = [
        f"{n},{pair.replace(' ', ',')},{code.replace('0', '-1')}"
        for pair, codes in EXTRACT["pairwise"].items()
        for n, code in enumerate(codes, 1)
    ]
    votes = [
        f"{n},{slot},{pair.replace(' ', ',')},{vote}"
        for pair, text in EXTRACT["human"].items()
        for n, said in (part.split(":") for part in text.split())
        for slot, vote in enumerate(said, 1)
    ]
    scores = [
        f"{n},{system},{order},{both.replace('/', ',')}"
        for system, orders in EXTRACT["relative"].items()
        for order, text in orders.items()
        for n, both in enumerate(text.split(), 1)
    ]
    for name, header, rows in (
        ("vicuna_gpt4_pairwise", "question_id,system_a,system_b,verdict", judged),
        ("vicuna_human_pairwise", "question_id,rater_slot,system_a,system_b,verdict", votes),
        ("vicuna_gpt4_relative", "question_id,system,order,score_candidate,score_chatgpt", scores),
    ):
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder
