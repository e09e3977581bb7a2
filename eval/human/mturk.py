"""Writes the input CSV of a Mechanical Turk batch, and reads votes from the batch's results.

    write_mturk_input(store, Path("input.csv"))     # ${item}, ${question}, ${answer_a}, ${answer_b} of a template
    store_ballots(store, read_mturk_results(store, Path("Batch_1_batch_results.csv")))

The input names no system: `item` is a digest that only the votes' database can read. Texts are HTML (the same
harmless one as on our pages), because a template pastes them unescaped; no line breaks and nothing beyond the basic
plane, which its upload refuses. Set the number of workers a HIT in the batch. Results need `Answer.verdict` (1, 2,
3, a, b, tie, both_bad), or one column of true and false for each value (`Answer.verdict.a`), as its radio buttons
write; and `Input.item`, or `Input.question_id`, `Input.system_a`, `Input.system_b` of batches made elsewhere. QLoRA
(arXiv 2305.14314, section 5.3) collected its human votes so, three workers an item.
"""

import hashlib
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.answers.rows import field_name
from eval.human.ballots import Ballot, parse_choice, parse_rater, parse_seconds, read_votes
from eval.human.items import Item
from eval.human.markdown import render_answer
from eval.human.store import VoteStore, stamp
from eval.human.votes import Choice, is_swapped, side_seed, votes
from eval.verdicts.columns import VerdictError, read_header
from harness.files.atomic import csv_text, write_atomically
from harness.files.csv_cells import neutral_cell

INPUT_COLUMNS = ("item", "question", "answer_a", "answer_b")
NAMED_COLUMNS = ("Input.question_id", "Input.system_a", "Input.system_b")
FACT_COLUMNS = ("HITId", "AssignmentId", "WorkerId", "AssignmentStatus", "SubmitTime", "WorkTimeInSeconds")
VERDICT_COLUMN = "Answer.verdict"
RESULT_COLUMNS = (*FACT_COLUMNS, "Input.item", *NAMED_COLUMNS, VERDICT_COLUMN)
ANYBODY = 0  # stands for the rater in the seed of a HIT's sides, which all its workers share
REJECTED = "rejected"


def write_mturk_input(store: VoteStore, path: Path) -> int:
    """Writes every item once, and among them attention checks at their rate. -> rows."""
    items = list(enumerate(store.items(), start=1))  # item_id counts from 1 in the order of insertion
    asked = [pair for pair in items if pair[1].better is None]
    checks = [pair for pair in items if pair[1].better is not None]
    chosen = asked + checks[: round(store.rules.check_rate * len(asked))]
    rng = np.random.default_rng(store.seed)
    rows = [_input_row(store, *chosen[at]) for at in rng.permutation(len(chosen))]
    write_atomically(path, csv_text(INPUT_COLUMNS, rows))
    return len(rows)


def write_mturk_results(store: VoteStore, path: Path) -> int:
    """Writes the votes, attention checks too, in the shape of a batch's results. -> rows."""
    verdicts = {Choice.left: "a", Choice.right: "b", Choice.tie: "tie", Choice.both_bad: "both_bad"}
    items = store.items()
    rows = []
    for number, vote in enumerate(votes(store), start=1):
        swapped = items[vote.item_id - 1].system_one != vote.system_a
        key = _key(store, vote.item_id, swapped)
        seconds = "" if vote.seconds is None else f"{vote.seconds:.3f}"
        names = (vote.question_id, vote.system_a, vote.system_b)
        choice = verdicts[vote.choice]
        rows.append((f"H{key}", f"V{number}", vote.rater, "Approved", stamp(vote.voted), seconds, key, *names, choice))
    write_atomically(path, csv_text(RESULT_COLUMNS, rows))
    return len(rows)


def read_mturk_results(store: VoteStore, path: Path) -> tuple[list[Ballot], int]:
    """The votes of a batch's results, and how many assignments were rejected and left out.

    Raises:
        VerdictError: a column is missing or a row holds no vote; named by line.
    """
    header = [_column(name) for name in read_header(path)]
    by_key = "Input.item" in header
    needed = ["WorkerId", *(["Input.item"] if by_key else NAMED_COLUMNS)]
    missing = [name for name in needed if name not in header]
    answer_columns = [name for name in header if name == VERDICT_COLUMN or name.startswith(f"{VERDICT_COLUMN}.")]
    if missing or not answer_columns:
        wanted = ", ".join([*missing, *([] if answer_columns else [VERDICT_COLUMN])])
        raise VerdictError(f"{path}: no column {wanted}; it has {', '.join(header)}")
    keys = _keys(store) if by_key else {}
    ballots, num_rejected = [], 0
    for where, values in read_votes(path):
        row = {_column(name): value for name, value in values.items()}
        if row.get("AssignmentStatus", "").lower() == REJECTED:
            num_rejected += 1
            continue
        names = _known(row["Input.item"], keys, where) if by_key else tuple(row[name] for name in NAMED_COLUMNS)
        ballots.append(_ballot(where, row, names, answer_columns))
    return ballots, num_rejected


def _column(name: str) -> str:
    """MTurk's own spelling of a column, whatever the capitals of the file."""
    known = {field_name(column): column for column in RESULT_COLUMNS}
    if name.startswith(field_name(f"{VERDICT_COLUMN}.")):
        return f"{VERDICT_COLUMN}.{name[len(VERDICT_COLUMN) + 1 :]}"
    return known.get(name, name)


def _input_row(store: VoteStore, item_id: int, item: Item) -> Sequence[str]:
    swapped = is_swapped(side_seed(store.seed, item_id, ANYBODY))
    texts = [render_answer(item.answer_one), render_answer(item.answer_two)][:: -1 if swapped else 1]
    question = html.escape(item.question).replace("\n", "<br>")
    if neutral_cell(question) != question:  # a template would show the apostrophe that guards a formula
        question = f"&#{ord(question[0])};{question[1:]}"
    return _key(store, item_id, swapped), *(_portable(text) for text in (question, *texts))


def _portable(text: str) -> str:
    """HTML that survives the upload: one line, and characters beyond the basic plane by number."""
    return "".join(f"&#{ord(c)};" if ord(c) > 0xFFFF else c for c in text.replace("\r", "").replace("\n", "&#10;"))


def _key(store: VoteStore, item_id: int, swapped: bool) -> str:
    return hashlib.sha256(f"{store.contest_sha256} {item_id} {int(swapped)}".encode()).hexdigest()[:16]


def _keys(store: VoteStore) -> dict[str, tuple[str, str, str]]:
    """(question_id, system_a, system_b) behind every key."""
    names = {}
    for item_id, item in enumerate(store.items(), start=1):
        names[_key(store, item_id, False)] = (item.question_id, item.system_one, item.system_two)
        names[_key(store, item_id, True)] = (item.question_id, item.system_two, item.system_one)
    return names


def _known(key: str, keys: Mapping[str, tuple[str, str, str]], where: str) -> tuple[str, str, str]:
    if key not in keys:
        raise VerdictError(f"{where}: Input.item {key!r} is none of this tournament; was the batch made from another?")
    return keys[key]


def _ballot(where: str, row: Mapping[str, str], names: Sequence[str], answer_columns: Sequence[str]) -> Ballot:
    if not all((*names, row["WorkerId"])):
        raise VerdictError(f"{where}: WorkerId or a name of the item is empty")
    question_id, system_a, system_b = names
    return Ballot(
        where=where,
        question_id=question_id,
        system_a=system_a,
        system_b=system_b,
        choice=parse_choice(_answer(row, answer_columns, where), "", where),
        rater=parse_rater(row["WorkerId"], where),
        seconds=parse_seconds(row.get("WorkTimeInSeconds", ""), "WorkTimeInSeconds", where),
    )


def _answer(row: Mapping[str, str], columns: Sequence[str], where: str) -> str:
    if row.get(VERDICT_COLUMN):
        return row[VERDICT_COLUMN]
    marked = [name.removeprefix(f"{VERDICT_COLUMN}.") for name in columns if row[name].lower() in ("true", "1", "on")]
    if len(marked) != 1:
        raise VerdictError(f"{where}: {len(marked)} of {', '.join(columns)} are marked; expected one")
    return marked[0]
