"""Reads one or two ten-point scores from a judge's plain text. A part of `eval.judging.parse`.

In this order: a first line that is two numbers; two first lines that are a number each; one tuple; one line of two
numbers further down; one labelled score for each answer. A number may be followed by "/10", by no other denominator.
Scores that a later line takes back ("No, 9 8") are none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from eval.judging.words import CHANGED, TAKEN_BACK

MAX_LINE = 120  # characters; a line of scores is short
_NUMBER = r"(\d{1,2}(?:[.,]\d{1,2})?)(?:\s?/\s?10|\sout\sof\s10)?(?![\d/%])"
_LEAD = r"(?:(?:(?:the |final |my |overall )?(?:scores?|ratings?)(?: are)?|final|overall|total) ?[:=]? ?)?"
_PAIR = re.compile(
    rf"{_LEAD}{_NUMBER}(?P<between> ?[,;/|&] ?| - | and | vs\.? | )(?:and )?{_NUMBER}"
    r"(?:,? respectively)?(?: ?\((?:[^()\d]|10)*\))? ?\.?",
    re.IGNORECASE,
)
_SINGLE = re.compile(rf"(?:scores?|ratings?)? ?[:=]? ?{_NUMBER} ?\.?", re.IGNORECASE)
_TUPLE = re.compile(rf"[(\[]\s{{0,3}}{_NUMBER}\s{{0,3}},\s{{0,3}}{_NUMBER}\s{{0,3}}[)\]]")
_WHO = r"(?:assistant|answer|response|option|model|candidate|score|rating)"
_LABELLED = re.compile(
    rf"\b(?<!-)(?:{_WHO}\s{{0,3}}#?(?P<who>[12ab])|(?P<nth>first|second)(?:\s{_WHO})?)(?:'s)?(?:\s(?:score|rating|answer))?"
    rf"(?:\s{{0,3}}[:=(|]\s{{0,3}}|\s-\s|\s(?:scores|gets|receives|earns)\s)(?P<score>{_NUMBER})(?:\spoints?)?"
    rf"(?=\s{{0,3}}(?:$|[\n,;.)|]|(?:and|vs)\b|{_WHO}\b))",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"(?P<who>[12]) ?[:.)] ?{_NUMBER} ?\.?")
_LETTERED = re.compile(
    rf"(?P<who>[AB])(?: ?[:=] ?| ){_NUMBER}(?: ?[,;/|] ?| and | )(?!(?P=who))[AB](?: ?[:=] ?| ){_NUMBER} ?\.?"
)
_AGAIN = re.compile(rf"\b(?:{CHANGED}|{TAKEN_BACK})(?!\w)", re.IGNORECASE)
_UNSAID = re.compile(rf"\b(?:{TAKEN_BACK})(?!\w)", re.IGNORECASE)
_ORDER = re.compile(r"\b(?:order|scores?|ratings?)\b", re.IGNORECASE)
_LAST_NUMBERS = re.compile(
    rf"(?:\A|[\s(:=]){_NUMBER}(?:(?: ?[,;/|&] ?| - | and | vs\.? | to | )(?:and )?{_NUMBER})? ?[.!)]?\Z"
)
_SAID_ANEW = re.compile(
    rf"\b(?:wait|no|actually|correction|corrected|revis\w*|chang\w*|updat\w*|sorry|should be)"
    rf"[\s,:;.-]{{1,3}}(?:(?:it|that|to|is|as|a)\s){{0,2}}{_NUMBER}\s?[.!)]?\Z",
    re.IGNORECASE,
)
_SECOND_FIRST = re.compile(
    r"\b(?:order|assistants?|answers?|responses?|models?)\W{0,3}(?:2|b)\W{1,5}(?:and\W|then\W)?"
    r"(?:(?:assistant|answer|response|model)\W)?(?:1|a)\b",
    re.IGNORECASE,
)
_SIDE_CELL = re.compile(rf"(?:{_WHO} ?)?#?(?P<who>[12ab])", re.IGNORECASE)
_TOTAL_CELL = re.compile(r"(?:overall|total|final)(?: score| rating)?|scores?|ratings?", re.IGNORECASE)
_CELL_NUMBER = re.compile(_NUMBER)
_SIDES = {"1": "1", "a": "1", "first": "1", "2": "2", "b": "2", "second": "2"}
MAX_ROWS = 40  # of a table
_PRODUCT = re.compile(r"\d \* \d")
_NOISE = re.compile(r"[*_`#$\[\]{}\"\u201c\u201d]+|\\boxed|\\text")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two scores as they are written; None for what is no number."""

    one: str | None
    two: str | None


_GRADE_LABEL = re.compile(r"\[\[\s{0,3}([^\[\]\n]{1,12}?)\s{0,3}\]\]")
_GRADE_LINE = re.compile(
    rf"(?:(?:the|my|final|overall) ){{0,3}}(?:(?:score|rating|grade|final|overall)(?: is)? ?[:=]? ?)?{_NUMBER} ?\.?",
    re.IGNORECASE,
)


def read_grades(text: str) -> set[str]:
    """All different grades that a reply in plain characters gives to one answer: labels, else its first or last line.

    A number may be followed by "/10". A label that holds no number counts as a grade that can't be read.
    """
    lines = _short_lines(text)
    grades = _labels(text) or {match[1] for line in (lines[:1] + lines[-1:]) if (match := _GRADE_LINE.fullmatch(line))}
    return grades | _grades_again(lines) if grades else grades


def grades_after(text: str) -> set[str]:
    """The grades that follow one which was read: labels, a last line, corrections."""
    lines = _short_lines(text)
    last = {match[1] for line in lines[-1:] if (match := _GRADE_LINE.fullmatch(line))}
    return _labels(text) | last | _grades_again(lines)


def _short_lines(text: str) -> list[str]:
    return [line for row in text.splitlines() if len(row) <= MAX_LINE and (line := _plain(row))]


def _grades_again(lines: list[str]) -> set[str]:
    return {said.one for said in _said_again(lines) if said.one is not None}


def _labels(text: str) -> set[str]:
    return {_grade(label) for label in {label.strip("*_` ") for label in _GRADE_LABEL.findall(text)}}


def _grade(label: str) -> str:
    match = _GRADE_LINE.fullmatch(label)
    return match[1] if match else label


def read_pair(text: str) -> Pair | None:
    """The two scores of a reply in plain characters; None where there are none, or more than two."""
    rows = [row for row in text.splitlines() if row and not row.isspace()]
    table = [row for row in rows if row.lstrip().startswith("|") and len(row) <= MAX_LINE]
    if 1 < len(table) <= MAX_ROWS:
        return None if _corrected(rows) else _of_table([_cells(row) for row in table])
    lines = [line for line in map(_plain, rows) if line]
    pair = _first_pair(text, rows, lines) if lines else None
    said = {again for again in _said_again(lines) if again.two is not None}
    taken_back = any(_SAID_ANEW.search(line) for line in dict.fromkeys(lines) if len(line) <= MAX_LINE)
    return None if pair is None or said - {pair} or taken_back or _contradicts(lines[1:], pair) else pair


def contradicts(text: str, pair: Pair) -> bool:
    """Whether the text behind two scores says others, or takes them back."""
    lines = [line for line in map(_plain, text.splitlines()) if line]
    said = {again for again in _said_again(lines) if again.two is not None}
    return bool(said - {pair}) or _contradicts(lines, pair)


def _contradicts(lines: list[str], pair: Pair) -> bool:
    said = {again for line in dict.fromkeys(lines) if (again := _pair(line)) is not None}
    said |= {again for again in [_labelled(lines)] if again is not None}
    return bool(said - {pair}) or any(map(_is_unsaying, dict.fromkeys(lines)))


def _is_unsaying(line: str) -> bool:
    """Whether a short line says that what stands before it doesn't count, or counts for the other side."""
    if len(line) > MAX_LINE:
        return False
    return bool(_UNSAID.search(line) or (_ORDER.search(line) and _SECOND_FIRST.search(line)))


def _corrected(rows: list[str]) -> bool:
    return any(len(row) <= MAX_LINE and _AGAIN.search(row) for row in rows)


def _cells(row: str) -> list[str]:
    return [_plain(cell) for cell in row.strip().strip("|").split("|")]


def _of_table(rows: list[list[str]]) -> Pair | None:
    """The scores of a table that has a column for each answer, or a row for each."""
    columns = {side: number for number, cell in enumerate(rows[0]) if (side := _side(cell))}
    data = [row for row in rows[bool(columns) :] if any(_CELL_NUMBER.fullmatch(cell) for cell in row)]
    cells: dict[str | None, list[str]]
    if set(columns) == {"1", "2"}:
        totals = [row for row in data if _TOTAL_CELL.fullmatch(row[0])] or data
        if len(totals) != 1 or max(columns.values()) >= len(totals[0]):
            return None
        cells = {side: [totals[0][number]] for side, number in columns.items()}
    elif len(data) == 2:
        cells = {_side(row[0]): row[1:] for row in data}
    else:
        return None
    numbers = {side: [m[1] for cell in row if (m := _CELL_NUMBER.fullmatch(cell))] for side, row in cells.items()}
    if set(numbers) != {"1", "2"} or any(len(values) != 1 for values in numbers.values()):
        return None
    return Pair(numbers["1"][0], numbers["2"][0])


def _side(cell: str) -> str | None:
    match = _SIDE_CELL.fullmatch(cell)
    return _SIDES[match["who"].lower()] if match else None


def _said_again(lines: list[str]) -> Iterator[Pair]:
    """The numbers at the ends of short lines that correct something."""
    for line in dict.fromkeys(lines):
        if len(line) <= MAX_LINE and _AGAIN.search(line) and (match := _LAST_NUMBERS.search(line)):
            yield Pair(match[1], match[2])


def _first_pair(text: str, rows: list[str], lines: list[str]) -> Pair | None:
    if len(lines) > 1 and (pair := _two_lines(lines[0], lines[1])) is not None:
        return None if len(lines) > 2 and _is_score_line(lines[2]) else pair
    if (pair := _pair(lines[0])) is not None:
        return pair
    if any(_SECOND_FIRST.search(line[:MAX_LINE]) for line in dict.fromkeys(lines)):
        return _labelled(lines)
    tuples = set(_TUPLE.findall(rows[0][:MAX_LINE]) + _TUPLE.findall(rows[-1][:MAX_LINE]))
    tuples = tuples or set(_TUPLE.findall(text))
    below = {pair for line in dict.fromkeys(lines[1:]) if (pair := _pair(line)) is not None}
    below |= {Pair(one, two) for one, two in tuples}
    if not below:
        below |= {p for one, two in pairwise(lines) if (p := _two_lines(one, two)) is not None}
    if below:
        return below.pop() if len(below) == 1 else None
    return _labelled(lines)


def _labelled(lines: list[str]) -> Pair | None:
    scores: dict[str, set[str]] = {"1": set(), "2": set()}
    for match in _LABELLED.finditer("\n".join(lines)):
        scores[_SIDES[(match["who"] or match["nth"]).lower()]].add(match[4])
    if all(len(values) == 1 for values in scores.values()):
        return Pair(scores["1"].pop(), scores["2"].pop())
    return None


def _pair(line: str) -> Pair | None:
    if len(line) <= MAX_LINE and (lettered := _LETTERED.fullmatch(line)):
        first, second = lettered[2], lettered[3]
        return Pair(first, second) if lettered["who"] == "A" else Pair(second, first)
    match = _PAIR.fullmatch(line) if len(line) <= MAX_LINE else None
    if match is None or (
        "," in match[1] + match[3] and match["between"].strip() == "," and " " not in match["between"]
    ):
        return None
    return Pair(match[1], match[3])


def _two_lines(one: str, two: str) -> Pair | None:
    if max(len(one), len(two)) > MAX_LINE:
        return None
    listed = [_LISTED.fullmatch(line) for line in (one, two)]
    if listed[0] and listed[1] and (listed[0]["who"], listed[1]["who"]) == ("1", "2"):
        return Pair(listed[0][2], listed[1][2])
    single = [_SINGLE.fullmatch(line) for line in (one, two)]
    return Pair(single[0][1], single[1][1]) if single[0] and single[1] else None


def _is_score_line(line: str) -> bool:
    return len(line) <= MAX_LINE and bool(_SINGLE.fullmatch(line) or re.fullmatch(rf"\d ?[:.)] ?{_NUMBER} ?\.?", line))


def _plain(line: str) -> str:
    if _PRODUCT.search(line):
        return line
    return " ".join(_NOISE.sub(" ", line).split())
