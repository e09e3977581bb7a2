"""Makes the data that the pages' script reads: plain lists, with names by their place in the index.

index      systems, questions and judges with the addresses of their pages, and what notes are kept under
items      judged pairs of answers, for search and filters
failures   answers with their kinds of failure
pairs      per higher system: what each judge said of it and each lower one
answers    per system: its answers
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from analysis.report.content import Content
from analysis.report.examples.failures import KINDS, READERS_KINDS, failures
from analysis.report.examples.items import FLAGS, Item
from analysis.report.formats import ending
from analysis.report.site.names import page_name
from analysis.report.site.script_data import shown_text
from eval.verdicts.codes import FIRST, SECOND, TIE, UNPARSED

MAX_QUESTION_TEXT = 160  # characters of a question in lists
MAX_EXCERPT = 240  # of an answer in lists
MAX_REPLY = 4_000  # of what a judge wrote
LETTERS = {FIRST: "a", SECOND: "b", TIE: "t", UNPARSED: "?"}  # verdicts, told of the higher system

NAMELESS = "a judge without a name"  # of verdicts whose file doesn't say who judged


def index_data(content: Content, questions: Sequence[str], is_folder: bool = False) -> dict[str, Any]:
    """Everything that the other data name by its place."""
    return {
        "site": _site_id(content),
        "folder": is_folder,
        "systems": [[shown_text(name), page_name(name)] for name in content.order],
        "questions": [
            [
                shown_text(question),
                shown_text(content.questions[question], MAX_QUESTION_TEXT),
                shown_text(content.categories.get(question, "")),
                page_name(question),
                int(is_folder or (content.answers is not None and question in content.answers.texts)),
            ]
            for question in questions
        ],
        "judges": [shown_text(judge) or NAMELESS for judge in content.judges],
        "flags": FLAGS,
        "kinds": KINDS,
        "readersKinds": READERS_KINDS,
    }


def items_data(content: Content, questions: Sequence[str]) -> list[list[Any]]:
    """[question, one, two, judge, outcomes with `one` first, with `two` first, flags, difference in characters]"""
    places = _Places(content, questions)
    return [
        [
            places.question[item.question_id],
            places.system[item.one],
            places.system[item.two],
            places.judge[item.judge],
            _letters(item.forward),
            _letters(item.backward),
            _bits(item.flags, FLAGS),
            item.length_difference,
        ]
        for item in content.items
        if item.question_id in places.question
    ]


def failures_data(content: Content, questions: Sequence[str]) -> list[list[Any]]:
    """[question, system, kinds, the beginning of the answer, its length in characters]"""
    if content.answers is None:
        return []
    places = _Places(content, questions)
    found = failures(content.answers.by_system, content.items, questions)
    return [
        [
            places.question[failure.question_id],
            places.system[failure.system],
            _bits(failure.kinds, KINDS),
            shown_text(failure.answer.answer, MAX_EXCERPT),
            len(failure.answer.answer),
        ]
        for failure in sorted(found, key=lambda f: (places.question[f.question_id], places.system[f.system]))
    ]


def answers_data(content: Content, system: str, questions: Sequence[str]) -> list[list[Any]]:
    """[question, text, tokens, why it ended], of one system."""
    places = _Places(content, questions)
    assert content.answers is not None
    return [
        [places.question[key], shown_text(answer.answer), answer.num_tokens, ending(answer.finish_reason)]
        for key, answer in content.answers.by_system.get(system, {}).items()
        if key in places.question
    ]


def pairs_data(content: Content, questions: Sequence[str]) -> dict[str, dict[str, list[list[Any]]]]:
    """Higher system -> place of the lower -> [question, judge, outcomes, outcomes, [replies], [replies], flags]"""
    places = _Places(content, questions)
    found: dict[str, dict[str, list[list[Any]]]] = {}
    for item in content.items:
        if item.question_id in places.question:
            row = [
                places.question[item.question_id],
                places.judge[item.judge],
                _letters(item.forward),
                _letters(item.backward),
                _reply(content, item, item.one, item.two),
                _reply(content, item, item.two, item.one),
                _bits(item.flags, FLAGS),
            ]
            found.setdefault(item.one, {}).setdefault(str(places.system[item.two]), []).append(row)
    return found


class _Places:
    """Names -> their places in the index."""

    def __init__(self, content: Content, questions: Sequence[str]) -> None:
        self.question = {name: index for index, name in enumerate(questions)}
        self.system = {name: index for index, name in enumerate(content.order)}
        self.judge = {name: index for index, name in enumerate(content.judges)}


def _reply(content: Content, item: Item, first: str, second: str) -> str | None:
    """What the judge wrote of the two in this order; None where that is not stored."""
    assert content.tournament is not None
    said = content.tournament.judgments.get((item.judge, item.question_id, first, second))
    if said is None:
        return None
    text = "\n".join(part for part in (said.raw_text, said.reason and f"Not read: {said.reason}.") if part)
    return shown_text(text, MAX_REPLY) if text else None


def _letters(outcomes: Sequence[int]) -> str:
    return "".join(LETTERS[outcome] for outcome in outcomes)


def _bits(names: frozenset[str], all_names: Sequence[str]) -> int:
    return sum(1 << place for place, name in enumerate(all_names) if name in names)


def _site_id(content: Content) -> str:
    """What tells a reader's notes on this report from those on another: its title and systems."""
    named = json.dumps([content.options.title, sorted(content.order)])
    return hashlib.sha256(named.encode()).hexdigest()[:12]
