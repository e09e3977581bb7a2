"""A small vote for tests: answer files on disk, and a store with a clock of its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.human.items import Contest, ContestOptions, draw_contest
from eval.human.store import Rules, VoteStore, create_store

SYSTEMS = ("okapi-7", "quagga-9", "zebra-3")  # names that occur nowhere by chance
LONG = "The first thing that anybody should know about number {n} is how {system} sees it from every possible side."


@dataclass(slots=True)
class Clock:
    """Seconds since 1970, as a test wants them."""

    seconds: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def contest_options(
    folder: Path, num_questions: int = 4, systems: Sequence[str] = SYSTEMS, **options: Any
) -> ContestOptions:
    """Files of questions and answers; an answer names its system only by a number, as no rater may read a name."""
    numbers = range(1, num_questions + 1)
    questions = [{"question_id": n, "category": "general", "text": f"What of number {n}?"} for n in numbers]
    files = []
    for at, system in enumerate(systems):
        text = LONG.replace("{system}", f"person {at}")
        rows = [{"question_id": n, "system": system, "answer": text.format(n=n)} for n in numbers]
        files.append(write_rows(folder / "answers" / f"{at}.jsonl", rows))
    where = {"questions": write_rows(folder / "questions.jsonl", questions), "tournament": folder / "tournament"}
    return ContestOptions(**{"answers": tuple(files), **where, **options})


def make_store(
    folder: Path, clock: Clock | None = None, num_questions: int = 4, systems: Sequence[str] = SYSTEMS, **rules: Any
) -> VoteStore:
    """A vote that nobody has begun; without attention checks unless a rule asks for them."""
    contest: Contest = draw_contest(contest_options(folder, num_questions, systems))
    return create_store(
        folder / "tournament", contest, Rules(**{"check_rate": 0.0, **rules}), *([clock] if clock else [])
    )
